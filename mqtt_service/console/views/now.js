// Now: what waits, what moves, who is awake, and whether the machinery runs.

import { html } from '../vendor/preact-htm.js';
import { answer, answerWhole } from '../api.js';
import { StatusPill, STATUSES, TYPES } from '../components/command_words.js';
import { Answer, Empty } from '../components/states.js';
import { Time } from '../components/time.js';
import { config } from '../config.js';
import { ago, count, cut, deviceName, plural, span } from '../format.js';
import { how } from '../live.js';
import { useQuery } from '../query.js';
import { link } from '../route.js';
import { mayOperate, project, zoneOf } from '../session.js';
import { useNow, useStore } from '../store.js';

const DAY_MS = 24 * 3600 * 1000;
const LOW_BATTERY = 3.5; // V
const LATE_S = 60; // what is due for longer waits for something
const WORKER_LOST_S = 180; // a worker says once a minute that it runs
const FEED_LENGTH = 30;
const OVERVIEW_PAUSE_MS = 1500; // it counts a whole fleet

export default function Now() {
  const overview = useQuery('overview', askOverview, ['device_commands', 'devices'], OVERVIEW_PAUSE_MS);
  return html`<div class="page">
    <div class="head"><h1>Now</h1><span class="grow"></span>
      ${mayOperate() && html`<a class="button primary" href=${link('commands/new')}>New command</a>`}</div>
    <${Answer} query=${overview}>${(data) => html`
      <${Tiles} data=${data} />
      <div class="split">
        <${Feed} />
        <div class="stack"><${ByStatus} counts=${data.counts} /><${Machinery} data=${data} /><${Slowest} devices=${data.slowest} /></div>
      </div>`}</${Answer}>
  </div>`;
}

async function askOverview() {
  const supabase = project();
  const [overview, counts, low, workers] = await Promise.all([
    answer(supabase.rpc('fn_fleet_overview', { p_window_seconds: 3600, p_slowest: 5 })),
    answer(supabase.rpc('fn_count_commands', { p_since: new Date(Date.now() - DAY_MS).toISOString() })),
    answerWhole(supabase.from('devices').select('device_id', { count: 'exact', head: true })
      .eq('is_active', true).lt('battery_voltage', LOW_BATTERY)),
    answer(supabase.from('mqtt_workers').select('client_id, worker, version, since, seen_at').order('since', { ascending: false })),
  ]);
  return { ...overview, counts, low: low.count, running: workers };
}

function Tiles({ data }) {
  const now = useNow();
  const { depth, minute, window: hour } = data;
  const late = depth.oldest_due_at ? (now - new Date(depth.oldest_due_at)) / 1000 : 0;
  const tiles = [
    ['Due now', depth.due, depth.due ? `the oldest for ${span(Math.max(late, 0))}` : 'nothing waits',
      link('commands', { status: 'pending' }), late > LATE_S ? 'bad' : ''],
    ['On the way', depth.leased + depth.sent, `${count(depth.sent)} await an answer`, link('commands', { status: 'sent' })],
    ['Later', depth.scheduled + depth.retrying + depth.held, later(depth),
      link('commands', { status: 'pending' })],
    ['Answered', minute.acknowledged, `in the last minute; ${count(hour.acknowledged)} in the hour`, link('commands', { status: 'acknowledged' })],
    ['Lost', hour.lost, `of ${count(hour.issued)} queued in the hour`, link('commands', { status: 'lost' }), hour.lost ? 'bad' : ''],
    ['Awake', data.awake, `of ${plural(data.active, 'active device')}`],
    ['Overdue', data.overdue, 'later than their wake by 10 min', undefined, data.overdue ? 'warn' : ''],
    ['Low battery', data.low, `below ${LOW_BATTERY} V`, undefined, data.low ? 'warn' : ''],
  ];
  return html`<section class="tiles" aria-label="At a glance">${tiles.map(([name, value, more, address, tone]) => {
    const inside = html`<span class="name">${name}</span><span class="value">${count(value)}</span><span class="more">${more}</span>`;
    return address ? html`<a key=${name} class=${`tile ${tone ?? ''}`} href=${address}>${inside}</a>`
      : html`<div key=${name} class=${`tile ${tone ?? ''}`}>${inside}</div>`;
  })}</section>`;
}

/** What the commands for later wait for: the rest wait for their time. */
function later({ retrying, held }) {
  const parts = [retrying && `${count(retrying)} to be retried`, held && `${count(held)} held by a window`].filter(Boolean);
  return parts.join(', ') || 'at their time';
}

function ByStatus({ counts }) {
  const words = [...Object.keys(STATUSES), ...Object.keys(counts).filter((status) => !STATUSES[status])];
  return html`<section class="panel"><header><h2>Commands</h2><span class="hint">queued within 24 hours</span></header>
    <table class="plain"><tbody>${words.map((status) => html`<tr key=${status}>
      <td><a href=${link('commands', { status, since: '24h' })}><${StatusPill} status=${status} /></a></td>
      <td class="number">${count(counts[status] ?? 0)}</td></tr>`)}</tbody></table>
  </section>`;
}

