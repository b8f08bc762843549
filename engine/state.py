"""The engine's state and what each kind of record does to it.

Two steps, so that recorded decisions can win over derived ones: `apply` takes an input
and returns verdicts; `verdicts.decide` says what one comes to, given the runs that are
active; `carry_out` lets a decision, derived or recorded, take effect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from headrace.engine import record as r
from headrace.engine import undoing, waiting
from headrace.engine.breakers import Breakers, BreakerView
from headrace.engine.crashes import Crashes
from headrace.engine.dead import DeadLetters
from headrace.engine.decider import Decider, Verdict
from headrace.engine.dedupe import Dedupe
from headrace.engine.fresh import to_fail
from headrace.engine.launches import Launch, Launches
from headrace.engine.lifecycle import data_of_end
from headrace.engine.offers import Offers
from headrace.engine.rule_state import RuleState
from headrace.engine.run_state import (
    RETRY,
    RunState,
    RunStatus,
    Step,
    digest_of,
    forget_undos,
    with_key,
)
from headrace.engine.run_writing import unpacked_run
from headrace.engine.runs import RunTable
from headrace.engine.subject import is_reserved

HOPS_MAX: Final = 64


class Effect(Struct, frozen=True, gc=False):
    """What the shell has to carry out once the record that asks for it is durable."""

    kind: Literal["start", "cancel", "wake", "admit"]
    run: int
    """0: none, for ``admit``, after which attempts may begin that could not."""
    ordinal: int = 0


class EngineState(RuleState):
    """All that the engine knows.  Changes by records only; between calls it is consistent."""

    def __init__(self, decider: Decider, *, hops_max: int) -> None:
        super().__init__(decider)
        self.hops_max = hops_max
        self.clock = ""
        """``system`` or ``input``; empty before the first start."""
        self.cursors: dict[int, int] = {}
        self.runs = RunTable()
        self.lifecycle.wants = lambda at: decider.wants(at) or self.runs.listens(at)
        self.launches = Launches()
        self.dead = DeadLetters()
        self.breakers = Breakers()
        self.crashes = Crashes()
        self.dedupe = Dedupe()
        self.offers = Offers()
        self.effects: list[Effect] = []
        self.crashes.on_cleared = lambda: self.effects.append(Effect("admit", 0))

    @property
    def wants_own(self) -> bool:
        """Whether any rule or any open run may want an event of the engine's own."""
        return self.decider.wants_own or bool(self.runs.listening)

    # ------------------------------------------------------------ inputs

    def apply(self, sequence: int, record: r.Input) -> Sequence[Verdict | r.Decision]:
        """Let an input take effect; return what it leads to."""
        assert record.at_ns >= self.at_ns, (record, self.at_ns)
        self.at_ns = record.at_ns
        if type(record) is r.EventStored:  # by far the most frequent
            self.events += 1
            if record.run or record.hops or record.source or record.id is not None or record.offer:
                self.note_origin(sequence, record)
            return self.decider.on_event(sequence, record)
        return _INPUTS[type(record)](self, sequence, record)

    def note_origin(self, sequence: int, event: r.EventStored) -> None:
        """Note where an event comes from, if it says so."""
        if event.position is not None:
            self.cursors[event.source] = event.position
        if event.id is not None:
            self.dedupe.store(event.source, event.id, sequence, event.at_ns)
        if event.offer:
            source = self.sources[event.source - 1] if event.source else ""
            self.offers.paid(event.offer, source, event.id)
        elif not event.ordinal:
            if is_reserved(event.subject):
                self.lifecycle.paid(event.subject)
        elif (run := self.asking(event.run)) is not None:
            run.steps[event.ordinal] = Step(
                "emit", event.subject, digest_of(event.data), sequence, "done", event.at_ns
            )

    def _timer_fired(self, sequence: int, fired: r.TimerFired) -> Sequence[Verdict]:
        key = r.thaw(fired.key)
        timer = (fired.owner, fired.slot, key)
        if self.timers.due_ns(timer) != fired.due_ns:
            return ()  # of a rule that has changed since
        self.timers.disarm(timer)
        if fired.owner:
            return self.decider.on_timer(
                fired.owner, fired.slot, key, due_ns=fired.due_ns, missed=fired.missed
            )
        if not fired.slot:
            self._half_open(key, sequence)
            return ()
        run = self.runs.touch(fired.slot)
        assert run is not None
        if key == RETRY:
            run.status = "active"
            run.attempt += 1
            run.attempt_at_ns = fired.at_ns
            run.retry_at_ns = None
            self.effects.append(Effect("start", run.id))
        else:
            waiting.timed_out(self, run, key, at_ns=fired.at_ns, timer=sequence)
        self.runs.dormant.discard(run.id)
        return ()

    def asking(self, run_id: int) -> RunState | None:
        """Return the run that asks for something, to be changed: it gets on by that."""
        run = self.runs.touch(run_id)
        if run is not None and run.crashes:
            self.crashes.note_progress(run)
        return run

    def wake(self, run: RunState, ordinal: int) -> None:
        """Let the code of *run* go on from its call at *ordinal*, which has ended."""
        if run.crashes:
            self.crashes.note_progress(run)
        self.runs.dormant.discard(run.id)
        self.effects.append(Effect("wake", run.id, ordinal))

    def _run_completed(self, sequence: int, ended: r.RunCompleted) -> Sequence[r.Decision]:
        return self._end(sequence, ended.run, "completed", result=ended.result, blob=ended.blob)

    def _run_failed(self, sequence: int, ended: r.RunFailed) -> Sequence[r.Decision]:
        run = to_fail(self.runs.active, ended)
        if run is not None and run.failing is None and ended.attempt:
            self.breakers.note_failed(run.task, ended.at_ns)
        # A step's failure is for its parent to deal with; a run without one is given up.
        status: RunStatus = "failed" if run is not None and run.parent else "dead"
        decisions = self._end(sequence, ended.run, status, error=ended.error)
        if run is not None and status == "dead":
            self.dead.keep(run, ended.forget, at_ns=self.at_ns)
        return decisions

    def _run_cancelled(self, sequence: int, ended: r.RunCancelled) -> Sequence[r.Decision]:
        return self._end(sequence, ended.run, "cancelled", error=ended.reason)

    def _end(
        self,
        sequence: int,
        run_id: int,
        status: RunStatus,
        *,
        result: msgspec.Raw | None = None,
        error: str | None = None,
        blob: bytes | None = None,
    ) -> Sequence[r.Decision]:
        run = self.runs.active.get(run_id)
        if run is None:
            return ()  # a child whose parent ended without it
        if run.steps or run.retry_at_ns is not None:
            self._disarm(run)
        if run.crashes:
            self.crashes.note_progress(run)
        self.runs.end(
            run,
            status,
            at_ns=self.at_ns,
            result=result,
            error=error,
            blob=blob,
            sequence=sequence,
        )
        if run.launch_key is not None:
            place = (run.task, run.launch_key)
            self.launches.end(
                place,
                status,  # type: ignore[arg-type]
                at_ns=self.at_ns,
                result=result,
                error=error,
                blob=blob,
            )
        if self.wants_own:
            subject = f"run.{'failed' if status == 'dead' else status}.{run.task}"
            if self.lifecycle.wants(subject):
                data = data_of_end(run, status, result, blob)
                trace = run.trace or run.id
                self.lifecycle.owe(subject, run=run.id, trace=trace, hops=run.hops, data=data)
        left = self.runs.of_rule(run.task, run.key) if run.rule else ()
        # The oldest is the next; while one is active, it is older than those that wait.
        if left and self.runs.is_waiting(left[0]):
            return (r.RunReleased(left[0]),)
        return ()

    def _disarm(self, run: RunState) -> None:
        if run.retry_at_ns is not None:
            self.timers.disarm(("", run.id, RETRY))
        for ordinal, step in run.steps.items():
            if step.kind in waiting.TIMED:
                self.timers.disarm(("", run.id, ordinal))
            elif step.status == "pending":
                child = self.runs.active.get(step.sequence)
                if child is not None:
                    self._disarm(child)

    def _attempt_failed(self, _: int, failed: r.AttemptFailed) -> Sequence[Verdict]:
        run = self.runs.touch(failed.run)
        if run is None:
            return ()
        if run.undos:
            forget_undos(run, failed.forget)
        for ordinal in failed.forget:
            waiting.forget(self, run, ordinal)
        run.status = "retrying"
        run.error = failed.error
        run.retry_at_ns = failed.retry_at_ns
        self.breakers.note_failed(run.task, failed.at_ns)
        if run.crashes:
            self.crashes.note_progress(run)
        self.runs.retries += 1
        self.timers.arm(("", run.id, RETRY), failed.retry_at_ns)
        self.runs.dormant.add(run.id)
        return ()

    def _step_requested(self, sequence: int, asked: r.StepRequested) -> Sequence[Verdict]:
        parent = self.runs.touch(asked.parent)
        if parent is None:
            return ()  # it has ended
        if parent.crashes:  # as `asking`, without a call more for each step
            self.crashes.note_progress(parent)
        run = self.runs.make_from_step(sequence, asked, parent)
        if run is not None and asked.kind == "launch":
            self.effects.append(Effect("start", sequence))
        return ()

    def _run_launched(self, sequence: int, asked: r.RunLaunched) -> Sequence[Verdict]:
        parent = self.asking(asked.run) if asked.run else None
        if asked.run and parent is None:
            return ()  # it has ended
        run_id, key, request = sequence, asked.key, 0
        held = None if key is None else self.launches.find(asked.task, key, self.at_ns)
        if held is not None:
            run_id, request = held.run, sequence
        else:
            self.runs.make_from_launch(sequence, asked)
            if key is not None:
                launch = Launch(sequence, asked.task, key, asked.window_ns)
                self.launches.hold(launch, self.at_ns)
            self.effects.append(Effect("start", sequence))
        if parent is not None:
            digest = digest_of(with_key(asked.args, key))
            parent.steps[asked.ordinal] = Step(
                "launch", asked.task, digest, run_id, "done", asked.at_ns, asked=request
            )
        return ()

    def _run_redriven(self, sequence: int, asked: r.RunRedriven) -> Sequence[Verdict]:
        run = self.dead.to_redrive(asked.run)
        if run is None and asked.made is not None and asked.run not in self.runs.active:
            run = unpacked_run(asked.made)
        if run is None or self.holder_of(run, asked.at_ns) is not None:
            return ()  # it goes on already, or another run holds its key
        run = self.dead.take(asked.run) or run
        if asked.from_start:
            waiting.give_back(run, run.steps.values())
            run.steps = {}
        if not run.steps:
            run.patches = {}
        if asked.from_start or run.failing is not None:
            run.began = sequence
        self.runs.redrive(run, at_ns=asked.at_ns)
        if run.launch_key is not None:
            launch = Launch(run.id, run.task, run.launch_key, run.window_ns)
            self.launches.hold(launch, self.at_ns)
        self.effects.append(Effect("start", run.id))
        return ()

    def held_blobs(self) -> set[bytes]:
        """Return the digests of large results that are needed though the log may forget them."""
        return self.launches.blobs() | self.dead.blobs() | self.runs.held_blobs()

    def holder_of(self, run: RunState, at_ns: int) -> int | None:
        """Return the other run that holds the key of *run*, which was given up; or ``None``."""
        if run.launch_key is None:
            return None
        held = self.launches.find(run.task, run.launch_key, at_ns)
        return None if held is None or held.run == run.id else held.run

    def _sleep_requested(self, sequence: int, asked: r.SleepRequested) -> Sequence[Verdict]:
        run = self.asking(asked.run)
        if run is not None:
            run.steps[asked.ordinal] = Step("sleep", "", b"", sequence, "pending", asked.at_ns)
            self.timers.arm(("", run.id, asked.ordinal), asked.due_ns)
            self.runs.dormant.add(run.id)
        return ()

    def _cancel_requested(self, _: int, asked: r.CancelRequested) -> Sequence[r.Decision]:
        run = self.runs.active.get(asked.run)
        if run is None or run.cancelling is not None:
            return ()
        return (r.RunCancelling(run.id, asked.reason),)

    def _engine_started(self, sequence: int, started: r.EngineStarted) -> Sequence[Verdict]:
        self.started_at_ns = started.at_ns
        self.decider.note_start(started.at_ns)
        self.clock = started.clock
        self.crashes.is_running, self.crashes.trial = True, 0
        self.dedupe.window_ns = started.dedupe_window_ns
        self.put_in_force(sequence, started)
        return ()

    def _engine_stopped(self, _: int, stopped: r.EngineStopped) -> Sequence[Verdict]:
        self.crashes.is_running, self.crashes.trial = False, 0
        return ()

    def _crashes_counted(self, _: int, counted: r.CrashesCounted) -> Sequence[Verdict]:
        if counted.trial:
            self.crashes.trial = max(0, counted.trial)
        else:
            self.crashes.count(self.runs)
        return ()

    def _breaker_moved(self, sequence: int, moved: r.BreakerMoved) -> Sequence[Verdict]:
        timer = ("", 0, moved.task)
        if moved.state == "open":
            self.timers.arm(timer, moved.until_ns)
        else:
            self.timers.disarm(timer)
        view = BreakerView(moved.task, moved.state, moved.failures, moved.until_ns)
        self._move_breaker(view, sequence)
        return ()

    def _half_open(self, task: str, sequence: int) -> None:
        opened = self.breakers.moved.get(task)
        if opened is not None:
            half = BreakerView(task, "half_open", opened.failures, opened.until_ns)
            self._move_breaker(half, sequence)

    def _move_breaker(self, view: BreakerView, sequence: int) -> None:
        self.breakers.move(view)
        self.effects.append(Effect("admit", 0))
        self.lifecycle.owe(
            f"engine.breaker.{view.task}",
            run=0,
            trace=sequence,
            hops=1,
            data={
                "task": view.task,
                "state": view.state,
                "failures": view.failures,
                "until": view.until_ns,
            },
        )

    def _patch_marked(self, _: int, marked: r.PatchMarked) -> Sequence[Verdict]:
        run = self.asking(marked.run)
        if run is not None:
            run.patches[marked.name] = marked.is_patched
        return ()

    def _tasks_listed(self, _: int, listed: r.TasksListed) -> Sequence[Verdict]:
        self.runs.versions = dict(listed.versions)
        return ()

    def _source_opened(self, _: int, opened: r.SourceOpened) -> Sequence[Verdict]:
        assert opened.number == len(self.sources) + 1, opened
        self.sources.append(opened.name)
        return ()

    def _clock_stepped(self, _: int, stepped: r.ClockStepped) -> Sequence[Verdict]:
        return ()

    def _cursor_moved(self, _: int, moved: r.CursorMoved) -> Sequence[Verdict]:
        self.cursors[moved.source] = moved.position
        return ()

    def _event_offered(self, sequence: int, offered: r.EventOffered) -> Sequence[Verdict]:
        if offered.id is not None and offered.source in ("", *self.sources):
            number = self.sources.index(offered.source) + 1 if offered.source else 0
            if self.dedupe.find(number, offered.id, offered.at_ns) is not None:
                return ()
        self.offers.owe(sequence, offered.source, offered.id)
        return ()

    # ------------------------------------------------------------ decisions

    def carry_out(self, sequence: int, decision: r.Decision, cause: r.Input) -> None:
        """Let a decision take effect.  *cause* is the input of its unit."""
        if type(decision) is r.RuleFired:
            self._fire(sequence, decision, cause)
        elif type(decision) is r.RunReleased:
            run = self.runs.touch(decision.run)
            assert run is not None
            run.status = "active"
            run.attempt_at_ns = self.at_ns
            self.effects.append(Effect("start", run.id))
        elif type(decision) is r.RunReplaced:
            run = self.runs.active[decision.run]
            self.runs.end(run, "cancelled", at_ns=self.at_ns, error="a newer firing replaced it")
        elif type(decision) is r.RunCancelling:
            run = self.runs.touch(decision.run)
            assert run is not None
            run.cancelling = decision.reason
            self.effects.append(Effect("cancel", decision.run))
        elif type(decision) is r.RuleMismatch or type(decision) is r.RuleError:
            self.note_mismatch(decision, cause)
        elif type(decision) is r.RuleEvicted:
            self.note_evicted(decision)
        elif type(decision) is r.RuleLate:
            self.note_late(decision, cause)
        elif type(decision) is r.RuleLoop:
            # No lifecycle event: it would only go on with the loop.
            self.stats_of(decision.rule).loops += 1

    def _fire(self, sequence: int, fired: r.RuleFired, cause: r.Input) -> None:
        if type(fired.key) is list:
            fired = msgspec.structs.replace(fired, key=r.thaw(fired.key))
        if fired.outcome == "run" or fired.outcome == "waiting":
            missed = cause.missed if type(cause) is r.TimerFired else 0
            self.runs.make_from_firing(sequence, fired, at_ns=self.at_ns, missed=missed)
            if fired.outcome == "run":
                self.effects.append(Effect("start", sequence))
        self.note_fired(sequence, fired)

    # ------------------------------------------------------------ views

    def dump(self) -> dict[str, Any]:
        """Return the whole state as data that msgspec encodes."""
        return {
            "at_ns": self.at_ns,
            "started_at_ns": self.started_at_ns,
            "clock": self.clock,
            "sources": self.sources,
            "cursors": sorted(self.cursors.items()),
            "events": self.events,
            "timers": self.timers.dump(),
            "runs": self.runs.dump(),
            "launches": self.launches.dump(),
            "dead": self.dead.dump(),
            "breakers": self.breakers.dump(),
            "crashes": self.crashes.dump(),
            "dedupe": self.dedupe.dump(),
            "lifecycle": self.lifecycle.dump(),
            "offers": self.offers.dump(),
            **self.dump_rules(),
        }


