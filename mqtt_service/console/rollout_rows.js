// Rollouts, with their devices by state; and the devices of one, page by page.

import { answer } from './api.js';
import { project } from './session.js';

const PAGE = 50;
const DEVICES_PAGE = 100;
const PROGRESS = 'rollout_id, rate_per_minute, total, waiting, pending, sent, unverified, succeeded, failed, cancelled, skipped, refused';

/** The filters of the address that are understood. */
export const FILTERS = ['status', 'company', 'release', 'q'];

/** The source of the list for `usePages`, the latest first. @param {URLSearchParams} params */
export function rolloutSource(params) {
  return {
    size: PAGE,
    keyOf: (row) => row.rollout_id,
    compare: (a, b) => descending(a.created_at, b.created_at) || descending(a.rollout_id, b.rollout_id),
    page: (after) => askRollouts(filtered(params, after).limit(PAGE)),
    again: (keys) => askRollouts(filtered(params, null).in('rollout_id', keys)),
  };
}

const descending = (a, b) => (a < b ? 1 : a > b ? -1 : 0);

function filtered(params, after) {
  let query = project().from('command_rollouts').select('*, firmware_releases(version, hardware)')
    .order('created_at', { ascending: false }).order('rollout_id', { ascending: false });
  if (after) query = query.or(`created_at.lt."${after.created_at}",and(created_at.eq."${after.created_at}",rollout_id.lt.${after.rollout_id})`);
  const [status, company, release, sought] = FILTERS.map((name) => params.get(name));
  if (status === 'open') query = query.not('status', 'in', '(finished,cancelled)');
  else if (status) query = query.eq('status', status);
  if (company) query = query.eq('company_id', company);
  if (release) query = query.eq('release_id', release);
  if (sought) query = query.ilike('name', `%${sought.slice(0, 100).replace(/[\\%_]/g, '\\$&')}%`);
  return query;
}

/** Rows of command_rollouts that a query finds, each with `progress`, its row of rollout_progress. */
async function askRollouts(query) {
  const rows = await answer(query);
  if (!rows.length) return [];
  const counts = await answer(project().from('rollout_progress').select(PROGRESS).in('rollout_id', rows.map((row) => row.rollout_id)));
  const byId = new Map(counts.map((row) => [row.rollout_id, row]));
  return rows.filter((row) => byId.has(row.rollout_id)).map((row) => ({ ...row, progress: byId.get(row.rollout_id) }));
}

/**
 * One rollout, or null: as in the list, with `windows` (its maintenance windows) and `heldUntil`, when the first of its
 * commands that windows hold goes out.
 */
export async function askRollout(id) {
  const supabase = project();
  const [[rollout], windows, held] = await Promise.all([
    askRollouts(supabase.from('command_rollouts').select('*, firmware_releases(version, hardware)').eq('rollout_id', id)),
    answer(supabase.from('maintenance_windows').select('window_id, cron, duration, timezone, enabled, opens_at, closes_at, problem')
      .eq('rollout_id', id).order('created_at').limit(20)),
    answer(supabase.from('device_commands').select('held_until').eq('rollout_id', id).not('held_until', 'is', null)
      .order('held_until').limit(1)),
  ]);
  return rollout ? { ...rollout, windows, heldUntil: held[0]?.held_until } : null;
}

/**
 * The devices to which a rollout has come, in the order in which it comes to them, for `usePages`.
 * @param {string} rolloutId
 * @param {string} state '': whichever
 */
export function rolloutDeviceSource(rolloutId, state) {
  const query = () => {
    const all = project().from('rollout_devices').select('device_id, command_id, state, reason, updated_at').eq('rollout_id', rolloutId).order('device_id');
    return state ? all.in('state', STATES_OF[state] ?? [state]) : all;
  };
  return {
    size: DEVICES_PAGE,
    keyOf: (row) => row.device_id,
    compare: (a, b) => descending(b.device_id, a.device_id),
    page: (after) => withNames((after ? query().gt('device_id', after.device_id) : query()).limit(DEVICES_PAGE)),
    again: (keys) => withNames(query().in('device_id', keys)),
  };
}

/** A word of the address that means several states. */
const STATES_OF = { lost: ['failed', 'cancelled', 'refused'] };

/** Each row with `device`; undefined where the device is gone. */
async function withNames(query) {
  const rows = await answer(query);
  const found = rows.length ? await answer(project().from('devices').select('device_id, device_code, device_name, device_mac, site_id')
    .in('device_id', rows.map((row) => row.device_id))) : [];
  const byId = new Map(found.map((row) => [row.device_id, row]));
  return rows.map((row) => ({ ...row, device: byId.get(row.device_id) }));
}
