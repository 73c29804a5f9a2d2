"""Chunks become the picture that was sent, or it is said why not, and memory stays within its bounds."""

import tracemalloc
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import permutations

import pytest

from mqtt_service.errors import RemoteProtocolError
from mqtt_service.protocol.assembly import (
    Assembly,
    ImageBuffer,
    ImageRefusedError,
    Limits,
)
from mqtt_service.protocol.images import ImageChunk, ImageMetadata, Readings
from mqtt_service.protocol.whole_picture import ImageFaultError

MAC = "AA:BB:CC:DD:EE:FF"
BARE = "aabbccddeeff"
NAME = "image_001.jpg"
PIECES = (b"\xff\xd8ab", b"cd", b"ef", b"g\xff\xd9")
PICTURE = b"".join(PIECES)
NOON = datetime(2025, 8, 29, 12, tzinfo=UTC)


def announced(
    total: int = len(PIECES),
    *,
    device: str = MAC,
    name: str = NAME,
    size: int | None = None,
    captured_at: datetime | None = NOON,
    captured_text: str | None = None,
) -> ImageMetadata:
    return ImageMetadata(
        root="ESP32CAM",
        device=device,
        name=name,
        captured_at=captured_at,
        captured_text=captured_text,
        size=size,
        chunk_size=None,
        total_chunks=total,
        readings=Readings(),
        location=None,
        error_code=None,
        claimed_device=None,
        document={},
    )


def piece(chunk_id: int, data: bytes = b"x", *, device: str = MAC, name: str = NAME) -> ImageChunk:
    return ImageChunk("ESP32CAM", device, name, chunk_id, data, None)


def buffer(**limits: int) -> ImageBuffer:
    return ImageBuffer(Limits(**limits))


def receive(pictures: ImageBuffer, ids: Iterable[int], first: int = 0) -> None:
    """The chunks of PICTURE with these ids, counted from `first`."""
    for chunk_id in ids:
        pictures.add_chunk(piece(chunk_id, PIECES[chunk_id - first]), now=0)


def known(pictures: ImageBuffer, name: str = NAME) -> Assembly:
    assembly = pictures.get(MAC, name)
    assert assembly is not None
    return assembly


@pytest.mark.parametrize("first", [0, 1])
def test_chunks_in_any_order_and_twice_are_the_picture(first: int) -> None:
    for order in permutations(range(first, first + len(PIECES))):
        pictures = buffer()
        pictures.add_metadata(announced(size=len(PICTURE)), now=0)
        receive(pictures, (*order, *order), first)
        assembly = known(pictures)
        assert (assembly.complete, assembly.missing(), assembly.received) == (True, (), len(PIECES))
        assert assembly.assemble() == PICTURE
        assert pictures.buffered_bytes == len(PICTURE)


@pytest.mark.parametrize("first", [0, 1])
def test_metadata_may_come_at_any_time(first: int) -> None:
    ids = range(first, first + len(PIECES))
    for before in range(len(PIECES) + 1):
        pictures = buffer()
        receive(pictures, ids[:before], first)
        pictures.add_metadata(announced(size=len(PICTURE)), now=0)
        receive(pictures, ids[before:], first)
        assert known(pictures).assemble() == PICTURE


def test_before_its_metadata_a_picture_is_never_complete_and_misses_nothing_known() -> None:
    pictures = buffer()
    receive(pictures, range(4))
    assembly = known(pictures)
    assert (assembly.metadata, assembly.total, assembly.complete, assembly.missing()) == (
        None,
        None,
        False,
        (),
    )
    with pytest.raises(ImageFaultError, match="4 of an unknown number of chunks are there"):
        assembly.assemble()


@pytest.mark.parametrize(
    ("ids", "missing"),
    [
        ((), (0, 1, 2, 3, 4)),
        ((0,), (1, 2, 3)),
        ((0, 2), (1, 3)),
        ((0, 1, 2, 3), ()),
        ((4,), (1, 2, 3)),
        ((4, 2), (1, 3)),
        ((1, 2, 3, 4), ()),
        ((2,), (0, 1, 3, 4)),
        # One chunk of four, and nobody can say which end it is.
        ((1, 2, 3), (0, 4)),
    ],
)
def test_what_is_missing_is_told_in_the_devices_own_numbering(
    ids: tuple[int, ...], missing: tuple[int, ...]
) -> None:
    for announced_first in (True, False):
        pictures = buffer()
        if announced_first:
            pictures.add_metadata(announced(), now=0)
        for chunk_id in ids:
            pictures.add_chunk(piece(chunk_id), now=0)
        assembly = pictures.add_metadata(announced(), now=0)
        assert assembly.missing() == missing
        assert assembly.complete is (missing == ())


