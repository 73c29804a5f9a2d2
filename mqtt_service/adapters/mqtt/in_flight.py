"""The publishes of one connection that wait for their PUBACK; runs on the event loop alone."""

import asyncio

from paho.mqtt.reasoncodes import ReasonCode

from mqtt_service.errors import OutcomeUnknownError


class InFlight:
    """At most `limit` publishes wait at a time, each in a slot of its own.

    A slot that was acquired is freed by `release` where nothing was sent, else by `acknowledged` or
    `fail_all`.
    """

    def __init__(self, limit: int) -> None:
        self._slots = asyncio.Semaphore(limit)
        self._by_mid: dict[int, asyncio.Future[ReasonCode]] = {}

    def set_limit(self, limit: int) -> None:
        """The broker named its limit; call it before the first publish."""
        self._slots = asyncio.Semaphore(limit)

    async def acquire(self) -> None:
        """Wait for a free slot."""
        await self._slots.acquire()

    def release(self) -> None:
        """Free a slot of which no use was made."""
        self._slots.release()

    def add(self, mid: int) -> "asyncio.Future[ReasonCode]":
        """A message was sent under this packet id; the future becomes the reason code of its PUBACK."""
        future: asyncio.Future[ReasonCode] = asyncio.get_running_loop().create_future()
        self._by_mid[mid] = future
        return future

    def acknowledged(self, mid: int, reason: ReasonCode) -> None:
        """The PUBACK came; perhaps nobody waits for it any more, but only now is its slot free."""
        future = self._by_mid.pop(mid, None)
        if future is None:
            return
        self._slots.release()
        if not future.done():
            future.set_result(reason)

    def fail_all(self, reason: str) -> None:
        """No PUBACK will come any more: each waiting publish raises OutcomeUnknownError for this reason."""
        for future in self._by_mid.values():
            if not future.done():
                future.set_exception(OutcomeUnknownError(reason))
            self._slots.release()
        self._by_mid.clear()
