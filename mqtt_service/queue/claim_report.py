"""What a claim did besides handing out commands, for the log and the metrics."""

import logging
from uuid import UUID

from mqtt_service.adapters.supabase.commands import Claim, ExpiredCommand, FailedCommand, RefusedCommand
from mqtt_service.log import context
from mqtt_service.metrics import COMMANDS

log = logging.getLogger(__name__)

_MAX_REFUSED_REMEMBERED = 200


class ClaimReport:
    """Logs and counts commands that the database took over, failed, expired or refused to change.

    Every claim finds a refused command again; it is logged once, until it was changed after all.
    `refused_count` and `refused_example` are those of the last claim.
    """

    def __init__(self) -> None:
        self._refused: dict[UUID, None] = {}  # the oldest first
        self.refused_count = 0
        self.refused_example: str | None = None
        self._unknown_types: set[str] = set()

    def write(self, claim: Claim) -> None:
        """Write one line for each."""
        for worker, commands in claim.rescued.items():
            log.warning(
                "[CommandQueue] %d command(s) of a worker that is gone (%s) are taken over, under the same "
                "command_id",
                commands,
                worker,
            )
        for failed in claim.failed:
            _log_failed(failed)
        for expired in claim.expired:
            _log_expired(expired)
        self._write_refused(claim)
        for unknown in claim.unknown_types:
            self._write_unknown(unknown)

    def _write_unknown(self, command_type: str) -> None:
        if command_type not in self._unknown_types:
            self._unknown_types.add(command_type)
            log.warning(
                "[CommandQueue] Commands of the type %r are left alone: it is not known. To have them sent, "
                "list it in device_command_types",
                command_type,
            )

    def _write_refused(self, claim: Claim) -> None:
        self.refused_count = claim.refused_count
        self.refused_example = _describe(claim.refused[0]) if claim.refused else None
        for rows in (claim.commands, claim.failed, claim.expired):
            for changed in rows:
                self._refused.pop(changed.command_id, None)
        for refused in claim.refused:
            if refused.command_id not in self._refused:
                self._refused[refused.command_id] = None
                _log_refused(refused)
        while len(self._refused) > _MAX_REFUSED_REMEMBERED:
            del self._refused[next(iter(self._refused))]


def _log_failed(failed: FailedCommand) -> None:
    COMMANDS.labels("failed").inc()
    log.warning(
        "[CommandQueue] ❌ %s failed (retry_count %d%s): %s",
        failed.command_type,
        failed.retry_count,
        ", final" if failed.final else "",
        failed.error,
        extra=context(command=failed.command_id, device=failed.device_code or failed.device_id),
    )


def _log_expired(expired: ExpiredCommand) -> None:
    COMMANDS.labels("expired").inc()
    log.warning(
        "[CommandQueue] ⌛ %s %s",
        expired.command_type,
        expired.error,
        extra=context(command=expired.command_id, device=expired.device_code or expired.device_id),
    )


def _log_refused(refused: RefusedCommand) -> None:
    behind = f"{refused.waiting} later command(s) of its device wait behind it, " if refused.waiting else ""
    log.warning(
        "[CommandQueue] The database refuses to change %s; it is passed over, %sthe rest goes on",
        _describe(refused),
        behind,
        extra=context(command=refused.command_id, device=refused.device_code),
    )


def _describe(refused: RefusedCommand) -> str:
    return f"{refused.command_id} (device {refused.device_code or 'without a code'}): {refused.error}"
