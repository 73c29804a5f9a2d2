// One command: its story, every state change, what it carries, what the device answered, and what can be done.

import { html } from '../vendor/preact-htm.js';
import { answer } from '../api.js';
import { cancelCommands, repeatCommands, retryCommands } from '../command_actions.js';
import { tellSteps, tellStory } from '../command_story.js';
import { mayCancel, mayRepeat, mayRetry, StatusPill, TYPES } from '../components/command_words.js';
import { Payload } from '../components/payload.js';
import { Answer, Empty } from '../components/states.js';
import { Time } from '../components/time.js';
import { cut, deviceName } from '../format.js';
import { useKeys } from '../keyboard.js';
import { useQuery } from '../query.js';
import { link } from '../route.js';
import { mayOperate, project, session, zoneOf } from '../session.js';

/** @param {{id: string}} props */
export function Command({ id }) {
  const query = useQuery(`command ${id}`, () => askCommand(id), ['device_commands', 'devices']);
  useKeys({ Escape: () => window.history.back() });
  return html`<div class="page"><${Answer} query=${query}>${(found) => (found ? html`<${Page} ...${found} />`
    : html`<${Empty} title="There is no such command">It may be older than what this project keeps, or of another company.
        <a href=${link('commands')}> Look at all commands</a>.</${Empty}>`)}</${Answer}></div>`;
}

async function askCommand(id) {
  if (!/^[0-9a-f-]{36}$/i.test(id)) return null;
  const command = await answer(project().from('device_commands')
    .select('*, devices!inner(device_id, device_code, device_name, device_mac, site_id, company_id, is_active, next_wake_at, last_seen_at)')
    .eq('command_id', id).maybeSingle());
  if (!command) return null;
  const [story, steps] = await Promise.all([tellStory(command), tellSteps(command)]);
  return { command, story, steps };
}

function Page({ command, story, steps }) {
  const device = command.devices;
  const zone = zoneOf(device.site_id);
  const may = mayOperate(device.company_id);
  return html`
    <div class="head"><a class="crumb" href=${link('commands')}>Commands</a><span class="crumb" aria-hidden="true">/</span>
      <h1>${TYPES[command.command_type] ?? cut(command.command_type)}</h1><${StatusPill} status=${command.status} />
      ${command.progress !== null && command.progress !== undefined && command.status === 'sent' && html`
        <progress max="100" value=${command.progress} aria-label="Progress"></progress> <span class="hint">${command.progress} % ${cut(command.progress_message ?? '', 80)}</span>`}
      <span class="grow"></span>
      ${may && html`<div class="buttons">
        ${mayRetry(command) && html`<button onClick=${() => retryCommands([command])}>Try again</button>`}
        ${mayRepeat(command) && html`<button onClick=${() => repeatCommands([command])}>Send again</button>`}
        ${mayCancel(command) && html`<button onClick=${() => cancelCommands([command])}>Cancel</button>`}
      </div>`}
    </div>
    <div class="split">
      <div class="stack">
        <section class="panel"><header><h2>Where it is</h2></header><div class="inside story">${story.map((line) => html`<p>${cut(line, 1000)}</p>`)}</div></section>
        <section class="panel"><header><h2>What happened</h2></header><div class="inside"><ol class="steps">${steps.map((step) => html`<li><div>
          <div><strong>${step.what}</strong> ${step.who && html`<span class="hint">${step.who}</span>`}</div>
          <div class="hint"><${Time} at=${step.at} zone=${zone} as="full" /></div>
          ${step.detail && html`<div class="fault">${step.detail}</div>`}</div></li>`)}</ol></div></section>
      </div>
      <div class="stack">
        <section class="panel"><header><h2>What it says</h2></header><div class="inside"><${Payload} value=${command.command_payload} none="It needs no further words." /></div></section>
        <section class="panel"><header><h2>The device’s answer</h2></header><div class="inside"><${Payload} value=${command.response} none="None yet." /></div></section>
        <section class="panel"><header><h2>Facts</h2></header><div class="inside"><${Facts} command=${command} zone=${zone} /></div></section>
      </div>
    </div>`;
}

function Facts({ command, zone }) {
  const device = command.devices;
  const site = session.get().sites.get(device.site_id);
  const schedule = /^schedule:([0-9a-f-]{36}):/.exec(command.idempotency_key ?? '')?.[1];
  const time = (at) => html`<${Time} at=${at} zone=${zone} as="both" />`;
  return html`<dl class="facts">
    <dt>Device</dt><dd><a href=${link('commands', { device: device.device_id })}>${deviceName(device)}</a>${!device.is_active && html` <span class="pill warn">! not active</span>`}</dd>
    <dt>Site</dt><dd>${site ? `${cut(site.name)} (${site.timezone})` : '—'}</dd>
    <dt>Next wake</dt><dd>${time(device.next_wake_at)}</dd>
    <dt>Queued</dt><dd>${time(command.issued_at)}${schedule && html` by <a href=${link(`schedules/${schedule}`)}>a schedule</a>`}</dd>
    ${command.scheduled_for && html`<dt>Not before</dt><dd>${time(command.scheduled_for)}</dd>`}
    ${command.expires_at && html`<dt>Expires</dt><dd>${time(command.expires_at)}</dd>`}
    <dt>Failures</dt><dd>${command.retry_count}${command.redelivery_count ? `, sent again at a wake ${command.redelivery_count} times` : ''}</dd>
    ${command.rollout_id && html`<dt>Rollout</dt><dd><a href=${link(`rollouts/${command.rollout_id}`)}>the one it belongs to</a></dd>`}
    ${command.release_id && html`<dt>Firmware</dt><dd><a href=${link(`firmware/${command.release_id}`)}>its release</a>${command.verified_at && html`, verified ${time(command.verified_at)}`}</dd>`}
    ${command.priority !== 0 && html`<dt>Priority</dt><dd>${command.priority}</dd>`}
    <dt>Id</dt><dd class="mono">${command.command_id}</dd>
  </dl>`;
}
