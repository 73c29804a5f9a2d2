// Publishing firmware: a file of this machine becomes a release.

import { html, useState } from '../vendor/preact-htm.js';
import { newId } from '../command_actions.js';
import { Empty } from '../components/states.js';
import { say } from '../components/toasts.js';
import { publishFirmware } from '../firmware_actions.js';
import { cut, percent, size } from '../format.js';
import { go, link } from '../route.js';
import { adminCompanies, mayAdmin } from '../session.js';

const IMAGE_BEGINS = 0xe9; // an image for an ESP32

export function PublishFirmware() {
  if (!mayAdmin()) {
    return html`<div class="page"><${Empty} title="Your role does not publish firmware">Ask an admin of your company.</${Empty}></div>`;
  }
  return html`<${Form} />`;
}

function Form() {
  const companies = adminCompanies();
  const [file, setFile] = useState(null);
  const [odd, setOdd] = useState(false); // it does not look like firmware
  const [fields, setFields] = useState({ companyId: companies[0][0], version: '', hardware: '', notes: '' });
  const [state, setState] = useState({ step: '', share: undefined, error: null, id: newId() });
  const set = (name) => (event) => { setFields({ ...fields, [name]: event.target.value }); setState((before) => ({ ...before, error: null })); };

  const choose = async (event) => {
    const chosen = event.target.files[0] ?? null;
    setFile(chosen);
    setState((before) => ({ ...before, error: null }));
    if (!chosen) return;
    if (!fields.version) setFields({ ...fields, version: versionIn(chosen.name) });
    setOdd(await firstByte(chosen) !== IMAGE_BEGINS);
  };
  const submit = async (event) => {
    event.preventDefault();
    setState((before) => ({ ...before, error: null }));
    try {
      const { id, wasThere } = await publishFirmware({ file, id: state.id, ...fields }, (step, share) => setState((before) => ({ ...before, step, share })));
      say(wasThere ? 'It was published before, with the same file: nothing has changed.' : `${cut(fields.version, 40)} is published.`);
      go(link(`firmware/${id}`));
    } catch (error) {
      setState((before) => ({ ...before, step: '', error }));
    }
  };
  return html`<form class="page" onSubmit=${submit}>
    <div class="head"><a class="crumb" href=${link('firmware')}>Firmware</a><span class="crumb" aria-hidden="true">/</span><h1>Publish firmware</h1></div>
    <section class="panel narrow"><div class="inside stack">
      <label class="field">File <input type="file" name="file" accept=".bin" required onChange=${choose} />
        <span class="hint">${file ? size(file.size) : 'the .bin that your build makes'}</span></label>
      ${file && odd && html`<p class="note warn">It does not begin as an image for an ESP32 does. Look whether it is the right file.</p>`}
      <div class="pairs">
        <label class="field">Version <input name="version" required maxlength="100" pattern="[^\\s]+" placeholder="1.4.0" value=${fields.version} onInput=${set('version')} />
          <span class="hint">as the device reports it when it runs this file</span></label>
        <label class="field">Hardware <input name="hardware" maxlength="100" value=${fields.hardware} onInput=${set('hardware')} />
          <span class="hint">as in hardware_version of the devices that it is for; empty: any</span></label></div>
      ${companies.length > 1 && html`<label class="field">Company <select value=${fields.companyId} onChange=${set('companyId')}>
        ${companies.map(([id, name]) => html`<option key=${id} value=${id} selected=${id === fields.companyId}>${cut(name)}</option>`)}</select></label>`}
      <label class="field">Notes <textarea name="notes" maxlength="10000" value=${fields.notes} onInput=${set('notes')}></textarea>
        <span class="hint">what is new; they can be changed later</span></label>
      ${state.error && html`<p class="fault" role="alert">${state.error.message} ${state.error.todo}</p>`}
      ${state.step && html`<p class="uploading" role="status"><progress aria-label=${state.step} max="1" value=${state.share}></progress> ${state.step}${state.share === undefined ? '…' : ` ${percent(state.share)}`}</p>`}
      <div class="buttons"><button class="primary" disabled=${!file || Boolean(state.step)}>${state.step ? 'Publishing…' : 'Publish'}</button>
        <p class="hint">Published, it stays as it is: devices are told its checksum. Nothing is sent to a device yet.</p></div>
    </div></section></form>`;
}

/** '1.4.0' of 'camera-v1.4.0.bin'; '': none. */
function versionIn(name) {
  return /(\d+(?:\.\d+){1,5}(?:-[0-9a-z.-]+?)?)(?:\.bin)?$/i.exec(name.replace(/\.bin$/i, ''))?.[1] ?? '';
}

async function firstByte(file) {
  const bytes = await file.slice(0, 1).arrayBuffer().catch(() => null);
  return bytes && new Uint8Array(bytes)[0];
}
