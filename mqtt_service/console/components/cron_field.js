// A schedule: often used ones to choose from, or a cron of one's own; and when it would run next.

import { html, useEffect, useState } from '../vendor/preact-htm.js';
import { answer } from '../api.js';
import { ago, dayAndTime, utc } from '../format.js';
import { useQuery } from '../query.js';
import { project } from '../session.js';
import { useNow } from '../store.js';
import { Answer } from './states.js';

const COMMON = [
  ['0 8,16 * * *', 'every day at 8:00 and 16:00'],
  ['0 6 * * *', 'every day at 6:00'],
  ['30 6 * * MON-FRI', 'Monday to Friday at 6:30'],
  ['0 */6 * * *', 'every six hours'],
  ['0 * * * *', 'every hour'],
  ['*/15 * * * *', 'every fifteen minutes'],
  ['0 9 * * MON', 'Mondays at 9:00'],
  ['0 3 1 * *', 'on the first of the month at 3:00'],
];
const PAUSE_MS = 250; // after the last letter

/** A cron in words where it is an often used one. */
export const cronInWords = (cron) => COMMON.find(([one]) => one === cron)?.[1] ?? cron;

/**
 * @param {object} props
 * @param {string} props.value the cron; '': none
 * @param {(cron: string) => void} props.onChange
 * @param {string} [props.none] what an empty one means; without it, one is needed
 */
export function CronField({ value, onChange, none }) {
  const known = COMMON.some(([cron]) => cron === value) || value === '' && none;
  const [own, setOwn] = useState(!known);
  const choose = (event) => {
    setOwn(event.target.value === 'own');
    if (event.target.value !== 'own') onChange(event.target.value);
  };
  return html`<div class="pairs">
    <label class="field">When <select value=${own ? 'own' : value} onChange=${choose}>
      ${none && html`<option value="" selected=${!own && value === ''}>${none}</option>`}
      ${COMMON.map(([cron, words]) => html`<option key=${cron} value=${cron} selected=${!own && cron === value}>${words}</option>`)}
      <option value="own" selected=${own}>a cron of your own</option></select></label>
    <label class="field">Cron <input name="cron" class="mono" value=${value} required=${!none} maxlength="400" spellcheck=${false} autocomplete="off"
      aria-describedby="cron-hint" onInput=${(event) => { setOwn(true); onChange(event.target.value); }} />
      <span class="hint" id="cron-hint">minute hour day month weekday</span></label>
  </div>`;
}

/**
 * The next runs, as the database works them out: so what is refused is said here, before it is saved.
 * @param {object} props
 * @param {string} props.cron
 * @param {string} props.zone the site's
 * @param {number} [props.count]
 * @param {(good: boolean) => void} [props.onCheck] whether it can be read
 */
export function CronPreview({ cron, zone, count = 10, onCheck }) {
  const settled = useSettled(`${zone}\n${cron}`);
  const query = useQuery(cron.trim() ? settled : null, () => {
    const [inZone, text] = settled.split('\n');
    return answer(project().rpc('fn_preview_schedule', { p_cron: text, p_timezone: inZone, p_count: count }));
  });
  const good = settled === `${zone}\n${cron}` && Boolean(query.data);
  useEffect(() => { onCheck?.(good); }, [good]);
  if (!cron.trim()) return html`<p class="hint">Write a schedule, and you see here when it runs.</p>`;
  if (query.error) return html`<p class="fault" role="alert">${query.error.message} ${query.error.todo}</p>`;
  return html`<${Answer} query=${query}>${(runs) => html`<${Runs} runs=${runs} zone=${zone} />`}</${Answer}>`;
}

function Runs({ runs, zone }) {
  const now = useNow(30000);
  return html`<ol class="runs" aria-label="The next runs">${runs.map((run) => html`<li key=${run}>
    <time datetime=${run} title=${utc(run)}>${dayAndTime(run, zone)}</time> <span class="hint">${ago(run, now)}</span></li>`)}</ol>
    <p class="hint">in the zone ${zone}; point at a time to see it in UTC</p>`;
}

function useSettled(value) {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), PAUSE_MS);
    return () => clearTimeout(timer);
  }, [value]);
  return settled;
}
