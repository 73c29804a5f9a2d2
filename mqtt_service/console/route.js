// Where one is: #/view/part?filter=value. Every view and filter has an address that can be sent to somebody.

import { makeStore } from './store.js';

/** {view, parts: string[], params: URLSearchParams} of the address. */
export const route = makeStore(read());
window.addEventListener('hashchange', () => route.set(read()));

function read() {
  const [path, query = ''] = window.location.hash.replace(/^#\/?/, '').split('?', 2);
  const [view, ...parts] = path.split('/').map(decode);
  return { view, parts, params: new URLSearchParams(query) };
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/**
 * The address of a view: link('commands', { status: 'failed' }), link('commands/<id>').
 * Empty values are left out.
 */
export function link(path, params = {}) {
  const query = new URLSearchParams(Object.entries(params).filter(([, value]) => value !== undefined && value !== null && value !== ''));
  const text = query.toString();
  return `#/${path}${text ? `?${text}` : ''}`;
}

/** Goes there; `replace` keeps it out of the browser's history (each letter of a search). */
export function go(address, { replace = false } = {}) {
  if (replace) window.history.replaceState(null, '', address);
  else window.history.pushState(null, '', address);
  route.set(read());
}
window.addEventListener('popstate', () => route.set(read()));

/** Changes some filters of this view, and keeps the others. */
export function setParams(changes, options) {
  const { view, parts, params } = route.get();
  const path = [view, ...parts].map(encodeURIComponent).join('/');
  go(link(path, { ...Object.fromEntries(params), ...changes }), options);
}
