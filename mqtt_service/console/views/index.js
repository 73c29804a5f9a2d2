// The views, in the order of the navigation. Each is one file, fetched when it is opened first.

/** @type {{path: string, title: string, load: () => Promise<{default: Function}>}[]} */
export const VIEWS = [
  { path: 'now', title: 'Now', load: () => import('./now.js') },
  { path: 'commands', title: 'Commands', load: () => import('./commands.js') },
  { path: 'devices', title: 'Devices', load: () => import('./devices.js') },
  { path: 'numbers', title: 'Numbers', key: 'u', load: () => import('./numbers.js') },
];
