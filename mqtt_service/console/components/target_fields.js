// For whom something is: fields to choose by, and whom the choice reaches.

import { html, useState } from '../vendor/preact-htm.js';
import { answer } from '../api.js';
import { cut, deviceName, plural } from '../format.js';
import { useQuery } from '../query.js';
import { mayOperate, project, session } from '../session.js';
import { useStore } from '../store.js';
import { targetInWords } from '../targets.js';
import { Answer } from './states.js';

const SAMPLE = 8; // devices that are named
const REACH_PAUSE_MS = 1500; // it looks at all devices of the target

/**
 * For whom something is: one device, a site, devices that fit conditions, or a target that was given and these cannot say.
 * @param {{choice: object, onChange: (choice: object) => void}} props choice: see `targetOf`
 */
export function TargetFields({ choice, onChange }) {
  const { sites } = useStore(session);
  const set = (change) => onChange({ ...choice, ...change });
  const own = [...sites.values()].filter((site) => mayOperate(site.company_id));
  const kind = (value, words) => html`<label class="choice"><input type="radio" name="kind" checked=${choice.kind === value} onChange=${() => set({ kind: value })} /> ${words}</label>`;
  const site = (none) => html`<label class="field">Site <select value=${choice.site} onChange=${(event) => set({ site: event.target.value })}>
    <option value="">${none}</option>${own.map((one) => html`<option key=${one.site_id} value=${one.site_id} selected=${one.site_id === choice.site}>${cut(one.name)}</option>`)}</select></label>`;
  return html`<div class="choices" role="radiogroup" aria-label="For whom">${kind('device', 'one device')} ${kind('site', 'a site')} ${kind('target', 'devices that…')}
      ${choice.given && kind('given', targetInWords(choice.given))}</div>
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

/**
 * Whom a target reaches now: the query of {matched, active, devices: the first few rows}.
 * @param {object | null} target null: none is chosen
 * @param {string | null} [company] its id, where the target does not say
 */
export function useReach(target, company = null) {
  return useQuery(target ? JSON.stringify([target, company]) : null, () => askReach(target, company), ['devices'], REACH_PAUSE_MS);
}

async function askReach(target, company) {
  const found = await answer(project().rpc('fn_preview_target', { p_target: target, p_limit: SAMPLE, p_company_id: company }));
  const rows = found.devices.length ? await answer(project().from('devices')
    .select('device_id, device_code, device_name, site_id, is_active, next_wake_at, last_seen_at, provisioning_status')
    .in('device_id', found.devices.map((device) => device.device_id))) : [];
  return { ...found, devices: rows.sort((a, b) => (a.next_wake_at ?? '~').localeCompare(b.next_wake_at ?? '~')) };
}

/** @param {{query: object, none: string, says: (device: object) => any}} props query: of `useReach`; says: of each device that is named */
export function Reach({ query, none, says }) {
  if (!query.data && !query.error && !query.loading) return html`<p class="hint">Choose whom it is for, and you see here who gets it and when.</p>`;
  return html`<${Answer} query=${query}>${(data) => {
    const asleep = data.matched - data.active;
    return html`<p><strong>${plural(data.matched, 'device')}</strong>${asleep > 0 && html`, ${plural(asleep, 'of which is', 'of which are')} not active and ${asleep === 1 ? 'gets' : 'get'} nothing`}</p>
      ${data.matched === 0 && html`<p class="note warn">${none}</p>`}
      <ul class="reach">${data.devices.map((device) => html`<li key=${device.device_id}>
        <span class="what">${deviceName(device)}</span><span>${device.is_active ? says(device) : html`<span class="pill warn">! not active</span>`}</span></li>`)}</ul>
      ${data.matched > data.devices.length && html`<p class="hint">and ${plural(data.matched - data.devices.length, 'more', 'more')}</p>`}`;
  }}</${Answer}>`;
}
