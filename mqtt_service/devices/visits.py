"""The devices that are awake: who speaks to which, and what is heard goes to its visit.

Every worker that hears a device has a `Visit` for it, but only the one that holds the visit's lease in the
database speaks. The leases are renewed here, many in a call; one that lapses is taken over.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress

from mqtt_service.adapters.supabase.devices import HeartbeatRecorded
from mqtt_service.adapters.supabase.visits import VisitGateway, VisitRow
from mqtt_service.backoff import retry_forever
from mqtt_service.devices.pictures import Pictures
from mqtt_service.devices.reply_log import ReplyLog
from mqtt_service.devices.visit import REPLY_EXPIRY, Surroundings, Visit, VisitOptions
from mqtt_service.errors import PermanentError, ServiceError
from mqtt_service.log import context
from mqtt_service.metrics import AWAKE
from mqtt_service.protocol.messages import Heartbeat
from mqtt_service.protocol.replies import encode_next_wake, reply_id
from mqtt_service.protocol.topics import command_topic, device_key
from mqtt_service.publisher import Publisher

log = logging.getLogger(__name__)


class Visits:
    """All visits of this worker; `on_commands_due` is called when a HELLO finds commands waiting."""

    def __init__(
        self,
        gateway: VisitGateway,
        link: Publisher,
        pictures: Pictures,
        replies: ReplyLog,
        options: VisitOptions,
        on_commands_due: Callable[[], None],
    ) -> None:
        self._gateway = gateway
        self._link = link
        self._pictures = pictures
        self._options = options
        self._on_commands_due = on_commands_due
        self._surroundings = Surroundings(link, pictures, replies, options, self._look, self._note_end)
        self._visits: dict[str, Visit] = {}
        self._over: list[Visit] = []
        self._ending: dict[str, asyncio.Event] = {}
        self._asking: set[Visit] = set()
        self._adopt = True  # a worker may have left visits behind before this one started
        self._wanted = asyncio.Event()
        self._wanted.set()

    async def ended(self, device: str) -> None:
        """Wait until the end of the device's last visit is in the database: the next begins after it."""
        ending = self._ending.get(device_key(device))
        if ending is not None:
            await ending.wait()

    async def make_way(self, device: str) -> None:
        """A HELLO came: the device's former visit is over, and must not end the one that begins now."""
        former = self._visits.pop(device_key(device), None)
        if former is not None:
            former.cancel()
        await self.ended(device)

    async def begin(self, heartbeat: Heartbeat, recorded: HeartbeatRecorded) -> None:
        """A device woke; one that may not register is only told when to come back."""
        if recorded.commands:
            self._on_commands_due()
        if recorded.device_id is None:
            await self._turn_away(heartbeat, recorded)
            return
        for name in heartbeat.pending_names:
            self._pictures.expect((device_key(heartbeat.device), name))
        row = VisitRow(
            heartbeat.root,
            heartbeat.device,
            recorded.device_id,
            recorded.device_code,
            holds_lease=recorded.holds_lease,
            open_commands=recorded.commands,
            pending_count=heartbeat.pending_count,
            pending_names=heartbeat.pending_names,
            next_wake_at=recorded.next_wake_at,
        )
        self._start(Visit(self._surroundings, heartbeat.root, heartbeat.device, row))

    def heard(self, device: str) -> Visit:
        """A message about a picture came: the device's visit, a new one if no HELLO was heard.

        Pictures come on the root ESP32CAM from every firmware, so they do not tell where it listens.
        """
        visit = self._visits.get(device_key(device))
        if visit is None:
            visit = Visit(self._surroundings, "device", device, None)
            self._start(visit)
        visit.heard()
        return visit

    def of(self, device: str) -> Visit | None:
        """The device's visit, if it is awake."""
        return self._visits.get(device_key(device))

    def stored_by_another(self, device: str, name: str) -> None:
        """Another worker told the device that its picture is safe."""
        visit = self.of(device)
        if visit is not None and not visit.holds_lease:
            self._pictures.forget((visit.key, name))

    def due(self) -> None:
        """A query found visits whose worker is gone."""
        self._adopt = True
        self._wanted.set()

    async def run(self) -> None:
        """Keep the leases, note ends, and take over what others left, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._options.lease / 3 if self._visits else None):
                    await self._wanted.wait()
            self._wanted.clear()
            try:
                async for attempt in retry_forever(self._announce):
                    with attempt:
                        await self._write()
            except PermanentError as error:
                log.error("[VISIT] %s", error)  # noqa: TRY400 - one line
                await asyncio.sleep(self._options.lease / 3)

    async def stop(self) -> None:
        """Speak no more; visits under way are given back, so that another worker goes on at once."""
        speaking = [visit for visit in self._visits.values() if visit.holds_lease]
        for visit in self._visits.values():
            visit.cancel()
        self._visits.clear()
        with suppress(ServiceError):
            await self._end()
            if speaking:
                await self._gateway.renew_visits([visit.address for visit in speaking], lease=0)

    async def _write(self) -> None:
        await self._end()
        if self._adopt:
            rows = await self._gateway.take_over_visits()
            self._adopt = False
            for row in rows:
                self._take_over(row)
        await self._hold()
        self._pictures.expire(self._options.longest)
        AWAKE.set(len(self._visits))

    async def _end(self) -> None:
        ended, self._over = self._over, []
        if not ended:
            return
        try:
            await self._gateway.end_visits([v.device_id for v in ended if v.device_id is not None])
        except BaseException:
            self._over = ended + self._over
            raise
        later = {visit.key for visit in self._over}
        for visit in ended:
            event = None if visit.key in later else self._ending.pop(visit.key, None)
            if event is not None:
                event.set()

    async def _hold(self) -> None:
        due = asyncio.get_running_loop().time() - self._options.lease / 4
        asking, self._asking = self._asking, set()
        visits = [v for v in self._visits.values() if v.known and (v.told_at <= due or v in asking)]
        if not visits:
            return
        try:
            rows = await self._gateway.renew_visits([visit.address for visit in visits])
        except ServiceError:
            self._asking |= asking
            raise
        for visit, row in zip(visits, rows, strict=True):
            visit.told(row)

    def _take_over(self, row: VisitRow) -> None:
        extra = context(device=row.device_code or row.topic_id)
        log.warning("[VISIT] Its worker is gone; this one goes on with the device", extra=extra)
        visit = self.of(row.topic_id)
        if visit is None:
            self._start(Visit(self._surroundings, row.topic_root, row.topic_id, row))
        else:
            visit.told(row)

    def _start(self, visit: Visit) -> None:
        former = self._visits.get(visit.key)
        if former is not None:
            former.cancel()
        if not self._visits:
            self._wanted.set()  # from now on leases are to be renewed
        self._visits[visit.key] = visit
        AWAKE.set(len(self._visits))
        visit.start()

    def _look(self, visit: Visit) -> None:
        self._asking.add(visit)
        self._wanted.set()

    def _note_end(self, visit: Visit) -> None:
        """A visit came to its end; one that a newer HELLO replaced is no longer of interest."""
        if self._visits.get(visit.key) is not visit:
            return
        del self._visits[visit.key]
        self._pictures.discard_device(visit.key)
        AWAKE.set(len(self._visits))
        if visit.holds_lease and visit.device_id is not None:
            self._ending.setdefault(visit.key, asyncio.Event())
            self._over.append(visit)
            self._wanted.set()

    async def _turn_away(self, heartbeat: Heartbeat, recorded: HeartbeatRecorded) -> None:
        """Not ours, and still not to lie awake until its battery is flat."""
        if recorded.next_wake_at is None:
            return
        identity = reply_id(os.urandom(16))
        payload = encode_next_wake(
            heartbeat.device, identity, recorded.next_wake_at, self._options.wake_format
        )
        with suppress(ServiceError):
            topic = command_topic(heartbeat.root, heartbeat.device)
            await self._link.publish(topic, payload, expiry_seconds=REPLY_EXPIRY)

    @staticmethod
    def _announce(error: BaseException, delay: float) -> None:
        log.warning("[VISIT] %s; devices that are awake wait, next try in %.1f s", error, delay)
