"""Welcomes newly mapped devices: Realtime announces them at once, and the poll finds those that it missed.

The database marks a device `welcome_due` when it is mapped and clears the mark in the transaction that queues
the welcome. So each mapping is welcomed once, whoever asks and however often.
"""

import asyncio
import logging
from collections.abc import Callable
from uuid import UUID

from mqtt_service.adapters.supabase.devices import ProvisioningGateway, Welcome
from mqtt_service.backoff import retry_forever
from mqtt_service.devices.refusals import Refusals
from mqtt_service.errors import PermanentError
from mqtt_service.log import context

log = logging.getLogger(__name__)

# In one call; the next poll finds the rest.
_BATCH = 500


class Provisioner:
    """Queues the welcome of devices that were mapped; `on_queued` is called when commands were added."""

    def __init__(self, gateway: ProvisioningGateway, on_queued: Callable[[], None]) -> None:
        self._gateway = gateway
        self._on_queued = on_queued
        self._refusals = Refusals("welcome")
        self._announced: set[UUID] = set()
        self._look_for_all = True  # devices may have been mapped while no worker ran
        self._wanted = asyncio.Event()
        self._wanted.set()

    def device_mapped(self, device_id: UUID) -> None:
        """Realtime announced that this device awaits its welcome."""
        self._announced.add(device_id)
        self._wanted.set()

    def welcome_due(self) -> None:
        """A query found that some device awaits its welcome, or events may have been missed."""
        self._look_for_all = True
        self._wanted.set()

    async def run(self) -> None:
        """Queue welcomes as they become due, until cancelled; while the database is away they wait."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            look_for_all, announced = self._look_for_all, list(self._announced)
            self._look_for_all = False
            self._announced.clear()
            device_ids = None if look_for_all or len(announced) > _BATCH else announced
            try:
                async for attempt in retry_forever(self._log_retry):
                    with attempt:
                        await self.send_welcome_command(device_ids)
            except PermanentError as error:
                log.error("[PROVISIONING] %s; tried again at the next poll", error)  # noqa: TRY400 - one line

    async def send_welcome_command(self, device_ids: list[UUID] | None) -> list[Welcome]:
        """Queue a `set_wake_schedule` for each of these devices (None: all) that awaits its welcome.

        Returns those queued by this call. Raises the gateway's errors.
        """
        answer = await self._gateway.queue_welcomes(device_ids, limit=_BATCH)
        for welcome in answer:
            if welcome.error is not None:
                self._refusals.report(welcome.device_code or str(welcome.device_id), [welcome.error])
        queued = [welcome for welcome in answer if welcome.error is None]
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
    def _log_retry(error: BaseException, delay: float) -> None:
        log.warning("[PROVISIONING] Welcomes wait: %s; next try in %.1f s", error, delay)
