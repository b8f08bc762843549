"""`Run`: what a task's code holds of its own run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar, overload

from anyio import get_cancelled_exc_class

from headrace.engine.clock import seconds_to_ns
from headrace.engine.completions import Completions
from headrace.engine.errors import EventRefused
from headrace.engine.headers import checked_headers
from headrace.engine.launching import Launcher, checked_key
from headrace.engine.payload import encode_stable
from headrace.engine.record import EventStored, PatchMarked, RunLaunched, SleepRequested
from headrace.engine.retry import seconds_of
from headrace.engine.run_waits import RunWaits
from headrace.engine.subject import check_emit

P = ParamSpec("P")
R = TypeVar("R")


class Run(Completions, RunWaits):
    """One attempt of one run, for the code of its task.

    Call its methods from the task's own coroutine only; from another asyncio task they
    raise `ConcurrentSteps`, because the order of calls must be the same again.
    """

    @overload
    async def call(
        self, task: Callable[Concatenate[Run, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    async def call(
        self, task: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    async def call(
        self, task: Callable[Concatenate[Run, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    async def call(self, task: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def call(self, task: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run *task* as a step and return its result, which is durable by then.

        Raises:
            StepFailed: it was given up after its last attempt.
            StepCancelled: it was cancelled.
            Diverged: the log holds another call at this place.
        """
        executor = self._executor
        spec = executor.spec_of(task)
        ordinal = self._next_ordinal()
        raw = self._encoded(spec, args, kwargs, ordinal)
        step = self._recorded(ordinal, "call", spec.name, raw)
        if step is None and not executor.may_begin(self, spec):
            step = self._put_request("call", spec, raw, ordinal)
        if step is None or step.status == "pending":
            self._is_barred = True
            try:
                if step is None:
                    await executor.begin_step(self, spec, raw, ordinal)
                    step = self._state.steps[ordinal]
                else:
                    await executor.finish(self, step.sequence)
            except get_cancelled_exc_class():
                self._leave()
                raise
            finally:
                self._is_barred = self._left is not None
        return self._outcome(step, spec)

    @overload
    async def launch(
        self, task: Callable[Concatenate[Run, P], Any], *args: P.args, **kwargs: P.kwargs
    ) -> int: ...
    @overload
    async def launch(self, task: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> int: ...
    async def launch(self, task: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
        """Start an independent run of *task*, which outlives this one; return its id.

        The request is durable when this returns.
        """
        spec = self._executor.spec_of(task)
        step = self._request("launch", spec, args, kwargs, self._next_ordinal())
        await self._committed(step.sequence)
        return step.sequence

    def keyed(self, key: str, *, window: float | timedelta | None = None) -> Launcher[Run]:
        """Return what launches under a *key*: ``await run.keyed("order-17").launch(bill, 17)``.

        As `Engine.keyed`: at most one run of the task holds the key, while it is open and
        for *window* seconds after its end.
        """
        return Launcher(partial(self._launch_keyed, *checked_key(key, window)))

    async def _launch_keyed(
        self,
        key: str,
        window_ns: int,
        task: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> int:
        spec = self._executor.spec_of(task)
        raw = self._encoded(spec, args, kwargs, self._ordinal + 1)
        ordinal = self._next_ordinal()
        step = self._recorded(ordinal, "launch", spec.name, raw, key)
        sequence = 0
        if step is None:
            at_ns, observer = self._pipeline.tick(), self._executor.observer
            headers = None if observer is None else observer.headers()
            record = RunLaunched(at_ns, spec.name, raw, key, window_ns, self.id, ordinal, headers)
            sequence = self._pipeline.put(record)
            step = self._state.steps[ordinal]
        await self._committed(max(sequence, step.sequence))
        return step.sequence

    async def emit(
        self, subject: str, data: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> int:
        """Store an event that this run caused; return its sequence once it is durable.

        *headers* are those of `Engine.emit`.  A resumed run is not compared by them.

        Raises:
            EventRefused, ValueError: as `Engine.emit`; nothing was stored.
        """
        check_emit(subject)
        try:
            raw = encode_stable(data, f"event {subject!r}")
            own = None if headers is None else checked_headers(headers, subject, raw)
        except EventRefused as refused:
            raise EventRefused(f"run {self.id}, call {self._ordinal + 1}: {refused}") from refused
        ordinal = self._next_ordinal()
        step = self._recorded(ordinal, "emit", subject, raw)
        if step is None:
            state, observer = self._state, self._executor.observer
            if observer is not None:
                own = observer.headers(own)
            record = EventStored(
                self._pipeline.tick(),
                subject,
                raw,
                run=state.id,
                ordinal=ordinal,
                trace=self.trace,
                hops=max(1, state.hops),
                headers=own,
            )
            self._pipeline.put(record)
            step = state.steps[ordinal]
        self._now_ns = max(self._now_ns, step.at_ns)
        await self._committed(step.sequence)
        return step.sequence

    async def sleep(self, seconds: float | timedelta) -> None:
        """Wait for *seconds* of log time; a crash neither restarts nor forgets the wait."""
        duration_s = seconds_of(seconds)
        if not 0 <= duration_s < 1e9:
            raise ValueError(f"sleep({seconds!r}): expected 0 to 1e9 seconds")
        ordinal = self._next_ordinal()
        step = self._recorded(ordinal, "sleep", "", None)
        if step is None:
            at_ns = self._pipeline.tick()
            due_ns = at_ns + seconds_to_ns(duration_s)
            self._pipeline.put(SleepRequested(at_ns, self.id, ordinal, due_ns))
            step = self._state.steps[ordinal]
        await self._woken(step, ordinal)
        self._now_ns = max(self._now_ns, step.at_ns)

    def patched(self, name: str) -> bool:
        """Say whether this run takes the way of a patch of its code.

        True for a run that reaches this place for the first time with the patched code,
        False for one that had passed it before: ``if run.patched("tax"): … else: …`` lets
        that go on as it began.  The answer is recorded, and stays for all attempts.
        """
        self._check_host()
        known = self._state.patches.get(name)
        if known is None:
            known = all(ordinal <= self._ordinal for ordinal in self._state.steps)
            self._pipeline.put(PatchMarked(self._pipeline.tick(), self.id, name, known))
        return known

    @overload
    async def compensate(
        self, task: Callable[Concatenate[Run, P], Any], *args: P.args, **kwargs: P.kwargs
    ) -> None: ...
    @overload
    async def compensate(
        self, task: Callable[P, Any], *args: P.args, **kwargs: P.kwargs
    ) -> None: ...
    async def compensate(self, task: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Let *task* undo what was done, should this run fail for good or be cancelled.

        What is registered is executed newest first, each as a step with its own retries,
        before the end of the run is recorded.  One that is given up does not stop the others,
        and is named in the run's error.  Neither a crash nor a cancellation interrupts it.
        The registration is durable when this returns.
        """
        spec = self._executor.spec_of(task)
        step = self._request("compensate", spec, args, kwargs, self._next_ordinal())
        await self._committed(step.sequence)

    def wake(self, ordinal: int) -> None:
        """Let the call at *ordinal* that waits look again.  For the executor."""
        if self._sleeping is not None and self._sleeping[0] == ordinal:
            self._sleeping[1]()
