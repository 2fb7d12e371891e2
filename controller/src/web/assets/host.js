// A host of a run: what it is about, what it prints, and what it can be told to do.

import { duration, fill, h, quoted, say, tone } from './dom.js';
import { shown } from './plan.js';
import { bounded, elapsed, phases, progress } from './run.js';
import { events, file, post } from './server.js';
import { doing, fresh, take, word } from './state.js';

/** Lines of output in the page: the newest. */
const LINES = 2_000;

const FINISH = [
  ['reboot', 'reboot into the new system'],
  ['kexec', 'kexec into the new system'],
  ['poweroff', 'power off'],
  ['hold', 'stay in RAM'],
];

/** Asks whether something is meant. */
function meant(page, question, button) {
  return new Promise((done) => {
    const answer = (yes) => () => {
      dialog.close();
      dialog.remove();
      done(yes);
    };
    const dialog = h('dialog', { 'aria-labelledby': 'meant' },
      h('p', { id: 'meant' }, question),
      h('div', { class: 'buttons' },
        h('button', { type: 'button', onclick: answer(false) }, 'No'),
        h('button', { type: 'button', class: 'strong', onclick: answer(true) }, button)));
    dialog.addEventListener('cancel', answer(false));
    page.main.append(dialog);
    dialog.showModal();
  });
}

/** Lines of output, of which the page keeps the newest, and shows the last ones until somebody scrolls up. */
function output(name) {
  const box = h('div', { class: 'log', tabindex: '0', role: 'region', 'aria-label': `Output of ${name}` });
  box.tabIndex = 0;
  let waiting = [];
  const draw = bounded(() => {
    const follows = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
    const rest = waiting.slice(-LINES);
    waiting = [];
    box.append(...rest);
    while (box.childElementCount > LINES) box.firstElementChild.remove();
    if (follows) box.scrollTop = box.scrollHeight;
  });
  return {
    box,
    line(text, style) {
      waiting.push(h('div', { class: style }, text));
      // A host that prints faster than the page draws costs the page no more than this.
      if (waiting.length > 2 * LINES) waiting = waiting.slice(-LINES);
      draw();
    },
  };
}

