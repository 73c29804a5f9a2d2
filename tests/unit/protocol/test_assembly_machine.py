"""ImageBuffer against a model of it that keeps what came in plain dicts, through whatever devices do.

The model knows the rules in their simplest form: it replays what came of a picture, in order, as if the
metadata had come first. It does not know how the buffer counts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mqtt_service.errors import RemoteProtocolError
from mqtt_service.protocol.assembly import (
    Assembly,
    ImageBuffer,
    ImageRefusedError,
    Limits,
)
from mqtt_service.protocol.images import ImageChunk, ImageMetadata, Readings
from mqtt_service.protocol.whole_picture import ImageFaultError
from tests.faults.bench.drills import drill

LIMITS = Limits(max_bytes=40, max_chunks=6, per_device=2, in_flight=4, buffered_bytes=90, buffered_chunks=14)
SPELLINGS = {
    "AA:BB:CC:DD:EE:FF": "AABBCCDDEEFF",
    "AABBCCDDEEFF": "AABBCCDDEEFF",
    "aabbccddeeff": "AABBCCDDEEFF",
    "aa-bb-cc-dd-ee-ff": "AABBCCDDEEFF",
    "esp32-cam-01": "esp32-cam-01",
    "ESP32-CAM-01": "ESP32-CAM-01",
}
START, END = b"\xff\xd8", b"\xff\xd9"
NAMES = ("a.jpg", "../b.jpg", "c")
TIMES = (None, datetime(2025, 8, 29, 14, 30, tzinfo=UTC), datetime(2025, 8, 29, 15, 30, tzinfo=UTC))

devices = st.sampled_from(list(SPELLINGS))
names = st.sampled_from(NAMES)
times = st.sampled_from(TIMES)

Key = tuple[str, str]


@dataclass
class Picture:
    """What the model knows of one picture: what came, and what of it counts."""

    heard: int
    announced: ImageMetadata | None = None
    came: list[tuple[int, bytes]] = field(default_factory=list)

    @property
    def total(self) -> int | None:
        return self.announced.total_chunks if self.announced else None

    @property
    def kept(self) -> dict[int, bytes]:
        """The chunks that count: the first of each id, of the numbering that showed itself first."""
        kept: dict[int, bytes] = {}
        for chunk_id, data in self.came:
            if chunk_id not in kept and self.may_be(chunk_id, kept):
                kept[chunk_id] = data
        return kept

    def may_be(self, chunk_id: int, kept: dict[int, bytes]) -> bool:
        if self.total is None or 0 < chunk_id < self.total:
            return True
        other_end = {0: self.total, self.total: 0}.get(chunk_id)
        return other_end is not None and other_end not in kept

    def numbers(self) -> Iterator[int]:
        """The ids that the device uses, as far as they are known."""
        assert self.total is not None
        for chunk_id in range(self.total + 1):
            if chunk_id in self.kept or self.may_be(chunk_id, self.kept):
                yield chunk_id


class Machine(RuleBasedStateMachine):
    """Every rule does the same to the buffer and to the model; the invariants compare them."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = ImageBuffer(LIMITS)
        self.model: dict[Key, Picture] = {}
        self.now = 0

    # What devices do --------------------------------------------------------------------------------------

    @rule(
        device=devices,
        name=names,
        captured_at=times,
        total=st.integers(1, LIMITS.max_chunks + 1),
        size=st.none() | st.integers(0, LIMITS.max_bytes + 1),
    )
    def announce(
        self, device: str, name: str, captured_at: datetime | None, total: int, size: int | None
    ) -> None:
        self.send_metadata(metadata(device, name, captured_at, total, size))

    @precondition(lambda self: self.model)
    @rule(data=st.data(), device=devices)
    def announce_again(self, data: st.DataObject, device: str) -> None:
        known = [picture.announced for picture in self.model.values() if picture.announced]
        if known:
            self.send_metadata(data.draw(st.sampled_from(known)))

    @rule(
        device=devices,
        name=names,
        chunk_id=st.integers(0, LIMITS.max_chunks + 2),
        data=st.binary(min_size=1, max_size=14),
    )
    def send_any_chunk(self, device: str, name: str, chunk_id: int, data: bytes) -> None:
        self.send_chunk(chunk(device, name, chunk_id, data))

    @rule(device=devices, name=names, length=st.integers(LIMITS.max_bytes - 5, LIMITS.max_bytes + 2))
    def send_a_large_chunk(self, device: str, name: str, length: int) -> None:
        self.send_chunk(chunk(device, name, 1, bytes(length)))

    @rule(
        device=devices,
        name=names,
        captured_at=times,
        inner=st.binary(max_size=24),
        cuts=st.integers(0, LIMITS.max_chunks - 1),
        first=st.sampled_from([0, 1]),
        data=st.data(),
    )
    def upload(
        self,
        device: str,
        name: str,
        captured_at: datetime | None,
        inner: bytes,
        cuts: int,
        first: int,
        data: st.DataObject,
    ) -> None:
        """A whole upload: shuffled, some of it twice, the metadata anywhere among it."""
        picture = START + inner + END
        pieces = split(picture, cuts + 1)
        announcement = metadata(device, name, captured_at, len(pieces), len(picture))
        messages: list[ImageMetadata | ImageChunk] = [
            announcement,
            *(chunk(device, name, first + at, piece) for at, piece in enumerate(pieces)),
        ]
        doubled = data.draw(st.lists(st.sampled_from(messages), max_size=3))
        self.discard(device, name)
        taken = [self.send(message) for message in data.draw(st.permutations([*messages, *doubled]))]
        if all(taken):
            assembly = self.buffer.get(device, name)
            assert assembly is not None
            assert assembly.complete
            assert assembly.assemble() == picture

    @rule(
        device=devices,
        name=names,
        start=st.sampled_from([START, b"GI"]),
        end=st.sampled_from([END, END[:1], b""]),
        wrong=st.sampled_from([-1, 0, 1]),
    )
    def upload_what_may_be_no_picture(
        self, device: str, name: str, start: bytes, end: bytes, wrong: int
    ) -> None:
        """`assemble` is compared with the model after every step."""
        content = start + b"..." + end
        self.send(metadata(device, name, None, 1, len(content) + wrong))
        self.send(chunk(device, name, 1, content))

    @precondition(lambda self: self.model)
    @rule(data=st.data(), content=st.binary(min_size=1, max_size=6))
    def go_on(self, data: st.DataObject, content: bytes) -> None:
        """One more chunk of a picture that is there, mostly one that can be of it."""
        key, picture = data.draw(st.sampled_from(sorted(self.model.items(), key=lambda item: item[0])))
        chunk_id = data.draw(st.integers(0, (picture.total or LIMITS.max_chunks) + 1))
        self.send(chunk(*key, chunk_id, content))

    @precondition(lambda self: any(not picture.announced for picture in self.model.values()))
    @rule(data=st.data())
    def announce_what_came(self, data: st.DataObject) -> None:
        """The metadata of chunks that were there before it; some of them may be none of its picture's."""
        waiting = sorted(key for key, picture in self.model.items() if not picture.announced)
        key = data.draw(st.sampled_from(waiting))
        last = max(self.model[key].kept)
        total = data.draw(st.integers(max(1, last - 2), min(last + 1, LIMITS.max_chunks)))
        self.send(metadata(*key, None, total, None))

    # What the service does --------------------------------------------------------------------------------

    @rule(device=devices, name=names)
    def discard(self, device: str, name: str) -> None:
        self.buffer.discard(device, name)
        self.model.pop((SPELLINGS[device], name), None)

    @rule(device=devices)
    def discard_device(self, device: str) -> None:
        self.buffer.discard_device(device)
        for key in [key for key in self.model if key[0] == SPELLINGS[device]]:
            del self.model[key]

    @rule(age=st.integers(0, 12))
    def expire(self, age: int) -> None:
        older_than = self.now - age
        expired = {(assembly.device_key, assembly.name) for assembly in self.buffer.expire(older_than)}
        assert expired == {key for key, picture in self.model.items() if picture.heard < older_than}
        for key in expired:
            del self.model[key]

    @rule()
    def discard_everything(self) -> None:
        for key in list(self.model):
            self.buffer.discard(*key)
            del self.model[key]
        assert (self.buffer.buffered_bytes, len(self.buffer)) == (0, 0)

    # What must hold ---------------------------------------------------------------------------------------

    @invariant()
    def the_bytes_held_are_those_of_the_model_and_within_the_bounds(self) -> None:
        held = [data for picture in self.model.values() for data in picture.kept.values()]
        assert self.buffer.buffered_bytes == sum(map(len, held)) <= LIMITS.buffered_bytes
        assert len(held) <= LIMITS.buffered_chunks
        assert len(self.buffer) == len(self.model) <= LIMITS.in_flight

    @invariant()
    def every_picture_is_as_the_model_has_it(self) -> None:
        for device in set(SPELLINGS.values()):
            mine = [key for key in self.model if key[0] == device]
            found = self.buffer.unfinished(device)
            assert [(assembly.device_key, assembly.name) for assembly in found] == mine
            assert len(mine) <= LIMITS.per_device
        for key, picture in self.model.items():
            assembly = self.buffer.get(*key)
            assert assembly is not None
            require_alike(assembly, picture)

    # How ---------------------------------------------------------------------------------------------------

    def send(self, message: ImageMetadata | ImageChunk) -> bool:
        return self.send_metadata(message) if isinstance(message, ImageMetadata) else self.send_chunk(message)

    def send_metadata(self, message: ImageMetadata) -> bool:
        """Send it, see that it is taken or refused as the model has it, and say which."""
        self.now += 1
        key = (SPELLINGS[message.device], message.name)
        bounds = {*self.bounds_of_metadata(message), *self.bounds_of_a_new_picture(key)}
        if self.refused(message, bounds, malformed=False):
            return False
        there = self.model.get(key)
        if there and there.announced and identity(there.announced) != identity(message):
            del self.model[key]
        picture = self.model.setdefault(key, Picture(self.now))
        picture.heard = self.now
        picture.announced = picture.announced or message
        picture.came = list(picture.kept.items())
        return True

    def send_chunk(self, message: ImageChunk) -> bool:
        """Send it, see that it is taken or refused as the model has it, and say which."""
        self.now += 1
        key = (SPELLINGS[message.device], message.name)
        there = self.model.get(key, Picture(self.now))
        if message.chunk_id not in there.kept:
            malformed = not there.may_be(message.chunk_id, there.kept) or len(message.data) > LIMITS.max_bytes
            bounds = {*self.bounds_of_chunk(message, there), *self.bounds_of_a_new_picture(key)}
            if self.refused(message, bounds, malformed=malformed):
                return False
            there.came.append((message.chunk_id, message.data))
        else:
            self.pass_on(message)
        self.model.setdefault(key, there).heard = self.now
        return True

    def refused(self, message: ImageMetadata | ImageChunk, bounds: set[str], *, malformed: bool) -> bool:
        """Pass it on, and see that it is refused exactly if there is a reason, for one of the reasons."""
        if not bounds and not malformed:
            self.pass_on(message)
            return False
        with pytest.raises(RemoteProtocolError) as caught:
            self.pass_on(message)
        if isinstance(caught.value, ImageRefusedError):
            assert caught.value.bound in bounds
        else:
            assert malformed
        return True

    def pass_on(self, message: ImageMetadata | ImageChunk) -> None:
        if isinstance(message, ImageMetadata):
            assembly = self.buffer.add_metadata(message, self.now)
        else:
            assembly = self.buffer.add_chunk(message, self.now)
        assert assembly is self.buffer.get(message.device, message.name)

    def bounds_of_metadata(self, message: ImageMetadata) -> Iterator[str]:
        if message.size is not None and message.size > LIMITS.max_bytes:
            yield "max_bytes"
        if message.total_chunks > LIMITS.max_chunks:
            yield "max_chunks"

    def bounds_of_a_new_picture(self, key: Key) -> Iterator[str]:
        if key in self.model:
            return
        if len([other for other in self.model if other[0] == key[0]]) >= LIMITS.per_device:
            yield "per_device"
        if len(self.model) >= LIMITS.in_flight:
            yield "in_flight"

    def bounds_of_chunk(self, message: ImageChunk, picture: Picture) -> Iterator[str]:
        length = len(message.data)
        kept = [other.kept for other in self.model.values()]
        if message.chunk_id > LIMITS.max_chunks:
            yield "max_chunks"
        if sum(map(len, picture.kept.values())) + length > LIMITS.max_bytes:
            yield "max_bytes"
        if sum(len(data) for chunks in kept for data in chunks.values()) + length > LIMITS.buffered_bytes:
            yield "buffered_bytes"
        if sum(map(len, kept)) >= LIMITS.buffered_chunks:
            yield "buffered_chunks"


