"""`Engine`: an app running over a log.  Takes events, says what runs, changes rules.

Made by `App.open`; ``async with`` opens and closes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Concatenate, Final, Literal, ParamSpec, TypeVar, overload

from msgspec import Raw
from msgspec.structs import replace

from headrace.engine.alarms import Alarm
from headrace.engine.backend import in_own_thread
from headrace.engine.core import Core
from headrace.engine.declared import Declared
from headrace.engine.emission import Emission, checked_all
from headrace.engine.errors import BlobUnusable, EngineClosed, LogFull, RunNotFound
from headrace.engine.launching import Launcher, checked_key, launch_outside, result_of
from headrace.engine.life import NOT_OPEN, Life
from headrace.engine.payload import check_text
from headrace.engine.projected import View, own_name
from headrace.engine.redriving import is_at_hand, redrive_of, run_from_log
from headrace.engine.run import Run
from headrace.engine.runs import RunView
from headrace.engine.views import StateView, runs_of, state_of
from headrace.engine.waiting import encoded_signal, signal_of

P = ParamSpec("P")
S = TypeVar("S")

REASON_CHARS_MAX: Final = 1000


class Engine(Life):
    """An app at work.

    All methods belong to the event loop that opened it.  When the log fails for good
    (`DurabilityLost`), the body of ``async with`` is cancelled and the error is raised from
    it; nothing that was acknowledged is lost.

    While the disk is full nothing is stored: whoever emits gets `LogFull`, runs are
    interrupted, and `state`, `runs` and `cursor` show what is stored.  Once there is room it
    goes on by itself, as after a restart; see `ready`.
    """

    # ------------------------------------------------------------ events

    async def emit(
        self,
        subject: str,
        data: Any = None,
        *,
        id: str | None = None,
        source: str = "",
        position: int | None = None,
        time: float | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> int:
        """Store an event; return its sequence once it is durable at the engine's level.

        An event whose (*source*, *id*) was stored within the dedupe window is not stored
        again: the first one's sequence is returned, once that is durable.  *position* is
        the source's cursor after this event, also after one that is not stored again; see
        `cursor`.  *headers* go with the event: at most 64 names with values, printable ASCII of
        16 KiB in all.

        Raises:
            ValueError: *subject* is no valid subject, or is reserved.  Nothing was stored.
            EventRefused: *data* or *headers* cannot be stored or are too large.  Nothing was.
            EngineClosed: the engine is stopping.  Nothing was stored.
            LogFull: the disk is full.  Nothing was stored; see `ready`.
            DurabilityLost: it may or may not be stored.
        If cancelled, it may or may not be stored; with an *id*, emitting again is safe.
        """
        event: Emission | tuple[str, Any] = (subject, data)
        if id is not None or source or position is not None or time is not None or key is not None:
            event = Emission(subject, data, id, source, position, time, key, headers=headers)
        elif headers is not None:
            event = Emission(subject, data, headers=headers)
        (sequence,) = await self.emit_many([event])
        return sequence

    async def emit_many(self, events: Iterable[Emission | tuple[str, Any]]) -> list[int]:
        """Store *events* in their order, as one group if they fit; return their sequences.

        All are checked before the first is stored.

        Raises:
            As `emit`, but that before `LogFull` those in `LogFull.stored` were stored.
        """
        todo = checked_all(events)
        self._check_taking()
        if self._settings.observer is not None:
            todo = self._settings.observer.take_in(todo)
        return await self._core.store(todo)

    def _check_taking(self) -> None:
        if self._is_stopping or not self._is_open:
            raise EngineClosed(
                "the engine is stopping and takes no more events" if self._is_stopping else NOT_OPEN
            )

    # ------------------------------------------------------------ runs

    def runs(self, status: str | None = None) -> list[RunView]:
        """Return the open runs, the last 1 000 that ended and all dead letters, newest first.

        *status* picks ``active``, ``waiting``, ``retrying``, ``completed``, ``failed`` (a
        step), ``dead`` (a dead letter) or ``cancelled``.

        Raises:
            EngineClosed: the engine was never open.
            LogClosed: it is closed, and what made some of its runs had not been read by then.
        """
        progress = self.opened().runner.progress()
        return runs_of(self.kernel, status, progress=progress)

    @overload
    async def launch(
        self, task: Callable[Concatenate[Run, P], Any], *args: P.args, **kwargs: P.kwargs
    ) -> int: ...
    @overload
    async def launch(self, task: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> int: ...
    async def launch(self, task: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
        """Start a run of *task*; return its id once that is durable.

        Raises:
            TypeError: it is no task of the app, or the call does not fit.  Nothing was stored.
            EventRefused: the arguments cannot be stored or are too large.  Nothing was.
            LogFull, DurabilityLost, EngineClosed: as `emit`.
        """
        return await self._launch(None, 0, task, args, kwargs)

    def keyed(self, key: str, *, window: float | timedelta | None = None) -> Launcher[Run]:
        """Return what launches under a *key*: ``await engine.keyed("order-17").launch(bill, 17)``.

        At most one run of the task holds the key: while it is open, and for *window* seconds
        after its end.  A second launch returns its id and starts nothing.  For that long
        `result` has what it came to; only the last 10 000 that ended are kept.

        Raises:
            TypeError, ValueError, EventRefused: *key* or *window* is none.
        """
        return Launcher(partial(self._launch, *checked_key(key, window)))

    async def _launch(
        self,
        key: str | None,
        window_ns: int,
        task: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> int:
        self._check_taking()
        core = self._core
        spec = core.runner.spec_of(task)
        raw = spec.encode_args(args, kwargs)
        observer = self._settings.observer
        headers = None if observer is None else observer.headers()
        return await launch_outside(
            core.results, core.turn, spec, raw, key=key, window_ns=window_ns, headers=headers
        )

    async def result(self, run_id: int) -> Any:
        """Return what a run comes to, once it has ended and that is durable.

        For any run that is open; of those that have ended, for runs that were launched under
        a key, within its window, and for the last 256 that this engine has launched or
        redriven, or that somebody waited for (if the result has more than 64 KiB, for as long
        as the log keeps its record).  It is of the type that the task says.

        Raises:
            TaskFailed: it was given up: a dead letter.
            TaskCancelled: it was cancelled.
            RunNotFound: it is not open, and its result is not kept.
            TypeChanged: its result does not fit the type that the task says by now.
            BlobUnusable: its result was too large for a record, and its file is damaged.
            WaitsForItself: the code of the run asks, or that of one of its children.
            EngineClosed, DurabilityLost: the engine ended before the run.
        """
        while True:
            core = self.opened()
            core.runner.check_wait(run_id)
            try:
                ending = await core.results.ending(run_id)
            except LogFull:
                await self.ready()
                continue
            if ending.blob is not None:
                read = partial(self.log.blobs.get, ending.blob)
                try:
                    stored = Raw(await in_own_thread(core.pipeline.backend, read))
                except BlobUnusable:
                    if core.results.forget_removed(run_id):
                        continue
                    raise
                ending = replace(ending, result=stored)
            return result_of(run_id, ending, self._settings.specs.get(ending.task))

    async def redrive(self, run_id: int, *, from_start: bool = False) -> int:
        """Let a dead letter go on with another attempt; return the record's sequence.

        Under its old id, so idempotency keys stay.  Steps that succeeded are not executed
        again, nor those that failed and that the code went past; with *from_start* all are.
        Retries are counted anew.

        Raises:
            RunNotFound: no such run was given up.
            RedriveRefused: it cannot go on, such as for want of its events.
            LogFull, DurabilityLost, EngineClosed: as `emit`.
        """
        self._check_taking()
        core = self._core
        at_ns = await core.turn()
        state = core.kernel.state
        if is_at_hand(state, run_id):
            asked = redrive_of(state, self.log, run_id, from_start=from_start, at_ns=at_ns)
            sequence = core.pipeline.put(asked)
        else:
            sequence = await self._redrive_from_log(core, run_id, from_start=from_start)
        if run_id in state.runs.active:
            core.results.watch(run_id)
        await core.pipeline.committed(sequence)
        return sequence

    async def _redrive_from_log(self, core: Core, run_id: int, *, from_start: bool) -> int:
        pipeline, state, log = core.pipeline, core.kernel.state, self.log
        # One at a time: what is found stays so until the record is put.
        async with self._redriving:
            found = None
            if not is_at_hand(state, run_id):
                await pipeline.committed(core.kernel.sequence)
                look = partial(run_from_log, log, run_id, dict(state.runs.versions))
                found = await in_own_thread(pipeline.backend, look)
            at_ns = pipeline.tick()
            return pipeline.put(
                redrive_of(state, log, run_id, from_start=from_start, at_ns=at_ns, found=found)
            )

    async def cancel(self, run_id: int, reason: str = "cancelled on request") -> int:
        """Ask for a run to be cancelled; return the request's sequence once it is durable.

        Raises:
            RunNotFound: no run with this id is open.
            LogFull: the disk is full; nothing was asked for.
            EventRefused: *reason* is no text that can be stored.
        """
        reason = str(reason)[:REASON_CHARS_MAX]
        check_text(reason, "the reason of a cancellation")
        if run_id not in self.kernel.state.runs.active:
            raise RunNotFound(f"run {run_id} is not open: it has ended, or never was")
        return await self._core.cancel(run_id, reason)

    async def signal(self, run_id: int, name: str, data: Any = None) -> int:
        """Send a signal to an open run; return its sequence once it is durable.

        The run gets it from ``run.receive(name)``, now or when it comes to that.  Signals of
        one name are received in the order in which they were sent.

        Raises:
            RunNotFound: no run with this id is open.
            SignalRefused: the run has 1 000 signals, or 4 MiB, that it has not received.
            TypeError, ValueError: *name* is none.
            EventRefused: *data* cannot be stored or is too large.
            LogFull, DurabilityLost, EngineClosed: as `emit`.
        """
        self._check_taking()
        raw = encoded_signal(name, data)
        pipeline = self._core.pipeline
        # However many runs are open: this is what lets one of them go on.
        await pipeline.room()
        at_ns = pipeline.tick()
        sequence = pipeline.put(signal_of(pipeline.kernel.state, run_id, name, raw, at_ns=at_ns))
        await pipeline.committed(sequence)
        return sequence

    # ------------------------------------------------------------ rules

    async def add_rule(
        self,
        pattern: Any,
        action: Callable[..., Any],
        *,
        warm: Literal["replay"] | None = None,
        **options: Any,
    ) -> int:
        """Put a rule into force, or another version of one; return the record's sequence.

        *options* are those of `App.rule`, such as *name* and *mode*.  The rule begins empty,
        or with ``warm="replay"`` as if it had been there as long as the log is kept; what it
        would have fired then is not made up for.  If it is in force already, just as it is,
        nothing is recorded and 0 is returned: so a task that adds a rule can be repeated.
        At the next start the rules of the app are in force; add it again, or declare it there.

        Raises:
            TypeError, ValueError: it cannot work; says which part and why.  Nothing changed.
            LogFull, DurabilityLost, EngineClosed: as `emit`.
        """
        return await self._rules.add(pattern, action, warm=warm, **options)

    async def change_rules(
        self, put: Sequence[Declared] = (), remove: Sequence[str] = (), *, cause: str = ""
    ) -> list[int]:
        """Let rules be in force no more, if they are, and put those in that the facade has made.

        As `remove_rule` and `add_rule` one by one, but all checked first and durable together.
        """
        return await self._rules.change(put, remove, cause=cause)

    async def remove_rule(self, rule: str) -> int:
        """Let *rule* be in force no more; its open runs go on.  Return the record's sequence.

        Raises:
            RuleNotFound: it is not in force.
            LogFull, DurabilityLost, EngineClosed: as `emit`.
        """
        return await self._rules.remove(rule)

    async def pause(self, rule: str, reason: str = "") -> int:
        """Let *rule* start no runs until `resume`; return the record's sequence, 0 if it is so.

        It goes on looking at events, and its firings are recorded as ``paused``.  That holds
        over restarts.

        Raises:
            RuleNotFound: it is not in force.
            EventRefused: *reason* is no text that can be stored.
            LogFull, DurabilityLost, EngineClosed: as `emit`.
        """
        return await self._rules.pause(rule, reason)

    async def resume(self, rule: str, reason: str = "") -> int:
        """Let *rule* start runs again; otherwise as `pause`."""
        return await self._rules.resume(rule, reason)

    def alarms(self) -> list[Alarm]:
        """Return the alarms that stand: of rules with ``on_clear=``, in the order of raising."""
        return self._rules.alarms()

    async def acknowledge(self, rule: str, key: Any = None, *, by: str = "", note: str = "") -> int:
        """Say that somebody knows of an alarm that stands; return the record's sequence.

        Raises:
            RuleNotFound: no alarm of *rule* stands for *key*.
            EventRefused: *by* or *note* is no text that can be stored.
            LogFull, DurabilityLost, EngineClosed: as `emit`.
        """
        return await self._rules.acknowledge(rule, key, by=by, note=note)

    async def drain(self) -> None:
        """Return once no run is open and all is durable.

        Runs of tasks that the app no longer declares are not waited for.  By input, log
        time moves on to let retries and sleeps come; runs that a clock or a silence starts
        on the way are not waited for, and stay open if they wait themselves.  While the
        disk is full it waits for room, since runs go on then.

        Raises:
            DurabilityLost: the log has failed.
            LogFull: the engine was closed while the disk was full.
        """
        while True:
            try:
                return await self.opened().drain()
            except LogFull:
                await self.ready()

    async def ready(self) -> None:
        """Return once events are taken: at once, unless the disk is full.

        Raises:
            DurabilityLost: the log has failed.
            LogFull: the engine is closed while the disk is full.
        """
        while (failure := self.opened().pipeline.failure) is not None:
            if self._is_closing or not isinstance(failure, LogFull):
                raise failure
            await self._moved.wait()

    async def snapshot(self) -> int:
        """Write the state as it is now to a snapshot; return its sequence once it is durable.

        The next start then folds only what came after.  The engine does so by itself, after
        every *snapshot_every* records.

        Raises:
            EngineClosed: the engine was never open.
            SnapshotUnusable: the log has records that only a newer headrace understands.
            OSError: the disk failed; the log and older snapshots are as they were.
            DurabilityLost, LogFull: the log failed.
        """
        if not self._is_open:
            raise EngineClosed(NOT_OPEN)
        return await self.opened().snapshotter.take()

    # ------------------------------------------------------------ views

    def state(self) -> StateView:
        """Return the engine's state in numbers."""
        is_ready = self._is_open and not self._is_stopping
        return state_of(self.kernel, ready=is_ready and self._core.pipeline.failure is None)

    @overload
    def view(self, projection: str) -> View[Any]: ...
    @overload
    def view(self, projection: Callable[[Any, Any], S | None]) -> View[S]: ...
    def view(self, projection: Any) -> View[Any]:
        """Return the state of a projection by key: its function, or its name, says which.

        A mapping to read, which shows the state as it is whenever it is asked; as `state`, it
        may be ahead of what is durable by what is being committed.  See `View`.

        Raises:
            TypeError, RuleNotFound: the app has no such projection; says which it has.
            EngineClosed: the engine was never open.
        """
        rule = self.kernel.state.decider.projection(projection)
        return View(
            own_name(rule),
            lambda: self.kernel.state.decider.folded(rule),
            lambda: self.kernel.state.seen_from.get(rule, 1),
        )

    def cursor(self, source: str) -> int | None:
        """Return the position after the last event stored from *source*; ``None``: none."""
        state = self.kernel.state
        if source not in state.sources:
            return None
        return state.cursors.get(state.sources.index(source) + 1)
