// One device: what it is, what happened to it on one axis, its pictures, its readings, and what can be done with it.

import { html, useMemo, useState } from '../vendor/preact-htm.js';
import { answer } from '../api.js';
import { tagDevices, unmapDevice, untagDevice } from '../device_actions.js';
import { askSuccess } from '../device_rows.js';
import { SPANS, spanMs, useWidth } from '../components/axis.js';
import { Chart } from '../components/chart.js';
import { StatusPill, TYPES } from '../components/command_words.js';
import { Battery, isLow, Signal, StatePill, stateOf } from '../components/device_words.js';
import { KINDS, Lanes, toneOf } from '../components/lanes.js';
import { askPictures, LightBox, Pictures } from '../components/pictures.js';
import { Answer, Empty } from '../components/states.js';
import { Time } from '../components/time.js';
import { DEFAULT_CRON, DeviceScheduleDialog, MapDialog } from '../components/wake_dialogs.js';
import { ago, clock, count, cut, deviceName, percent, plural } from '../format.js';
import { useKeys } from '../keyboard.js';
import { useAgain, useQuery } from '../query.js';
import { go, link, setParams } from '../route.js';
import { mayAdmin, mayOperate, project, session } from '../session.js';
import { useNow } from '../store.js';

const MOST_MOMENTS = 600;
const AWAKE_MS = 2 * 60 * 1000; // after it was heard, or was to take a picture, pictures may come
const LOOK_MS = 2000; // Realtime does not tell of pictures
const MOST_READINGS = 2000;
const READINGS = [['temperature', 'Temperature', '°C', 1], ['humidity', 'Humidity', '%', 1], ['pressure', 'Pressure', 'hPa', 1],
  ['gas_resistance', 'Gas', 'kΩ', 1], ['battery_voltage', 'Battery', 'V', 2], ['wifi_rssi', 'Signal', 'dBm', 0]];

/** @param {{id: string, params: URLSearchParams}} props */
export function Device({ id, params }) {
  const query = useQuery(`device ${id}`, () => askDevice(id), ['devices', 'device_commands']);
  useKeys({ Escape: () => window.history.back() });
  return html`<div class="page"><${Answer} query=${query}>${(found) => (found ? html`<${Page} ...${found} params=${params} refresh=${query.refresh} />`
    : html`<${Empty} title="There is no such device">It may be deleted, or of another company. <a href=${link('devices')}>Look at all devices</a>.</${Empty}>`)}</${Answer}></div>`;
}

async function askDevice(id) {
  if (!/^[0-9a-f-]{36}$/i.test(id)) return null;
  const supabase = project();
  const [device, tags, success, commands] = await Promise.all([
    answer(supabase.from('devices').select('*').eq('device_id', id).maybeSingle()),
    answer(supabase.from('device_tags').select('tag').eq('device_id', id).order('tag')),
    askSuccess([id]),
    answer(supabase.from('device_commands').select('command_id, command_type, status, issued_at').eq('device_id', id)
      .order('issued_at', { ascending: false }).order('command_id', { ascending: false }).limit(8)),
  ]);
  return device && { device, tags: tags.map((row) => row.tag), success: success.get(id), commands };
}

