"""One command's story in words: where it is, why, and what happens next and when. Pure.

The rules that it tells are those of docs/commands.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from mqtt_service.adapters.supabase.fleet_rows import CommandRow, DeviceRow
from mqtt_service.fleet.times import both, local, relative, span
from mqtt_service.fleet.words import STATUSES, answer_time, fate, is_leased

# A worker polls every few seconds: what is due for longer waits for something.
_LATE = timedelta(minutes=1)
# As the claim, the heartbeats and the visits of the database have it.
_REPEATABLE = frozenset({"send_image", "set_wake_schedule", "update_config"})
_REPLACEABLE = frozenset({"set_wake_schedule", "update_config"})


@dataclass(frozen=True, slots=True)
class Rules:
    """How the worker treats commands, and which types of the project's own may be done twice."""

    max_retries: int
    redelivery_limit: int
    command_ttl: timedelta
    repeatable: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Case:
    command: CommandRow
    device: DeviceRow | None
    rules: Rules
    now: datetime
    zone: tzinfo | None

    def at(self, moment: datetime | None) -> str:
        return both(moment, self.now, self.zone)

    @property
    def is_repeatable(self) -> bool:
        return self.command.command_type in _REPEATABLE | self.rules.repeatable

    @property
    def is_overdue(self) -> bool:
        wake = self.device.next_wake_at if self.device else None
        return wake is not None and wake < self.now


def tell(
    command: CommandRow, device: DeviceRow | None, rules: Rules, now: datetime, zone: tzinfo | None = None
) -> list[str]:
    """The story, a sentence or two a line; `device` None: it was deleted meanwhile."""
    case = _Case(command, device, rules, now, zone)
    lines = [_origin(case)]
    if not command.in_queue and fate(command) == "lost" and command.status in {"pending", "sent", "failed"}:
        return [*lines, *_left_alone(case)]
    tellers = {
        "pending": _pending,
        "sent": _sent,
        "failed": _failed,
        "acknowledged": _acknowledged,
        "rejected": _rejected,
        "expired": _expired,
        "cancelled": _cancelled,
    }
    lines += tellers.get(command.status, _foreign)(case)
    if fate(command) == "open":
        lines.append(f"It gives up at {case.at(deadline(command, rules))}.")
    return lines


def deadline(command: CommandRow, rules: Rules) -> datetime | None:
    """When an open command expires; None: never, since it is not due before the end of time."""
    if command.expires_at is not None:
        return command.expires_at
    begins = max(command.issued_at, command.scheduled_for or command.issued_at)
    return begins + rules.command_ttl if begins < datetime.max.replace(tzinfo=begins.tzinfo) else None


def _origin(case: _Case) -> str:
    command, device = case.command, case.device
    who = f"{device.label} ({device.device_mac})" if device else "a device that is gone"
    priority = f", with priority {command.priority}" if command.priority else ""
    return f"{command.command_type} for {who}, queued {case.at(command.issued_at)}{priority}."


def _left_alone(case: _Case) -> Iterator[str]:
    yield (
        "The service leaves it alone: it was there before the migrations were applied, or its type was not "
        "known when it was queued. It is not sent and does not expire."
    )
    yield (
        f"To have it done, queue it anew: mqtt-service send {case.command.command_type} (list a type of your "
        "own in device_command_types first)."
    )


def _pending(case: _Case) -> Iterator[str]:
    command = case.command
    if command.redelivery_count:
        yield (
            "It was sent before and no answer came; then the device woke, so it goes out again under its id "
            f"(for the {_ordinal(command.redelivery_count)} time)."
        )
    if is_leased(command, case.now):
        yield (
            f"{command.lease_worker} is sending it now (attempt {command.attempt}). If that worker "
            f"dies, another takes the command over at {case.at(command.lease_until)}."
        )
        return
    if case.device and not case.device.is_active:
        yield (
            f"The device is not active ({case.device.provisioning_status}): the command fails when it is "
            "due. Map the device to a site first: mqtt-service map."
        )
    if command.held_until is not None:
        yield (
            f"It waits for a maintenance window, which opens at {case.at(command.held_until)} "
            "(see mqtt-service window list)."
        )
    elif command.due_at is None or command.due_at > case.now:
        yield f"It waits for its time: it is due at {case.at(command.due_at)}."
    elif command.lease_until is not None:
        yield (
            f"{command.lease_worker} had taken it up, and its lease ran out "
            f"{relative(command.lease_until, case.now)}: the next poll of a worker takes it up again."
        )
    else:
        yield from _due(case.now - command.due_at)