@pytest.mark.parametrize("end", [0, 4])
def test_the_end_that_was_not_seen_decides_when_it_comes(end: int) -> None:
    pictures = buffer()
    pictures.add_metadata(announced(), now=0)
    for chunk_id in (1, 2, 3, end):
        pictures.add_chunk(piece(chunk_id), now=0)
    assert known(pictures).complete


@pytest.mark.parametrize("only", [0, 1])
def test_a_picture_of_one_chunk_has_either_number(only: int) -> None:
    for announced_first in (True, False):
        pictures = buffer()
        if announced_first:
            pictures.add_metadata(announced(total=1), now=0)
            assert known(pictures).missing() == (0, 1)
        pictures.add_chunk(piece(only, PICTURE), now=0)
        assembly = pictures.add_metadata(announced(total=1), now=0)
        assert assembly.assemble() == PICTURE
        with pytest.raises(RemoteProtocolError, match="numbered differently"):
            pictures.add_chunk(piece(1 - only), now=0)


@pytest.mark.parametrize(("seen", "other"), [(0, 4), (4, 0)])
def test_of_two_numberings_the_first_seen_decides(seen: int, other: int) -> None:
    pictures = buffer()
    pictures.add_metadata(announced(), now=0)
    pictures.add_chunk(piece(seen, b"seen"), now=0)
    with pytest.raises(RemoteProtocolError, match=f"chunk {other} .* has 4 chunks, numbered differently"):
        pictures.add_chunk(piece(other, b"other"), now=0)
    assert (known(pictures).received, pictures.buffered_bytes) == (1, 4)

    late = buffer()
    for chunk_id, data in ((2, b"22"), (seen, b"seen"), (9, b"beyond"), (other, b"other")):
        late.add_chunk(piece(chunk_id, data), now=0)
    assembly = late.add_metadata(announced(), now=0)
    assert (assembly.has(seen), assembly.has(other), assembly.has(9)) == (True, False, False)
    assert late.buffered_bytes == len(b"22seen")


def test_a_chunk_out_of_range_is_malformed_and_changes_nothing() -> None:
    pictures = buffer(max_bytes=10)
    pictures.add_metadata(announced(), now=1)
    for wrong in (piece(5), piece(1, b"x" * 11)):
        with pytest.raises(RemoteProtocolError) as caught:
            pictures.add_chunk(wrong, now=2)
        assert not isinstance(caught.value, ImageRefusedError)
    assert (known(pictures).received, known(pictures).last_heard, pictures.buffered_bytes) == (0, 1, 0)


def test_the_first_chunk_of_an_id_wins() -> None:
    pictures = buffer()
    pictures.add_metadata(announced(total=1), now=0)
    pictures.add_chunk(piece(0, PICTURE), now=1)
    assembly = pictures.add_chunk(piece(0, b"another"), now=2)
    assert (assembly.assemble(), assembly.last_heard) == (PICTURE, 2)


def test_the_same_metadata_again_changes_nothing() -> None:
    pictures = buffer()
    first = pictures.add_metadata(announced(), now=0)
    receive(pictures, (0, 1))
    again = pictures.add_metadata(announced(device=BARE), now=5)
    assert again is first
    assert (again.received, again.last_heard, len(pictures)) == (2, 5, 1)


@pytest.mark.parametrize(
    "other",
    [
        announced(captured_at=NOON.replace(hour=13)),
        announced(captured_at=None),
        announced(total=5),
        announced(size=9),
    ],
)
def test_another_picture_of_the_same_name_begins_anew(other: ImageMetadata) -> None:
    pictures = buffer(per_device=1)
    first = pictures.add_metadata(announced(), now=0)
    receive(pictures, range(4))
    second = pictures.add_metadata(other, now=1)
    assert second is not first
    assert (second.received, pictures.buffered_bytes, len(pictures)) == (0, 0, 1)
    # Whoever is storing the first still has it whole.
    assert first.assemble() == PICTURE


def test_pictures_of_a_clock_that_was_not_set_are_told_apart_by_what_it_said() -> None:
    pictures = buffer()
    first = pictures.add_metadata(announced(captured_at=None, captured_text="1970-01-01T00:00:09Z"), now=0)
    same = pictures.add_metadata(announced(captured_at=None, captured_text="1970-01-01T00:00:09Z"), now=0)
    other = pictures.add_metadata(announced(captured_at=None, captured_text="1970-01-01T00:00:17Z"), now=0)
    assert same is first
    assert other is not first


