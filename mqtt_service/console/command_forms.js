// What each type of command needs, as fields. `payload` makes the row's command_payload of what was written.

const NONE = { fields: [], payload: () => ({}) };
const filled = (values) => Object.fromEntries(Object.entries(values).filter(([, value]) => value !== ''));

/**
 * Type → {about, fields: [{name, label, hint, required, pattern, type}], payload(values), danger}.
 * danger: it asks, also for one device. `pairs`: the person writes names and values freely.
 */
export const FORMS = {
  capture_image: { ...NONE, about: 'The device takes a picture at once and sends it.' },
  send_image: {
    about: 'The device sends a picture that it has kept.',
    fields: [{ name: 'image_name', label: 'Name of the picture', hint: 'e.g. image_001.jpg', required: true, maxlength: 255 }],
    payload: filled,
  },
  set_wake_schedule: {
    about: 'The device wakes by this schedule from then on, in the zone of its site.',
    fields: [{ name: 'wake_schedule_cron', label: 'Schedule (cron)', hint: 'minute hour day month weekday; 0 8,16 * * * is 8:00 and 16:00 every day',
      required: true, maxlength: 400 }],
    payload: filled,
  },
  update_config: { about: 'The device takes over these settings.', fields: [], pairs: true, payload: (values) => values },
  reboot: { ...NONE, about: 'The device starts anew.', danger: true },
  update_firmware: {
    about: 'The device fetches this firmware and starts it.',
    fields: [
      { name: 'firmware_url', label: 'Address of the firmware', hint: 'begins with https://', required: true, type: 'url', pattern: 'https://.+', maxlength: 2048 },
      { name: 'version', label: 'Version', hint: 'may be left out', maxlength: 64 },
      { name: 'sha256', label: 'SHA-256', hint: '64 hexadecimal digits; may be left out', pattern: '[0-9A-Fa-f]{64}' },
    ],
    payload: filled,
    danger: true,
  },
  ping: { ...NONE, about: 'The device answers, and nothing else.' },
};

/** A type of the project's own: its keys go to the device as they are. */
export const OWN_TYPE = { about: 'A type of your own: what you write goes to the device as it is.', fields: [], pairs: true, payload: (values) => values };

/** The value that a person means: a number, true, false, or a JSON object or list; else text. */
export function valueOf(text) {
  const trimmed = text.trim();
  if (/^(true|false|null|-?\d+(\.\d+)?|\{.*\}|\[.*\])$/s.test(trimmed)) {
    try {
      return JSON.parse(trimmed);
    } catch {
      return text;
    }
  }
  return text;
}

/**
 * The target that the fields mean (docs/fleets.md); null: not chosen yet.
 * @param {{kind: 'device' | 'site' | 'target', device?: string, site?: string, company?: string, tags?: string,
 *   firmwareIs?: string, firmware?: string, battery?: string, silent?: string}} choice
 */
export function targetOf(choice) {
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
  return Object.keys(target).length > (choice.company ? 1 : 0) || choice.everybody ? target : null;
}
