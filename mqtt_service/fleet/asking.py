"""Whether a person agrees to what concerns many devices."""

import sys
from collections.abc import Callable

from mqtt_service.errors import UsageError

# Says yes or no to a question.
Ask = Callable[[str], bool]


def agrees(ask: Ask, question: str, otherwise: str) -> bool:
    """Ask; where nobody can be asked, raise UsageError. `otherwise`: what then was not done."""
    if not sys.stdin.isatty():
        raise UsageError(f"add --yes, since nobody can be asked here; {otherwise}")
    return ask(question)