@pytest.mark.parametrize(
    ("pieces", "size", "fault"),
    [
        (PIECES, len(PICTURE) - 1, "hold 11 bytes, more than the 10 announced"),
        (PIECES, len(PICTURE) + 1, "hold 11 bytes, fewer than the 12 announced"),
        ((b"GIF8", b"\xff\xd9"), None, "not a JPEG: it does not begin with FF D8"),
        ((b"\xff\xd8", b"cut"), None, "cut off: it does not end with FF D9"),
        ((b"\xff", b"\xd8"), None, "cut off"),
        ((b"", b"\xff\xd9"), None, "not a JPEG"),
    ],
)
def test_what_is_not_the_picture_that_was_sent_says_why(
    pieces: tuple[bytes, ...], size: int | None, fault: str
) -> None:
    pictures = buffer()
    assembly = pictures.add_metadata(announced(total=len(pieces), size=size), now=0)
    for chunk_id, data in enumerate(pieces):
        pictures.add_chunk(piece(chunk_id, data), now=0)
    with pytest.raises(ImageFaultError, match=fault):
        assembly.assemble()


def test_an_unfinished_picture_says_how_much_is_there() -> None:
    pictures = buffer()
    assembly = pictures.add_metadata(announced(), now=0)
    receive(pictures, (1, 2, 3))
    with pytest.raises(ImageFaultError, match="3 of 4 chunks are there"):
        assembly.assemble()


def test_all_spellings_of_a_device_are_one_and_devices_are_kept_apart() -> None:
    pictures = buffer()
    pictures.add_metadata(announced(device=MAC), now=0)
    mine = pictures.add_chunk(piece(0, device=BARE), now=0)
    theirs = pictures.add_chunk(piece(0, device="esp32-cam-01"), now=0)
    assert pictures.unfinished("aa-bb-cc-dd-ee-ff") == [mine]
    assert pictures.unfinished("esp32-cam-01") == [theirs]
    assert (mine.device_key, mine.name, mine.total) == ("AABBCCDDEEFF", NAME, 4)
    assert pictures.unfinished("nobody") == []
    assert pictures.get("nobody", NAME) is None


def test_a_devices_pictures_are_listed_the_first_begun_first() -> None:
    pictures = buffer()
    for name in ("c", "a", "b"):
        pictures.add_metadata(announced(name=name), now=0)
    pictures.add_chunk(piece(0, name="a"), now=9)
    assert [assembly.name for assembly in pictures.unfinished(MAC)] == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("limits", "metadata", "bound", "message"),
    [
        ({"max_bytes": 10}, announced(size=11), "max_bytes", "announced with 11 bytes, the limit is 10"),
        ({"max_chunks": 3}, announced(total=4), "max_chunks", "announced with 4 chunks, the limit is 3"),
        ({"per_device": 1}, announced(name="b"), "per_device", "1 unfinished pictures of one device"),
        (
            {"in_flight": 1},
            announced(device="esp32-cam-01"),
            "in_flight",
            "1 unfinished pictures of all devices",
        ),
    ],
)
def test_metadata_beyond_a_bound_is_refused_and_what_was_there_stays(
    limits: dict[str, int], metadata: ImageMetadata, bound: str, message: str
) -> None:
    pictures = buffer(**limits)
    pictures.add_chunk(piece(0, b"abc"), now=0)
    before = known(pictures)
    with pytest.raises(ImageRefusedError, match=message) as caught:
        pictures.add_metadata(metadata, now=1)
    assert caught.value.bound == bound
    assert known(pictures) is before
    assert (before.metadata, before.received, before.last_heard) == (None, 1, 0)
    assert (len(pictures), pictures.buffered_bytes) == (1, 3)


@pytest.mark.parametrize(
    ("limits", "chunk", "bound", "message"),
    [
        ({"max_bytes": 5}, piece(1, b"def"), "max_bytes", "grows beyond the limit of 5 bytes"),
        ({"max_chunks": 3}, piece(4), "max_chunks", "limit is 3 chunks"),
        ({"per_device": 1}, piece(0, name="b"), "per_device", "unfinished pictures of one device"),
        ({"in_flight": 1}, piece(0, device="x"), "in_flight", "unfinished pictures of all devices"),
        ({"buffered_bytes": 5}, piece(1, b"def"), "buffered_bytes", "hold 3 bytes, the limit is 5"),
        ({"buffered_chunks": 1}, piece(1), "buffered_chunks", "hold 1 chunks, the limit"),
    ],
)
def test_a_chunk_beyond_a_bound_is_refused_and_what_was_there_stays(
    limits: dict[str, int], chunk: ImageChunk, bound: str, message: str
) -> None:
    pictures = buffer(**limits)
    pictures.add_chunk(piece(0, b"abc"), now=0)
    with pytest.raises(ImageRefusedError, match=message) as caught:
        pictures.add_chunk(chunk, now=1)
    assert caught.value.bound == bound
    assert (known(pictures).received, known(pictures).last_heard) == (1, 0)
    assert (len(pictures), pictures.buffered_bytes) == (1, 3)
    # A chunk that is there already takes no room.
    pictures.add_chunk(piece(0, b"abc"), now=1)


