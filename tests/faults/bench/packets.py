"""Looks into the MQTT that passes a proxy: holds back one kind of packet."""

_PUBACK = 4


class PubackStop:
    """A filter for one connection (`Proxy.filter_down`): while `holds()`, no PUBACK passes.

    What was held back goes on before the next packet that passes after that.
    """

    def __init__(self, holds: "Switch") -> None:
        self._holds = holds
        self._unread = b""
        self._held = b""

    def __call__(self, piece: bytes) -> bytes:
        self._unread += piece
        passed = b""
        while (packet := _first_packet(self._unread)) is not None:
            self._unread = self._unread[len(packet) :]
            if packet[0] >> 4 == _PUBACK and self._holds.on:
                self._held += packet
            elif self._holds.on:
                passed += packet
            else:
                passed += self._held + packet
                self._held = b""
        return passed


class Switch:
    """On or off."""

    def __init__(self, *, on: bool) -> None:
        self.on = on


def _first_packet(data: bytes) -> bytes | None:
    """The packet that `data` begins with (MQTT, section 2.1), None while it is not whole."""
    length = shift = 0
    for place, byte in enumerate(data[1:5], start=2):
        length |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return data[: place + length] if len(data) >= place + length else None
    return None
