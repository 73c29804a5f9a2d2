// What a command carries or a device answers: as facts; as JSON where one asks for it.

import { html } from '../vendor/preact-htm.js';
import { cut } from '../format.js';

const LONGEST = 20000; // characters that are shown

/** @param {{value: any, none: string}} props none: words where there is nothing */
export function Payload({ value, none }) {
  if (value === null || value === undefined || isEmpty(value)) return html`<p class="hint">${none}</p>`;
  const isObject = typeof value === 'object' && !Array.isArray(value);
  const text = cut(JSON.stringify(value, null, 2), LONGEST);
  if (!isObject) return html`<pre tabindex="0">${text}</pre>`;
  return html`<dl class="facts">${Object.entries(value).slice(0, 50).map(([key, one]) => html`
      <dt key=${key}>${cut(key, 60)}</dt><dd>${cut(typeof one === 'object' ? JSON.stringify(one) : String(one), 500)}</dd>`)}</dl>
    <details class="json"><summary class="hint">As JSON</summary><pre tabindex="0">${text}</pre></details>`;
}

const isEmpty = (value) => typeof value === 'object' && Object.keys(value).length === 0;
