// Numbers: how commands did, by day, type and site. Each number leads to the commands that it counts.

import { html, useMemo } from '../vendor/preact-htm.js';
import { answer } from '../api.js';
import { useWidth } from '../components/axis.js';
import { Chart } from '../components/chart.js';
import { TYPES } from '../components/command_words.js';
import { ChoiceFilter, Chip } from '../components/filters.js';
import { Answer, Empty } from '../components/states.js';
import { askDeviceName } from '../device_rows.js';
import { count, cut, dayName, percent, plural, span, utc } from '../format.js';
import { useQuery } from '../query.js';
import { link } from '../route.js';
import { mayOperate, project, session } from '../session.js';
import { useStore } from '../store.js';

const SPANS = { '1d': [1, 'today'], '7d': [7, '7 days'], '30d': [30, '30 days'], '90d': [90, '90 days'] };
const FILTERS = ['type', 'site', 'device', 'company'];
const PAUSE_MS = 15000; // it counts everything within the time
const HALF_A_DAY_MS = 12 * 3600e3;

export default function Numbers({ params }) {
  const { sites } = useStore(session);
  const name = SPANS[params.get('span')] ? params.get('span') : '7d';
  const filters = Object.fromEntries(FILTERS.filter((one) => params.get(one)).map((one) => [one, params.get(one)]));
  const zone = zoneOfDays(sites, filters);
  const query = useQuery(`numbers ${name} ${zone} ${JSON.stringify(filters)}`, () => askNumbers(SPANS[name][0], zone, filters), ['device_commands'], PAUSE_MS);
  return html`<div class="page">
    <div class="head"><h1>Numbers</h1><span class="hint">commands queued within the time, days in ${zone}</span></div>
    <nav class="tabs" aria-label="How far back">${Object.entries(SPANS).map(([one, [, words]]) => html`<a key=${one} href=${link('numbers', { ...filters, span: one })}
      aria-current=${one === name ? 'true' : undefined}>${words}</a>`)}</nav>
    <${Filters} params=${params} known=${query.data} />
    <${Answer} query=${query}>${(rows) => (rows.all.commands ? html`<${Shown} rows=${rows} filters=${filters} span=${name} zone=${zone} />`
      : html`<${Nothing} filtered=${Object.keys(filters).length > 0} span=${name} filters=${filters} />`)}</${Answer}>
  </div>`;
}

/** The zone of the site, or the one that all sites share; else UTC. */
function zoneOfDays(sites, { site, company }) {
  const zones = new Set([...sites.values()].filter((one) => (!site || one.site_id === site) && (!company || one.company_id === company))
    .map((one) => one.timezone || 'UTC'));
  return zones.size === 1 ? [...zones][0] : 'UTC';
}

async function askNumbers(days, zone, filters) {
  const rows = await answer(project().rpc('fn_command_numbers', { p_days: days, p_timezone: zone, p_command_type: filters.type ?? null,
    p_site_id: filters.site ?? null, p_device_id: filters.device ?? null, p_company_id: filters.company ?? null }));
  const of = (dimension) => rows.filter((row) => row.dimension === dimension);
  const mostLost = (a, b) => b.lost - a.lost || b.commands - a.commands;
  return { all: of('all')[0], days: of('day'), types: of('type').sort(mostLost), sites: of('site').sort(mostLost) };
}

function Filters({ params, known }) {
  const { sites, companies } = useStore(session);
  const chosen = params.get('type');
  const types = [...new Set([...Object.keys(TYPES), ...(known?.types ?? []).map((row) => row.value), ...(chosen ? [chosen] : [])])];
  const choice = (name, label, all, options) => html`<${ChoiceFilter} name=${name} label=${label} all=${all} options=${options} params=${params} />`;
  return html`<div class="filters" role="search">
    ${choice('type', 'Type', 'every type', types.map((type) => [type, TYPES[type] ?? type]))}
    ${choice('site', 'Site', 'every site', [...sites.values()].map((site) => [site.site_id, site.name]))}
    ${companies.size > 1 && choice('company', 'Company', 'every company', [...companies])}
    ${params.get('device') && html`<${Chip} name="device" id=${params.get('device')} words="one device" ask=${askDeviceName} />`}
    ${FILTERS.some((name) => params.get(name)) && html`<a class="button" href=${link('numbers', { span: params.get('span') })}>Clear</a>`}
  </div>`;
}

function Shown({ rows, filters, span: name, zone }) {
  const listOf = (row, more) => link('commands', { ...filters, from: row.begins_at, to: row.ends_at, ...more });
  const narrowed = (filter) => (row) => row.value && link('numbers', { ...filters, span: name, [filter]: row.value });
  return html`
    <${Tiles} of=${rows.all} listOf=${listOf} />
    ${rows.days.length > 1 && html`<${Charts} rows=${rows} zone=${zone} />`}
    <${Rows} title="By day" hint="the latest first" rows=${rows.days} listOf=${listOf} first="Day"
      name=${(row) => html`<span title=${`from ${utc(row.begins_at)} to ${utc(row.ends_at)}`}>${dayName(row.begins_at, zone)}</span>`} />
    <div class="split even">
      <${Rows} title="By type" hint="most lost first" rows=${rows.types} listOf=${(row, more) => listOf(row, { type: row.value, ...more })} first="Type"
        href=${narrowed('type')} name=${(row) => TYPES[row.value] ?? cut(row.value, 40)} />
      <${Rows} title="By site" hint="most lost first" rows=${rows.sites} listOf=${(row, more) => row.value && listOf(row, { site: row.value, ...more })} first="Site"
        href=${narrowed('site')} name=${(row) => (row.value ? cut(row.name, 40) : 'no site')} />
    </div>`;
}

