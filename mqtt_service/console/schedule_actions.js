// What a person does with recurring commands: add, change, pause and resume, remove, and cancel what they have queued.

import { answer } from './api.js';
import { attempt } from './attempt.js';
import { askFirst } from './components/dialog.js';
import { say } from './components/toasts.js';
import { ConsoleError } from './errors.js';
import { clock, cut, plural } from './format.js';
import { lookNow } from './live.js';
import { project } from './session.js';

const tryIt = (doIt) => attempt(doIt, lookNow);

/** Adds one; the same id again adds nothing twice. Throws ConsoleError. */
export async function addSchedule(id, columns) {
  await answer(project().from('command_schedules')
    .upsert({ ...columns, schedule_id: id }, { onConflict: 'schedule_id', ignoreDuplicates: true }));
  say(`${cut(columns.name)} is added.`);
  lookNow();
}

/** Throws ConsoleError. @returns {Promise<{next_run_at: string | null}>} as it is now */
export async function changeSchedule(row, changes) {
  const [now] = await answer(project().from('command_schedules').update(changes).eq('schedule_id', row.schedule_id)
    .select('next_run_at'));
  if (!now) throw new ConsoleError(`${cut(row.name)} was not changed.`, 'Somebody may have removed it, or your role does not allow this.');
  lookNow();
  return now;
}

export async function pauseSchedule(row) {
  return tryIt(async () => {
    await changeSchedule(row, { enabled: false });
    say(`${cut(row.name)} is paused. What it has queued already goes on.`);
  });
}

/** @param {string} zone in which its times are said */
export async function resumeSchedule(row, zone) {
  return tryIt(async () => {
    // one that the queue has stopped is enabled already: writing the column has it work out its next time
    const now = await changeSchedule(row, { enabled: true });
    say(`${cut(row.name)} goes on: next ${clock(now.next_run_at, zone)} (${zone}).`);
  });
}

/** Asks first. @returns {Promise<boolean>} whether it was removed */
export async function removeSchedule(row, active) {
  if (!await askFirst({
    title: `Remove ${cut(row.name)}?`, action: 'Remove it', danger: true,
    text: `${active === undefined ? 'Its devices get' : `${plural(active, 'device')} ${active === 1 ? 'gets' : 'get'}`} no more of its commands, and what became of its last times is forgotten. What it has queued already goes on, unless you cancel that first.`,
  })) return false;
  return tryIt(async () => {
    const gone = await answer(project().from('command_schedules').delete().eq('schedule_id', row.schedule_id).select('schedule_id'));
    if (!gone.length) throw new ConsoleError(`${cut(row.name)} was not removed.`, 'Somebody may have been faster, or your role does not allow this.');
    say(`${cut(row.name)} is removed.`);
  });
}

/** Cancels what it has queued and what still waits; asks first. */
export async function cancelQueued(row) {
  const call = (only) => answer(project().rpc('fn_cancel_commands', { p_schedule_id: row.schedule_id, p_count_only: only }));
  return tryIt(async () => {
    const { found } = await call(true);
    if (!found) { say('None of its commands waits.'); return; }
    if (!await askFirst({
      title: `Cancel ${plural(found, 'command')}?`, action: `Cancel ${plural(found, 'command')}`, danger: true,
      text: `${plural(found, 'command')} of ${cut(row.name)} will reach no device. It goes on queueing at its next time, unless you pause it.`,
    })) return;
    say(`${plural((await call(false)).cancelled, 'command')} cancelled.`);
  });
}
