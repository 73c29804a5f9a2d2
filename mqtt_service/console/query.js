// Questions to the project that are asked again when something changes.

import { useCallback, useEffect, useRef, useState } from './vendor/preact-htm.js';
import { onChange } from './live.js';

/**
 * What `ask` returns, asked again when `key` or one of the `tables` changes, and by polling where Realtime is silent.
 * What was there before stays while a new answer is awaited, or fails to come.
 * @param {string} key what the question depends on; null: do not ask
 * @param {() => Promise<T>} ask see `answer` in api.js, which throws errors in words
 * @param {string[]} tables e.g. ['device_commands']
 * @param {number} pause at least so many milliseconds from one asking to the next that a change causes
 * @returns {{data: T | undefined, error: Error | undefined, loading: boolean, refresh: () => void}}
 * @template T
 */
export function useQuery(key, ask, tables = [], pause = 0) {
  const [state, setState] = useState({ key: undefined, data: undefined, error: undefined, loading: true });
  const asked = useRef(ask);
  asked.current = ask;
  const running = useRef({ number: 0, busy: false, again: false });
  const refresh = useCallback(async () => {
    const run = running.current;
    if (key === null) return;
    if (run.busy) { run.again = true; return; }
    run.busy = true;
    const number = run.number;
    const outcome = await asked.current().then((data) => ({ data, error: undefined }), (error) => ({ error }));
    run.busy = false;
    if (number === run.number) {
      setState((before) => ({ ...(before.key === key ? before : {}), ...outcome, key, loading: false }));
    }
    if (run.again) { run.again = false; refresh(); }
  }, [key]);
  useEffect(() => {
    running.current = { number: running.current.number + 1, busy: false, again: false };
    refresh();
    const stop = onChange(tables, refresh, pause);
    return () => { running.current.number += 1; stop(); };
  }, [key, refresh]);
  return state.key === key
    ? { ...state, refresh }
    : { data: undefined, error: undefined, loading: key !== null, refresh };
}

/**
 * Asks again every so often while the view is there: for what no table tells, such as the counts of a rollout.
 * @param {() => void} refresh
 * @param {number | null} every milliseconds; null: not now
 */
export function useAgain(refresh, every) {
  const asked = useRef(refresh);
  asked.current = refresh;
  useEffect(() => {
    if (every === null) return undefined;
    const timer = setInterval(() => document.hidden || asked.current(), every);
    return () => clearInterval(timer);
  }, [every]);
}