function Page({ device, tags, success, commands, params, refresh }) {
  const site = session.get().sites.get(device.site_id);
  const zone = site?.timezone;
  const [dialog, setDialog] = useState('');
  const close = () => { setDialog(''); refresh(); };
  const pictures = useQuery(`pictures ${device.device_id}`, () => askPictures(device.device_id), ['devices']);
  useLooking(pictures.refresh, [device.last_seen_at, ...commands.map((command) => command.issued_at)]);
  const shown = pictures.data?.find((picture) => picture.image_id === params.get('picture') && picture.url);
  const open = (picture) => setParams({ picture: picture?.image_id ?? '' }, { replace: true });
  return html`
    <${Head} device=${device} onDialog=${setDialog} refresh=${refresh} />
    ${dialog === 'map' && html`<${MapDialog} devices=${[device]} onClose=${close} />`}
    ${dialog === 'schedule' && html`<${DeviceScheduleDialog} device=${device} onClose=${close} />`}
    <${Tiles} device=${device} success=${success} zone=${zone} />
    <${Story} device=${device} zone=${zone} params=${params} onPicture=${open} />
    <div class="split">
      <div class="stack"><section class="panel"><header><h2>Pictures</h2>${pictures.data?.length > 0 && html`<span class="hint">the latest ${count(pictures.data.length)}</span>`}</header>
        <${Answer} query=${pictures}>${(found) => (found.length ? html`<div class="inside"><${Pictures} pictures=${found} zone=${zone} onOpen=${open} /></div>`
          : html`<${Empty} title="No pictures yet">${device.is_active && mayOperate(device.company_id)
            ? html`<a href=${link('commands/new', { device: device.device_id })}>Tell it to take one</a>: it arrives when the device wakes.`
            : 'A device sends them when it wakes, once it is mapped.'}</${Empty}>`)}</${Answer}></section></div>
      <div class="stack">
        <${Facts} device=${device} site=${site} tags=${tags} refresh=${refresh} />
        <${Commands} device=${device} commands=${commands} zone=${zone} />
      </div>
    </div>
    ${shown && html`<${LightBox} picture=${shown} pictures=${pictures.data} zone=${zone} onOpen=${open} onClose=${() => open(null)} />`}`;
}

/** Looks again and again while one of these times was lately. */
function useLooking(look, times) {
  const now = useNow();
  useAgain(look, times.some((at) => at && now - Date.parse(at) < AWAKE_MS) ? LOOK_MS : null);
}

function Head({ device, onDialog, refresh }) {
  const admin = device.company_id ? mayAdmin(device.company_id) : mayAdmin();
  return html`<div class="head"><a class="crumb" href=${link('devices')}>Devices</a><span class="crumb" aria-hidden="true">/</span>
    <h1>${deviceName(device)}</h1><${StatePill} device=${device} /><span class="grow"></span>
    <div class="buttons">
      ${admin && !device.is_active && html`<button class="primary" onClick=${() => onDialog('map')}>Map to a site</button>`}
      ${admin && device.is_active && html`<button onClick=${() => onDialog('schedule')}>Wake schedule</button>
        <button onClick=${() => onDialog('map')}>Move</button>
        <button onClick=${async () => { if (await unmapDevice(device)) refresh(); }}>Unmap</button>`}
      ${device.is_active && mayOperate(device.company_id) && html`<a class="button primary" href=${link('commands/new', { device: device.device_id })}>New command</a>`}
    </div></div>`;
}

function Tiles({ device, success, zone }) {
  const now = useNow();
  const lost = success ? success.failed + success.expired : 0;
  const late = stateOf(device, now) === 'overdue';
  const tiles = [
    ['Last wake', device.last_wake_at ? ago(device.last_wake_at, now) : 'never', device.last_wake_at ? clock(device.last_wake_at, zone, now) : 'it has not said HELLO yet'],
    ['Next wake', device.next_wake_at ? (late ? 'overdue' : ago(device.next_wake_at, now)) : '—', device.next_wake_at ? clock(device.next_wake_at, zone, now) : 'not planned', late ? 'warn' : ''],
    ['Battery', device.battery_voltage === null ? '—' : `${Number(device.battery_voltage).toFixed(2)} V`, device.battery_voltage === null ? 'not reported yet' : isLow(device) ? 'low: charge it' : 'as it said last', isLow(device) ? 'warn' : ''],
    ['Signal', device.wifi_rssi === null ? '—' : html`<${Signal} rssi=${device.wifi_rssi} />`, device.wifi_rssi === null ? 'not reported yet' : 'as it said last'],
    ['Firmware', cut(device.firmware_version ?? '—', 20), device.firmware_version ? 'as it said last' : 'not reported yet'],
    ['Success', percent(success?.success_rate), success?.commands ? `${count(success.acknowledged)} done, ${count(lost)} lost, ${count(success.open)} open` : 'no commands yet'],
  ];
  return html`<section class="tiles" aria-label="At a glance">${tiles.map(([name, value, more, tone]) => html`<div key=${name} class=${`tile ${tone ?? ''}`}>
    <span class="name">${name}</span><span class="value">${value}</span><span class="more">${more}</span></div>`)}</section>`;
}

