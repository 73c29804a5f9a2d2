// Firmware: the releases, and which versions devices run; one release and the form to publish one are views of their own.

import { html, useMemo } from '../vendor/preact-htm.js';
import { useDevices } from '../device_rows.js';
import { Answer, Empty } from '../components/states.js';
import { Table } from '../components/table.js';
import { Time } from '../components/time.js';
import { askReleases, plainVersion, runningOn } from '../firmware_rows.js';
import { count, cut, percent, plural, size } from '../format.js';
import { useQuery } from '../query.js';
import { go, link } from '../route.js';
import { mayAdmin, session } from '../session.js';
import { PublishFirmware } from './publish_firmware.js';
import { Release } from './release.js';

const collator = new Intl.Collator('en', { numeric: true });

export default function Firmware({ parts }) {
  if (parts[0] === 'new') return html`<${PublishFirmware} />`;
  if (parts[0]) return html`<${Release} key=${parts[0]} id=${parts[0]} />`;
  return html`<${List} />`;
}

function List() {
  const releases = useQuery('releases', askReleases);
  const { rows, loading } = useDevices();
  const devices = useMemo(() => [...rows.values()], [rows]);
  return html`<div class="page full">
    <div class="head"><h1>Firmware</h1><span class="hint">${releases.data ? plural(releases.data.length, 'release') : ''}</span><span class="grow"></span>
      ${mayAdmin() && html`<a class="button primary" href=${link('firmware/new')}>Publish firmware</a>`}</div>
    <div class="split fill"><${Answer} query=${releases}>${(all) => (all.length
      ? html`<${Table} label="Releases" columns=${columns(devices, loading)} rows=${all} keyOf=${(row) => row.release_id}
          onOpen=${(row) => go(link(`firmware/${row.release_id}`))} />`
      : html`<${Nothing} />`)}</${Answer}>
    ${devices.length > 0 && html`<${Versions} devices=${devices} releases=${releases.data ?? []} />`}</div>
  </div>`;
}

function columns(devices, loading) {
  const running = (row) => {
    const on = runningOn(row, devices);
    if (loading && !devices.length) return html`<span class="none">…</span>`;
    return on.length ? html`<a href=${link('devices', { firmware: on[0].firmware_version })}>${count(on.length)}</a>` : '0';
  };
  const { companies } = session.get();
  return [
    { name: 'version', title: 'Version', cell: (row) => html`<a href=${link(`firmware/${row.release_id}`)}>${cut(row.version, 40)}</a>` },
    { name: 'hardware', title: 'Hardware', cell: (row) => (row.hardware ? cut(row.hardware, 40) : html`<span class="none">any</span>`) },
    ...(companies.size > 1 ? [{ name: 'company', title: 'Company', wide: true, cell: (row) => cut(companies.get(row.company_id) ?? '—', 40) }] : []),
    { name: 'size', title: 'Size', wide: true, cell: (row) => size(row.size_bytes) },
    { name: 'running', title: 'Runs on', cell: running },
    { name: 'notes', title: 'Notes', wide: true, cell: (row) => html`<span title=${cut(row.notes ?? '', 500)}>${cut(row.notes ?? '', 80)}</span>` },
    { name: 'made', title: 'Published', wide: true, cell: (row) => html`<${Time} at=${row.created_at} />` },
    ...(mayAdmin() ? [{ name: 'do', title: html`<span class="visually-hidden">What to do</span>`,
      cell: (row) => mayAdmin(row.company_id) && html`<a class="button" href=${link('rollouts/new', { release: row.release_id })} aria-label=${`Roll out ${cut(row.version, 40)}`}>Roll out</a>` }] : []),
  ];
}

/** What devices run, the most frequent first; a version that is no release too. */
function Versions({ devices, releases }) {
  const published = new Set(releases.map((release) => plainVersion(release.version)));
  const groups = new Map();
  for (const device of devices.filter((one) => one.is_active)) {
    const version = device.firmware_version ?? '';
    groups.set(version, (groups.get(version) ?? 0) + 1);
  }
  const active = [...groups.values()].reduce((sum, number) => sum + number, 0);
  const found = [...groups].sort((a, b) => b[1] - a[1] || collator.compare(b[0], a[0])).slice(0, 12);
  return html`<section class="panel versions"><header><h2>What devices run</h2><span class="hint">of ${plural(active, 'active device')}</span></header>
    <table class="plain"><tbody>${found.map(([version, on]) => html`<tr key=${version}>
      <td>${version ? html`<a href=${link('devices', { firmware: version })}>${cut(version, 40)}</a>` : html`<span class="none">not reported</span>`}
        ${version && !published.has(plainVersion(version)) && html` <span class="hint">no release</span>`}</td>
      <td><span class="progress" aria-hidden="true"><span class="part succeeded" style=${{ flexGrow: on }}></span><span class="part" style=${{ flexGrow: active - on }}></span></span></td>
      <td class="number">${count(on)} <span class="hint">${percent(on / active)}</span></td></tr>`)}</tbody></table></section>`;
}

function Nothing() {
  return html`<${Empty} title="No firmware is published">${mayAdmin()
    ? html`<a href=${link('firmware/new')}>Publish a file</a>: then a rollout brings it to devices little by little, and each says when it wakes whether it runs it.`
    : 'An admin of the company publishes it here.'}</${Empty}>`;
}
