// Filters of a list, kept in the address.

import { html, useRef } from '../vendor/preact-htm.js';
import { cut } from '../format.js';
import { setParams } from '../route.js';

const PAUSE_MS = 120; // after the last letter

/**
 * One of several values.
 * @param {{name: string, label: string, all: string, options: [string, string][], params: URLSearchParams}} props
 *   all: words for no filter; options: each value with its words
 */
export function ChoiceFilter({ name, label, all, options, params }) {
  const chosen = params.get(name) ?? '';
  return html`<select aria-label=${label} value=${chosen} onChange=${(event) => setParams({ [name]: event.target.value })}>
    <option value="">${all}</option>${options.map(([value, words]) => html`<option key=${value} value=${value} selected=${value === chosen}>${cut(words, 50)}</option>`)}</select>`;
}

/** What one types, as soon as one pauses; `/` puts the cursor there. @param {{label: string, placeholder: string, params: URLSearchParams}} props */
export function SearchFilter({ label, placeholder, params }) {
  const timer = useRef();
  const search = (event) => {
    const text = event.target.value.trim();
    clearTimeout(timer.current);
    timer.current = setTimeout(() => setParams({ q: text }, { replace: true }), PAUSE_MS);
  };
  return html`<input type="search" data-search placeholder=${`${placeholder}  ( / )`} aria-label=${label} value=${params.get('q') ?? ''}
    onInput=${search} onKeyDown=${(event) => event.key === 'Escape' && event.target.blur()} />`;
}
