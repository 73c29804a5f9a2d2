// The views, in the order of the navigation. Each is one file, fetched when it is opened first.

/** @type {{path: string, key: string, title: string, load: () => Promise<{default: Function}>}[]} key: goes there after g */
export const VIEWS = [
  { path: 'now', key: 'n', title: 'Now', load: () => import('./now.js') },
  { path: 'commands', key: 'c', title: 'Commands', load: () => import('./commands.js') },
  { path: 'devices', key: 'd', title: 'Devices', load: () => import('./devices.js') },
  { path: 'schedules', key: 's', title: 'Schedules', load: () => import('./schedules.js') },
  { path: 'rollouts', key: 'r', title: 'Rollouts', load: () => import('./rollouts.js') },
  { path: 'firmware', key: 'f', title: 'Firmware', load: () => import('./firmware.js') },
];
