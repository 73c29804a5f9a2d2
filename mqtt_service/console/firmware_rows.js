// Firmware releases, and which versions devices run.

import { answer, answerWhole } from './api.js';
import { project } from './session.js';

const MOST = 500; // releases that are listed

/** All releases, the newest first. */
export function askReleases() {
  return answer(project().from('firmware_releases').select('*').order('created_at', { ascending: false }).limit(MOST));
}

/** One release with what became of its commands, {release, updates: {verified, unverified, open, lost}}; null: there is none. */
export async function askRelease(id) {
  const release = await answer(project().from('firmware_releases').select('*').eq('release_id', id).maybeSingle());
  if (!release) return null;
  const counted = async (narrow) => (await answerWhole(narrow(project().from('device_commands')
    .select('command_id', { count: 'exact', head: true }).eq('release_id', id)))).count;
  const [verified, unverified, open, lost] = await Promise.all([
    counted((query) => query.not('verified_at', 'is', null)),
    counted((query) => query.eq('status', 'acknowledged').is('verified_at', null)),
    counted((query) => query.or('status.in.(pending,sent),and(status.eq.failed,due_at.not.is.null)')),
    counted((query) => query.or('status.in.(rejected,expired),and(status.eq.failed,due_at.is.null)')),
  ]);
  return { release, updates: { verified, unverified, open, lost } };
}

/** A version written in one way: 1.4, 1.4.0, v1.4.0 and 1.4.0+b7 are one, as for the database. */
export function plainVersion(text) {
  const found = /^v?(\d+(?:\.\d+){0,5})(-[0-9a-z-]+(?:\.[0-9a-z-]+)*)?(?:\+[0-9a-z.-]*)?$/i.exec(String(text).trim());
  if (!found) return text;
  const numbers = found[1].split('.').map((number) => number.replace(/^0+(?=\d)/, ''));
  while (numbers.length > 1 && numbers.at(-1) === '0') numbers.pop();
  return numbers.join('.') + (found[2] ?? '');
}

/** The devices that run a release, of all `devices`: of its company, with its version, and its hardware if it names one. */
export function runningOn(release, devices) {
  const version = plainVersion(release.version);
  return devices.filter((device) => device.company_id === release.company_id && device.firmware_version
    && plainVersion(device.firmware_version) === version && (!release.hardware || device.hardware_version === release.hardware));
}
