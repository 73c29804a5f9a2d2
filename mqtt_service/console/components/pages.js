// Rows page by page: the newest first, further ones where the last page ended (keyset, so that the 200th page is as fast
// as the first), and what is in sight kept up to date.

import { useCallback, useEffect, useRef, useState } from '../vendor/preact-htm.js';
import { onChange } from '../live.js';

/**
 * @param {string} key what the rows depend on: the filters
 * @param {object} source
 * @param {(after: any | null) => Promise<any[]>} source.page the rows after this one, or the first page
 * @param {(keys: string[]) => Promise<any[]>} source.again these rows as they are now
 * @param {(row: any) => string} source.keyOf
 * @param {(a: any, b: any) => number} source.compare the order of rows
 * @param {number} source.size rows of a full page
 * @param {string[]} tables which changes matter
 * @returns {{rows, error, loading, done, more, sight, refresh}}
 */
export function usePages(key, source, tables) {
  const [state, setState] = useState({ key, rows: [], error: undefined, loading: true, done: false });
  const now = useRef({ number: 0, busy: false });
  const inSight = useRef([]);
  const current = useRef(state);
  const set = (change) => { current.current = { ...current.current, ...change }; setState(current.current); };

  const load = useCallback(async (after) => {
    const run = now.current;
    if (run.busy) return;
    run.busy = true;
    try {
      const page = await source.page(after);
      if (run !== now.current) return;
      const rows = after ? merge(current.current.rows, page, source) : page;
      set({ key, rows, error: undefined, loading: false, done: page.length < source.size });
    } catch (error) {
      if (run === now.current) set({ error, loading: false });
    } finally {
      run.busy = false;
    }
  }, [key]);

  const refresh = useCallback(async () => {
    const run = now.current;
    const { rows } = current.current;
    if (!rows.length) { load(null); return; }
    if (run.refreshing) { run.again = true; return; }
    run.refreshing = true;
    try {
      const seen = inSight.current;
      const [newest, changed] = await Promise.all([source.page(null), seen.length ? source.again(seen) : []]);
      if (run !== now.current) return;
      const here = new Set(changed.map(source.keyOf));
      const gone = new Set(seen.filter((one) => !here.has(one))); // they no longer fit the filter
      const kept = current.current.rows.filter((row) => !gone.has(source.keyOf(row)));
      set({ rows: merge(merge(kept, changed, source), newest, source), error: undefined });
    } catch (error) {
      if (run === now.current) set({ error });
    } finally {
      run.refreshing = false;
    }
    if (run.again) { run.again = false; refresh(); }
  }, [key]);

  useEffect(() => {
    now.current = { busy: false };
    inSight.current = [];
    set({ key, rows: [], error: undefined, loading: true, done: false });
    load(null);
    const stop = onChange(tables, refresh);
    return () => { now.current = { busy: false }; stop(); };
  }, [key]);

  const more = useCallback(() => {
    const { rows, done, error } = current.current;
    if (!done && !error && rows.length) load(rows[rows.length - 1]);
  }, [load]);
  const sight = useCallback((keys) => { inSight.current = keys; }, []);
  return { ...state, more, sight, refresh };
}

/** Both lists as one, in order, the second's rows in place of the first's. */
function merge(rows, others, { keyOf, compare }) {
  if (!others.length) return rows;
  const byKey = new Map(rows.map((row) => [keyOf(row), row]));
  let isNew = false;
  for (const row of others) {
    isNew ||= !byKey.has(keyOf(row));
    byKey.set(keyOf(row), row);
  }
  const all = [...byKey.values()];
  return isNew ? all.sort(compare) : all;
}
