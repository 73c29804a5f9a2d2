"""JPEGs built by hand from ITU-T T.81, annex B: right in their segments, of no use to look at."""

START, END = b"\xff\xd8", b"\xff\xd9"


def segment(code: int, content: bytes = b"") -> bytes:
    """A marker segment; its length counts itself (B.1.1.4)."""
    return bytes([0xFF, code]) + (len(content) + 2).to_bytes(2, "big") + content


def scan(data: bytes) -> bytes:
    """The header of a scan, and its data: FF is followed by 00 there (B.1.1.5)."""
    return segment(0xDA, b"\x01\x01\x00\x00\x3f\x00") + data.replace(b"\xff", b"\xff\x00")


JFIF = segment(0xE0, b"JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00")
TABLES = segment(0xDB, bytes(65))
FRAME = segment(0xC0, b"\x08\x00\x10\x00\x10\x01\x01\x11\x00")
CODES = segment(0xC4, bytes(29))
THUMBNAIL = START + TABLES + FRAME + CODES + scan(b"small") + END
EXIF = segment(0xE1, b"Exif\x00\x00" + THUMBNAIL)

BASELINE = START + JFIF + TABLES + FRAME + CODES + scan(bytes(range(256)) * 4) + END
WITH_THUMBNAIL = START + EXIF + TABLES + FRAME + CODES + scan(b"large" * 100) + END
PROGRESSIVE = START + JFIF + TABLES + FRAME + CODES + scan(b"coarse" * 9) + CODES + scan(b"fine" * 9) + END
