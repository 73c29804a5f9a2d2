// The words of commands: statuses, types, and what may be done.

import { html } from '../vendor/preact-htm.js';
import { Pill } from './pill.js';

/** Status → its sign, tone and meaning. */
export const STATUSES = {
  pending: { sign: '○', tone: 'busy', means: 'waits to be sent' },
  sent: { sign: '↗', tone: 'busy', means: 'the broker has it, the device has not answered' },
  acknowledged: { sign: '✓', tone: 'good', means: 'the device did it' },
  failed: { sign: '!', tone: 'warn', means: 'the last attempt failed' },
  rejected: { sign: '✕', tone: 'bad', means: 'the device will never do it' },
  expired: { sign: '⊘', tone: 'bad', means: 'its time ran out' },
  cancelled: { sign: '–', tone: '', means: 'a person withdrew it' },
};

/** The built-in types, as people call them. */
export const TYPES = {
  capture_image: 'Take a picture',
  send_image: 'Send a picture again',
  set_wake_schedule: 'Set the wake schedule',
  update_config: 'Change settings',
  reboot: 'Restart',
  update_firmware: 'Update the firmware',
  ping: 'Ping',
};

/** @param {{status: string, final?: boolean}} props */
export const StatusPill = ({ status }) => html`<${Pill} ...${STATUSES[status]} word=${status} />`;

/** What the database lets a person do with a command: it is pending or failed. */
export const mayCancel = (command) => command.status === 'pending' || command.status === 'failed';
/** Try again under the same id. */
export const mayRetry = (command) => command.status === 'failed';
/** Queue the same once more, as a new command. */
export const mayRepeat = (command) => ['acknowledged', 'rejected', 'expired', 'cancelled', 'failed'].includes(command.status);
