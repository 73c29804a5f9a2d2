"""A simulated device's SD card: pictures that the service has not confirmed yet, oldest first."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from mqtt_service.simulator.pictures import Picture

State = Literal["idle", "announced", "sending", "sent"]


@dataclass(frozen=True)
class ConfirmedPicture:
    """A picture that was confirmed with ACK_OK; its bytes are deleted, their hash stays."""

    name: str
    captured_at: datetime | None
    size: int
    sha256: str


@dataclass
class PendingPicture:
    """A picture on the card.

    `sent_chunks`: those sent to the broker at least once, in any wake. The rest is of this wake: `expected`:
    a HELLO counted it; `listed`: and named it; `reply_due`: its metadata was sent, and the `send_image` that
    may answer that has not come yet.
    """

    picture: Picture
    sent_chunks: set[int] = field(default_factory=set)
    expected: bool = False
    listed: bool = False
    reply_due: bool = False
    state: State = "idle"


class Card:
    """The pictures by name; what was confirmed is remembered without its bytes."""

    def __init__(self) -> None:
        self.confirmed: list[ConfirmedPicture] = []
        self._pending: dict[str, PendingPicture] = {}
        self._known: set[str] = set()

    def __len__(self) -> int:
        return len(self._pending)

    def __iter__(self) -> Iterator[PendingPicture]:
        return iter(self._pending.values())

    def get(self, name: str) -> PendingPicture | None:
        """Return the picture of this name, None if it is not, or no longer, on the card."""
        return self._pending.get(name)

    def had(self, name: str) -> bool:
        """Whether a picture of this name was ever on the card."""
        return name in self._known

    def put(self, picture: Picture) -> PendingPicture:
        """Store a new picture."""
        self._known.add(picture.name)
        self._pending[picture.name] = pending = PendingPicture(picture)
        return pending

    def confirm(self, name: str) -> None:
        """Delete a picture that the service has stored."""
        picture = self._pending.pop(name).picture
        self.confirmed.append(
            ConfirmedPicture(picture.name, picture.captured_at, len(picture.data), picture.sha256)
        )

    def reset(self) -> None:
        """Forget what was said of the pictures in this wake."""
        for pending in self:
            pending.expected = pending.listed = pending.reply_due = False
            pending.state = "idle"
