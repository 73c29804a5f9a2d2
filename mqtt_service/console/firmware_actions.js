// What an admin does with firmware: publish a file, note something about it, remove it.

import { answer } from './api.js';
import { attempt } from './attempt.js';
import { askFirst } from './components/dialog.js';
import { say } from './components/toasts.js';
import { ConsoleError } from './errors.js';
import { askReleases, plainVersion } from './firmware_rows.js';
import { cut } from './format.js';
import { lookNow } from './live.js';
import { project } from './session.js';
import { uploadFile } from './upload.js';

const BUCKET = 'firmware';

/** '1.4.0', '1.4.0 for cam-2' */
export const releaseName = ({ version, hardware }) => `${cut(version, 40)}${hardware ? ` for ${cut(hardware, 40)}` : ''}`;

/**
 * Uploads a file and publishes it. The same file again under its version changes nothing; another one is refused.
 * @param {{file: File, id: string, companyId: string, version: string, hardware: string, notes: string}} wanted id: of the release to be
 * @param {(step: string, share?: number) => void} onStep what it does now, and how far it is with that, 0 to 1
 * @returns {Promise<{id: string, wasThere: boolean}>} the release's
 * @throws {ConsoleError}
 */
export async function publishFirmware({ file, id, companyId, version, hardware, notes }, onStep) {
  onStep('Reading the file');
  const sha256 = await sha256Of(file);
  const release = { release_id: id, company_id: companyId, version: version.trim(), hardware: hardware.trim() || null,
    sha256, size_bytes: file.size, path: `${companyId}/${sha256}.bin`, notes: notes.trim() || null };
  const there = await publishedAs(release);
  if (there && there.sha256 !== sha256) throw taken(there);
  onStep('Uploading', 0);
  await uploadFile(BUCKET, release.path, file, (share) => onStep('Uploading', share));
  if (!there) await insert(release);
  lookNow();
  return { id: there?.release_id ?? id, wasThere: Boolean(there) };
}

/** The release that has this version already, for the same hardware; undefined: none. */
async function publishedAs({ company_id: company, version, hardware }) {
  const every = await askReleases();
  return every.find((one) => one.company_id === company && plainVersion(one.version) === plainVersion(version) && one.hardware === hardware);
}

function taken(there) {
  return new ConsoleError(`${releaseName(there)} is published already, with another file.`,
    'Devices were told which file that version is, so it stays. Publish this one under another version.', 'refused', '23505');
}

async function insert(release) {
  try {
    await answer(project().from('firmware_releases').insert(release));
  } catch (error) {
    throw error.code === '23505' ? taken(release) : error;
  }
}

async function sha256Of(file) {
  if (!globalThis.crypto?.subtle) {
    throw new ConsoleError('This page is not open over https, so the browser cannot work out the checksum.',
      'Open the console by its https address, or publish with mqtt-service firmware publish.');
  }
  let bytes;
  try {
    bytes = await file.arrayBuffer();
  } catch {
    throw new ConsoleError('The file cannot be read.', 'It may have changed since you chose it: choose it again.');
  }
  if (!bytes.byteLength) throw new ConsoleError('The file is empty.', 'Choose the .bin that your build makes.');
  return [...new Uint8Array(await crypto.subtle.digest('SHA-256', bytes))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** Writes the notes of a release. Throws ConsoleError. */
export async function noteRelease(release, notes) {
  const rows = await answer(project().from('firmware_releases').update({ notes: notes.trim() || null }).eq('release_id', release.release_id).select('release_id'));
  say(rows.length ? 'The notes are saved.' : 'It is gone: nothing was saved.');
  lookNow();
}

/** Removes a release and its file, after asking. @param {number} open commands that wait for it @returns {Promise<boolean>} whether it is gone */
export async function removeRelease(release, open) {
  if (!await askFirst({
    title: `Remove ${releaseName(release)}?`, action: 'Remove it', danger: true,
    text: `No device gets it any more${open ? `; of ${open} that wait for an answer to it, those to which it was not sent fail` : ''}. Those that run it go on.`,
  })) return false;
  return attempt(async () => {
    const rows = await answer(project().from('firmware_releases').delete().eq('release_id', release.release_id).select('path')).catch((error) => {
      throw error.code === '23503' ? new ConsoleError('A rollout names this release, so it stays.', 'Remove the rollout first, once it is over.') : error;
    });
    if (rows.length) await removeFile(release.path);
    say(rows.length ? `${releaseName(release)} is removed.` : 'It is gone already, or not yours to remove.');
  }, lookNow);
}

async function removeFile(path) {
  const others = await answer(project().from('firmware_releases').select('release_id').eq('path', path).limit(1));
  if (others.length) return; // another release is the same file
  await answer(project().storage.from(BUCKET).remove([path]));
}
