"""The kernel: live, an input makes decisions; in a fold, they are derived again and compared.

Pure and synchronous: no clock, no randomness, no await.  The same code runs live, at
recovery and in replay, so a replay cannot disagree with the past.  Recorded decisions
always win; where a derived one differs, that is a `Divergence`.

Hot path of an event that no rule fires on: a dict lookup by subject and, per rule, a typed
decode and the condition; nothing is allocated that outlives the call.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec
from msgspec import Raw, Struct

from headrace.engine import record as r
from headrace.engine.decider import Decider, Verdict
from headrace.engine.emission import Checked
from headrace.engine.state import HOPS_MAX, EngineState
from headrace.engine.verdicts import decide

RULE_DECISIONS: Final = (
    r.RuleFired,
    r.RuleMismatch,
    r.RuleError,
    r.RuleEvicted,
    r.RuleLoop,
    r.RuleLate,
)
_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class Divergence(Struct, frozen=True):
    """A place at which the fold derived another decision than the log holds."""

    rule: str
    sequence: int
    """Of the recorded decision, or of the input that has one too few."""
    recorded: str
    derived: str
    sides: tuple[r.Decision | None, r.Decision | None] = (None, None)
    """The same two as decisions; ``None``: nothing, or a timer, which is none."""


class Kernel:
    """The engine's state machine over records.

    Not thread-safe.  `state.effects` collects what the shell has to do for the records of
    the last calls; the shell takes the list once those records are durable.
    """

    def __init__(self, decider: Decider, *, hops_max: int = HOPS_MAX) -> None:
        self.state = EngineState(decider, hops_max=hops_max)
        self.sequence = 0
        """Sequence of the last record that was applied."""
        self.unknown = 0
        """Records of kinds that this headrace does not know; they were passed over."""
        self.divergences: list[Divergence] = []
        self.diverged: dict[str, Divergence] = {}
        """The first divergence of each rule that no `RuleDiverged` has recorded yet."""
        self.changed: list[tuple[int, str]] = []
        """``(sequence, rule)`` of each start that recorded another rule than is declared."""
        self._tap: list[tuple[int, r.Record]] | None = None
        self._input: r.Input | None = None  # of the unit that is being folded
        self._expected: list[Verdict | r.Decision] = []  # what it leads to, unresolved …
        self._derived: list[r.Decision] = []  # … and resolved

    # ------------------------------------------------------------ live

    def submit(self, record: r.Input) -> list[r.Record]:
        """Apply *record* under the next sequence; return the unit: it and its decisions."""
        state = self.state
        self.sequence += 1
        if self._tap is not None:
            self._tap.append((self.sequence, record))
        verdicts = state.apply(self.sequence, record)
        return self._decided(record, verdicts) if verdicts else [record]

    def submit_plain(
        self, at_ns: int, events: Sequence[Checked], start: int
    ) -> tuple[int, list[r.Record] | None]:
        """As `submit`, for events from outside of which only subject and data are known.

        Takes *events* from *start* on, up to and with the first that leads to something: returns
        how many these are, and the unit of that one.  Most lead to nothing, and each of those is
        a unit alone.
        """
        state = self.state
        state.at_ns = at_ns
        count, verdicts = state.decider.on_plain(self.sequence + 1, at_ns, events, start)
        self.sequence += count
        state.events += count
        if not verdicts:
            return count, None
        subject, data, _ = events[start + count - 1]
        return count, self._decided(r.EventStored(at_ns, subject, data), verdicts)

    def submit_step(self, asked: r.StepRequested, result: Raw) -> r.RunCompleted | None:
        """As `submit` of *asked*, and of the completion of what that makes, which is returned.

        ``None``: somebody wants to know of one of them, so each has to be submitted by itself.
        """
        state = self.state
        if self._tap is not None or state.wants_own:
            return None
        parent = state.runs.touch(asked.parent)
        if parent is None or parent.crashes:
            return None
        sequence = self.sequence + 1
        ended = r.RunCompleted(asked.at_ns, sequence, result)
        state.at_ns = asked.at_ns
        state.runs.add_step_done(sequence, asked, parent, result)
        self.sequence = sequence + 1
        return ended

    def _decided(self, record: r.Input, verdicts: Sequence[Verdict | r.Decision]) -> list[r.Record]:
        state = self.state
        unit: list[r.Record] = [record]
        for verdict in verdicts:
            for decision in decide(state, verdict):
                self.sequence += 1
                state.carry_out(self.sequence, decision, record)
                unit.append(decision)
        return unit

    @property
    def is_tapped(self) -> bool:
        """Whether somebody wants to see each input."""
        return self._tap is not None

    @contextmanager
    def tapped(self) -> Generator[list[tuple[int, r.Record]]]:
        """Give a list to which each input that is submitted meanwhile is added."""
        assert self._tap is None, "one at a time"
        self._tap = []
        try:
            yield self._tap
        finally:
            self._tap = None

    def due_timer(self, now_ns: int) -> r.TimerFired | None:
        """Return the record of the next timer that is due at *now_ns*, for `submit`."""
        timers = self.state.timers
        if now_ns < timers.bound_ns:
            return None
        first = timers.first()
        if first is None or first[0] > now_ns:
            return None
        due_ns, (owner, slot, key) = first
        missed = 0
        started_at_ns = self.state.started_at_ns
        if owner and due_ns < started_at_ns:
            missed = self.state.decider.missed(
                owner, slot, key, due_ns=due_ns, until_ns=started_at_ns
            )
        return r.TimerFired(max(now_ns, self.state.at_ns), due_ns, owner, slot, key, missed)

    # ------------------------------------------------------------ fold

    def fold(self, sequence: int, record: r.Record) -> None:
        """Apply a stored record; compare decisions with what follows from their input.

        Effects are collected as in `submit`; whoever only replays ignores them.
        """
        assert sequence == self.sequence + 1, (sequence, self.sequence)
        if isinstance(record, r.DECISION_KINDS):
            self._compare(sequence, record)
            self.sequence = sequence
            assert self._input is not None, "a log begins with an input"
            self.state.carry_out(sequence, record, self._input)
        elif isinstance(record, r.UnknownRecord):
            self.sequence = sequence
            self.unknown += 1
        else:
            if self._expected or self._derived:
                self.finish_fold()
            if type(record) is r.TimerFired:
                self._expect_timer(sequence, record)
            elif type(record) not in r.UNTIMED:
                self._expect_no_timer_due(sequence, record.at_ns)
            self.sequence = sequence
            self._input = record
            self._expected = list(self.state.apply(sequence, record))
            if type(record) is r.RuleDiverged:
                self.diverged.pop(record.rule, None)
            elif type(record) is r.EngineStarted:
                self._note_changed(sequence, self.state.rules)
            elif type(record) is r.RuleChanged and record.fingerprint is not None:
                self._note_changed(sequence, {record.rule: record.fingerprint})

    def fold_all(self, first: int, records: Iterable[r.Record]) -> None:
        """As `fold` of each of *records*, the first of which is at *first*."""
        state, fold, on_event = self.state, self.fold, self.state.decider.on_event
        timers, event = state.timers, r.EventStored
        for sequence, record in enumerate(records, first):
            if (
                type(record) is not event
                or self._expected
                or self._derived
                or record.at_ns >= timers.bound_ns
            ):
                fold(sequence, record)
                continue
            # An event behind a unit that is complete, as most are: `fold` and `apply` written out.
            assert sequence == self.sequence + 1, (sequence, self.sequence)
            self.sequence = sequence
            self._input = record
            state.at_ns = record.at_ns
            state.events += 1
            if record.run or record.hops or record.source or record.id is not None or record.offer:
                state.note_origin(sequence, record)
            if verdicts := on_event(sequence, record):
                self._expected = list(verdicts)

    def _note_changed(self, sequence: int, rules: dict[str, str]) -> None:
        """Note which of *rules*, that were put in force, are declared differently today."""
        state = self.state
        self.changed += [
            (sequence, rule)
            for rule, fingerprint in rules.items()
            if state.declared.get(rule) != fingerprint
        ]
        while state.cold:
            rule = state.cold.pop()
            self._diverge(rule, sequence, "a rule that had seen the log", "its beginning is gone")

    def finish_fold(self) -> None:
        """Say that the last unit is complete: what was derived beyond it is a divergence."""
        while self._expected or self._derived:
            rule = self._rule_of((self._derived or self._expected)[0])
            derived = self._take_derived(rule)
            if derived is not None:
                sides = (None, derived)
                self._diverge(rule, self.sequence, "nothing", _text_of(derived), sides)

    def _compare(self, sequence: int, recorded: r.Decision) -> None:
        rule = self._rule_of(recorded)
        derived = self._take_derived(rule)
        if derived is None:
            if rule in self.state.active and isinstance(recorded, RULE_DECISIONS):
                self._diverge(rule, sequence, _text_of(recorded), "nothing", (recorded, None))
        elif recorded != derived and _text_of(recorded) != _text_of(derived):
            sides = (recorded, derived)
            self._diverge(rule, sequence, _text_of(recorded), _text_of(derived), sides)

    def _take_derived(self, rule: str) -> r.Decision | None:
        """Take the next decision of *rule*, resolving its verdicts no earlier than live.

        By rule, not in order: that the rules are declared in another order than before is
        no difference, since what becomes of a firing depends on its own rule's runs only.
        """
        for place, decision in enumerate(self._derived):
            if self._rule_of(decision) == rule:
                return self._derived.pop(place)
        for place, verdict in enumerate(self._expected):
            if self._rule_of(verdict) == rule:
                del self._expected[place]
                first, *rest = decide(self.state, verdict)
                self._derived += rest
                return first
        return None

    def _expect_timer(self, sequence: int, fired: r.TimerFired) -> None:
        """Complain of a rule's timer that was not armed: it need not lead to a decision."""
        due_ns = self.state.timers.due_ns((fired.owner, fired.slot, r.thaw(fired.key)))
        if fired.owner in self.state.active and due_ns != fired.due_ns:
            derived = "no timer" if due_ns is None else f"timer due at {due_ns}"
            self._diverge(fired.owner, sequence, f"timer due at {fired.due_ns}", derived)

    def _expect_no_timer_due(self, sequence: int, at_ns: int) -> None:
        """Complain of timers that should have fired before a record at *at_ns* (law L3)."""
        timers = self.state.timers
        while (
            at_ns >= timers.bound_ns and (first := timers.first()) is not None and first[0] <= at_ns
        ):
            due_ns, timer = first
            if not timer[0]:
                return  # a run's: it is fired late, and that is no rule's doing
            timers.disarm(timer)
            self._diverge(timer[0], sequence, "no timer", f"timer due at {due_ns}")

    def _diverge(
        self,
        rule: str,
        sequence: int,
        recorded: str,
        derived: str,
        sides: tuple[r.Decision | None, r.Decision | None] = (None, None),
    ) -> None:
        divergence = Divergence(rule, sequence, recorded, derived, sides)
        self.divergences.append(divergence)
        self.diverged.setdefault(rule, divergence)
        if rule in self.state.active:
            # Its state is not that of the past any more, so what it would derive from here
            # says nothing.  `RuleDiverged` lets it begin empty.
            self.state.active.discard(rule)
            self.state.decider.deactivate(rule)
            self._expected = [v for v in self._expected if self._rule_of(v) != rule]
            self._derived = [d for d in self._derived if self._rule_of(d) != rule]

    def _rule_of(self, decision: Verdict | r.Decision) -> str:
        if isinstance(decision, (r.RunReleased, r.RunReplaced, r.RunCancelling)):
            run = self.state.runs.active.get(decision.run)
            return run.rule if run is not None else ""
        return decision.rule

    def dump(self) -> bytes:
        """Return the whole state as msgpack, the same bytes for the same state."""
        return _encode({"sequence": self.sequence, **self.state.dump()})


def _text_of(decision: r.Decision) -> str:
    """Return *decision* as it is compared and shown: all but the words of an error."""
    kind = r.KIND_BY_TYPE[type(decision)]
    fields = [
        f"{name}={r.thaw(value) if name == 'key' else value!r}"
        for name in decision.__struct_fields__
        if name != "error" and (value := getattr(decision, name)) is not None
    ]
    return f"{kind}({', '.join(fields)})"
