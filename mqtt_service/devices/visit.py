"""One visit: what the service does for a device that is awake, until it sleeps again.

    commands   its due commands go out at once, by the queue; they are given time to be answered
    pictures   one after another: what it is sending, then what it said is pending; ACK_OK once each is stored
    sleep      it is told when to wake, unless a command or the last ACK_OK said so

Only the worker that holds the visit's lease speaks; any other listens, keeps the same pictures, and goes on
from there when the lease becomes its own.
"""

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from uuid import UUID

from mqtt_service.adapters.supabase.images import ImageRecorded
from mqtt_service.adapters.supabase.visits import ReplyRow, VisitRow
from mqtt_service.backoff import FIRST_DELAY, LONGEST_DELAY
from mqtt_service.devices.pictures import Pictures
from mqtt_service.devices.reply_log import ReplyLog
from mqtt_service.errors import BrokerUnavailableError, PermanentError, ServiceError
from mqtt_service.log import context
from mqtt_service.protocol.assembly import Assembly
from mqtt_service.protocol.commands import WakeFormat
from mqtt_service.protocol.images import ImageMetadata
from mqtt_service.protocol.replies import (
    encode_ack_ok,
    encode_capture_image,
    encode_missing_chunks,
    encode_next_wake,
    encode_send_image,
    reply_id,
)
from mqtt_service.protocol.topics import Root, ack_topic, command_topic, device_key
from mqtt_service.publisher import Publisher

log = logging.getLogger(__name__)

# Our answers concern this wake alone: one that a broker keeps for longer would meet the device at its next.
REPLY_EXPIRY = 60
_MOST_ASKS = 3
_LOOK_AT_COMMANDS = 2.0
_LAST_WORDS = 10.0
_FIRST_WORD = 5.0
_MOST_SHOWN = 20
_BRING_PICTURES = frozenset({"capture_image", "send_image"})


@dataclass(frozen=True, slots=True)
class VisitOptions:
    """How long a device is waited for; seconds.

    `silence`: one that says nothing for so long waits for us. `command_patience`: how long open commands
    keep pictures and sleep waiting. `longest`: a visit is over then, whatever is open.
    """

    lease: float = 10.0
    silence: float = 5.0
    command_patience: float = 15.0
    longest: float = 600.0
    wake_format: WakeFormat = "12h"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a visit needs; `look` has its row read anew, `over` is called once, at its end."""

    link: Publisher
    pictures: Pictures
    replies: ReplyLog
    options: VisitOptions
    look: Callable[["Visit"], None]
    over: Callable[["Visit"], None]


class _SilencedError(Exception):
    """Another worker speaks in this visit now."""


class _AsleepError(Exception):
    """Nobody listens to the device's topics any more."""


