// A new command: what, for whom, when; and before it is queued, whom it reaches and when it will arrive.

import { html, useState } from '../vendor/preact-htm.js';
import { answer } from '../api.js';
import { newId } from '../command_actions.js';
import { FORMS, OWN_TYPE, targetOf, valueOf } from '../command_forms.js';
import { TYPES } from '../components/command_words.js';
import { askFirst } from '../components/dialog.js';
import { Answer, Empty } from '../components/states.js';
import { Time } from '../components/time.js';
import { say } from '../components/toasts.js';
import { cut, deviceName, plural } from '../format.js';
import { lookNow } from '../live.js';
import { useQuery } from '../query.js';
import { go, link } from '../route.js';
import { mayOperate, project, session, zoneOf } from '../session.js';
import { useStore } from '../store.js';

const SAMPLE = 8; // devices that the preview names
const DEFAULT_LIFE_H = 24; // COMMAND_TTL where nobody changed it

export function NewCommand({ params }) {
  if (!mayOperate()) {
    return html`<div class="page"><${Empty} title="Your role does not queue commands">Ask an admin of your company for the role operator.</${Empty}></div>`;
  }
  return html`<${Form} params=${params} />`;
}

function Form({ params }) {
  const [type, setType] = useState(params.get('type') ?? 'capture_image');
  const [values, setValues] = useState({});
  const [pairs, setPairs] = useState([['', '']]);
  const [choice, setChoice] = useState({ kind: params.get('site') ? 'site' : 'device', device: params.get('device') ?? '', site: params.get('site') ?? '' });
  const [time, setTime] = useState({ at: '', hours: '' });
  const [state, setState] = useState({ busy: false, error: null, request: newId() });
  const form = FORMS[type] ?? OWN_TYPE;
  const target = targetOf(choice);
  const key = target ? JSON.stringify(target) : null;
  const preview = useQuery(key, () => askPreview(target), ['devices']);
  const active = preview.data?.active ?? 0;

  const submit = async (event) => {
    event.preventDefault();
    const name = TYPES[type] ?? type;
    if ((active > 1 || form.danger) && !await askFirst({
      title: `${name}: ${plural(active, 'device')}?`, danger: form.danger, action: `Queue for ${plural(active, 'device')}`,
      text: `${plural(active, 'device')} will get it${time.at ? ' at its time' : ' as soon as each is awake'}.`,
    })) return;
    setState((before) => ({ ...before, busy: true, error: null }));
    try {
      const payload = form.payload(form.pairs ? pairsOf(pairs) : values);
      const done = await answer(project().rpc('fn_queue_for_target', queueCall(state.request, target, type, payload, time)));
      lookNow();
      say(`Queued for ${plural(done.queued, 'device')}.`);
      const one = done.queued === 1 ? await newest(preview.data.devices.find((device) => device.is_active)?.device_id) : null;
      go(one ? link(`commands/${one}`) : link('commands'));
    } catch (error) {
      setState((before) => ({ ...before, busy: false, error }));
    }
  };

  return html`<form class="page" onSubmit=${submit} onInput=${() => setState((before) => ({ ...before, error: null, request: newId() }))}>
    <div class="head"><a class="crumb" href=${link('commands')}>Commands</a><span class="crumb" aria-hidden="true">/</span><h1>New command</h1></div>
    <div class="split"><div class="stack">
      <section class="panel"><header><h2>What</h2></header><div class="inside stack">
        <${TypeField} value=${type} onChange=${setType} />
        <p class="hint">${form.about}</p>
        ${form.fields.map((field) => html`<${Field} key=${`${type} ${field.name}`} field=${field} value=${values[field.name] ?? ''}
          onChange=${(value) => setValues((before) => ({ ...before, [field.name]: value }))} />`)}
        ${form.pairs && html`<${Pairs} pairs=${pairs} onChange=${setPairs} />`}
      </div></section>
      <section class="panel"><header><h2>For whom</h2></header><div class="inside stack"><${Whom} choice=${choice} onChange=${setChoice} /></div></section>
      <section class="panel"><header><h2>When</h2></header><div class="inside stack"><${When} time=${time} onChange=${setTime} /></div></section>
    </div>
    <div class="stack"><section class="panel"><header><h2>Whom it reaches</h2></header><div class="inside stack">
      ${key ? html`<${Answer} query=${preview}>${(data) => html`<${Reach} data=${data} time=${time} />`}</${Answer}>`
        : html`<p class="hint">Choose whom it is for, and you see here who gets it and when.</p>`}
      ${state.error && html`<p class="fault" role="alert">${state.error.message} ${state.error.todo}</p>`}
      <div class="buttons"><button class="primary" disabled=${!active || state.busy}>
        ${state.busy ? 'Queueing…' : active ? `Queue for ${plural(active, 'device')}` : 'Queue'}</button></div>
    </div></section></div></div>
  </form>`;
}

