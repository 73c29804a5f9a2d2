"""How long to wait before trying again: exponential with jitter, and never shorter than the peer asked."""

import logging
from collections.abc import Callable

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_exponential_jitter
from tenacity.wait import wait_base

from mqtt_service.errors import ProjectMisconfiguredError, RetryableError, ServiceError

FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0

log = logging.getLogger(__name__)


class WaitAsAsked(wait_base):
    """Doubling up to `longest` seconds with jitter, or the error's `retry_after` where that is longer."""

    def __init__(self, longest: float = LONGEST_DELAY) -> None:
        self._own = wait_exponential_jitter(multiplier=FIRST_DELAY, max=longest, jitter=FIRST_DELAY)

    def __call__(self, retry_state: RetryCallState) -> float:
        """Seconds until the next attempt."""
        error = retry_state.outcome.exception() if retry_state.outcome else None
        asked = getattr(error, "retry_after", None) or 0.0
        return max(asked, self._own(retry_state))


def patiently(
    announce: Callable[[BaseException, float], None],
    longest: float = LONGEST_DELAY,
    but: tuple[type[ServiceError], ...] = (),
) -> AsyncRetrying:
    """Try again without end on what waiting can mend, or a person; `announce` gets each error and the delay.

    What else is raised, ends it, and so does an error of `but`. Delays are seconds, `longest` at most unless
    the peer asks for more.
    """

    def can_be_mended(error: BaseException) -> bool:
        return isinstance(error, (RetryableError, ProjectMisconfiguredError)) and not isinstance(error, but)

    def before_sleep(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if error is not None:
            announce(error, state.upcoming_sleep)

    return AsyncRetrying(
        retry=retry_if_exception(can_be_mended),
        wait=WaitAsAsked(longest),
        before_sleep=before_sleep,
        reraise=True,
    )