def _due(waits: timedelta) -> Iterator[str]:
    if waits < _LATE:
        yield "It is due: a worker takes it up at its next poll, within seconds."
        return
    yield (
        f"It has been due for {span(waits)}. Either no worker can claim and publish (see mqtt-service top), "
        "or another worker holds a command of the same device, or the project's database refuses to change "
        "the row (see the worker's log)."
    )


def _sent(case: _Case) -> Iterator[str]:
    command = case.command
    heard = (
        "nobody was listening then: the device slept"
        if command.no_listener
        else "the device has not answered"
    )
    yield f"The broker has had it since {case.at(command.delivered_at)}; {heard}."
    if not command.no_listener and not case.is_repeatable:
        yield (
            f"It is not sent again: the device may have heard it, and a {command.command_type} is never done "
            "twice. A late answer still counts."
        )
    elif command.redelivery_count >= case.rules.redelivery_limit:
        yield f"It was sent again {command.redelivery_count} times, which is all. A late answer still counts."
    else:
        unless = ", unless a newer one has replaced it" if command.command_type in _REPLACEABLE else ""
        yield (
            f"When the device wakes, it is sent again{unless} ({command.redelivery_count} of "
            f"{case.rules.redelivery_limit} times so far)."
        )
    yield from _waking(case)


def _waking(case: _Case) -> Iterator[str]:
    device = case.device
    if device is None:
        return
    heard = (
        f"last heard {relative(device.last_seen_at, case.now)}" if device.last_seen_at else "never heard yet"
    )
    if device.next_wake_at is None:
        yield f"When the device wakes is not known; it was {heard}."
    elif case.is_overdue:
        yield f"The device should have woken at {case.at(device.next_wake_at)} and has not; it was {heard}."
    else:
        yield f"The device wakes at {case.at(device.next_wake_at)}; it was {heard}."


def _failed(case: _Case) -> Iterator[str]:
    command = case.command
    count = f"{command.retry_count} of {case.rules.max_retries} failures"
    yield f"The last attempt failed: {command.last_error or 'no reason was given'} ({count})."
    if command.due_at is not None:
        yield f"It is tried again at {case.at(command.due_at)}."
        return
    yield (
        "It is not tried again by itself. Correct the reason, then: "
        f"mqtt-service retry {str(command.command_id)[:8]}"
    )


def _acknowledged(case: _Case) -> Iterator[str]:
    took = answer_time(case.command)
    after = "" if took is None else f", {took.total_seconds():.1f} s after the broker had it"
    yield f"The device did it at {case.at(case.command.acknowledged_at)}{after}."
    repeats = case.command.retry_count + case.command.redelivery_count
    if repeats:
        yield f"It took {case.command.retry_count} failures and {case.command.redelivery_count} redeliveries."


def _rejected(case: _Case) -> Iterator[str]:
    yield f"The device says that it never will: {case.command.last_error or 'it gave no reason'}."
    yield "This is final. To try something else, queue a new command."


def _expired(case: _Case) -> Iterator[str]:
    command = case.command
    sent = (
        f"the broker had it at {local(command.delivered_at, case.zone)}" if command.delivered_at else "unsent"
    )
    yield f"Its time went by ({sent}): {command.last_error or 'no answer came'}."
    yield "This is final, but a late success still makes it acknowledged. To try again, queue it anew."


def _cancelled(case: _Case) -> Iterator[str]:
    yield "A person withdrew it. This is final."
    if case.command.attempt:
        yield "A worker had already taken it up, so the device may have got it nevertheless."


def _foreign(case: _Case) -> Iterator[str]:
    ours = ", ".join(STATUSES)
    yield f"Its status is {case.command.status!r}, which is none of the service's ({ours}): it is left alone."


def _ordinal(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")
