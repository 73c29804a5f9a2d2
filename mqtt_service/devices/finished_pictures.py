"""Pictures that are done with: what still comes of them is late; one announced again needs no database."""

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass

from mqtt_service.adapters.supabase.images import ImageRecorded
from mqtt_service.protocol.images import ImageMetadata

# By device_key and the device's name for the picture.
PictureKey = tuple[str, str]

_MOST_REMEMBERED = 10_000
# Seconds.
_REPETITION_WINDOW = 30.0


@dataclass(frozen=True, slots=True)
class _Finished:
    """`row` is None unless it is stored. `digest` stands for the metadata, which may be large."""

    since: float
    digest: bytes | None
    row: ImageRecorded | None


class FinishedPictures:
    """Pictures that were stored, given up or refused, the most recent of them.

    Times are seconds of any clock that never goes back.
    """

    def __init__(self) -> None:
        self._finished: OrderedDict[PictureKey, _Finished] = OrderedDict()

    def __contains__(self, key: PictureKey) -> bool:
        """Whether the picture is done with."""
        return key in self._finished

    def add(
        self, key: PictureKey, now: float, stored: ImageRecorded | None, metadata: ImageMetadata | None
    ) -> None:
        """The picture is done with; `stored` is its row if it is in Storage."""
        digest = _digest(metadata) if stored is not None and metadata is not None else None
        self._finished[key] = _Finished(now, digest, stored)
        if len(self._finished) > _MOST_REMEMBERED:
            self._finished.popitem(last=False)

    def remove(self, key: PictureKey) -> None:
        """What comes under this name from now on is another picture, or the same once more."""
        self._finished.pop(key, None)

    def stored_row(self, key: PictureKey, metadata: ImageMetadata, now: float) -> ImageRecorded | None:
        """The row of the stored picture that this metadata announces again; None if it announces another.

        Without a time of capture, two pictures can have the same metadata: only soon after, it is the same.
        """
        finished = self._finished.get(key)
        if finished is None or finished.row is None:
            return None
        repeated = finished.since > now - _REPETITION_WINDOW
        same = (metadata.captured_at is not None or repeated) and finished.digest == _digest(metadata)
        return finished.row if same else None


def _digest(metadata: ImageMetadata) -> bytes:
    return hashlib.sha256(json.dumps(metadata.document, sort_keys=True).encode()).digest()
