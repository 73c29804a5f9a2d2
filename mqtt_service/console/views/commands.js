// Commands: the list with its filters; one command and the form for a new one are views of their own.

import { html, useEffect, useMemo, useRef, useState } from '../vendor/preact-htm.js';
import { answer } from '../api.js';
import { cancelCommands, repeatCommands, retryCommands } from '../command_actions.js';
import { commandSource, FILTERS, SINCE } from '../command_rows.js';
import { mayCancel, mayRepeat, mayRetry, StatusPill, STATUSES, TYPES } from '../components/command_words.js';
import { ChoiceFilter } from '../components/filters.js';
import { usePages } from '../components/pages.js';
import { Empty, Failed, Loading } from '../components/states.js';
import { Table } from '../components/table.js';
import { Time } from '../components/time.js';
import { count, cut, deviceName, plural, span } from '../format.js';
import { useQuery } from '../query.js';
import { go, link, setParams } from '../route.js';
import { mayOperate, project, session, zoneOf } from '../session.js';
import { useStore } from '../store.js';
import { Command } from './command.js';
import { NewCommand } from './new_command.js';

const TABS = ['', 'open', 'lost', ...Object.keys(STATUSES)];
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

export default function Commands({ parts, params }) {
  if (parts[0] === 'new') return html`<${NewCommand} params=${params} />`;
  if (parts[0]) return html`<${Command} key=${parts[0]} id=${parts[0]} />`;
  return html`<${List} params=${params} />`;
}

function List({ params }) {
  const filters = new URLSearchParams(FILTERS.filter((name) => params.get(name)).map((name) => [name, params.get(name)]));
  const key = filters.toString();
  const source = useMemo(() => commandSource(filters), [key]);
  const pages = usePages(key, source, ['device_commands']);
  const [selected, setSelected] = useState(new Set());
  const open = (row) => go(link(`commands/${row.command_id}`));
  const foot = pages.done ? `${plural(pages.rows.length, 'command')}, no more` : 'further ones follow';
  return html`<div class="page full">
    <div class="head"><h1>Commands</h1><span class="hint">${count(pages.rows.length)} loaded</span><span class="grow"></span>
      ${mayOperate() && html`<a class="button primary" href=${link('commands/new')}>New command</a>`}</div>
    <${Tabs} status=${params.get('status') ?? ''} params=${params} />
    <${Filters} params=${params} />
    ${selected.size > 0 && html`<${Selection} rows=${pages.rows.filter((row) => selected.has(row.command_id))}
      onClear=${() => setSelected(new Set())} />`}
    ${pages.error && pages.rows.length > 0 && html`<p class="fault" role="alert">${pages.error.message} ${pages.error.todo}</p>`}
    ${pages.rows.length ? html`<${Table} key=${key} label="Commands" columns=${COLUMNS} rows=${pages.rows} keyOf=${source.keyOf} onOpen=${open}
        selected=${selected} onSelect=${mayOperate() ? setSelected : undefined} onEnd=${pages.more} onSight=${pages.sight} foot=${foot} />`
      : pages.error ? html`<${Failed} error=${pages.error} retry=${pages.refresh} />`
      : pages.loading ? html`<${Loading} />`
      : html`<${Nothing} filtered=${key !== ''} />`}
  </div>`;
}

const COLUMNS = [
  { name: 'status', title: html`<span>Status</span>`, cell: (row) => html`<${StatusPill} status=${row.status} />` },
  { name: 'type', title: 'Command', cell: (row) => html`<a href=${link(`commands/${row.command_id}`)}>${TYPES[row.command_type] ?? cut(row.command_type, 40)}</a>` },
  { name: 'device', title: 'Device', cell: (row) => html`<span title=${cut(row.devices.device_name || '', 300)}>${deviceName(row.devices)}</span>` },
  { name: 'site', title: 'Site', wide: true, cell: (row) => cut(session.get().sites.get(row.devices.site_id)?.name ?? '—', 40) },
  { name: 'issued', title: 'Queued', cell: (row) => html`<${Time} at=${row.issued_at} zone=${zoneOf(row.devices.site_id)} />` },
  { name: 'took', title: 'Answer after', wide: true, cell: (row) => took(row) },
  { name: 'error', title: 'Last error', wide: true, cell: (row) => html`<span title=${cut(row.last_error ?? '', 500)}>${cut(row.last_error ?? '', 80)}</span>` },
];

function took(row) {
  if (!row.acknowledged_at || !row.delivered_at) return html`<span class="none">—</span>`;
  return span(Math.max(0, (new Date(row.acknowledged_at) - new Date(row.delivered_at)) / 1000));
}

