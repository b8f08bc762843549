"""`Attempt`: one try of one run, from its arguments to an outcome.

The only place where users' task code is called, and so the only one that catches whatever
it raises: an exception becomes an outcome, and the outcome a record.
"""

from __future__ import annotations

import asyncio
import math
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, Protocol

from anyio import CancelScope, get_cancelled_exc_class
from msgspec import Raw, Struct, ValidationError

from headrace.engine import stopwatch
from headrace.engine.backend import is_cancelled_here, is_running
from headrace.engine.clock import NS
from headrace.engine.errors import (
    BlobUnusable,
    Diverged,
    EventRefused,
    ProcessDied,
    StepFailed,
    StepLeft,
    TypeChanged,
)
from headrace.engine.event import Firing
from headrace.engine.record import AttemptFailed, RunFailed, text_for_record
from headrace.engine.retry import retry_after_ns
from headrace.engine.run import Run
from headrace.engine.run_state import RunState
from headrace.engine.stopwatch import Stopwatch, Watched
from headrace.engine.task import TaskSpec

TRACEBACK_CHARS_MAX: Final = 8000
ERROR_CHARS_MAX: Final = 1000

_OWN_FILES: Final = (__file__, stopwatch.__file__)
"""Whose lines say nothing about a task's failure."""

_FINAL: Final = (BlobUnusable, Diverged, EventRefused, ProcessDied, TypeChanged)
"""What another attempt would not change."""

StopReason = Literal["cancel", "timeout", "heartbeat", "deadline", "killed", "left", "shutdown"]


class Outcome(Struct, frozen=True):
    """What came of an attempt: exactly one of a result, a failure or a stop."""

    result: Raw | None = None
    failure: BaseException | None = None
    stopped: StopReason | None = None

    @property
    def succeeded(self) -> bool | None:
        """Whether it went well; ``None``: it was stopped, which says nothing."""
        return None if self.stopped is not None else self.failure is None


class ThreadCaller(Protocol):
    """Executes the code of attempts in threads: `headrace.engine.threads.Threads`."""

    def call(self, attempt: Attempt, function: Callable[[], Any]) -> Awaitable[Any]:
        """Return what waits for the result of *function*."""
        ...


