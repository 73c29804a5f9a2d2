"""Pictures put together from chunks that come in any order, twice, before their metadata or not at all.

Everything is bounded: what a device sends beyond a bound is refused, and what was there before stays.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from mqtt_service.errors import RemoteProtocolError
from mqtt_service.protocol.images import ImageChunk, ImageMetadata
from mqtt_service.protocol.topics import device_key

_JPEG_START = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"


class ImageRefusedError(RemoteProtocolError):
    """A picture or a chunk is beyond a bound; `bound` is the field of Limits that says which."""

    def __init__(self, bound: str, message: str) -> None:
        self.bound = bound
        super().__init__(message)


class ImageFaultError(RemoteProtocolError):
    """What the chunks of a picture add up to is not the picture that was announced, or no JPEG."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of memory.

    `max_bytes` and `max_chunks` of one picture, pictures `per_device` and `in_flight` in all; bytes and
    chunks buffered in all. The last keeps chunks of a few bytes from costing many times what they hold.
    """

    max_bytes: int = 5_000_000
    max_chunks: int = 5_000
    per_device: int = 4
    in_flight: int = 1_000
    buffered_bytes: int = 128 * 1024 * 1024
    buffered_chunks: int = 1_000_000


class Assembly:
    """One picture on its way; ImageBuffer alone changes it.

    `last_heard` is the time that was passed in with the latest message about it.
    """

    __slots__ = ("_chunks", "buffered_bytes", "device_key", "last_heard", "metadata", "name")

    def __init__(self, device_key: str, name: str, now: float) -> None:
        self.device_key = device_key
        self.name = name
        self.metadata: ImageMetadata | None = None
        self.last_heard = now
        self.buffered_bytes = 0
        self._chunks: dict[int, bytes] = {}

    @property
    def received(self) -> int:
        """How many chunks are there."""
        return len(self._chunks)

    @property
    def total(self) -> int | None:
        """How many chunks there are to be; None before the metadata."""
        return self.metadata.total_chunks if self.metadata else None

    @property
    def complete(self) -> bool:
        """Whether every chunk is there."""
        return len(self._chunks) == self.total

    def missing(self) -> tuple[int, ...]:
        """The ids of the chunks that are not there, in the device's own numbering; empty before metadata.

        Where neither the first id of a count from 0 nor the last of one from 1 was seen, both are listed.
        """
        return tuple(chunk_id for chunk_id in self._numbers() if chunk_id not in self._chunks)

    def assemble(self) -> bytes:
        """The picture; raises ImageFaultError, its message for the row, where it cannot be the one sent."""
        if not self.complete:
            raise ImageFaultError(
                f"{self.received} of {self.total or 'an unknown number of'} chunks are there"
            )
        picture = b"".join(self._chunks[chunk_id] for chunk_id in sorted(self._chunks))
        fault = _fault(picture, self.metadata.size if self.metadata else None)
        if fault:
            raise ImageFaultError(fault)
        return picture

    def has(self, chunk_id: int) -> bool:
        """Whether this chunk is there."""
        return chunk_id in self._chunks

    def is_other_than(self, metadata: ImageMetadata) -> bool:
        """Whether this is about another picture, one that had the same name."""
        return self.metadata is not None and _identity(self.metadata) != _identity(metadata)

    def announce(self, metadata: ImageMetadata) -> None:
        """Learn what the picture is; what came before and is no part of it is dropped."""
        self.metadata = metadata
        outside = [chunk_id for chunk_id in self._chunks if chunk_id > metadata.total_chunks]
        ends = [chunk_id for chunk_id in self._chunks if chunk_id in {0, metadata.total_chunks}]
        for chunk_id in [*outside, *ends[1:]]:
            self.buffered_bytes -= len(self._chunks.pop(chunk_id))

    def add(self, chunk: ImageChunk) -> None:
        """Keep a chunk that is not there; raises as `check` does."""
        self.check(chunk)
        self._chunks[chunk.chunk_id] = chunk.data
        self.buffered_bytes += len(chunk.data)

    def check(self, chunk: ImageChunk) -> None:
        """Raise RemoteProtocolError for a chunk that cannot be of this picture."""
        numbers = self._numbers()
        if self.metadata and chunk.chunk_id not in numbers:
            raise RemoteProtocolError(
                f"chunk {chunk.chunk_id} of {self.name!r:.60} is not of {numbers[0]}…{numbers[-1]};"
                " the chunk is dropped"
            )

    def _numbers(self) -> range:
        total = self.total
        if total is None:
            return range(0)
        return range(1 if total in self._chunks else 0, total if 0 in self._chunks else total + 1)


class ImageBuffer:
    """The pictures on their way, by device and name; all spellings of a device are one.

    Times are any seconds that only grow, such as a monotonic clock's.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._devices: dict[str, dict[str, Assembly]] = {}
        self._in_flight = 0
        self._bytes = 0
        self._chunks = 0

    @property
    def buffered_bytes(self) -> int:
        """How many bytes of pictures are held in all."""
        return self._bytes

    def __len__(self) -> int:
        """How many pictures are on their way."""
        return self._in_flight

    def metadata(self, metadata: ImageMetadata, now: float) -> Assembly:
        """Begin a picture, or learn what its chunks are of; raises ImageRefusedError at a bound.

        The same again changes nothing; about another picture of that name, it begins that one anew.
        """
        self._check_announced(metadata)
        device = device_key(metadata.device)
        assembly = self.get(device, metadata.name)
        if assembly is not None and assembly.is_other_than(metadata):
            self.discard(device, metadata.name)
            assembly = None
        if assembly is None:
            assembly = self._begin(device, metadata.name, now)
        if assembly.metadata is None:
            self._count(assembly, -1)
            assembly.announce(metadata)
            self._count(assembly, 1)
        assembly.last_heard = now
        return assembly

    def chunk(self, chunk: ImageChunk, now: float) -> Assembly:
        """Keep a chunk, the first of its id; the picture that it is of.

        Raises ImageRefusedError at a bound, RemoteProtocolError for a chunk that cannot be of its picture.
        """
        device = device_key(chunk.device)
        assembly = self.get(device, chunk.name)
        if assembly is None or not assembly.has(chunk.chunk_id):
            if assembly is not None:
                assembly.check(chunk)
            self._check_chunk(chunk, assembly)
            if assembly is None:
                assembly = self._begin(device, chunk.name, now)
            assembly.add(chunk)
            self._bytes += len(chunk.data)
            self._chunks += 1
        assembly.last_heard = now
        return assembly

    def get(self, device: str, name: str) -> Assembly | None:
        """The picture of this name, if it is on its way."""
        return self._devices.get(device_key(device), {}).get(name)

    def of_device(self, device: str) -> list[Assembly]:
        """A device's pictures on their way, the first begun first."""
        return list(self._devices.get(device_key(device), {}).values())

    def discard(self, device: str, name: str) -> None:
        """Free a picture's memory; nothing happens where there is none."""
        key = device_key(device)
        pictures = self._devices.get(key, {})
        assembly = pictures.pop(name, None)
        if assembly is None:
            return
        if not pictures:
            del self._devices[key]
        self._in_flight -= 1
        self._count(assembly, -1)

    def discard_device(self, device: str) -> None:
        """Free the memory of all of a device's pictures."""
        for assembly in self.of_device(device):
            self.discard(device, assembly.name)

    def expire(self, older_than: float) -> list[Assembly]:
        """Discard the pictures that were last heard of before this time, and say which they were."""
        expired = [assembly for assembly in self._all() if assembly.last_heard < older_than]
        for assembly in expired:
            self.discard(assembly.device_key, assembly.name)
        return expired

    def _all(self) -> Iterator[Assembly]:
        for pictures in self._devices.values():
            yield from pictures.values()

    def _begin(self, device: str, name: str, now: float) -> Assembly:
        limits = self._limits
        if len(self._devices.get(device, {})) >= limits.per_device:
            raise ImageRefusedError(
                "per_device",
                f"{name!r:.60} is one picture more than the {limits.per_device} that a device may have on"
                " their way; it is not taken",
            )
        if self._in_flight >= limits.in_flight:
            raise ImageRefusedError(
                "in_flight",
                f"{name!r:.60} is one picture more than the {limits.in_flight} that may be on their way in"
                " all; it is not taken",
            )
        assembly = Assembly(device, name, now)
        self._devices.setdefault(device, {})[name] = assembly
        self._in_flight += 1
        return assembly

    def _count(self, assembly: Assembly, sign: int) -> None:
        self._bytes += sign * assembly.buffered_bytes
        self._chunks += sign * assembly.received

    def _check_announced(self, metadata: ImageMetadata) -> None:
        limits = self._limits
        if metadata.size is not None and metadata.size > limits.max_bytes:
            raise ImageRefusedError(
                "max_bytes",
                f"{metadata.name!r:.60} is announced with {metadata.size} bytes, the limit is"
                f" {limits.max_bytes}; it is not taken",
            )
        if metadata.total_chunks > limits.max_chunks:
            raise ImageRefusedError(
                "max_chunks",
                f"{metadata.name!r:.60} is announced with {metadata.total_chunks} chunks, the limit is"
                f" {limits.max_chunks}; it is not taken",
            )

    def _check_chunk(self, chunk: ImageChunk, assembly: Assembly | None) -> None:
        limits = self._limits
        name = f"{chunk.name!r:.60}"
        length = len(chunk.data)
        if length > limits.max_bytes:
            raise RemoteProtocolError(
                f"chunk {chunk.chunk_id} of {name} is {length} bytes, more than a whole picture may be;"
                " the chunk is dropped"
            )
        if chunk.chunk_id > limits.max_chunks:
            raise ImageRefusedError(
                "max_chunks",
                f"chunk {chunk.chunk_id} of {name} is beyond the {limits.max_chunks} that a picture may have;"
                " the chunk is dropped",
            )
        if assembly is not None and assembly.buffered_bytes + length > limits.max_bytes:
            raise ImageRefusedError(
                "max_bytes", f"{name} grows beyond {limits.max_bytes} bytes; the chunk is dropped"
            )
        if self._bytes + length > limits.buffered_bytes or self._chunks >= limits.buffered_chunks:
            raise ImageRefusedError(
                "buffered_bytes",
                f"{self._bytes} bytes in {self._chunks} chunks of pictures are waiting, which is all there is"
                f" room for; chunk {chunk.chunk_id} of {name} is dropped",
            )


def _identity(metadata: ImageMetadata) -> tuple[object, ...]:
    """What tells pictures of one name apart, also where the device's clock was not set."""
    captured = metadata.captured_at or metadata.captured_text
    return captured, metadata.size, metadata.total_chunks


def _fault(picture: bytes, announced: int | None) -> str | None:
    length = len(picture)
    if announced is not None and length > announced:
        return f"the chunks hold {length} bytes, more than the {announced} announced"
    if announced is not None and length < announced:
        return f"the chunks hold {length} bytes, fewer than the {announced} announced"
    if not picture.startswith(_JPEG_START):
        return "the picture does not begin as a JPEG does (FF D8)"
    if not picture.endswith(_JPEG_END):
        return "the picture does not end as a JPEG does (FF D9): it is cut off"
    return None
