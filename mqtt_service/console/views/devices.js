// Devices: those that wait to be mapped, then all of them; one device has a view of its own.

import { html, useCallback, useEffect, useMemo, useRef, useState } from '../vendor/preact-htm.js';
import { mapDevices, tagDevices } from '../device_actions.js';
import { askSuccess, useDevices } from '../device_rows.js';
import { Battery, isLow, Signal, StatePill, stateOf, STATES } from '../components/device_words.js';
import { ChoiceFilter, SearchFilter } from '../components/filters.js';
import { Empty, Failed, Loading } from '../components/states.js';
import { Table } from '../components/table.js';
import { Time } from '../components/time.js';
import { MapDialog, SiteScheduleDialog, sitesFor, SiteSelect } from '../components/wake_dialogs.js';
import { count, cut, deviceName, percent, plural } from '../format.js';
import { go, link, setParams } from '../route.js';
import { mayAdmin, mayOperate, session, zoneOf } from '../session.js';
import { useNow, useStore } from '../store.js';
import { Device } from './device.js';

const FILTERS = ['state', 'q', 'site', 'company', 'battery', 'firmware', 'tag'];
const SHOWN_WAITING = 5;
const keyOf = (device) => device.device_id;

export default function Devices({ parts, params }) {
  return parts[0] ? html`<${Device} key=${parts[0]} id=${parts[0]} params=${params} />` : html`<${List} params=${params} />`;
}

function List({ params }) {
  const { rows, tags, loading, error, cut: more, refresh } = useDevices();
  const now = useNow(15000);
  const all = useMemo(() => [...rows.values()], [rows]);
  const filtered = useMemo(() => all.filter((device) => fits(device, params, tags, now)).sort(order(params)), [all, tags, params, now]);
  const waiting = useMemo(() => all.filter((device) => stateOf(device) === 'waiting').sort(order(new URLSearchParams())), [all]);
  const [selected, setSelected] = useState(new Set());
  const [success, sight] = useSuccess();
  const used = FILTERS.some((name) => params.get(name));
  const site = session.get().sites.get(params.get('site'));
  const [editing, setEditing] = useState(false);
  return html`<div class="page full">
    <div class="head"><h1>Devices</h1><span class="hint">${count(filtered.length)}${used ? ` of ${count(all.length)}` : ''}${more ? ': more than the console keeps, choose a site' : ''}</span>
      <span class="grow"></span>
      ${site && mayAdmin(site.company_id) && html`<button onClick=${() => setEditing(true)}>Wake schedule of ${cut(site.name, 24)}</button>`}</div>
    ${editing && site && html`<${SiteScheduleDialog} site=${site} onClose=${() => setEditing(false)} />`}
    ${!used && waiting.length > 0 && mayAdmin() && html`<${Waiting} devices=${waiting} />`}
    <${Tabs} devices=${all} params=${params} now=${now} />
    <${Filters} devices=${all} tags=${tags} params=${params} used=${used} />
    ${selected.size > 0 && html`<${Selection} devices=${filtered.filter((device) => selected.has(device.device_id))} tags=${tags} onClear=${() => setSelected(new Set())} />`}
    ${error && all.length > 0 && html`<p class="fault" role="alert">${error.message} ${error.todo}</p>`}
    ${filtered.length ? html`<${Table} key=${params.toString()} label="Devices" columns=${columns(params, success)} rows=${filtered} keyOf=${keyOf} onSight=${sight}
        selected=${selected} onSelect=${mayOperate() ? setSelected : undefined} onOpen=${(row) => go(link(`devices/${row.device_id}`))} />`
      : error && !all.length ? html`<${Failed} error=${error} retry=${refresh} />`
      : loading ? html`<${Loading} />`
      : html`<${Nothing} filtered=${used} />`}
  </div>`;
}

function fits(device, params, tags, now) {
  const value = (name) => params.get(name);
  const text = (value('q') ?? '').toLowerCase();
  return (!value('state') || stateOf(device, now) === value('state'))
    && (!value('site') || device.site_id === value('site'))
    && (!value('company') || device.company_id === value('company'))
    && (value('battery') !== 'low' || isLow(device) && device.is_active)
    && (!value('firmware') || device.firmware_version === value('firmware'))
    && (!value('tag') || tags.get(device.device_id)?.includes(value('tag')))
    && (!text || [device.device_code, device.device_name, device.device_mac, device.reported_location, ...(tags.get(device.device_id) ?? [])]
      .some((word) => word?.toLowerCase().includes(text)));
}

