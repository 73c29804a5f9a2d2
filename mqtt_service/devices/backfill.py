"""Completes the lineage (site, program, company, next wake) of devices that were mapped before the triggers.

Find them, initialise each, find again what is left. Every step is safe to repeat: the database skips what is
complete and welcomes a device once for each mapping, so a second run changes nothing and welcomes nobody.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, ParamSpec, TypeVar
from uuid import UUID

from mqtt_service.adapters.supabase.devices import IncompleteDevice, ProvisioningGateway
from mqtt_service.backoff import retry_briefly
from mqtt_service.errors import PermanentError, RetryableError, SupabaseUnavailableError

T = TypeVar("T")
P = ParamSpec("P")

_PAGE = 500  # rows; the API cuts an answer at its own limit (1,000, or less) and does not say so
_DEVICES_AT_ONCE = 8  # a hosted project answers one call in some 100 ms


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one device, and why it was not fixed where it was not."""

    device: IncompleteDevice
    result: Literal["fixed", "failed", "skipped"]
    reason: str | None = None
    unavailable: bool = False  # the reason is that the database did not answer, not the device


@dataclass(slots=True)
class Backfill:
    """The run so far; it is filled in as the work goes on, so that an interrupted run can be reported too.

    `remaining`: what was still incomplete at the end; None until that was asked.
    """

    found: list[IncompleteDevice] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    remaining: list[IncompleteDevice] | None = None

    def with_result(self, result: Literal["fixed", "failed", "skipped"]) -> list[Outcome]:
        """The outcomes of one kind, in the order of the work."""
        return [outcome for outcome in self.outcomes if outcome.result == result]

    @property
    def succeeded(self) -> bool:
        """Whether nothing failed, and nothing that could have been fixed was found at the end."""
        return not self.with_result("failed") and not any(map(is_fixable, self.remaining or ()))


async def find_incomplete(gateway: ProvisioningGateway) -> list[IncompleteDevice]:
    """Every device whose lineage is incomplete, however many there are, grouped by issue."""
    devices: list[IncompleteDevice] = []
    after: UUID | None = None
    while page := await _with_retries(gateway.find_incomplete_lineage, after, _PAGE):
        devices += page
        after = page[-1].device_id
    return sorted(devices, key=lambda device: device.issue)  # stable: by device_id within an issue


async def complete_lineage(
    gateway: ProvisioningGateway, backfill: Backfill, on_outcome: Callable[[Outcome], None]
) -> None:
    """Initialise the devices of `backfill.found`, then find again; `on_outcome` is called for each device.

    Raises SupabaseUnavailableError where the database stopped answering: to fail the other devices one by
    one would take hours and tell nothing.
    """
    for batch in _batches(backfill.found, _DEVICES_AT_ONCE):
        outcomes = await asyncio.gather(*(_initialize(gateway, device) for device in batch))
        for outcome in outcomes:
            backfill.outcomes.append(outcome)
            on_outcome(outcome)
        if all(outcome.unavailable for outcome in outcomes):
            raise SupabaseUnavailableError(f"stopped, run it again later: {outcomes[0].reason}")
    backfill.remaining = await find_incomplete(gateway)


def is_fixable(device: IncompleteDevice) -> bool:
    """Whether initialising the device can complete its lineage."""
    return device.fixable and device.assigned_site_id is not None


def count_issues(devices: Sequence[IncompleteDevice]) -> dict[str, int]:
    """How many devices have which issue, the most frequent first."""
    return dict(Counter(device.issue for device in devices).most_common())


async def _initialize(gateway: ProvisioningGateway, device: IncompleteDevice) -> Outcome:
    site_id = device.assigned_site_id
    if not is_fixable(device) or site_id is None:
        return Outcome(device, "skipped", _skip_reason(device))
    try:
        answer = await _with_retries(
            gateway.initialize_device, device.device_id, site_id, device.assigned_program_id
        )
    except RetryableError as error:
        return Outcome(device, "failed", str(error), unavailable=True)
    except PermanentError as error:
        return Outcome(device, "failed", str(error))
    if not answer.success:
        return Outcome(device, "failed", answer.error or answer.message or "the database did not say why")
    return Outcome(device, "fixed")


def _skip_reason(device: IncompleteDevice) -> str:
    if device.assigned_site_id is None:
        return "it is assigned to no site: map it to one"
    return (
        f"{device.issue}: its site has no program or no company, or belongs to another company than the "
        "device; correct that first"
    )


async def _with_retries(call: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of `call`, tried again a few times where waiting can help."""
    result: T = await retry_briefly()(call, *args, **kwargs)
    return result


def _batches(items: Sequence[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
