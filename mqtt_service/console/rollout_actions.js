// What a person does with rollouts. What sends something, or ends it, asks first and says how many devices it concerns.

import { answer } from './api.js';
import { attempt } from './attempt.js';
import { askFirst } from './components/dialog.js';
import { say } from './components/toasts.js';
import { cut, plural } from './format.js';
import { lookNow } from './live.js';
import { mayAdmin, mayOperate, project, session } from './session.js';

const tryIt = (doIt) => attempt(doIt, lookNow);

/** What this person may do with a rollout as it is now. @returns {Set<'pause'|'resume'|'approve'|'cancel'|'change'|'remove'>} */
export function allowedOf(rollout) {
  const { status, company_id: company } = rollout;
  const over = rollout.finished_at !== null;
  const may = new Set();
  if (mayOperate(company) && status === 'running') may.add('pause');
  if (mayOperate(company) && !over) may.add('cancel');
  if (mayAdmin(company) && ['paused', 'stopped'].includes(status)) may.add('resume');
  if (mayAdmin(company) && status === 'awaiting_approval' && !isMine(rollout)) may.add('approve');
  if (mayAdmin(company)) may.add(over ? 'remove' : 'change');
  return may;
}

/** Whether the person who looks made it: then somebody else has to approve it. */
export const isMine = (rollout) => rollout.created_by_user_id === session.get().user.id;

/** Releases no more devices. */
export function pauseRollout(rollout) {
  return tryIt(() => become(rollout, 'paused', ['running'], 'is paused. What was released goes on.'));
}

/** Goes on with one that was paused, or has stopped. */
export async function resumeRollout(rollout) {
  const { status, continuous, progress: { waiting, rate_per_minute: rate } } = rollout;
  const whom = continuous ? 'Devices that fit' : `${plural(waiting, 'device')} that ${waiting === 1 ? 'waits' : 'wait'}`;
  if (!await askFirst({
    title: `Resume ${cut(rollout.name)}?`, action: 'Resume',
    text: `${whom} will get the command, ${rate} a minute.${status === 'stopped' ? ' Failures count anew.' : ''}`,
  })) return;
  await tryIt(() => become(rollout, 'running', ['paused', 'stopped'], 'goes on.'));
}

/** Starts one that another admin has made. */
export async function approveRollout(rollout) {
  await tryIt(async () => {
    const meant = await answer(project().rpc('fn_preview_target', { p_target: rollout.target, p_limit: 0, p_company_id: rollout.company_id }));
    if (!await askFirst({
      title: `Approve ${cut(rollout.name)}?`, action: `Start for ${plural(meant.active, 'device')}`, danger: true,
      text: `It starts at once: ${plural(meant.active, 'device')} will get the command, ${rollout.rate_per_minute} a minute at first.`,
    })) return;
    await become(rollout, 'running', ['awaiting_approval'], 'is approved and has started.');
  });
}

/** Ends one, with its commands that were not sent yet. */
export async function cancelRollout(rollout) {
  if (!await askFirst({
    title: `Cancel ${cut(rollout.name)}?`, action: 'Cancel the rollout', danger: true,
    text: `${whomACancelConcerns(rollout)} A cancelled rollout cannot be resumed.`,
  })) return;
  await tryIt(() => become(rollout, 'cancelled', ['awaiting_approval', 'running', 'paused', 'stopped'], 'is cancelled.'));
}

function whomACancelConcerns({ status, continuous, progress: { waiting, pending, sent } }) {
  if (status === 'awaiting_approval') return 'No device has got anything, and none will.';
  const late = sent ? ` ${plural(sent, 'device')} to which it was sent may still do it.` : '';
  if (continuous) return `No further device gets the command${pending ? `, nor ${plural(pending, 'device')} to which it was not sent yet` : ''}.${late}`;
  return `${plural(waiting + pending, 'device')} will not get the command.${late}`;
}

/** Removes one that is over, with what is known of its devices. @returns {Promise<boolean>} whether it is gone */
export async function removeRollout(rollout) {
  if (!await askFirst({
    title: `Remove ${cut(rollout.name)}?`, action: 'Remove it', danger: true,
    text: 'What became of its devices is forgotten with it; the commands themselves stay.',
  })) return false;
  return tryIt(async () => {
    const rows = await answer(project().from('command_rollouts').delete().eq('rollout_id', rollout.rollout_id).select('rollout_id'));
    say(rows.length ? `${cut(rollout.name)} is removed.` : 'It was not removed: it is not over, or gone already.');
  });
}

/** Changes how fast it goes and when it stops. @param {object} changes columns of command_rollouts. Throws ConsoleError. */
export async function changeRollout(rollout, changes) {
  const rows = await answer(project().from('command_rollouts').update(changes).eq('rollout_id', rollout.rollout_id).select('rollout_id'));
  say(rows.length ? 'It goes by this from the next minute on.' : 'It is gone: nothing was changed.');
  lookNow();
}

async function become(rollout, status, from, done) {
  const rows = await answer(project().from('command_rollouts').update({ status }).eq('rollout_id', rollout.rollout_id)
    .in('status', from).select('rollout_id'));
  say(rows.length ? `${cut(rollout.name)} ${done}` : `${cut(rollout.name)} had moved on meanwhile: look at it again.`);
}