class Attempt:
    """One try of a run.  `stop` may be called at any time; `carry_out` once.

    What most of them never set is said here, once for all.
    """

    stopped: StopReason | None = None
    reason: str = ""
    """Why it was cancelled, for the record."""
    waits: int = 0
    """How many of its waits are for children or timers."""
    is_parked: bool = False
    """Whether the runner counts it as waiting: not from the moment it is stopped."""
    enter: Callable[[], Awaitable[None]] | None = None
    """What comes before its code begins; raises what it fails of at once instead."""
    on_begin: Callable[[Attempt], None] | None = None
    """Called when the code begins: not while it waits for a thread or a process."""
    begun: Watched | None = None
    """Its code, if the first step of that was executed before the attempt was there."""
    thrown: BaseException | None = None
    """What its code raised in a thread, where nothing but that can have come from the code."""
    thread_left: bool = False
    """Its thread did not end within the grace period and was disowned."""

    has_begun: bool = False
    """Whether its code was called, or what comes before it: not if it was stopped before."""
    is_executing: bool = False
    """Whether its code executes, so that `stop` cancels it."""
    result: Raw | None = None
    failure: BaseException | None = None
    """What its code raised, but for its cancellation."""

    def __init__(
        self, run: Run, state: RunState, spec: TaskSpec, scope: CancelScope, depth: int = 0
    ) -> None:
        self.run = run
        self.state = state
        self.spec = spec
        self.scope = scope
        """What its code is executed in; perhaps, one after the other, that of others too."""
        self.depth = depth
        """How many callers are on the stack of the same worker."""

    def stop(self, kind: StopReason, reason: str) -> None:
        """Cancel the code, wherever it is; the first reason counts."""
        if self.stopped is None:
            self.stopped = kind
            self.reason = reason
        if self.is_executing:
            self.scope.cancel()

    def begin(self) -> None:
        """Note that the code begins."""
        if self.on_begin is not None:
            self.on_begin(self)

    async def execute(
        self,
        load_firing: Callable[[RunState], Firing[Any]],
        threads: ThreadCaller,
    ) -> None:
        """Call the task, within `scope`; `outcome` says what came of it, once that is left.

        A cancellation goes through: its own, the parent's, or the host's.  One that the code has
        asked for itself, of the task that executes it, is its failure.
        """
        if self.stopped is not None or self.state.failing is not None:
            self.run.is_over = True
            return
        self.has_begun = self.is_executing = True
        try:
            if self.enter is not None:
                await self.enter()
            value = await self._called(load_firing, threads)
            if self.run._handles is not None:
                await self.run._join()
            self.result = self.spec.encode_result(value)
        except asyncio.CancelledError as error:
            is_from_outside = error is not self.thrown and is_cancelled_here()
            if is_from_outside and not await self.run._executor.take_back():
                raise
            self.failure = error
        except BaseException as error:  # noqa: BLE001 (the run boundary)
            self.failure = error
            ending = None if error is self.thrown else _ending_in(error, self.run._host)
            if ending is not None:
                raise ending from None
        finally:
            self.run.is_over = True
            self.is_executing = False

    def outcome(self) -> Outcome:
        """Return what came of it; `scope` has been left if it was cancelled."""
        stopped, failure = self.stopped, self.failure
        if stopped is None and self.run._left is None and self.result is not None:
            return Outcome(self.result)
        if not self.has_begun:
            return self._without_code()
        if stopped == "deadline":  # also if its code had its turn first, and ended in it
            return Outcome(failure=TimeoutError(self.reason))
        if self.run._left is not None and stopped in {None, "left"}:
            return Outcome(failure=_failure_in(failure) or StepLeft(self.run._left))
        if self.scope.cancelled_caught or (failure is not None and stopped is not None):
            if stopped == "timeout":
                limit_s = self.spec.timeout_s
                return Outcome(failure=TimeoutError(f"the attempt took over {limit_s:g} s"))
            if stopped == "heartbeat":
                return Outcome(failure=TimeoutError(self.reason))
            return Outcome(stopped=stopped or "shutdown")
        return Outcome(result=self.result, failure=failure)

    def _without_code(self) -> Outcome:
        """Say what an attempt comes to whose code is not to be called: there is more to end."""
        self.run.is_over = True
        if self.stopped == "killed":
            return Outcome(failure=ProcessDied(self.reason))
        if self.stopped == "deadline":
            return Outcome(failure=TimeoutError(self.reason))
        return Outcome(stopped=self.stopped or "cancel")

    def _called(
        self,
        load_firing: Callable[[RunState], Firing[Any]],
        threads: ThreadCaller,
    ) -> Awaitable[Any]:
        """Call the function; return what waits for its result."""
        spec = self.spec
        if self.begun is not None:
            # Not kept: it holds the attempt, so neither would be gone before the collector comes.
            code, self.begun = self.begun, None
            code.tell = self._tell_of_step
            return code
        if spec.process_path is not None:
            return self.run._executor.processes.call(spec, self.state.args, self.begin)
        args: list[Any]
        kwargs: dict[str, Any]
        args, kwargs = ([], {}) if self.state.args is None else self._stored_args(self.state.args)
        if spec.run_name is not None:
            kwargs[spec.run_name] = self.run
        if spec.firing_name is not None:
            kwargs[spec.firing_name] = load_firing(self.state)
        if spec.resources:
            for parameter, resource in spec.resources.items():
                kwargs[parameter] = self.run._executor.resource(resource)
        call = spec.bind(args, kwargs)
        if not spec.is_async:
            return threads.call(self, call)
        self.begin()
        return Watched(self.run._executor.stopwatch, call(), self._tell_of_step)

    def _stored_args(self, raw: Raw) -> tuple[list[Any], dict[str, Any]]:
        try:
            return self.spec.decode_args(raw)
        except ValidationError as error:
            raise TypeChanged(
                f"run {self.state.id}: expected stored arguments that fit {self.spec.name!r} as it "
                f"is declared now, found {error}; let old runs finish with the old code, declared "
                f"beside it with a version"
            ) from error

    def _tell_of_step(self, took_ns: int) -> None:
        tell_of_step(self.run.logger, took_ns)