function Tiles({ of, listOf }) {
  const tiles = [
    ['Commands', count(of.commands), of.cancelled ? `${count(of.cancelled)} cancelled` : 'none cancelled', {}],
    ['Done', count(of.succeeded), 'the device did it', { status: 'acknowledged' }],
    ['Lost', count(of.lost), 'failed, rejected or expired', { status: 'lost' }, of.lost ? 'bad' : ''],
    ['Open', count(of.open), 'may still happen', { status: 'open' }],
    ['Success', percent(of.success_rate), 'of those that ended', { status: of.lost ? 'lost' : 'acknowledged' }, of.success_rate !== null && of.success_rate < 0.9 ? 'warn' : ''],
    ['Answer after', span(of.median_seconds_to_answer), 'half of them sooner', { status: 'acknowledged' }],
    ['Slow answers', span(of.p95_seconds_to_answer), '95 % of them sooner', { status: 'acknowledged' }],
  ];
  return html`<section class="tiles" aria-label="In all">${tiles.map(([name, value, more, filter, tone]) => html`<a key=${name} class=${`tile ${tone ?? ''}`} href=${listOf(of, filter)}>
    <span class="name">${name}</span><span class="value">${value}</span><span class="more">${more}</span></a>`)}</section>`;
}

const CHARTS = [
  { name: 'Success', column: 'success_rate', say: percent, bounds: [0, 1] },
  { name: 'Lost', column: 'lost', say: (value) => count(value), tick: (value) => (Number.isInteger(value) ? count(value) : ''), bounds: [0, Infinity] },
  { name: 'Answer after, median', column: 'median_seconds_to_answer', say: span, bounds: [0, Infinity] },
  { name: 'Answer after, 95 %', column: 'p95_seconds_to_answer', say: span, bounds: [0, Infinity] },
];

/** The days as lines; the table below says the same. */
function Charts({ rows, zone }) {
  const days = useMemo(() => [...rows.days].reverse(), [rows]);
  const from = Date.parse(days[0].begins_at) - HALF_A_DAY_MS;
  const until = Date.parse(days.at(-1).ends_at) - HALF_A_DAY_MS;
  return html`<section class="panel charts" aria-label="By day, as charts">${CHARTS.map((chart) => html`<${DayChart} key=${chart.name} chart=${chart} days=${days} from=${from} until=${until} zone=${zone} />`)}</section>`;
}

function DayChart({ chart: { column, ...chart }, days, from, until, zone }) {
  const [width, measure] = useWidth();
  const points = useMemo(() => days.filter((day) => day[column] !== null).map((day) => [Date.parse(day.begins_at), Number(day[column])]), [days]);
  return html`<div class="axis" ref=${measure}>${points.length ? html`<${Chart} ...${chart} points=${points} from=${from} until=${until} zone=${zone} width=${width} dated
      sayAt=${(ms) => dayName(new Date(ms).toISOString(), zone)} />`
    : html`<p class="hint none-yet">${chart.name}: no device has answered yet.</p>`}</div>`;
}

function Rows({ title, hint, rows, listOf, first, name, href }) {
  const cell = (row, value, more, tone = '') => {
    const address = listOf(row, more);
    return html`<td class="number">${address ? html`<a class=${tone} href=${address}>${value}</a>` : value}</td>`;
  };
  return html`<section class="panel"><header><h2>${title}</h2><span class="hint">${hint}</span></header>
    <div class="scroll" tabindex="0" role="region" aria-label=${title}><table class="plain numbers"><thead><tr><th scope="col">${first}</th>
      ${['Commands', 'Done', 'Lost', 'Success', 'Median', '95 %'].map((words) => html`<th key=${words} scope="col" class="number">${words}</th>`)}</tr></thead>
    <tbody>${rows.map((row) => html`<tr key=${row.value ?? ''}><th scope="row">${href?.(row) ? html`<a href=${href(row)}>${name(row)}</a>` : name(row)}</th>
      ${cell(row, count(row.commands), {})}${cell(row, count(row.succeeded), { status: 'acknowledged' })}
      ${cell(row, count(row.lost), { status: 'lost' }, row.lost ? 'lost' : '')}
      ${cell(row, percent(row.success_rate), { status: row.lost ? 'lost' : 'acknowledged' }, row.success_rate !== null && row.success_rate < 0.9 ? 'warned' : '')}
      ${cell(row, span(row.median_seconds_to_answer), { status: 'acknowledged' })}${cell(row, span(row.p95_seconds_to_answer), { status: 'acknowledged' })}
    </tr>`)}</tbody></table></div></section>`;
}

function Nothing({ filtered, span: name, filters }) {
  const further = { '1d': '7d', '7d': '30d', '30d': '90d' }[name];
  return html`<${Empty} title="No commands in this time">
    ${further && html`<a href=${link('numbers', { ...filters, span: further })}>Look back ${plural(SPANS[further][0], 'day')}</a>. `}
    ${filtered && html`<a href=${link('numbers', { span: name })}>Count every type, site and device</a>. `}
    ${!further && !filtered && (mayOperate() ? html`<a href=${link('commands/new')}>Queue the first</a>.` : 'Numbers appear as soon as somebody queues a command.')}</${Empty}>`;
}
