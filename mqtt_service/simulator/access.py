"""How a simulated device gets past what guards a broker: TLS, a name and a password."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from mqtt_service.errors import PermanentError


@dataclass(frozen=True)
class Access:
    """What a broker asks for: `tls`, by the system's authorities or those of `ca_file`; name and password."""

    tls: bool = False
    ca_file: Path | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)


class _ClosingSocket(ssl.SSLSocket):
    """paho forgets a socket whose handshake fails, without closing it."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - the signature of ssl
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def tls_context(access: Access) -> ssl.SSLContext:
    """Return what a connection is encrypted with. Raises PermanentError if `ca_file` holds no authority."""
    try:
        context = ssl.create_default_context(cafile=access.ca_file)
    except OSError as error:
        raise PermanentError(f"{access.ca_file} holds no certificate that can be read ({error})") from error
    context.sslsocket_class = _ClosingSocket
    return context
