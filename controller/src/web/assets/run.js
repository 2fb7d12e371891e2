// A run: its plan, its hosts, and how far each of them is.

import { bytes, duration, fill, h, say, tone } from './dom.js';
import { ask } from './plan.js';
import { events, get } from './server.js';
import { PHASES, doing, fresh, take, word } from './state.js';

const STATES = {
  meeting: 'Its hosts are being looked at; nothing is done to them.',
  met: 'It waits for your decision.',
  decided: 'It is under way.',
  elsewhere: 'Another process than this daemon follows it: commands in a terminal reach that one.',
  over: 'It is over.',
};

/** The phases of a host, as a list that shows where it is. */
export function phases(host) {
  const stopped = host.summary && host.summary.outcome !== 'deployed';
  const item = (phase) => {
    const took = host.seconds[phase];
    const now = host.phase === phase && took === undefined && !host.summary;
    const failed = stopped && host.phase === phase && took === undefined;
    const style = failed ? 'stopped' : now ? 'now' : took !== undefined ? 'done' : null;
    const text = took !== undefined ? `${phase} ${duration(took)}` : phase;
    const hint = failed ? ' (ended here)' : now ? ' (now)' : '';
    return h('li', { class: style, 'aria-current': now ? 'step' : null }, text,
      hint && h('span', { class: 'unseen' }, hint));
  };
  return h('ol', { class: 'phases', 'aria-label': `Phases of ${host.host}` }, PHASES.map(item));
}

/** The progress of a host's step, if it says any. */
export function progress(host) {
  const { progress: at } = host;
  if (!at) return null;
  const amount = (count) => (at.unit === 'bytes' ? bytes(count) : String(count));
  const text = at.total ? `${amount(at.done)} of ${amount(at.total)}` : amount(at.done);
  const named = { 'aria-label': `Progress of ${host.host}` };
  const bar = at.total && h('progress', { max: at.total, value: Math.min(at.done, at.total), ...named });
  return [bar, h('p', { class: 'quiet' }, text)];
}

/** How long a host has been at it. */
export function elapsed(host) {
  if (!host.first) return '';
  const until = host.summary ? host.last : Date.now();
  return duration((until - host.first) / 1000);
}

/** Draws at most a few times a second, whatever comes. */
export function bounded(draw) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    setTimeout(() => {
      waiting = false;
      draw();
    }, 150);
  };
}

export async function run(page, name) {
  const state = h('p', { class: 'word' });
  const plan = h('section', { 'aria-label': 'Plan' });
  const sums = h('p', {});
  const list = h('ul', { class: 'cards' });
  fill(page.main, page.heading(`Run ${name}`), state, plan,
    h('section', { 'aria-labelledby': 'hosts' }, h('h2', { id: 'hosts' }, 'Hosts'), sums, list));
  const known = await get(`/api/runs/${encodeURIComponent(name)}`, page.signal);
  if (known.unreadable) {
    say(state, known.unreadable);
    return;
  }
  const hosts = new Map(known.hosts.map((row) => [row.host, fresh(row.host)]));
  const cards = new Map([...hosts.values()].map((host) => {
    const parts = {
      word: h('span', {}), time: h('span', { class: 'quiet' }), doing: h('p', {}), progress: h('div', {}),
      phases: h('div', {}),
    };
    const link = h('a', { href: `#/runs/${name}/${encodeURIComponent(host.host)}` }, host.host);
    list.append(h('li', { class: 'card' },
      h('div', { class: 'row' }, h('h3', {}, link), h('span', {}, parts.word, ' ', parts.time)),
      parts.doing, parts.progress, parts.phases));
    return [host.host, parts];
  }));
  const changed = new Set(hosts.values());
  const draw = () => {
    for (const host of changed) {
      const parts = cards.get(host.host);
      say(parts.word, word(host));
      parts.word.className = `word ${tone(word(host))}`;
      say(parts.doing, doing(host));
      fill(parts.progress, progress(host));
      fill(parts.phases, phases(host));
    }
    changed.clear();
    const count = new Map();
    for (const host of hosts.values()) count.set(word(host), (count.get(word(host)) ?? 0) + 1);
    say(sums, [...count].map(([what, number]) => `${number} ${what}`).join(', '));
    times();
  };
  const times = () => hosts.forEach((host) => say(cards.get(host.host).time, elapsed(host)));
  const soon = bounded(draw);
  draw();
  const clock = setInterval(times, 1000);
  page.signal.addEventListener('abort', () => clearInterval(clock), { once: true });
  let live = false;
  await events(`/api/runs/${encodeURIComponent(name)}/events`, (kind, data) => {
    if (kind === 'state') {
      say(state, STATES[data.state] ?? data.state);
      if (live || data.state === 'met') page.say(STATES[data.state] ?? data.state);
      live = true;
      if (data.state === 'met') ask(page, name, plan).catch((error) => page.fail(error));
      else if (data.state !== 'meeting') fill(plan);
    } else if (kind === 'told' || kind === 'progress') {
      for (const line of data) {
        const host = hosts.get(line.host);
        if (!host || !take(host, line)) continue;
        changed.add(host);
        if (live && line.type === 'summary') page.say(`${line.host}: ${line.outcome}`);
      }
      soon();
    } else if (kind === 'fault') {
      page.fail(new Error(data.message));
    }
  }, page.link, page.signal);
}
