"""HELLOs: a device that wakes is written down, many in a call, and its visit begins."""

import logging
from itertools import count

from mqtt_service.adapters.gateway import Gateway
from mqtt_service.adapters.rows import HelloRecorded, HelloRow
from mqtt_service.batching import Batcher
from mqtt_service.errors import PermanentError
from mqtt_service.log import context
from mqtt_service.metrics import DROPPED_MESSAGES, FOREIGN_IDS, HELLOS
from mqtt_service.protocol.messages import Hello, parse_hello
from mqtt_service.protocol.topics import Topic, device_key
from mqtt_service.visits import Visits

log = logging.getLogger(__name__)

_BATCH = 200


class HelloHandler:
    """Takes HELLOs to the devices' rows; a device that nobody knows registers itself that way."""

    def __init__(self, gateway: Gateway, visits: Visits, worker: str, *, shared: bool = False) -> None:
        self._shared = shared
        self._visits = visits
        self._batcher: Batcher[HelloRow, HelloRecorded] = Batcher(
            "HELLO", gateway.record_hellos, _BATCH, key=lambda row: device_key(row.topic_id)
        )
        self._worker = worker
        self._refs = count(1)

    async def run(self) -> None:
        """Write HELLOs until cancelled."""
        await self._batcher.run()

    async def drained(self) -> None:
        """Wait until every HELLO received so far is in the database."""
        await self._batcher.drained()

    @property
    def longest_wait(self) -> float:
        """For how many seconds the oldest HELLO has waited for the database."""
        return self._batcher.longest_wait

    async def handle(self, topic: Topic, payload: bytes) -> None:
        """Write one HELLO and begin the visit; raises RemoteProtocolError for one that cannot be read."""
        hello = parse_hello(topic, payload)
        if hello.claimed_device is not None:
            FOREIGN_IDS.inc()
        await self._visits.make_way(hello.device)
        try:
            recorded = await self._batcher.submit(self._row(hello))
        except PermanentError as error:
            DROPPED_MESSAGES.labels("refused").inc()
            log.warning("[HELLO] Dropped: %s", error, extra=context(device=hello.device))
            return
        HELLOS.labels(recorded.result).inc()
        _tell(hello, recorded)
        await self._visits.begin(hello, recorded)

    def _row(self, hello: Hello) -> HelloRow:
        return HelloRow(
            ref=f"{self._worker}:{next(self._refs)}",
            topic_root=hello.root,
            topic_id=hello.device,
            pending_count=hello.pending_count,
            pending_names=hello.pending_names,
            firmware_version=hello.firmware_version,
            battery_voltage=hello.battery_voltage,
            wifi_rssi=hello.wifi_rssi,
            location=hello.location,
            shared=self._shared,
        )


def _tell(hello: Hello, recorded: HelloRecorded) -> None:
    extra = context(device=recorded.device_code or hello.device)
    if recorded.result == "refused":
        reason = recorded.error or "registration is off (REGISTER_DEVICES), or over REGISTRATIONS_PER_MINUTE"
        log.warning("[HELLO] Unknown device not registered: %s", reason, extra=extra)
    elif recorded.result == "created":
        log.info(
            "[HELLO] ✅ New device %s registered as %s; map it to a site",
            hello.device,
            recorded.device_code,
            extra=extra,
        )
    elif recorded.holds_lease:
        again = f" ({recorded.redelivered} again: no answer to them came)" if recorded.redelivered else ""
        log.info(
            "[HELLO] Awake: %d command(s) due%s, %d picture(s) pending",
            recorded.commands,
            again,
            hello.pending_count,
            extra=extra,
        )
