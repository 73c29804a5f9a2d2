"""Where a JPEG ends, found as a decoder finds it: from segment to segment (ITU-T T.81, annex B).

    FF D8   segments (FF, a code, a length)   FF DA and a scan's data   more segments and scans   FF D9

An end marker inside a segment is not the end: a thumbnail in APP1 has one of its own. In a scan's data a byte
FF is followed by 00 or is a restart marker (B.1.1.5), so that any other marker there begins what comes behind
the scan. Any number of FF may stand before a marker (B.1.1.2).

Decoders read more than the standard allows, and so do we. Stray bytes between segments are skipped, tables
may be missing (as in the frames of Motion JPEG), and what is inside a segment is not looked at.
"""

import re
from typing import Literal

JpegFault = Literal["not_a_jpeg", "cut_off", "broken_segments", "too_much_behind_end"]

_START = b"\xff\xd8"
_END = b"\xff\xd9"
# SOF, DHT, JPG, DAC, EOI, SOS, DQT, DNL, DRI, DHP, EXP, APPn, JPGn and COM; the restart markers and SOI,
# which have no length and are of no use here, are left out (T.81, table B.1).
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
_EOI, _SOS = 0xD9, 0xDA
_LENGTH_BYTES = 2
# Drivers of the OV2640 pad what they send to a multiple of their DMA buffer with zeros, and other buffers are
# erased flash.
_PADDING = b"\x00\xff"
# Real pictures have some dozens; without a bound, bytes made for it would cost seconds.
_MOST_SEGMENTS = 10_000
# A camera's driver sends its whole buffer, whose size goes by the resolution: much of it can be stale.
# Makers' trailers are some kB. What is more than that, and more than the picture itself, is no trailer.
LEAST_ALLOWED_BEHIND_END = 64 * 1024


class JpegError(ValueError):
    """The bytes are not one whole JPEG; `fault` says of which kind, and the message where."""

    def __init__(self, fault: JpegFault, message: str) -> None:
        self.fault: JpegFault = fault
        super().__init__(message)


def end_of_jpeg(data: bytes) -> int:
    """The position behind the end marker of the last scan; raises JpegError where there is none.

    Behind it as many bytes are allowed as the JPEG has, and 64 KiB in any case. Bytes whose segments cannot
    be followed end with their last FF D9, if nothing but padding is behind it: what is in between is not ours
    to judge.
    """
    if not data.startswith(_START):
        raise JpegError("not_a_jpeg", "the picture is not a JPEG: it does not begin with FF D8")
    walk = _Walk(data)
    if walk.end is not None and len(data) - walk.end <= _most_behind(walk.end):
        return walk.end
    end = _end_by_last_bytes(data, walk)
    if end is None:
        raise _explain(data, walk)
    return end


class _Walk:
    """One way through the segments.

    `end`: behind the end marker of the last scan; None if there is none. `astray`: where the first byte is
    that is part of no segment; None: they are as they should be. `segment`: from where to where the last one
    goes before that; `too_short`: and that this is longer than what is there.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.end: int | None = None
        self.astray: int | None = None
        self.segment = range(0)
        self.too_short = False
        self.in_scan = False
        self._follow()

    def _follow(self) -> None:
        position = len(_START)
        for _ in range(_MOST_SEGMENTS):
            marker = _MARKER.search(self._data, position)
            start = len(self._data) if marker is None else marker.start()
            if self._data[position:start].strip(b"\xff"):
                self._went_astray(position)
            if marker is None:
                return
            if self._data[start + 1] == _EOI and self.in_scan:
                self.end = marker.end()
                return
            position = self._behind_segment(start, marker.end())
        self.astray = position

    def _behind_segment(self, start: int, fields: int) -> int:
        """Where to look on: behind the segment, or behind its marker where that is no segment's."""
        code = self._data[start + 1]
        length = int.from_bytes(self._data[fields : fields + _LENGTH_BYTES], "big")
        end = fields + max(length, _LENGTH_BYTES)
        # In a scan's data a damaged byte can look like a marker; a segment there has another marker behind
        # it.
        is_segment = self._data[end : end + 1] == b"\xff" if self.in_scan else code != _EOI
        if not is_segment or (length < _LENGTH_BYTES and end <= len(self._data)):
            self._went_astray(start)
            return fields
        if self.astray is None:
            self.segment = range(start, end)
        self.too_short = end > len(self._data)
        self.in_scan = self.in_scan or (code == _SOS and not self.too_short)
        return min(end, len(self._data))

    def _went_astray(self, position: int) -> None:
        """Behind the first scan all bytes can be a scan's, so that none is known to be stray."""
        if self.astray is None and not self.in_scan:
            self.astray = position


def _most_behind(end: int) -> int:
    """How many bytes may be behind the end of a JPEG of so many bytes."""
    return max(LEAST_ALLOWED_BEHIND_END, end)


def _end_by_last_bytes(data: bytes, walk: _Walk) -> int | None:
    """The end of bytes whose segments cannot be followed.

    None where that end marker is in a segment that has a start marker too: it is a thumbnail's.
    """
    bare = data.rstrip(_PADDING)
    segment = walk.segment
    in_thumbnail = len(bare) <= segment.stop and data.find(_START, segment.start, segment.stop) >= 0
    followed = walk.in_scan and walk.astray is None
    return None if followed or in_thumbnail or not bare.endswith(_END) else len(bare)


def _explain(data: bytes, walk: _Walk) -> JpegError:
    if walk.end is not None:
        behind, most = len(data) - walk.end, _most_behind(walk.end)
        message = f"{behind} bytes are behind the end of the picture (FF D9), the limit is {most}"
        return JpegError("too_much_behind_end", message)
    if walk.astray is not None and data.find(_END, walk.astray) >= 0:
        message = f"the segments of the picture are broken at byte {walk.astray}"
        return JpegError("broken_segments", message)
    if walk.too_short and walk.astray is None:
        message = (
            f"the picture is cut off: it ends inside the segment that begins at byte {walk.segment.start}"
        )
        return JpegError("cut_off", message)
    return JpegError("cut_off", "the picture is cut off: it does not end with FF D9, as a JPEG does")
