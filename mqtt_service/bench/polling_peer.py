"""The way of the documented service: poll every 5 s, take 50 rows, publish each, and update each row.

As a process it works until it is ended: settings SUPABASE_URL, SUPABASE_SERVICE_ROLE_KEY, MQTT_HOST,
MQTT_PORT, PEER_INTERVAL (seconds) and PEER_ROWS.
"""

import json
import os
import time
from datetime import UTC, datetime
from typing import Any

import httpx
import paho.mqtt.client as mqtt

from mqtt_service.bench.bare_paho import READY, client_for, connect

_PUBACK_SECONDS = 10.0
_PENDING = {
    "status": "eq.pending",
    "select": "command_id,command_payload,devices!inner(device_mac)",
    "order": "issued_at",
}


def _send(api: httpx.Client, client: mqtt.Client, row: dict[str, Any]) -> None:
    mac = row["devices"]["device_mac"]
    body = {"device_id": mac, "command_id": row["command_id"], **row["command_payload"]}
    client.publish(f"device/{mac}/cmd", json.dumps(body), qos=1).wait_for_publish(_PUBACK_SECONDS)
    values = {"status": "sent", "delivered_at": datetime.now(UTC).isoformat()}
    command = {"command_id": f"eq.{row['command_id']}"}
    api.patch("device_commands", params=command, json=values).raise_for_status()


def _poll(api: httpx.Client, client: mqtt.Client, rows: str) -> None:
    answer = api.get("device_commands", params={**_PENDING, "limit": rows})
    for row in answer.raise_for_status().json():
        _send(api, client, row)


def _work() -> None:
    client = client_for()
    connect(client, os.environ["MQTT_HOST"], int(os.environ["MQTT_PORT"]))
    key, interval = os.environ["SUPABASE_SERVICE_ROLE_KEY"], float(os.environ["PEER_INTERVAL"])
    headers = {"apikey": key, "Authorization": f"Bearer {key}"}
    url = f"{os.environ['SUPABASE_URL']}/rest/v1/"
    with httpx.Client(base_url=url, headers=headers, trust_env=False) as api:
        print(READY, flush=True)  # noqa: T201 - read by whoever started this process
        while True:
            began = time.monotonic()
            _poll(api, client, os.environ["PEER_ROWS"])
            time.sleep(max(began + interval - time.monotonic(), 0))


if __name__ == "__main__":
    _work()
