// What stands where there is nothing to show: empty, still loading, or failed.

import { html } from '../vendor/preact-htm.js';

/** Nothing here, and what to do next. @param {{title: string, children?: any}} props */
export function Empty({ title, children }) {
  return html`<div class="empty"><h2>${title}</h2><p>${children}</p></div>`;
}

/** An error in words with a way to try again. @param {{error: import('../errors.js').ConsoleError, retry: () => void}} props */
export function Failed({ error, retry }) {
  return html`<div class="empty failed" role="alert"><h2>${error.message}</h2><p>${error.todo}</p>
    ${retry && html`<button onClick=${retry}>Try again</button>`}</div>`;
}

export function Loading() {
  return html`<div class="empty loading" role="status"><p>Loading…</p></div>`;
}

/**
 * A query of `useQuery`: its error, or that it loads, or what `children` make of its data.
 * @param {{query: object, children: (data: any) => any}} props
 */
export function Answer({ query, children }) {
  if (query.data !== undefined) return children(query.data);
  return query.error ? html`<${Failed} error=${query.error} retry=${query.refresh} />` : html`<${Loading} />`;
}
