"""Launching independent runs, with a key or without, and waiting for what they come to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any, Concatenate, Final, Generic, ParamSpec, TypeVar, overload

import msgspec
from msgspec import Raw, Struct

from headrace.engine.backend import Event
from headrace.engine.clock import seconds_to_ns
from headrace.engine.commit import Pipeline
from headrace.engine.errors import RunNotFound, TaskCancelled, TaskFailed, TypeChanged
from headrace.engine.payload import check_text
from headrace.engine.record import RunLaunched
from headrace.engine.retry import seconds_of
from headrace.engine.runs import Ending
from headrace.engine.task import TaskSpec

P = ParamSpec("P")
RunT = TypeVar("RunT")

KEY_CHARS_MAX: Final = 500
WINDOW_S_MAX: Final = 1e9

RECENT_MAX: Final = 256
"""Results of launches without a key that are kept, in this process, for who asks later."""

LaunchCall = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Awaitable[int]]


class Launcher(Generic[RunT]):
    """Launches under one key: from `Engine.keyed` or `Run.keyed`."""

    def __init__(self, launch: LaunchCall) -> None:
        """Made by the engine, not by users."""
        self._launch = launch

    @overload
    async def launch(
        self, task: Callable[Concatenate[RunT, P], Any], *args: P.args, **kwargs: P.kwargs
    ) -> int: ...
    @overload
    async def launch(self, task: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> int: ...
    async def launch(self, task: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
        """Start an independent run of *task*, unless one holds the key; return the id of either.

        That a run is there already is so whatever its arguments are.  What is returned is
        durable.

        Raises:
            TypeError, EventRefused: the call does not fit, or cannot be stored; nothing was.
            LogFull, DurabilityLost, EngineClosed: as `Engine.emit`.
        """
        return await self._launch(task, args, kwargs)


def checked_key(key: str, window: float | timedelta | None) -> tuple[str, int]:
    """Return a key and its window in nanoseconds.

    Raises:
        TypeError, ValueError, EventRefused: one of them is none.
    """
    if not isinstance(key, str):
        raise TypeError(f"keyed({key!r}): expected a text as the key")
    if not 0 < len(key) <= KEY_CHARS_MAX:
        raise ValueError(f"keyed({key[:40]!r}): expected 1 to {KEY_CHARS_MAX} characters")
    check_text(key, "the key of a launch")
    window_s = 0.0 if window is None else seconds_of(window)
    if not 0 <= window_s <= WINDOW_S_MAX:
        raise ValueError(f"keyed(window={window!r}): expected 0 to {WINDOW_S_MAX:g} seconds")
    return key, seconds_to_ns(window_s)


async def launch_outside(
    results: Results,
    turn: Callable[[], Awaitable[int]],
    spec: TaskSpec,
    raw: Raw,
    *,
    key: str | None,
    window_ns: int,
    headers: dict[str, str] | None = None,
) -> int:
    """Store a launch that comes from outside; return the run's id once that is durable.

    *turn* waits until something may be stored, and returns the time of its record.
    """
    pipeline = results.pipeline
    at_ns = await turn()
    if key is not None:
        held = pipeline.kernel.state.launches.find(spec.name, key, at_ns)
        if held is not None:
            await pipeline.committed(held.run)
            return held.run
    record = RunLaunched(at_ns, spec.name, raw, key, window_ns, headers=headers)
    sequence = pipeline.put(record)
    results.watch(sequence)
    await pipeline.committed(sequence)
    return sequence


class _Waited(Struct):
    """A run whose end somebody waits for."""

    done: Event
    ending: Ending | None = None
    sequence: int = 0
    """Of the record that ended it."""


class Results:
    """Hands the ends of runs to those who wait for them: of one life of the kernel."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        pipeline.kernel.state.runs.tell_end = self._note
        self._waited: dict[int, _Waited] = {}
        self._recent: dict[int, _Waited] = {}
        """The last that ended: who launches one may ask for it only after that."""

    async def ending(self, run_id: int) -> Ending:
        """Return what came of a run, once that is durable; see `Engine.result`."""
        pipeline = self.pipeline
        state = pipeline.kernel.state
        if run_id not in self._waited and run_id not in state.runs.active:
            recent = self._recent.get(run_id)
            if recent is not None and recent.ending is not None:
                return recent.ending
            # The kernel is ahead of the log: what it knows may not be durable yet.
            await pipeline.committed(pipeline.kernel.sequence)
        waited = self._waited.get(run_id)
        if waited is None and run_id not in state.runs.active:
            return self._kept(run_id)
        if pipeline.failure is not None:
            raise pipeline.failure
        if waited is None:
            waited = self._waited[run_id] = _Waited(pipeline.backend.event())
            self.watch(run_id)
        await waited.done.wait()
        if waited.ending is not None and pipeline.committed_sequence >= waited.sequence:
            return waited.ending
        assert pipeline.failure is not None, "only a failure wakes who waits before the end"
        raise pipeline.failure

    def watch(self, run_id: int) -> None:
        """Keep what will come of an open run, for who may ask afterwards."""
        waited = self._waited.get(run_id)
        if waited is not None and waited.ending is not None:
            del self._waited[run_id]  # it is redriven; who waited for its end before is told that
        self.pipeline.kernel.state.runs.watched.add(run_id)

    def _note(self, run_id: int, ending: Ending) -> None:
        if ending.result is not None:
            ending = msgspec.structs.replace(ending, result=ending.result.copy())
        waited = self._waited.get(run_id)
        if waited is None:
            waited = self._waited[run_id] = _Waited(self.pipeline.backend.event())
        waited.ending = ending
        waited.sequence = self.pipeline.kernel.sequence
        self.pipeline.after(waited.sequence, partial(self._tell, run_id, waited))

    def _tell(self, run_id: int, waited: _Waited) -> None:
        if self._waited.get(run_id) is waited:  # else it is redriven, and watched again
            del self._waited[run_id]
        waited.done.set()
        self._remember(run_id, waited)

    def _remember(self, run_id: int, waited: _Waited) -> None:
        assert waited.ending is not None
        if waited.ending.status == "dead":
            return  # it may be redriven, and is kept elsewhere
        self._recent[run_id] = waited
        if len(self._recent) > RECENT_MAX:
            del self._recent[next(iter(self._recent))]

    def _kept(self, run_id: int) -> Ending:
        state = self.pipeline.kernel.state
        kept = state.launches.ended(run_id, self.pipeline.now_ns())
        if kept is not None:
            result = None if kept.result is None else Raw(kept.result)
            return Ending(kept.task, kept.status, result, kept.error, kept.blob)
        dead = state.dead.find(run_id)
        if dead is not None:
            return Ending(dead.task, "dead", error=dead.error)
        raise RunNotFound(
            f"run {run_id} is not open, and its result is not kept: that is so for runs that "
            f"were launched under a key, for the window of it"
        )

    def forget_removed(self, run_id: int) -> bool:
        """Forget a run if retention has removed the record of its end; say whether it has.

        A large result, in a file of its own, goes with that.
        """
        waited = self._recent.get(run_id)
        if waited is None or self.pipeline.log.fetch([waited.sequence]):
            return False
        del self._recent[run_id]
        return True

    def adopt(self, before: Results) -> None:
        """Keep what the life of the kernel before has kept, and would have, for who asks later."""
        self._recent = dict(before._recent)
        active = self.pipeline.kernel.state.runs.active
        watched = before.pipeline.kernel.state.runs.watched
        for run_id in [*before._waited, *watched]:
            if run_id in active:
                self.watch(run_id)

    def wake(self) -> None:
        """Let all who wait see that nothing more comes."""
        committed = self.pipeline.committed_sequence
        for run_id, waited in list(self._waited.items()):
            waited.done.set()
            if waited.ending is not None and waited.sequence <= committed:
                del self._waited[run_id]  # the log failed before that was told
                self._remember(run_id, waited)


def result_of(run_id: int, ending: Ending, spec: TaskSpec | None) -> Any:
    """Return the result of a run that has ended, as its type says if the task is declared.

    Raises:
        TaskFailed, TaskCancelled: it has none.
        TypeChanged: it does not fit the type any more.
    """
    if ending.status == "completed":
        assert ending.result is not None
        if spec is None:
            return msgspec.msgpack.decode(ending.result)
        try:
            return spec.decode_result(ending.result)
        except msgspec.ValidationError as error:
            raise TypeChanged(
                f"run {run_id}: expected the stored result of {ending.task!r} as its annotation "
                f"says now, found {error}; ask with the code that it was launched with"
            ) from error
    kind = TaskCancelled if ending.status == "cancelled" else TaskFailed
    raise kind(ending.task, run_id, ending.error or "unknown")
