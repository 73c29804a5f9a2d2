"""Giving a picture up for good: what fails for the same reason in visit after visit is not offered for ever.

The database counts the visits (…_giving_up.sql) and says when it is time. Reasons that may pass by
themselves, such as a Storage that is away or a device that sends nothing, have no kind and are never counted.
"""

from dataclasses import dataclass
from typing import Literal

from mqtt_service.protocol.assembly import Assembly, ImageRefusedError
from mqtt_service.protocol.whole_picture import PictureFault

# keep: the device keeps its copy, and is not asked for it again. discard, quarantine: it is told ACK_OK, and
# deletes its copy; quarantine keeps the bytes in the bucket, under rejected/.
GiveUpMode = Literal["keep", "discard", "quarantine"]
FailureKind = Literal[PictureFault, "missing_chunks", "too_large"]

_BOUNDS_OF_A_PICTURE = frozenset({"max_bytes", "max_chunks"})


@dataclass(frozen=True, slots=True)
class GiveUpPolicy:
    """What becomes of a picture that failed for the same reason in `visits` visits."""

    mode: GiveUpMode = "keep"
    visits: int = 3


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a picture failed: `reason` for its row; `kind` is None where the next visit may well succeed."""

    reason: str
    kind: FailureKind | None = None


def missing_failure(assembly: Assembly | None, reason: str) -> Failure:
    """The failure of a picture of which not all came; that is its own fault only if some of it did.

    The database counts the visits in which the same chunks were missing.
    """
    some_came = assembly is not None and assembly.metadata is not None and assembly.received > 0
    return Failure(reason, "missing_chunks" if some_came else None)


def refused_failure(error: Exception) -> Failure:
    """The failure of a picture that was refused at a bound: its own, or one of all pictures."""
    too_large = isinstance(error, ImageRefusedError) and error.bound in _BOUNDS_OF_A_PICTURE
    return Failure(str(error), "too_large" if too_large else None)
