// Where a command is, and what became of it, step by step, as the database tells it.

import { answer } from './api.js';
import { cut } from './format.js';
import { project, session } from './session.js';

/** The story, a sentence or two a line. @returns {Promise<string[]>} */
export async function tellStory(command) {
  const told = await answer(project().rpc('fn_explain_command', { p_command_id: command.command_id }));
  return (told?.text ?? 'It is gone meanwhile.').split('\n');
}

/** What became of it: [{at, what, who, detail}], the first first. */
export async function tellSteps(command) {
  const changes = await answer(project().from('device_command_changes')
    .select('change_id, at, from_status, to_status, changed_by, who, detail').eq('device_id', command.device_id)
    .eq('command_id', command.command_id).order('at').limit(200));
  const queued = { at: command.issued_at, what: 'queued', who: nameOf('user', command.created_by_user_id), detail: '' };
  return [queued, ...(changes.length ? changes.map(step) : stepsFromRow(command))];
}

function step(change) {
  const { detail, from_status: from, to_status: to } = change;
  let what = to;
  if (detail?.given_back) what = 'given back';
  else if (detail?.taken_over_from) what = `taken over from ${detail.taken_over_from}`;
  else if (detail?.redelivery) what = 'to be sent again, since the device woke';
  else if (detail?.done_after_cancel_at) what = 'done all the same, after it was cancelled';
  else if (detail?.verified_at) what = 'verified: the device woke with the new version';
  else if (to === 'sent' && detail?.no_listener) what = 'sent; nobody was listening';
  else if (from === 'failed' && to === 'pending') what = 'to be tried again';
  return { at: change.at, what, who: nameOf(change.changed_by, change.who), detail: cut(detail?.error ?? '', 500) };
}

function nameOf(kind, who) {
  if (kind === 'user') return !who ? '' : who === session.get().user.id ? 'by you' : `by a person (${who.slice(0, 8)})`;
  return kind ? `by ${{ worker: 'worker ', device: 'the device', queue: 'the queue', service: '' }[kind] ?? ''}${cut(who ?? '', 60)}` : '';
}

/** Of a command from before changes were written. */
function stepsFromRow(command) {
  const { status, delivered_at: sent, acknowledged_at: answered } = command;
  const steps = [];
  if (sent) steps.push({ at: sent, what: 'sent', who: '', detail: '' });
  if (answered) steps.push({ at: answered, what: 'acknowledged', who: 'by the device', detail: '' });
  if (!['pending', 'sent', 'acknowledged'].includes(status)) {
    steps.push({ at: command.updated_at, what: status, who: '', detail: cut(command.last_error ?? '', 500) });
  }
  return steps;
}
