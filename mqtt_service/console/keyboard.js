// Keys: / search, j and k up and down, enter opens, ? says so. None counts while one writes or a dialog is open.

import { useEffect, useRef } from './vendor/preact-htm.js';

/**
 * Calls keys[event.key] while the view is there.
 * @param {Record<string, (event: KeyboardEvent) => void>} keys
 */
export function useKeys(keys) {
  const current = useRef(keys);
  current.current = keys;
  useEffect(() => {
    const listen = (event) => {
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || isBusy(event)) return;
      const handler = current.current[event.key];
      if (handler) handler(event);
    };
    window.addEventListener('keydown', listen);
    return () => window.removeEventListener('keydown', listen);
  }, []);
}

function isBusy(event) {
  const target = event.target;
  if (document.querySelector('dialog[open]')) return true;
  if (target.closest?.('input:not([type=checkbox]), textarea, select, [contenteditable]')) return true;
  return event.key === 'Enter' && Boolean(target.closest?.('a, button, summary'));
}

/** Puts the cursor into the view's search field. */
export function focusSearch(event) {
  const field = document.querySelector('[data-search]');
  if (field) { event.preventDefault(); field.focus(); field.select(); }
}
