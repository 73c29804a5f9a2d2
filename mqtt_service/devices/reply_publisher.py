"""Publishes what a visit tells its device; while the broker is away, it is tried again.

cmd   CaptureImage, SendImage, NextWake: a device may acknowledge these, so they are in the reply log first
ack   MissingChunks, AckOk
"""

import asyncio
import os
from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from mqtt_service.adapters.supabase.visits import ReplyRow
from mqtt_service.backoff import delay_after
from mqtt_service.devices.reply_log import ReplyLog
from mqtt_service.devices.visit_state import VisitState
from mqtt_service.devices.visit_steps import AckOk, CaptureImage, MissingChunks, NextWake, Reply, SendImage
from mqtt_service.errors import BrokerUnavailableError, PermanentError
from mqtt_service.metrics import HELLO_SECONDS
from mqtt_service.protocol.commands import WakeFormat
from mqtt_service.protocol.replies import (
    encode_ack_ok,
    encode_capture_image,
    encode_missing_chunks,
    encode_next_wake,
    encode_send_image,
    reply_id,
)
from mqtt_service.protocol.topics import ack_topic, command_topic
from mqtt_service.publisher import Publisher

# Seconds. A reply concerns this wake alone: kept longer by the broker, it would meet the device at its next.
REPLY_EXPIRY = 60

_COMMAND_TYPES: dict[type[Reply], str] = {
    CaptureImage: "capture_image",
    SendImage: "send_image",
    NextWake: "set_wake_schedule",
}


class LeaseLostError(Exception):
    """Another worker holds the visit's lease: this one may not answer the device any more."""


class ReplyPublisher:
    """Tells one device what its visit decides; `state` says where the device listens, and who may speak.

    `unanswered_since`, by `clock`: when the device said HELLO; the first reply ends that. None: not measured.
    """

    def __init__(
        self,
        link: Publisher,
        reply_log: ReplyLog,
        state: VisitState,
        wake_format: WakeFormat,
        clock: Callable[[], float],
        *,
        unanswered_since: float | None = None,
    ) -> None:
        self._link = link
        self._reply_log = reply_log
        self._state = state
        self._wake_format = wake_format
        self._clock = clock
        self._unanswered_since = unanswered_since

    async def publish(self, reply: Reply, unless: Callable[[], bool] = lambda: False) -> bool:
        """Return True once the broker has the reply, False where `unless` came true before that.

        Raises LeaseLostError when the reply is not ours to give, PermanentError where it cannot be given.
        """
        self._check_lease()
        identity = reply_id(os.urandom(16))
        payload = self._encode(reply, identity)
        command_type = _COMMAND_TYPES.get(type(reply))
        if command_type is None:
            return await self._publish(ack_topic(*self._state.address), payload, unless)
        await self._publish_command(command_type, identity, payload)
        return True

    def _encode(self, reply: Reply, identity: UUID) -> bytes:
        device = self._state.device
        match reply:
            case CaptureImage():
                return encode_capture_image(device, identity)
            case SendImage(name):
                return encode_send_image(device, identity, name)
            case NextWake(next_wake):
                return encode_next_wake(device, identity, _known(next_wake), self._wake_format)
            case MissingChunks(name, chunks):
                return encode_missing_chunks(device, name, chunks)
            case AckOk(name, next_wake):
                return encode_ack_ok(device, name, _known(next_wake), self._wake_format)

    async def _publish_command(self, command_type: str, identity: UUID, payload: bytes) -> None:
        """Record it first, since its acknowledgement can be quick, and withdraw that where nobody listens."""
        if self._state.row.device_id is None:
            await self._publish(command_topic(*self._state.address), payload)
            return
        row, heard = ReplyRow(identity, self._state.row.device_id, command_type), False
        try:
            await self._reply_log.record(row)
            await self._publish(command_topic(*self._state.address), payload)
            heard = not self._state.nobody_listens
        finally:
            if not heard:
                self._reply_log.withdraw(row)

    async def _publish(self, topic: str, payload: bytes, unless: Callable[[], bool] = lambda: False) -> bool:
        failures = 0
        while not unless():
            self._check_lease()
            try:
                result = await self._link.publish(topic, payload, expiry_seconds=REPLY_EXPIRY)
            except BrokerUnavailableError:
                failures += 1
                await asyncio.sleep(delay_after(failures))
            else:
                self._state.published(self._clock(), nobody_listens=result.no_subscriber)
                self._hello_is_answered()
                return True
        return False

    def _hello_is_answered(self) -> None:
        if self._unanswered_since is not None:
            HELLO_SECONDS.observe(self._clock() - self._unanswered_since)
            self._unanswered_since = None

    def _check_lease(self) -> None:
        if not self._state.holds_lease:
            raise LeaseLostError


def _known(next_wake: datetime | None) -> datetime:
    if next_wake is None:
        raise PermanentError("the database names no next wake time; apply supabase/migrations")
    return next_wake
