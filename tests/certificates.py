"""The machine's certificates, loaded once for all HTTP clients of a process and of those forked from it.

Each client would load them anew: a tenth of a second of work, and the tests make some thousand clients.
"""

import os
import ssl
from importlib import import_module

import httpx

_MACHINES = httpx.create_ssl_context(trust_env=False)


def trusted(*, verify: ssl.SSLContext | bool = True, trust_env: bool = True, **more: None) -> ssl.SSLContext:
    """As httpx.create_ssl_context, with the same context for all who trust what the machine does."""
    others = trust_env and {"SSL_CERT_FILE", "SSL_CERT_DIR"} & os.environ.keys()
    if verify is True and not others:
        return _MACHINES
    return httpx.create_ssl_context(verify=verify, trust_env=trust_env, **more)


def share() -> None:
    """From now on, all HTTP clients of this process share them."""
    import_module("httpx._transports.default").create_ssl_context = trusted  # type: ignore[attr-defined]  # in place of httpx's own
