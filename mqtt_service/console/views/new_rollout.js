// A new rollout: what, for whom, how fast, when it stops by itself; and before it starts, whom it reaches.

import { html, useEffect, useState } from '../vendor/preact-htm.js';
import { newId } from '../command_actions.js';
import { filledIn } from '../command_forms.js';
import { CommandFields } from '../components/command_fields.js';
import { TYPES } from '../components/command_words.js';
import { askFirst } from '../components/dialog.js';
import { limitsOf, RolloutLimits } from '../components/rollout_limits.js';
import { Answer, Empty } from '../components/states.js';
import { Reach, TargetFields, useReach } from '../components/target_fields.js';
import { Time } from '../components/time.js';
import { releaseName } from '../firmware_actions.js';
import { askReleases } from '../firmware_rows.js';
import { count, cut, plural } from '../format.js';
import { useQuery } from '../query.js';
import { minutesToRelease, startRollout } from '../rollout_start.js';
import { go, link } from '../route.js';
import { adminCompanies, mayAdmin, zoneOf } from '../session.js';
import { targetOf } from '../targets.js';

const DEFAULT_LIFE_H = 24; // COMMAND_TTL where nobody changed it

export function NewRollout({ params }) {
  const releases = useQuery('releases', askReleases);
  if (!mayAdmin()) {
    return html`<div class="page"><${Empty} title="Your role does not start rollouts">Ask an admin of your company; an operator can pause and cancel them.</${Empty}></div>`;
  }
  return html`<${Answer} query=${releases}>${(all) => html`<${Form} params=${params} releases=${all.filter((release) => mayAdmin(release.company_id))} />`}</${Answer}>`;
}

/** The choice of devices that a form begins with: of the release, those of its company that run another version. */
function firstChoice(params, release, company) {
  const given = release ? { company: release.company_id, firmware: { '!=': release.version } } : { company };
  const [site, device] = [params.get('site') ?? '', params.get('device') ?? ''];
  return { kind: device ? 'device' : site ? 'site' : 'given', device, site, given };
}

function Form({ params, releases }) {
  const asked = releases.find((one) => one.release_id === params.get('release'));
  const companies = adminCompanies();
  const [company, setCompany] = useState(asked?.company_id ?? companies[0][0]);
  const [what, setWhat] = useState(filledIn(params.get('type') ?? (asked || releases.length ? 'update_firmware' : 'reboot')));
  const [releaseId, setRelease] = useState((asked ?? releases.find((one) => one.company_id === company))?.release_id ?? '');
  const release = what.type === 'update_firmware' ? releases.find((one) => one.release_id === releaseId) : undefined;
  const [choice, setChoice] = useState(firstChoice(params, release, company));
  const [name, setName] = useState(null); // null: nobody wrote one
  const [limits, setLimits] = useState(limitsOf());
  const [more, setMore] = useState({ hours: '', continuous: false, needsApproval: false });
  const [state, setState] = useState({ busy: false, error: null, id: newId() });
  const target = targetOf(choice);
  const reach = useReach(target);
  const active = reach.data?.active ?? 0;
  const words = name ?? (release ? `Firmware ${releaseName(release)}` : TYPES[what.type] ?? cut(what.type, 60));

  // Who belongs to "all devices" follows from the company and the release.
  useEffect(() => setChoice((before) => ({ ...before, given: firstChoice(params, release, company).given })), [release?.release_id, company]);

  const submit = async (event) => {
    event.preventDefault();
    if (!await askFirst(question(words, active, limits, more))) return;
    setState((before) => ({ ...before, busy: true, error: null }));
    try {
      await startRollout({ id: state.id, name: words, target, what, release, limits, ...more });
      go(link(`rollouts/${state.id}`));
    } catch (error) {
      setState((before) => ({ ...before, busy: false, error }));
    }
  };

  return html`<form class="page" onSubmit=${submit} onInput=${() => setState((before) => ({ ...before, error: null, id: newId() }))}>
    <div class="head"><a class="crumb" href=${link('rollouts')}>Rollouts</a><span class="crumb" aria-hidden="true">/</span><h1>New rollout</h1></div>
    <div class="split"><div class="stack">
      <section class="panel"><header><h2>What</h2></header><div class="inside stack">
        <${CommandFields} what=${what} onChange=${setWhat} bare=${Boolean(release)}>
          ${what.type === 'update_firmware' && html`<${ReleaseField} releases=${releases} value=${release?.release_id ?? ''} onChange=${setRelease} />`}</${CommandFields}>
        <label class="field">Name <input name="name" required maxlength="100" value=${words} onInput=${(event) => setName(event.target.value)} />
          <span class="hint">what people call it</span></label>
      </div></section>
      <section class="panel"><header><h2>For whom</h2></header><div class="inside stack">
        ${companies.length > 1 && !release && html`<label class="field">Company <select value=${company} onChange=${(event) => setCompany(event.target.value)}>
          ${companies.map(([id, one]) => html`<option key=${id} value=${id} selected=${id === company}>${cut(one)}</option>`)}</select></label>`}
        <${TargetFields} choice=${choice} onChange=${setChoice} />
        <label class="choice"><input type="checkbox" checked=${more.continuous} onChange=${(event) => setMore({ ...more, continuous: event.target.checked })} />
          Also devices that come to fit later, until it is cancelled</label>
        ${release?.hardware && html`<p class="note warn">The release is for ${cut(release.hardware, 60)}. A device of other hardware is refused, and counts as a failure.</p>`}
      </div></section>
      <section class="panel"><header><h2>How fast, and when it stops</h2></header><div class="inside stack">
        <${RolloutLimits} limits=${limits} onChange=${setLimits} />
        <label class="field">Give up after (hours) <input type="number" min="1" max="8760" step="1" value=${more.hours} onInput=${(event) => setMore({ ...more, hours: event.target.value })} />
          <span class="hint">for each device, from when its turn comes; empty: a day, or what the project has set</span></label>
        <label class="choice"><input type="checkbox" checked=${more.needsApproval} onChange=${(event) => setMore({ ...more, needsApproval: event.target.checked })} />
          Another admin has to approve it before it starts</label>
      </div></section>
    </div>
    <div class="stack"><section class="panel"><header><h2>Whom it reaches</h2></header><div class="inside stack">
      <${Reach} query=${reach} none="Nobody fits. Change the choice." says=${(device) => html`<${Wake} device=${device} hours=${more.hours} />`} />
      ${active > 0 && html`<p class="hint">${howLong(active, limits)}</p>`}
      ${state.error && html`<p class="fault" role="alert">${state.error.message} ${state.error.todo}</p>`}
      <div class="buttons"><button class="primary" disabled=${!reach.data || !active && !more.continuous || state.busy}>
        ${state.busy ? 'Starting…' : more.needsApproval ? 'Ask for approval' : `Start for ${plural(active, 'device')}`}</button></div>
    </div></section></div></div>
  </form>`;
}

