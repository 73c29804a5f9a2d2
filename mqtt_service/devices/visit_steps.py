"""What a visit can have to do next: the steps that visit_state.py decides, until `End`.

Those that tell the device something are replies, named after their fields on the wire (protocol/replies.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing until something happens, or until this time; None: for as long as it takes."""

    until: float | None


@dataclass(frozen=True, slots=True)
class WatchCommands:
    """Give the device a moment, then read the visit's row, which counts the open commands."""


@dataclass(frozen=True, slots=True)
class BeginVisit:
    """Record this picture, of which only chunks came; with its row, the database begins the visit."""

    name: str


@dataclass(frozen=True, slots=True)
class ReadPictureRow:
    """Chunks came without metadata: another worker may have heard that, or even have stored the picture."""

    name: str


@dataclass(frozen=True, slots=True)
class StorePicture:
    """Every chunk is there: put the picture into Storage and its row."""

    name: str


@dataclass(frozen=True, slots=True)
class FailPicture:
    """It did not come, though requested again so often: its row says what is missing."""

    name: str
    requests: int


@dataclass(frozen=True, slots=True)
class CaptureImage:
    """Tell the device to send a picture that it counted and did not name."""


@dataclass(frozen=True, slots=True)
class SendImage:
    """Tell the device to send this picture."""

    name: str


@dataclass(frozen=True, slots=True)
class MissingChunks:
    """Tell the device which chunks to send again; `requests` counts such requests, this one included."""

    name: str
    chunks: Sequence[int]
    requests: int


@dataclass(frozen=True, slots=True)
class AckOk:
    """Tell the device that the picture is stored, so that it may delete it, and when to wake."""

    name: str
    next_wake: datetime | None


@dataclass(frozen=True, slots=True)
class NextWake:
    """Tell the device to sleep, and when to wake."""

    next_wake: datetime | None


Reply = CaptureImage | SendImage | MissingChunks | AckOk | NextWake
Step = Wait | WatchCommands | BeginVisit | ReadPictureRow | StorePicture | FailPicture | Reply


@dataclass(frozen=True, slots=True)
class End:
    """Nothing more is to be done; `device_gone`: since nobody listens to its topics any more."""

    device_gone: bool