def test_what_is_exactly_within_the_bounds_is_taken() -> None:
    pictures = buffer(
        max_bytes=11, max_chunks=4, per_device=1, in_flight=1, buffered_bytes=11, buffered_chunks=4
    )
    pictures.add_metadata(announced(size=11), now=0)
    receive(pictures, range(1, 5), first=1)
    assert known(pictures).assemble() == PICTURE


def test_what_is_discarded_frees_its_room() -> None:
    pictures = buffer(per_device=1, in_flight=1, buffered_bytes=4, buffered_chunks=1)
    for _ in range(3):
        pictures.add_metadata(announced(), now=0)
        pictures.add_chunk(piece(0, b"four"), now=0)
        pictures.discard(BARE, NAME)
        assert (pictures.buffered_bytes, len(pictures), pictures.get(MAC, NAME)) == (0, 0, None)
    pictures.discard(MAC, NAME)
    pictures.discard("nobody", NAME)
    assert len(pictures) == 0


def test_memory_returns_to_its_floor() -> None:
    pictures = buffer()

    def take_and_expire(wave: int) -> int:
        """How many bytes were in use while 500 pictures were in the buffer."""
        for number in range(500):
            device = f"esp32-cam-{number}"
            pictures.add_metadata(announced(device=device), now=wave)
            pictures.add_chunk(piece(0, bytes(1000), device=device), now=wave)
        most = tracemalloc.get_traced_memory()[0]
        assert len(pictures.expire(older_than=wave + 1)) == 500
        return most

    take_and_expire(0)  # the names of devices that were heard lately are kept, up to a bound
    tracemalloc.start()
    try:
        for wave in range(1, 4):
            floor = tracemalloc.get_traced_memory()[0]
            assert take_and_expire(wave) > floor + 500_000
            assert tracemalloc.get_traced_memory()[0] < floor + 50_000
    finally:
        tracemalloc.stop()


def test_a_device_is_discarded_with_all_its_pictures_and_no_other() -> None:
    pictures = buffer()
    for device, name in ((MAC, "a"), (MAC, "b"), ("esp32-cam-01", "a")):
        pictures.add_chunk(piece(0, b"123", device=device, name=name), now=0)
    pictures.discard_device(BARE)
    pictures.discard_device("nobody")
    assert (len(pictures), pictures.buffered_bytes) == (1, 3)
    assert pictures.unfinished(MAC) == []


def test_pictures_that_fell_silent_expire() -> None:
    pictures = buffer()
    pictures.add_metadata(announced(name="old"), now=1)
    pictures.add_metadata(announced(name="edge"), now=2)
    pictures.add_metadata(announced(name="revived"), now=1)
    pictures.add_chunk(piece(0, name="revived"), now=3)
    assert [assembly.name for assembly in pictures.expire(older_than=2)] == ["old"]
    assert [assembly.name for assembly in pictures.unfinished(MAC)] == ["edge", "revived"]
    assert pictures.expire(older_than=2) == []


def test_names_of_any_length_are_short_in_messages() -> None:
    pictures = buffer(max_chunks=1)
    with pytest.raises(ImageRefusedError) as caught:
        pictures.add_metadata(announced(name="x" * 255), now=0)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("first", [0, 1])
def test_a_total_that_is_one_too_high_is_known_as_soon_as_the_announced_bytes_are_there(first: int) -> None:
    pictures = buffer()
    assembly = pictures.add_metadata(announced(total=len(PIECES) + 1, size=len(PICTURE)), now=0)
    for at, data in enumerate(PIECES):
        assert not assembly.complete
        pictures.add_chunk(piece(first + at, data), now=0)
    assert assembly.complete
    assert assembly.assemble() == PICTURE


@pytest.mark.parametrize("first", [0, 1])
def test_without_a_size_a_total_that_is_one_too_high_is_known_only_when_asked_for(first: int) -> None:
    pictures = buffer()
    assembly = pictures.add_metadata(announced(total=len(PIECES) + 1, size=None), now=0)
    for at, data in enumerate(PIECES):
        pictures.add_chunk(piece(first + at, data), now=0)
    assert not assembly.complete
    assert assembly.is_whole_without_last()
    assert assembly.assemble() == PICTURE


@pytest.mark.parametrize("left_out", range(len(PIECES)))
def test_a_chunk_that_is_really_missing_is_not_taken_for_one_that_does_not_exist(left_out: int) -> None:
    pictures = buffer()
    assembly = pictures.add_metadata(announced(total=len(PIECES), size=None), now=0)
    for at, data in enumerate(PIECES):
        if at != left_out:
            pictures.add_chunk(piece(at, data), now=0)
    assert not assembly.is_whole_without_last()
    pictures.add_chunk(piece(left_out, PIECES[left_out]), now=0)
    assert assembly.complete
    assert assembly.assemble() == PICTURE
