// A new recurring command, or a change of one: what, for whom, when; and before it is saved, whom it reaches and when.

import { html, useState } from '../vendor/preact-htm.js';
import { newId } from '../command_actions.js';
import { filledIn, FORMS, payloadOf } from '../command_forms.js';
import { CommandFields } from '../components/command_fields.js';
import { TYPES } from '../components/command_words.js';
import { CronField, CronPreview } from '../components/cron_field.js';
import { askFirst } from '../components/dialog.js';
import { MISSED, planOf, secondsOf, whenInWords } from '../components/schedule_words.js';
import { Answer, Empty } from '../components/states.js';
import { Reach, TargetFields, useReach } from '../components/target_fields.js';
import { Time } from '../components/time.js';
import { DEFAULT_CRON, ZoneField } from '../components/wake_dialogs.js';
import { cut, plural } from '../format.js';
import { useQuery } from '../query.js';
import { go, link } from '../route.js';
import { addSchedule, changeSchedule } from '../schedule_actions.js';
import { askSchedule } from '../schedule_rows.js';
import { mayOperate, zoneOf } from '../session.js';
import { choiceOf, targetOf } from '../targets.js';

const UNITS = { minutes: 60, hours: 3600, days: 86400 };

export function NewSchedule({ params }) {
  if (!mayOperate()) return html`<${NotYours} />`;
  const site = params.get('site') ?? '';
  const choice = { kind: site ? 'site' : 'device', device: params.get('device') ?? '', site };
  return html`<${Form} before=${{ name: '', what: filledIn(params.get('type') ?? 'capture_image'), choice, cron: site ? '' : DEFAULT_CRON, timezone: null,
    life: '', unit: 'hours', missed: 'run_once', priority: '0' }} />`;
}

/** @param {{id: string}} props */
export function EditSchedule({ id }) {
  const query = useQuery(`edit ${id}`, () => askSchedule(id)); // what somebody else changes meanwhile does not disturb the fields
  return html`<${Answer} query=${query}>${(row) => {
    if (!row) return html`<div class="page"><${Empty} title="There is no such schedule"><a href=${link('schedules')}>Look at all schedules</a>.</${Empty}></div>`;
    return mayOperate(row.company_id) ? html`<${Form} row=${row} before=${fieldsOf(row)} />` : html`<${NotYours} />`;
  }}</${Answer}>`;
}

function NotYours() {
  return html`<div class="page"><${Empty} title="Your role does not change schedules">Ask an admin of your company for the role operator.</${Empty}></div>`;
}

function fieldsOf(row) {
  const seconds = secondsOf(row.validity);
  const unit = ['days', 'hours'].find((one) => seconds % UNITS[one] === 0) ?? 'minutes';
  return { name: row.name, what: filledIn(row.command_type, row.command_payload), choice: choiceOf(row.target), cron: row.cron ?? '', timezone: row.timezone ?? '',
    life: seconds ? String(seconds / UNITS[unit]) : '', unit: seconds ? unit : 'hours', missed: row.missed, priority: String(row.priority) };
}

function columnsOf({ name, what, choice, cron, timezone, life, unit, missed, priority }) {
  return { name: name.trim(), target: targetOf(choice), command_type: what.type, command_payload: payloadOf(what), cron: cron.trim() || null,
    timezone: cron.trim() && timezone?.trim() || null, validity: life ? `${life} ${unit}` : null, missed, priority: Number(priority) || 0 };
}