const VALUES = {
  name: (device) => deviceName(device), site: (device) => session.get().sites.get(device.site_id)?.name, last: (device) => device.last_wake_at,
  next: (device) => device.next_wake_at, battery: (device) => number(device.battery_voltage), signal: (device) => number(device.wifi_rssi),
  firmware: (device) => device.firmware_version, status: (device) => Object.keys(STATES).indexOf(stateOf(device)),
};
const number = (value) => (value === null ? undefined : Number(value));
const collator = new Intl.Collator('en', { numeric: true });

function order(params) {
  const value = VALUES[params.get('sort')] ?? VALUES.name;
  const sign = params.get('order') === 'down' ? -1 : 1;
  return (a, b) => {
    const [x, y] = [value(a), value(b)];
    const missing = (x === undefined || x === null) - (y === undefined || y === null); // they come last, either way
    const by = missing || sign * (typeof x === 'number' ? x - y : collator.compare(x ?? '', y ?? ''));
    return by || collator.compare(deviceName(a), deviceName(b)) || (a.device_id < b.device_id ? -1 : 1);
  };
}

function columns(params, success) {
  const sorted = params.get('sort') || 'name';
  const down = params.get('order') === 'down';
  const heading = (name, words) => html`<button class="sort" aria-label=${`Sort by ${words.toLowerCase()}${name === sorted ? (down ? ', now downwards' : ', now upwards') : ''}`}
    onClick=${() => setParams({ sort: name, order: name === sorted && !down ? 'down' : '' })}>${words}<span aria-hidden="true">${name === sorted ? (down ? ' ↓' : ' ↑') : ''}</span></button>`;
  const column = (name, words, cell, more) => ({ name, title: heading(name, words), cell, ...more });
  return [
    { name: 'status', title: heading('status', 'Status'), cell: (row) => html`<${StatePill} device=${row} />` },
    column('name', 'Device', (row) => html`<a href=${link(`devices/${row.device_id}`)} title=${cut(`${row.device_code ?? ''} ${row.device_mac}`, 300)}>${deviceName(row)}</a>`),
    column('site', 'Site', (row) => cut(session.get().sites.get(row.site_id)?.name ?? '—', 40), { wide: true }),
    column('last', 'Last wake', (row) => html`<${Time} at=${row.last_wake_at} zone=${zoneOf(row.site_id)} />`, { wide: true }),
    column('next', 'Next wake', (row) => html`<${Time} at=${row.next_wake_at} zone=${zoneOf(row.site_id)} />`),
    column('battery', 'Battery', (row) => html`<${Battery} volts=${row.battery_voltage} />`),
    column('signal', 'Signal', (row) => html`<${Signal} rssi=${row.wifi_rssi} />`, { wide: true }),
    column('firmware', 'Firmware', (row) => cut(row.firmware_version ?? '—', 24), { wide: true }),
    { name: 'success', title: 'Success', wide: true, cell: (row) => html`<${Success} of=${success.get(row.device_id)} />` },
  ];
}

function Success({ of }) {
  if (!of || of.success_rate === null) return html`<span class="none">—</span>`;
  const lost = of.failed + of.expired;
  return html`<span class=${of.success_rate < 0.9 ? 'warned' : ''} title=${`${count(of.acknowledged)} succeeded, ${count(lost)} lost, ${count(of.open)} open`}>${percent(of.success_rate)}</span>`;
}

/** How the devices in sight do: [Map<device_id, row>, to be called with the ids in sight]. */
function useSuccess() {
  const [known, setKnown] = useState(new Map());
  const asked = useRef(new Set());
  const timer = useRef();
  useEffect(() => () => clearTimeout(timer.current), []);
  const sight = useCallback((ids) => {
    clearTimeout(timer.current);
    timer.current = setTimeout(async () => {
      const fresh = ids.filter((id) => !asked.current.has(id));
      if (!fresh.length) return;
      for (const id of fresh) asked.current.add(id);
      try {
        const found = await askSuccess(fresh);
        setKnown((before) => new Map([...before, ...found]));
      } catch {
        for (const id of fresh) asked.current.delete(id); // the next scroll asks again
      }
    }, 120);
  }, []);
  return [known, sight];
}

function Tabs({ devices, params, now }) {
  const counts = {};
  for (const device of devices) counts[stateOf(device, now)] = (counts[stateOf(device, now)] ?? 0) + 1;
  const rest = Object.fromEntries(params);
  const tabs = [['', 'all', devices.length], ...Object.entries(STATES).map(([state, { word }]) => [state, word, counts[state] ?? 0])];
  return html`<nav class="tabs" aria-label="By status">${tabs.map(([state, word, devicesOf]) => html`<a key=${state} href=${link('devices', { ...rest, state })}
    aria-current=${state === (params.get('state') ?? '') ? 'true' : undefined}>${word} <span class="count">${count(devicesOf)}</span></a>`)}</nav>`;
}

