"""The worker's HTTP server: uvicorn in the worker's event loop, on a port that is bound before all else."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette

from mqtt_service.errors import ConfigurationError


@contextmanager
def listening(port: int, host: str = "0.0.0.0") -> Iterator[socket.socket]:
    """The bound port, 0 for any free one; raises ConfigurationError when it cannot be had."""
    try:
        listener = socket.create_server((host, port))
    except OSError as error:
        raise ConfigurationError(
            [f"PORT: cannot listen on {port}: {error.strerror}; choose another"]
        ) from error
    with listener:
        yield listener


async def serve(app: Starlette, listener: socket.socket) -> None:
    """Answer requests until cancelled."""
    server = _Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
    try:
        await server.serve(sockets=[listener])
    finally:
        server.should_exit = True


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: SIGTERM is handled by `worker_process`."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield
