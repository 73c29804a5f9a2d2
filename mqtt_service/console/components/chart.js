// A chart of one value over time (uPlot), beside others on the same axis: they share the cursor.

import { html, useEffect, useRef, useState } from '../vendor/preact-htm.js';
import uPlot from '../vendor/uplot.js';
import { clock } from '../format.js';
import { GUTTER, RIGHT, ticksOf } from './axis.js';

const HEIGHT = 92; // px
const DATES = 24;
const together = uPlot.sync('console');

/**
 * @param {object} props
 * @param {string} props.name e.g. 'Temperature'
 * @param {(value: number) => string} props.say a value in words
 * @param {(value: number) => string} [props.tick] and at the axis
 * @param {(ms: number) => string} [props.sayAt] a time in words
 * @param {[number, number]} [props.bounds] the axis ends there
 * @param {boolean} [props.dated] with times below
 * @param {[number, number][]} props.points [ms, value], the oldest first
 * @param {number} props.from ms
 * @param {number} props.until ms
 * @param {string} props.zone
 * @param {number} props.width px
 */
export function Chart({ name, say, tick = say, sayAt, bounds = [-Infinity, Infinity], dated, points, from, until, zone, width }) {
  const place = useRef();
  const plot = useRef();
  const [at, setAt] = useState(null);
  const theme = useTheme();
  const data = [points.map(([ms]) => ms / 1000), points.map(([, value]) => value)];
  useEffect(() => {
    if (!width) return undefined;
    const made = new uPlot(options({ width, zone, tick, bounds, dated, colours: coloursOf(place.current), onCursor: setAt }), data, place.current);
    plot.current = made;
    made.setScale('x', { min: from / 1000, max: until / 1000 });
    return () => { plot.current = null; made.destroy(); };
  }, [width, theme, zone]);
  useEffect(() => {
    if (!plot.current) return;
    plot.current.setData(data, false);
    plot.current.setScale('x', { min: from / 1000, max: until / 1000 });
  }, [points, from, until]);
  const values = data[1];
  const index = at === null || !points[at] ? points.length - 1 : at;
  return html`<figure class="chart">
    <figcaption><strong>${name}</strong> <span>${say(points[index][1])}</span> <span class="hint">${sayAt ? sayAt(points[index][0]) : clock(new Date(points[index][0]).toISOString(), zone)}</span></figcaption>
    <div ref=${place} role="img" aria-label=${`${name}: from ${say(Math.min(...values))} to ${say(Math.max(...values))}, at last ${say(values.at(-1))}`}></div></figure>`;
}

function options({ width, zone, tick, bounds, dated, colours, onCursor }) {
  const ticks = (plot) => ticksOf(plot.scales.x.min * 1000, plot.scales.x.max * 1000, zone, width);
  const axis = { stroke: colours.soft, grid: { stroke: colours.line, width: 1 }, ticks: { show: false }, font: '11.5px system-ui, sans-serif' };
  return {
    width, height: HEIGHT + (dated ? DATES : 0), padding: [6, RIGHT, 2, 0], legend: { show: false },
    cursor: { sync: { key: together.key, scales: ['x', null] }, points: { size: 7 }, drag: { x: false, y: false }, y: false },
    scales: { x: { time: true }, y: { range: (_, low, high) => padded(low, high, bounds) } },
    axes: [
      { ...axis, size: dated ? DATES : 0, splits: (plot) => ticks(plot).map(({ at }) => at / 1000), values: (plot) => (dated ? ticks(plot).map(({ text }) => text) : []) },
      { ...axis, size: GUTTER, space: 26, values: (_, splits) => splits.map(tick) },
    ],
    series: [{}, { stroke: colours.accent, width: 1.6, points: { show: true, size: 4, fill: colours.accent }, spanGaps: true }],
    hooks: { setCursor: [(plot) => onCursor(plot.cursor.idx ?? null)] },
  };
}

/** Room above and below, as far as the bounds; a flat line stays in the middle. */
function padded(low, high, [least, most]) {
  if (low === null || high === null) return [0, 1];
  const room = (high - low) * 0.12 || Math.max(Math.abs(high) * 0.05, 0.5);
  return [Math.max(low - room, least), Math.min(high + room, most)];
}

/** The theme's colours, as canvas understands them. */
function coloursOf(element) {
  const probe = element.appendChild(document.createElement('i'));
  const colour = (name) => { probe.style.color = `var(--${name})`; return getComputedStyle(probe).color; };
  const found = { accent: colour('accent'), soft: colour('soft'), line: colour('line') };
  probe.remove();
  return found;
}

function useTheme() {
  const [theme, setTheme] = useState(0);
  useEffect(() => {
    const change = () => setTheme((number) => number + 1);
    const media = window.matchMedia('(prefers-color-scheme: dark)');
    media.addEventListener('change', change);
    const observer = new MutationObserver(change);
    observer.observe(document.documentElement, { attributeFilter: ['data-theme'] });
    return () => { media.removeEventListener('change', change); observer.disconnect(); };
  }, []);
  return theme;
}