export async function host(page, run, name) {
  const at = `/api/runs/${encodeURIComponent(run)}/hosts/${encodeURIComponent(name)}`;
  const one = fresh(name);
  const parts = {
    word: h('span', {}), time: h('span', { class: 'quiet' }), doing: h('p', {}), progress: h('div', {}),
    phases: h('div', {}), notes: h('ul', { class: 'plain' }), actions: h('div', { class: 'buttons' }),
    told: h('p', { role: 'status' }), plan: h('details', {}),
  };
  const log = output(name);
  const save = h('button', {
    type: 'button',
    onclick: async () => {
      try {
        const url = URL.createObjectURL(await file(`${at}/log`));
        h('a', { href: url, download: `${run}-${name}.log` }).click();
        URL.revokeObjectURL(url);
      } catch (error) {
        page.fail(error);
      }
    },
  }, 'Save all of it');
  const shell = `anemos shell ${quoted(name)} --run ${quoted(run)}`;
  fill(page.main, page.heading(name),
    h('p', {}, 'Run ', h('a', { href: `#/runs/${run}` }, run)),
    h('div', { class: 'card' },
      h('div', { class: 'row' }, parts.word, parts.time), parts.doing, parts.progress, parts.phases),
    h('section', { 'aria-labelledby': 'actions' }, h('h2', { id: 'actions' }, 'Actions'), parts.actions, parts.told,
      h('p', { class: 'quiet', id: 'shell' }, 'A shell in its RAM system, from a terminal:'),
      h('code', { class: 'command', 'aria-describedby': 'shell' }, shell)),
    h('section', { 'aria-labelledby': 'notes' }, h('h2', { id: 'notes' }, 'Notes'), parts.notes),
    h('section', { 'aria-labelledby': 'output' },
      h('div', { class: 'row' }, h('h2', { id: 'output' }, 'Output'), save), log.box),
    parts.plan);

  let [state, shownActions] = ['', ''];
  const wish = async (what, question, button, more = {}) => {
    if (!(await meant(page, question, button))) return;
    try {
      const { answers } = await post(`/api/runs/${encodeURIComponent(run)}/wish`, { host: name, wish: what, ...more });
      const { refused, made } = answers[0];
      const taken = made ? 'It was told.' : 'It is told as soon as it is reached.';
      say(parts.told, refused ? `That is not done: ${refused}` : taken);
    } catch (error) {
      say(parts.told, error.message);
    }
  };
  const actions = () => {
    const held = one.agent === 'held' || one.summary?.outcome === 'held';
    const can = state !== 'decided' ? '' : held ? 'held' : one.summary ? '' : 'going';
    if (can === shownActions && parts.actions.childElementCount) return;
    shownActions = can;
    const button = (text, run) => h('button', { type: 'button', onclick: run }, text);
    if (can === 'going') {
      const question = `End the payload on ${name}? With nothing written the host goes back to its old system, else ` +
        'it is held.';
      fill(parts.actions, button('Abort', () => wish('abort', question, 'Abort')));
    } else if (can === 'held') {
      const how = h('select', { 'aria-label': 'How it leaves RAM' },
        FINISH.map(([value, text]) => h('option', { value }, text)));
      const leave = () => wish('finish', `Have ${name} leave its RAM system: ${how.selectedOptions[0].text}?`, 'Finish',
        { finish: how.value });
      const again = `Run the payload on ${name} again? What an earlier attempt wrote to the disk is still there.`;
      fill(parts.actions, button('Retry', () => wish('retry', again, 'Retry')), how, button('Finish', leave));
    } else {
      fill(parts.actions, h('span', { class: 'quiet' }, 'Nothing can be told to it here now.'));
    }
  };
  let [planned, noted] = [null, -1];
  const draw = () => {
    say(parts.word, word(one));
    parts.word.className = `word ${tone(word(one))}`;
    say(parts.doing, doing(one));
    fill(parts.progress, progress(one));
    fill(parts.phases, phases(one));
    if (noted !== one.number) {
      noted = one.number;
      const level = { warning: 'look', error: 'bad' };
      const notes = one.notes.map(({ level: how, text, time }) => h('li', { class: level[how] ?? null },
        time ? h('span', { class: 'quiet' }, `${new Date(time).toLocaleTimeString()} `) : null, text));
      fill(parts.notes, notes.length ? notes : h('li', { class: 'quiet' }, 'None.'));
    }
    if (one.plan && planned !== one.plan) {
      planned = one.plan;
      fill(parts.plan, h('summary', {}, 'The plan'), shown(one.plan));
    }
    if (one.summary) {
      const { uploaded_bytes: sent, total_seconds: total } = one.summary;
      say(parts.time, `${duration(total)} in all, ${sent} bytes sent`);
    } else {
      say(parts.time, elapsed(one));
    }
    actions();
  };
  const soon = bounded(draw);
  draw();
  const clock = setInterval(() => one.summary || say(parts.time, elapsed(one)), 1000);
  page.signal.addEventListener('abort', () => clearInterval(clock), { once: true });
  let live = false;
  await events(`${at}/events`, (kind, data) => {
    if (kind === 'state') {
      ({ state } = data);
      live = true;
      actions();
    } else if (kind === 'told' || kind === 'progress') {
      for (const line of data) {
        if (line.host !== name) continue;
        if (line.type === 'left-out') {
          log.line(`… ${line.lines} lines are left out here`, 'quiet');
          continue;
        }
        if (!take(one, line)) continue;
        if (line.kind === 'log') log.line(line.text, line.stream === 'stdout' ? null : 'look');
        if (live && line.type === 'summary') page.say(`${name}: ${line.outcome}`);
      }
      soon();
    } else if (kind === 'fault') {
      page.fail(new Error(data.message));
    }
  }, page.link, page.signal);
}
