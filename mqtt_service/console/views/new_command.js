// A new command: what, for whom, when; and before it is queued, whom it reaches and when it will arrive.

import { html, useState } from '../vendor/preact-htm.js';
import { answer } from '../api.js';
import { newId } from '../command_actions.js';
import { filledIn, FORMS, payloadOf } from '../command_forms.js';
import { CommandFields } from '../components/command_fields.js';
import { TYPES } from '../components/command_words.js';
import { askFirst } from '../components/dialog.js';
import { Empty } from '../components/states.js';
import { Reach, TargetFields, useReach } from '../components/target_fields.js';
import { Time } from '../components/time.js';
import { say } from '../components/toasts.js';
import { plural } from '../format.js';
import { lookNow } from '../live.js';
import { go, link } from '../route.js';
import { mayOperate, project, zoneOf } from '../session.js';
import { targetOf } from '../targets.js';

const DEFAULT_LIFE_H = 24; // COMMAND_TTL where nobody changed it

export function NewCommand({ params }) {
  if (!mayOperate()) {
    return html`<div class="page"><${Empty} title="Your role does not queue commands">Ask an admin of your company for the role operator.</${Empty}></div>`;
  }
  return html`<${Form} params=${params} />`;
}

function Form({ params }) {
  const [what, setWhat] = useState(filledIn(params.get('type') ?? 'capture_image'));
  const [choice, setChoice] = useState({ kind: params.get('site') ? 'site' : 'device', device: params.get('device') ?? '', site: params.get('site') ?? '' });
  const [time, setTime] = useState({ at: '', hours: '' });
  const [state, setState] = useState({ busy: false, error: null, request: newId() });
  const danger = FORMS[what.type]?.danger;
  const target = targetOf(choice);
  const reach = useReach(target);
  const active = reach.data?.active ?? 0;

  const submit = async (event) => {
    event.preventDefault();
    const name = TYPES[what.type] ?? what.type;
    if ((active > 1 || danger) && !await askFirst({
      title: `${name}: ${plural(active, 'device')}?`, danger, action: `Queue for ${plural(active, 'device')}`,
      text: `${plural(active, 'device')} will get it${time.at ? ' at its time' : ' as soon as each is awake'}.`,
    })) return;
    setState((before) => ({ ...before, busy: true, error: null }));
    try {
      const done = await answer(project().rpc('fn_queue_for_target', queueCall(state.request, target, what, time)));
      lookNow();
      say(`Queued for ${plural(done.queued, 'device')}.`);
      const one = done.queued === 1 ? await newest(reach.data.devices.find((device) => device.is_active)?.device_id) : null;
      go(one ? link(`commands/${one}`) : link('commands'));
    } catch (error) {
      setState((before) => ({ ...before, busy: false, error }));
    }
  };

  return html`<form class="page" onSubmit=${submit} onInput=${() => setState((before) => ({ ...before, error: null, request: newId() }))}>
    <div class="head"><a class="crumb" href=${link('commands')}>Commands</a><span class="crumb" aria-hidden="true">/</span><h1>New command</h1></div>
    <div class="split"><div class="stack">
      <section class="panel"><header><h2>What</h2></header><div class="inside stack">
        <${CommandFields} what=${what} onChange=${setWhat} />
      </div></section>
      <section class="panel"><header><h2>For whom</h2></header><div class="inside stack"><${TargetFields} choice=${choice} onChange=${setChoice} /></div></section>
      <section class="panel"><header><h2>When</h2></header><div class="inside stack"><${When} time=${time} onChange=${setTime} />
        <p class="hint">Again and again? <a href=${link('schedules/new', { type: what.type, device: choice.device, site: choice.site })}>Make it a schedule</a>.</p></div></section>
    </div>
    <div class="stack"><section class="panel"><header><h2>Whom it reaches</h2></header><div class="inside stack">
      <${Reach} query=${reach} none="Nobody fits. Change the choice." says=${(device) => html`<${Arrival} device=${device} time=${time} />`} />
      ${state.error && html`<p class="fault" role="alert">${state.error.message} ${state.error.todo}</p>`}
      <div class="buttons"><button class="primary" disabled=${!active || state.busy}>
        ${state.busy ? 'Queueing…' : active ? `Queue for ${plural(active, 'device')}` : 'Queue'}</button></div>
    </div></section></div></div>
  </form>`;
}

function queueCall(request, target, what, time) {
  const begins = time.at ? new Date(time.at) : new Date();
  return {
    p_request: request, p_target: target, p_command_type: what.type, p_command_payload: payloadOf(what),
    p_scheduled_for: time.at ? begins.toISOString() : null,
    p_expires_at: time.hours ? new Date(begins.getTime() + Number(time.hours) * 3600e3).toISOString() : null,
  };
}

async function newest(deviceId) {
  if (!deviceId) return null;
  const row = await answer(project().from('device_commands').select('command_id').eq('device_id', deviceId)
    .order('issued_at', { ascending: false }).limit(1).maybeSingle());
  return row?.command_id;
}

/** When it will arrive at a device: at once where it listens, else at its next wake. */
function Arrival({ device, time }) {
  const zone = zoneOf(device.site_id);
  const begins = time.at ? new Date(time.at) : new Date();
  const wake = device.next_wake_at && new Date(device.next_wake_at);
  if (!wake || wake < begins) return html`<span class="hint">when it wakes next; nobody knows when</span>`;
  const ends = begins.getTime() + (Number(time.hours) || DEFAULT_LIFE_H) * 3600e3;
  return html`<span class="hint">wakes</span> <${Time} at=${device.next_wake_at} zone=${zone} as="both" />
    ${wake.getTime() > ends && html` <span class="pill bad">⊘ after it expires</span>`}`;
}

function When({ time, onChange }) {
  const set = (change) => onChange({ ...time, ...change });
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  return html`<div class="pairs"><label class="field">Not before <input type="datetime-local" value=${time.at} onInput=${(event) => set({ at: event.target.value })} />
      <span class="hint">${time.at ? `in your zone, ${zone}` : 'empty: at once'}</span></label>
    <label class="field">Give up after (hours) <input type="number" min="1" max="8760" step="1" value=${time.hours} onInput=${(event) => set({ hours: event.target.value })} />
      <span class="hint">empty: a day, or what the project has set</span></label></div>`;
}