function Filters({ devices, tags, params, used }) {
  const { sites, companies } = useStore(session);
  const versions = useMemo(() => [...new Set(devices.map((device) => device.firmware_version).filter(Boolean))].sort(collator.compare), [devices]);
  const words = useMemo(() => [...new Set([...tags.values()].flat())].sort(collator.compare), [tags]);
  const choice = (name, label, all, options) => html`<${ChoiceFilter} name=${name} label=${label} all=${all} options=${options} params=${params} />`;
  return html`<div class="filters" role="search">
    <${SearchFilter} label="Search devices" placeholder="Name, code, MAC or tag" params=${params} />
    ${choice('site', 'Site', 'every site', [...sites.values()].map((site) => [site.site_id, site.name]))}
    ${companies.size > 1 && choice('company', 'Company', 'every company', [...companies])}
    ${choice('battery', 'Battery', 'any battery', [['low', 'low battery']])}
    ${versions.length > 0 && choice('firmware', 'Firmware', 'any firmware', versions.map((version) => [version, version]))}
    ${words.length > 0 && choice('tag', 'Tag', 'any tag', words.map((tag) => [tag, tag]))}
    ${used && html`<a class="button" href=${link('devices')}>Clear</a>`}
  </div>`;
}

function Waiting({ devices }) {
  return html`<section class="panel waiting"><header><h2>${plural(devices.length, 'device')} to be mapped</h2>
      <span class="hint">${devices.length > SHOWN_WAITING ? html`<a href=${link('devices', { state: 'waiting' })}>Show all ${count(devices.length)}</a>` : 'each gets its schedule with its welcome'}</span></header>
    <ul>${devices.slice(0, SHOWN_WAITING).map((device) => html`<${WaitingRow} key=${device.device_id} device=${device} />`)}</ul></section>`;
}

function WaitingRow({ device }) {
  const sites = sitesFor(device);
  const [site, setSite] = useState(sites.length === 1 ? sites[0].site_id : '');
  const [busy, setBusy] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    setBusy(true);
    if (!await mapDevices([device], site)) setBusy(false);
  };
  return html`<li><a href=${link(`devices/${device.device_id}`)}>${deviceName(device)}</a>
    <span class="hint mono">${cut(device.device_mac, 24)}</span>
    <span class="hint what">${device.last_seen_at ? html`heard <${Time} at=${device.last_seen_at} />` : 'not heard yet'}${device.reported_location ? `, says it is at ${cut(device.reported_location, 40)}` : ''}</span>
    <form onSubmit=${submit}><${SiteSelect} device=${device} value=${site} onChange=${setSite} label=${`Site of ${deviceName(device)}`} />
      <button class="primary" disabled=${!site || busy} aria-label=${`Map ${deviceName(device)}`}>${busy ? 'Mapping…' : 'Map'}</button></form></li>`;
}

function Selection({ devices, tags, onClear }) {
  const [mapping, setMapping] = useState(false);
  const [tag, setTag] = useState('');
  const free = devices.filter((device) => ['waiting', 'inactive'].includes(stateOf(device)));
  const submit = async (event) => {
    event.preventDefault();
    if (await tagDevices(devices.filter((device) => mayOperate(device.company_id) && device.company_id), tag, (device) => tags.get(device.device_id) ?? [])) setTag('');
  };
  return html`<div class="selection" role="toolbar" aria-label="What is selected">
    <strong>${plural(devices.length, 'device')} selected</strong>
    ${mayAdmin() && html`<button disabled=${!free.length} onClick=${() => setMapping(true)}>Map ${count(free.length)}</button>`}
    <form class="buttons" onSubmit=${submit}><input aria-label="Tag" placeholder="tag" maxlength="64" value=${tag} onInput=${(event) => setTag(event.target.value)} />
      <button disabled=${!tag.trim()}>Add tag</button></form>
    <button class="quiet" onClick=${onClear}>Select none</button>
    ${mapping && html`<${MapDialog} devices=${free} onClose=${() => { setMapping(false); onClear(); }} />`}
  </div>`;
}

function Nothing({ filtered }) {
  if (filtered) return html`<${Empty} title="No device fits these filters"><a href=${link('devices')}>Show all of them</a>.</${Empty}>`;
  return html`<${Empty} title="No devices yet">A device appears here when it says HELLO for the first time. Switch one on, or run simulated ones:
    mqtt-service simulate. ${mayAdmin() ? 'Then map it to a site.' : 'An admin of the company maps it to a site.'}</${Empty}>`;
}
