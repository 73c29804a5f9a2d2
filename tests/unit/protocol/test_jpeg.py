"""Where a JPEG ends: ITU-T T.81, annex B, and what decoders read beyond it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqtt_service.protocol.jpeg import LEAST_ALLOWED_BEHIND_END, JpegError, end_of_jpeg
from tests.unit.protocol.jpeg_samples import (
    BASELINE,
    CODES,
    END,
    EXIF,
    FRAME,
    JFIF,
    PROGRESSIVE,
    START,
    TABLES,
    WITH_THUMBNAIL,
    scan,
    segment,
)

SAMPLES = st.sampled_from([BASELINE, WITH_THUMBNAIL, PROGRESSIVE])


@pytest.mark.parametrize(
    "picture",
    [
        pytest.param(BASELINE, id="B.2.2: one scan"),
        pytest.param(PROGRESSIVE, id="B.2.1: tables between scans"),
        pytest.param(WITH_THUMBNAIL, id="B.2.4.6: a whole JPEG inside APP1 is not looked at"),
        pytest.param(START + b"\xff\xff" + JFIF + scan(b"a") + b"\xff" + END, id="B.1.1.2: fill bytes"),
        pytest.param(START + scan(b"a") + b"\xff\xd0b\xff\xd7c" + END, id="B.2.1: restart markers"),
        pytest.param(START + scan(b"a") + segment(0xDC, b"\x00\x10") + END, id="B.2.5: DNL behind a scan"),
        pytest.param(START + TABLES + FRAME + scan(b"a") + END, id="Motion JPEG, as of the OV2640: no DHT"),
        pytest.param(START + JFIF + b"\x00\x0d\x0a" + scan(b"a") + END, id="libjpeg skips stray bytes"),
        pytest.param(
            START + scan(b"a") + b"\xff\xe1\xff\xf0b" + END, id="libjpeg reads on in a damaged scan"
        ),
        pytest.param(START + scan(b"a") + b"\xff\xd8b" + END, id="libjpeg reads on behind a second start"),
        pytest.param(START + bytes(range(256)) * 12 + END, id="no segments at all, as was always taken"),
    ],
)
def test_the_end_of_a_whole_picture_is_found_with_and_without_padding(picture: bytes) -> None:
    assert end_of_jpeg(picture) == len(picture)
    assert end_of_jpeg(picture + bytes(511)) == len(picture)
    assert end_of_jpeg(picture + b"\xff" * 511) == len(picture)


CUT_IN_SEGMENT = "cut off: it ends inside the segment that begins at byte"
NO_END = "cut off: it does not end with FF D9"


@pytest.mark.parametrize(
    ("picture", "fault", "words"),
    [
        (b"", "not_a_jpeg", "it does not begin with FF D8"),
        (b"\x89PNG" + BASELINE, "not_a_jpeg", "it does not begin with FF D8"),
        (START, "cut_off", NO_END),
        (BASELINE[:-2], "cut_off", NO_END),
        (BASELINE[:-1], "cut_off", NO_END),
        (BASELINE[:-2] + bytes(64), "cut_off", NO_END),
        # up to the thumbnail's end marker
        (START + EXIF, "cut_off", NO_END),
        (START + EXIF + bytes(64), "cut_off", NO_END),
        (START + EXIF[:-3], "cut_off", CUT_IN_SEGMENT + " 2"),
        (START + segment(0xE1, b"Exif\x00\x00" + BASELINE + b"more")[:-4], "cut_off", CUT_IN_SEGMENT + " 2"),
        (START + JFIF + TABLES[:-1], "cut_off", CUT_IN_SEGMENT + " 20"),
        (START + JFIF + b"no marker" + END + b"more", "broken_segments", "broken at byte 20"),
        (START + b"\xff\xe0\x00\x01" + END + b"more", "broken_segments", "broken at byte 2"),
        (BASELINE + b"x" * 65_537, "too_much_behind_end", "65537 bytes are behind the end"),
    ],
)
def test_what_is_not_whole_says_what_is_wrong_and_where(picture: bytes, fault: str, words: str) -> None:
    with pytest.raises(JpegError, match=words) as error:
        end_of_jpeg(picture)
    assert error.value.fault == fault


def test_as_many_bytes_may_be_behind_the_end_as_the_picture_has() -> None:
    large = START + scan(bytes(LEAST_ALLOWED_BEHIND_END)) + END
    assert end_of_jpeg(large + b"x" * len(large)) == len(large)
    with pytest.raises(JpegError, match="behind the end"):
        end_of_jpeg(large + b"x" * (len(large) + 1))


@given(picture=SAMPLES, behind=st.binary(max_size=LEAST_ALLOWED_BEHIND_END))
def test_whatever_is_behind_the_end_changes_nothing(picture: bytes, behind: bytes) -> None:
    assert end_of_jpeg(picture + behind) == len(picture)


@given(data=st.data(), inner=st.binary(max_size=300), thumbnail=st.booleans(), codes=st.booleans())
def test_a_picture_that_is_cut_anywhere_before_its_end_is_cut_off(
    data: st.DataObject, inner: bytes, thumbnail: bool, codes: bool
) -> None:
    head = START + (EXIF if thumbnail else JFIF) + TABLES + FRAME
    picture = head + (CODES if codes else b"") + scan(inner) + CODES + scan(inner) + END
    cut = picture[: data.draw(st.integers(2, len(picture) - 1))]
    assert end_of_jpeg(picture) == len(picture)
    with pytest.raises(JpegError) as error:
        end_of_jpeg(cut)
    assert error.value.fault == "cut_off"


@given(st.binary(max_size=400))
def test_any_bytes_have_an_end_within_them_or_a_fault(data: bytes) -> None:
    fault: str | None = None
    end = 0
    try:
        end = end_of_jpeg(START + data)
    except JpegError as error:
        fault = error.fault
    assert fault in {"cut_off", "broken_segments", "too_much_behind_end"} or 4 <= end <= len(data) + 2


def test_bytes_made_to_be_walked_for_long_are_given_up() -> None:
    """Without a bound on segments, five megabytes of these took some seconds of the event loop."""
    with pytest.raises(JpegError, match="cut off"):
        end_of_jpeg(START + b"\xff\xe0\x00\x02" * 20_000)