/** @param {{row?: object, before: object}} props row: the one that is changed; before: its fields, once and for all; timezone null: not written */
function Form({ row, before: asItWas }) {
  const [before] = useState(asItWas);
  const [fields, setFields] = useState(before);
  const [state, setState] = useState({ busy: false, good: false, error: null, id: newId() });
  const reach = useReach(targetOf(fields.choice), row?.company_id);
  const timezone = fields.timezone ?? zoneFor(fields.choice, reach.data);
  const columns = columnsOf({ ...fields, timezone });
  const plan = planOf(columns);
  const active = reach.data?.active ?? 0;
  const changes = changesOf(columns, columnsOf(before));
  const ready = columns.target && reach.data && state.good && !state.busy && (!row || Object.keys(changes).length > 0);
  const set = (change) => setFields((now) => ({ ...now, ...change }));
  const home = row ? link(`schedules/${row.schedule_id}`) : link('schedules');

  const submit = async (event) => {
    event.preventDefault();
    if (mattersToDevices(row, changes) && !await agreed(columns, active)) return;
    setState((now) => ({ ...now, busy: true, error: null }));
    try {
      if (row) await changeSchedule(row, changes);
      else await addSchedule(state.id, columns);
      go(link(`schedules/${row?.schedule_id ?? state.id}`), { replace: true });
    } catch (error) {
      setState((now) => ({ ...now, busy: false, error }));
    }
  };

  return html`<form class="page" onSubmit=${submit} onInput=${() => setState((now) => ({ ...now, error: null, id: newId() }))}>
    <div class="head"><a class="crumb" href=${link('schedules')}>Schedules</a><span class="crumb" aria-hidden="true">/</span>
      ${row && html`<a class="crumb" href=${home}>${cut(row.name, 60)}</a><span class="crumb" aria-hidden="true">/</span>`}<h1>${row ? 'Edit' : 'New schedule'}</h1></div>
    <div class="split"><div class="stack">
      <section class="panel"><header><h2>What</h2></header><div class="inside stack">
        <label class="field">Name <input name="name" value=${fields.name} required maxlength="100" pattern=".*\\S.*" autocomplete="off"
          onInput=${(event) => set({ name: event.target.value })} /><span class="hint">e.g. morning pictures</span></label>
        <${CommandFields} what=${fields.what} onChange=${(what) => set({ what })} /></div></section>
      <section class="panel"><header><h2>For whom</h2></header><div class="inside stack"><${TargetFields} choice=${fields.choice} onChange=${(choice) => setFields((now) => withCron({ ...now, choice }))} /></div></section>
      <section class="panel"><header><h2>When</h2></header><div class="inside stack">
        <${CronField} key=${hasWakes(fields.choice)} value=${fields.cron} onChange=${(cron) => set({ cron })} none=${hasWakes(fields.choice) ? 'at each wake of the site' : undefined} />
        ${fields.cron.trim() && html`<${ZoneField} value=${timezone} onChange=${(zone) => set({ timezone: zone })} none=${planOf({ target: columns.target }).zone} />`}
        <${Options} fields=${fields} set=${set} /></div></section>
    </div>
    <div class="stack">
      <section class="panel"><header><h2>Whom it reaches now</h2></header><div class="inside stack">
        <${Reach} query=${reach} none="Nobody fits now: it queues nothing until somebody does." says=${says} /></div></section>
      <section class="panel"><header><h2>The next times</h2></header><div class="inside stack">
        <${CronPreview} cron=${fields.cron.trim() || (columns.target?.site ? plan.cron : '')} zone=${plan.zone} onCheck=${(good) => setState((now) => ({ ...now, good }))} />
        ${state.error && html`<p class="fault" role="alert">${state.error.message} ${state.error.todo}</p>`}
        <div class="buttons"><a class="button" href=${home}>Cancel</a>
          <button class="primary" disabled=${!ready}>${state.busy ? 'Saving…' : row ? 'Save' : reach.data ? `Add for ${plural(active, 'device')}` : 'Add'}</button></div>
      </div></section>
    </div></div>
  </form>`;
}

const says = (device) => html`<span class="hint">wakes</span> <${Time} at=${device.next_wake_at} zone=${zoneOf(device.site_id)} as="both" />`;

/** Whether what is chosen lies at a site, whose wakes it can go by. */
const hasWakes = ({ kind, site, given }) => ({ site: true, target: Boolean(site), given: Boolean(given?.site) })[kind] ?? false;

/** The zone of a new one that nobody has written: its devices', unless it follows from its site. '': it follows, or there is none. */
const zoneFor = (choice, reach) => (targetOf(choice)?.site ? '' : zoneOf(reach?.devices[0]?.site_id) ?? '');

/** Without a site there are no wakes to go by: then it needs a cron. */
const withCron = (fields) => (hasWakes(fields.choice) || fields.cron !== '' ? fields : { ...fields, cron: DEFAULT_CRON });

function changesOf(columns, before) {
  return Object.fromEntries(Object.entries(columns).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(before[name])));
}

/** Whether devices get anything else, or at other times, than before. */
function mattersToDevices(row, changes) {
  return !row || row.enabled && ['target', 'command_type', 'command_payload', 'cron', 'timezone'].some((name) => name in changes);
}

async function agreed(columns, active) {
  const danger = Boolean(FORMS[columns.command_type]?.danger);
  if (active < 2 && !danger) return true;
  const name = TYPES[columns.command_type] ?? cut(columns.command_type, 40);
  return askFirst({ title: `${name}: ${plural(active, 'device')}, again and again?`, danger, action: `Save for ${plural(active, 'device')}`,
    text: `${plural(active, 'device')} will get it ${whenInWords(columns)}, until somebody pauses it.` });
}

function Options({ fields, set }) {
  return html`<div class="pairs"><label class="field">Each command lives <input name="life" type="number" min="1" max="3600" step="any" value=${fields.life}
      onInput=${(event) => set({ life: event.target.value })} /><span class="hint">empty: a day, or what the project has set</span></label>
    <label class="field">Unit <select value=${fields.unit} onChange=${(event) => set({ unit: event.target.value })}>${Object.keys(UNITS).map((unit) => html`<option
      key=${unit} value=${unit} selected=${unit === fields.unit}>${unit}</option>`)}</select></label></div>
    <label class="field">Times that no worker saw to <select value=${fields.missed} onChange=${(event) => set({ missed: event.target.value })}>
      ${Object.entries(MISSED).map(([value, words]) => html`<option key=${value} value=${value} selected=${value === fields.missed}>${words}</option>`)}</select></label>
    <label class="field">Priority <input type="number" min="-100" max="100" step="1" value=${fields.priority} onInput=${(event) => set({ priority: event.target.value })} />
      <span class="hint">higher goes first; usually 0</span></label>`;
}
