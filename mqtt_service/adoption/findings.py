"""What a check can find, as plain data: what a person reads, and the same for a program."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How much a finding matters."""

    BY_HAND = "by hand"  # the worker cannot do its work until a person has seen to it
    LOOK = "look"  # it works, though perhaps not as the person expects
    NOTE = "note"


class Aspect(StrEnum):
    """The headings of the report, in its order."""

    TABLES = "Tables"
    COLUMNS = "Columns"
    TRIGGERS = "Triggers, checks and rules"
    FUNCTIONS = "Functions"
    ACCESS = "Access"
    SERVICES = "Realtime and Storage"
    ROWS = "Rows"
    HISTORY = "Migration history"
    TRIAL = "Trial"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. `kind` is a fixed word for programs, `sql` what a person can run about it."""

    aspect: Aspect
    kind: str
    subject: str
    text: str
    level: Level = Level.NOTE
    sql: str | None = None
