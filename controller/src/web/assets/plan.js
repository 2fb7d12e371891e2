// What will be done to hosts, and the question whether it shall be.

import { bytes, fill, h } from './dom.js';
import { get, post } from './server.js';

/** What has to be typed, as on a terminal. */
const TYPED = 'yes';

const FINISH = {
  reboot: 'reboot into the new system',
  kexec: 'kexec into the new system',
  poweroff: 'power off',
  hold: 'stay in RAM until told otherwise',
};

function disk(disk) {
  const serial = disk.serial ? `serial ${disk.serial.trim()}` : null;
  const empty = disk.contents.length === 0 ? '(empty)' : null;
  return [disk.name, bytes(disk.size), disk.model.trim(), serial, empty].filter(Boolean).join('  ');
}

function contents(disk) {
  const line = (content) => {
    const kind = content.content ?? 'unknown';
    const label = content.label ? `${kind} “${content.label}”` : kind;
    const mounts = content.mounts.length ? `on ${content.mounts.join(', ')}` : '';
    const parts = [content.name, bytes(content.size), label, mounts, content.kept ? 'is kept' : ''];
    return h('li', { class: content.kept ? 'good' : null }, parts.filter(Boolean).join('  '));
  };
  return disk.contents.length ? h('ul', {}, disk.contents.map(line)) : null;
}

function uploads(plan) {
  const list = (cached) => plan.uploads.filter((upload) => upload.cached === cached)
    .map((upload) => `${upload.what} ${bytes(upload.bytes)}`).join(', ');
  const [sent, there] = [list(false), list(true)];
  return `${bytes(plan.upload_bytes)}${sent ? `: ${sent}` : ''}${there ? ` (already there: ${there})` : ''}`;
}

function kernel(plan) {
  const whose = plan.kernel_source === 'host' ? 'the host’s own' : 'from base.lock';
  const hang = plan.hang_covered ? 'a watchdog resets the machine if it hangs early'
    : 'if it hangs before its init, only a reset by hand helps';
  return `Linux ${plan.kernel}${plan.kernel_source === 'host' ? ',' : ''} ${whose}; ${hang}`;
}

/** A plan for people. */
export function shown(plan) {
  const row = (name, ...value) => [h('dt', {}, name), h('dd', {}, ...value)];
  const called = plan.hostname === plan.host ? '' : `${plan.hostname}, `;
  const firmware = plan.firmware === 'uefi' ? 'UEFI' : 'BIOS';
  const wiped = plan.wipe.length === 0 ? h('p', { class: 'wiped' }, 'WIPED: no disk')
    : plan.wipe.map((one) => h('div', { class: 'wiped' },
      h('p', { class: 'bad word' }, `WIPED: ${disk(one)}`), contents(one)));
  return [
    wiped,
    h('dl', {},
      row('address', plan.address),
      plan.host_key && row('host key', plan.host_key),
      plan.become && row('as', `root by ${plan.become}`),
      row('now', `${called}${plan.os || 'an unknown system'}, ${plan.arch}, ${firmware}, ` +
        `${bytes(plan.memory_total)} of memory`),
      plan.through && row('way in', plan.through),
      plan.untouched.length > 0 && row('read-only', h('ul', {}, plan.untouched.map((one) => h('li', {}, disk(one))))),
      row('sent', uploads(plan)),
      row('boots', kernel(plan)),
      row('base', `${plan.groups.join(' ')}${plan.groups.length ? ', ' : ''}${plan.base.slice(0, 12)}…, ` +
        plan.base_source),
      plan.proxy && row('proxy', plan.proxy),
      row('payload', plan.payload),
      plan.verify_key && row('key',
        'this run’s own key, too, opens root’s account of the new system, until that is checked'),
      row('finish', FINISH[plan.finish] ?? plan.finish),
      row('check', plan.check ?? 'that it answers as itself')),
    plan.warnings.length > 0 && h('ul', { class: 'plain look' }, plan.warnings.map((text) => h('li', {}, text))),
    plan.refusals.length > 0 && [
      h('p', { class: 'bad word' }, 'REFUSED'),
      h('ul', { class: 'plain bad' }, plan.refusals.map((text) => h('li', {}, text)))],
  ];
}

/** Shows the plans of a run in `section`, and asks. */
export async function ask(page, run, section) {
  const { plans, order } = await get(`/api/runs/${run}/plan`, page.signal);
  const able = plans.filter((plan) => plan.able);
  const cards = plans.map(({ plan }) => h('li', { class: 'card' }, h('h3', {}, plan.host), shown(plan)));
  fill(section, h('h2', {}, 'What will be done'), h('ul', { class: 'cards' }, cards), order && h('p', {}, order));
  if (able.length === 0) return;
  const disks = (plan) => plan.wipe.map((one) => `${one.name} (${bytes(one.size)})`).join(', ') || 'no disk';
  const keeps = able.some(({ plan }) => plan.wipe.some((one) => one.contents.some((content) => content.kept)));
  const these = able.length === 1 && able[0].plan.wipe.length === 1 ? 'that disk' : 'these disks';
  const of = able.length > 1 ? ` of ${able.length} hosts` : '';
  const lost = `Everything on ${these}${of}${keeps ? ', but for what is kept,' : ''} will be lost.`;
  const typed = h('input', {
    type: 'text', id: 'typed', autocomplete: 'off', autocapitalize: 'none', spellcheck: false,
    'aria-describedby': 'lost',
  });
  const go = h('button', { type: 'button', class: 'strong', disabled: true, onclick: () => decide(true) },
    able.length === 1 ? `Deploy ${able[0].plan.host}` : `Deploy ${able.length} hosts`);
  const no = h('button', { type: 'button', onclick: () => decide(false) }, 'Don’t deploy');
  const wrong = h('p', { class: 'bad', role: 'alert' });
  const decide = async (approve) => {
    if (approve && typed.value.trim() !== TYPED) return;
    go.disabled = no.disabled = true;
    const looked = Object.fromEntries(able.map(({ plan, sha256 }) => [plan.host, sha256]));
    try {
      await post(`/api/runs/${run}/decide`, { approve, typed: typed.value, plans: approve ? looked : {} });
      page.say(approve ? 'Approved.' : 'Not approved: all is undone.');
    } catch (error) {
      no.disabled = false;
      wrong.textContent = error.message;
    }
  };
  typed.addEventListener('input', () => {
    go.disabled = typed.value.trim() !== TYPED;
  });
  typed.addEventListener('keydown', (event) => event.key === 'Enter' && decide(true));
  section.append(h('section', { class: 'question', 'aria-labelledby': 'question' },
    h('h2', { id: 'question' }, 'Shall it be done?'),
    h('ul', { class: 'plain' }, able.map(({ plan }) => h('li', {}, h('strong', {}, plan.host), ' ',
      h('span', { class: 'bad' }, disks(plan))))),
    order && h('p', {}, order),
    h('p', { id: 'lost', class: 'word' }, lost),
    h('label', { for: 'typed' }, 'Type ', h('code', {}, TYPED), ' to go on:'), typed,
    h('div', { class: 'buttons' }, go, no), wrong));
}
