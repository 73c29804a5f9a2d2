// A state in a word, with a sign and a colour.

import { html } from '../vendor/preact-htm.js';

/** @param {{word: string, sign?: string, tone?: string, means?: string}} props means: what one reads on hover */
export function Pill({ word, sign = '·', tone = '', means = '' }) {
  return html`<span class=${`pill ${tone}`} title=${means}><span aria-hidden="true">${sign}</span><span class="word">${word}</span></span>`;
}
