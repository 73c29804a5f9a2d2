"""What was sent, against what was announced."""

import pytest

from mqtt_service.protocol.whole_picture import ImageFaultError, whole_picture
from tests.unit.protocol.jpeg_samples import BASELINE

SIZE = len(BASELINE)
PAD = b"\x5a"


@pytest.mark.parametrize("announced", [None, SIZE, SIZE + 600])
def test_bytes_behind_the_end_are_kept_whether_the_size_counts_them_or_not(announced: int | None) -> None:
    sent = BASELINE + PAD * 600
    assert whole_picture(sent, announced, last_chunk=512) == sent


@pytest.mark.parametrize("last_chunk", [300, 512])
def test_a_last_chunk_padded_beyond_the_announced_size_is_cut_to_it(last_chunk: int) -> None:
    assert whole_picture(BASELINE + PAD * 300, SIZE, last_chunk) == BASELINE


@pytest.mark.parametrize(
    ("sent", "announced", "fault"),
    [
        (BASELINE, SIZE + 1, "fewer_than_announced"),
        (BASELINE, SIZE - 1, "more_than_announced"),
        (BASELINE[:-9] + PAD * 99, SIZE, "more_than_announced"),
        (BASELINE[:-9] + PAD * 9, SIZE, "cut_off"),
        (BASELINE[:-2], None, "cut_off"),
    ],
)
def test_what_is_not_the_picture_says_of_which_kind_that_is(
    sent: bytes, announced: int | None, fault: str
) -> None:
    with pytest.raises(ImageFaultError) as error:
        whole_picture(sent, announced, last_chunk=512)
    assert error.value.fault == fault
