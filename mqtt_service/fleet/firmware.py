"""The verb `firmware`: publish, list and remove releases; and which of them a device gets."""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from io import BufferedReader, FileIO
from pathlib import Path
from uuid import UUID, uuid4

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from mqtt_service.adapters.supabase.fleet_firmware import ReleaseRow
from mqtt_service.adapters.supabase.fleet_rows import DeviceRow
from mqtt_service.backoff import retry_briefly
from mqtt_service.config import ProjectSettings
from mqtt_service.errors import UsageError
from mqtt_service.fleet.finding import find_place
from mqtt_service.fleet.output import Output
from mqtt_service.fleet.session import Project, open_project
from mqtt_service.fleet.tables import releases_table


@dataclass(frozen=True, slots=True)
class PublishRequest:
    """What a person wrote after `firmware publish`; `company` None: there is one only."""

    file: Path
    version: str
    hardware: str | None = None
    notes: str | None = None
    company: str | None = None


def run_publish(settings: ProjectSettings, request: PublishRequest, *, as_json: bool) -> int:
    """Upload a file and publish it; the same file again is uploaded again and changes nothing else."""
    output = Output(as_json=as_json)
    sha256, size = _examine(request.file)

    async def run() -> int:
        async with open_project(settings) as project:
            company = await _company(project, request.company)
            there = published(await project.releases.every(), company, request.version, request.hardware)
            if there is not None and there.sha256 != sha256:
                raise UsageError(
                    f"{request.version} is published already, with another file (sha256 {there.sha256[:12]}… "
                    f"{sha256[:12]}… here): publish this one under another version"
                )
            release = there or ReleaseRow(
                uuid4(), company, request.version, request.hardware, sha256, size,
                f"{company}/{sha256}.bin", request.notes,
            )  # fmt: skip
            await _upload(project, request.file, release, output)
            if there is None:
                await project.releases.add(release)
        again = " again: it was published before" if there is not None else ""
        output.say(f"Published {_name(release)}{again} ({size} bytes, sha256 {sha256}).")
        output.document({"release": release, "published_before": there is not None})
        return 0

    return asyncio.run(run())


def run_firmware_list(settings: ProjectSettings, *, as_json: bool) -> int:
    """List releases, the newest first."""
    output = Output(as_json=as_json)

    async def run() -> int:
        async with open_project(settings) as project:
            found = await project.releases.every()
        found.sort(key=lambda row: (row.created_at is None, row.created_at), reverse=True)
        output.document(found)
        if found:
            output.show(releases_table(found))
        elif not as_json:
            output.note("No firmware is published.")
        return 0

    return asyncio.run(run())


def run_firmware_remove(
    settings: ProjectSettings, version: str, hardware: str | None, company: str | None, *, as_json: bool
) -> int:
    """Remove a release and its file; commands that wait for it fail, and say so."""
    output = Output(as_json=as_json)

    async def run() -> int:
        async with open_project(settings) as project:
            owner = await _company(project, company)
            every = await project.releases.every()
            release = published(every, owner, version, hardware)
            if release is None:
                raise UsageError(f"there is no release {version}: see mqtt-service firmware list")
            await project.releases.remove(release.release_id)
            if all(one.path != release.path or one is release for one in every):
                await project.firmware.remove(release.path)
        output.say(f"Removed {_name(release)}. What was waiting to be sent fails.")
        output.document({"release": release, "removed": True})
        return 0

    return asyncio.run(run())


def published(
    releases: Sequence[ReleaseRow], company: UUID, version: str, hardware: str | None
) -> ReleaseRow | None:
    """The company's release of this version for exactly this hardware (None: for any)."""
    for release in releases:
        is_it = _plain(release.version) == _plain(version) and release.hardware == hardware
        if is_it and release.company_id == company:
            return release
    return None


def release_for(device: DeviceRow, version: str, releases: Sequence[ReleaseRow]) -> ReleaseRow:
    """The release of this version that a device gets: for its hardware, else for any. Raises UsageError."""
    found = None
    if device.company_id is not None:
        hardware = device.hardware_version
        found = hardware and published(releases, device.company_id, version, hardware)
        found = found or published(releases, device.company_id, version, None)
    if not found:
        raise UsageError(
            f"there is no release {version} for {device.label} (hardware "
            f"{device.hardware_version or 'not known'}): see mqtt-service firmware list"
        )
    return found


def _plain(version: str) -> str:
    return version.strip().lower().removeprefix("v")


def _name(release: ReleaseRow) -> str:
    return f"{release.version} for {release.hardware or 'any hardware'}"


def _examine(file: Path) -> tuple[str, int]:
    try:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
            size = opened.tell()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    if not size:
        raise UsageError(f"{file} is empty")
    return digest, size


async def _company(project: Project, reference: str | None) -> UUID:
    if reference is not None:
        return (await find_place(project, "company", reference)).place_id
    found = await project.releases.some_companies()
    if len(found) != 1:
        raise UsageError("say of which company: --company" if found else "there is no company yet")
    return found[0]


class _Watched(BufferedReader):
    """A file that says how far it has been read."""

    def __init__(self, file: Path, on_read: Callable[[int], None]) -> None:
        super().__init__(FileIO(str(file)))
        self._on_read = on_read

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any file."""
        data = super().read(size)
        self._on_read(self.tell())
        return data


async def _upload(project: Project, file: Path, release: ReleaseRow, output: Output) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bar = Progress(*columns, console=output.err) if output.live else nullcontext()
    with bar as progress:
        task = progress.add_task(f"Uploading {file.name}", total=release.size_bytes) if progress else None

        def read(so_far: int) -> None:
            if progress is not None and task is not None:
                progress.update(task, completed=so_far)

        async for attempt in retry_briefly():
            with attempt, _Watched(file, read) as opened:
                await project.firmware.put(release.path, opened)
