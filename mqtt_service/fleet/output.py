"""What a verb prints: for a person, or JSON on standard output and the rest on standard error."""

import json
import re
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from datetime import MAXYEAR, MINYEAR, UTC, datetime
from uuid import UUID

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

# Where the output goes into a file or a pipe, nothing is cut off to fit a screen.
_WIDE = 200
# C0 without the line feed, DEL and C1 (ECMA-48): a device's words could move the cursor or set the title.
_CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


class Output:
    """Where a verb's words go; with `as_json` standard output holds JSON alone."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.out = _console(stderr=False)
        self.err = _console(stderr=True)

    @property
    def live(self) -> bool:
        """Whether a person watches: then a view may change in place."""
        return self.out.is_terminal and not self.as_json

    def say(self, text: str) -> None:
        """A line for a person."""
        (self.err if self.as_json else self.out).print(text, markup=False, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """A line beside the result: progress, warnings."""
        self.err.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, view: RenderableType) -> None:
        """A table or a page; nothing with `as_json`."""
        if not self.as_json:
            self.out.print(view)

    def document(self, value: object, *, one_line: bool = False) -> None:
        """The result as JSON; nothing without `as_json`."""
        if self.as_json:
            text = json.dumps(plain(value), indent=None if one_line else 2, ensure_ascii=False)
            self.out.file.write(text + "\n")
            self.out.file.flush()


def plain(value: object) -> object:
    """A value as JSON has it: rows as objects, times in UTC as ISO 8601, Postgres's infinities as null."""
    if isinstance(value, datetime):
        is_finite = value.year not in {MINYEAR, MAXYEAR}
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z") if is_finite else None
    if isinstance(value, UUID):
        return str(value)
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


class _Console(Console):
    """Prints what rows say without the control characters in it; rich takes out only some of them."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of a view; every view within it, and every text, comes by here."""
        for segment in super().render(renderable, options):
            text = segment.text
            if segment.control is None and _CONTROLS.search(text):
                yield Segment(_CONTROLS.sub("", text), segment.style)
            else:
                yield segment


def _console(*, stderr: bool) -> Console:
    console = _Console(stderr=stderr)
    return console if console.is_terminal else _Console(stderr=stderr, width=_WIDE)