/** The axis, the charts below it, and the same as a list. */
function Story({ device, zone, params, onPicture }) {
  const span = SPANS[params.get('span')] ? params.get('span') : '24h';
  const end = Date.parse(params.get('until') ?? '') || null;
  const [width, measure] = useWidth();
  const query = useQuery(`story ${device.device_id} ${span} ${end}`, () => askStory(device.device_id, span, end), ['devices', 'device_commands']);
  const open = (moment) => {
    if (moment.kind === 'command') go(link(`commands/${moment.about}`));
    if (moment.kind === 'picture') onPicture({ image_id: moment.about });
  };
  const step = (by) => {
    const until = (end ?? Date.now()) + by * spanMs(span);
    setParams({ until: until >= Date.now() ? '' : new Date(until).toISOString() });
  };
  return html`<section class="panel story-panel"><header><h2>Timeline</h2>
      <nav class="tabs" aria-label="How far back">${Object.entries(SPANS).map(([name, [, words]]) => html`<a key=${name} href=${link(`devices/${device.device_id}`, { ...Object.fromEntries(params), span: name })}
        aria-current=${name === span ? 'true' : undefined}>${words}</a>`)}</nav>
      <span class="grow"></span><button class="quiet" onClick=${() => step(-1)}>← Earlier</button><button class="quiet" disabled=${!end} onClick=${() => step(1)}>Later →</button></header>
    <div class="inside"><div class="axis" ref=${measure}>
      <${Answer} query=${query}>${(story) => html`
        <${Lanes} moments=${story.moments} from=${story.from} until=${story.until} zone=${zone} width=${width} onOpen=${open} />
        <${Charts} story=${story} zone=${zone} width=${width} />
        <${Moments} story=${story} zone=${zone} open=${params.get('list') === 'open'} onOpen=${open} />`}</${Answer}>
    </div></div></section>`;
}

async function askStory(id, span, end) {
  const until = end ?? Date.now();
  const from = until - spanMs(span);
  const within = (query, column) => query.eq('device_id', id).gte(column, new Date(from).toISOString())
    .lte(column, new Date(until + (end ? 0 : 60e3)).toISOString()).order(column, { ascending: false });
  const supabase = project();
  const [moments, readings] = await Promise.all([
    answer(within(supabase.from('device_timeline').select('happened_at, kind, what, details, about'), 'happened_at').limit(MOST_MOMENTS)),
    answer(within(supabase.from('device_telemetry').select(`captured_at, ${READINGS.map(([column]) => column).join(', ')}`), 'captured_at').limit(MOST_READINGS)),
  ]);
  return { from, until, moments, readings: readings.reverse(), more: moments.length === MOST_MOMENTS };
}

function Charts({ story, zone, width }) {
  const charts = useMemo(() => READINGS.map(([column, name, unit, digits]) => ({ column, name,
    say: (value) => `${value.toFixed(digits)} ${unit}`, tick: (value) => value.toFixed(Math.min(digits, 2)),
    points: story.readings.filter((row) => row[column] !== null).map((row) => [Date.parse(row.captured_at), Number(row[column])]) }))
    .filter((chart) => chart.points.length), [story]);
  if (!charts.length) return html`<p class="hint none-yet">No readings in this time. They come with pictures, or on their own, when the device wakes.</p>`;
  return charts.map((chart) => html`<${Chart} key=${chart.column} ...${chart} from=${story.from} until=${story.until} zone=${zone} width=${width} />`);
}

