// A time: in the site's zone, with UTC on hover.

import { html } from '../vendor/preact-htm.js';
import { ago, clock, fullTime, utc } from '../format.js';
import { useNow } from '../store.js';

/**
 * @param {{at: string | null, zone?: string, as?: 'ago' | 'clock' | 'full' | 'both'}} props zone: of the site
 */
export function Time({ at, zone, as = 'ago' }) {
  const now = useNow();
  if (!at) return html`<span class="none">—</span>`;
  const words = { ago: () => ago(at, now), clock: () => clock(at, zone, now), full: () => fullTime(at, zone),
    both: () => `${clock(at, zone, now)}, ${ago(at, now)}` }[as]();
  return html`<time datetime=${at} title=${`${fullTime(at, zone)} · ${utc(at)}`}>${words}</time>`;
}
