// Recurring commands: the list with its filters; one of them and the form are views of their own.

import { html, useMemo } from '../vendor/preact-htm.js';
import { TYPES } from '../components/command_words.js';
import { ChoiceFilter, SearchFilter } from '../components/filters.js';
import { planOf, SchedulePill, stateOf, STATES, whenInWords } from '../components/schedule_words.js';
import { Answer, Empty } from '../components/states.js';
import { Table } from '../components/table.js';
import { Time } from '../components/time.js';
import { count, cut } from '../format.js';
import { useQuery } from '../query.js';
import { go, link } from '../route.js';
import { askSchedules } from '../schedule_rows.js';
import { mayOperate, session } from '../session.js';
import { useStore } from '../store.js';
import { targetInWords } from '../targets.js';
import { Schedule } from './schedule.js';
import { EditSchedule, NewSchedule } from './schedule_form.js';

const FILTERS = ['state', 'q', 'type', 'site', 'company'];
const PAUSE_MS = 3000; // what is queued changes them, and that may be much
const NEXT_IS_NONE = '~'; // after every time

export default function Schedules({ parts: [id, part], params }) {
  if (id === 'new') return html`<${NewSchedule} params=${params} />`;
  if (part === 'edit') return html`<${EditSchedule} key=${id} id=${id} />`;
  return id ? html`<${Schedule} key=${id} id=${id} />` : html`<${List} params=${params} />`;
}

function List({ params }) {
  const query = useQuery('schedules', askSchedules, ['device_commands'], PAUSE_MS);
  const rows = query.data?.rows ?? [];
  const others = useMemo(() => rows.filter((row) => fits(row, params, 'state')).sort(inOrder), [query.data, params]);
  const shown = others.filter((row) => !params.get('state') || stateOf(row) === params.get('state'));
  const used = FILTERS.some((name) => params.get(name));
  return html`<div class="page full">
    <div class="head"><h1>Schedules</h1><span class="hint">${count(shown.length)}${used ? ` of ${count(rows.length)}` : ''}${query.data?.more ? ': there are more than the console keeps' : ''}</span>
      <span class="grow"></span>${mayOperate() && html`<a class="button primary" href=${link('schedules/new')}>New schedule</a>`}</div>
    <${Tabs} rows=${others} params=${params} />
    <${Filters} rows=${rows} params=${params} used=${used} />
    ${query.error && rows.length > 0 && html`<p class="fault" role="alert">${query.error.message} ${query.error.todo}</p>`}
    <${Answer} query=${query}>${() => (shown.length
      ? html`<${Table} key=${params.toString()} label="Schedules" columns=${COLUMNS} rows=${shown} keyOf=${(row) => row.schedule_id}
          onOpen=${(row) => go(link(`schedules/${row.schedule_id}`))} />`
      : html`<${Nothing} filtered=${used} />`)}</${Answer}>
  </div>`;
}

/** What needs somebody first, then what is next. */
function inOrder(a, b) {
  const [x, y] = [a, b].map((row) => `${Object.keys(STATES).indexOf(stateOf(row))} ${row.next_run_at ?? NEXT_IS_NONE} ${row.name} ${row.schedule_id}`);
  return x < y ? -1 : 1;
}

function fits(row, params, but) {
  const wanted = (name) => name !== but && params.get(name);
  const text = (wanted('q') || '').toLowerCase();
  return (!wanted('type') || row.command_type === wanted('type'))
    && (!wanted('site') || row.target.site === wanted('site'))
    && (!wanted('company') || row.company_id === wanted('company'))
    && (!text || [row.name, targetInWords(row.target, row.listed), typeOf(row)].some((words) => words.toLowerCase().includes(text)));
}

const typeOf = (row) => TYPES[row.command_type] ?? cut(row.command_type, 40);

const COLUMNS = [
  { name: 'status', title: html`<span>State</span>`, cell: (row) => html`<${SchedulePill} row=${row} />` },
  { name: 'name', title: 'Schedule', cell: (row) => html`<a href=${link(`schedules/${row.schedule_id}`)}>${cut(row.name, 100)}</a>` },
  { name: 'command', title: 'Command', wide: true, cell: typeOf },
  { name: 'whom', title: 'For', wide: true, cell: (row) => html`<span title=${targetInWords(row.target, row.listed)}>${targetInWords(row.target, row.listed)}</span>` },
  { name: 'when', title: 'When', wide: true, cell: (row) => html`<span title=${`${row.cron ?? ''} ${planOf(row).zone}`}>${cut(whenInWords(row), 60)}</span>` },
  { name: 'next', title: 'Next', cell: (row) => html`<${Time} at=${row.next_run_at} zone=${planOf(row).zone} />` },
  { name: 'result', title: 'Last', wide: true, cell: (row) => html`${row.last_run_at && html`<${Time} at=${row.last_run_at} zone=${planOf(row).zone} /> `}
      <span title=${cut(row.last_result ?? '', 500)}>${cut(row.last_result ?? '—', 80)}</span>` },
];

function Tabs({ rows, params }) {
  const counts = {};
  for (const row of rows) counts[stateOf(row)] = (counts[stateOf(row)] ?? 0) + 1;
  const rest = Object.fromEntries(params);
  const tabs = [['', 'all', rows.length], ...Object.keys(STATES).map((state) => [state, state, counts[state] ?? 0])];
  return html`<nav class="tabs" aria-label="By state">${tabs.map(([state, word, of]) => html`<a key=${state} href=${link('schedules', { ...rest, state })}
    aria-current=${state === (params.get('state') ?? '') ? 'true' : undefined}>${word} <span class="count">${count(of)}</span></a>`)}</nav>`;
}

function Filters({ rows, params, used }) {
  const { sites, companies } = useStore(session);
  const types = [...new Map(rows.map((row) => [row.command_type, typeOf(row)]))];
  return html`<div class="filters" role="search">
    <${SearchFilter} label="Search schedules" placeholder="Name, command or for whom" params=${params} />
    <${ChoiceFilter} name="type" label="Type" all="every type" options=${types} params=${params} />
    <${ChoiceFilter} name="site" label="Site" all="every site" options=${[...sites.values()].map((site) => [site.site_id, site.name])} params=${params} />
    ${companies.size > 1 && html`<${ChoiceFilter} name="company" label="Company" all="every company" options=${[...companies]} params=${params} />`}
    ${used && html`<a class="button" href=${link('schedules')}>Clear</a>`}
  </div>`;
}

function Nothing({ filtered }) {
  if (filtered) return html`<${Empty} title="No schedule fits these filters"><a href=${link('schedules')}>Show all of them</a>.</${Empty}>`;
  return html`<${Empty} title="No schedules yet">A schedule queues a command again and again: a picture at each wake, for example. ${mayOperate()
    ? html`<a href=${link('schedules/new')}>Add the first</a>.` : 'To add one, ask an admin for the role operator.'}</${Empty}>`;
}
