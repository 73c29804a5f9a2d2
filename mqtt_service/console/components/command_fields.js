// The fields of a command: its type, and what that type needs.

import { html } from '../vendor/preact-htm.js';
import { answer } from '../api.js';
import { filledIn, FORMS, OWN_TYPE } from '../command_forms.js';
import { cut } from '../format.js';
import { useQuery } from '../query.js';
import { project } from '../session.js';
import { TYPES } from './command_words.js';

/**
 * @param {object} props
 * @param {object} props.what as `filledIn` makes it, and `payloadOf` reads it
 * @param {(what: object) => void} props.onChange
 * @param {any} [props.children] stands between the type and its fields
 * @param {boolean} [props.bare] without the fields: something else says what is sent
 */
export function CommandFields({ what, onChange, children, bare }) {
  const form = FORMS[what.type] ?? OWN_TYPE;
  return html`<${TypeField} value=${what.type} onChange=${(type) => onChange({ ...filledIn(type), pairs: what.pairs, values: what.values })} />
    <p class="hint">${form.about}</p>
    ${children}
    ${!bare && !what.free && form.fields.map((field) => html`<${Field} key=${`${what.type} ${field.name}`} field=${field} value=${what.values[field.name] ?? ''}
      onChange=${(value) => onChange({ ...what, values: { ...what.values, [field.name]: value } })} />`)}
    ${!bare && (what.free || form.pairs) && html`<${Pairs} pairs=${what.pairs} onChange=${(pairs) => onChange({ ...what, pairs })} />`}`;
}

function TypeField({ value, onChange }) {
  const own = useQuery('types', () => answer(project().from('device_command_types').select('command_type, description').order('command_type')));
  const types = [...Object.entries(TYPES), ...(own.data ?? []).map((row) => [row.command_type, row.description || row.command_type])];
  if (!types.some(([type]) => type === value)) types.push([value, value]);
  return html`<label class="field">Command <select value=${value} onChange=${(event) => onChange(event.target.value)}>
    ${types.map(([type, words]) => html`<option key=${type} value=${type} selected=${type === value}>${cut(words, 60)}</option>`)}</select></label>`;
}

function Field({ field, value, onChange }) {
  const { name, label, hint, ...limits } = field;
  return html`<label class="field">${label} <input name=${name} value=${value} ...${limits} onInput=${(event) => onChange(event.target.value)} />
    <span class="hint">${hint}</span></label>`;
}

function Pairs({ pairs, onChange }) {
  const change = (index, part, value) => {
    const next = pairs.map((pair, at) => (at === index ? pair.map((old, side) => (side === part ? value : old)) : pair));
    onChange(next.at(-1).some(Boolean) ? [...next, ['', '']] : next);
  };
  return html`<fieldset><legend>Settings</legend><div class="pairs">${pairs.map(([name, value], index) => html`
    <input aria-label="Name" placeholder="name" value=${name} onInput=${(event) => change(index, 0, event.target.value)} />
    <input aria-label="Value" placeholder="value" value=${value} onInput=${(event) => change(index, 1, event.target.value)} />`)}</div>
    <p class="hint">Numbers, true and false are sent as such; in quotes, as text.</p></fieldset>`;
}
