// Short words about what was done, for a few seconds; errors stay until they are closed.

import { html } from '../vendor/preact-htm.js';
import { makeStore, useStore } from '../store.js';

const toasts = makeStore([]);
let number = 0;

/** Says what was done. */
export function say(text) {
  add({ text, kind: 'done' }, 5000);
}

/** Says what went wrong: a ConsoleError. */
export function sayError(error) {
  add({ text: error.message, todo: error.todo, kind: 'error' }, 12000);
}

function add(toast, milliseconds) {
  const key = number += 1;
  toasts.set([...toasts.get().slice(-3), { ...toast, key }]);
  setTimeout(() => remove(key), milliseconds);
}

function remove(key) {
  toasts.set(toasts.get().filter((toast) => toast.key !== key));
}

export function Toasts() {
  return html`<div class="toasts" role="status" aria-live="polite">
    ${useStore(toasts).map((toast) => html`<div key=${toast.key} class=${`toast ${toast.kind}`}>
      <p><strong>${toast.text}</strong>${toast.todo && html` ${toast.todo}`}</p>
      <button class="quiet" aria-label="Close" onClick=${() => remove(toast.key)}>×</button>
    </div>`)}
  </div>`;
}
