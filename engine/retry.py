"""`Retry`: whether and when a failed attempt is followed by another.

tenacity decides.  A policy is asked once, when an attempt has ended, with the times of log
time; the verdict is recorded, so that a retry is a durable timer and a replay never asks.
"""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

if TYPE_CHECKING:
    from random import Random

NS: Final = 1_000_000_000
DOUBLINGS_MAX: Final = 62
"""Beyond this many doublings any wait is past its cap, and a float would soon overflow."""


class Retry(Struct, frozen=True, kw_only=True):
    """How often a task is tried, and how long to wait in between.

    The wait after attempt k is ``wait_first × 2**(k-1)``, at most `wait_max`, less up to
    the share `jitter` of it.  The jitter is drawn from a generator seeded by run and
    attempt, so that the same run waits the same time again.  An exception that has seconds as
    its ``retry_after_s``, as where a server says when it wants to be asked again, makes the wait
    that long, up to `wait_max`.  Instead of this, any tenacity policy is accepted, e.g.
    ``tenacity.Retrying(stop=…, wait=…, retry=…)``.
    """

    attempts: int = 3
    """Attempts in all, the first included."""
    wait_first: float | timedelta = 0.1
    """Seconds to wait after the first failed attempt."""
    wait_max: float | timedelta = 30.0
    """Seconds that a wait never exceeds."""
    jitter: float = 0.5
    """Share of each wait that is drawn by chance: 0 none, 1 all of it."""
    on: type[BaseException] | tuple[type[BaseException], ...] = Exception
    """The exceptions that are tried again; any other ends the run at once, or in a list of
    policies is for the next of them."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, where it is written."""
        if type(self.attempts) is not int or self.attempts < 1:
            raise ValueError(f"Retry(attempts={self.attempts!r}): expected a whole number from 1")
        for name in ("wait_first", "wait_max"):
            if not 0 <= seconds_of(getattr(self, name)) < 1e9:
                raise ValueError(
                    f"Retry({name}={getattr(self, name)!r}): expected 0 to 1e9 seconds"
                )
        if seconds_of(self.wait_first) > seconds_of(self.wait_max):
            raise ValueError(
                f"Retry(wait_first={self.wait_first!r}): expected at most wait_max, found "
                f"{self.wait_max!r}; raise wait_max too"
            )
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"Retry(jitter={self.jitter!r}): expected a share from 0 to 1")
        kinds: tuple[object, ...] = self.on if isinstance(self.on, tuple) else (self.on,)
        for kind in kinds:
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise TypeError(f"Retry(on={self.on!r}): expected exception classes")

    def wait_s(self, attempt: int, rng: Random) -> float:
        """Return the seconds to wait after failed attempt number *attempt*, from 1."""
        ceiling_s = min(
            seconds_of(self.wait_max),
            seconds_of(self.wait_first) * 2 ** min(attempt - 1, DOUBLINGS_MAX),
        )
        wait_s: float = ceiling_s * (1 - self.jitter * rng.random())
        return wait_s


def seconds_of(value: float | timedelta) -> float:
    """Return *value* in seconds."""
    return value.total_seconds() if isinstance(value, timedelta) else value


def check_policy(place: str, policy: object) -> None:
    """Refuse what is no retry policy, and no list of such.

    Raises:
        TypeError: *policy* is neither a `Retry` nor a tenacity policy; names *place*.
    """
    if isinstance(policy, (list, tuple)) and policy:
        for part in policy:
            check_policy(place, part)
        return
    if isinstance(policy, Retry) or all(
        hasattr(policy, part) for part in ("stop", "wait", "retry")
    ):
        return
    raise TypeError(
        f"{place}: retry={policy!r}: expected Retry(...) or a tenacity policy such as "
        f"tenacity.Retrying(stop=..., wait=...), or a list of such"
    )


def retry_after_ns(
    policy: Any,
    error: BaseException,
    *,
    attempt: int,
    first_at_ns: int,
    now_ns: int,
    seed: str,
) -> int | None:
    """Return how long to wait before the next attempt, or ``None`` to give up.

    *policy* is a `Retry` or a tenacity policy, or several, of which the first decides that
    takes this error: each counts all attempts of the run.  *attempt* is the number of the
    one that has ended with *error*; *first_at_ns* and *now_ns* are log times; *seed* names
    the run.

    Raises:
        Exception: whatever a user's own policy raises.
    """
    for part in policy if isinstance(policy, (list, tuple)) else (policy,):
        retrying = _as_tenacity(part, seed) if isinstance(part, Retry) else part
        state = _state_of(retrying, error, attempt, first_at_ns / NS, now_ns / NS)
        if retrying.retry(state):
            wait_s = float(retrying.wait(state)) if retrying.wait else 0.0
            # As tenacity itself does: stop conditions may look at the wait that is about to come.
            state.upcoming_sleep = wait_s
            return None if retrying.stop(state) else max(0, round(wait_s * NS))
    return None


def _state_of(
    retrying: Any, error: BaseException, attempt: int, first_at_s: float, now_s: float
) -> Any:
    import tenacity

    state = tenacity.RetryCallState(retrying, None, (), {})
    state.attempt_number = attempt
    state.start_time = first_at_s
    outcome = tenacity.Future(attempt)
    outcome.set_exception(error)
    state.outcome = outcome
    state.outcome_timestamp = now_s
    return state


def _as_tenacity(policy: Retry, seed: str) -> Any:
    from random import Random

    import tenacity

    def wait(state: tenacity.RetryCallState) -> float:
        attempt = state.attempt_number
        wait_s = policy.wait_s(attempt, Random(f"{seed}/{attempt}"))  # noqa: S311 (no secret)
        error = None if state.outcome is None else state.outcome.exception()
        asked_s = getattr(error, "retry_after_s", None)
        if not isinstance(asked_s, (int, float)):
            return wait_s
        return min(max(wait_s, asked_s), seconds_of(policy.wait_max))

    return tenacity.Retrying(
        stop=tenacity.stop_after_attempt(policy.attempts),
        wait=wait,
        retry=_only_for(policy.on),  # type: ignore[arg-type]  # mypy: classes are hashable
    )


@lru_cache(maxsize=64)
def _only_for(kinds: type[BaseException] | tuple[type[BaseException], ...]) -> Any:
    """Return what says yes to errors of these *kinds*; kept, since each is a reference cycle."""
    import tenacity

    return tenacity.retry_if_exception_type(kinds)
