"""Pictures put together from chunks that come in any order, twice, before their metadata or not at all.

Everything is bounded: what a device sends beyond a bound is refused, and what was there before stays.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from mqtt_service.errors import RemoteProtocolError
from mqtt_service.protocol.images import ImageChunk, ImageMetadata
from mqtt_service.protocol.topics import device_key
from mqtt_service.protocol.whole_picture import ImageFaultError, whole_picture


class ImageRefusedError(RemoteProtocolError):
    """A picture or a chunk is beyond a bound; `bound` is the field of Limits that says which."""

    def __init__(self, bound: str, message: str) -> None:
        self.bound = bound
        super().__init__(message)

    @property
    def passes(self) -> bool:
        """Whether there is room again once other pictures are finished."""
        return self.bound in {"buffered_bytes", "buffered_chunks"}


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of memory.

    One picture has at most `max_bytes` and `max_chunks`. At most `per_device` pictures of one device and
    `in_flight` of all are unfinished at a time; together they hold at most `buffered_bytes`, and at most
    `buffered_chunks`, since chunks of a few bytes cost many times what they hold.
    """

    max_bytes: int = 5_000_000
    max_chunks: int = 5_000
    per_device: int = 4
    in_flight: int = 1_000
    buffered_bytes: int = 128 * 1024 * 1024
    buffered_chunks: int = 1_000_000


class Assembly:
    """One unfinished picture; ImageBuffer alone changes it.

    `last_heard` is the time that was passed in with the latest message about it.
    """

    __slots__ = (
        "_chunks",
        "_whole_without_last",
        "buffered_bytes",
        "device_key",
        "last_heard",
        "metadata",
        "name",
    )

    def __init__(self, device_key: str, name: str, now: float) -> None:
        self.device_key = device_key
        self.name = name
        self.metadata: ImageMetadata | None = None
        self.last_heard = now
        self.buffered_bytes = 0
        self._chunks: dict[int, bytes] = {}
        self._whole_without_last: bool | None = None  # None: not looked at since the last change

    @property
    def received(self) -> int:
        """How many chunks are there."""
        return len(self._chunks)

    @property
    def total(self) -> int | None:
        """How many chunks the picture has; None before the metadata."""
        return self.metadata.total_chunks if self.metadata else None

    @property
    def complete(self) -> bool:
        """Whether every chunk is there, also where firmware announced one too many (size / chunk + 1)."""
        return len(self._chunks) == self.total or (
            self._has_announced_bytes() and self.is_whole_without_last()
        )

    def is_whole_without_last(self) -> bool:
        """Whether the last chunk alone is missing, and the others are the whole picture without it."""
        if self.total is None or len(self._chunks) != self.total - 1 or not self._chunks:
            return False
        if self._whole_without_last is None:
            self._whole_without_last = self._is_counted_up() and self._is_picture()
        return self._whole_without_last

    def _has_announced_bytes(self) -> bool:
        size = self.metadata.size if self.metadata else None
        return size is not None and self.buffered_bytes >= size

    def _is_counted_up(self) -> bool:
        """Whether no id is left out; a picture without its first chunk is no JPEG anyway."""
        return max(self._chunks) - min(self._chunks) == len(self._chunks) - 1

    def _is_picture(self) -> bool:
        try:
            self._join()
        except ImageFaultError:
            return False
        return True

    def missing(self) -> tuple[int, ...]:
        """The ids of the chunks that are not there, in the device's own numbering; empty before metadata.

        While neither id 0 nor the last id of a count from 1 was seen, either may be missing: both are listed.
        """
        possible = self._possible_ids(self.total) if self.total else ()
        return tuple(chunk_id for chunk_id in possible if chunk_id not in self._chunks)

    def assemble(self) -> bytes:
        """The picture; raises ImageFaultError, its message for the row, where it cannot be the one sent."""
        if self.received != self.total and not self.is_whole_without_last():
            total = self.total or "an unknown number of"
            raise ImageFaultError(f"{self.received} of {total} chunks are there")
        return self._join()

    def joined(self) -> bytes:
        """The chunks that are there, one behind the other; b"" if there is none."""
        return b"".join(self._chunks[chunk_id] for chunk_id in sorted(self._chunks))

    def _join(self) -> bytes:
        announced = self.metadata.size if self.metadata else None
        return whole_picture(self.joined(), announced, len(self._chunks[max(self._chunks)]))

    def set_metadata(self, metadata: ImageMetadata) -> None:
        """Learn what the picture is; chunks that came before and cannot be part of it are dropped."""
        self.metadata = metadata
        self._whole_without_last = None
        outside = [chunk_id for chunk_id in self._chunks if chunk_id > metadata.total_chunks]
        # Id 0 and the last id of a count from 1 exclude each other: the one that came first decides.
        ends = [chunk_id for chunk_id in self._chunks if chunk_id in {0, metadata.total_chunks}]
        for chunk_id in [*outside, *ends[1:]]:
            self.buffered_bytes -= len(self._chunks.pop(chunk_id))

    def has(self, chunk_id: int) -> bool:
        """Whether this chunk is there."""
        return chunk_id in self._chunks

    def can_have(self, chunk_id: int) -> bool:
        """Whether the picture can have such a chunk, by what is known so far."""
        return self.total is None or chunk_id in self._possible_ids(self.total)

    def add(self, chunk: ImageChunk) -> None:
        """Keep a chunk that is not there, and that the picture can have."""
        self._chunks[chunk.chunk_id] = chunk.data
        self.buffered_bytes += len(chunk.data)
        self._whole_without_last = None

    def _possible_ids(self, total: int) -> range:
        """The ids counted from 0 or from 1; those of both counts as long as neither is excluded."""
        return range(1 if total in self._chunks else 0, total if 0 in self._chunks else total + 1)


