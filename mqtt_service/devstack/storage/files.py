"""The bytes of objects on disk.

Each upload is a file of its own, named by its version: a random id that the object's row holds. So a file is
seen by nobody before its row is committed, and an object that is replaced changes from one whole file to
another. What a crash leaves behind is removed at the next start.
"""

import asyncio
from collections.abc import Collection
from pathlib import Path
from uuid import uuid4

_UNFINISHED = ".part"


class FileStore:
    """The files in one directory, which nobody else writes to."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        self._directory = directory

    async def write(self, data: bytes) -> str:
        """Keep `data`; return its version once the file is whole."""
        version = str(uuid4())
        await asyncio.to_thread(self._write, version, data)
        return version

    async def read(self, version: str) -> bytes | None:
        """Return what is kept, or None where nothing is (any more)."""
        try:
            return await asyncio.to_thread((self._directory / version).read_bytes)
        except FileNotFoundError:
            return None

    async def remove(self, versions: Collection[str]) -> None:
        """Remove these files, as far as they are there."""
        await asyncio.to_thread(self._remove, versions)

    def keep_only(self, versions: Collection[str]) -> None:
        """Remove all other files: at the start, before anybody writes."""
        self._remove([file.name for file in self._directory.iterdir() if file.name not in versions])

    def _write(self, version: str, data: bytes) -> None:
        unfinished = self._directory / (version + _UNFINISHED)
        try:
            unfinished.write_bytes(data)
            unfinished.replace(self._directory / version)
        finally:
            unfinished.unlink(missing_ok=True)

    def _remove(self, versions: Collection[str]) -> None:
        for version in versions:
            (self._directory / version).unlink(missing_ok=True)
