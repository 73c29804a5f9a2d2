// What a person does with commands: cancel, try again, send again. Each asks first and says how many devices it concerns.

import { answer } from './api.js';
import { askFirst } from './components/dialog.js';
import { say, sayError } from './components/toasts.js';
import { mayCancel, mayRepeat, mayRetry } from './components/command_words.js';
import { plural } from './format.js';
import { lookNow } from './live.js';
import { project } from './session.js';

const AT_ONCE = 100; // ids in one request
const ROWS_AT_ONCE = 500; // new commands in one request

/** How many devices these commands concern, in words. */
const devicesOf = (commands) => plural(new Set(commands.map((one) => one.device_id)).size, 'device');

/** Withdraws those that are pending or failed. @returns {Promise<boolean>} whether the person agreed */
export async function cancelCommands(commands) {
  const chosen = commands.filter(mayCancel);
  return act(chosen, {
    title: `Cancel ${plural(chosen.length, 'command')}?`,
    text: `${devicesOf(chosen)} will not get ${chosen.length === 1 ? 'it' : 'them'}. What a worker is sending at this moment may still arrive.`,
    action: `Cancel ${plural(chosen.length, 'command')}`, danger: true,
  }, () => moveAll(chosen, 'cancelled', ['pending', 'failed']), 'cancelled');
}

/** Tries failed ones again, under the same id. @returns {Promise<boolean>} */
export async function retryCommands(commands) {
  const chosen = commands.filter(mayRetry);
  return act(chosen, {
    title: `Try ${plural(chosen.length, 'command')} again?`,
    text: `${devicesOf(chosen)} will get ${chosen.length === 1 ? 'it' : 'them'} as soon as a worker can send; their time to live begins anew.`,
    action: 'Try again',
  }, () => moveAll(chosen, 'pending', ['failed']), 'queued again');
}

/** Queues the same once more, as new commands. @returns {Promise<boolean>} */
export async function repeatCommands(commands) {
  const chosen = commands.filter(mayRepeat);
  return act(chosen, {
    title: `Send ${plural(chosen.length, 'command')} again?`,
    text: `${devicesOf(chosen)} will get the same once more, as ${chosen.length === 1 ? 'a new command' : 'new commands'}.`,
    action: 'Send again',
  }, () => repeatAll(chosen), 'queued');
}

async function act(chosen, question, doIt, done) {
  if (!chosen.length || !await askFirst(question)) return false;
  try {
    const changed = await doIt();
    const left = chosen.length - changed;
    say(`${plural(changed, 'command')} ${done}.${left ? ` ${plural(left, 'command')} had moved on meanwhile.` : ''}`);
  } catch (error) {
    sayError(error);
  }
  lookNow();
  return true;
}

async function moveAll(commands, status, from) {
  let changed = 0;
  for (const ids of slices(commands.map((one) => one.command_id), AT_ONCE)) {
    const rows = await answer(project().from('device_commands').update({ status })
      .in('command_id', ids).in('status', from).select('command_id'));
    changed += rows.length;
  }
  return changed;
}

async function repeatAll(commands) {
  let queued = 0;
  for (const ids of slices(commands.map((one) => one.command_id), AT_ONCE)) {
    const rows = await answer(project().from('device_commands')
      .select('device_id, command_type, command_payload, priority').in('command_id', ids));
    queued += await queueCommands(rows);
  }
  return queued;
}

/** Inserts commands; ids are chosen here, so that a request that is sent again queues nothing twice. */
async function queueCommands(rows) {
  let queued = 0;
  for (const some of slices(rows, ROWS_AT_ONCE)) {
    await answer(project().from('device_commands').insert(some.map((row) => ({ ...row, command_id: newId() }))));
    queued += some.length;
  }
  return queued;
}

function slices(all, size) {
  return Array.from({ length: Math.ceil(all.length / size) }, (_, index) => all.slice(index * size, (index + 1) * size));
}

/** A random UUID (version 4); crypto.randomUUID is missing on a page without TLS. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = bytes[6] & 0x0f | 0x40;
  bytes[8] = bytes[8] & 0x3f | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}
