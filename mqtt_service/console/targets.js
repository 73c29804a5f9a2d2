// Targets (docs/fleets.md): what the fields of a form mean by them, and how they are said.

import { cut, plural } from './format.js';
import { session } from './session.js';

/**
 * The target that the fields mean; null: not chosen yet.
 * @param {{kind: 'device' | 'site' | 'target' | 'given', device?: string, site?: string, company?: string, tags?: string,
 *   firmwareIs?: string, firmware?: string, battery?: string, silent?: string, given?: object}} choice
 *   given: a target that the other kinds cannot say
 */
export function targetOf(choice) {
  if (choice.kind === 'given') return choice.given;
  if (choice.kind === 'device') return choice.device ? { devices: [choice.device] } : null;
  if (choice.kind === 'site') return choice.site ? { site: choice.site } : null;
  const target = {};
  const tags = (choice.tags ?? '').split(',').map((tag) => tag.trim()).filter(Boolean);
  if (choice.site) target.site = choice.site;
  if (tags.length) target.tags = tags;
  if (choice.firmware) target.firmware = { [choice.firmwareIs || '<']: choice.firmware.trim() };
  if (choice.battery) target.battery = { '<': Number(choice.battery) };
  if (choice.silent) target.last_seen = { not_within: `${choice.silent} hours` };
  if (choice.company) target.company = choice.company;
  return Object.keys(target).length > (choice.company ? 1 : 0) ? target : null;
}

/** The fields that mean this target: the inverse of `targetOf`. */
export function choiceOf(target) {
  const { devices, site = '', company = '', tags = [], firmware = {}, battery = {}, last_seen: seen = {} } = target;
  const firmwareIs = ['<', '=', '>='].find((one) => firmware[one]);
  const choices = [
    { kind: 'device', device: devices?.[0] ?? '', site: '' },
    { kind: 'site', device: '', site },
    { kind: 'target', device: '', site, company, tags: tags.join(', '), firmwareIs, firmware: firmware[firmwareIs] ?? '',
      battery: String(battery['<'] ?? ''), silent: /^(\d+) hours$/.exec(seen.not_within ?? '')?.[1] ?? '' },
  ];
  const fitting = choices.find((choice) => same(targetOf(choice), target));
  return fitting ?? { kind: 'given', device: '', site: '', given: target };
}

function same(one, other) {
  const sorted = (value) => JSON.stringify(Object.entries(value ?? {}).sort(([a], [b]) => (a < b ? -1 : 1)));
  return sorted(one) === sorted(other);
}

const COMPARED = { '<': 'below', '<=': 'at most', '=': 'exactly', '!=': 'not', '>=': 'at least', '>': 'above' };
const compared = (conditions, unit = '') => Object.entries(conditions).map(([by, value]) => `${COMPARED[by] ?? by} ${cut(value, 40)}${unit}`).join(' and ');

/**
 * A target as people say it: 'Alder North', 'devices of Alder North with the tag greenhouse'.
 * @param {object} target
 * @param {string} [listed] words for the devices that it lists, such as the name of the one
 */
export function targetInWords(target, listed) {
  const { sites, companies } = session.get();
  const place = [target.site && cut(sites.get(target.site)?.name ?? 'a site that is gone'), target.program && 'one program',
    target.company && cut(companies.get(target.company) ?? 'one company')].filter(Boolean);
  const { devices, tags } = target;
  const parts = [
    tags && `with the ${tags.length === 1 ? 'tag' : 'tags'} ${cut(tags.join(' and '), 120)}`,
    target.firmware && `with firmware ${compared(target.firmware)}`,
    target.battery && `with a battery ${compared(target.battery, ' V')}`,
    ...Object.entries(target.last_seen ?? {}).map(([by, time]) => `${by === 'within' ? 'heard within' : 'not heard for'} ${cut(time, 40)}`),
  ].filter(Boolean);
  const who = devices ? listed ?? plural(devices.length, 'device') : '';
  if (!who && !parts.length && place.length === 1 && target.site) return place[0];
  return [who || (parts.length || target.site ? 'devices' : 'all devices'), place.length > 0 && `of ${place.join(' and ')}`, parts.join(', ')].filter(Boolean).join(' ');
}