class Visit:
    """One device, awake. `start` it once; whatever concerns it is told to it.

    `row` is None where a picture's message came of a device whose HELLO was not heard.
    """

    def __init__(self, surroundings: Surroundings, root: Root, device: str, row: VisitRow | None) -> None:
        self.key = device_key(device)
        self.address: tuple[Root, str] = (root, device)
        self.known = row is not None
        self.told_at = asyncio.get_running_loop().time()
        self._loop = asyncio.get_running_loop()
        self._look, self._over = surroundings.look, surroundings.over
        self._link, self._pictures = surroundings.link, surroundings.pictures
        self._replies = surroundings.replies
        self._options = surroundings.options
        self._row = row or VisitRow(root, device)
        self._pending = deque(self._row.pending_names)
        self._unnamed = 0 if self._pending else self._row.pending_count
        self._done: set[str] = set()
        self._asked: set[str] = set()
        self._last_heard = self._loop.time()
        self._news = asyncio.Event()
        self._told = asyncio.Event()
        self._knows_its_wake = False
        self._nobody_listens = False
        self._expects_picture = False
        self._task: asyncio.Task[None] | None = None

    @property
    def holds_lease(self) -> bool:
        """Whether this worker is the one that answers the device."""
        return self._row.holds_lease

    @property
    def device_id(self) -> UUID | None:
        """The device's row; None as long as nobody knows it."""
        return self._row.device_id

    # What is told to it -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Attend to the device in the background."""
        self._task = asyncio.create_task(self._run(), name=f"visit of {self.address[1]}")

    def cancel(self) -> None:
        """Stop attending to it, at once and without a word."""
        if self._task is not None:
            self._task.cancel()

    def heard(self) -> None:
        """The device sent something about a picture."""
        self._last_heard = self._loop.time()

    def progress(self) -> None:
        """A picture is whole: there is something to do."""
        self._news.set()

    def answered(self, command_type: str | None) -> None:
        """The device acknowledged a command, and its row says so."""
        self._last_heard = self._loop.time()
        self._expects_picture = self._expects_picture or command_type in _BRING_PICTURES
        self._news.set()

    def told(self, row: VisitRow) -> None:
        """The database says how the visit stands."""
        self.told_at = self._loop.time()
        if row.took_over:
            self.address = (row.topic_root, self.address[1])
        if row.took_over and not self._row.holds_lease:
            self._pending = deque(row.pending_names)
            self._unnamed = 0 if self._pending else row.pending_count
        for name in [] if self._row.holds_lease else row.settled_names:
            if name not in self._done:
                self._done.add(name)
                self._pictures.mark_finished((self.key, name))
        self._row = row
        self.known = True
        self._told.set()
        self._news.set()

    async def announced(self, metadata: ImageMetadata, recorded: ImageRecorded) -> None:
        """A picture's metadata is in its row; the device is answered, if that is ours to do."""
        self.joined(recorded)
        try:
            # The messages behind this one wait meanwhile. What cannot be said now, the visit says later; an
            # ACK_OK comes when the device offers the picture again.
            async with asyncio.timeout(_FIRST_WORD):
                if recorded.result == "complete":
                    await self._confirm(metadata.name, recorded.next_wake_at)
                elif recorded.result == "receiving":
                    await self._invite(metadata.name)
        except (_SilencedError, TimeoutError):
            pass
        except ServiceError as error:
            log.warning("[VISIT] %s", error, extra=self._context())

    def joined(self, recorded: ImageRecorded) -> None:
        """A picture of the device is in its row, which tells who speaks and where the device listens."""
        if recorded.result in {"receiving", "complete"}:
            self._speak_for(recorded)
        elif recorded.result == "silent" and not self.known:
            self.address = (recorded.topic_root, self.address[1])
            self.known = True
        self._news.set()

    # What it does -----------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            async with asyncio.timeout(self._options.longest):
                await self._until_over()
        except TimeoutError:
            await self._break_off(f"it took longer than {self._options.longest:.0f} s")
        except ServiceError as error:
            await self._break_off(str(error))
        except Exception as error:
            log.exception("[VISIT] A fault of this service", extra=self._context())
            await self._break_off(f"a fault of this service, please report it: {error!r}")
        self._over(self)

    async def _break_off(self, why: str) -> None:
        """Nothing more can be done: the device is told to sleep, and its pictures' rows say why."""
        log.warning("[VISIT] Given up: %s", why, extra=self._context())
        with suppress(_SilencedError, ServiceError):
            await self._send_to_sleep()
        with suppress(_SilencedError, ServiceError, TimeoutError):
            async with asyncio.timeout(_LAST_WORDS):
                for assembly in self._pictures.unfinished(self.key) if self.holds_lease else ():
                    recorded = await self._record(assembly.name)
                    await self._pictures.fail((self.key, assembly.name), recorded, f"not finished: {why}")

    async def _until_over(self) -> None:
        while not self._row.ended:
            try:
                if not self.known:
                    await self._introduce()
                elif not self.holds_lease:
                    await self._next_news(self._options.lease)
                else:
                    await self._attend()
                    return
            except _SilencedError:
                continue
            except _AsleepError:
                log.info("[VISIT] The device is gone before its end", extra=self._context())
                return

    async def _introduce(self) -> None:
        """Chunks came, and neither a HELLO nor their metadata: after a silence, begin the visit for them."""
        await self._until_quiet(lambda: self.known)
        if self.known:
            return
        unfinished = self._pictures.unfinished(self.key)
        if not unfinished:
            self._row = VisitRow(*self.address, ended=True)
            return
        recorded = await self._pictures.record(self.address[1], unfinished[0].name)
        if recorded.result in {"unknown_device", "refused"}:
            reason = recorded.error or "the device is not registered and may not register itself"
            log.warning("[VISIT] Chunks dropped: %s", reason, extra=self._context())
            self._row = VisitRow(*self.address, ended=True)
        else:
            self.joined(recorded)

    def _speak_for(self, recorded: ImageRecorded) -> None:
        """A picture was recorded by us, so the visit is ours."""
        if not self.known or not self._row.holds_lease:
            self.address = (recorded.topic_root, self.address[1])
            self._row = VisitRow(
                *self.address,
                recorded.device_id,
                recorded.device_code,
                holds_lease=True,
                next_wake_at=recorded.next_wake_at,
            )
        self.known = True
        self.told_at = self._loop.time()

    async def _attend(self) -> None:
        await self._let_commands_finish()
        asks = 0
        while True:
            while (name := await self._next_picture()) is not None:
                await self._take(name)
            if self._knows_its_wake or self._row.schedule_sent:
                return
            await self._send_to_sleep()  # what it began to send meanwhile is still taken
            if self._nobody_listens and asks < _MOST_ASKS:
                asks += 1
                self._knows_its_wake = False  # its HELLO can be faster than its subscription
                await self._until_quiet(lambda: bool(self._pictures.unfinished(self.key)))

    async def _let_commands_finish(self) -> None:
        """Commands go first; one that is not answered in time does not keep the device awake."""
        if not self._row.open_commands:
            return
        end = self._loop.time() + self._options.command_patience
        while self._row.open_commands and self._loop.time() < end:
            await self._next_news(_LOOK_AT_COMMANDS)
            await self._read_anew()
        if self._expects_picture:
            await self._until_quiet(lambda: bool(self._pictures.unfinished(self.key)))

    async def _read_anew(self) -> None:
        self._told.clear()
        self._look(self)
        await self._told.wait()
        self._check()

    async def _next_picture(self) -> str | None:
        """What it is sending, else what it said is pending, else whatever it has."""
        for assembly in self._pictures.unfinished(self.key):
            self._done.discard(assembly.name)  # another picture of that name: what is done with is not there
            return assembly.name
        while self._pending:
            name = self._pending.popleft()
            if not self._is_settled(name):
                return name
        while self._unnamed > 0:
            self._unnamed -= 1
            any_name = await self._ask_for_any()
            if any_name is not None:
                return any_name
        return None

    async def _ask_for_any(self) -> str | None:
        """The device has pictures and did not name them: one comes for each `capture_image`."""
        for _ in range(_MOST_ASKS):
            await self._say_command("capture_image", encode_capture_image)
            await self._until_quiet(lambda: bool(self._pictures.unfinished(self.key)))
            unfinished = self._pictures.unfinished(self.key)
            if unfinished:
                return unfinished[0].name
        if self._nobody_listens:
            raise _AsleepError
        return None

    async def _take(self, name: str) -> None:
        """Have one picture sent, as often as it takes, and stored."""
        key = (self.key, name)
        if self._pictures.get(key) is None:
            await self._ask_to_send(name)
        asks = 0
        while not await self._arrived(name):
            if await self._is_stored_already(name):
                return
            if asks == _MOST_ASKS:
                await self._give_up(name, asks)
                return
            asks += 1
            await self._ask_again(name, asks)
        if name not in self._done:
            await self._store(name)

    async def _store(self, name: str) -> None:
        """Have a picture that is whole stored, and confirm it."""
        key = (self.key, name)
        recorded = await self._record(name)
        if recorded.result == "complete":
            await self._confirm(name, recorded.next_wake_at)
            return
        settled = await self._pictures.store(key, recorded)
        if settled is None:
            self._knows_its_wake = False
            if self._pictures.get(key) is None:
                self._done.add(name)
        else:
            await self._confirm(name, settled.next_wake_at)

    async def _is_stored_already(self, name: str) -> bool:
        """Chunks without metadata: another worker may have heard that, or even have stored the picture."""
        assembly = self._pictures.get((self.key, name))
        if assembly is None or assembly.metadata is not None:
            return False
        recorded = await self._record(name)
        if recorded.result == "complete":
            self._pictures.mark_finished((self.key, name))
            await self._confirm(name, recorded.next_wake_at)
        return recorded.result == "complete"

    async def _arrived(self, name: str) -> bool:
        """Wait until a picture is whole or done with (True), or the device has fallen silent (False)."""
        return await self._until_quiet(lambda: self._is_whole(name) or self._is_settled(name))

    def _is_whole(self, name: str) -> bool:
        assembly = self._pictures.get((self.key, name))
        return assembly is not None and assembly.complete

    def _is_settled(self, name: str) -> bool:
        """Whether it is done with: by this visit, by another worker, or refused at a bound."""
        if self._pictures.get((self.key, name)) is None and self._pictures.is_finished((self.key, name)):
            self._done.add(name)
        return name in self._done

    async def _ask_again(self, name: str, asks: int) -> None:
        """Name the chunks that are missing; without metadata or any chunk, ask for the whole picture."""
        assembly = self._pictures.get((self.key, name))
        if assembly is None or assembly.metadata is None or not assembly.received:
            await self._ask_to_send(name)
        else:
            missing = assembly.missing()
            log.info("[IMAGE] %s lacks %d chunk(s): asking", name, len(missing), extra=self._context())
            payload = encode_missing_chunks(self.address[1], name, missing)
            await self._say(ack_topic(*self.address), payload)
            await self._pictures.chunks_requested(await self._record(name), assembly, asks)

    async def _give_up(self, name: str, asks: int) -> None:
        assembly = self._pictures.get((self.key, name))
        if self._nobody_listens and (assembly is None or not assembly.received):
            raise _AsleepError
        recorded = await self._record(name)
        if recorded.result == "complete":  # another worker stored it in this visit
            await self._confirm(name, recorded.next_wake_at)
            return
        await self._pictures.fail((self.key, name), recorded, _what_lacks(assembly), asks)
        self._done.add(name)
        self._knows_its_wake = False

    async def _record(self, name: str) -> ImageRecorded:
        recorded = await self._pictures.record(self.address[1], name)
        if recorded.result == "silent":
            self._row = VisitRow(*self.address, self.device_id, holds_lease=False)
            raise _SilencedError
        return recorded

    async def _confirm(self, name: str, next_wake: datetime | None) -> None:
        """The picture is safe: the device may delete it."""
        self._done.add(name)
        payload = encode_ack_ok(self.address[1], name, self._next_wake(next_wake), self._options.wake_format)
        # What is there under that name again is another picture, which is not safe.
        said = await self._say(
            ack_topic(*self.address), payload, unless=lambda: self._pictures.get((self.key, name)) is not None
        )
        self._knows_its_wake = self._knows_its_wake or said

    async def _invite(self, name: str) -> None:
        """Metadata is answered by `send_image` (PROTOCOL.md, "The upload", 1).

        Not again where we had asked for the picture, and it is coming.
        """
        assembly = self._pictures.get((self.key, name))
        if assembly is not None and not (name in self._asked and assembly.received):
            await self._ask_to_send(name)

    async def _ask_to_send(self, name: str) -> None:
        self._asked.add(name)
        await self._say_command("send_image", partial(encode_send_image, name=name))

    async def _send_to_sleep(self) -> None:
        moment, wake_format = self._next_wake(None), self._options.wake_format
        await self._say_command(
            "set_wake_schedule", partial(encode_next_wake, moment=moment, wake_format=wake_format)
        )
        self._knows_its_wake = True

    def _next_wake(self, told: datetime | None) -> datetime:
        moment = told or self._row.next_wake_at
        if moment is None:
            raise PermanentError("the database names no next wake time; apply supabase/migrations")
        return moment

    # How it speaks and waits ------------------------------------------------------------------------------

    async def _say_command(self, kind: str, encode: Callable[[str, UUID], bytes]) -> None:
        """Say what a device takes for a command; it is noted first, since its answer can be quick."""
        identity = reply_id(os.urandom(16))
        self._check()
        if self.device_id is None:
            await self._say(command_topic(*self.address), encode(self.address[1], identity))
            return
        reply, heard = ReplyRow(identity, self.device_id, kind), False
        try:
            await self._replies.note(reply)
            await self._say(command_topic(*self.address), encode(self.address[1], identity))
            heard = not self._nobody_listens
        finally:
            if not heard:
                self._replies.withdraw(reply)

    async def _say(self, topic: str, payload: bytes, unless: Callable[[], bool] = lambda: False) -> bool:
        """Publish, waiting for the broker if need be; False where `unless` came true before that.

        Raises _SilencedError when this is not ours to say.
        """
        delay = FIRST_DELAY
        while not unless():
            self._check()
            try:
                result = await self._link.publish(topic, payload, expiry_seconds=REPLY_EXPIRY)
            except BrokerUnavailableError:
                await asyncio.sleep(delay)
                delay = min(2 * delay, LONGEST_DELAY)
            else:
                self._nobody_listens = result.no_subscriber
                self._last_heard = self._loop.time()
                return True
        return False

    def _check(self) -> None:
        if not self.holds_lease:
            raise _SilencedError

    async def _until_quiet(self, seen: Callable[[], bool]) -> bool:
        """True once `seen`; False after the device (and we) said nothing for the time of `silence`."""
        while not seen():
            left = self._last_heard + self._options.silence - self._loop.time()
            if left <= 0:
                return False
            await self._next_news(left)
            if self.known:
                self._check()
        return True

    async def _next_news(self, seconds: float) -> None:
        self._news.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()

    def _context(self) -> dict[str, object]:
        return context(device=self._row.device_code or self.address[1])


def _what_lacks(assembly: Assembly | None) -> str:
    if assembly is None or (assembly.metadata is None and not assembly.received):
        return f"the device sent nothing of it, asked {_MOST_ASKS} times"
    if assembly.metadata is None:
        return f"its metadata did not come, asked {_MOST_ASKS} times"
    missing = assembly.missing()
    shown = ", ".join(str(chunk) for chunk in missing[:_MOST_SHOWN])
    more = ", …" if len(missing) > _MOST_SHOWN else ""
    return f"{len(missing)} of {assembly.total} chunks did not come, asked {_MOST_ASKS} times: {shown}{more}"
