// One rollout: how far it is, why it stands still, what became of each device, and what can be done.

import { html, useEffect, useMemo, useState } from '../vendor/preact-htm.js';
import { allowedOf, approveRollout, cancelRollout, changeRollout, isMine, pauseRollout, removeRollout, resumeRollout } from '../rollout_actions.js';
import { Dialog } from '../components/dialog.js';
import { usePages } from '../components/pages.js';
import { Payload } from '../components/payload.js';
import { RolloutLimits, limitsOf, limitColumns } from '../components/rollout_limits.js';
import { DevicePill, devicesOf, DEVICE_STATES, Failures, isOver, ProgressBar, RolloutPill, thresholdWords, whatItSends } from '../components/rollout_words.js';
import { Answer, Empty, Failed, Loading } from '../components/states.js';
import { Table } from '../components/table.js';
import { Time } from '../components/time.js';
import { clock, count, cut, deviceName, plural, utc } from '../format.js';
import { useKeys } from '../keyboard.js';
import { useAgain, useQuery } from '../query.js';
import { askRollout, rolloutDeviceSource } from '../rollout_rows.js';
import { go, link } from '../route.js';
import { session, zoneOf } from '../session.js';
import { useNow } from '../store.js';
import { targetInWords } from '../targets.js';

const LOOK_MS = 2000; // its counts are told by no event

/** @param {{id: string, params: URLSearchParams}} props */
export function Rollout({ id, params }) {
  const query = useQuery(`rollout ${id}`, async () => (/^[0-9a-f-]{36}$/i.test(id) ? askRollout(id) : null), ['device_commands'], LOOK_MS);
  useAgain(query.refresh, !query.data || isOver(query.data) ? null : LOOK_MS);
  useKeys({ Escape: () => window.history.back() });
  return html`<div class="page"><${Answer} query=${query}>${(rollout) => (rollout ? html`<${Page} rollout=${rollout} params=${params} />`
    : html`<${Empty} title="There is no such rollout">It may be removed, or of another company. <a href=${link('rollouts')}>Look at all rollouts</a>.</${Empty}>`)}</${Answer}></div>`;
}

function Page({ rollout, params }) {
  const zone = zoneOf(rollout.target.site);
  return html`
    <${Head} rollout=${rollout} />
    <section class="panel"><header><h2>Progress</h2><span class="hint">${!rollout.started_at ? 'not started' : rollout.continuous ? 'goes on with devices that come to fit' : plural(devicesOf(rollout), 'device')}</span></header>
      <div class="inside stack"><${ProgressBar} rollout=${rollout} /><${Counts} rollout=${rollout} state=${params.get('state') ?? ''} />
        <div class="story">${whyItStands(rollout, zone, useNow()).map((line) => html`<p>${line}</p>`)}</div></div></section>
    <div class="split">
      <div class="stack"><${Devices} rollout=${rollout} state=${params.get('state') ?? ''} /></div>
      <div class="stack">
        <section class="panel"><header><h2>Facts</h2></header><div class="inside"><${Facts} rollout=${rollout} zone=${zone} /></div></section>
        <section class="panel"><header><h2>What it says</h2></header><div class="inside"><${Payload} value=${rollout.command_payload} none=${rollout.release_id ? 'The release says what is sent.' : 'It needs no further words.'} /></div></section>
        <${Windows} rollout=${rollout} zone=${zone} />
      </div>
    </div>`;
}

function Head({ rollout }) {
  const [changing, setChanging] = useState(false);
  const may = allowedOf(rollout);
  const remove = async () => { if (await removeRollout(rollout)) go(link('rollouts')); };
  return html`<div class="head"><a class="crumb" href=${link('rollouts')}>Rollouts</a><span class="crumb" aria-hidden="true">/</span>
    <h1>${cut(rollout.name, 100)}</h1><${RolloutPill} status=${rollout.status} /><span class="grow"></span>
    <div class="buttons">
      ${may.has('approve') && html`<button class="primary" onClick=${() => approveRollout(rollout)}>Approve</button>`}
      ${may.has('resume') && html`<button class="primary" onClick=${() => resumeRollout(rollout)}>Resume</button>`}
      ${may.has('pause') && html`<button onClick=${() => pauseRollout(rollout)}>Pause</button>`}
      ${may.has('change') && html`<button onClick=${() => setChanging(true)}>Change speed</button>`}
      ${may.has('cancel') && html`<button onClick=${() => cancelRollout(rollout)}>Cancel</button>`}
      ${may.has('remove') && html`<button onClick=${remove}>Remove</button>`}
    </div>
    ${changing && html`<${ChangeDialog} rollout=${rollout} onClose=${() => setChanging(false)} />`}</div>`;
}

