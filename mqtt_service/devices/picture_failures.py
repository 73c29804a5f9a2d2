"""Pictures that failed: why, and whether they are given up for good; a quarantine keeps their bytes."""

import logging

from mqtt_service.adapters.supabase.images import ImageRecorded, ImageSettled
from mqtt_service.devices.giving_up import Failure, GiveUpPolicy
from mqtt_service.devices.picture_rows import PictureRows
from mqtt_service.devices.picture_uploads import PictureUploader
from mqtt_service.errors import ServiceError
from mqtt_service.log import context
from mqtt_service.metrics import IMAGES
from mqtt_service.protocol.assembly import Assembly

log = logging.getLogger(__name__)


class PictureFailures:
    """Writes why pictures failed, and gives up for good those whose time has come."""

    def __init__(self, rows: PictureRows, uploader: PictureUploader, give_up: GiveUpPolicy) -> None:
        self._rows = rows
        self._uploader = uploader
        self._give_up = give_up

    async def record(
        self, recorded: ImageRecorded, assembly: Assembly | None, failure: Failure, requests: int = 0
    ) -> ImageSettled | None:
        """Write that a picture failed, and what became of it; None where that is not known.

        One that is given up with its bytes kept is so only once these are in Storage.
        """
        settled = await self._rows.failed(recorded, assembly, failure, self._give_up, requests)
        if settled is not None and settled.given_up == "quarantine" and assembly is not None:
            settled = await self._quarantine(recorded, assembly, failure, settled)
        if settled is not None and settled.given_up is not None:
            IMAGES.labels("given_up").inc()
        return settled

    async def _quarantine(
        self, recorded: ImageRecorded, assembly: Assembly, failure: Failure, settled: ImageSettled
    ) -> ImageSettled | None:
        if settled.rejected_path is None:
            return None
        try:
            await self._uploader.upload(settled.rejected_path, assembly.joined())
        except ServiceError as error:
            extra = context(device=recorded.device_code or assembly.device_key)
            log.warning("[IMAGE] %s is not put into quarantine: %s", assembly.name, error, extra=extra)
            return None
        return await self._rows.quarantined(settled.image_id, failure)


def is_device_to_delete(settled: ImageSettled | None) -> bool:
    """Whether the picture is given up so that the device is told ACK_OK."""
    return settled is not None and settled.given_up in {"discard", "quarantine"}


def describe(settled: ImageSettled | None) -> str:
    """What becomes of a picture that failed, for the log."""
    if settled is None or settled.given_up is None:
        return "the device keeps it and offers it again"
    what = {
        "keep": "the device keeps it, and is not asked for it again",
        "discard": "the device is told to delete it",
        "quarantine": f"the device is told to delete it, and what came of it is in {settled.rejected_path}",
    }
    return f"given up after {settled.failed_visits} visits: {what[settled.given_up]}"
