// Elements, and numbers made readable. Nothing here reads a text as markup: what a host says is text.

/**
 * Makes an element. A property that begins with `on` is a listener, `class` and those with a dash are attributes; a
 * child that is null or false is none.
 */
export function h(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else if (key === 'class' || key === 'role' || key === 'for' || key.includes('-')) element.setAttribute(key, value);
    else element[key] = value;
  }
  add(element, children);
  return element;
}

function add(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
}

/** Has an element consist of these children. */
export function fill(element, ...children) {
  element.replaceChildren();
  add(element, children);
  return element;
}

/** Says a text, if it is another one: what has not changed is not read out again. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** `1.5 GiB`. */
export function bytes(count) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let [value, unit] = [count, 0];
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return unit === 0 ? `${count} B` : `${value.toFixed(1)} ${units[unit]}`;
}

/** Seconds for people: `0.8 s`, `42 s`, `3m05s`, `2h07m`. */
export function duration(seconds) {
  if (seconds < 9.95) return `${Math.max(seconds, 0).toFixed(1)} s`;
  const whole = Math.round(seconds);
  const two = (number) => String(number).padStart(2, '0');
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m${two(whole % 60)}s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)}h${two(Math.floor((whole % 3600) / 60))}m`;
  return `${Math.floor(whole / 86400)}d${two(Math.floor((whole % 86400) / 3600))}h`;
}

/** A time as an element that says it in this browser's zone. */
export function when(ms) {
  if (!ms) return h('span', { class: 'quiet' }, '–');
  const at = new Date(ms);
  return h('time', { dateTime: at.toISOString() }, at.toLocaleString());
}

/** The class of an outcome. */
export function tone(outcome) {
  return { deployed: 'good', untouched: 'look', held: 'bad' }[outcome] ?? 'quiet';
}

/** A word of a shell's, so that a command can be copied. */
export function quoted(word) {
  return /^[A-Za-z0-9\-_=.,:/@%+]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
