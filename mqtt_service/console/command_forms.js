// What each type of command needs, as fields; and the row's command_payload that is made of what was written.

/**
 * Type → {about, fields: [{name, label, hint, required, pattern, type}], danger}.
 * danger: it asks, also for one device. `pairs`: the person writes names and values freely.
 */
export const FORMS = {
  capture_image: { about: 'The device takes a picture at once and sends it.', fields: [] },
  send_image: {
    about: 'The device sends a picture that it has kept.',
    fields: [{ name: 'image_name', label: 'Name of the picture', hint: 'e.g. image_001.jpg', required: true, maxlength: 255 }],
  },
  set_wake_schedule: {
    about: 'The device wakes by this schedule from then on, in the zone of its site.',
    fields: [{ name: 'wake_schedule_cron', label: 'Schedule (cron)', hint: 'minute hour day month weekday; 0 8,16 * * * is 8:00 and 16:00 every day',
      required: true, maxlength: 400 }],
  },
  update_config: { about: 'The device takes over these settings.', fields: [], pairs: true },
  reboot: { about: 'The device starts anew.', fields: [], danger: true },
  update_firmware: {
    about: 'The device fetches this firmware and starts it.',
    fields: [
      { name: 'firmware_url', label: 'Address of the firmware', hint: 'begins with https://', required: true, type: 'url', pattern: 'https://.+', maxlength: 2048 },
      { name: 'version', label: 'Version', hint: 'may be left out', maxlength: 64 },
      { name: 'sha256', label: 'SHA-256', hint: '64 hexadecimal digits; may be left out', pattern: '[0-9A-Fa-f]{64}' },
    ],
    danger: true,
  },
  ping: { about: 'The device answers, and nothing else.', fields: [] },
};

/** A type of the project's own: its keys go to the device as they are. */
export const OWN_TYPE = { about: 'A type of your own: what you write goes to the device as it is.', fields: [], pairs: true };

/** The value that a person means: a number, true, false, a JSON object or list, or a text in quotes; else the text as it is. */
export function valueOf(text) {
  const trimmed = text.trim();
  if (/^(true|false|null|-?\d+(\.\d+)?|\{.*\}|\[.*\]|".*")$/s.test(trimmed)) {
    try {
      return JSON.parse(trimmed);
    } catch {
      return text;
    }
  }
  return text;
}

/** What a person writes to mean this value: the inverse of `valueOf`. */
const textOf = (value) => (typeof value === 'string' && valueOf(value) === value ? value : JSON.stringify(value));

/** {type, values, pairs, free}: what the fields hold for this type and payload. free: only pairs can hold all of it. */
export function filledIn(type, payload = {}) {
  const form = FORMS[type] ?? OWN_TYPE;
  const free = !form.pairs && Object.keys(payload).some((key) => !form.fields.some((field) => field.name === key));
  return { type, free, values: free || form.pairs ? {} : payload,
    pairs: [...(free || form.pairs ? Object.entries(payload).map(([name, value]) => [name, textOf(value)]) : []), ['', '']] };
}

/** The payload that the fields mean. @param {{type: string, values: object, pairs: string[][], free?: boolean}} what */
export function payloadOf({ type, values, pairs, free }) {
  const form = FORMS[type] ?? OWN_TYPE;
  if (free || form.pairs) return Object.fromEntries(pairs.filter(([name]) => name.trim()).map(([name, value]) => [name.trim(), valueOf(value)]));
  return Object.fromEntries(form.fields.map(({ name }) => [name, values[name] ?? '']).filter(([, value]) => value !== ''));
}