def untold(_: int) -> None:
    """Tell nobody: there is no attempt yet that would be named."""


def begun(
    spec: TaskSpec,
    state: RunState,
    load_firing: Callable[[RunState], Firing[Any]],
    watch: Stopwatch,
) -> Watched | None:
    """Return the code of a task that knows no run, after its first step.

    ``None``: it could not be called, and its attempt is to fail of that.
    """
    args: list[Any]
    kwargs: dict[str, Any]
    try:
        args, kwargs = ([], {}) if state.args is None else spec.decode_args(state.args)
        if spec.firing_name is not None:
            kwargs[spec.firing_name] = load_firing(state)
        coroutine = spec.function(*args, **kwargs)
    except Exception:  # noqa: BLE001 (the run boundary)
        return None
    code = Watched(watch, coroutine, untold)
    code.begin()
    return code


def tell_of_step(logger: Any, took_ns: int) -> None:
    """Warn of code that kept all else from its turn."""
    logger.warning(
        "loop_blocked",
        ms=took_ns // 1_000_000,
        hint="await something, or let a thread or a process do it: see docs/execution.md",
    )


def _ending_in(error: BaseException, host: object) -> BaseException | None:
    """Return the part of *error* that is not the task's failure: its cancellation, Ctrl-C.

    Code may raise by itself what says that it is cancelled, or that its generator is closed.
    Nobody wants it to end then, and it is a failure like any other.
    """
    if isinstance(error, Exception):
        return None
    if not is_running(host):
        return error  # it is closed from outside
    kinds: tuple[type[BaseException], ...] = (KeyboardInterrupt,)
    cancelled = get_cancelled_exc_class()
    if cancelled is not asyncio.CancelledError or is_cancelled_here():
        kinds += (cancelled,)
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(kinds)
    return error if isinstance(error, kinds) else None


def is_interrupt(error: BaseException) -> bool:
    """Say whether *error* is Ctrl-C, or a task group's with one in it."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(KeyboardInterrupt) is not None
    return isinstance(error, KeyboardInterrupt)


def _failure_in(error: BaseException | None) -> BaseException | None:
    """Return the rest of *error*, if there is any."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(_endings())[1]
    return None if isinstance(error, _endings()) else error


def _endings() -> tuple[type[BaseException], ...]:
    return (KeyboardInterrupt, GeneratorExit, get_cancelled_exc_class())


def error_text(error: BaseException) -> str:
    """Return ``Type: message``, shortened."""
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001 (user code: its __str__)
        text = "(its text cannot be had)"
    name = type(error).__name__
    return text_for_record(f"{name}: {text}" if text else name, ERROR_CHARS_MAX)


def traceback_text(error: BaseException) -> str:
    """Return the traceback from the task's own first line on, shortened."""
    first = error.__traceback__
    while first is not None and first.tb_frame.f_code.co_filename in _OWN_FILES:
        first = first.tb_next
    try:
        lines = traceback.format_exception(type(error), error, first or error.__traceback__)
    except BaseException:  # noqa: BLE001 (user code: what it says of itself)
        lines = [*traceback.format_tb(first), "(the rest of it cannot be had)\n"]
    return text_for_record("".join(lines)[-TRACEBACK_CHARS_MAX:], TRACEBACK_CHARS_MAX)