class ImageBuffer:
    """The unfinished pictures, by device and name; all spellings of a device are one.

    Times are seconds of any clock that never goes back.
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
        """How many pictures are unfinished."""
        return self._in_flight

    def add_metadata(self, metadata: ImageMetadata, now: float) -> Assembly:
        """Begin a picture, or complete what its chunks began; raises ImageRefusedError at a bound.

        The same metadata again changes nothing; that of another picture of its name begins another Assembly.
        """
        self._check_announced(metadata)
        device = device_key(metadata.device)
        assembly = self._find(device, metadata.name)
        if assembly and assembly.metadata and _identity(assembly.metadata) != _identity(metadata):
            self._remove(assembly)
            assembly = None
        if assembly is None:
            assembly = self._begin(device, metadata.name, now)
        if assembly.metadata is None:
            self._count(assembly, sign=-1)
            assembly.set_metadata(metadata)
            self._count(assembly, sign=1)
        assembly.last_heard = now
        return assembly

    def add_chunk(self, chunk: ImageChunk, now: float) -> Assembly:
        """Keep a chunk, unless one of its id is there, and return its picture.

        Raises ImageRefusedError at a bound, RemoteProtocolError for a chunk that cannot be of its picture.
        """
        device = device_key(chunk.device)
        assembly = self._find(device, chunk.name)
        if assembly is None or not assembly.has(chunk.chunk_id):
            self._check_chunk(chunk, assembly)
            if assembly is None:
                assembly = self._begin(device, chunk.name, now)
            assembly.add(chunk)
            self._bytes += len(chunk.data)
            self._chunks += 1
        assembly.last_heard = now
        return assembly

    def get(self, device: str, name: str) -> Assembly | None:
        """The unfinished picture of this name, if there is one."""
        return self._find(device_key(device), name)

    def unfinished(self, device: str) -> list[Assembly]:
        """A device's unfinished pictures, the first begun first."""
        return list(self._devices.get(device_key(device), {}).values())

    def discard(self, device: str, name: str) -> None:
        """Free a picture's memory, if it is there."""
        assembly = self.get(device, name)
        if assembly is not None:
            self._remove(assembly)

    def discard_device(self, device: str) -> None:
        """Free the memory of all of a device's pictures."""
        for assembly in self.unfinished(device):
            self._remove(assembly)

    def expire(self, older_than: float) -> list[Assembly]:
        """Discard the pictures that were last heard of before this time, and return them."""
        expired = [assembly for assembly in self._all() if assembly.last_heard < older_than]
        for assembly in expired:
            self._remove(assembly)
        return expired

    def _all(self) -> Iterator[Assembly]:
        for pictures in self._devices.values():
            yield from pictures.values()

    def _find(self, device: str, name: str) -> Assembly | None:
        pictures = self._devices.get(device)
        return pictures.get(name) if pictures else None

    def _begin(self, device: str, name: str, now: float) -> Assembly:
        limits = self._limits
        if len(self._devices.get(device, {})) >= limits.per_device:
            raise ImageRefusedError("per_device", _one_too_many(name, limits.per_device, "of one device"))
        if self._in_flight >= limits.in_flight:
            raise ImageRefusedError("in_flight", _one_too_many(name, limits.in_flight, "of all devices"))
        assembly = Assembly(device, name, now)
        self._devices.setdefault(device, {})[name] = assembly
        self._in_flight += 1
        return assembly

    def _remove(self, assembly: Assembly) -> None:
        pictures = self._devices[assembly.device_key]
        del pictures[assembly.name]
        if not pictures:
            del self._devices[assembly.device_key]
        self._in_flight -= 1
        self._count(assembly, sign=-1)

    def _count(self, assembly: Assembly, *, sign: int) -> None:
        """Count in (1) or out (-1) what a picture holds."""
        self._bytes += sign * assembly.buffered_bytes
        self._chunks += sign * assembly.received

    def _check_announced(self, metadata: ImageMetadata) -> None:
        limits = self._limits
        name = f"{metadata.name!r:.60}"
        if metadata.size is not None and metadata.size > limits.max_bytes:
            raise ImageRefusedError(
                "max_bytes",
                f"{name} is announced with {metadata.size} bytes, the limit is {limits.max_bytes};"
                " it is refused",
            )
        if metadata.total_chunks > limits.max_chunks:
            raise ImageRefusedError(
                "max_chunks",
                f"{name} is announced with {metadata.total_chunks} chunks, the limit is {limits.max_chunks};"
                " it is refused",
            )

    def _check_chunk(self, chunk: ImageChunk, assembly: Assembly | None) -> None:
        """Raise for a chunk that its picture cannot have, or that there is no room for."""
        limits = self._limits
        if assembly and not assembly.can_have(chunk.chunk_id):
            raise RemoteProtocolError(
                f"{_chunk_dropped(chunk)}: the picture has {assembly.total} chunks, numbered differently"
            )
        if len(chunk.data) > limits.max_bytes:
            raise RemoteProtocolError(
                f"{_chunk_dropped(chunk)}: its {len(chunk.data)} bytes are more than a whole picture may have"
            )
        if chunk.chunk_id > limits.max_chunks:
            raise ImageRefusedError(
                "max_chunks", f"{_chunk_dropped(chunk)}: a picture's limit is {limits.max_chunks} chunks"
            )
        if assembly and assembly.buffered_bytes + len(chunk.data) > limits.max_bytes:
            raise ImageRefusedError(
                "max_bytes",
                f"{_chunk_dropped(chunk)}: the picture grows beyond the limit of {limits.max_bytes} bytes",
            )
        self._check_room(chunk)

    def _check_room(self, chunk: ImageChunk) -> None:
        limits = self._limits
        if self._bytes + len(chunk.data) > limits.buffered_bytes:
            raise ImageRefusedError(
                "buffered_bytes",
                f"{_chunk_dropped(chunk)}: unfinished pictures hold {self._bytes} bytes, the limit is"
                f" {limits.buffered_bytes}",
            )
        if self._chunks >= limits.buffered_chunks:
            raise ImageRefusedError(
                "buffered_chunks",
                f"{_chunk_dropped(chunk)}: unfinished pictures hold {self._chunks} chunks, the limit",
            )


def _identity(metadata: ImageMetadata) -> tuple[object, ...]:
    """What distinguishes pictures of one name, also where the device's clock was not set."""
    return metadata.captured_at or metadata.captured_text, metadata.size, metadata.total_chunks


def _one_too_many(name: str, limit: int, whose: str) -> str:
    return f"{name!r:.60} is refused: {limit} unfinished pictures {whose} are there, which is the limit"


def _chunk_dropped(chunk: ImageChunk) -> str:
    return f"chunk {chunk.chunk_id} of {chunk.name!r:.60} is dropped"
