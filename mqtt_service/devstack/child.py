"""A program that runs as long as we do: its output goes to a file, and it ends when we end, however we end.

A small shell stands between us and the program and holds a pipe from us. When the pipe closes, because we
stopped the program or because this process was killed, the shell sends SIGTERM.
"""

import asyncio
import os
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

STOP_SECONDS = 12.0

_GUARD = """
exec 3<&0
"$@" 3<&- </dev/null &
child=$!
( read -r _ <&3; kill -TERM "$child" 2>/dev/null ) >/dev/null 2>&1 &
exec 3<&- </dev/null
wait "$child"
"""


@dataclass(frozen=True)
class Child:
    """One running program; `log_file` takes what it writes to standard output and standard error."""

    log_file: Path
    _shell: asyncio.subprocess.Process

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *,
        log_file: Path,
        env: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> Self:
        """Start `command` in `directory` with the environment `env` (default: both as ours).

        Raises OSError if there is no shell.
        """
        with log_file.open("ab") as log:
            spawning = asyncio.ensure_future(
                asyncio.create_subprocess_exec(
                    "/bin/sh",
                    "-c",
                    _GUARD,
                    "sh",
                    *command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env=None if env is None else dict(env),
                    cwd=directory,
                    start_new_session=True,  # a Ctrl-C at the terminal is ours to handle
                )
            )
            try:
                return cls(log_file, await asyncio.shield(spawning))
            except asyncio.CancelledError:  # whoever cancels us never learns of the program: end it
                await cls(log_file, await spawning).stop()
                raise

    @property
    def pid(self) -> int:
        """The process id of the shell that stands before the program; the program is a child of it."""
        return self._shell.pid

    @property
    def exit_status(self) -> int | None:
        """The program's exit status (128 + the signal that ended it), None while it runs."""
        return self._shell.returncode

    @property
    def log(self) -> str:
        """What the program has written, over all its starts into this file."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def peak_memory(self) -> int:
        """The most bytes of memory that the program has held so far; 0 where no /proc says so."""
        children = Path(f"/proc/{self._shell.pid}/task/{self._shell.pid}/children")
        try:
            pids = children.read_text(encoding="ascii").split()
            states = [Path(f"/proc/{pid}/status").read_text(encoding="utf-8") for pid in pids]
        except OSError:
            return 0
        peaks = [found for state in states for found in re.findall(r"VmHWM:\s+([0-9]+) kB", state)]
        return max((int(peak) * 1024 for peak in peaks), default=0)

    async def wait(self) -> int:
        """Wait for the program to end by itself; returns its exit status."""
        return await self._shell.wait()

    async def stop(self, seconds: float = STOP_SECONDS) -> int:
        """End the program with SIGTERM, after so many seconds with SIGKILL; returns its exit status."""
        if self._shell.stdin is not None:
            self._shell.stdin.close()
        try:
            return await asyncio.wait_for(self._shell.wait(), seconds)
        except TimeoutError:
            os.killpg(self._shell.pid, signal.SIGKILL)
            return await self._shell.wait()
