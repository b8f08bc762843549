"""Snapshot and tail give what a full fold gives, whenever and however slowly one was taken."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test
from tests.engine.test_fold import HOPS_MAX, VERSIONS, Life, decoded
from tests.reference.shell import Shell, fold, ns, rules

from headrace import any_of, on, silent
from headrace.engine import record as r
from headrace.engine.errors import SnapshotUnusable
from headrace.engine.kernel import Kernel
from headrace.engine.snapshot import Snapshot, load
from headrace.triggers.ruleset import Rule


class SnapshotLife(Life):
    """Any life of an engine, while snapshots of it are taken piecemeal."""

    def __init__(self) -> None:
        super().__init__()
        self.snapshot: Snapshot | None = None
        self.parts: list[bytes] = []
        self.is_written = False
        self.taken: list[bytes] = []
        self.taken_at = 0
        self.oldest = 0
        """The oldest record that a start from what was taken may still ask for."""

    def restart_with(self, version: int, *, at_ns: int, keep: int | None = None) -> None:
        super().restart_with(version, at_ns=at_ns, keep=keep)
        self.snapshot = None  # it is gone with its kernel
        if self.taken_at > len(self.shell.records):
            self.taken = []

    @precondition(lambda self: self.snapshot is None and not self.shell.kernel.unknown)
    @rule()
    def begin_snapshot(self) -> None:
        self.snapshot = Snapshot(self.shell.kernel)
        self.parts, self.is_written = [], False

    @precondition(lambda self: self.snapshot is not None)
    @rule(count=st.integers(1, 4), steps=st.integers(1, 6))
    def step(self, count: int, steps: int) -> None:
        assert self.snapshot is not None
        for _ in range(steps):
            if self.is_written:
                if self.snapshot.settle(count):
                    self.snapshot = None
                    return
            elif (part := self.snapshot.step(count)) is not None:
                self.parts.append(part)
            else:
                self.is_written = True
                self.taken, self.taken_at = self.parts, self.snapshot.sequence
                self.oldest = self.snapshot.oldest_sequence
                self.check_oldest(self.snapshot)
                self.resume()

    def check_oldest(self, snapshot: Snapshot) -> None:
        """What is named as the oldest is old enough for all that is in it."""
        text = str([decoded_part(part) for part in self.taken])
        kernel = self.folded(snapshot.sequence)
        needed = [run.id for run in kernel.state.runs.active.values()]
        needed += [s for run in kernel.state.runs.active.values() for s in run.events]
        needed += kernel.state.offers.owed
        assert min(needed, default=snapshot.oldest_sequence) >= snapshot.oldest_sequence, text
        assert snapshot.oldest_sequence <= snapshot.sequence + 1

    def folded(self, sequence: int, version: int | None = None) -> Kernel:
        make = self.shell.make_rules if version is None else VERSIONS[version]
        return fold(make, self.shell.records[:sequence], hops_max=HOPS_MAX)

    def loaded(self, version: int | None = None) -> Kernel:
        make = self.shell.make_rules if version is None else VERSIONS[version]
        kernel, records = Kernel(make(), hops_max=HOPS_MAX), self.shell.records
        kernel.state.runs.read = lambda ids: [fired_at(records, run_id) for run_id in ids]
        load(kernel, self.taken)
        assert kernel.sequence == self.taken_at
        return kernel

    @precondition(lambda self: self.taken)
    @rule()
    def resume_later(self) -> None:
        self.resume()

    def resume(self) -> None:
        """A start from the snapshot is a start from the whole log."""
        try:
            kernel = self.loaded()
        except SnapshotUnusable:
            # Of the same version it must be of use.
            assert self.shell.make_rules is VERSIONS[2] or self.changed
            return
        assert without_counts(kernel) == without_counts(self.folded(self.taken_at))
        for sequence, raw in enumerate(self.shell.records, 1):
            if sequence > self.taken_at:
                kernel.fold(sequence, r.decode(raw))
        kernel.finish_fold()
        assert kernel.divergences == []
        assert without_counts(kernel) == without_counts(self.shell.kernel)
        self.nothing_older_was_asked_for()

    def nothing_older_was_asked_for(self) -> None:
        """What has fired since was made of records that retention would have kept."""
        for raw in self.shell.records[self.taken_at :]:
            fired = r.decode(raw)
            if isinstance(fired, r.RuleFired):
                assert min(fired.events, default=self.oldest) >= self.oldest, fired

    @precondition(lambda self: self.taken)
    @rule(version=st.integers(0, 2))
    def resume_with_other_rules(self, version: int) -> None:
        """Other rules begin where a fold of the log would let them begin, or it is refused."""
        try:
            kernel = self.loaded(version)
        except SnapshotUnusable:
            return
        assert without_counts(kernel) == without_counts(self.folded(self.taken_at, version))


def fired_at(records: list[bytes], sequence: int) -> r.RuleFired:
    """Return the firing at *sequence*."""
    fired = r.decode(records[sequence - 1])
    assert isinstance(fired, r.RuleFired)
    return fired


def without_counts(kernel: Kernel) -> Any:
    """The state but for how often timers were armed: by rules that have changed since too."""
    state = decoded(kernel)
    state["timers"] = [timer[:-1] for timer in state["timers"][1]]
    return state


def decoded_part(part: bytes) -> Any:
    return msgspec.msgpack.decode(part, strict=False)


SnapshotLife.TestCase.settings = settings(max_examples=50, stateful_step_count=40)
TestSnapshotAndTailAreTheFold = pytest.mark.slow(SnapshotLife.TestCase)


@pytest.mark.soak
def test_snapshots_at_length() -> None:
    """The same for long lives."""
    run_state_machine_as_test(
        SnapshotLife, settings=settings(max_examples=1000, stateful_step_count=120)
    )


COUNTED = Rule("three", on("a").key(lambda e: e.data).count(3, within=60), "parallel")


def with_windows() -> Shell:
    """Return an engine with two windows that are not full."""
    shell = Shell(rules(COUNTED)).start(ns(1))
    for key in ("x", "y", "x"):
        shell.emit(ns(2), "a", key)
    return shell


def test_state_of_a_window_is_in_it() -> None:
    """The third event fires, though the first two are known by the snapshot only."""
    shell = with_windows()
    taken = list(Snapshot(shell.kernel).parts())
    kernel = Kernel(rules(COUNTED)())
    load(kernel, taken)
    unit = kernel.submit(r.EventStored(ns(3), "a", msgspec.Raw(msgspec.msgpack.encode("x"))))
    (fired,) = [record for record in unit if isinstance(record, r.RuleFired)]
    assert fired.key == "x"
    assert len(fired.events) == 3


def oldest_of(shell: Shell) -> int:
    """Return the oldest record that a snapshot of *shell* asks for."""
    snapshot = Snapshot(shell.kernel)
    list(snapshot.parts())
    return snapshot.oldest_sequence


def test_oldest_record_of_a_window_of_windows() -> None:
    """The first to be full is not the one that began first."""
    pairs = any_of(on("a").count(2, within=60), on("b").count(2, within=60))
    shell = Shell(rules(pairs.count(3, within=60))).start(ns(1))
    first = shell.emit(ns(2), "a")
    for subject in ("b", "b", "a"):
        shell.emit(ns(3), subject)
    assert oldest_of(shell) == first

    shell.emit(ns(4), "b")
    shell.emit(ns(4), "b")  # fires, and its run is open
    assert len(shell.fired()) == 1
    assert oldest_of(shell) == first


def test_oldest_record_of_a_silence_after_windows() -> None:
    """What the last pair was made of goes with the firing, in whatever order."""
    pairs = any_of(on("a").count(2, within=60), on("b").count(2, within=60))
    shell = Shell(rules(silent(pairs.count(2, within=60), for_=60))).start(ns(1))
    first = shell.emit(ns(2), "a")
    for subject in ("b", "b", "a"):
        shell.emit(ns(3), subject)
    assert oldest_of(shell) == first


def test_oldest_record_of_a_window_that_began_with_none() -> None:
    """A silence of what was never heard has no event; those after it have."""
    mute = silent(on("a").key(lambda e: e.data), for_=5, repeat="every", expect=["x"])
    shell = Shell(rules(mute.count(3, within=60))).start(ns(1))
    shell.tick(ns(6))
    first = shell.emit(ns(7), "a", "x")
    shell.tick(ns(12))
    shell.emit(ns(13), "a", "x")
    assert oldest_of(shell) == first


def test_snapshot_of_another_version_of_a_rule_is_refused() -> None:
    """A rule that was not at work when it was taken has state that is not in it."""
    shell = with_windows()
    stranger = fold(rules(), shell.records)  # has read the log with no rules declared
    taken = list(Snapshot(stranger).parts())
    with pytest.raises(SnapshotUnusable, match="'three'"):
        load(Kernel(rules(COUNTED)()), taken)


def test_rule_that_changed_begins_empty() -> None:
    """Its windows are those of another rule, and its timers too."""
    other = Rule("three", on("a").key(lambda e: e.data).count(2, within=60), "parallel")
    kernel = Kernel(rules(other)())
    load(kernel, Snapshot(with_windows().kernel).parts())
    assert kernel.state.active == set()
    assert kernel.state.decider.counters()["three"]["keys"] == 0


def test_log_with_unknown_records_has_no_snapshot() -> None:
    """A newer headrace, which knows them, must not miss them."""
    shell = with_windows()
    shell.kernel.fold(shell.kernel.sequence + 1, r.UnknownRecord(47, b"\x93\x2f\x01\x02"))
    with pytest.raises(SnapshotUnusable, match="newer headrace"):
        Snapshot(shell.kernel)


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b""],
        [b"\xc1"],
        [msgspec.msgpack.encode(["header", "", 0, []])],
        [msgspec.msgpack.encode(["header", "", 0, [{"sequence": "x"}]])],
    ],
)
def test_what_is_no_snapshot_is_refused(parts: list[bytes]) -> None:
    """Each with one typed error."""
    with pytest.raises(SnapshotUnusable):
        load(Kernel(rules(COUNTED)()), parts)


def test_snapshot_of_a_newer_schema_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may mean something else by the same names."""
    with monkeypatch.context() as patch:
        patch.setattr("headrace.engine.snapshot.SCHEMA", 2)
        taken = list(Snapshot(with_windows().kernel).parts())
    with pytest.raises(SnapshotUnusable, match="newer headrace"):
        load(Kernel(rules(COUNTED)()), taken)
