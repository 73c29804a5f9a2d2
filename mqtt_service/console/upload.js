// Uploads into a bucket of Storage, as the person who is signed in. Not by supabase-js, which says nothing of how far it is.

import { config } from './config.js';
import { ConsoleError, inWords } from './errors.js';
import { project } from './session.js';

/**
 * Stores a file; the same again takes its place.
 * @param {string} bucket
 * @param {string} path within it
 * @param {Blob} file
 * @param {(share: number) => void} onProgress 0 to 1
 * @throws {ConsoleError}
 */
export async function uploadFile(bucket, path, file, onProgress) {
  const { data } = await project().auth.getSession();
  const { supabase_url: url, publishable_key: key } = config.get();
  const { status, body } = await send(`${url}/storage/v1/object/${bucket}/${path}`, file, onProgress, {
    apikey: key, Authorization: `Bearer ${data.session?.access_token}`, 'x-upsert': 'true', 'Content-Type': 'application/octet-stream',
  });
  if (status >= 200 && status < 300) return;
  const meant = Number(body.statusCode) || status; // Storage writes it into the body
  if (meant === 413) throw new ConsoleError('The file is larger than the project takes.', 'Raise file_size_limit of the bucket, or the project’s limit under Storage > Settings.');
  throw inWords({ message: body.message ?? '', code: '' }, meant);
}

function send(url, file, onProgress, headers) {
  return new Promise((resolve) => {
    const request = new XMLHttpRequest();
    request.open('POST', url);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    request.onerror = () => resolve({ status: 0, body: { message: 'network' } });
    request.onload = () => resolve({ status: request.status, body: parsed(request.responseText) });
    request.send(file);
  });
}

function parsed(text) {
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return { message: text.slice(0, 300) };
  }
}
