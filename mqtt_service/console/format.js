// Times, ages and numbers for people. Pure; zones are IANA names, undefined: the browser's.

const FORMATS = new Map();
function format(zone, options) {
  const key = `${zone} ${JSON.stringify(options)}`;
  if (!FORMATS.has(key)) {
    let made;
    try {
      made = new Intl.DateTimeFormat('en-GB', { ...options, timeZone: zone });
    } catch { // a site may have a zone that this browser does not know
      made = new Intl.DateTimeFormat('en-GB', { ...options, timeZone: 'UTC' });
    }
    FORMATS.set(key, made);
  }
  return FORMATS.get(key);
}

const DAY = { year: 'numeric', month: 'short', day: 'numeric' };
const CLOCK = { hour: '2-digit', minute: '2-digit' };

/** '14:03' today, '27 Nov 14:03' else, with the year where it is another. */
export function clock(iso, zone, now = Date.now()) {
  if (!iso) return '—';
  const at = new Date(iso);
  const time = format(zone, CLOCK).format(at);
  const day = format(zone, DAY).format(at);
  const today = format(zone, DAY).format(now);
  if (day === today) return time;
  return `${day.slice(-4) === today.slice(-4) ? day.slice(0, -5) : day} ${time}`;
}

/** '27 Nov 2026, 14:03:11 CET' */
export function fullTime(iso, zone) {
  if (!iso) return '—';
  return format(zone, { ...DAY, ...CLOCK, second: '2-digit', timeZoneName: 'short' }).format(new Date(iso));
}

/** 'Mon, 30 Nov 2026, 08:00 CET' */
export function dayAndTime(iso, zone) {
  return format(zone, { ...DAY, ...CLOCK, weekday: 'short', timeZoneName: 'short' }).format(new Date(iso));
}

/** '2026-11-27 13:03:11 UTC', for the hover. */
export function utc(iso) {
  return iso ? `${new Date(iso).toISOString().slice(0, 19).replace('T', ' ')} UTC` : '';
}

const UNITS = [['d', 86400], ['h', 3600], ['min', 60], ['s', 1]];

/** '3 min', '2 h 5 min', '4 d 1 h', '0.4 s' */
export function span(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return '—';
  const size = Math.abs(seconds);
  if (size < 10) return `${size < 1 ? size.toFixed(1) : Math.round(size * 10) / 10} s`;
  const index = UNITS.findIndex(([, length]) => size >= length);
  const [unit, length] = UNITS[index];
  const whole = Math.floor(size / length);
  const [next, nextLength] = UNITS[index + 1] ?? [];
  const rest = next && whole < 10 && unit !== 'min' ? Math.floor((size % length) / nextLength) : 0;
  return rest ? `${whole} ${unit} ${rest} ${next}` : `${whole} ${unit}`;
}

/** '3 min ago', 'in 2 h', 'now' */
export function ago(iso, now = Date.now()) {
  if (!iso) return 'never';
  const seconds = (now - new Date(iso)) / 1000;
  if (Math.abs(seconds) < 1.5) return 'now';
  return seconds > 0 ? `${span(Math.max(seconds, 10) === 10 ? Math.round(seconds) : seconds)} ago` : `in ${span(-seconds)}`;
}

/** '12,345' */
export function count(number) {
  return number === null || number === undefined ? '—' : number.toLocaleString('en');
}

/** '1 device', '12 devices' */
export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

/** '1.2 MB'; of bytes */
export function size(bytes) {
  if (bytes === null || bytes === undefined) return '—';
  const [unit, of] = bytes >= 1e6 ? ['MB', 1e6] : bytes >= 1000 ? ['kB', 1000] : ['bytes', 1];
  const value = bytes / of;
  return `${unit !== 'bytes' && value < 10 ? value.toFixed(1) : Math.round(value)} ${unit}`;
}

/** '87 %'; a share of 0 to 1 */
export function percent(share) {
  return share === null || share === undefined ? '—' : `${Math.round(share * 100)} %`;
}

/** At most `length` characters: a name may have ten thousand. */
export function cut(text, length = 60) {
  const all = String(text ?? '');
  return all.length > length ? `${all.slice(0, length - 1)}…` : all;
}

/** What a device is called: its name, else its code, else its MAC. */
export function deviceName(device) {
  return device ? cut(device.device_name || device.device_code || device.device_mac || 'a device') : 'a device that is gone';
}
