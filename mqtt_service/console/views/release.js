// One firmware release: the file, who runs it, what became of its updates, its rollouts.

import { html, useMemo, useState } from '../vendor/preact-htm.js';
import { useDevices } from '../device_rows.js';
import { ProgressBar, RolloutPill } from '../components/rollout_words.js';
import { Answer, Empty } from '../components/states.js';
import { Time } from '../components/time.js';
import { sayError } from '../components/toasts.js';
import { noteRelease, releaseName, removeRelease } from '../firmware_actions.js';
import { askRelease, runningOn } from '../firmware_rows.js';
import { count, cut, size } from '../format.js';
import { useKeys } from '../keyboard.js';
import { useQuery } from '../query.js';
import { rolloutSource } from '../rollout_rows.js';
import { go, link } from '../route.js';
import { mayAdmin, session } from '../session.js';

/** @param {{id: string}} props */
export function Release({ id }) {
  const query = useQuery(`release ${id}`, async () => (/^[0-9a-f-]{36}$/i.test(id) ? askRelease(id) : null), ['device_commands'], 2000);
  useKeys({ Escape: () => window.history.back() });
  return html`<div class="page"><${Answer} query=${query}>${(found) => (found ? html`<${Page} ...${found} />`
    : html`<${Empty} title="There is no such release">It may be removed, or of another company. <a href=${link('firmware')}>Look at all firmware</a>.</${Empty}>`)}</${Answer}></div>`;
}

function Page({ release, updates }) {
  const admin = mayAdmin(release.company_id);
  const remove = async () => { if (await removeRelease(release, updates.open)) go(link('firmware')); };
  return html`
    <div class="head"><a class="crumb" href=${link('firmware')}>Firmware</a><span class="crumb" aria-hidden="true">/</span>
      <h1>${releaseName(release)}</h1><span class="grow"></span>
      ${admin && html`<div class="buttons"><button onClick=${remove}>Remove</button>
        <a class="button primary" href=${link('rollouts/new', { release: release.release_id })}>Roll out</a></div>`}</div>
    <${Tiles} release=${release} updates=${updates} />
    <div class="split">
      <div class="stack"><${Rollouts} release=${release} /></div>
      <div class="stack">
        <section class="panel"><header><h2>Facts</h2></header><div class="inside"><${Facts} release=${release} /></div></section>
        <section class="panel"><header><h2>Notes</h2></header><div class="inside">${admin ? html`<${Notes} release=${release} />`
          : release.notes ? html`<p class="release-notes">${cut(release.notes, 10000)}</p>` : html`<p class="hint">None.</p>`}</div></section>
      </div>
    </div>`;
}

function Tiles({ release, updates }) {
  const { rows, loading } = useDevices();
  const on = useMemo(() => runningOn(release, [...rows.values()]), [release, rows]);
  const tiles = [
    ['Runs on', loading && !rows.size ? '…' : count(on.length), 'as devices said last', on.length ? link('devices', { firmware: on[0].firmware_version }) : undefined],
    ['Verified', count(updates.verified), 'updates after which the device woke with it'],
    ['To be verified', count(updates.unverified), 'the device did it, and has not woken since'],
    ['On the way', count(updates.open), 'wait to be sent, or for an answer'],
    ['Lost', count(updates.lost), 'rejected, expired or failed for good', undefined, updates.lost ? 'bad' : ''],
  ];
  return html`<section class="tiles" aria-label="At a glance">${tiles.map(([name, value, more, address, tone]) => {
    const inside = html`<span class="name">${name}</span><span class="value">${value}</span><span class="more">${more}</span>`;
    return address ? html`<a key=${name} class="tile" href=${address}>${inside}</a>` : html`<div key=${name} class=${`tile ${tone ?? ''}`}>${inside}</div>`;
  })}</section>`;
}

function Rollouts({ release }) {
  const source = useMemo(() => rolloutSource(new URLSearchParams({ release: release.release_id })), [release.release_id]);
  const query = useQuery(`rollouts of ${release.release_id}`, () => source.page(null), ['device_commands'], 2000);
  return html`<section class="panel"><header><h2>Rollouts</h2><span class="hint"><a href=${link('rollouts', { release: release.release_id })}>Show all</a></span></header>
    <${Answer} query=${query}>${(rollouts) => (rollouts.length ? html`<ul class="feed rollouts-of">${rollouts.slice(0, 8).map((rollout) => html`<li key=${rollout.rollout_id}>
        <${RolloutPill} status=${rollout.status} /><span class="what"><a href=${link(`rollouts/${rollout.rollout_id}`)}>${cut(rollout.name)}</a></span><${ProgressBar} rollout=${rollout} /></li>`)}</ul>`
      : html`<${Empty} title="It was not rolled out yet">${mayAdmin(release.company_id)
        ? html`<a href=${link('rollouts/new', { release: release.release_id })}>Roll it out</a>, little by little.` : 'An admin of the company starts rollouts.'}</${Empty}>`)}</${Answer}></section>`;
}

function Facts({ release }) {
  const { companies, user } = session.get();
  const by = release.created_by_user_id;
  return html`<dl class="facts">
    <dt>Version</dt><dd>${cut(release.version, 100)}</dd>
    <dt>Hardware</dt><dd>${release.hardware ? cut(release.hardware, 100) : 'any'}</dd>
    ${companies.size > 1 && html`<dt>Company</dt><dd>${cut(companies.get(release.company_id) ?? '—')}</dd>`}
    <dt>Size</dt><dd>${size(release.size_bytes)} <span class="hint">${count(release.size_bytes)} bytes</span></dd>
    <dt>Published</dt><dd><${Time} at=${release.created_at} as="both" /> <span class="hint">${!by ? '' : by === user.id ? 'by you' : `by a person (${by.slice(0, 8)})`}</span></dd>
    <dt>SHA-256</dt><dd class="mono">${release.sha256}</dd>
    <dt>Id</dt><dd class="mono">${release.release_id}</dd></dl>`;
}

function Notes({ release }) {
  const [text, setText] = useState(release.notes ?? '');
  const [busy, setBusy] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    setBusy(true);
    await noteRelease(release, text).catch(sayError);
    setBusy(false);
  };
  return html`<form class="stack" onSubmit=${submit}><textarea aria-label="Notes" maxlength="10000" value=${text} onInput=${(event) => setText(event.target.value)}></textarea>
    <div class="buttons"><button disabled=${busy || text === (release.notes ?? '')}>${busy ? 'Saving…' : 'Save notes'}</button></div></form>`;
}
