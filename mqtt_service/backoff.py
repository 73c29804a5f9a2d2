"""How long to wait before trying again: exponential with jitter, and never shorter than the peer asked."""

from collections.abc import Callable

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_exponential_jitter
from tenacity.wait import wait_base

from mqtt_service.errors import ProjectMisconfiguredError, RetryableError, ServiceError

FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0


class Backoff(wait_base):
    """Doubling up to `longest` seconds with jitter, or the error's `retry_after` where that is longer."""

    def __init__(self, longest: float = LONGEST_DELAY) -> None:
        self._exponential = wait_exponential_jitter(multiplier=FIRST_DELAY, max=longest, jitter=FIRST_DELAY)

    def __call__(self, retry_state: RetryCallState) -> float:
        """Seconds until the next attempt."""
        error = retry_state.outcome.exception() if retry_state.outcome else None
        asked = getattr(error, "retry_after", None) or 0.0
        return max(asked, self._exponential(retry_state))


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