function Moments({ story, zone, open, onOpen }) {
  const toggle = (event) => { if (event.currentTarget.open !== open) setParams({ list: event.currentTarget.open ? 'open' : '' }, { replace: true }); };
  return html`<details class="moments" open=${open} onToggle=${toggle}><summary>As a list: ${story.more ? `the latest ${count(MOST_MOMENTS)} moments` : plural(story.moments.length, 'moment')}</summary>
    ${open && html`<ul class="feed">${story.moments.map((moment) => html`<li key=${`${moment.kind} ${moment.happened_at} ${moment.what} ${moment.about}`}>
      <${Time} at=${moment.happened_at} zone=${zone} as="clock" />
      <span class="what" title=${cut(moment.what, 300)}>${moment.about && moment.kind !== 'reading' ? html`<button class="plain-link" onClick=${() => onOpen(moment)}>${cut(moment.what, 160)}</button>` : cut(moment.what, 160)}</span>
      <span class=${`pill ${toneOf(moment) === 'accent' ? '' : toneOf(moment)}`}>${(KINDS[moment.kind] ?? moment.kind).toLowerCase().replace(/s$/, '')}</span></li>`)}</ul>`}
  </details>`;
}

function Facts({ device, site, tags, refresh }) {
  const company = session.get().companies.get(device.company_id);
  const own = device.wake_schedule_cron?.trim();
  return html`<section class="panel"><header><h2>Facts</h2></header><div class="inside stack"><dl class="facts">
      <dt>Site</dt><dd>${site ? html`<a href=${link('devices', { site: site.site_id })}>${cut(site.name)}</a> <span class="hint">(${site.timezone})</span>` : '—'}</dd>
      ${company && html`<dt>Company</dt><dd>${cut(company)}</dd>`}
      <dt>Wakes</dt><dd>${device.is_active ? html`<span class="mono">${own || site?.wake_schedule_cron || DEFAULT_CRON}</span> <span class="hint">${own ? 'its own' : 'its site’s'}</span>` : '—'}</dd>
      <dt>Last heard</dt><dd><${Time} at=${device.last_seen_at} zone=${site?.timezone} as="both" /></dd>
      ${device.device_name && html`<dt>Code</dt><dd>${cut(device.device_code ?? '—')}</dd>`}
      <dt>MAC</dt><dd class="mono">${cut(device.device_mac)}</dd>
      ${device.reported_location && html`<dt>It says it is at</dt><dd>${cut(device.reported_location, 200)}</dd>`}
      <dt>Battery</dt><dd><${Battery} volts=${device.battery_voltage} /></dd>
      <dt>Id</dt><dd class="mono">${device.device_id}</dd></dl>
    <${Tags} device=${device} tags=${tags} refresh=${refresh} /></div></section>`;
}

function Tags({ device, tags, refresh }) {
  const [text, setText] = useState('');
  const may = device.company_id && mayOperate(device.company_id);
  const add = async (event) => {
    event.preventDefault();
    if (await tagDevices([device], text, () => tags)) setText('');
    refresh();
  };
  return html`<div><h3>Tags</h3><div class="tags">
    ${tags.map((tag) => html`<span key=${tag} class="tag"><a href=${link('devices', { tag })}>${cut(tag, 64)}</a>
      ${may && html`<button class="quiet" aria-label=${`Remove the tag ${tag}`} onClick=${async () => { await untagDevice(device, tag); refresh(); }}>×</button>`}</span>`)}
    ${!tags.length && !may && html`<span class="hint">none</span>`}
    ${may && html`<form onSubmit=${add}><input aria-label="New tag" placeholder="new tag" maxlength="64" value=${text} onInput=${(event) => setText(event.target.value)} />
      <button disabled=${!text.trim()}>Add</button></form>`}</div></div>`;
}

function Commands({ device, commands, zone }) {
  return html`<section class="panel"><header><h2>Commands</h2>${commands.length > 0 && html`<span class="hint"><a href=${link('commands', { device: device.device_id })}>Show all</a></span>`}</header>
    ${commands.length ? html`<ul class="feed">${commands.map((command) => html`<li key=${command.command_id}>
        <${Time} at=${command.issued_at} zone=${zone} /><span class="what"><a href=${link(`commands/${command.command_id}`)}>${TYPES[command.command_type] ?? cut(command.command_type, 40)}</a></span>
        <${StatusPill} status=${command.status} /></li>`)}</ul>`
      : html`<${Empty} title="No commands yet">${device.is_active ? 'They appear here as soon as somebody queues one.' : 'Map the device first: its welcome is the first command.'}</${Empty}>`}
  </section>`;
}

