"""Small JPEGs of a real encoder: whole ones are whole, and each that is cut off is seen to be so.

Pillow 13 (libjpeg-turbo) made tests/fixtures/jpeg from one drawing of 48 x 40 pixels, at quality 60, with
`Image.save` and what each file's name says: `subsampling`, `progressive`, mode L, `restart_marker_blocks=2`,
`progressive` with `restart_marker_rows=1`, and an `exif` of two directories, the second of which points at a
JPEG of 16 x 12 pixels.
"""

from pathlib import Path

import pytest

from mqtt_service.protocol.jpeg import JpegError, end_of_jpeg

PICTURES = sorted((Path(__file__).parents[2] / "fixtures" / "jpeg").glob("*.jpg"))

each_picture = pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)


def test_the_pictures_are_there() -> None:
    assert len(PICTURES) == 7


@each_picture
@pytest.mark.parametrize("behind", [b"", b"\x00", b"\x00" * 511, b"\xff" * 64, b"a maker's trailer"])
def test_a_whole_picture_ends_where_its_encoder_ended_it(path: Path, behind: bytes) -> None:
    picture = path.read_bytes()
    assert end_of_jpeg(picture + behind) == len(picture)


@each_picture
def test_a_picture_that_is_cut_off_is_so_wherever_that_is(path: Path) -> None:
    picture = path.read_bytes()
    for length in range(2, len(picture)):
        with pytest.raises(JpegError) as raised:
            end_of_jpeg(picture[:length])
        assert raised.value.fault == "cut_off", length


@each_picture
def test_what_is_cut_off_and_padded_to_its_size_is_cut_off(path: Path) -> None:
    picture = path.read_bytes()
    for length in range(2, len(picture), 7):
        with pytest.raises(JpegError):
            end_of_jpeg(picture[:length].ljust(len(picture), b"\x00"))