function Tabs({ status, params }) {
  const rest = Object.fromEntries(params);
  return html`<nav class="tabs" aria-label="By status">${TABS.map((tab) => html`<a key=${tab} href=${link('commands', { ...rest, status: tab })}
    aria-current=${tab === status ? 'true' : undefined}>${tab || 'all'}</a>`)}</nav>`;
}

function Filters({ params }) {
  const { sites, companies } = useStore(session);
  const own = useQuery('types', () => answer(project().from('device_command_types').select('command_type').order('command_type')));
  const choice = (name, label, all, options) => html`<${ChoiceFilter} name=${name} label=${label} all=${all} options=${options} params=${params} />`;
  const types = [...Object.entries(TYPES), ...(own.data ?? []).map((row) => [row.command_type, row.command_type])];
  const used = FILTERS.some((name) => params.get(name));
  return html`<div class="filters" role="search">
    <${Search} sought=${params.get('q') ?? ''} />
    ${choice('type', 'Type', 'every type', types)}
    ${choice('site', 'Site', 'every site', [...sites.values()].map((site) => [site.site_id, site.name]))}
    ${companies.size > 1 && choice('company', 'Company', 'every company', [...companies])}
    ${choice('since', 'Time', 'any time', Object.entries(SINCE))}
    ${choice('who', 'Who queued it', 'by anybody', [['me', 'by me'], ['people', 'by people'], ['machines', 'by schedules and back ends']])}
    ${params.get('device') && html`<${Chip} name="device" id=${params.get('device')} words="one device" ask=${askDevice} />`}
    ${params.get('schedule') && html`<${Chip} name="schedule" id=${params.get('schedule')} words="one schedule" ask=${askScheduleName} />`}
    ${used && html`<a class="button" href=${link('commands')}>Clear</a>`}
  </div>`;
}

/** What one types is its own until one pauses: then it is the address's. */
function Search({ sought }) {
  const [text, setText] = useState(sought);
  const timer = useRef();
  const told = useRef(sought);
  useEffect(() => {
    if (sought === told.current) return; // else somebody followed a link
    told.current = sought;
    setText(sought);
  }, [sought]);
  const type = (event) => {
    const typed = event.target.value;
    setText(typed);
    clearTimeout(timer.current);
    if (UUID.test(typed.trim())) { go(link(`commands/${typed.trim().toLowerCase()}`)); return; }
    timer.current = setTimeout(() => { told.current = typed.trim(); setParams({ q: typed.trim() }, { replace: true }); }, 200);
  };
  useEffect(() => () => clearTimeout(timer.current), []);
  return html`<input type="search" data-search placeholder="Device or command id  ( / )" value=${text}
    aria-label="Search a device, or a command by its id" onInput=${type}
    onKeyDown=${(event) => event.key === 'Escape' && event.target.blur()} />`;
}

/** A filter that no field shows, by its name; a click removes it. */
function Chip({ name, id, words, ask }) {
  const found = useQuery(`${name} ${id}`, () => ask(id));
  return html`<button onClick=${() => setParams({ [name]: '' })} title="Take this filter away">${found.data ?? words} ×</button>`;
}

async function askDevice(id) {
  const device = await answer(project().from('devices').select('device_name, device_code, device_mac').eq('device_id', id).maybeSingle());
  return device && deviceName(device);
}

async function askScheduleName(id) {
  const schedule = await answer(project().from('command_schedules').select('name').eq('schedule_id', id).maybeSingle());
  return schedule && `of ${cut(schedule.name, 40)}`;
}

function Selection({ rows, onClear }) {
  const run = (action) => async () => { if (await action(rows)) onClear(); };
  const button = (words, may, action) => {
    const fit = rows.filter(may).length;
    return html`<button disabled=${!fit} onClick=${run(action)}>${words} ${count(fit)}</button>`;
  };
  return html`<div class="selection" role="toolbar" aria-label="What is selected">
    <strong>${count(rows.length)} selected</strong> <span class="hint">on ${plural(new Set(rows.map((row) => row.device_id)).size, 'device')}</span>
    ${button('Cancel', mayCancel, cancelCommands)} ${button('Try again', mayRetry, retryCommands)} ${button('Send again', mayRepeat, repeatCommands)}
    <button class="quiet" onClick=${onClear}>Select none</button>
  </div>`;
}

function Nothing({ filtered }) {
  if (filtered) {
    return html`<${Empty} title="No command fits these filters"><a href=${link('commands')}>Show all of them</a>.</${Empty}>`;
  }
  return html`<${Empty} title="No commands yet">${mayOperate()
    ? html`<a href=${link('commands/new')}>Queue the first</a>: take a picture, for example.`
    : 'They appear here as soon as somebody queues one. To do so yourself, ask an admin for the role operator.'}</${Empty}>`;
}
