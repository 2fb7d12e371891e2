// Talks to the daemon. Each request has the token in a header: no other page can send one.

const KEPT = 'anemos-token';

/** Why the daemon did not do something. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Takes the token out of a link (`#token=…`), so that it is neither shown nor kept in the history. */
export function takeToken() {
  const found = /^#token=([\x21-\x7e]+)$/.exec(location.hash);
  if (found) {
    keepToken(found[1]);
    history.replaceState(null, '', '#/');
  }
}

/** Keeps a token for this server in this browser, or forgets it. */
export function keepToken(token) {
  if (token) localStorage.setItem(KEPT, token);
  else localStorage.removeItem(KEPT);
}

function headers(more = {}) {
  return { Authorization: `Bearer ${localStorage.getItem(KEPT) ?? ''}`, ...more };
}

async function checked(response) {
  if (response.ok) return response;
  let message = `the daemon answered ${response.status}`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // What is not from the daemon has no reason that it could give.
  }
  throw new Refused(response.status, message);
}

/** What is at a path. */
export async function get(path, signal) {
  return (await checked(await fetch(path, { headers: headers(), signal }))).json();
}

/** Has something done. */
export async function post(path, what) {
  const json = { 'Content-Type': 'application/json' };
  const sent = { method: 'POST', headers: headers(json), body: JSON.stringify(what) };
  return (await checked(await fetch(path, sent))).json();
}

/** What is at a path, as a file. */
export async function file(path) {
  return (await checked(await fetch(path, { headers: headers() }))).blob();
}

/** Whoever hears nothing for so long has lost the connection: the daemon says every ten seconds that it is there. */
const SILENCE = 30_000;

/** Between two attempts at reaching the daemon, in milliseconds: the first, and the longest. */
const PAUSES = [500, 8_000];

/**
 * Hears the events of a path until `signal` ends it, or the daemon has said the last one. A connection that is lost
 * is made again, after the last event that came. `hear(name, data)` takes an event, `link(up)` that the connection is
 * there or not. A refusal by the daemon ends it, as an error.
 *
 * This is what EventSource does, but that has no headers, and a token in an address would be written to logs.
 */
export async function events(path, hear, link, signal) {
  let [last, pause] = [null, PAUSES[0]];
  while (!signal.aborted) {
    try {
      const over = await once(path, last, signal, (id, name, data) => {
        if (pause !== PAUSES[0]) pause = PAUSES[0];
        if (id !== null) last = id;
        hear(name, data);
      }, link);
      if (over) return;
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refused && error.status < 500 && error.status !== 409) throw error;
    }
    // A tab that nobody sees has let go by itself.
    if (!document.hidden) link(false);
    await visible(pause, signal);
    pause = Math.min(pause * 2, PAUSES[1]);
  }
}

/** Waits so long, and as long as nobody looks: a page that is not seen holds no connection. */
function visible(ms, signal) {
  return new Promise((done) => {
    const finish = () => {
      document.removeEventListener('visibilitychange', look);
      done();
    };
    const look = () => document.hidden || finish();
    signal.addEventListener('abort', finish, { once: true });
    setTimeout(() => (document.hidden ? document.addEventListener('visibilitychange', look) : finish()), ms);
  });
}

async function once(path, last, signal, hear, link) {
  const ours = new AbortController();
  const end = () => ours.abort();
  const hide = () => document.hidden && ours.abort();
  signal.addEventListener('abort', end, { once: true });
  document.addEventListener('visibilitychange', hide);
  let silence = setTimeout(end, SILENCE);
  try {
    const more = last === null ? {} : { 'Last-Event-ID': last };
    const response = await checked(await fetch(path, { headers: headers(more), signal: ours.signal }));
    link(true);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = '';
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return false;
      clearTimeout(silence);
      silence = setTimeout(end, SILENCE);
      text += value;
      let at;
      while ((at = text.indexOf('\n\n')) >= 0) {
        const event = parsed(text.slice(0, at));
        text = text.slice(at + 2);
        if (!event) continue;
        hear(event.id, event.name, event.data);
        if (event.name === 'end') return true;
      }
    }
  } finally {
    clearTimeout(silence);
    ours.abort();
    signal.removeEventListener('abort', end);
    document.removeEventListener('visibilitychange', hide);
  }
}

function parsed(text) {
  let [id, name, data] = [null, '', ''];
  for (const line of text.split('\n')) {
    if (line.startsWith('id: ')) id = line.slice(4);
    else if (line.startsWith('event: ')) name = line.slice(7);
    else if (line.startsWith('data: ')) data = line.slice(6);
  }
  return name ? { id, name, data: JSON.parse(data) } : null;
}