_INPUTS: Final[dict[type[Any], Callable[[EngineState, int, Any], Sequence[Any]]]] = {
    r.TimerFired: EngineState._timer_fired,
    r.RunCompleted: EngineState._run_completed,
    r.RunFailed: EngineState._run_failed,
    r.RunCancelled: EngineState._run_cancelled,
    r.AttemptFailed: EngineState._attempt_failed,
    r.StepRequested: EngineState._step_requested,
    r.SleepRequested: EngineState._sleep_requested,
    r.CancelRequested: EngineState._cancel_requested,
    r.EngineStarted: EngineState._engine_started,
    r.EngineStopped: EngineState._engine_stopped,
    r.SourceOpened: EngineState._source_opened,
    r.RuleDiverged: EngineState.rule_diverged,
    r.ClockStepped: EngineState._clock_stepped,
    r.EventOffered: EngineState._event_offered,
    r.CursorMoved: EngineState._cursor_moved,
    r.RulesListed: EngineState.rules_listed,
    r.RuleChanged: EngineState.rule_changed,
    r.RulePaused: EngineState.rule_paused,
    r.AlarmAcknowledged: EngineState.alarm_acknowledged,
    r.HistoryBegan: EngineState.history_began,
    r.HistoryEnded: EngineState.history_ended,
    r.RunLaunched: EngineState._run_launched,
    r.RunRedriven: EngineState._run_redriven,
    r.BreakerMoved: EngineState._breaker_moved,
    r.CrashesCounted: EngineState._crashes_counted,
    r.PatchMarked: EngineState._patch_marked,
    r.RunFailing: undoing.begin,
    r.TasksListed: EngineState._tasks_listed,
    r.WaitRequested: waiting.requested,
    r.WaitEnded: waiting.ended,
    r.SignalSent: waiting.sent,
}
