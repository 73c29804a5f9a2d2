// Asking the project: one place where answers become data, and errors become words.

import { inWords } from './errors.js';
import { makeStore } from './store.js';

/** Whether the project answers; the banner at the top says so. */
export const reachable = makeStore(true);

/**
 * Awaits a query of supabase-js.
 * @param {PromiseLike<{data: any, error: any, status?: number, count?: number | null}>} query
 * @returns {Promise<any>} its data
 * @throws {import('./errors.js').ConsoleError}
 */
export async function answer(query) {
  return (await answerWhole(query)).data;
}

/** As `answer`, with the count: {data, count}. */
export async function answerWhole(query) {
  let found;
  try {
    found = await query;
  } catch (error) {
    found = { error, status: 0 };
  }
  if (!found.error) {
    reachable.set(true);
    return found;
  }
  const error = inWords(found.error, found.status ?? found.error.status ?? 0);
  reachable.set(error.kind !== 'network');
  if (error.kind === 'session') expired();
  throw error;
}

let expired = () => {};
/** Call `handler` when the project says that the session has ended. */
export function onExpired(handler) {
  expired = handler;
}
