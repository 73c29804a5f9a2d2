"""A simulated device's camera: takes pictures, keeps them on the card, and uploads them as it is told.

send_image       metadata and chunks; chunks alone if the metadata was just announced
capture_image    the next pending picture that no HELLO named, else a new one
missing_chunks   those chunks again
ACK_OK           the picture is deleted
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any

from mqtt_service.simulator.card import Card, PendingPicture
from mqtt_service.simulator.pictures import (
    Picture,
    PictureFormat,
    chunk_document,
    chunk_ids,
    metadata_document,
    take_picture,
)
from mqtt_service.simulator.radio import Radio

MAX_LISTED = 10
_METADATA = -1


@dataclass(frozen=True)
class CameraOptions:
    """How the firmware handles pictures of `picture_bytes` each.

    `waits_for_send_image`: after metadata that nobody asked for, the chunks wait for `send_image`; else they
    follow at once. `lists_pending`: HELLO names pending pictures (the first ten), else it only counts them.
    `uploads_new`: pictures taken before a HELLO are not pending then, but uploaded after it unasked, one
    after another. Without `clock_set` it says that pictures are of 1970. `chunk_seconds`: a pause after each
    message. `qos`: of metadata and chunks, 0 or 1.
    """

    picture_bytes: int = 70_000
    form: PictureFormat = field(default_factory=PictureFormat)
    waits_for_send_image: bool = False
    lists_pending: bool = True
    uploads_new: bool = False
    clock_set: bool = True
    chunk_seconds: float = 0.0
    qos: int = 1


@dataclass(frozen=True)
class _Upload:
    pending: PendingPicture
    chunks: Sequence[int]


class Camera:
    """Takes, keeps and uploads pictures.

    `publish` sends one document on `…/data`; `run` does the sending and calls `on_sent` after each upload.
    `sent` are the names of pictures that were sent in full; the owner gives it a new list for each wake.
    """

    def __init__(
        self,
        device_id: str,
        options: CameraOptions,
        publish: Callable[[Mapping[str, Any]], Awaitable[None]],
        radio: Radio,
        rng: Random,
        now: Callable[[], datetime],
        on_sent: Callable[[], None],
    ) -> None:
        self.card = Card()
        self.chunks_sent = 0
        self.sent: list[str] = []
        self._device_id = device_id
        self._options = options
        self._publish = publish
        self._radio = radio
        self._rng = rng
        self._now = now
        self._on_sent = on_sent
        self._taken = 0
        self._unannounced: deque[PendingPicture] = deque()
        self._uploads: asyncio.Queue[_Upload] = asyncio.Queue()
        self._resets = 0
        self._busy = False

    @property
    def busy(self) -> bool:
        """Whether it is sending."""
        return self._busy or not self._uploads.empty()

    @property
    def unfinished(self) -> bool:
        """Whether the service knows, or is to learn in this wake, of a picture that it has not confirmed."""
        return bool(self._unannounced) or any(
            pending.expected or pending.state != "idle" for pending in self.card
        )

    def take(self) -> Picture:
        """Take a picture and keep it: it is pending at the next HELLO, unless `uploads_new`."""
        return self._take().picture

    def reset(self) -> None:
        """Forget what is under way, as sleep and a reboot do: what is on the card is pending then."""
        while not self._uploads.empty():
            self._uploads.get_nowait()
        self._resets += 1
        self._busy = False
        self._unannounced.clear()
        self.card.reset()

    def pending(self) -> tuple[int, list[str] | None]:
        """Return what a HELLO says: how many pictures are pending, and the names if it lists them."""
        pending = [each for each in self.card if each not in self._unannounced]
        named = pending[:MAX_LISTED] if self._options.lists_pending else []
        for each in named or pending:
            each.expected = True
            each.listed = self._options.lists_pending
        return len(pending), [each.picture.name for each in named] if self._options.lists_pending else None

    def upload_new(self) -> None:
        """Announce the next new picture that nobody was told of, unless one is under way."""
        if self._unannounced and not any(each.state != "idle" for each in self.card):
            self._announce(self._unannounced.popleft())

    def capture(self) -> None:
        """Obey `capture_image`."""
        unlisted = (
            each
            for each in self.card
            if each.state == "idle" and not each.listed and each not in self._unannounced
        )
        self._announce(next(unlisted, None) or self._take(new=False))

    def send(self, name: str) -> bool:
        """Obey `send_image`; False if there is no such picture.

        The first one after metadata may be the answer to that, so it begins nothing that has begun.
        """
        pending = self.card.get(name)
        if pending is None:
            return False
        answer, pending.reply_due = pending.reply_due, False
        if pending.state == "announced":
            self._send_chunks(pending)
        elif pending.state == "idle" or (pending.state == "sent" and not answer):
            self._send_all(pending)
        return True

    def send_again(self, name: str, chunks: Sequence[int]) -> None:
        """Obey `missing_chunks`; ids and pictures that are not there are ignored."""
        pending = self.card.get(name)
        if pending is not None:
            known = chunk_ids(pending.picture, self._options.form)
            self._uploads.put_nowait(_Upload(pending, [chunk for chunk in chunks if chunk in known]))

    def confirm(self, name: str) -> str | None:
        """Obey `ACK_OK`: delete the picture. Returns what is wrong with being told so."""
        pending = self.card.get(name)
        if pending is None:
            return None if self.card.had(name) else f"ACK_OK for {name!r}, which never was on the card"
        unsent = len(chunk_ids(pending.picture, self._options.form)) - len(pending.sent_chunks)
        if name not in self.sent:
            self.sent.append(name)
        self.card.confirm(name)
        self.upload_new()
        return f"ACK_OK for {name!r}, of which {unsent} chunk(s) never left" if unsent else None

    async def run(self) -> None:
        """Send what is to be sent, one upload after another, until cancelled."""
        while True:
            upload = await self._uploads.get()
            self._busy = True
            await self._transmit(upload, self._resets)
            self._busy = False
            self._on_sent()

    def _take(self, *, new: bool = True) -> PendingPicture:
        self._taken += 1
        taken_at = self._now() if self._options.clock_set else None
        name = f"image_{self._taken:03}.jpg"
        pending = self.card.put(take_picture(name, self._options.picture_bytes, taken_at, self._rng))
        if new and self._options.uploads_new:
            self._unannounced.append(pending)
        return pending

    def _announce(self, pending: PendingPicture) -> None:
        """Send metadata that nobody asked for."""
        if self._options.waits_for_send_image:
            pending.state = "announced"
            pending.reply_due = True
            self._uploads.put_nowait(_Upload(pending, [_METADATA]))
        else:
            self._send_all(pending)

    def _send_all(self, pending: PendingPicture) -> None:
        pending.reply_due = True
        self._send_chunks(pending, _METADATA)

    def _send_chunks(self, pending: PendingPicture, *before: int) -> None:
        pending.state = "sending"
        chunks = chunk_ids(pending.picture, self._options.form)
        self._uploads.put_nowait(_Upload(pending, [*before, *chunks]))

    async def _transmit(self, upload: _Upload, resets: int) -> None:
        pending = upload.pending
        for chunk in self._transmitted(upload.chunks):
            if resets != self._resets or self.card.get(pending.picture.name) is not pending:
                return  # rebooted or confirmed meanwhile
            if chunk != _METADATA:
                # Before it is sent: its PUBACK and the ACK_OK for the whole may come in one read.
                pending.sent_chunks.add(chunk)
                self.chunks_sent += 1
            await self._publish(self._document(pending.picture, chunk))
            await asyncio.sleep(self._options.chunk_seconds)
        if pending.state == "sending" and len(upload.chunks) > 1:
            self.sent.append(pending.picture.name)
            pending.state = "sent"

    def _transmitted(self, chunks: Sequence[int]) -> list[int]:
        """What the radio lets through; metadata goes first and safely, unless it is affected too."""
        if self._radio.affects("data"):
            return self._radio.transmit(chunks)
        safe = [chunk for chunk in chunks if chunk == _METADATA]
        return safe + self._radio.transmit([chunk for chunk in chunks if chunk != _METADATA])

    def _document(self, picture: Picture, chunk: int) -> dict[str, Any]:
        if chunk == _METADATA:
            return metadata_document(self._device_id, picture, self._options.form)
        return chunk_document(self._device_id, picture, chunk, self._options.form)
