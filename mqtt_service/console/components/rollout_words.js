// The words of rollouts: statuses, what became of their devices, how far they are, and how many have failed.

import { html } from '../vendor/preact-htm.js';
import { count, cut, percent, plural } from '../format.js';
import { TYPES } from './command_words.js';
import { Pill } from './pill.js';

/** Status → its sign, tone, word and meaning. */
export const ROLLOUT_STATUSES = {
  awaiting_approval: { sign: '◌', tone: 'warn', word: 'to approve', means: 'another admin has to approve it' },
  running: { sign: '▸', tone: 'busy', word: 'running', means: 'it releases devices, minute by minute' },
  paused: { sign: '‖', tone: 'warn', word: 'paused', means: 'a person holds it; what was released goes on' },
  stopped: { sign: '!', tone: 'bad', word: 'stopped', means: 'too many failed' },
  finished: { sign: '✓', tone: 'good', word: 'finished', means: 'each device has its outcome' },
  cancelled: { sign: '–', tone: '', word: 'cancelled', means: 'a person ended it' },
};

/** What became of a device → its tone and meaning; in the order in which a bar shows them. */
export const DEVICE_STATES = {
  succeeded: { sign: '✓', tone: 'good', means: 'the device did it' },
  unverified: { sign: '?', tone: 'busy', means: 'it said so, and has not woken with the new version yet' },
  sent: { sign: '↗', tone: 'busy', means: 'its command is on the way' },
  pending: { sign: '○', tone: 'busy', means: 'its command waits to be sent' },
  failed: { sign: '!', tone: 'bad', means: 'its command was rejected, expired or failed for good' },
  refused: { sign: '✕', tone: 'bad', means: 'the project’s own rules refused its command' },
  cancelled: { sign: '–', tone: 'bad', means: 'its command was cancelled' },
  skipped: { sign: '·', tone: '', means: 'it was not active, and got no command' },
};

/** @param {{status: string}} props */
export const RolloutPill = ({ status }) => html`<${Pill} word=${status} ...${ROLLOUT_STATUSES[status]} />`;

/** @param {{state: string}} props */
export const DevicePill = ({ state }) => html`<${Pill} word=${state} ...${DEVICE_STATES[state]} />`;

/** What its devices get, in words. */
export function whatItSends({ command_type: type, firmware_releases: release }) {
  return release ? `Firmware ${cut(release.version, 30)}` : TYPES[type] ?? cut(type, 40);
}

export const isOver = (rollout) => rollout.finished_at !== null;

/** How many devices it is for, as far as that is known: a continuous one counts those to which it has come. */
export function devicesOf({ progress }) {
  return progress.total ?? Object.keys(DEVICE_STATES).reduce((sum, state) => sum + progress[state], 0);
}

/** Its devices by state as a bar; the words are for those who do not see it. */
export function ProgressBar({ rollout }) {
  const { progress } = rollout;
  const all = devicesOf(rollout);
  const parts = Object.keys(DEVICE_STATES).filter((state) => progress[state]);
  const words = !rollout.started_at ? 'not started' : [`${count(progress.succeeded)} of ${plural(all, 'device')} succeeded`,
    ...parts.filter((state) => state !== 'succeeded').map((state) => `${count(progress[state])} ${state}`)].join(', ');
  return html`<span class="progress" role="img" aria-label=${words} title=${words}>
    ${parts.map((state) => html`<span key=${state} class=${`part ${state}`} style=${{ flexGrow: progress[state] }}></span>`)}
    ${all > 0 && html`<span class="part" style=${{ flexGrow: progress.waiting ?? 0 }}></span>`}</span>`;
}

/** Failures since it was started or resumed: {failures, ended, share}; share null: none has ended. */
export function failuresOf({ progress, failures_before: failuresBefore, ended_before: endedBefore }) {
  const failures = progress.failed + progress.cancelled + progress.refused;
  const ended = failures + progress.succeeded - endedBefore;
  return { failures: failures - failuresBefore, ended, share: ended > 0 ? (failures - failuresBefore) / ended : null };
}

/** When it stops by itself, in words. */
export function thresholdWords({ failure_threshold: threshold, failure_minimum: minimum }) {
  return Number(threshold) >= 1 ? 'never stops by itself' : `stops above ${percent(Number(threshold))}, once ${plural(minimum, 'device')} ${minimum === 1 ? 'has' : 'have'} ended`;
}

/** '3 of 40 failed', coloured as it nears the threshold. */
export function Failures({ rollout }) {
  const { failures, ended, share } = failuresOf(rollout);
  const near = failures > 0 && Number(rollout.failure_threshold) < 1 && share > Number(rollout.failure_threshold) / 2;
  return html`<span class=${near ? 'warned' : ''} title=${thresholdWords(rollout)}>${count(failures)} of ${count(ended)}${share > 0 && html`<span class="wide-only"> (${percent(share)})</span>`}</span>`;
}
