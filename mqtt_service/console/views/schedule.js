// One recurring command: what it queues, for whom, when next, and what became of its last times.

import { html } from '../vendor/preact-htm.js';
import { TYPES } from '../components/command_words.js';
import { CronPreview } from '../components/cron_field.js';
import { Payload } from '../components/payload.js';
import { lifeInWords, MISSED, planOf, SchedulePill, stateOf, whenInWords } from '../components/schedule_words.js';
import { Answer, Empty } from '../components/states.js';
import { Reach, useReach } from '../components/target_fields.js';
import { Time } from '../components/time.js';
import { cut, deviceName } from '../format.js';
import { useKeys } from '../keyboard.js';
import { useQuery } from '../query.js';
import { go, link } from '../route.js';
import { cancelQueued, pauseSchedule, removeSchedule, resumeSchedule } from '../schedule_actions.js';
import { askSchedule, RUNS } from '../schedule_rows.js';
import { mayOperate, session, zoneOf } from '../session.js';
import { targetInWords } from '../targets.js';

const PAUSE_MS = 1000;

/** @param {{id: string}} props */
export function Schedule({ id }) {
  const query = useQuery(`schedule ${id}`, () => askSchedule(id), ['device_commands'], PAUSE_MS);
  useKeys({ Escape: () => window.history.back() });
  return html`<div class="page"><${Answer} query=${query}>${(row) => (row ? html`<${Page} row=${row} />`
    : html`<${Empty} title="There is no such schedule">Somebody may have removed it, or it is another company’s.
        <a href=${link('schedules')}> Look at all schedules</a>.</${Empty}>`)}</${Answer}></div>`;
}

function Page({ row }) {
  const reach = useReach(row.target, row.company_id);
  const { cron, zone } = planOf(row);
  const says = (device) => html`<span class="hint">wakes</span> <${Time} at=${device.next_wake_at} zone=${zoneOf(device.site_id)} as="both" />`;
  return html`
    <${Head} row=${row} zone=${zone} active=${reach.data?.active} />
    <div class="split">
      <div class="stack">
        <section class="panel"><header><h2>${row.enabled ? 'The next times' : 'When it would run'}</h2><span class="hint">${whenInWords(row)}</span></header>
          <div class="inside stack"><${CronPreview} cron=${cron} zone=${zone} />
            ${!row.cron && html`<p class="hint">Each device at its share of the site’s spread.</p>`}</div></section>
        <${Runs} row=${row} zone=${zone} />
      </div>
      <div class="stack">
        <section class="panel"><header><h2>Whom it reaches now</h2></header><div class="inside stack">
          <${Reach} query=${reach} none="Nobody fits now: it queues nothing until somebody does." says=${says} /></div></section>
        <section class="panel"><header><h2>What it says</h2></header><div class="inside"><${Payload} value=${row.command_payload} none="It needs no further words." /></div></section>
        <section class="panel"><header><h2>Facts</h2></header><div class="inside"><${Facts} row=${row} zone=${zone} devices=${reach.data?.devices} /></div></section>
      </div>
    </div>`;
}

function Head({ row, zone, active }) {
  const halted = ['paused', 'stopped'].includes(stateOf(row));
  const remove = async () => { if (await removeSchedule(row, active)) go(link('schedules')); };
  return html`<div class="head"><a class="crumb" href=${link('schedules')}>Schedules</a><span class="crumb" aria-hidden="true">/</span>
    <h1>${cut(row.name, 100)}</h1><${SchedulePill} row=${row} /><span class="grow"></span>
    ${mayOperate(row.company_id) && html`<div class="buttons">
      ${halted ? html`<button class="primary" onClick=${() => resumeSchedule(row, zone)}>Resume</button>` : html`<button onClick=${() => pauseSchedule(row)}>Pause</button>`}
      <a class="button" href=${link(`schedules/${row.schedule_id}/edit`)}>Edit</a>
      <button onClick=${() => cancelQueued(row)}>Cancel what waits</button>
      <button onClick=${remove}>Remove</button></div>`}
  </div>`;
}

function Runs({ row, zone }) {
  const [latest] = row.runs;
  const apart = row.last_result && row.last_result !== latest?.result; // it was skipped, or has stopped
  return html`<section class="panel"><header><h2>What became of it</h2>
      <span class="hint"><a href=${link('commands', { schedule: row.schedule_id })}>Its commands</a></span></header>
    <div class="inside stack">
      ${apart && html`<p class=${`note ${row.next_run_at ? '' : 'warn'}`}>${cut(row.last_result, 1000)}</p>`}
      ${row.runs.length > 0 && html`<ol class="steps">${row.runs.map((run) => html`<li key=${run.occurrence}><div>
        <div><strong>${run.finished_at ? cut(run.result ?? '', 500) : `queued ${run.queued} so far`}</strong></div>
        <div class="hint"><${Time} at=${run.occurrence} zone=${zone} as="full" /></div></div></li>`)}</ol>`}
      ${row.runs.length === 0 && !apart && html`<p class="hint">Nothing yet: its first time is to come.</p>`}
      ${row.runs.length === RUNS && html`<p class="hint">Of earlier times only the commands are kept.</p>`}
    </div></section>`;
}

function Facts({ row, zone, devices }) {
  const { user, companies } = session.get();
  const time = (at) => html`<${Time} at=${at} zone=${zone} as="both" />`;
  const only = row.target.devices?.length === 1 && devices?.[0] ? deviceName(devices[0]) : undefined;
  const by = row.created_by_user_id === user.id ? ' by you' : row.created_by_user_id ? ` by a person (${row.created_by_user_id.slice(0, 8)})` : '';
  return html`<dl class="facts">
    <dt>Command</dt><dd>${TYPES[row.command_type] ?? cut(row.command_type)}</dd>
    <dt>For</dt><dd>${targetInWords(row.target, only)}</dd>
    ${companies.size > 1 && html`<dt>Company</dt><dd>${cut(companies.get(row.company_id) ?? '—')}</dd>`}
    <dt>When</dt><dd>${row.cron ? html`<span class="mono">${row.cron}</span>` : whenInWords(row)} <span class="hint">(${zone})</span></dd>
    <dt>Next</dt><dd>${time(row.next_run_at)}</dd>
    <dt>Last</dt><dd>${time(row.last_run_at)}</dd>
    <dt>Missed times</dt><dd>${MISSED[row.missed] ?? row.missed}</dd>
    <dt>A command lives</dt><dd>${lifeInWords(row.validity)}</dd>
    ${row.priority !== 0 && html`<dt>Priority</dt><dd>${row.priority}</dd>`}
    <dt>Added</dt><dd>${time(row.created_at)}${by}</dd>
    <dt>Id</dt><dd class="mono">${row.schedule_id}</dd>
  </dl>`;
}