function queueCall(request, target, type, payload, time) {
  const begins = time.at ? new Date(time.at) : new Date();
  return {
    p_request: request, p_target: target, p_command_type: type, p_command_payload: payload,
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

/** Whom it reaches: the numbers, and of the first few devices when they wake. */
async function askPreview(target) {
  const found = await answer(project().rpc('fn_preview_target', { p_target: target, p_limit: SAMPLE }));
  const rows = found.devices.length ? await answer(project().from('devices')
    .select('device_id, device_code, device_name, site_id, is_active, next_wake_at, last_seen_at, provisioning_status')
    .in('device_id', found.devices.map((device) => device.device_id))) : [];
  return { ...found, devices: rows.sort((a, b) => (a.next_wake_at ?? '~').localeCompare(b.next_wake_at ?? '~')) };
}

function Reach({ data, time }) {
  const asleep = data.matched - data.active;
  return html`<p><strong>${plural(data.matched, 'device')}</strong>${asleep > 0 && html`, ${plural(asleep, 'of which is', 'of which are')} not active and ${asleep === 1 ? 'gets' : 'get'} nothing`}</p>
    ${data.matched === 0 && html`<p class="note warn">Nobody fits. Change the choice.</p>`}
    <ul class="reach">${data.devices.map((device) => html`<li key=${device.device_id}>
      <span class="what">${deviceName(device)}</span><span><${Arrival} device=${device} time=${time} /></span></li>`)}</ul>
    ${data.matched > data.devices.length && html`<p class="hint">and ${plural(data.matched - data.devices.length, 'more', 'more')}</p>`}`;
}

/** When it will arrive at a device: at once where it listens, else at its next wake. */
function Arrival({ device, time }) {
  const zone = zoneOf(device.site_id);
  if (!device.is_active) return html`<span class="pill warn">! not active</span>`;
  const begins = time.at ? new Date(time.at) : new Date();
  const wake = device.next_wake_at && new Date(device.next_wake_at);
  if (!wake || wake < begins) return html`<span class="hint">when it wakes next; nobody knows when</span>`;
  const ends = begins.getTime() + (Number(time.hours) || DEFAULT_LIFE_H) * 3600e3;
  return html`<span class="hint">wakes</span> <${Time} at=${device.next_wake_at} zone=${zone} as="both" />
    ${wake.getTime() > ends && html` <span class="pill bad">⊘ after it expires</span>`}`;
}

function TypeField({ value, onChange }) {
  const own = useQuery('types', () => answer(project().from('device_command_types').select('command_type, description').order('command_type')));
  const types = [...Object.entries(TYPES), ...(own.data ?? []).map((row) => [row.command_type, row.description || row.command_type])];
  return html`<label class="field">Command <select value=${value} onChange=${(event) => onChange(event.target.value)}>
    ${types.map(([type, words]) => html`<option key=${type} value=${type} selected=${type === value}>${cut(words, 60)}</option>`)}</select></label>`;
}

function Field({ field, value, onChange }) {
  const { name, label, hint, ...limits } = field;
  return html`<label class="field">${label} <input name=${name} value=${value} ...${limits} onInput=${(event) => onChange(event.target.value)} />
    <span class="hint">${hint}</span></label>`;
}

function Pairs({ pairs, onChange }) {
  const change = (index, part, value) => {
    const next = pairs.map((pair, at) => (at === index ? pair.map((old, side) => (side === part ? value : old)) : pair));
    onChange(next.at(-1).some(Boolean) ? [...next, ['', '']] : next);
  };
  return html`<fieldset><legend>Settings</legend><div class="pairs">${pairs.map(([name, value], index) => html`
    <input aria-label="Name" placeholder="name" value=${name} onInput=${(event) => change(index, 0, event.target.value)} />
    <input aria-label="Value" placeholder="value" value=${value} onInput=${(event) => change(index, 1, event.target.value)} />`)}</div>
    <p class="hint">Numbers, true and false are sent as such.</p></fieldset>`;
}

const pairsOf = (pairs) => Object.fromEntries(pairs.filter(([name]) => name.trim()).map(([name, value]) => [name.trim(), valueOf(value)]));

function Whom({ choice, onChange }) {
  const { sites } = useStore(session);
  const set = (change) => onChange({ ...choice, ...change });
  const own = [...sites.values()].filter((site) => mayOperate(site.company_id));
  const kind = (value, words) => html`<label class="choice"><input type="radio" name="kind" checked=${choice.kind === value} onChange=${() => set({ kind: value })} /> ${words}</label>`;
  const site = (none) => html`<label class="field">Site <select value=${choice.site} onChange=${(event) => set({ site: event.target.value })}>
    <option value="">${none}</option>${own.map((one) => html`<option key=${one.site_id} value=${one.site_id} selected=${one.site_id === choice.site}>${cut(one.name)}</option>`)}</select></label>`;
  return html`<div class="choices" role="radiogroup" aria-label="For whom">${kind('device', 'one device')} ${kind('site', 'a site')} ${kind('target', 'devices that…')}</div>
    ${choice.kind === 'device' && html`<${DeviceField} value=${choice.device} onChange=${(device) => set({ device })} />`}
    ${choice.kind === 'site' && site('choose a site')}
    ${choice.kind === 'target' && html`${site('any site')}<${Conditions} choice=${choice} set=${set} />`}`;
}

function Conditions({ choice, set }) {
  const { companies } = useStore(session);
  const field = (name, label, hint, more = {}) => html`<label class="field">${label} <input value=${choice[name] ?? ''} ...${more}
    onInput=${(event) => set({ [name]: event.target.value })} /><span class="hint">${hint}</span></label>`;
  return html`${companies.size > 1 && html`<label class="field">Company <select onChange=${(event) => set({ company: event.target.value })}>
      <option value="">the site’s</option>${[...companies].map(([id, name]) => html`<option key=${id} value=${id} selected=${id === choice.company}>${cut(name)}</option>`)}</select></label>`}
    ${field('tags', 'Tags', 'have all of these; commas between them')}
    <div class="pairs"><label class="field">Firmware <select value=${choice.firmwareIs ?? '<'} onChange=${(event) => set({ firmwareIs: event.target.value })}>
      <option value="<">older than</option><option value="=">exactly</option><option value=">=">at least</option></select></label>
      ${field('firmware', 'Version', 'e.g. 1.4.0')}</div>
    <div class="pairs">${field('battery', 'Battery below (V)', 'e.g. 3.5', { type: 'number', step: '0.01', min: '0', max: '100' })}
      ${field('silent', 'Not heard for (hours)', 'e.g. 12', { type: 'number', min: '1', step: '1' })}</div>`;
}

function DeviceField({ value, onChange }) {
  const [text, setText] = useState('');
  const like = `"*${text.trim().slice(0, 100).replace(/["\\]/g, '\\$&')}*"`;
  const found = useQuery(`find ${text} ${text ? '' : value}`, async () => {
    let query = project().from('devices').select('device_id, device_code, device_name, device_mac, site_id, company_id').eq('is_active', true);
    if (text.trim()) query = query.or(`device_code.ilike.${like},device_name.ilike.${like},device_mac.ilike.${like}`);
    const rows = await answer(query.order('device_code').limit(12));
    if (value && !rows.some((row) => row.device_id === value)) {
      rows.unshift(...await answer(project().from('devices').select('device_id, device_code, device_name, device_mac, site_id, company_id').eq('device_id', value)));
    }
    return rows.filter((row) => mayOperate(row.company_id));
  });
  return html`<label class="field">Device <input type="search" data-search placeholder="part of its name, code or MAC" value=${text}
      onInput=${(event) => setText(event.target.value)} /></label>
    <div class="results" role="radiogroup" aria-label="Devices">${(found.data ?? []).map((device) => html`<label key=${device.device_id} class="choice">
      <input type="radio" name="device" checked=${device.device_id === value} onChange=${() => onChange(device.device_id)} />
      <span class="what">${deviceName(device)}</span> <span class="hint">${cut(session.get().sites.get(device.site_id)?.name ?? '', 30)}</span></label>`)}
      ${found.data?.length === 0 && html`<p class="hint">No active device fits.</p>`}</div>`;
}

function When({ time, onChange }) {
  const set = (change) => onChange({ ...time, ...change });
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  return html`<div class="pairs"><label class="field">Not before <input type="datetime-local" value=${time.at} onInput=${(event) => set({ at: event.target.value })} />
      <span class="hint">${time.at ? `in your zone, ${zone}` : 'empty: at once'}</span></label>
    <label class="field">Give up after (hours) <input type="number" min="1" max="8760" step="1" value=${time.hours} onInput=${(event) => set({ hours: event.target.value })} />
      <span class="hint">empty: a day, or what the project has set</span></label></div>`;
}
