// What a person does with devices: map, unmap, tag, and say when they wake.

import { answer } from './api.js';
import { attempt } from './attempt.js';
import { askFirst } from './components/dialog.js';
import { say } from './components/toasts.js';
import { clock, cut, deviceName, plural } from './format.js';
import { refreshDevices } from './device_rows.js';
import { lookNow } from './live.js';
import { project, session } from './session.js';

/** Maps devices to a site: each becomes active, and gets its welcome. @returns {Promise<boolean>} whether all were */
export async function mapDevices(devices, siteId) {
  const site = session.get().sites.get(siteId);
  if (devices.length > 1 && !await askFirst({
    title: `Map ${plural(devices.length, 'device')} to ${cut(site.name)}?`, action: `Map ${plural(devices.length, 'device')}`,
    text: `${plural(devices.length, 'device')} will belong to ${cut(site.name)}, wake by its schedule, and get a welcome when each wakes next.`,
  })) return false;
  return tryIt(async () => {
    await answer(project().from('device_site_assignments').insert(devices.map((device) => ({
      device_id: device.device_id, site_id: siteId, assigned_by_user_id: session.get().user.id }))));
    const names = devices.length === 1 ? deviceName(devices[0]) : plural(devices.length, 'device');
    say(`${names} mapped to ${cut(site.name)}. The welcome goes out as soon as a worker looks, and arrives at the next wake.`);
  });
}

/** Ends the mapping of a device, after asking. */
export async function unmapDevice(device) {
  const site = session.get().sites.get(device.site_id);
  if (!await askFirst({
    title: `Unmap ${deviceName(device)}?`, action: 'Unmap it', danger: true,
    text: `1 device leaves ${cut(site?.name ?? 'its site')}. It becomes inactive: commands that wait for it fail, and it gets no more until it is mapped again. Its pictures and readings stay.`,
  })) return false;
  return tryIt(async () => {
    const ended = await answer(project().from('device_site_assignments').update({ is_active: false })
      .eq('device_id', device.device_id).eq('is_active', true).select('device_id'));
    say(ended.length ? `${deviceName(device)} is mapped to no site now.` : 'It was mapped to no site of yours: nothing was changed.');
  });
}

/** Gives a tag to devices that do not have it. */
export async function tagDevices(devices, tag, tagsOf) {
  const word = tag.trim();
  const lacking = devices.filter((device) => !tagsOf(device).includes(word));
  if (!word || !lacking.length) return true;
  return tryIt(async () => {
    await answer(project().from('device_tags').upsert(lacking.map((device) => ({ device_id: device.device_id, tag: word })),
      { onConflict: 'device_id,tag', ignoreDuplicates: true }));
    if (devices.length > 1) say(`${plural(lacking.length, 'device')} tagged ${cut(word)}.`);
  });
}

/** Takes a tag from a device. */
export async function untagDevice(device, tag) {
  return tryIt(() => answer(project().from('device_tags').delete().match({ device_id: device.device_id, tag })));
}

/** Gives a device a schedule of its own; '': its site's. Throws ConsoleError. */
export async function setDeviceSchedule(device, cron) {
  const now = await answer(project().rpc('fn_set_device_schedule', { p_device_id: device.device_id, p_cron: cron }));
  say(`${deviceName(device)} wakes by ${now.cron} from its next wake on; by the schedule that is ${clock(now.next_run_at, now.timezone)}.`);
  await after();
}

/** Changes a site's schedule and zone. Throws ConsoleError. */
export async function setSiteSchedule(site, cron, timezone) {
  const now = await answer(project().rpc('fn_set_site_schedule', { p_site_id: site.site_id, p_cron: cron, p_timezone: timezone }));
  const sites = new Map(session.get().sites);
  sites.set(site.site_id, { ...site, wake_schedule_cron: cron || null, timezone: now.timezone });
  session.set({ ...session.get(), sites });
  say(`${plural(now.devices, 'device')} of ${cut(site.name)} will wake by ${now.cron} (${now.timezone}), each from its next wake on.`);
  await after();
}

const tryIt = (doIt) => attempt(doIt, after);

async function after() {
  await refreshDevices();
  lookNow();
}
