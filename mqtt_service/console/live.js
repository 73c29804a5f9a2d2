// What changes while one looks: by Realtime, and by polling where Realtime is silent.

import { makeStore } from './store.js';
import { reachable } from './api.js';

/** How changes arrive: 'realtime' or 'polling'. */
export const how = makeStore('polling');

const TABLES = ['device_commands', 'devices'];
const POLL_MS = 3000; // without Realtime
const CHECK_MS = 20000; // with it: an event may be lost, and some tables are not published
const PAUSE_MS = 400; // between two looks, however many events come
const JOIN_AGAIN_MS = 3000;

const listeners = new Set();
let client = null;
let channel = null;
let lastLook = 0;
let pending = new Set();
let timer = null;

/**
 * Calls `look` when one of the tables changes, and as often as it takes where no changes are told.
 * @param {string[]} tables none: only when everything is looked at again
 * @param {() => void} look
 * @param {number} pause at least so many milliseconds between two looks
 * @returns {() => void} ends it
 */
export function onChange(tables, look, pause = 0) {
  const listener = { tables, look, pause, at: 0 };
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Looks at everything again now: after an action, or when the project answers again. */
export function lookNow() {
  lookAt([...listeners]);
}

function lookAt(some) {
  lastLook = Date.now();
  for (const listener of some) {
    listener.at = lastLook;
    listener.look();
  }
}

/** Starts to listen as the signed-in user. */
export function startLive(supabase) {
  client = supabase;
  join();
  setInterval(tick, 500);
  document.addEventListener('visibilitychange', () => document.hidden || lookNow());
  window.addEventListener('online', lookNow);
}

function tick() {
  if (document.hidden || !client) return;
  const every = how.get() === 'realtime' && reachable.get() ? CHECK_MS : POLL_MS;
  if (Date.now() - lastLook >= every) lookAt([...listeners].filter((listener) => Date.now() - listener.at >= listener.pause));
}

function join() {
  const mine = client.channel('console');
  channel = mine;
  for (const table of TABLES) {
    mine.on('postgres_changes', { event: '*', schema: 'public', table }, () => changed(table));
  }
  // Joined is not yet heard: the server says by a system message when changes flow.
  mine.on('system', {}, (message) => {
    if (mine === channel && message.extension === 'postgres_changes') heard(message.status === 'ok');
  });
  mine.subscribe((status) => {
    if (mine !== channel || status === 'SUBSCRIBED') return;
    heard(false);
    channel = null;
    client.removeChannel(mine);
    setTimeout(() => client && !channel && join(), JOIN_AGAIN_MS);
  });
}

function heard(well) {
  const before = how.get();
  how.set(well ? 'realtime' : 'polling');
  if (well && before !== 'realtime') lookNow(); // what came in between
}

function changed(table) {
  pending.add(table);
  timer ??= setTimeout(tell, PAUSE_MS - Math.min(PAUSE_MS, Date.now() - told));
}

let told = 0;
function tell() {
  const tables = pending;
  pending = new Set();
  timer = null;
  told = Date.now();
  for (const listener of [...listeners]) {
    if (!listener.tables.some((table) => tables.has(table))) continue;
    if (told - listener.at < listener.pause) { // not now, but soon
      for (const table of listener.tables) if (tables.has(table)) changed(table);
    } else {
      listener.at = told;
      listener.look();
    }
  }
}

/** Ends it, on signing out. */
export function stopLive() {
  client?.removeAllChannels();
  client = channel = null;
}
