// Which project this console is for: config.json beside the files, served by a worker or put there by hand.

import { makeStore } from './store.js';

/** What config.json says, once it is read. */
export const config = makeStore(null);

/**
 * Reads config.json.
 * @returns {Promise<{supabase_url: string, publishable_key: string, served_by?: string}>}
 *   served_by: 'worker', 'laptop' or 'stack'; undefined on a static host.
 * @throws {Error} whose message says what to do.
 */
export async function readConfig() {
  let answer;
  try {
    answer = await fetch('config.json', { cache: 'no-cache' });
  } catch {
    throw new Error('This host does not answer. Check the network, then reload the page.');
  }
  const config = answer.ok ? await answer.json().catch(() => null) : null;
  if (!config?.supabase_url || !config?.publishable_key) {
    throw new Error('config.json is missing or incomplete. Put {"supabase_url": "…", "publishable_key": "…"} '
      + 'beside the console’s files.');
  }
  return config;
}
