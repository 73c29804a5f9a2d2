// One axis of time for everything that is drawn about a device: its ends, its ticks in the site's zone, its width.

import { useLayoutEffect, useState } from '../vendor/preact-htm.js';

/** Room at the left for the names of lanes and for values, px. */
export const GUTTER = 76;
export const RIGHT = 14;

/** How far one looks back, as people say it. */
export const SPANS = { '6h': [6, '6 hours'], '24h': [24, 'a day'], '3d': [72, '3 days'], '7d': [168, 'a week'], '30d': [720, '30 days'] };
export const spanMs = (span) => (SPANS[span] ?? SPANS['24h'])[0] * 3600e3;

/** The width of the element, kept up to date. @returns {[number, (element: Element | null) => void]} */
export function useWidth() {
  const [element, setElement] = useState(null);
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    if (!element) return undefined;
    const measure = () => setWidth(Math.floor(element.clientWidth));
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    return () => observer.disconnect();
  }, [element]);
  return [width, setElement];
}

const STEPS_MIN = [5, 15, 30, 60, 180, 360, 720, 1440, 2880, 7200];

/** Ticks at round times of the zone: [{at: ms, text}]; at most one each 70 px. */
export function ticksOf(from, until, zone, width) {
  const most = Math.max(2, Math.floor((width - GUTTER - RIGHT) / 70));
  const step = (STEPS_MIN.find((minutes) => (until - from) / (minutes * 60e3) <= most) ?? 14400) * 60e3;
  const offset = offsetOf(from, zone);
  const ticks = [];
  for (let at = Math.ceil((from + offset) / step) * step - offset; at <= until; at += step) {
    const here = at + offset - offsetOf(at, zone); // the clock may change on the way
    if (here >= from && here <= until) ticks.push({ at: here, text: tickText(here, zone, step) });
  }
  return ticks;
}

function tickText(at, zone, step) {
  const time = formatted(at, zone, { hour: '2-digit', minute: '2-digit' });
  return step >= 1440 * 60e3 || time === '00:00' ? formatted(at, zone, { day: 'numeric', month: 'short' }) : time;
}

/** By how many ms the zone's clock is ahead of UTC then. */
function offsetOf(at, zone) {
  const parts = Object.fromEntries(formatter(zone, { year: 'numeric', month: 'numeric', day: 'numeric', hour: 'numeric', minute: 'numeric', second: 'numeric', hourCycle: 'h23' })
    .formatToParts(new Date(at)).map(({ type, value }) => [type, Number(value)]));
  return Date.UTC(parts.year, parts.month - 1, parts.day, parts.hour, parts.minute, parts.second) - Math.floor(at / 1000) * 1000;
}

const formatted = (at, zone, options) => formatter(zone, options).format(new Date(at));

const FORMATTERS = new Map();
function formatter(zone, options) {
  const key = `${zone} ${JSON.stringify(options)}`;
  if (!FORMATTERS.has(key)) {
    let made;
    try {
      made = new Intl.DateTimeFormat('en-GB', { ...options, timeZone: zone });
    } catch {
      made = new Intl.DateTimeFormat('en-GB', { ...options, timeZone: 'UTC' });
    }
    FORMATTERS.set(key, made);
  }
  return FORMATTERS.get(key);
}
