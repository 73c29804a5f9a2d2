// Recurring commands: all that the person may see, and one with what became of its last times.

import { answer } from './api.js';
import { deviceName } from './format.js';
import { project } from './session.js';

// Of a target only what the list says: it may name 10,000 devices.
const COLUMNS = 'schedule_id, company_id, name, command_type, cron, timezone, enabled, next_run_at, last_run_at, last_result, '
  + 'site:target->>site, program:target->>program, company:target->>company, tags:target->tags, firmware:target->firmware, '
  + 'battery:target->battery, last_seen:target->last_seen, first:target->devices->>0, second:target->devices->>1';
const PARTS = ['site', 'program', 'company', 'tags', 'firmware', 'battery', 'last_seen'];
const PAGE = 1000; // rows in one answer, as much as a project gives by default
const MOST = 2000; // people write them: a company has dozens
const IDS_AT_ONCE = 100;
export const RUNS = 20; // so many are kept of each
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/** {rows, more}: rows with `target` in short and `listed`, the words for the devices that it names; more: whether there are more than these. */
export async function askSchedules() {
  const rows = [];
  let page;
  do {
    const query = project().from('command_schedules').select(COLUMNS).order('schedule_id').limit(PAGE);
    page = await answer(rows.length ? query.gt('schedule_id', rows.at(-1).schedule_id) : query);
    rows.push(...page);
  } while (page.length === PAGE && rows.length < MOST);
  const names = await askNames(rows.filter((row) => row.first && !row.second).map((row) => row.first));
  return { rows: rows.map((row) => inShort(row, names)), more: page.length === PAGE };
}

function inShort(row, names) {
  const target = Object.fromEntries(PARTS.filter((part) => row[part] !== null).map((part) => [part, row[part]]));
  if (row.first) target.devices = [row.first];
  return { ...row, target, listed: row.second ? 'several devices' : names.get(row.first) };
}

async function askNames(ids) {
  const wanted = [...new Set(ids)];
  const slices = Array.from({ length: Math.ceil(wanted.length / IDS_AT_ONCE) }, (_, at) => wanted.slice(at * IDS_AT_ONCE, (at + 1) * IDS_AT_ONCE));
  const found = await Promise.all(slices.map((some) => answer(project().from('devices')
    .select('device_id, device_code, device_name, device_mac').in('device_id', some))));
  return new Map(found.flat().map((device) => [device.device_id, deviceName(device)]));
}

/** The whole row with `runs`, the latest first; null: there is none, for this person. */
export async function askSchedule(id) {
  if (!UUID.test(id)) return null;
  const row = await answer(project().from('command_schedules').select('*, runs:command_schedule_runs(occurrence, finished_at, queued, result)')
    .eq('schedule_id', id).order('occurrence', { referencedTable: 'runs', ascending: false }).limit(RUNS, { referencedTable: 'runs' }).maybeSingle());
  return row;
}
