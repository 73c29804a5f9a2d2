"""The account under which the embedded Postgres runs: our own, or for root, whom it refuses, `nobody`.

For `nobody` to use a data directory somewhere below root's own folders, nothing is opened up to others: the
directory becomes its own, and it gets there through an open handle instead of the path.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from mqtt_service.errors import PermanentError

_FIRST_HANDLE = 100  # out of the way of the few that a shell knows by number


class AccountError(PermanentError):
    """Postgres cannot run under any account that we may use."""


class Process(TypedDict, total=False):
    """Arguments of the functions that start a process."""

    user: int
    group: int
    extra_groups: list[int]
    pass_fds: tuple[int, ...]


@dataclass(frozen=True)
class ServerAccess:
    """How the server reaches its data directory: the path to give it, and how to start its process."""

    path: str
    process: Process = field(default_factory=Process)


@contextmanager
def server_access(data_dir: Path, binaries: Path) -> Iterator[ServerAccess]:
    """Yield how a process from `binaries` reaches `data_dir`, valid while it is being started.

    Raises AccountError for root on systems other than Linux.
    """
    if os.geteuid() != 0:
        yield ServerAccess(str(data_dir))
        return
    if sys.platform != "linux":
        raise AccountError("Postgres does not run as root: use another account.")
    yield from _access_as_nobody(data_dir, binaries)


def _access_as_nobody(data_dir: Path, binaries: Path) -> Iterator[ServerAccess]:
    import fcntl  # noqa: PLC0415 - does not exist on Windows
    import pwd  # noqa: PLC0415 - does not exist on Windows

    nobody = pwd.getpwnam("nobody")
    if data_dir.stat().st_uid != nobody.pw_uid:
        os.chown(data_dir, nobody.pw_uid, nobody.pw_gid)
    _open_path_to(binaries)
    opened = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY)
    handle = fcntl.fcntl(opened, fcntl.F_DUPFD, _FIRST_HANDLE)
    os.close(opened)
    try:
        process = Process(user=nobody.pw_uid, group=nobody.pw_gid, extra_groups=[], pass_fds=(handle,))
        yield ServerAccess(f"/proc/self/fd/{handle}", process)
    finally:
        os.close(handle)


def _open_path_to(binaries: Path) -> None:
    """Let others pass through the folders above the binaries, without listing them: else they cannot run."""
    for folder in [binaries, *binaries.resolve().parents]:
        mode = folder.stat().st_mode
        if not mode & 0o001:
            folder.chmod(mode | 0o001)
