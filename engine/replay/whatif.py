"""`whatif`: let other rules see the same log, and say what would be another.

What came from outside stays as it is: events, signals, starts.  What the engine made of it is
made anew: firings, timers, events about rules and runs.  What runs did stands in where the
same run would be: nothing is executed.  Memory does not grow with the log.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

from msgspec.structs import replace

from headrace.engine import record as r
from headrace.engine.decider import Decider
from headrace.engine.errors import LogCorrupt
from headrace.engine.replay.here import makes_launch
from headrace.engine.replay.pairing import Pairing
from headrace.engine.replay.pending import Pending
from headrace.engine.replay.policies import Retries
from headrace.engine.replay.stretch import Stretch
from headrace.engine.replay.tally import Supposed, Tally
from headrace.engine.replay.units import NO_DECISIONS, Unit, Units
from headrace.engine.replay.world import World

SHOWN_MAX: Final = 1000
"""Differences that are kept if nobody says how many."""
OWED_LOOK_AHEAD: Final = 8
"""Units in which an event that is owed may come late, as after a full disk."""
EFFECTS_MAX: Final = 1000
_UNTIMED: Final = frozenset(r.UNTIMED)
_RUN_OF: Final[dict[type[Any], str]] = {
    r.RunCompleted: "run",
    r.RunFailed: "run",
    r.RunCancelled: "run",
    r.AttemptFailed: "run",
    r.StepRequested: "parent",
    r.SleepRequested: "run",
    r.CancelRequested: "run",
    r.RunFailing: "run",
    r.PatchMarked: "run",
    r.RunLaunched: "run",
    r.WaitRequested: "run",
    r.WaitEnded: "run",
    r.SignalSent: "run",
    r.RunRedriven: "run",
}
"""The field that names the run which a record is about."""
_IGNORED: Final = frozenset({r.RulesListed, r.RuleDiverged})
"""Which rules are in force is what is declared today."""


def whatif(
    stretch: Stretch,
    decider: Decider,
    *,
    shown_max: int = SHOWN_MAX,
    blind: Collection[str] = (),
    policies: Retries | None = None,
) -> Supposed:
    """Return what would be another in *stretch* with the rules of *decider*, from its beginning.

    *blind* names the rules and tasks whose code is given no firing; *policies* are those of
    tasks.  At most *shown_max* differences are kept, and all are counted.

    Raises:
        LogMismatch: records are missing that the state follows from.
    """
    return WhatIf(stretch, decider, shown_max=shown_max, blind=blind, policies=policies).result()


class WhatIf:
    """One pass over a log."""

    def __init__(
        self,
        stretch: Stretch,
        decider: Decider,
        *,
        shown_max: int = SHOWN_MAX,
        blind: Collection[str] = (),
        policies: Retries | None = None,
        on_fired: Callable[[r.RuleFired], None] | None = None,
    ) -> None:
        """See `whatif`.  *on_fired* is told of each firing that is derived."""
        kernel, problems = stretch.kernel(decider)
        self.begun_after = kernel.sequence
        """The sequence of the snapshot that it begins at; 0: the log's beginning."""
        self.units = Units(stretch, kernel, problems)
        """What is to be taken, in this order."""
        begun_after, events = kernel.sequence, kernel.state.events
        self._world = World(kernel)
        self.state = self._world.state
        """The engine's state as it would be."""
        self._events_before = events
        self._tally = Tally(begun_after, shown_max)
        self._pairing = Pairing(self._world, self._tally, blind=blind, on_fired=on_fired)
        self._policies = policies
        self._place = begun_after
        """The last record that was seen: what comes anew has no sequence of its own."""

    def result(self) -> Supposed:
        """Go through it all."""
        for unit in self.units:
            self.take(unit)
        return self.finished()

    def finished(self) -> Supposed:
        """Say what it came to, once all units were taken."""
        result = self._tally.result
        self._pairing.finish()
        result.digest = self._pairing.digest
        result.last = self.units.last
        result.events = self.state.events - self._events_before
        result.kept = sorted(self._pairing.kept)
        result.unknown = self.units.unknown
        result.damage = self.units.damage
        result.differences.sort(key=lambda one: (one.at_ns, one.sequence))
        return result

    @property
    def damage(self) -> LogCorrupt | None:
        """What ended the units before the log's end."""
        return self.units.damage

    def fired_digest(self) -> str:
        """Return what stands for all firings that were derived by now."""
        return self._pairing.digest

    def firings_by_rule(self) -> dict[str, int]:
        """Return what stands for all firings of each rule that were derived."""
        return self._pairing.digests

    def take(self, unit: Unit) -> None:
        """Take the next unit of the log."""
        sequence, record, decisions = unit
        state, world = self.state, self._world
        if state.lifecycle.owed:
            self._pay_before(unit)
        if type(record) is r.EventStored and not record.hops and not record.run:
            at_ns = record.at_ns
            if at_ns >= world.rule_timers.bound_ns:
                self._let_time_come(at_ns)
            verdicts = state.apply(sequence, record)
            if verdicts or decisions:
                self._pairing.decide(sequence, record, verdicts, decisions)
        else:
            self._take_other(unit)
        self._place = sequence + len(decisions)
        while self._pairing.released:
            for held in self._pairing.released.pop(0):
                self._take_other(held)
        if len(state.effects) > EFFECTS_MAX:
            state.effects.clear()  # nobody carries them out

    def _take_other(self, unit: Unit) -> None:
        sequence, record, decisions = unit
        kind = type(record)
        if kind is r.TimerFired and record.owner:  # type: ignore[union-attr]
            self._rule_timer(sequence, record, decisions)  # type: ignore[arg-type]
            return
        if self._pairing.held_by and (holder := self._holder(record)) is not None:
            self._pairing.hold(holder, unit)
            return
        if record.at_ns < self.state.at_ns:  # it was held
            record = replace(record, at_ns=self.state.at_ns)
        if kind is r.EventStored:
            self._caused_event(sequence, record, decisions)  # type: ignore[arg-type]
            return
        if kind not in _UNTIMED:
            # A run's timer comes after those of rules that were due before it.
            due_ns = record.due_ns if isinstance(record, r.TimerFired) else record.at_ns
            self._let_time_come(due_ns)
        if kind in _IGNORED or (kind is r.RuleChanged and self._is_declared(record)):
            self._pairing.decide(sequence, record, (), decisions)
            return
        if kind is r.EngineStarted:
            record = replace(record, rules=dict(self.state.declared), warm={})
        elif kind in _RUN_OF:
            self._note_run(sequence, record)
        elif isinstance(record, r.TimerFired) and self._has_ended(record.slot):
            return
        self._pairing.decide(sequence, record, self.state.apply(sequence, record), decisions)

    # ------------------------------------------------------------ time

    def _let_time_come(self, at_ns: int) -> None:
        """Fire the rules' timers that are due by *at_ns*, each at its own time (law L3)."""
        world = self._world
        while (first := world.timer_until(at_ns)) is not None:
            self._fire(*first)

    def _fire(self, due_ns: int, timer: tuple[str, int, Any]) -> None:
        at_ns = max(due_ns, self.state.at_ns)
        owner, slot, key = timer
        missed = self._world.missed(timer, due_ns)
        fired = r.TimerFired(at_ns, due_ns, owner, slot, key, missed)
        self._carry_out_timer(self._place, fired, timer, NO_DECISIONS)

    def _carry_out_timer(
        self, sequence: int, fired: r.TimerFired, timer: tuple[str, int, Any], decisions: Any
    ) -> None:
        self._world.rule_timers.disarm(timer)
        self.state.at_ns = max(fired.at_ns, self.state.at_ns)
        verdicts = self._world.decider.on_timer(*timer, due_ns=fired.due_ns, missed=fired.missed)
        if verdicts or decisions:
            self._pairing.decide(sequence, fired, verdicts, decisions)

    def _rule_timer(self, sequence: int, fired: r.TimerFired, decisions: Any) -> None:
        """Fire the timer that was recorded, if it is armed; before it those that come first."""
        timer = (fired.owner, fired.slot, r.thaw(fired.key))
        wanted = (fired.due_ns, timer)
        while (first := self._world.timer_until(fired.due_ns)) is not None and first != wanted:
            self._fire(*first)
        if first == wanted:
            self._carry_out_timer(sequence, fired, timer, decisions)
        else:
            self._pairing.decide(sequence, fired, (), decisions)

    # ------------------------------------------------------------ events that something caused

    def _caused_event(self, sequence: int, event: r.EventStored, decisions: Any) -> None:
        state = self.state
        if not event.ordinal and event.hops:
            place = self._owed_place(event)
            for _ in range(place or 0):
                self._pay()
            is_there = place is not None
        else:
            is_there = not event.ordinal or event.run in state.runs.active
        if not is_there:
            self._pairing.gone(sequence)
            self._pairing.decide(sequence, event, (), decisions, is_gone=True)
            return
        self._let_time_come(event.at_ns)
        self._pairing.decide(sequence, event, state.apply(sequence, event), decisions)

    def _owed_place(self, event: r.EventStored) -> int | None:
        """Return the place of *event* among the events that are owed; ``None``: it is not."""
        data = bytes(event.data)
        for place, owed in enumerate(self.state.lifecycle.owed):
            if owed[0] == event.subject and owed[2] == event.run and owed[1] == data:
                return place
        return None

    def _pay_before(self, unit: Unit) -> None:
        """Let events come that are owed and not in the log, before *unit* does."""
        record = unit[1]
        if type(record) in _UNTIMED or self._is_owed(record):
            return
        if any(self._is_owed(ahead[1]) for ahead in self.units.peek(OWED_LOOK_AHEAD)):
            return
        while self.state.lifecycle.owed:
            self._pay()

    def _is_owed(self, record: r.Input) -> bool:
        return (
            type(record) is r.EventStored
            and record.hops > 0
            and not record.ordinal
            and self._owed_place(record) is not None
        )

    def _pay(self) -> None:
        """Let the oldest event come that is owed."""
        state = self.state
        self._let_time_come(state.at_ns)
        event = state.lifecycle.next(state.at_ns)
        assert event is not None, "it is owed"
        self._tally.result.events_new += 1
        self._pairing.decide(self._place, event, state.apply(self._place, event))

    # ------------------------------------------------------------ runs and rules

    def _holder(self, record: r.Input) -> Pending | None:
        """Return the firing that *record* waits for, since it is what its run did."""
        kind = type(record)
        if kind is r.EventStored:
            run: int = record.run if record.ordinal else 0  # type: ignore[union-attr]
        elif kind is r.TimerFired:
            run = record.slot  # type: ignore[union-attr]
        else:
            run = getattr(record, _RUN_OF.get(kind, ""), 0)
        holder = self._pairing.holder_of(run, kind) if run else None
        if holder is None and type(record) is r.WaitEnded and record.met is not None:
            held = self._pairing.held_events
            return next((held[event] for event in record.met.events if event in held), None)
        return holder

    def _note_run(self, sequence: int, record: Any) -> None:
        """See whether what a run did can still be said of it."""
        kind, runs = type(record), self.state.runs.active
        run = runs.get(getattr(record, _RUN_OF[kind]))
        if run is None:
            if makes_launch(record):
                self._tally.result.runs_gone += 1
        elif kind is r.WaitEnded:
            self._pairing.end_if_unmet(run, sequence, record)
        elif self._policies is not None:
            verdict = self._policies.unlike(run, record, runs)
            if verdict is not None:
                self._pairing.retried_otherwise(run, sequence, verdict)

    def _has_ended(self, run: int) -> bool:
        return bool(run) and run not in self.state.runs.active  # 0: the timer of a circuit

    def _is_declared(self, changed: Any) -> bool:
        """Say whether the rule that was changed is in force all the time; else keep it."""
        if changed.rule in self.state.declared:
            return True
        if changed.fingerprint is not None:
            self._pairing.kept.add(changed.rule)
        return False
