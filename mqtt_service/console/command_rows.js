// Rows of device_commands by filter, page by page.

import { answer } from './api.js';
import { project, session } from './session.js';

export const PAGE = 100;
const COLUMNS = 'command_id, device_id, command_type, status, priority, issued_at, delivered_at, acknowledged_at, '
  + 'scheduled_for, due_at, last_error, created_by_user_id, devices!inner(device_code, device_name, site_id, company_id)';
const SINCE_MS = { '1h': 3600e3, '24h': 86400e3, '7d': 7 * 86400e3, '30d': 30 * 86400e3 };

/** How far back the filter can look, as people say it. */
export const SINCE = { '1h': 'the last hour', '24h': 'the last day', '7d': 'the last week', '30d': 'the last 30 days' };

/** The filters of the address that are understood: status, type, device, schedule, site, company, since, from, to, who, q. */
export const FILTERS = ['status', 'type', 'device', 'schedule', 'site', 'company', 'since', 'from', 'to', 'who', 'q'];

/** The source of a list for `usePages`. @param {URLSearchParams} params */
export function commandSource(params) {
  return {
    size: PAGE,
    keyOf: (row) => row.command_id,
    compare: (a, b) => descending(a.issued_at, b.issued_at) || descending(a.command_id, b.command_id),
    page: (after) => answer(filtered(params, after).limit(PAGE)),
    again: (keys) => answer(filtered(params, null).in('command_id', keys)),
  };
}

// PostgREST's times are in one zone and leave zeros out at the end: their texts are in the order of time.
const descending = (a, b) => (a < b ? 1 : a > b ? -1 : 0);

function filtered(params, after) {
  const value = (name) => params.get(name);
  let query = project().from('device_commands').select(COLUMNS)
    .order('issued_at', { ascending: false }).order('command_id', { ascending: false });
  if (after) {
    query = query.or(`issued_at.lt."${after.issued_at}",and(issued_at.eq."${after.issued_at}",command_id.lt.${after.command_id})`);
  }
  query = byStatus(query, value('status'));
  if (value('type')) query = query.eq('command_type', value('type'));
  if (value('device')) query = query.eq('device_id', value('device'));
  if (value('schedule')) query = query.like('idempotency_key', `schedule:${value('schedule')}:*`);
  if (value('site')) query = query.eq('devices.site_id', value('site'));
  if (value('company')) query = query.eq('devices.company_id', value('company'));
  if (SINCE_MS[value('since')]) query = query.gte('issued_at', new Date(Date.now() - SINCE_MS[value('since')]).toISOString());
  if (isDay(value('from'))) query = query.gte('issued_at', new Date(value('from')).toISOString());
  if (isDay(value('to'))) query = query.lte('issued_at', new Date(value('to')).toISOString());
  if (value('who') === 'me') query = query.eq('created_by_user_id', session.get().user.id);
  if (value('who') === 'people') query = query.not('created_by_user_id', 'is', null);
  if (value('who') === 'machines') query = query.is('created_by_user_id', null);
  if (value('q')) {
    const like = `"*${value('q').slice(0, 100).replace(/["\\]/g, '\\$&')}*"`;
    query = query.or(`device_code.ilike.${like},device_name.ilike.${like}`, { referencedTable: 'devices' });
  }
  return query;
}

function byStatus(query, status) {
  if (status === 'open') return query.or('status.in.(pending,sent),and(status.eq.failed,due_at.not.is.null)');
  if (status === 'lost') return query.or('status.in.(rejected,expired),and(status.eq.failed,due_at.is.null)');
  return status ? query.eq('status', status) : query;
}

const isDay = (text) => Boolean(text) && !Number.isNaN(new Date(text).getTime());