function question(words, active, limits, { continuous, needsApproval }) {
  const whom = `${plural(active, 'device')}${continuous ? ', and those that come to fit,' : ''} will get it, ${limits.rate} a minute${Number(limits.growth) > 1 ? ' at first' : ''}.`;
  return needsApproval
    ? { title: `${cut(words)}: ask for approval?`, action: 'Ask for approval', text: `Nothing is sent until another admin approves it. Then ${whom}` }
    : { title: `${cut(words)}: ${plural(active, 'device')}?`, action: `Start for ${plural(active, 'device')}`, danger: true, text: whom };
}

function ReleaseField({ releases, value, onChange }) {
  return html`<label class="field">Firmware <select value=${value} onChange=${(event) => onChange(event.target.value)}>
      ${releases.map((release) => html`<option key=${release.release_id} value=${release.release_id} selected=${release.release_id === value}>${releaseName(release)}${release.notes ? `: ${cut(release.notes, 60)}` : ''}</option>`)}
      <option value="" selected=${value === ''}>a file that is elsewhere</option></select>
    </label><p class="hint">${releases.length ? 'A release is checked by its SHA-256, and has succeeded when the device wakes with it.'
      : html`<a href=${link('firmware/new')}>Publish a release</a>, and devices are checked when they wake.`}</p>`;
}

/** When a device wakes next, where it gets the command. */
function Wake({ device, hours }) {
  const wake = device.next_wake_at && new Date(device.next_wake_at).getTime();
  if (!wake || wake < Date.now()) return html`<span class="hint">when it wakes next; nobody knows when</span>`;
  const late = wake > Date.now() + (Number(hours) || DEFAULT_LIFE_H) * 3600e3;
  return html`<span class="hint">wakes</span> <${Time} at=${device.next_wake_at} zone=${zoneOf(device.site_id)} as="both" />
    ${late && html` <span class="pill bad">⊘ after it expires</span>`}`;
}

function howLong(active, limits) {
  const minutes = minutesToRelease(active, limits);
  if (minutes <= 1) return 'All of them are released at once.';
  return `All of them are released within ${count(minutes)} minutes${Number(limits.growth) > 1 ? ', if each does it within its minute' : ''}.`;
}
