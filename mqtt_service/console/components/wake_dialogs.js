// Dialogs: to which site a device belongs, and when a device or a whole site wakes.

import { html, useState } from '../vendor/preact-htm.js';
import { mapDevices, setDeviceSchedule, setSiteSchedule } from '../device_actions.js';
import { useDevices } from '../device_rows.js';
import { cut, deviceName, plural } from '../format.js';
import { mayAdmin, session } from '../session.js';
import { useStore } from '../store.js';
import { CronField, CronPreview } from './cron_field.js';
import { Dialog } from './dialog.js';

/** Where neither device nor site has a schedule. */
export const DEFAULT_CRON = '0 8,16 * * *';

/** The sites to which the person may map this device. */
export function sitesFor(device) {
  return [...session.get().sites.values()].filter((site) => mayAdmin(site.company_id) && (!device?.company_id || device.company_id === site.company_id));
}

/** @param {{device?: object, value: string, onChange: (siteId: string) => void, label?: string}} props */
export function SiteSelect({ device, value, onChange, label }) {
  useStore(session);
  return html`<select aria-label=${label} value=${value} onChange=${(event) => onChange(event.target.value)}>
    <option value="">choose a site</option>
    ${sitesFor(device).map((site) => html`<option key=${site.site_id} value=${site.site_id} selected=${site.site_id === value}>${cut(site.name, 50)}</option>`)}</select>`;
}

/** @param {{devices: object[], onClose: () => void}} props */
export function MapDialog({ devices, onClose }) {
  const own = sitesFor(devices[0]);
  const [site, setSite] = useState(own.length === 1 ? own[0].site_id : '');
  const [busy, setBusy] = useState(false);
  const chosen = session.get().sites.get(site);
  const submit = async (event) => {
    event.preventDefault();
    setBusy(true);
    if (await mapDevices(devices, site)) onClose();
    else setBusy(false);
  };
  const name = devices.length === 1 ? deviceName(devices[0]) : plural(devices.length, 'device');
  return html`<${Dialog} title=${`Map ${name}`} onClose=${onClose}><form class="stack" onSubmit=${submit}>
    <label class="field">Site <${SiteSelect} device=${devices[0]} value=${site} onChange=${setSite} /></label>
    ${chosen && html`<p class="hint">It wakes by ${chosen.wake_schedule_cron || DEFAULT_CRON} in the zone ${chosen.timezone}, and hears so when it wakes next.</p>`}
    ${!own.length && html`<p class="note warn">There is no site of a company whose admin you are. Add one to the table sites first.</p>`}
    <div class="buttons"><button type="button" onClick=${onClose}>Keep as it is</button>
      <button class="primary" disabled=${!site || busy}>${busy ? 'Mapping…' : 'Map'}</button></div>
  </form></${Dialog}>`;
}

/** @param {{device: object, onClose: () => void}} props */
export function DeviceScheduleDialog({ device, onClose }) {
  const site = session.get().sites.get(device.site_id);
  const of = site?.wake_schedule_cron || DEFAULT_CRON;
  return html`<${ScheduleDialog} title=${`When ${deviceName(device)} wakes`} cron=${device.wake_schedule_cron ?? ''} zone=${site?.timezone ?? 'UTC'}
    none=${`as its site: ${of}`} fallback=${of} onClose=${onClose}
    about="The device hears of it when it wakes next; before that, only if it happens to listen."
    save=${(cron) => setDeviceSchedule(device, cron)} />`;
}

/** @param {{site: object, onClose: () => void}} props */
export function SiteScheduleDialog({ site, onClose }) {
  const { rows } = useDevices();
  const here = [...rows.values()].filter((device) => device.site_id === site.site_id && device.is_active);
  const own = here.filter((device) => device.wake_schedule_cron?.trim()).length;
  const followers = here.length - own;
  return html`<${ScheduleDialog} title=${`When ${cut(site.name)} wakes`} cron=${site.wake_schedule_cron ?? ''} zone=${site.timezone} zoned
    none=${`the default: ${DEFAULT_CRON}`} fallback=${DEFAULT_CRON} onClose=${onClose} action=${`Save for ${plural(followers, 'device')}`}
    about=${`It concerns ${plural(followers, 'device')}, each from its next wake on${own ? `; ${plural(own, 'device')} with a schedule of ${own === 1 ? 'its' : 'their'} own ${own === 1 ? 'keeps' : 'keep'} it` : ''}. Schedules of commands that follow the site’s wakes follow.`}
    save=${(cron, zone) => setSiteSchedule(site, cron, zone)} />`;
}

function ScheduleDialog({ title, cron: before, zone: zoneBefore, zoned, none, fallback, about, action = 'Save', save, onClose }) {
  const [cron, setCron] = useState(before);
  const [zone, setZone] = useState(zoneBefore);
  const [state, setState] = useState({ busy: false, good: false, error: null });
  const submit = async (event) => {
    event.preventDefault();
    setState((now) => ({ ...now, busy: true, error: null }));
    try {
      await save(cron.trim(), zone.trim());
      onClose();
    } catch (error) {
      setState((now) => ({ ...now, busy: false, error }));
    }
  };
  return html`<${Dialog} title=${title} onClose=${onClose}><form class="stack" onSubmit=${submit}>
    <${CronField} value=${cron} onChange=${setCron} none=${none} />
    ${zoned && html`<${ZoneField} value=${zone} onChange=${setZone} />`}
    <${CronPreview} cron=${cron.trim() || fallback} zone=${zone} onCheck=${(good) => setState((now) => ({ ...now, good }))} />
    <p class="hint">${about}</p>
    ${state.error && html`<p class="fault" role="alert">${state.error.message} ${state.error.todo}</p>`}
    <div class="buttons"><button type="button" onClick=${onClose}>Keep as it is</button>
      <button class="primary" disabled=${!state.good || state.busy || cron.trim() === before && zone === zoneBefore}>${state.busy ? 'Saving…' : action}</button></div>
  </form></${Dialog}>`;
}

/** An IANA zone, with those that the browser knows to choose from. */
export function ZoneField({ value, onChange, none = '' }) {
  return html`<label class="field">Time zone <input name="timezone" list="zones" value=${value} maxlength="64" placeholder=${none} spellcheck=${false}
    autocomplete="off" onInput=${(event) => onChange(event.target.value)} />
    <datalist id="zones">${(Intl.supportedValuesOf?.('timeZone') ?? []).map((zone) => html`<option key=${zone} value=${zone} />`)}</datalist></label>`;
}
