"""Whether the bytes that came of a picture are the whole of it: against what was announced, and as a JPEG."""

from typing import Literal

from mqtt_service.errors import RemoteProtocolError
from mqtt_service.protocol.jpeg import JpegError, JpegFault, end_of_jpeg

# Why the picture as the device has it cannot be taken; the same in each visit, whatever the numbers are.
PictureFault = Literal[JpegFault, "more_than_announced", "fewer_than_announced"]


class ImageFaultError(RemoteProtocolError):
    """The chunks do not add up to the picture that was announced, or that is no whole JPEG.

    `fault` is None where chunks are missing, which is no fault of the picture.
    """

    def __init__(self, message: str, fault: PictureFault | None = None) -> None:
        self.fault: PictureFault | None = fault
        super().__init__(message)


def whole_picture(sent: bytes, announced: int | None, last_chunk: int) -> bytes:
    """The picture in the bytes that were sent; raises ImageFaultError, its message for the row.

    `announced` is the size in the metadata, if any, `last_chunk` the size of the last chunk. The picture is
    what was sent, with the bytes behind its end marker, whether or not the announced size counts these. Only
    a last chunk that is padded beyond the announced size is cut to it.
    """
    surplus = 0 if announced is None else len(sent) - announced
    if surplus < 0:
        raise ImageFaultError(
            f"the chunks hold {len(sent)} bytes, fewer than the {announced} announced", "fewer_than_announced"
        )
    if 0 < surplus <= last_chunk and _is_whole(sent[:announced]):
        return sent[:announced]
    try:
        end = end_of_jpeg(sent)
    except JpegError as error:
        if not surplus:
            raise ImageFaultError(str(error), error.fault) from None
        end = len(sent)
    if announced is not None and end > announced:
        raise ImageFaultError(
            f"the chunks hold {len(sent)} bytes, more than the {announced} announced", "more_than_announced"
        )
    return sent


def _is_whole(data: bytes) -> bool:
    try:
        end_of_jpeg(data)
    except JpegError:
        return False
    return True
