"""JPEGs of flat squares: small, quick to make, and drawn by every decoder (ITU-T T.81, baseline).

Each square is one block of 8 x 8 pixels of one colour. So a block has no more than its DC coefficient, and
the Huffman tables have no more than what that needs.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from random import Random
from typing import Final

Colour = tuple[int, int, int]

_SIDE = 8
# A flat block's DC coefficient is eight times its sample: quantised by eight it is the sample, and
# differences between samples have at most so many bits.
_QUANTISER = 8
_MOST_BITS = 8
_COMPONENTS = 3
_START: Final = b"\xff\xd8"
_END: Final = b"\xff\xd9"
_LONGEST_COMMENT = 65_533
_COMMENT_FIELDS = 4
# The least that is random in a picture, so that no two are the same.
_LEAST_NOISE = 8
LEAST_ADDED = _COMMENT_FIELDS + _LEAST_NOISE


def mosaic(rows: Sequence[Sequence[Colour]]) -> bytes:
    """The JPEG of these squares, in rows of equal length from the top; red, green and blue are 0 to 255."""
    quantisers = bytes([0, *[_QUANTISER] * _SIDE**2])
    # How many codes have 1, 2, … 16 bits, then what they stand for. DC: a difference of no bits has the code
    # 0, of 1 to 7 bits 1000 to 1110, of 8 bits 11110. AC: the end of the block has the code 0.
    dc = bytes([0x00, 1, 0, 0, 7, 1, *[0] * 11, *range(_MOST_BITS + 1)])
    ac = bytes([0x10, 1, *[0] * 15, 0x00])
    height, width = len(rows) * _SIDE, len(rows[0]) * _SIDE
    components = bytes(field for number in range(1, _COMPONENTS + 1) for field in (number, 0x11, 0))
    frame = bytes([8, *divmod(height, 256), *divmod(width, 256), _COMPONENTS]) + components
    scan = bytes([_COMPONENTS, 1, 0, 2, 0, 3, 0, 0, 63, 0])
    return b"".join((
        _START,
        _segment(0xE0, b"JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"),
        _segment(0xDB, quantisers),
        _segment(0xC0, frame),
        _segment(0xC4, dc + ac),
        _segment(0xDA, scan),
        _packed("".join(_blocks(rows))),
        _END,
    ))  # fmt: skip


def grown(jpeg: bytes, size: int, rng: Random) -> bytes:
    """This JPEG with comments of random bytes in it, `size` bytes in all: at least `LEAST_ADDED` more."""
    room = size - len(jpeg)
    if room < LEAST_ADDED:
        raise ValueError(f"a picture of {size} bytes has no room for a JPEG of {len(jpeg)}")
    count = -(-room // (_LONGEST_COMMENT + _COMMENT_FIELDS))
    ends = [room * number // count for number in range(count + 1)]
    lengths = [end - start - _COMMENT_FIELDS for start, end in pairwise(ends)]
    comments = b"".join(_segment(0xFE, rng.randbytes(length)) for length in lengths)
    return jpeg[: len(_START)] + comments + jpeg[len(_START) :]


def _segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


def _blocks(rows: Sequence[Sequence[Colour]]) -> Iterable[str]:
    """The code of each block, in bits: its difference from the one before, then its end."""
    before = [0] * _COMPONENTS
    for row in rows:
        for colour in row:
            samples = _samples(colour)
            for number, sample in enumerate(samples):
                yield _difference(sample - before[number]) + "0"
            before = samples


def _samples(colour: Colour) -> list[int]:
    """Luminance and the two colour differences, each around 0."""
    red, green, blue = colour
    return [
        round(0.299 * red + 0.587 * green + 0.114 * blue) - 128,
        min(127, round(-0.168736 * red - 0.331264 * green + 0.5 * blue)),
        min(127, round(0.5 * red - 0.418688 * green - 0.081312 * blue)),
    ]


def _difference(value: int) -> str:
    length = abs(value).bit_length()
    code = "0" if not length else f"{7 + length:04b}" if length < _MOST_BITS else "11110"
    bits = value if value > 0 else value + 2**length - 1
    return f"{code}{bits:0{length}b}" if length else code


def _packed(bits: str) -> bytes:
    """The bits as bytes, filled up with ones; behind each FF a zero, so that it is no marker."""
    padded = bits + "1" * (-len(bits) % 8)
    return int(padded, 2).to_bytes(len(padded) // 8, "big").replace(b"\xff", b"\xff\x00")
