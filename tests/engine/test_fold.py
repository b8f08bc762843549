"""Live equals fold, byte for byte, whatever happens: runs, retries, sleeps, crashes, changes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.reference.shell import Shell, ns, raw, rules

from headrace import any_of, on, silent
from headrace.engine import record as r
from headrace.engine.clock import NS
from headrace.engine.kernel import Kernel
from headrace.engine.run_state import RunState
from headrace.triggers.nodes_clock import AtNode, CronNode, EveryNode
from headrace.triggers.pattern import Pattern
from headrace.triggers.ruleset import Rule

HOPS_MAX = 5
RUNS_MAX = 60


def is_small(event: Any) -> bool:
    """Raise where the data is no number."""
    return bool(event.data < 3)


def by_data(event: Any) -> Any:
    """A key of any kind, now and then none, now and then one that cannot be."""
    return ("k", event.data) if event.data == 2 else event.data


BEAT: Pattern[Any] = Pattern(EveryNode(5 * NS))
TICK: Pattern[Any] = Pattern(CronNode("*/7 * * * * *", "Europe/Berlin", "all"))
SKIPS: Pattern[Any] = Pattern(CronNode("*/5,*/3 * * * * *", "UTC", "none"))
ONCE: Pattern[Any] = Pattern(AtNode(ns(110), "last"))

DECLARED = [
    Rule("zero", on("a.*").key(by_data), "parallel"),
    Rule("one", on("a.*").key(by_data).count(2, within=3), "single"),
    Rule("re", on("b").key(lambda e: e.subject), "restart"),
    Rule("edge", on(">").count(3, within=4, mode="edge"), "restart"),
    Rule("quiet", silent(on("a.*").key(by_data), for_=4, repeat="every", expect=["x"]), "single"),
    Rule("still", silent(on("b", int), for_=2), "parallel"),
    Rule("beat", BEAT, "restart"),
    Rule("cron", TICK, "restart"),
    Rule("skips", SKIPS, "single"),
    Rule("once", ONCE, "parallel"),
    Rule(
        "turns",
        any_of(on("a.*").count(2, within=9), on("b").count(2, within=9)).count(2, within=20),
        "single",
    ),
    Rule(
        "mute",
        silent(on("a.*").key(by_data), for_=5, repeat="every", expect=["x"]).count(2, within=30),
        "parallel",
    ),
    Rule("any", any_of(on("a.x"), on("b").where(is_small), on("a.*", int)), "parallel"),
    Rule("dead", on("run.failed.>"), "parallel"),
    Rule("told", any_of(on("rule.fired.one"), on("rule.error.*"), on("run.*.work")), "single"),
]
CHANGED = [
    Rule(rule_.name, rule_.pattern, "single" if rule_.mode == "restart" else rule_.mode)
    for rule_ in reversed(DECLARED)
    if rule_.name not in ("zero", "told")
]
VERSIONS = [rules(*DECLARED), rules(*reversed(DECLARED)), rules(*CHANGED)]

DATA: st.SearchStrategy[Any] = st.sampled_from([0, 1, 2, 5, "x", None, [], 2.5, True, 1.0, -0.0])
ERRORS = st.sampled_from(["OSError: no", "ValueError: x", ""])


class Life(RuleBasedStateMachine):
    """An engine's life as its log sees it.

    A second kernel follows the bytes as they are stored; it must be the same after each step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shell = Shell(VERSIONS[0], hops_max=HOPS_MAX)
        self.follower = Kernel(VERSIONS[0](), hops_max=HOPS_MAX)
        self.followed = 0
        self.ordinals: Counter[int] = Counter()
        self.begun: Counter[tuple[int, int]] = Counter()
        self.changed = False
        """Whether modes may have changed under open runs."""

    # ------------------------------------------------------------ the shell's part

    @property
    def open_runs(self) -> list[RunState]:
        return list(self.shell.kernel.state.runs.active.values())

    def executing(self) -> list[RunState]:
        return [run for run in self.open_runs if run.status == "active"]

    def carry_out(self) -> None:
        """Take the effects; a run that is told to start begins an attempt."""
        state = self.shell.kernel.state
        effects, state.effects = state.effects, []
        for effect in effects:
            run = state.runs.active.get(effect.run)
            if effect.kind == "start" and run is not None:
                assert run.status == "active", effect
                self.begun[run.id, run.attempt] += 1

    def end_children(self, run: RunState) -> None:
        """A run ends after its children."""
        for step in list(run.steps.values()):
            child = self.shell.kernel.state.runs.active.get(step.sequence)
            if child is not None and child.parent == run.id and step.status == "pending":
                self.end_children(child)
                self.shell.put(r.RunCancelled(self.shell.at_ns, child.id, "its parent ended"))

    @initialize(version=st.integers(0, 2))
    def begin(self, version: int) -> None:
        self.restart_with(version, at_ns=ns(100))

    def restart_with(self, version: int, *, at_ns: int, keep: int | None = None) -> None:
        units = self.shell.units[:keep]
        self.shell = Shell(VERSIONS[version], units, hops_max=HOPS_MAX)
        assert self.shell.kernel.divergences == []
        self.shell.kernel.state.effects.clear()
        self.follower = Kernel(VERSIONS[version](), hops_max=HOPS_MAX)
        self.followed = 0
        self.ordinals.clear()
        self.begun.clear()
        for run in self.open_runs:
            self.ordinals[run.id] = max(run.steps, default=0)
            if run.status == "active":
                self.begun[run.id, run.attempt] += 1
        self.shell.start(max(at_ns, self.shell.at_ns), dedupe_window_ns=6 * NS)

    # ------------------------------------------------------------ what comes from outside

    @rule(
        elapsed=st.sampled_from([0, 0, 1, 2, 7]),
        subject=st.sampled_from(["a.x", "a.y", "b", "c"]),
        data=DATA,
        event_id=st.none() | st.sampled_from(["e1", "e2"]),
        position=st.none() | st.integers(0, 9),
        key=st.none() | st.just("label"),
        time_ns=st.none() | st.just(-5),
    )
    def emit(
        self, elapsed: int, subject: str, data: Any, event_id: str | None, **rest: Any
    ) -> None:
        if len(self.open_runs) > RUNS_MAX:
            return
        at_ns = self.shell.tick(self.shell.at_ns + elapsed * NS)
        source = len(self.shell.kernel.state.sources) if rest["position"] is not None else 0
        if event_id and self.shell.kernel.state.dedupe.find(source, event_id, at_ns) is not None:
            return
        self.shell.emit(at_ns, subject, data, id=event_id, source=source, **rest)

    @rule(elapsed=st.sampled_from([1, 3, 11]))
    def wait(self, elapsed: int) -> None:
        if len(self.open_runs) <= RUNS_MAX:
            self.shell.tick(self.shell.at_ns + elapsed * NS)

    @rule(offer_id=st.none() | st.sampled_from(["o1", "o2"]))
    def offer(self, offer_id: str | None) -> None:
        """Somebody puts an event into the log while no engine runs; it waits."""
        self.shell.put(r.EventOffered(self.shell.at_ns, 7, "a.x", raw(1), "outside", offer_id))

    @rule()
    def open_source(self) -> None:
        number = len(self.shell.kernel.state.sources) + 1
        if number < 4:
            self.shell.put(r.SourceOpened(self.shell.at_ns, number, f"source{number}"))

    @precondition(lambda self: self.shell.kernel.state.sources)
    @rule(position=st.integers(0, 100))
    def move_cursor(self, position: int) -> None:
        number = len(self.shell.kernel.state.sources)
        self.shell.put(r.CursorMoved(self.shell.at_ns, number, position))

    @rule(step_ns=st.sampled_from([3600 * NS, -3600 * NS]))
    def set_clock(self, step_ns: int) -> None:
        self.shell.put(r.ClockStepped(self.shell.at_ns, step_ns))

    @precondition(lambda self: self.open_runs)
    @rule(data=st.data())
    def request_cancel(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(self.open_runs).map(lambda run: run.id))
        self.shell.put(r.CancelRequested(self.shell.at_ns, run, "on request"))

    @rule(run=st.sampled_from([1, 10**9]))
    def request_cancel_of_nothing(self, run: int) -> None:
        self.shell.put(r.CancelRequested(self.shell.at_ns, run, "too late"))

    # ------------------------------------------------------------ what runs do

    def choose(self, data: st.DataObject) -> RunState:
        chosen = data.draw(st.sampled_from([run.id for run in self.executing()]), label="run")
        return self.shell.kernel.state.runs.active[chosen]

    @precondition(lambda self: self.executing())
    @rule(data=st.data(), result=DATA, tidy=st.booleans())
    def complete(self, data: st.DataObject, result: Any, *, tidy: bool) -> None:
        run = self.choose(data)
        if tidy:  # or it was resumed, and has asked for less than before
            self.end_children(run)
        self.shell.put(r.RunCompleted(self.shell.at_ns, run.id, raw(result)))

    @precondition(lambda self: self.executing())
    @rule(data=st.data(), error=ERRORS)
    def fail(self, data: st.DataObject, error: str) -> None:
        run = self.choose(data)
        self.end_children(run)
        forget = [n for n, step in run.steps.items() if step.status != "done"]
        self.shell.put(r.RunFailed(self.shell.at_ns, run.id, run.attempt, error, "trace", forget))

    @precondition(lambda self: self.executing())
    @rule(data=st.data(), error=ERRORS, wait=st.integers(0, 6))
    def fail_once(self, data: st.DataObject, error: str, wait: int) -> None:
        run = self.choose(data)
        self.end_children(run)
        at_ns = self.shell.at_ns
        forget = [
            ordinal
            for ordinal, step in run.steps.items()
            if step.status in ("cancelled", "pending")
            or (step.status == "failed" and data.draw(st.booleans()))
        ]
        record = r.AttemptFailed(at_ns, run.id, run.attempt, error, "t", at_ns + wait * NS, forget)
        self.shell.put(record)
        self.ordinals[run.id] = 0  # the next attempt asks from the beginning

    @precondition(lambda self: any(run.cancelling is not None for run in self.open_runs))
    @rule(data=st.data())
    def end_cancelled(self, data: st.DataObject) -> None:
        ids = [run.id for run in self.open_runs if run.cancelling is not None]
        run = self.shell.kernel.state.runs.active[data.draw(st.sampled_from(ids))]
        self.end_children(run)
        self.shell.put(r.RunCancelled(self.shell.at_ns, run.id, run.cancelling or ""))

    def next_ordinal(self, run: RunState) -> int:
        """The next place at which the run asks for something new."""
        self.ordinals[run.id] += 1
        while self.ordinals[run.id] in run.steps:
            self.ordinals[run.id] += 1
        return self.ordinals[run.id]

    @precondition(lambda self: self.executing() and len(self.open_runs) < RUNS_MAX)
    @rule(data=st.data(), kind=st.sampled_from(["call", "spawn", "launch"]), args=DATA)
    def request_step(self, data: st.DataObject, kind: r.StepKind, args: Any) -> None:
        run = self.choose(data)
        record = r.StepRequested(
            self.shell.at_ns, run.id, self.next_ordinal(run), kind, "work", raw({"x": args})
        )
        child = self.shell.put(record)
        if kind != "launch":  # those are started by their parent, others by an effect
            self.begun[child, 1] += 1

    @precondition(lambda self: self.executing())
    @rule(data=st.data(), seconds=st.integers(0, 8))
    def sleep(self, data: st.DataObject, seconds: int) -> None:
        run = self.choose(data)
        at_ns = self.shell.at_ns
        ordinal = self.next_ordinal(run)
        self.shell.put(r.SleepRequested(at_ns, run.id, ordinal, at_ns + seconds * NS))

    @precondition(lambda self: self.executing() and len(self.open_runs) < RUNS_MAX)
    @rule(data=st.data(), subject=st.sampled_from(["a.x", "b"]), value=DATA)
    def emit_from_run(self, data: st.DataObject, subject: str, value: Any) -> None:
        run = self.choose(data)
        self.shell.put(
            r.EventStored(
                self.shell.at_ns,
                subject,
                raw(value),
                run=run.id,
                ordinal=self.next_ordinal(run),
                trace=run.trace or run.id,
                hops=max(1, run.hops),
            )
        )

    @precondition(lambda self: len(self.open_runs) < RUNS_MAX)
    @rule(
        data=st.data(),
        key=st.sampled_from([None, "k", "k", "l"]),
        window=st.sampled_from([0, 3, 20]),
        inside=st.booleans(),
    )
    def launch(self, data: st.DataObject, key: str | None, window: int, *, inside: bool) -> None:
        run = self.choose(data) if inside and self.executing() else None
        asker, ordinal = (0, 0) if run is None else (run.id, self.next_ordinal(run))
        record = r.RunLaunched(
            self.shell.at_ns, "work", raw({"x": 1}), key, window * NS, asker, ordinal
        )
        self.shell.put(record)
        holders = [one.id for one in self.open_runs if key is not None and one.launch_key == key]
        assert len(holders) <= 1

    @precondition(lambda self: self.shell.kernel.state.dead.runs())
    @rule(data=st.data(), from_start=st.booleans())
    def redrive(self, data: st.DataObject, *, from_start: bool) -> None:
        dead = self.shell.kernel.state.dead
        run_id = data.draw(st.sampled_from([run.id for run in dead.runs()]), label="dead letter")
        self.changed = True  # it goes on beside others of its rule
        self.shell.put(r.RunRedriven(self.shell.at_ns, run_id, from_start))
        self.ordinals[run_id] = 0

    @rule(run=st.sampled_from([1, 10**9]))
    def redrive_nothing(self, run: int) -> None:
        if run not in self.shell.kernel.state.runs.active:
            self.shell.put(r.RunRedriven(self.shell.at_ns, run))

    # ------------------------------------------------------------ the process dies

    @rule(version=st.sampled_from([0, 0, 0, 1, 2]), downtime=st.integers(0, 20), data=st.data())
    def crash(self, version: int, downtime: int, data: st.DataObject) -> None:
        """Lose up to three units, and come back, perhaps with other rules."""
        count = len(self.shell.units)
        keep = max(1, count - data.draw(st.sampled_from([0, 0, 1, 3]), label="lost units"))
        self.changed = self.changed or version == 2 or self.shell.make_rules is VERSIONS[2]
        before = self.shell.kernel.dump() if keep == count else None
        same = self.shell.make_rules is VERSIONS[version]
        recovered = Shell(VERSIONS[version], self.shell.units[:keep], hops_max=HOPS_MAX)
        if before is not None and same:
            assert recovered.kernel.dump() == before
        at_ns = recovered.at_ns + downtime * NS
        self.restart_with(version, at_ns=at_ns, keep=keep)

    @rule(newer=st.sampled_from([b"\x93\x2f\x01\x02", b"\x92\x64\x01"]))
    def meet_the_future(self, newer: bytes) -> None:
        """A newer headrace has written something that this one does not know."""
        self.shell.put(r.EngineStopped(self.shell.at_ns))
        self.shell.units.append([newer])
        version = VERSIONS.index(self.shell.make_rules)
        self.restart_with(version, at_ns=self.shell.at_ns)

    # ------------------------------------------------------------ what always holds

    @invariant()
    def everything_holds(self) -> None:
        self.carry_out()
        self.the_follower_is_the_same()
        self.runs_wait_for_timers_that_are_there()
        self.steps_and_children_agree()
        self.attempts_begin_once()
        self.modes_hold()
        assert self.shell.kernel.state.lifecycle.dump() == [], "something is owed"

    def the_follower_is_the_same(self) -> None:
        records = self.shell.records
        for sequence in range(self.followed + 1, len(records) + 1):
            self.follower.fold(sequence, r.decode(records[sequence - 1]))
        self.followed = len(records)
        assert self.follower.divergences == []
        if self.follower.dump() != self.shell.kernel.dump():
            assert decoded(self.follower) == decoded(self.shell.kernel)
            raise AssertionError("the same data in other bytes")

    def runs_wait_for_timers_that_are_there(self) -> None:
        state = self.shell.kernel.state
        waits = {("", run.id, 0) for run in self.open_runs if run.status == "retrying"}
        waits |= {
            ("", run.id, ordinal)
            for run in self.open_runs
            for ordinal, step in run.steps.items()
            if step.kind == "sleep" and step.status == "pending"
        }
        armed = {tuple(timer[:3]) for timer in state.timers.dump()[1] if not timer[0]}
        assert armed == waits
        assert {run.id for run in self.open_runs if run.waits_for_time} == {w[1] for w in waits}

    def steps_and_children_agree(self) -> None:
        runs = self.shell.kernel.state.runs.active
        for run in self.open_runs:
            for step in run.steps.values():
                if step.kind in ("call", "spawn"):
                    assert (step.status == "pending") == (step.sequence in runs)
            if run.parent:
                assert runs[run.parent].steps[run.ordinal].sequence == run.id

    def attempts_begin_once(self) -> None:
        """Every run that executes was told to start, and no attempt twice."""
        for run in self.executing():
            assert self.begun[run.id, run.attempt] == 1, run
        assert set(self.begun.values()) <= {1}

    def modes_hold(self) -> None:
        if self.changed:
            return
        mode = {rule_.name: rule_.mode for rule_ in DECLARED}
        by_key: dict[tuple[str, Any], list[RunState]] = {}
        for run in self.open_runs:
            if run.rule and mode[run.rule] != "parallel":
                by_key.setdefault((run.rule, run.key), []).append(run)
        for (name, _), found in by_key.items():
            waiting = [run for run in found if run.status == "waiting"]
            assert len(found) - len(waiting) == 1
            assert len(waiting) <= (1 if mode[name] == "restart" else 0)

    def teardown(self) -> None:
        if self.shell.units:
            assert self.shell.refold().dump() == self.shell.kernel.dump()


def decoded(kernel: Kernel) -> Any:
    """The state as data, so that a difference can be read."""
    return msgspec.msgpack.decode(kernel.dump(), strict=False)


Life.TestCase.settings = settings(max_examples=50, stateful_step_count=40)
TestLiveIsFold = pytest.mark.slow(Life.TestCase)


@pytest.mark.soak
def test_live_is_fold_at_length() -> None:
    """The same for long lives, until rare coincidences have had their chance."""
    run_state_machine_as_test(Life, settings=settings(max_examples=1000, stateful_step_count=120))
