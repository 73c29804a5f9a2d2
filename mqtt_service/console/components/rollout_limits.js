// How fast a rollout goes and when it stops by itself, as fields.

import { html } from '../vendor/preact-htm.js';

/** What the fields hold: of a rollout, or as the database has it where nobody says otherwise. */
export function limitsOf(rollout) {
  return {
    rate: String(rollout?.rate_per_minute ?? 50), growth: String(rollout?.growth_factor ?? 1), most: String(rollout?.max_rate_per_minute ?? 1000),
    threshold: String(Math.round(Number(rollout?.failure_threshold ?? 0.1) * 1000) / 10), minimum: String(rollout?.failure_minimum ?? 10),
  };
}

/** The columns of command_rollouts that the fields mean. */
export function limitColumns({ rate, growth, most, threshold, minimum }) {
  return {
    rate_per_minute: Number(rate), growth_factor: Number(growth), max_rate_per_minute: Number(most),
    failure_threshold: Number(threshold) / 100, failure_minimum: Number(minimum),
  };
}

/** @param {{limits: object, onChange: (limits: object) => void}} props */
export function RolloutLimits({ limits, onChange }) {
  const field = (name, label, hint, bounds) => html`<label class="field">${label} <input type="number" required value=${limits[name]} ...${bounds}
    onInput=${(event) => onChange({ ...limits, [name]: event.target.value })} /><span class="hint">${hint}</span></label>`;
  return html`<div class="pairs">
    ${field('rate', 'Devices a minute', 'at the beginning of each minute so many are released', { min: 1, max: 10000, step: 1 })}
    ${field('growth', 'Growth', 'times this, each time as many have succeeded; 1: it stays', { min: 1, max: 10, step: 0.1 })}
    ${Number(limits.growth) > 1 && field('most', 'At most a minute', 'however well it goes', { min: 1, max: 10000, step: 1 })}
    ${field('threshold', 'Stops above (% failed)', '100: never', { min: 0, max: 100, step: 0.1 })}
    ${field('minimum', 'Once so many have ended', 'a share of few devices says little', { min: 1, max: 1000000, step: 1 })}
  </div>`;
}
