// A device's pictures: small ones in a grid, one large in a dialog. The files are private: each address is signed for an
// hour, for the person who looks.

import { html, useEffect, useState } from '../vendor/preact-htm.js';
import { answer } from '../api.js';
import { count, cut, fullTime, utc } from '../format.js';
import { project } from '../session.js';
import { Dialog } from './dialog.js';
import { Time } from './time.js';

const BUCKET = 'device-images';
const SIGNED_S = 3600;
const signed = new Map(); // storage_path → {url, until}

/** Rows of device_images, the latest first, each with the `url` of its file where it is stored. */
export async function askPictures(deviceId, limit = 48) {
  const rows = await answer(project().from('device_images')
    .select('image_id, image_name, status, captured_at, time_unknown, completed_at, created_at, updated_at, image_size, received_chunks, total_chunks, last_error, storage_path')
    .eq('device_id', deviceId).order('created_at', { ascending: false }).limit(limit));
  const lacking = rows.map((row) => row.storage_path).filter((path) => path && !((signed.get(path)?.until ?? 0) > Date.now()));
  if (lacking.length) {
    const links = await answer(project().storage.from(BUCKET).createSignedUrls(lacking, SIGNED_S));
    for (const { path, signedUrl, error } of links) {
      if (!error) signed.set(path, { url: signedUrl, until: Date.now() + (SIGNED_S - 300) * 1000 });
    }
  }
  return rows.map((row) => ({ ...row, url: row.storage_path ? signed.get(row.storage_path)?.url : undefined }));
}

const takenAt = (picture) => (picture.time_unknown ? null : picture.captured_at) ?? picture.completed_at ?? picture.created_at;

/** @param {{pictures: object[], zone: string, onOpen: (picture: object) => void}} props */
export function Pictures({ pictures, zone, onOpen }) {
  return html`<ul class="pictures">${pictures.map((picture) => html`<li key=${picture.image_id}>
    ${picture.url ? html`<button class="thumb" onClick=${() => onOpen(picture)} aria-label=${`Open ${cut(picture.image_name, 60)}, ${fullTime(takenAt(picture), zone)}`}>
        <${Small} url=${picture.url} /></button>`
      : html`<div class=${`thumb none ${picture.status}`}><p>${cut(wordsFor(picture), 140)}</p></div>`}
    <p class="hint"><${Time} at=${takenAt(picture)} zone=${zone} as="clock" /></p></li>`)}</ul>`;
}

function Small({ url }) {
  const [broken, setBroken] = useState(false);
  return broken ? html`<span class="hint">cannot be shown</span>`
    : html`<img src=${url} alt="" loading="lazy" decoding="async" onError=${() => setBroken(true)} />`;
}

function wordsFor(picture) {
  if (picture.status === 'failed') return `! failed: ${picture.last_error ?? 'no reason was given'}`;
  if (picture.status === 'pending') return '○ the device has it, and sends it when it wakes';
  if (picture.status === 'receiving') return picture.total_chunks ? `↓ ${picture.received_chunks} of ${picture.total_chunks} chunks` : '↓ on its way';
  return 'stored; its file is not yours to see';
}

/** One picture, large. Left and right go to its neighbours. */
export function LightBox({ picture, pictures, zone, onOpen, onClose }) {
  const stored = pictures.filter((one) => one.url);
  const index = stored.findIndex((one) => one.image_id === picture.image_id);
  const go = (by) => stored[index + by] && onOpen(stored[index + by]);
  useEffect(() => {
    const listen = (event) => {
      if (event.key === 'ArrowLeft') go(-1);
      if (event.key === 'ArrowRight') go(1);
    };
    window.addEventListener('keydown', listen);
    return () => window.removeEventListener('keydown', listen);
  });
  const [broken, setBroken] = useState(false);
  useEffect(() => setBroken(false), [picture.image_id]);
  const at = takenAt(picture);
  return html`<${Dialog} title=${cut(picture.image_name, 80)} onClose=${onClose} wide>
    ${broken ? html`<p class="fault" role="alert">The picture cannot be shown: its file is no picture, or the address has run out. Reload the page; if that does not help, let the device send it again.</p>`
      : html`<img class="large" src=${picture.url} alt=${`Taken at ${fullTime(at, zone)}`} onError=${() => setBroken(true)} />`}
    <div class="buttons light-box">
      <p class="hint grow"><time datetime=${at} title=${utc(at)}>${fullTime(at, zone)}</time>, ${count(Math.ceil(picture.image_size / 1024))} KB</p>
      <button disabled=${index <= 0} onClick=${() => go(-1)}>← Newer</button>
      <button disabled=${index >= stored.length - 1} onClick=${() => go(1)}>Older →</button>
      <a class="button" href=${picture.url} download=${picture.image_name} target="_blank" rel="noreferrer">Open the file</a>
    </div>
  </${Dialog}>`;
}