function Machinery({ data }) {
  const live = useStore(how) === 'realtime';
  return html`<section class="panel"><header><h2>Machinery</h2></header><div class="inside">
    <dl class="facts">
      <dt>Realtime</dt><dd>${live ? html`<span class="pill good">✓ tells of changes</span>`
        : html`<span class="pill warn">! silent: the console polls</span>`}</dd>
      ${config.get().served_by === 'worker' && html`<${Broker} />`}
      ${data.running.map((worker) => html`<${Worker} key=${worker.client_id} worker=${worker} />`)}
    </dl>
    ${!data.running.length && html`<p class="note warn">No worker has run yet: commands wait until one does. Start it with mqtt-service run.</p>`}
  </div></section>`;
}

function Worker({ worker }) {
  const now = useNow();
  const silent = worker.seen_at && (now - new Date(worker.seen_at)) / 1000 > WORKER_LOST_S;
  return html`<dt>Worker</dt><dd><strong>${cut(worker.client_id, 48)}</strong> ${worker.version} <span class=${`pill ${silent ? 'bad' : 'good'}`}>
    ${silent ? `✕ silent, last seen ${ago(worker.seen_at, now)}` : html`✓ runs since <${Time} at=${worker.since} as="clock" />`}</span></dd>`;
}

/** The worker that serves this page says of itself how it does; without its token, only whether it does. */
function Broker() {
  const health = useQuery('health', () => fetch('../health').then((reply) => reply.json()), []);
  const status = health.data?.status;
  const tone = { healthy: 'good', degraded: 'warn' }[status] ?? 'bad';
  const connected = health.data?.mqtt?.connected;
  return html`<dt>Broker</dt><dd>${connected === undefined ? html`<span class="none">the worker keeps it to itself</span>`
    : html`<span class=${`pill ${connected ? 'good' : 'bad'}`}>${connected ? '✓ connected' : '✕ not connected'}</span>`}</dd>
    <dt>This worker</dt><dd><span class=${`pill ${tone}`}>${status ?? (health.error ? '✕ no answer' : '…')}</span></dd>`;
}

function Slowest({ devices }) {
  if (!devices.length) return null;
  return html`<section class="panel"><header><h2>Slowest to answer</h2><span class="hint">median of an hour</span></header>
    <table class="plain"><tbody>${devices.map((device) => html`<tr key=${device.device_id}>
      <td><a href=${link('commands', { device: device.device_id })}>${cut(device.device_code, 32)}</a></td>
      <td class="number">${span(device.median_seconds)}</td></tr>`)}</tbody></table></section>`;
}

function Feed() {
  const feed = useQuery('feed', askFeed, ['device_commands', 'devices']);
  return html`<section class="panel"><header><h2>Live</h2><span class="hint">wakes and commands, the latest first</span></header>
    <${Answer} query=${feed}>${(events) => events.length ? html`<ul class="feed">${events.map((event) => html`<li key=${event.key}>
        <${Time} at=${event.at} zone=${zoneOf(event.site)} />
        <span class="what">${event.what}</span>${event.sign}</li>`)}</ul>`
      : html`<${Empty} title="Nothing has happened yet">A device says hello when it wakes. Until one does, run simulated ones:
          mqtt-service simulate.</${Empty}>`}</${Answer}>
  </section>`;
}

async function askFeed() {
  const supabase = project();
  const [commands, devices] = await Promise.all([
    answer(supabase.from('device_commands')
      .select('command_id, command_type, status, issued_at, delivered_at, acknowledged_at, devices!inner(device_code, device_name, site_id)')
      .order('issued_at', { ascending: false }).order('command_id', { ascending: false }).limit(FEED_LENGTH)),
    answer(supabase.from('devices').select('device_id, device_code, device_name, site_id, last_wake_at, battery_voltage')
      .not('last_wake_at', 'is', null).order('last_wake_at', { ascending: false }).limit(FEED_LENGTH)),
  ]);
  const events = [
    ...commands.map((row) => ({
      key: row.command_id, site: row.devices.site_id, at: row.acknowledged_at ?? row.delivered_at ?? row.issued_at,
      what: html`<a href=${link(`commands/${row.command_id}`)}>${TYPES[row.command_type] ?? cut(row.command_type, 30)}</a> · ${deviceName(row.devices)}`,
      sign: html`<${StatusPill} status=${row.status} />`,
    })),
    ...devices.map((row) => ({
      key: row.device_id, site: row.site_id, at: row.last_wake_at, what: html`${deviceName(row)} woke`,
      sign: row.battery_voltage === null ? '' : html`<span class="hint">${Number(row.battery_voltage).toFixed(2)} V</span>`,
    })),
  ];
  return events.sort((a, b) => new Date(b.at) - new Date(a.at)).slice(0, FEED_LENGTH);
}
