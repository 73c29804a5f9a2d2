// A filter by one device, named; pressing it takes the filter away.

import { html } from '../vendor/preact-htm.js';
import { answer } from '../api.js';
import { deviceName } from '../format.js';
import { useQuery } from '../query.js';
import { setParams } from '../route.js';
import { project } from '../session.js';

/** @param {{id: string}} props */
export function DeviceChip({ id }) {
  const device = useQuery(id, () => answer(project().from('devices').select('device_name, device_code, device_mac').eq('device_id', id).maybeSingle()));
  return html`<button onClick=${() => setParams({ device: '' })} title="Show every device">${device.data ? deviceName(device.data) : 'one device'} ×</button>`;
}
