// The words of devices: how they do, their battery and their signal.

import { html } from '../vendor/preact-htm.js';
import { Pill } from './pill.js';

export const LOW_BATTERY = 3.5; // V
export const LATE_MS = 10 * 60 * 1000; // a wake may come that much later than planned

/** State → its sign, tone and meaning; in the order in which a list shows them. */
export const STATES = {
  waiting: { sign: '◌', tone: 'busy', word: 'waiting', means: 'no site yet: map it, and it gets its welcome' },
  overdue: { sign: '!', tone: 'warn', word: 'overdue', means: 'it did not wake when it should have, ten minutes ago or earlier' },
  silent: { sign: '?', tone: '', word: 'never heard', means: 'mapped, and not heard yet' },
  active: { sign: '✓', tone: 'good', word: 'active', means: 'mapped, and it wakes as planned' },
  inactive: { sign: '–', tone: '', word: 'not mapped', means: 'it was mapped before; map it again to use it' },
};

/** @returns {keyof typeof STATES} */
export function stateOf(device, now = Date.now()) {
  if (!device.is_active) return device.provisioning_status === 'inactive' ? 'inactive' : 'waiting';
  const planned = device.next_wake_at ? new Date(device.next_wake_at).getTime() : Infinity;
  const heard = device.last_seen_at ? new Date(device.last_seen_at).getTime() : -Infinity;
  if (planned < now - LATE_MS && heard < planned - LATE_MS) return 'overdue';
  return device.last_seen_at ? 'active' : 'silent';
}

/** @param {{device: object}} props */
export const StatePill = ({ device }) => html`<${Pill} ...${STATES[stateOf(device)]} />`;

export const isLow = (device) => device.battery_voltage !== null && Number(device.battery_voltage) < LOW_BATTERY;

export function Battery({ volts }) {
  if (volts === null || volts === undefined) return html`<span class="none">—</span>`;
  const words = `${Number(volts).toFixed(2)} V`;
  return Number(volts) < LOW_BATTERY
    ? html`<span class="pill warn" title=${`low: below ${LOW_BATTERY} V`}><span aria-hidden="true">!</span>${words}</span>` : words;
}

/** Signal in dBm, and in bars for the eye. */
export function Signal({ rssi }) {
  if (rssi === null || rssi === undefined) return html`<span class="none">—</span>`;
  const [bars, word] = rssi >= -60 ? [4, 'strong'] : rssi >= -70 ? [3, 'good'] : rssi >= -80 ? [2, 'fair'] : [1, 'weak'];
  return html`<span class="signal" title=${`${word} signal`}><svg viewBox="0 0 16 12" width="16" height="12" aria-hidden="true">
    ${[1, 2, 3, 4].map((bar) => html`<rect x=${bar * 4 - 4} y=${12 - bar * 3} width="3" height=${bar * 3} rx="0.5" class=${bar <= bars ? 'on' : ''} />`)}
    </svg> ${rssi}<span class="hint"> dBm</span></span>`;
}
