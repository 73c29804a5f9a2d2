// What happened to a device, on one axis: a lane for each kind, a mark for each moment.

import { html } from '../vendor/preact-htm.js';
import { STATUSES } from './command_words.js';
import { GUTTER, RIGHT, ticksOf } from './axis.js';
import { cut, fullTime } from '../format.js';

export const KINDS = { wake: 'Wakes', command: 'Commands', picture: 'Pictures', reading: 'Readings', event: 'Events' };
const LANE = 26; // px
const HEAD = 22;

/** How a moment is coloured: good, busy, warn, bad or ''. */
export function toneOf(moment) {
  if (moment.kind === 'command') return STATUSES[moment.details?.to ?? moment.what.split(' ')[1]?.replace(/:.*/, '')]?.tone ?? '';
  if (moment.kind === 'picture') return / failed/.test(moment.what) ? 'bad' : 'good';
  if (moment.kind === 'event') return /failed|invalid/.test(moment.what) ? 'warn' : '';
  return 'accent';
}

/**
 * @param {object} props
 * @param {{happened_at: string, kind: string, what: string, about: string | null, details: any}[]} props.moments
 * @param {number} props.from ms
 * @param {number} props.until ms
 * @param {string} props.zone
 * @param {number} props.width px
 * @param {(moment: object) => void} props.onOpen
 */
export function Lanes({ moments, from, until, zone, width, onOpen }) {
  if (!width) return null;
  const x = (at) => GUTTER + (at - from) / (until - from) * (width - GUTTER - RIGHT);
  const kinds = Object.keys(KINDS);
  const height = HEAD + kinds.length * LANE + 4;
  const y = (kind) => HEAD + kinds.indexOf(kind) * LANE + LANE / 2;
  const summary = kinds.map((kind) => `${moments.filter((moment) => moment.kind === kind).length} ${KINDS[kind].toLowerCase()}`).join(', ');
  return html`<svg class="lanes" width=${width} height=${height} viewBox=${`0 0 ${width} ${height}`} role="img"
      aria-label=${`${summary}; the list below names each`}>
    ${ticksOf(from, until, zone, width).map((tick) => html`<g key=${tick.at}><line class="grid" x1=${x(tick.at)} x2=${x(tick.at)} y1=${HEAD - 4} y2=${height} />
      <text class="tick" x=${x(tick.at)} y="12" text-anchor="middle">${tick.text}</text></g>`)}
    ${kinds.map((kind) => html`<g key=${kind}><line class="lane" x1=${GUTTER} x2=${width - RIGHT} y1=${y(kind)} y2=${y(kind)} />
      <text class="name" x="0" y=${y(kind) + 4}>${KINDS[kind]}</text></g>`)}
    ${ties(moments).map(([key, first, last]) => html`<line key=${key} class="tie" x1=${x(first)} x2=${x(last)} y1=${y('command')} y2=${y('command')} />`)}
    ${moments.filter((moment) => kinds.includes(moment.kind)).map((moment) => html`<${Mark} key=${`${moment.kind} ${moment.happened_at} ${moment.what} ${moment.about}`}
      x=${x(Date.parse(moment.happened_at))} y=${y(moment.kind)} moment=${moment} zone=${zone} onOpen=${onOpen} />`)}
  </svg>`;
}

/** For each command, from its first moment in sight to its last. */
function ties(moments) {
  const spans = new Map();
  for (const moment of moments) {
    if (moment.kind !== 'command') continue;
    const at = Date.parse(moment.happened_at);
    const [first, last] = spans.get(moment.about) ?? [at, at];
    spans.set(moment.about, [Math.min(first, at), Math.max(last, at)]);
  }
  return [...spans].filter(([, [first, last]]) => last > first).map(([key, [first, last]]) => [key, first, last]);
}

function Mark({ x, y, moment, zone, onOpen }) {
  const title = html`<title>${fullTime(moment.happened_at, zone)}: ${cut(moment.what, 200)}</title>`;
  const common = { class: `mark ${toneOf(moment)}`, onClick: moment.about ? () => onOpen(moment) : undefined };
  if (moment.kind === 'wake') return html`<path ...${common} d=${`M${x} ${y - 7}V${y + 7}`}>${title}</path>`;
  if (moment.kind === 'picture') return html`<rect ...${common} x=${x - 5} y=${y - 5} width="10" height="10" rx="2">${title}</rect>`;
  if (moment.kind === 'event') return html`<path ...${common} d=${`M${x} ${y - 6}L${x + 6} ${y}L${x} ${y + 6}L${x - 6} ${y}Z`}>${title}</path>`;
  return html`<circle ...${common} cx=${x} cy=${y} r=${moment.kind === 'reading' ? 3 : 5}>${title}</circle>`;
}
