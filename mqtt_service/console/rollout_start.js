// Starting a rollout.

import { answer } from './api.js';
import { payloadOf } from './command_forms.js';
import { limitColumns } from './components/rollout_limits.js';
import { say } from './components/toasts.js';
import { lookNow } from './live.js';
import { project } from './session.js';

/**
 * Starts a rollout, or leaves it to be approved. The same id again starts nothing twice.
 * @param {object} wanted
 * @param {string} wanted.id of the rollout to be
 * @param {object} wanted.what as `payloadOf` reads it
 * @param {object} [wanted.release] of firmware, in place of a payload
 * @param {object} wanted.limits as of RolloutLimits
 * @param {string} wanted.hours how long each command lives; '': as the project has it
 * @throws {ConsoleError}
 */
export async function startRollout({ id, name, target, what, release, limits, hours, continuous, needsApproval }) {
  const row = {
    rollout_id: id, name: name.trim(), target, continuous, command_type: what.type, needs_approval: needsApproval,
    validity: hours ? `${hours} hours` : null, ...limitColumns(limits),
    ...(release ? { release_id: release.release_id, company_id: release.company_id } : { command_payload: payloadOf(what) }),
  };
  try {
    await answer(project().from('command_rollouts').insert(row));
  } catch (error) {
    if (error.code !== '23505') throw error; // else the answer to an earlier try was lost
  }
  lookNow();
  say(needsApproval ? 'Another admin has to approve it now.' : 'Started.');
}

/** In how many minutes so many devices are released; where the rate grows, if each minute's devices succeed within it. */
export function minutesToRelease(devices, { rate, growth, most }) {
  let [left, now, minutes] = [devices, Number(rate), 0];
  if (!(now >= 1)) return 0;
  for (; left > 0 && minutes < 1e6; minutes += 1) {
    left -= Math.floor(now);
    if (Number(growth) > 1) now = Math.min(now * Number(growth), Math.max(Number(most), Number(rate)));
  }
  return minutes;
}
