"""Heartbeats: a device that says HELLO is recorded, many in a call, and its visit begins."""

import asyncio
import logging
import time
from itertools import count

from mqtt_service.adapters.supabase.devices import HeartbeatGateway, HeartbeatRecorded, HeartbeatRow
from mqtt_service.batching import Batcher
from mqtt_service.devices.refusals import Refusals
from mqtt_service.devices.visits import Visits
from mqtt_service.errors import PermanentError
from mqtt_service.log import context
from mqtt_service.metrics import DROPPED_MESSAGES, FOREIGN_IDS, HEARTBEATS
from mqtt_service.protocol.messages import Heartbeat, LastWill, parse_heartbeat
from mqtt_service.protocol.topics import Topic, device_key
from mqtt_service.repairs import Repairs

log = logging.getLogger(__name__)

_BATCH = 200


class HeartbeatHandler:
    """Takes heartbeats to the devices' rows; a device that nobody knows registers itself that way.

    `shared`: the subscription is shared, so no other worker receives these.
    """

    def __init__(
        self, gateway: HeartbeatGateway, visits: Visits, worker: str, *, shared: bool = False
    ) -> None:
        self._shared = shared
        self._visits = visits
        self._batcher: Batcher[HeartbeatRow, HeartbeatRecorded] = Batcher(
            "HELLO", gateway.record_heartbeats, _BATCH, key=lambda row: device_key(row.topic_id)
        )
        self._refusals = Refusals("HELLO")
        self._repairs = Repairs("status")
        self._worker = worker
        self._refs = count(1)

    async def run(self) -> None:
        """Write heartbeats until cancelled."""
        await self._batcher.run()

    async def drained(self) -> None:
        """Wait until every heartbeat received so far is in the database."""
        await self._batcher.drained()

    @property
    def longest_wait(self) -> float:
        """For how many seconds the oldest heartbeat has waited for the database."""
        return self._batcher.longest_wait

    async def handle(self, topic: Topic, payload: bytes) -> None:
        """Record a heartbeat and begin the visit; a last will is none."""
        heartbeat = parse_heartbeat(topic, payload)
        if isinstance(heartbeat, LastWill):
            DROPPED_MESSAGES.labels("last_will").inc()
            log.debug("[HELLO] Gone, says its last will", extra=context(device=heartbeat.device))
            return
        self._repairs.report(heartbeat.device, heartbeat.repairs)
        if heartbeat.claimed_device is not None:
            FOREIGN_IDS.inc()
        with self._visits.recording_heartbeat(heartbeat.device):
            await self._record(heartbeat)

    async def _record(self, heartbeat: Heartbeat) -> None:
        heard = asyncio.get_running_loop().time()
        await self._visits.replace(heartbeat.device)
        try:
            recorded = await self._batcher.submit(self._row(heartbeat))
        except PermanentError as error:
            DROPPED_MESSAGES.labels("refused").inc()
            log.warning("[HELLO] Dropped: %s", error, extra=context(device=heartbeat.device))
            return
        HEARTBEATS.labels(recorded.result).inc()
        _log_heartbeat(heartbeat, recorded)
        self._refusals.report(recorded.device_code or heartbeat.device, recorded.warnings)
        await self._visits.begin(heartbeat, recorded, heard)

    def _row(self, heartbeat: Heartbeat) -> HeartbeatRow:
        return HeartbeatRow(
            ref=f"{self._worker}:{next(self._refs)}",
            topic_root=heartbeat.root,
            topic_id=heartbeat.device,
            pending_count=heartbeat.pending_count,
            pending_names=heartbeat.pending_names,
            firmware_version=heartbeat.firmware_version,
            battery_voltage=heartbeat.battery_voltage,
            wifi_rssi=heartbeat.wifi_rssi,
            location=heartbeat.location,
            shared=self._shared,
            received_at=time.monotonic(),
        )


def _log_heartbeat(heartbeat: Heartbeat, recorded: HeartbeatRecorded) -> None:
    extra = context(device=recorded.device_code or heartbeat.device)
    if recorded.result == "refused":
        reason = recorded.error or "registration is off (REGISTER_DEVICES), or over REGISTRATIONS_PER_MINUTE"
        log.warning("[HELLO] Unknown device not registered: %s", reason, extra=extra)
    elif recorded.result == "created":
        log.info(
            "[HELLO] ✅ New device %s registered as %s; map it to a site",
            heartbeat.device,
            recorded.device_code,
            extra=extra,
        )
    elif recorded.holds_lease:
        again = f" ({recorded.redelivered} again: no answer to them came)" if recorded.redelivered else ""
        log.info(
            "[HELLO] Awake: %d command(s) due%s, %d picture(s) pending",
            recorded.commands,
            again,
            heartbeat.pending_count,
            extra=extra,
        )
    if recorded.given_up_names and recorded.holds_lease:
        given_up = ", ".join(recorded.given_up_names)
        log.info("[HELLO] Not asked for, since they were given up: %s", given_up, extra=extra)