def failure_record(
    attempt: Attempt, error: BaseException, *, now_ns: int, seed: str
) -> AttemptFailed | RunFailed:
    """Return what to record of a failed attempt: that there will be another, or none."""
    try:
        return _failure_record(attempt, error, now_ns=now_ns, seed=seed)
    except BaseException as broken:  # noqa: BLE001 (user code: properties of the exception)
        stand_in = Untold(f"an exception that cannot be looked at: {error_text(broken)}")
        return _failure_record(attempt, stand_in, now_ns=now_ns, seed=seed)


class Untold(Exception):
    """In place of an exception whose own code raises when it is looked at."""


def _failure_record(
    attempt: Attempt, error: BaseException, *, now_ns: int, seed: str
) -> AttemptFailed | RunFailed:
    """As `failure_record`; the policy is asked here and only here, a replay reads the record."""
    state, spec = attempt.state, attempt.spec
    text, trace = error_text(error), traceback_text(error)
    wait_ns: int | None = None
    is_final = attempt.stopped == "deadline" or isinstance(error, _FINAL)
    if spec.retry is not None and not is_final:
        try:
            wait_ns = retry_after_ns(
                spec.retry,
                error,
                attempt=state.attempt - state.redriven_attempt,
                first_at_ns=state.redriven_at_ns or state.created_at_ns,
                now_ns=now_ns,
                seed=seed,
            )
        except BaseException as broken:  # noqa: BLE001 (user code: a policy of theirs)
            text = f"{text} (and its retry policy raised {error_text(broken)})"[:ERROR_CHARS_MAX]
    limits = spec.limits
    if wait_ns is not None and limits is not None and limits.deadline_ns is not None:
        began_ns = state.redriven_at_ns or state.created_at_ns
        if now_ns + wait_ns >= began_ns + limits.deadline_ns:
            wait_ns = None
            limit_s = limits.deadline_ns / NS
            why = f" (not tried again: the deadline of {limit_s:g} s would come first)"
            text = text[: ERROR_CHARS_MAX - len(why)] + why
    if wait_ns is None and state.parent:
        return RunFailed(now_ns, state.id, state.attempt, text, trace)
    forget = steps_to_forget(state, error, attempt.run._shown)
    if wait_ns is None:
        return RunFailed(now_ns, state.id, state.attempt, text, trace, forget)
    return AttemptFailed(now_ns, state.id, state.attempt, text, trace, now_ns + wait_ns, forget)


def failure_of_late(state: RunState, reason: str, now_ns: int) -> RunFailed:
    """Return what to record of a run whose deadline has come while no attempt of it was on."""
    text = error_text(TimeoutError(reason))
    if state.parent:
        return RunFailed(now_ns, state.id, state.attempt, text, "")
    forget = [ordinal for ordinal, step in state.steps.items() if step.status != "done"]
    return RunFailed(now_ns, state.id, state.attempt, text, "", forget)


def steps_to_forget(state: RunState, error: BaseException, shown: dict[int, int]) -> list[int]:
    """Return the ordinals that the next attempt executes again after *error*.

    The failure that ended the attempt, what it cancelled, and what the code asked for once
    it knew of it (the next attempt may not come that way); not the other successes, and
    not the failures that the code caught and went past.  *shown* has the failed steps that
    the code got to know, by the sequence of the step, each with the last ordinal by then.
    """
    blamed: set[int] = set()
    seen: set[int] = set()
    todo: list[BaseException] = [error]
    while todo:
        part = todo.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, StepFailed):
            blamed.add(part.run_id)
        if isinstance(part, BaseExceptionGroup):
            todo.extend(part.exceptions)
        todo.extend(e for e in (part.__cause__, part.__context__) if e is not None)
    after = min((shown[run_id] for run_id in blamed if run_id in shown), default=math.inf)
    return [
        ordinal
        for ordinal, step in state.steps.items()
        if ordinal > after
        or step.status == "pending"
        or step.sequence in blamed
        or (step.status == "cancelled" and step.sequence not in shown)
    ]
