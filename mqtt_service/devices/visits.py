"""The visits of this worker: a device's messages go to its visit, and the leases of all are renewed here.

Every worker that hears a device has a `Visit` for it, but only the one that holds the visit's lease in the
database answers. Leases are renewed many in a call; one that lapses is taken over.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from mqtt_service.adapters.supabase.devices import HeartbeatRecorded
from mqtt_service.adapters.supabase.visits import VisitGateway, VisitRow
from mqtt_service.backoff import retry_forever
from mqtt_service.devices.pictures import Pictures
from mqtt_service.devices.reply_log import ReplyLog
from mqtt_service.devices.reply_publisher import REPLY_EXPIRY
from mqtt_service.devices.visit import Visit, VisitOptions, VisitServices
from mqtt_service.errors import PermanentError, ServiceError
from mqtt_service.log import context
from mqtt_service.metrics import AWAKE, HELLO_SECONDS
from mqtt_service.protocol.messages import Heartbeat
from mqtt_service.protocol.replies import encode_next_wake, reply_id
from mqtt_service.protocol.topics import command_topic, device_key
from mqtt_service.publisher import Publisher

log = logging.getLogger(__name__)

# Seconds. A site's visits end one after the other, each with calls of its own: so some are seen to at a time.
_PAUSE = 0.1
# A lease is looked at three times while it lasts, and renewed once this part of it is over.
_RENEW_AFTER = 0.4


class Visits:
    """All visits of this worker; `on_commands_due` is called when a heartbeat finds commands waiting."""

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
        self._services = VisitServices(link, pictures, replies, options, self._request_row, self._visit_ended)
        self._visits: dict[str, Visit] = {}
        # Visits whose end is to be written, and by device_key, what is set when it has been.
        self._unwritten_ends: list[Visit] = []
        self._end_written: dict[str, asyncio.Event] = {}
        # By device_key, what is set when the heartbeat that is being recorded has been.
        self._heartbeats: dict[str, asyncio.Event] = {}
        self._rows_requested: set[Visit] = set()
        self._look_for_lapsed = True  # a worker may have left visits behind before this one started
        self._wanted = asyncio.Event()
        self._wanted.set()

    # What comes in ------------------------------------------------------------------------------------------

    async def wait_for_end(self, device: str) -> None:
        """Return once the end of the device's last visit is in the database: the next begins after it."""
        written = self._end_written.get(device_key(device))
        if written is not None:
            await written.wait()

    async def wait_for_beginning(self, device: str) -> None:
        """Return once what the device said before has its row: the end of its last visit, and its heartbeat.

        A picture that comes right behind a heartbeat belongs to the visit that this begins. Written beside
        it, both would also wait in the database for the device's row, each with a whole batch behind it.
        """
        while (recording := self._heartbeats.get(device_key(device))) is not None:
            await recording.wait()
        await self.wait_for_end(device)

    @contextmanager
    def recording_heartbeat(self, device: str) -> Iterator[None]:
        """Within the block a heartbeat of the device is being recorded, and its visit begun."""
        key, recorded = device_key(device), asyncio.Event()
        self._heartbeats[key] = recorded
        try:
            yield
        finally:
            recorded.set()
            if self._heartbeats.get(key) is recorded:
                del self._heartbeats[key]

    async def replace(self, device: str) -> None:
        """A heartbeat came: the device's former visit is over, and must not end the one that begins now."""
        former = self._visits.pop(device_key(device), None)
        if former is not None:
            former.cancel()
        await self.wait_for_end(device)

    async def begin(self, heartbeat: Heartbeat, recorded: HeartbeatRecorded, heard: float) -> None:
        """A device woke; one that may not register is only told when to come back.

        `heard`: when, by the event loop's clock.
        """
        if recorded.commands:
            self._on_commands_due()
        if recorded.device_id is None:
            await self._tell_next_wake(heartbeat, recorded, heard)
            return
        for name in heartbeat.pending_names:
            self._pictures.reopen((device_key(heartbeat.device), name))
        given_up = frozenset(recorded.given_up_names)
        row = VisitRow(
            heartbeat.root,
            heartbeat.device,
            recorded.device_id,
            recorded.device_code,
            holds_lease=recorded.holds_lease,
            open_commands=recorded.commands,
            pending_count=max(heartbeat.pending_count - len(given_up), 0),
            pending_names=tuple(name for name in heartbeat.pending_names if name not in given_up),
            next_wake_at=recorded.next_wake_at,
        )
        # Commands that are due are the first answer, and measured as such.
        unanswered_since = None if recorded.commands else heard
        self._start(
            Visit(self._services, heartbeat.root, heartbeat.device, row, unanswered_since=unanswered_since)
        )

    def heard_from(self, device: str) -> Visit:
        """A message about a picture came: the device's visit, a new one if no heartbeat was heard.

        Pictures come on the root ESP32CAM from every firmware, so they do not tell where it listens.
        """
        visit = self._visits.get(device_key(device))
        if visit is None:
            visit = Visit(self._services, "device", device, None)
            self._start(visit)
        visit.device_heard()
        return visit

    def find(self, device: str) -> Visit | None:
        """The device's visit, if it is awake."""
        return self._visits.get(device_key(device))

    def command_acknowledged(self, device: str, command_type: str | None) -> None:
        """The device answered a command of this type (None: unknown), and the command's row says so."""
        visit = self.find(device)
        if visit is not None:
            visit.command_acknowledged(command_type)

    def command_in_progress(self, device: str) -> None:
        """The device says that it is at a command."""
        visit = self.find(device)
        if visit is not None:
            visit.command_in_progress()

    def stored_by_another(self, device: str, name: str) -> None:
        """Another worker told the device that its picture is stored."""
        visit = self.find(device)
        if visit is not None and not visit.holds_lease:
            self._pictures.mark_finished((visit.key, name))

    def take_over_lapsed(self) -> None:
        """A query found visits whose lease lapsed: have them taken over."""
        self._look_for_lapsed = True
        self._wanted.set()

    # What is kept in step with the database -----------------------------------------------------------------

    async def run(self) -> None:
        """Renew leases, write ends, and take over visits whose worker is gone, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._options.lease / 3 if self._visits else None):
                    await self._wanted.wait()
            self._wanted.clear()
            try:
                async for attempt in retry_forever(self._log_retry):
                    with attempt:
                        await self._synchronise()
            except PermanentError as error:
                log.error("[VISIT] %s", error)  # noqa: TRY400 - one line
                await asyncio.sleep(self._options.lease / 3)
            await asyncio.sleep(_PAUSE)

    async def stop(self) -> None:
        """Answer no more; visits under way are given back, so that another worker goes on at once."""
        held = [visit.address for visit in self._visits.values() if visit.holds_lease]
        for visit in self._visits.values():
            visit.cancel()
        self._visits.clear()
        with suppress(ServiceError):
            await self._write_ends()
            if held:
                await self._gateway.renew_visits(held, lease=0)

    async def _synchronise(self) -> None:
        await self._write_ends()
        if self._look_for_lapsed:
            rows = await self._gateway.take_over_visits()
            self._look_for_lapsed = False
            for row in rows:
                self._take_over(row)
        await self._renew_leases()
        self._pictures.expire(self._options.longest)
        AWAKE.set(len(self._visits))

    async def _write_ends(self) -> None:
        ended, self._unwritten_ends = self._unwritten_ends, []
        if not ended:
            return
        try:
            await self._gateway.end_visits([v.device_id for v in ended if v.device_id is not None])
        except BaseException:
            self._unwritten_ends = ended + self._unwritten_ends
            raise
        ended_again = {visit.key for visit in self._unwritten_ends}
        for visit in ended:
            written = None if visit.key in ended_again else self._end_written.pop(visit.key, None)
            if written is not None:
                written.set()

    async def _renew_leases(self) -> None:
        """Read the rows of visits, which renews our leases: those not read lately, and those asked for."""
        now, lease = asyncio.get_running_loop().time(), self._options.lease
        requested, self._rows_requested = self._rows_requested, set()

        def is_due(visit: Visit) -> bool:
            # Ours, so that it is renewed twice in the time that it lasts; another's may lapse at any time.
            longest = lease * _RENEW_AFTER if visit.holds_lease else lease / 4
            return visit.row_read_at <= now - longest or visit in requested

        visits = [visit for visit in self._visits.values() if visit.begun and is_due(visit)]
        if not visits:
            return
        try:
            rows = await self._gateway.renew_visits([visit.address for visit in visits])
        except ServiceError:
            self._rows_requested |= requested
            raise
        for visit, row in zip(visits, rows, strict=True):
            visit.row_read(row)

    def _take_over(self, row: VisitRow) -> None:
        extra = context(device=row.device_code or row.topic_id)
        log.warning("[VISIT] The worker that answered this device is gone; this one takes over", extra=extra)
        visit = self.find(row.topic_id)
        if visit is None:
            self._start(Visit(self._services, row.topic_root, row.topic_id, row))
        else:
            visit.row_read(row)

    def _start(self, visit: Visit) -> None:
        former = self._visits.get(visit.key)
        if former is not None:
            former.cancel()
        if not self._visits:
            self._wanted.set()  # from now on leases are to be renewed
        self._visits[visit.key] = visit
        AWAKE.set(len(self._visits))
        visit.start()

    def _request_row(self, visit: Visit) -> None:
        self._rows_requested.add(visit)
        self._wanted.set()

    def _visit_ended(self, visit: Visit) -> None:
        """A visit came to its end; one that a newer heartbeat replaced is no longer of interest."""
        if self._visits.get(visit.key) is not visit:
            return
        del self._visits[visit.key]
        self._pictures.discard_device(visit.key)
        AWAKE.set(len(self._visits))
        if visit.holds_lease and visit.device_id is not None:
            self._end_written.setdefault(visit.key, asyncio.Event())
            self._unwritten_ends.append(visit)
            self._wanted.set()

    async def _tell_next_wake(self, heartbeat: Heartbeat, recorded: HeartbeatRecorded, heard: float) -> None:
        """It gets no visit, and is still not to stay awake until its battery is flat."""
        if recorded.next_wake_at is None:
            return
        identity = reply_id(os.urandom(16))
        payload = encode_next_wake(
            heartbeat.device, identity, recorded.next_wake_at, self._options.wake_format
        )
        with suppress(ServiceError):
            topic = command_topic(heartbeat.root, heartbeat.device)
            await self._link.publish(topic, payload, expiry_seconds=REPLY_EXPIRY)
            HELLO_SECONDS.observe(asyncio.get_running_loop().time() - heard)

    @staticmethod
    def _log_retry(error: BaseException, delay: float) -> None:
        log.warning("[VISIT] %s; devices that are awake wait, next try in %.1f s", error, delay)
