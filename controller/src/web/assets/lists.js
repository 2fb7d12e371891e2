// Lists: all runs, and all hosts.

import { fill, h, tone, when } from './dom.js';
import { get } from './server.js';

/** Between two looks, in milliseconds. */
const LOOK = 2_000;

const STATES = {
  meeting: 'its hosts are being looked at',
  met: 'waits for your decision',
  decided: 'under way',
  elsewhere: 'another process follows it',
  over: '',
};

/** Shows a list, and again as it changes; what has not changed keeps the focus. */
async function live(page, path, draw) {
  let shown = '';
  while (!page.signal.aborted) {
    if (!document.hidden) {
      try {
        const value = await get(path, page.signal);
        page.link(true);
        const now = JSON.stringify(value);
        if (now !== shown) {
          const focused = document.activeElement?.getAttribute('href');
          draw(value);
          const again = [...page.main.querySelectorAll('a')].find((link) => link.getAttribute('href') === focused);
          if (focused) again?.focus();
        }
        shown = now;
      } catch (error) {
        if (page.signal.aborted) return;
        if (error.status) throw error;
        page.link(false);
      }
    }
    await new Promise((done) => setTimeout(done, LOOK));
  }
}

function counts(run) {
  const parts = [['going', 'on the way', 'quiet'], ['held', 'held', 'bad'], ['untouched', 'untouched', 'look'],
    ['deployed', 'deployed', 'good']];
  const shown = parts.filter(([key]) => run[key] > 0);
  const count = ([key, text, style]) => h('span', { class: style }, `${run[key]} ${text}`);
  return shown.flatMap((part, at) => [at ? ', ' : '', count(part)]);
}

export function runs(page) {
  const list = h('ul', { class: 'cards' });
  fill(page.main, page.heading('Runs'), list);
  return live(page, '/api/runs', ({ runs: all, more }) => {
    const card = (run) => h('li', { class: 'card' },
      h('div', { class: 'row' },
        h('h2', { class: 'plain-heading' }, h('a', { href: `#/runs/${run.run}` }, run.run)), when(run.started_ms)),
      run.unreadable ? h('p', { class: 'bad' }, run.unreadable) : h('p', {}, counts(run)),
      STATES[run.state] && h('p', { class: run.state === 'met' ? 'word look' : 'quiet' }, STATES[run.state]),
      run.hosts_file && h('p', { class: 'quiet' }, run.hosts_file));
    fill(list, all.map(card));
    if (all.length === 0) {
      fill(list, h('li', {}, 'No runs yet. ', h('code', {}, 'anemos up --serve hosts.toml'), ' begins one.'));
    }
    if (more) list.append(h('li', { class: 'quiet' }, 'Older ones: ', h('code', {}, 'anemos runs')));
  });
}

export function hosts(page) {
  const list = h('ul', { class: 'cards' });
  fill(page.main, page.heading('Hosts'), h('p', { class: 'quiet' }, 'Each by the newest run that it was in.'), list);
  return live(page, '/api/hosts', ({ hosts: all }) => {
    const card = (host) => h('li', { class: 'card' },
      h('div', { class: 'row' },
        h('h2', { class: 'plain-heading' },
          h('a', { href: `#/runs/${host.run}/${encodeURIComponent(host.host)}` }, host.host)),
        when(host.last_ms)),
      h('p', {}, h('span', { class: `word ${tone(host.outcome)}` }, host.outcome ?? host.phase ?? 'not begun'),
        host.outcome ? null : ` ${host.state}`),
      host.reason && h('p', {}, host.reason),
      h('p', { class: 'quiet' }, 'run ', h('a', { href: `#/runs/${host.run}` }, host.run)));
    fill(list, all.map(card));
    if (all.length === 0) fill(list, h('li', {}, 'No hosts yet.'));
  });
}
