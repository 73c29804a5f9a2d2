"""The JPEGs that simulated cameras send, read by a small decoder of the tests' own."""

from collections.abc import Iterator
from random import Random

import pytest

from mqtt_service.protocol.jpeg import end_of_jpeg
from mqtt_service.simulator.mosaic import LEAST_ADDED, Colour, grown, mosaic
from mqtt_service.simulator.scenes import LEAST_BYTES, photograph

COLOURS: list[list[Colour]] = [
    [(255, 0, 0), (0, 255, 0), (0, 0, 255)],
    [(0, 0, 0), (255, 255, 255), (255, 255, 255)],
    [(120, 130, 140), (121, 130, 140), (12, 200, 77)],
]


def segments(jpeg: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and content of each segment, the scan's data with its header."""
    position = 2
    while jpeg[position + 1] != 0xDA:
        length = int.from_bytes(jpeg[position + 2 : position + 4], "big")
        yield jpeg[position + 1], jpeg[position + 4 : position + 2 + length]
        position += 2 + length
    yield 0xDA, jpeg[position + 4 : -2]


def codes_of(tables: bytes) -> dict[int, dict[str, int]]:
    """Of each Huffman table by its class and number: what its codes stand for (T.81, annex C)."""
    found: dict[int, dict[str, int]] = {}
    while tables:
        counts, values = tables[1:17], iter(tables[17:])
        code, codes = 0, {}
        for length, count in enumerate(counts, 1):
            for _ in range(count):
                codes[f"{code:0{length}b}"] = next(values)
                code += 1
            code *= 2
        found[tables[0]] = codes
        tables = tables[17 + sum(counts) :]
    return found


def decode(jpeg: bytes) -> tuple[int, int, list[Colour]]:
    """Width and height in pixels, and the colour of each block of a baseline JPEG of flat ones."""
    parts = dict(segments(jpeg))
    codes = codes_of(parts[0xC4])
    data = parts[0xDA][parts[0xDA].index(b"\x00\x3f\x00") + 3 :].replace(b"\xff\x00", b"\xff")
    bits = iter("".join(f"{byte:08b}" for byte in data))

    def symbol(table: int) -> int:
        code = ""
        while code not in codes[table]:
            code += next(bits)
        return codes[table][code]

    height, width = (int.from_bytes(parts[0xC0][at : at + 2], "big") for at in (1, 3))
    values, blocks = [0, 0, 0], []
    for _ in range(width * height // 64):
        for component in range(3):
            length = symbol(0x00)
            read = "".join(next(bits) for _ in range(length))
            if read:
                values[component] += int(read, 2) - (0 if read[0] == "1" else 2**length - 1)
            assert symbol(0x10) == 0
        y, cb, cr = values[0] + 128, values[1], values[2]
        blocks.append((round(y + 1.402 * cr), round(y - 0.344 * cb - 0.714 * cr), round(y + 1.772 * cb)))
    assert "0" not in "".join(bits)
    return width, height, blocks


def test_each_square_is_drawn_in_its_colour() -> None:
    width, height, blocks = decode(mosaic(COLOURS))
    assert (width, height) == (24, 24)
    wanted = [colour for row in COLOURS for colour in row]
    for colour, block in zip(wanted, blocks, strict=True):
        assert all(abs(one - other) <= 3 for one, other in zip(colour, block, strict=True)), (colour, block)


@pytest.mark.parametrize("added", [LEAST_ADDED, 65_536, 65_537, 65_538, 200_001])
def test_it_grows_to_any_size_and_stays_the_picture_it_was(added: int) -> None:
    drawn = mosaic(COLOURS)
    larger = grown(drawn, len(drawn) + added, Random(1))
    assert len(larger) == len(drawn) + added
    assert end_of_jpeg(larger) == len(larger)
    assert decode(larger) == decode(drawn)


def test_there_is_no_room_for_too_little() -> None:
    drawn = mosaic(COLOURS)
    with pytest.raises(ValueError, match="no room"):
        grown(drawn, len(drawn) + LEAST_ADDED - 1, Random(1))


@pytest.mark.parametrize("size", [LEAST_BYTES, 1000, 5000])
def test_scenes_fit_their_size_and_differ(size: int) -> None:
    pictures = [photograph(size, Random(seed)) for seed in range(20)]
    assert {len(picture) for picture in pictures} == {size}
    assert len(set(pictures)) == len(pictures)
    assert len({tuple(decode(picture)[2]) for picture in pictures}) > 3
