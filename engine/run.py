"""`Run` and `Handle`: what a task's code holds of its own run and of its children.

Every call that leaves a trace has an ordinal, counted from 1.  The first time it is
recorded; when the run is invoked again, after a crash or for a retry, the record at that
ordinal answers instead.  So code between the calls runs again, and the calls do not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from headrace.engine.clock import NS, seconds_to_ns
from headrace.engine.errors import ConcurrentSteps, Diverged, StepCancelled, StepFailed
from headrace.engine.executor import Executor, Rules
from headrace.engine.parking import Parking
from headrace.engine.payload import encode_stable
from headrace.engine.record import EventStored, SleepRequested, StepKind, StepRequested
from headrace.engine.retry import seconds_of
from headrace.engine.runs import RunState, Step, digest_of
from headrace.engine.subject import check_emit
from headrace.engine.task import TaskSpec

if TYPE_CHECKING:
    from random import Random

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")


class Run:
    """One attempt of one run, for the code of its task.

    Call its methods from the task's own coroutine only; from another asyncio task they
    raise `ConcurrentSteps`, because the order of calls must be the same again.
    """

    def __init__(self, executor: Executor, state: RunState, *, log_id: bytes) -> None:
        """Made by the engine, not by users."""
        self._executor = executor
        self._pipeline = executor.pipeline
        self._state = state
        self._log_id = log_id
        self._ordinal = 0
        self._host = self._current_task()
        self._now_ns = state.attempt_at_ns
        self._random: Random | None = None
        self._idempotency_key: str | None = None
        self._handles: list[Handle[Any]] = []
        self._shown: dict[int, int] = {}
        """The failed steps that the code knows of, each with the last ordinal by then."""
        self._child_ended: Callable[[], None] | None = None
        self._sleeping: tuple[int, Callable[[], None]] | None = None

    def __repr__(self) -> str:
        """Name the run."""
        return f"<Run {self.id} of {self._state.task}, attempt {self.attempt}>"

    # ------------------------------------------------------------ what it is

    @property
    def id(self) -> int:
        """The run's id: the sequence of the record that made it."""
        return self._state.id

    @property
    def attempt(self) -> int:
        """Which try this is, from 1."""
        return self._state.attempt

    @property
    def key(self) -> Any:
        """The key of the firing that began it, or ``None``."""
        return self._state.key

    @property
    def task(self) -> str:
        """The name of the task, or of the rule whose action this is."""
        return self._state.task

    @property
    def cause(self) -> int:
        """Sequence of the record that directly led to it: an event, or the parent run."""
        state = self._state
        return state.events[-1] if state.events else state.parent or state.id

    @property
    def rules(self) -> Rules:
        """The rules of its engine: ``await run.rules.add(…)``, as `Engine.add_rule`."""
        assert self._executor.rules is not None, "an engine has rules"
        return self._executor.rules

    @property
    def trace(self) -> int:
        """Sequence of the outside event that began it all."""
        return self._state.trace or self._state.id

    @property
    def idempotency_key(self) -> str:
        """A text that is the same for all attempts and after a crash, and for no other run.

        ``log/run``, and for a step the way down to it: ``/attempt.ordinal`` of each parent.
        Not the step's own id: a step begins before its request is durable, and after a
        crash its sequence may be another's.
        """
        if self._idempotency_key is None:
            runs = self._pipeline.kernel.state.runs.active
            state, way = self._state, ""
            while state.parent:
                parent = runs[state.parent]
                state, way = parent, f"/{parent.attempt}.{state.ordinal}{way}"
            self._idempotency_key = f"{self._log_id.hex()}/{state.id}{way}"
        return self._idempotency_key

    @property
    def logger(self) -> Any:
        """A structlog logger that names the run in each line."""
        return self._executor.logger_of(self.id)

    def now(self) -> float:
        """Return the log time of the record that last resumed the run, in seconds."""
        return self._now_ns / NS

    def random(self) -> float:
        """Return the next number from 0 up to 1, the same again in each attempt."""
        if self._random is None:
            from random import Random  # loads hashlib, and few runs need it

            self._random = Random(self.idempotency_key)  # noqa: S311 (no secret)
        return self._random.random()

    # ------------------------------------------------------------ steps

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
        spec = self._executor.spec_of(task)
        step = self._request("call", spec, args, kwargs, self._next_ordinal())
        if step.status == "pending":
            await self._executor.finish(self, step.sequence)
        return self._outcome(step, spec)

    @overload
    def spawn(
        self, task: Callable[Concatenate[Run, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> Handle[R]: ...
    @overload
    def spawn(
        self, task: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> Handle[R]: ...
    @overload
    def spawn(
        self, task: Callable[Concatenate[Run, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> Handle[R]: ...
    @overload
    def spawn(self, task: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Handle[R]: ...
    def spawn(self, task: Callable[..., Any], *args: Any, **kwargs: Any) -> Handle[Any]:
        """Start *task* beside this run and return at once.

        The run does not end before its children.  One that fails and was not awaited makes
        the run fail; when the run fails or is cancelled, its children are cancelled.
        """
        return self._spawn(task, args, kwargs, self._next_ordinal())

    def _spawn(self, task: Callable[..., Any], args: Any, kwargs: Any, ordinal: int) -> Handle[Any]:
        spec = self._executor.spec_of(task)
        step = self._request("spawn", spec, args, kwargs, ordinal)
        handle: Handle[Any] = Handle(self, step, spec)
        self._handles.append(handle)
        if step.status == "pending":
            self._executor.when_ended(step.sequence, handle._ended)
            self._executor.start(step.sequence)
        else:
            handle._ended()
        return handle

    @overload
    async def map(
        self,
        task: Callable[[Run, A], Awaitable[R]],
        items: Iterable[A],
        *,
        max_concurrency: int | None = None,
    ) -> list[R]: ...
    @overload
    async def map(
        self,
        task: Callable[[A], Awaitable[R]],
        items: Iterable[A],
        *,
        max_concurrency: int | None = None,
    ) -> list[R]: ...
    @overload
    async def map(
        self,
        task: Callable[[Run, A], R],
        items: Iterable[A],
        *,
        max_concurrency: int | None = None,
    ) -> list[R]: ...
    @overload
    async def map(
        self, task: Callable[[A], R], items: Iterable[A], *, max_concurrency: int | None = None
    ) -> list[R]: ...
    async def map(
        self,
        task: Callable[..., Any],
        items: Iterable[Any],
        *,
        max_concurrency: int | None = None,
    ) -> list[Any]:
        """Run *task* once for each of *items*; return the results in the order of the items.

        At most *max_concurrency* at a time.  The first that fails, in the order of the
        records, cancels the others and is raised.

        Raises:
            StepFailed: one was given up; the others have ended.
        """
        if max_concurrency is not None and max_concurrency < 1:
            raise ValueError(f"map(max_concurrency={max_concurrency}): expected at least 1")
        todo = deque(items)
        # The ordinals are given out beforehand: which item starts when depends on which
        # ended first, and that may be another one after a crash.
        self._check_host()
        first = self._ordinal + 1
        count = len(todo)
        self._ordinal += count
        limit = max_concurrency or max(1, count)
        handles: list[Handle[Any]] = []
        ended: deque[Handle[Any]] = deque()
        running = 0
        while todo or running:
            # What is on record is asked for at once: it may be what the others end for.
            while todo and (running < limit or first + len(handles) in self._state.steps):
                handle = self._spawn(task, (todo.popleft(),), {}, first + len(handles))
                handles.append(handle)
                running += 1
                handle._notify(ended)
            while ended:
                running -= 1
                if ended.popleft().status != "done":
                    await self._give_up_map(handles)
            if running >= limit or (running and not todo):
                await self._any_ended(ended)
        return [handle._outcome() for handle in handles]

    async def _any_ended(self, ended: deque[Handle[Any]]) -> None:
        while not ended:
            parking = self._parking()
            self._child_ended = parking.wake
            await parking.wait()

    def _note_child_ended(self) -> None:
        if self._child_ended is not None:
            self._child_ended()
            self._child_ended = None

    async def _give_up_map(self, handles: list[Handle[Any]]) -> None:
        """Cancel what still runs and raise what failed first."""
        for handle in handles:
            handle._awaited = True
            if handle.status == "pending":
                self._executor.cancel_child(handle.run_id, "a sibling failed")
        for handle in handles:
            await handle._done()
        failed = [handle for handle in handles if handle.status == "failed"] or [
            handle for handle in handles if handle.status == "cancelled"
        ]
        min(failed, key=lambda handle: (handle._step.at_ns, handle.run_id))._outcome()

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
        await self._pipeline.committed(step.sequence)
        return step.sequence

    async def emit(self, subject: str, data: Any = None) -> int:
        """Store an event that this run caused; return its sequence once it is durable.

        Raises:
            EventRefused, ValueError: as `Engine.emit`; nothing was stored.
        """
        check_emit(subject)
        raw = encode_stable(data, f"event {subject!r}")
        ordinal = self._next_ordinal()
        step = self._recorded(ordinal, "emit", subject, raw)
        if step is None:
            state = self._state
            record = EventStored(
                self._pipeline.tick(),
                subject,
                raw,
                run=state.id,
                ordinal=ordinal,
                trace=self.trace,
                hops=max(1, state.hops),
            )
            self._pipeline.put(record)
            step = state.steps[ordinal]
        self._now_ns = max(self._now_ns, step.at_ns)
        await self._pipeline.committed(step.sequence)
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
        while step.status == "pending":
            parking = self._parking()
            self._sleeping = (ordinal, parking.wake)
            await parking.wait()
        self._now_ns = max(self._now_ns, step.at_ns)

    def wake(self, ordinal: int) -> None:
        """Let the sleep at *ordinal* look again.  For the executor."""
        if self._sleeping is not None and self._sleeping[0] == ordinal:
            self._sleeping[1]()

    # ------------------------------------------------------------ inside

    def _current_task(self) -> Any:
        try:
            return self._pipeline.backend.current_task()
        except RuntimeError:  # in a worker thread
            return None

    def _check_host(self) -> None:
        if self._current_task() is not self._host:
            raise ConcurrentSteps(
                f"{self!r}: a step was asked for outside of the run's own coroutine, so its "
                f"place could not be found again; use run.spawn, run.map, or pass data instead"
            )

    def _next_ordinal(self) -> int:
        self._check_host()
        self._ordinal += 1
        return self._ordinal

    def _recorded(self, ordinal: int, kind: str, name: str, raw: Any) -> Step | None:
        """Return what the log holds at *ordinal*, if that is what is asked for now."""
        step = self._state.steps.get(ordinal)
        if step is None:
            return None
        if (step.kind, step.name) != (kind, name):
            raise Diverged(
                self.id,
                ordinal,
                recorded=f"{step.kind} {step.name}".strip(),
                asked=f"{kind} {name}".strip(),
            )
        if raw is not None and step.digest != digest_of(raw):
            what = "data" if kind == "emit" else "arguments"
            raise Diverged(
                self.id,
                ordinal,
                recorded=f"{kind} {name} with {what} of digest {step.digest.hex()}",
                asked=f"the same with {what} of digest {digest_of(raw).hex()}",
            )
        return step

    def _request(
        self, kind: StepKind, spec: TaskSpec, args: Any, kwargs: Any, ordinal: int
    ) -> Step:
        raw = spec.encode_args(args, kwargs)
        step = self._recorded(ordinal, kind, spec.name, raw)
        if step is None:
            at_ns = self._pipeline.tick()
            record = StepRequested(at_ns, self.id, ordinal, kind, spec.name, raw)
            self._pipeline.put(record)
            step = self._state.steps[ordinal]
        return step

    def _outcome(self, step: Step, spec: TaskSpec) -> Any:
        self._now_ns = max(self._now_ns, step.at_ns)
        if step.status == "done":
            assert step.result is not None
            return spec.decode_result(step.result)
        self._shown[step.sequence] = self._ordinal
        kind = StepCancelled if step.status == "cancelled" else StepFailed
        raise kind(step.name, step.sequence, step.error or "unknown")

    def _parking(self) -> Parking:
        return Parking(partial(self._executor.park, self))

    async def _join(self) -> None:
        """Wait for the children that nobody awaited; raise what the first of them raised."""
        for handle in self._handles:
            if not handle._awaited:
                await handle.result()


class Handle(Generic[R]):
    """A child that was spawned: ``await handle`` gives its result."""

    def __init__(self, parent: Run, step: Step, spec: TaskSpec) -> None:
        """Made by `Run.spawn`."""
        self._parent = parent
        self._step = step
        self._spec = spec
        self._is_done = False
        self._wakes: list[Callable[[], None]] = []
        self._awaited = False
        self._queue: deque[Handle[Any]] | None = None

    @property
    def run_id(self) -> int:
        """The id of the child run."""
        return self._step.sequence

    @property
    def status(self) -> str:
        """``pending``, ``done``, ``failed`` or ``cancelled``."""
        return self._step.status if self._is_done else "pending"

    async def result(self) -> R:
        """Return the child's result, which is durable by then.

        Raises:
            StepFailed, StepCancelled: it ended without success.
        """
        self._awaited = True
        await self._done()
        return self._outcome()

    def __await__(self) -> Generator[Any, Any, R]:
        """See `result`."""
        return self.result().__await__()

    def cancel(self, reason: str = "cancelled by its parent") -> None:
        """Ask the child to end; awaiting it then raises `StepCancelled`."""
        if not self._is_done:
            self._parent._executor.cancel_child(self.run_id, reason)

    async def _done(self) -> None:
        if not self._is_done:
            parking = self._parent._parking()
            self._wakes.append(parking.wake)
            await parking.wait()

    def _outcome(self) -> R:
        self._awaited = True
        result: R = self._parent._outcome(self._step, self._spec)
        return result

    def _notify(self, queue: deque[Handle[Any]]) -> None:
        self._queue = queue
        if self._is_done:
            queue.append(self)

    def _ended(self) -> None:
        self._is_done = True
        for wake in self._wakes:
            wake()
        if self._queue is not None:
            self._queue.append(self)
        self._parent._note_child_ended()
