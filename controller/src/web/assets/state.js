// What became of a host, by what was told of it.

export const PHASES = ['connect', 'probe', 'upload', 'stage', 'boot', 'build', 'reboot', 'verify'];

/** Notes of a host that are kept: the newest. */
const NOTES = 50;

/** A host of which nothing was told. */
export function fresh(host) {
  return {
    host, number: 0, phase: null, since: null, first: null, last: null, seconds: {}, steps: new Map(), progress: null,
    link: null, waiting: null, agent: null, attempt: 0, plan: null, summary: null, notes: [], wiped: false,
  };
}

function note(host, level, text, time) {
  host.notes.push({ level, text, time });
  if (host.notes.length > NOTES) host.notes.shift();
}

/** Takes in a line of docs/JSON.md. `false`: it was told before. */
export function take(host, line) {
  if (line.number) {
    if (line.number <= host.number) return false;
    host.number = line.number;
  }
  const time = line.time ? Date.parse(line.time) : null;
  host.first ??= time;
  host.last = time ?? host.last;
  switch (line.type) {
    case 'phase':
      if (line.state === 'started') {
        // Of a phase that begins again the time before says nothing any more.
        delete host.seconds[line.phase];
        Object.assign(host, { phase: line.phase, since: time, waiting: null, summary: null, progress: null });
        if (line.phase === 'boot') host.steps.clear();
      } else {
        host.seconds[line.phase] = line.seconds;
      }
      break;
    case 'plan': host.plan = line; break;
    case 'waiting': host.waiting = line.reason; break;
    case 'uploaded':
      host.progress = { done: line.sent, total: line.total, unit: 'bytes', what: null, step: null };
      break;
    case 'progress': host.progress = line; break;
    case 'link':
      host.link = line.state === 'lost' ? line.reason : null;
      break;
    case 'message': note(host, line.level, line.text, time); break;
    case 'decision':
      note(host, 'info', `${line.approved ? 'approved' : 'not approved'} by ${line.author}`, time);
      break;
    case 'wish':
      note(host, 'info', `${line.wish}${line.finish ? ` (${line.finish})` : ''}: ${line.author}`, time);
      break;
    case 'answer':
      if (!line.accepted) note(host, 'warning', `that is not done: ${line.reason}`, time);
      break;
    case 'summary':
      Object.assign(host, { summary: line, waiting: null, link: null, progress: null });
      host.steps.clear();
      break;
    case 'event': event(host, line, time); break;
  }
  return true;
}

function event(host, line, time) {
  const step = `${line.speaker}-${line.step}`;
  switch (line.kind) {
    case 'step-started': host.steps.set(step, { name: line.name, since: time }); break;
    case 'step-finished': {
      const name = host.steps.get(step)?.name ?? 'a step';
      host.steps.delete(step);
      if (host.progress?.step === line.step) host.progress = null;
      if (line.outcome === 'failed') note(host, 'error', `${name} failed: ${line.reason}`, time);
      break;
    }
    case 'note': note(host, line.level, line.text, time); break;
    case 'state':
      host.agent = line.state;
      if (line.reason) note(host, 'warning', `${line.state}: ${line.reason}`, time);
      break;
    case 'attempt':
      Object.assign(host, { attempt: line.attempt, summary: null, phase: 'build', agent: null });
      for (const key of host.steps.keys()) if (key.startsWith('agent-')) host.steps.delete(key);
      break;
    case 'written': host.wiped = true; break;
    case 'gap': note(host, 'warning', `${line.last - line.first + 1} events were dropped on the host`, time); break;
    case 'outcome':
      if (line.outcome === 'failed') note(host, 'error', `the payload failed: ${line.reason}`, time);
      break;
    case 'shell': note(host, 'info', 'somebody has a shell there', time); break;
  }
}

/** In a word: how it ended, or what it is about. */
export function word(host) {
  if (host.summary) return host.summary.outcome;
  if (host.waiting) return 'waiting';
  if (host.agent === 'held' && host.phase === 'build') return 'held';
  return host.phase ?? 'not begun';
}

/** What it is doing, in a sentence. */
export function doing(host) {
  if (host.summary) return host.summary.reason;
  if (host.link) return `no connection, trying again: ${host.link}`;
  if (host.waiting) return host.waiting;
  const step = [...host.steps.values()].at(-1);
  const what = host.progress?.what;
  if (step) return what ? `${step.name}: ${what}` : step.name;
  if (host.agent && host.phase === 'build') return `the agent is ${host.agent}`;
  return '';
}
