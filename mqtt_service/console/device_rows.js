// All devices that the person may see, kept here, so that filters and sorting answer at once. They are fetched page by
// page when they are needed first; from then on only those that have changed since.

import { useEffect } from './vendor/preact-htm.js';
import { answer } from './api.js';
import { onChange } from './live.js';
import { project, session } from './session.js';
import { makeStore, useStore } from './store.js';

const COLUMNS = 'device_id, device_mac, device_code, device_name, company_id, site_id, provisioning_status, is_active, '
  + 'wake_schedule_cron, next_wake_at, last_wake_at, last_seen_at, firmware_version, hardware_version, battery_voltage, wifi_rssi, '
  + 'reported_location, created_at, updated_at';
const PAGE = 1000; // rows in one answer, as much as a project gives by default
const MOST = 20000;
const AGAIN_MS = 5 * 60 * 1000; // all of them anew: some may have been deleted, or taken away
const OVERLAP_MS = 10000; // a transaction that began earlier may end later

/** {rows: Map<device_id, row>, tags: Map<device_id, string[]>, loading, error, cut: whether there are more than are kept} */
const store = makeStore(empty());
let owner = null;
let loadedAt = 0;
let run = null;
let again = false;

function empty() {
  return { rows: new Map(), tags: new Map(), loading: true, error: undefined, cut: false };
}

/** The devices and their tags, kept up to date while the view is open. */
export function useDevices() {
  useEffect(() => {
    const user = session.get().user?.id;
    if (owner !== user) { owner = user; loadedAt = 0; store.set(empty()); }
    refreshDevices();
    return onChange(['devices'], refreshDevices);
  }, []);
  return { ...useStore(store), refresh: refreshDevices };
}

/** Looks which devices have changed. */
export async function refreshDevices() {
  if (run) { again = true; return run; }
  run = load().then(() => {}, (error) => store.set({ ...store.get(), loading: false, error }));
  await run;
  run = null;
  if (again) { again = false; await refreshDevices(); }
}

async function load() {
  const mine = owner;
  const whole = Date.now() - loadedAt > AGAIN_MS;
  const tags = loadTags();
  tags.catch(() => {});
  const before = store.get();
  const rows = whole ? new Map() : new Map(before.rows);
  const since = whole ? null : sinceOf(before.rows);
  let last = null;
  for (;;) {
    const page = await answer(pageAfter(last, since));
    if (owner !== mine) return;
    for (const row of page) rows.set(row.device_id, row);
    last = page.at(-1);
    if (page.length < PAGE || rows.size >= MOST) break;
    if (whole && before.rows.size === 0) store.set({ ...store.get(), rows: new Map(rows), loading: false });
  }
  const known = await tags;
  if (owner !== mine) return;
  if (whole) loadedAt = Date.now();
  store.set({ rows, tags: known, loading: false, error: undefined, cut: rows.size >= MOST });
}

function pageAfter(last, since) {
  const query = project().from('devices').select(COLUMNS).order('device_id').limit(PAGE);
  if (since) query.gte('updated_at', since);
  return last ? query.gt('device_id', last.device_id) : query;
}

function sinceOf(rows) {
  let newest = '';
  for (const row of rows.values()) if (row.updated_at > newest) newest = row.updated_at;
  return newest ? new Date(new Date(newest).getTime() - OVERLAP_MS).toISOString() : null;
}

async function loadTags() {
  const tags = new Map();
  let last = null;
  for (;;) {
    const query = project().from('device_tags').select('device_id, tag').order('device_id').order('tag').limit(PAGE);
    if (last) query.or(`device_id.gt.${last.device_id},and(device_id.eq.${last.device_id},tag.gt."${last.tag.replace(/["\\]/g, '\\$&')}")`);
    const page = await answer(query);
    for (const { device_id: id, tag } of page) tags.set(id, [...(tags.get(id) ?? []), tag]);
    last = page.at(-1);
    if (page.length < PAGE || tags.size >= MOST) return tags;
  }
}

/** How the commands of these devices end: rows of device_command_success by device_id. */
export async function askSuccess(ids) {
  const rows = ids.length ? await answer(project().from('device_command_success')
    .select('device_id, commands, acknowledged, failed, expired, open, success_rate, median_seconds_to_answer').in('device_id', ids)) : [];
  return new Map(rows.map((row) => [row.device_id, row]));
}
