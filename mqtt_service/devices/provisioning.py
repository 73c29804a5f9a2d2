"""Welcomes newly mapped devices: Realtime rings, the database decides, and the poll finds what rang unheard.

The database marks a device `welcome_due` when it is mapped and clears the mark in the transaction that queues
the welcome. So each mapping is welcomed once, whoever asks and however often.
"""

import asyncio
import logging
from collections.abc import Callable
from uuid import UUID

from mqtt_service.adapters.supabase.devices import ProvisioningGateway, Welcome
from mqtt_service.backoff import retry_forever
from mqtt_service.errors import PermanentError
from mqtt_service.log import context

log = logging.getLogger(__name__)

# Queued in one call; what is left is found by the next poll.
_BATCH = 500


class Provisioner:
    """Queues the welcome of devices that were mapped; `on_queued` is called when commands were added."""

    def __init__(self, gateway: ProvisioningGateway, on_queued: Callable[[], None]) -> None:
        self._gateway = gateway
        self._on_queued = on_queued
        self._rung: set[UUID] = set()
        self._sweep = True  # devices may have been mapped while no worker ran
        self._wanted = asyncio.Event()
        self._wanted.set()

    def device_mapped(self, device_id: UUID) -> None:
        """Realtime announced that this device awaits its welcome."""
        self._rung.add(device_id)
        self._wanted.set()

    def welcome_due(self) -> None:
        """A query found that some device awaits its welcome, or events may have been missed."""
        self._sweep = True
        self._wanted.set()

    async def run(self) -> None:
        """Queue welcomes as they become due, until cancelled; while the database is away they wait."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            sweep, rung = self._sweep, list(self._rung)
            self._sweep = False
            self._rung.clear()
            try:
                async for attempt in retry_forever(self._announce):
                    with attempt:
                        await self.send_welcome_command(None if sweep or len(rung) > _BATCH else rung)
            except PermanentError as error:
                log.error("[PROVISIONING] %s; tried again at the next poll", error)  # noqa: TRY400 - one line

    async def send_welcome_command(self, device_ids: list[UUID] | None) -> list[Welcome]:
        """Queue a `set_wake_schedule` for each of these devices (None: all) that awaits its welcome.

        Returns those queued by this call. Raises the gateway's errors.
        """
        queued = await self._gateway.queue_welcomes(device_ids, limit=_BATCH)
        for welcome in queued:
            extra = context(command=welcome.command_id, device=welcome.device_code or welcome.device_id)
            name = welcome.device_code or welcome.device_id
            log.info("[PROVISIONING] Device %s activated!", name, extra=extra)
            log.info("[PROVISIONING] Sending welcome command to newly-mapped device...", extra=extra)
            log.info("[CommandQueue] Queued set_wake_schedule command for device %s", name, extra=extra)
        if queued:
            self._on_queued()
        return queued

    @staticmethod
    def _announce(error: BaseException, delay: float) -> None:
        log.warning("[PROVISIONING] Welcomes wait: %s; next try in %.1f s", error, delay)
