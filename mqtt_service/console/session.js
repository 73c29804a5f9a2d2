// Who is signed in, and what that person may do.
//
// The session is supabase-js's own, kept in this tab's browser storage and refreshed by it. What a person may do is
// decided by the database; the roles here only keep views from offering what would be refused.

import { answer, onExpired } from './api.js';
import { inWords } from './errors.js';
import { startLive, stopLive } from './live.js';
import { makeStore } from './store.js';

/**
 * {state: 'loading' | 'out' | 'in', reason?: string, user?: {id, email}, roles: Map<company_id, role>,
 *  companies: Map<company_id, name>, sites: Map<site_id, {site_id, name, timezone, company_id, wake_schedule_cron}>}
 */
export const session = makeStore({ state: 'loading', roles: new Map(), companies: new Map(), sites: new Map() });

let supabase = null;

/** The client of supabase-js, as the person who is signed in. */
export function project() {
  return supabase;
}

/** Opens the project that config.json names, with the session of before if there is one. */
export async function openProject(config) {
  supabase = globalThis.supabase.createClient(config.supabase_url, config.publishable_key, {
    auth: { persistSession: true, autoRefreshToken: true, detectSessionInUrl: false, storageKey: 'mqtt-console-session' },
    db: { retry: false }, // live.js asks again, and says so meanwhile
    realtime: { heartbeatIntervalMs: 10000 },
  });
  onExpired(() => leave('Your session has ended: sign in again.'));
  supabase.auth.onAuthStateChange((event) => event === 'SIGNED_OUT' && session.get().state === 'in' && leave());
  const { data } = await supabase.auth.getSession();
  if (data.session) await enter(data.session.user);
  else session.set({ ...session.get(), state: 'out' });
}

/** Signs in. Throws ConsoleError. */
export async function signIn(email, password) {
  const { data, error } = await supabase.auth.signInWithPassword({ email, password });
  if (error) throw inWords(error);
  await enter(data.user);
}

/** Ends this person's sessions, here and on all other devices; `here` only this one. */
export async function signOut(here = false) {
  await supabase.auth.signOut({ scope: here ? 'local' : 'global' });
  leave();
}

/** The strongest of the person's roles in a company, or in any: 'admin', 'operator', 'viewer' or undefined. */
export function roleIn(companyId) {
  const { roles } = session.get();
  const held = companyId ? [roles.get(companyId)] : [...roles.values()];
  return ['admin', 'operator', 'viewer'].find((role) => held.includes(role));
}

/** Whether the person may queue, cancel and retry commands of this company, or of any. */
export function mayOperate(companyId) {
  return ['admin', 'operator'].includes(roleIn(companyId));
}

/** Whether the person may map devices of this company, or of any. */
export function mayAdmin(companyId) {
  return roleIn(companyId) === 'admin';
}

/** The companies whose admin the person is, by name: [[company_id, name], …]. */
export function adminCompanies() {
  return [...session.get().companies].filter(([id]) => mayAdmin(id));
}

/** The zone in which times of a site are said; a device without site: the browser's. */
export function zoneOf(siteId) {
  return session.get().sites.get(siteId)?.timezone || undefined;
}

async function enter(user) {
  session.set({ ...session.get(), state: 'loading' });
  try {
    const [members, companies, sites] = await Promise.all([
      answer(supabase.from('company_members').select('company_id, role').eq('user_id', user.id)),
      answer(supabase.from('companies').select('company_id, name').order('name')),
      answer(supabase.from('sites').select('site_id, name, timezone, company_id, program_id, wake_schedule_cron').order('name')),
    ]);
    session.set({
      state: 'in',
      user: { id: user.id, email: user.email },
      roles: new Map(members.map((row) => [row.company_id, row.role])),
      companies: new Map(companies.map((row) => [row.company_id, row.name])),
      sites: new Map(sites.map((row) => [row.site_id, row])),
    });
    await supabase.realtime.setAuth();
    startLive(supabase);
  } catch (error) {
    if (error.kind !== 'network') { leave(`${error.message} ${error.todo}`); return; }
    session.set({ ...session.get(), state: 'waiting' });
    setTimeout(() => enter(user), 3000);
  }
}

function leave(reason) {
  stopLive();
  session.set({ state: 'out', reason, roles: new Map(), companies: new Map(), sites: new Map() });
  supabase.auth.signOut({ scope: 'local' });
}
