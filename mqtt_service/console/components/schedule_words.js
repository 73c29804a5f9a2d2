// The words of recurring commands: how they do, when they run, how long their commands live.

import { html } from '../vendor/preact-htm.js';
import { cut, span } from '../format.js';
import { session } from '../session.js';
import { cronInWords } from './cron_field.js';
import { Pill } from './pill.js';
import { DEFAULT_CRON } from './wake_dialogs.js';

/** State → its sign, tone and meaning; what needs somebody first. */
export const STATES = {
  stopped: { sign: '✕', tone: 'bad', means: 'the queue stopped it, and says why; resume it when that is mended' },
  troubled: { sign: '!', tone: 'warn', means: 'it goes on, but the last time reached nobody, or was refused or skipped' },
  active: { sign: '✓', tone: 'good', means: 'it queues at its times' },
  paused: { sign: '–', tone: '', means: 'it queues nothing until somebody resumes it' },
};
const TROUBLE = /^queued 0\b|^skipped:|\brefused \d/; // as the database says it

/** @returns {keyof typeof STATES} */
export function stateOf(row) {
  if (!row.enabled) return 'paused';
  if (!row.next_run_at) return 'stopped';
  return TROUBLE.test(row.last_result ?? '') ? 'troubled' : 'active';
}

/** @param {{row: object}} props */
export function SchedulePill({ row }) {
  const state = stateOf(row);
  return html`<${Pill} ...${STATES[state]} word=${state} />`;
}

/** {cron, zone} that hold, where a schedule may leave them to its site. @param {{cron?: string, timezone?: string, target: object}} row */
export function planOf({ cron, timezone, target }) {
  const site = session.get().sites.get(target?.site);
  return { cron: cron || site?.wake_schedule_cron?.trim() || DEFAULT_CRON, zone: timezone || site?.timezone || 'UTC' };
}

/** 'every day at 6:00', 'at each wake of Alder North' */
export function whenInWords({ cron, target }) {
  return cron ? cronInWords(cron) : `at each wake of ${cut(session.get().sites.get(target.site)?.name ?? 'its site')}`;
}

const UNITS = { year: 365 * 86400, mon: 30 * 86400, day: 86400 };

/** Seconds of an interval as Postgres writes it ('1 day 02:00:00'); null: none. */
export function secondsOf(interval) {
  if (!interval) return null;
  let seconds = 0;
  for (const [, number, unit] of interval.matchAll(/(\d+) (year|mon|day)/g)) seconds += number * UNITS[unit];
  const [, hours = 0, minutes = 0, rest = 0] = /(\d+):(\d+):([\d.]+)/.exec(interval) ?? [];
  return seconds + hours * 3600 + minutes * 60 + Number(rest);
}

export const lifeInWords = (validity) => (validity ? span(secondsOf(validity)) : 'a day, or what the project has set');

/** What becomes of times that no worker saw to. */
export const MISSED = { run_once: 'queued once for all of them, as soon as a worker is back', skip: 'left out' };
