"""Findings and settings as a person reads them, and as JSON. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from rich.text import Text

from mqtt_service import __version__
from mqtt_service.doctor.effective import Effective
from mqtt_service.doctor.findings import CHECKS, Finding

_STYLES = {"ok": "green", "warning": "yellow", "broken": "bold red", "skipped": "dim"}
_HIDDEN = "********"
_SHORTEST_SECRET = 4


def without_secrets(finding: Finding, secrets: Sequence[str]) -> Finding:
    """The finding with stars for every secret that an error's text may have quoted."""
    seen, cure = finding.seen, finding.cure
    for secret in secrets:
        if len(secret) >= _SHORTEST_SECRET:
            seen, cure = seen.replace(secret, _HIDDEN), cure.replace(secret, _HIDDEN)
    return replace(finding, seen=" ".join(seen.split()), cure=" ".join(cure.split()))


def as_lines(finding: Finding, previous: Finding | None) -> Iterator[Text]:
    """The lines of one finding, under a heading where the one before had another."""
    heading = CHECKS[finding.name].heading
    if previous is None or CHECKS[previous.name].heading != heading:
        yield Text(heading.upper(), "bold")
    style = _STYLES[finding.state]
    yield Text.assemble("  ", (f"{finding.state:8}", style), f"{finding.name}: {finding.seen}")
    if finding.cure:
        yield Text.assemble(f"{'':10}-> ", (finding.cure, "bold"))


def verdict(findings: Sequence[Finding]) -> Text:
    """The last line."""
    broken, warnings = _number(findings, "broken"), _number(findings, "warning")
    if broken:
        return Text(f"BROKEN: {broken}, to look at: {warnings}. Begin with the first.", "bold red")
    if warnings:
        return Text(f"It works. To look at: {warnings}.", "yellow")
    return Text("All is well.", "bold green")


def as_document(findings: Sequence[Finding]) -> dict[str, Any]:
    """`{"version", "state", "findings": [{"heading", "name", "state", "seen", "cure"}, …]}`."""
    states = {finding.state for finding in findings}
    state = next((state for state in ("broken", "warning") if state in states), "ok")
    return {
        "version": __version__,
        "state": state,
        "findings": [{"heading": CHECKS[each.name].heading, **asdict(each)} for each in findings],
    }


def settings_as_lines(settings: Sequence[Effective]) -> Iterator[Text]:
    """A line for each setting."""
    width = max(len(each.name) for each in settings)
    for each in settings:
        style = "dim" if each.source == "default" else ""
        yield Text(f"{each.name:{width}}  {each.value}  ({each.source})", style)


def _number(findings: Sequence[Finding], state: str) -> int:
    return sum(finding.state == state for finding in findings)
