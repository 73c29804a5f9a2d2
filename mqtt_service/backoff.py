"""How long to wait before trying again: exponential with jitter, and never shorter than the peer asked."""

from collections.abc import Callable
from random import random

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_attempt,
)
from tenacity.wait import wait_base

from mqtt_service.errors import ProjectMisconfiguredError, RetryableError, ServiceError

FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0
# Keeps the power of two within what a float can hold, after any number of failures.
_MAX_DOUBLINGS = 16
# Where a person waits for the answer.
_ATTEMPTS = 5
_LONGEST_BRIEF_DELAY = 8.0


def delay_after(failures: int, longest: float = LONGEST_DELAY) -> float:
    """Seconds to wait after so many failures in a row, at least one: it doubles up to `longest`."""
    return min(FIRST_DELAY * 2.0 ** min(failures - 1, _MAX_DOUBLINGS), longest)


class Backoff(wait_base):
    """Doubling up to `longest` seconds with jitter, or the error's `retry_after` where that is longer."""

    def __init__(self, longest: float = LONGEST_DELAY) -> None:
        self._longest = longest

    def __call__(self, retry_state: RetryCallState) -> float:
        """Seconds until the next attempt."""
        error = retry_state.outcome.exception() if retry_state.outcome else None
        asked = getattr(error, "retry_after", None) or 0.0
        jitter = FIRST_DELAY * random()  # noqa: S311 - it only keeps callers apart
        return max(asked, min(delay_after(retry_state.attempt_number) + jitter, self._longest))


def retry_forever(
    on_retry: Callable[[BaseException, float], None],
    longest: float = LONGEST_DELAY,
    *,
    except_for: tuple[type[ServiceError], ...] = (),
) -> AsyncRetrying:
    """Try again without end what waiting can help, or a person who corrects the project.

    `on_retry` gets each error and the seconds until the next attempt, at most `longest` unless the peer asked
    for more. Any other error ends it, and so does one of `except_for`.
    """

    def helps(error: BaseException) -> bool:
        return isinstance(error, (RetryableError, ProjectMisconfiguredError)) and not isinstance(
            error, except_for
        )

    def before_sleep(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if error is not None:
            on_retry(error, state.upcoming_sleep)

    return AsyncRetrying(
        retry=retry_if_exception(helps),
        wait=Backoff(longest),
        before_sleep=before_sleep,
        reraise=True,
    )


def retry_briefly() -> AsyncRetrying:
    """Try a few times what waiting can help, since a person waits; the last error ends it."""
    return AsyncRetrying(
        retry=retry_if_exception_type(RetryableError),
        wait=Backoff(_LONGEST_BRIEF_DELAY),
        stop=stop_after_attempt(_ATTEMPTS),
        reraise=True,
    )