/** The numbers below the bar; each leads to its devices. */
function Counts({ rollout, state }) {
  const { progress } = rollout;
  const shown = Object.keys(DEVICE_STATES).filter((one) => progress[one] || one === 'succeeded' || one === state);
  return html`<nav class="tabs" aria-label="Devices by state">
    <a href=${link(`rollouts/${rollout.rollout_id}`)} aria-current=${state === '' ? 'true' : undefined}>all it has come to</a>
    ${shown.map((one) => html`<a key=${one} href=${link(`rollouts/${rollout.rollout_id}`, { state: one })} title=${DEVICE_STATES[one].means}
      aria-current=${one === state ? 'true' : undefined}><span class=${`dot ${one}`} aria-hidden="true"></span>${one} <span class="count">${count(progress[one])}</span></a>`)}
    ${progress.waiting > 0 && html`<span class="tab" title="their turn has not come"><span class="dot" aria-hidden="true"></span>waiting <span class="count">${count(progress.waiting)}</span></span>`}
  </nav>`;
}

/** What it does now, or why it does nothing: a sentence a line. */
function whyItStands(rollout, zone, now) {
  const { status, progress, last_result: result, next_release_at: next } = rollout;
  const open = progress.pending + progress.sent + progress.unverified;
  const lines = result && result !== 'cancelled' ? [`${result.charAt(0).toUpperCase()}${cut(result.slice(1), 1000)}.`] : [];
  if (rollout.heldUntil) lines.push(`Maintenance windows hold commands of it; the first opens at ${clock(rollout.heldUntil, zone, now)}.`);
  if (status === 'awaiting_approval') {
    lines.push(isMine(rollout) ? 'It waits for another admin to approve it; whoever made it cannot.' : 'It waits for an admin’s approval.');
  } else if (status === 'paused') lines.push('It is paused: no more devices are released; what was released goes on.');
  else if (status === 'stopped') lines.push(html`It releases no more devices. <a href=${link(`rollouts/${rollout.rollout_id}`, { state: 'lost' })}>Look at those that failed</a>; then an admin resumes it, or cancels it.`);
  else if (status === 'running') lines.push(...whatItWaitsFor(rollout, next, open, zone, now));
  else if (status === 'cancelled') lines.push(open ? `It is cancelled; ${plural(open, 'device')} may still answer.` : 'It is cancelled.');
  return lines;
}

function whatItWaitsFor(rollout, next, open, zone, now) {
  const { progress } = rollout;
  if (rollout.all_released && !open) return ['All devices are released, and have their outcome: a worker counts them as it looks next.'];
  if (rollout.all_released) return [`All devices are released; ${plural(open, 'device')} ${open === 1 ? 'has' : 'have'} to answer yet${progress.unverified ? `, ${count(progress.unverified)} of them by waking with the new version` : ''}.`];
  if (!next || new Date(next) <= now) return ['The next devices are due: a worker releases them as it looks next.'];
  if (rollout.last_result) return [];
  if (rollout.continuous && progress.waiting === null && new Date(next) - now > 60000) return [`It looks for devices that have come to fit at ${clock(next, zone, now)}.`];
  const many = Math.min(progress.rate_per_minute, progress.waiting ?? Infinity);
  return [`The next ${plural(many, 'device')} ${many === 1 ? 'is' : 'are'} released at ${clock(next, zone, now)}.`];
}

function Devices({ rollout, state }) {
  const id = rollout.rollout_id;
  const key = `${id} ${state}`;
  const source = useMemo(() => rolloutDeviceSource(id, state), [key]);
  const pages = usePages(key, source, []);
  const counts = JSON.stringify(rollout.progress);
  useEffect(() => { pages.refresh(); }, [counts]); // a device has moved on
  const foot = pages.done ? `${plural(pages.rows.length, 'device')}, no more` : 'further ones follow';
  return html`<section class="panel devices-of"><header><h2>Devices</h2><span class="hint">${state || 'all it has come to'}</span></header>
    ${pages.rows.length ? html`<${Table} key=${key} label="Devices" columns=${DEVICE_COLUMNS} rows=${pages.rows} keyOf=${source.keyOf}
        onOpen=${(row) => go(row.command_id ? link(`commands/${row.command_id}`) : link(`devices/${row.device_id}`))}
        onEnd=${pages.more} onSight=${pages.sight} foot=${foot} />`
      : pages.error ? html`<${Failed} error=${pages.error} retry=${pages.refresh} />`
      : pages.loading ? html`<${Loading} />`
      : html`<${Empty} title=${state ? `No device is ${state}` : 'It has come to no device yet'}>${state
        ? html`<a href=${link(`rollouts/${id}`)}>Show all of them</a>.` : 'Devices appear here as their turn comes.'}</${Empty}>`}</section>`;
}