def require_alike(assembly: Assembly, picture: Picture) -> None:
    """Raise if a picture is not as the model has it."""
    kept = picture.kept
    assert (assembly.metadata, assembly.total) == (picture.announced, picture.total)
    assert (assembly.received, assembly.last_heard) == (len(kept), picture.heard)
    assert assembly.complete == (len(kept) == picture.total)
    missing = [n for n in picture.numbers() if n not in kept] if picture.announced else []
    assert assembly.missing() == tuple(missing)
    joined = b"".join(kept[n] for n in sorted(kept))
    size = picture.announced.size if picture.announced else None
    is_jpeg = joined.startswith(START) and joined.endswith(END)
    if assembly.complete and is_jpeg and size in {None, len(joined)}:
        assert assembly.assemble() == joined
    else:
        with pytest.raises(ImageFaultError):
            assembly.assemble()


def identity(message: ImageMetadata) -> tuple[object, ...]:
    return message.captured_at, message.size, message.total_chunks


def metadata(
    device: str, name: str, captured_at: datetime | None, total: int, size: int | None
) -> ImageMetadata:
    return ImageMetadata(
        "device", device, name, captured_at, None, size, None, total, Readings(), None, None, None, {}
    )


def chunk(device: str, name: str, chunk_id: int, data: bytes) -> ImageChunk:
    return ImageChunk("device", device, name, chunk_id, data, None)


def split(picture: bytes, parts: int) -> list[bytes]:
    """As many parts as there are, of one length but for the last, as devices cut pictures."""
    length = -(-len(picture) // parts)
    return [picture[at : at + length] for at in range(0, len(picture), length)]


TestImageBuffer = Machine.TestCase
TestImageBuffer.settings = settings(max_examples=drill(60, 150), stateful_step_count=40, deadline=None)
