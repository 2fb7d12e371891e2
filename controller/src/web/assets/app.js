// Which page is shown, and who may see it.

import { fill, h, say } from './dom.js';
import { host } from './host.js';
import { hosts, runs } from './lists.js';
import { run } from './run.js';
import { keepToken, takeToken } from './server.js';

const main = document.getElementById('main');
const lost = document.getElementById('link');
const status = document.getElementById('said');

/** Between two things that are read out, in milliseconds: what comes faster waits; of much only the last is said. */
const READ_OUT = 1_500;

let waiting = [];
let reading = false;

/** Has screen readers say something. */
function readOut(text) {
  waiting.push(text);
  if (reading) return;
  reading = true;
  const next = () => {
    reading = waiting.length > 0;
    if (!reading) return;
    const left = waiting.length - 3;
    say(status, `${waiting.slice(-3).join('. ')}${left > 0 ? `. And ${left} more.` : ''}`);
    waiting = [];
    setTimeout(next, READ_OUT);
  };
  next();
}

let current = null;

/** What a page gets: where it draws, what ends it, and how it says things. */
function fresh() {
  current?.abort();
  current = new AbortController();
  const { signal } = current;
  lost.hidden = true;
  return {
    main,
    signal,
    heading(text) {
      document.title = `${text} – Anemos`;
      return h('h1', { tabIndex: -1 }, text);
    },
    say: readOut,
    link(up) {
      if (!signal.aborted && lost.hidden !== up) {
        lost.hidden = up;
        readOut(up ? 'Connected again.' : 'Not connected: trying again.');
      }
    },
    fail(error) {
      if (!signal.aborted) main.prepend(h('p', { class: 'alert', role: 'alert' }, error.message));
    },
  };
}

/** Asks for the token. */
function signIn(page, why) {
  const token = h('input', { type: 'password', id: 'token', autocomplete: 'off', spellcheck: false });
  const enter = () => {
    if (!token.value.trim()) return;
    keepToken(token.value.trim());
    show();
  };
  token.addEventListener('keydown', (event) => event.key === 'Enter' && enter());
  fill(main, page.heading('Sign in'),
    h('p', {}, 'Open the link that ', h('code', {}, 'anemos serve --web'), ' shows in a terminal, or enter the token ',
      'that ', h('code', {}, '$XDG_STATE_HOME/anemos/web-token'), ' (',
      h('code', {}, '~/.local/state/anemos/web-token'), ') has on its machine.'),
    why && h('p', { class: 'bad', role: 'alert' }, why),
    h('label', { for: 'token' }, 'Token'), h('div', { class: 'buttons' }, token,
      h('button', { type: 'button', onclick: enter }, 'Sign in')));
  token.focus();
}

async function show() {
  const page = fresh();
  const path = location.hash.replace(/^#\/?/, '').split('/').filter(Boolean).map(decodeURIComponent);
  const here = path[0] === 'hosts' ? 'to-hosts' : 'to-runs';
  for (const id of ['to-runs', 'to-hosts']) {
    const link = document.getElementById(id);
    if (id === here) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  let shown;
  if (path[0] === 'hosts') shown = hosts(page);
  else if (path[0] === 'runs' && path.length === 3) shown = host(page, path[1], path[2]);
  else if (path[0] === 'runs' && path.length === 2) shown = run(page, path[1]);
  else shown = runs(page);
  // Where the page begins, for who reads it by ear or goes on by keys.
  main.querySelector('h1')?.focus({ preventScroll: true });
  scrollTo(0, 0);
  try {
    await shown;
  } catch (error) {
    if (page.signal.aborted) return;
    if (error.status === 401) signIn(page, localStorage.getItem('anemos-token') ? error.message : null);
    else page.fail(error);
  }
}

document.getElementById('skip').addEventListener('click', (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener('hashchange', () => {
  takeToken();
  show();
});
takeToken();
show();