const DEVICE_COLUMNS = [
  { name: 'status', title: html`<span>State</span>`, cell: (row) => html`<${DevicePill} state=${row.state} />` },
  { name: 'device', title: 'Device', cell: (row) => (row.device ? html`<a href=${link(`devices/${row.device_id}`)}>${deviceName(row.device)}</a>`
    : html`<span title=${row.device_id}>a device that is gone</span>`) },
  { name: 'site', title: 'Site', wide: true, cell: (row) => cut(session.get().sites.get(row.device?.site_id)?.name ?? '—', 40) },
  { name: 'command', title: 'Command', cell: (row) => (row.command_id ? html`<a href=${link(`commands/${row.command_id}`)} aria-label=${`Open the command of ${deviceName(row.device)}`}>open</a>` : html`<span class="none">—</span>`) },
  { name: 'since', title: 'Since', wide: true, cell: (row) => html`<${Time} at=${row.updated_at} zone=${zoneOf(row.device?.site_id)} />` },
  { name: 'error', title: 'Why', wide: true, cell: (row) => html`<span title=${cut(row.reason ?? '', 500)}>${cut(row.reason ?? '', 80)}</span>` },
];

function Facts({ rollout, zone }) {
  const { companies } = session.get();
  const time = (at) => html`<${Time} at=${at} zone=${zone} as="both" />`;
  const person = (id) => (!id ? 'a back end' : id === session.get().user.id ? 'you' : `a person (${id.slice(0, 8)})`);
  const { rate_per_minute: rate, growth_factor: growth, max_rate_per_minute: most } = rollout;
  return html`<dl class="facts">
    <dt>Sends</dt><dd>${rollout.release_id ? html`<a href=${link(`firmware/${rollout.release_id}`)}>${whatItSends(rollout)}</a>` : whatItSends(rollout)}</dd>
    <dt>For</dt><dd>${targetInWords(rollout.target)}${rollout.continuous ? ', and whoever comes to fit' : ''}</dd>
    ${companies.size > 1 && html`<dt>Company</dt><dd>${cut(companies.get(rollout.company_id) ?? '—')}</dd>`}
    <dt>Speed</dt><dd>${count(rollout.progress.rate_per_minute)} a minute${Number(growth) > 1 ? `, begun with ${count(rate)}; × ${Number(growth)} as a minute’s devices succeed, up to ${count(most)}` : ''}</dd>
    <dt>Failed</dt><dd><${Failures} rollout=${rollout} /><span class="hint"> ${thresholdWords(rollout)}</span></dd>
    ${rollout.validity && html`<dt>Each lives</dt><dd>${cut(rollout.validity, 40)}</dd>`}
    ${rollout.priority !== 0 && html`<dt>Priority</dt><dd>${rollout.priority}</dd>`}
    <dt>Made</dt><dd>by ${person(rollout.created_by_user_id)}, ${time(rollout.created_at)}</dd>
    ${rollout.needs_approval && html`<dt>Approved</dt><dd>${rollout.approved_by_user_id ? `by ${person(rollout.approved_by_user_id)}` : 'not yet'}</dd>`}
    ${rollout.started_at && html`<dt>Started</dt><dd>${time(rollout.started_at)}</dd>`}
    ${rollout.finished_at && html`<dt>Over</dt><dd>${time(rollout.finished_at)}</dd>`}
    <dt>Id</dt><dd class="mono">${rollout.rollout_id}</dd></dl>`;
}

function Windows({ rollout, zone }) {
  const now = useNow();
  if (!rollout.windows.length) return null;
  return html`<section class="panel"><header><h2>Its windows</h2><span class="hint">it goes on inside of them alone</span></header><div class="inside stack">
    ${rollout.windows.map((one) => html`<p key=${one.window_id}><span class="mono">${cut(one.cron, 60)}</span> for ${cut(one.duration, 30)}
      ${one.timezone && html`<span class="hint"> ${cut(one.timezone, 60)}</span>`} · ${inWords(one, zone, now)}</p>`)}</div></section>`;
}

function inWords(one, zone, now) {
  if (!one.enabled) return 'disabled';
  if (!one.opens_at) return cut(one.problem ?? 'not in force', 200);
  const open = new Date(one.opens_at) <= now && now < new Date(one.closes_at);
  const at = open ? one.closes_at : one.opens_at;
  return html`<span title=${utc(at)}>${open ? 'open, closes' : 'opens'} ${clock(at, zone, now)}</span>`;
}

function ChangeDialog({ rollout, onClose }) {
  const [limits, setLimits] = useState(limitsOf(rollout));
  const [state, setState] = useState({ busy: false, error: null });
  const submit = async (event) => {
    event.preventDefault();
    setState({ busy: true, error: null });
    try {
      await changeRollout(rollout, limitColumns(limits));
      onClose();
    } catch (error) {
      setState({ busy: false, error });
    }
  };
  return html`<${Dialog} title=${`How fast ${cut(rollout.name, 40)} goes`} onClose=${onClose}><form class="stack" onSubmit=${submit}>
    <${RolloutLimits} limits=${limits} onChange=${setLimits} />
    ${state.error && html`<p class="fault" role="alert">${state.error.message} ${state.error.todo}</p>`}
    <div class="buttons"><button type="button" onClick=${onClose}>Keep as it is</button>
      <button class="primary" disabled=${state.busy}>${state.busy ? 'Saving…' : 'Save'}</button></div></form></${Dialog}>`;
}
