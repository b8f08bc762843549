"""`Retries`: whether failed attempts would have been followed by others, as tasks say it today.

Of an error the log has the name of its type and its message.  Where the type is not found in
the task's own module, nothing is said: then what is recorded holds.  So it does for time-outs,
deadlines, rates and circuits, which go by more than the log tells.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final

from msgspec import Struct

from headrace.engine import errors
from headrace.engine.record import AttemptFailed, RunFailed, RunFailing
from headrace.engine.retry import Retry, retry_after_ns
from headrace.engine.run_state import RunState
from headrace.engine.task import TaskSpec
from headrace.engine.versions import spec_for

FINAL: Final = ("BlobUnusable", "Diverged", "EventRefused", "ProcessDied", "TypeChanged")
"""Errors after which no policy is asked."""
BY_DEADLINE: Final = "(not tried again: the deadline"
_OURS: Final = {"StepFailed": errors.StepFailed, "StepCancelled": errors.StepCancelled}
_BROKEN: Final = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What a policy of a user's may raise over an error that is only a name and a message."""


class Retrial(Struct, frozen=True):
    """What would be another about a failed attempt."""

    why: str
    is_over: bool = False
    """Whether its run would be given up here."""
    is_tried: bool = False
    """Whether another attempt would follow, of which nothing is recorded."""


class Retries:
    """The retry policies of an app's tasks."""

    def __init__(self, specs: Mapping[str, TaskSpec], log_id: bytes | None) -> None:
        """*specs* by name, and by name and version; *log_id* tells the waits of a run."""
        self._specs = specs
        self._log_id = log_id

    def unlike(self, run: RunState, record: Any, runs: Mapping[int, RunState]) -> Retrial | None:
        """Return what would be another about *record*, the next of *run*; ``None``: nothing.

        *runs* are those that are open.
        """
        if (
            not isinstance(record, (AttemptFailed, RunFailed, RunFailing))
            or run.failing is not None
        ):
            return None
        if isinstance(record, RunFailing) and record.is_cancelled:
            return None
        spec = spec_for(self._specs, run)
        error = None if spec is None else _error_of(record.error, spec)
        if spec is None or error is None:
            return None
        is_known, wait_ns = self._asked(spec, error, run, record, runs)
        if not is_known:
            return None
        attempt = record.attempt
        if not isinstance(record, AttemptFailed):
            why = f"attempt {attempt + 1} would follow"
            return None if wait_ns is None else Retrial(why, is_tried=True)
        if wait_ns is None:
            return Retrial(f"it would be given up after attempt {attempt}", is_over=True)
        after_ns = record.retry_at_ns - record.at_ns
        if wait_ns == after_ns or self._log_id is None or not _is_ours(spec.retry):
            return None
        return Retrial(
            f"attempt {attempt + 1} would begin {wait_ns / 1e9:g} s after the failure, not "
            f"{after_ns / 1e9:g} s"
        )

    def _asked(
        self,
        spec: TaskSpec,
        error: BaseException,
        run: RunState,
        record: AttemptFailed | RunFailed | RunFailing,
        runs: Mapping[int, RunState],
    ) -> tuple[bool, int | None]:
        """Ask the policy; return whether it could say anything, and how long to wait."""
        if spec.retry is None:
            return True, None
        began_ns = run.redriven_at_ns or run.created_at_ns
        try:
            wait_ns = retry_after_ns(
                spec.retry,
                error,
                attempt=record.attempt - run.redriven_attempt,
                first_at_ns=began_ns,
                now_ns=record.at_ns,
                seed=self._seed(run, runs),
            )
        except _BROKEN:
            return False, None
        deadline_ns = None if spec.limits is None else spec.limits.deadline_ns
        if wait_ns is None or deadline_ns is None:
            return True, wait_ns
        is_late = record.at_ns + wait_ns >= began_ns + deadline_ns
        return True, None if is_late else wait_ns

    def _seed(self, run: RunState, runs: Mapping[int, RunState]) -> str:
        """Return the idempotency key of *run*, as `Steps` makes it."""
        way = ""
        while run.parent:
            parent = runs[run.parent]
            run, way = parent, f"/{parent.attempt}.{run.ordinal}{way}"
        return f"{(self._log_id or b'').hex()}/{run.id}{way}"


def _is_ours(policy: Any) -> bool:
    """Say whether a policy always waits as long: one of tenacity's may throw dice."""
    parts = policy if isinstance(policy, (list, tuple)) else (policy,)
    return all(isinstance(part, Retry) for part in parts)


def _error_of(text: str, spec: TaskSpec) -> BaseException | None:
    """Return an error like the one that *text* tells of; ``None``: its type is not found."""
    name, _, message = text.partition(": ")
    if name in FINAL or BY_DEADLINE in text:
        return None
    names = getattr(spec.function, "__globals__", {})
    found = names.get(name) or _OURS.get(name) or getattr(builtins, name, None)
    if found is None:
        modules = (value for value in names.values() if isinstance(value, ModuleType))
        found = next((kind for module in modules if (kind := vars(module).get(name))), None)
    if not (isinstance(found, type) and issubclass(found, BaseException)):
        return None
    made = found.__new__(found)  # its own __init__ may want more than a message
    made.args = (message,)
    return made
