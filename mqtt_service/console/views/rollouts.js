// Rollouts: the list with its filters; one rollout and the form for a new one are views of their own.

import { html, useMemo } from '../vendor/preact-htm.js';
import { ChoiceFilter, SearchFilter } from '../components/filters.js';
import { usePages } from '../components/pages.js';
import { Failures, isOver, ProgressBar, RolloutPill, ROLLOUT_STATUSES, whatItSends } from '../components/rollout_words.js';
import { Empty, Failed, Loading } from '../components/states.js';
import { Table } from '../components/table.js';
import { Time } from '../components/time.js';
import { count, cut, plural } from '../format.js';
import { useAgain } from '../query.js';
import { FILTERS, rolloutSource } from '../rollout_rows.js';
import { go, link, setParams } from '../route.js';
import { mayAdmin, session, zoneOf } from '../session.js';
import { useStore } from '../store.js';
import { targetInWords } from '../targets.js';
import { NewRollout } from './new_rollout.js';
import { Rollout } from './rollout.js';

const TABS = [['', 'all'], ['open', 'open'], ...Object.entries(ROLLOUT_STATUSES).map(([status, { word }]) => [status, word])];
const LOOK_MS = 4000; // the counts of a rollout are told by no event

export default function Rollouts({ parts, params }) {
  if (parts[0] === 'new') return html`<${NewRollout} key=${params.toString()} params=${params} />`;
  if (parts[0]) return html`<${Rollout} key=${parts[0]} id=${parts[0]} params=${params} />`;
  return html`<${List} params=${params} />`;
}

function List({ params }) {
  const filters = new URLSearchParams(FILTERS.filter((name) => params.get(name)).map((name) => [name, params.get(name)]));
  const key = filters.toString();
  const source = useMemo(() => rolloutSource(filters), [key]);
  const pages = usePages(key, source, []);
  useAgain(pages.refresh, pages.rows.every(isOver) ? null : LOOK_MS);
  const foot = pages.done ? `${plural(pages.rows.length, 'rollout')}, no more` : 'further ones follow';
  return html`<div class="page full">
    <div class="head"><h1>Rollouts</h1><span class="hint">${count(pages.rows.length)} loaded</span><span class="grow"></span>
      ${mayAdmin() && html`<a class="button primary" href=${link('rollouts/new')}>New rollout</a>`}</div>
    <${Tabs} params=${params} />
    <${Filters} params=${params} release=${pages.rows[0]?.firmware_releases} />
    ${pages.error && pages.rows.length > 0 && html`<p class="fault" role="alert">${pages.error.message} ${pages.error.todo}</p>`}
    ${pages.rows.length ? html`<${Table} key=${key} label="Rollouts" columns=${COLUMNS} rows=${pages.rows} keyOf=${source.keyOf}
        onOpen=${(row) => go(link(`rollouts/${row.rollout_id}`))} onEnd=${pages.more} onSight=${pages.sight} foot=${foot} />`
      : pages.error ? html`<${Failed} error=${pages.error} retry=${pages.refresh} />`
      : pages.loading ? html`<${Loading} />`
      : html`<${Nothing} filtered=${key !== ''} />`}
  </div>`;
}

const COLUMNS = [
  { name: 'status', title: html`<span>Status</span>`, cell: (row) => html`<${RolloutPill} status=${row.status} />` },
  { name: 'name', title: 'Rollout', cell: (row) => html`<a href=${link(`rollouts/${row.rollout_id}`)} title=${cut(row.name, 100)}>${cut(row.name)}</a>` },
  { name: 'what', title: 'Sends', wide: true, cell: (row) => whatItSends(row) },
  { name: 'whom', title: 'For', wide: true, cell: (row) => html`<span title=${targetInWords(row.target)}>${targetInWords(row.target)}${row.continuous ? ', and who comes to fit' : ''}</span>` },
  { name: 'bar', title: 'Progress', cell: (row) => html`<${ProgressBar} rollout=${row} />` },
  { name: 'failures', title: 'Failed', cell: (row) => html`<${Failures} rollout=${row} />` },
  { name: 'rate', title: 'A minute', wide: true, cell: (row) => count(row.progress.rate_per_minute) },
  { name: 'made', title: 'Made', wide: true, cell: (row) => html`<${Time} at=${row.created_at} zone=${zoneOf(row.target.site)} />` },
];

function Tabs({ params }) {
  const status = params.get('status') ?? '';
  const rest = Object.fromEntries(params);
  return html`<nav class="tabs" aria-label="By status">${TABS.map(([tab, word]) => html`<a key=${tab} href=${link('rollouts', { ...rest, status: tab })}
    aria-current=${tab === status ? 'true' : undefined}>${word}</a>`)}</nav>`;
}

function Filters({ params, release }) {
  const { companies } = useStore(session);
  return html`<div class="filters" role="search">
    <${SearchFilter} label="Search a rollout" placeholder="Name" params=${params} />
    ${companies.size > 1 && html`<${ChoiceFilter} name="company" label="Company" all="every company" options=${[...companies]} params=${params} />`}
    ${params.get('release') && html`<button onClick=${() => setParams({ release: '' })} title="Take this filter away">${release ? `firmware ${cut(release.version, 30)}` : 'one release'} ×</button>`}
    ${FILTERS.some((name) => params.get(name)) && html`<a class="button" href=${link('rollouts')}>Clear</a>`}
  </div>`;
}

function Nothing({ filtered }) {
  if (filtered) return html`<${Empty} title="No rollout fits these filters"><a href=${link('rollouts')}>Show all of them</a>.</${Empty}>`;
  return html`<${Empty} title="No rollouts yet">A rollout sends a command to many devices little by little, and stops by itself where too many fail.
    ${mayAdmin() ? html` <a href=${link('rollouts/new')}>Start the first</a>, with new firmware for example.` : ' An admin of the company starts them.'}</${Empty}>`;
}
