"""`WarmUp`: a rule that sees stored events before it is put in force, without effects.

For a rule that is new or changed and is not to begin empty.  What it makes of the past is a
pure function of the records, so a fold of the log that meets the record which put the rule
in force comes to the same state.  Its firings in the past are nobody's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from headrace.engine import record as r
from headrace.engine.decider import Decider, Matched, Verdict
from headrace.engine.timers import Timers
from headrace.engine.verdicts import CLEAR

ENTRIES_AT_ONCE: Final = 1000


class WarmUp:
    """One rule, with timers of its own, over records of the past."""

    def __init__(self, decider: Decider, rule: str, sources: list[str]) -> None:
        """Take *decider*, which has *rule* and no other; nothing else uses it."""
        self.rule = rule
        self._decider = decider
        self._timers = Timers()
        self._started_ns = 0
        self._is_active = False
        self.standing: dict[Any, tuple[int, int]] = {}
        """The alarms that would stand, by key: since when, and how often it has fired."""
        self._decider.attach(self._timers, sources)

    def feed(self, records: Iterable[tuple[int, r.Record]]) -> None:
        """Let the rule see *records*, ``(sequence, record)``."""
        for sequence, record in records:
            if isinstance(record, (r.UnknownRecord, r.DECISION_KINDS)):
                continue
            if type(record) is r.EngineStarted:
                self._started_ns = record.at_ns
                self._decider.note_start(record.at_ns)
            if type(record) not in r.UNTIMED or type(record) is r.EngineStarted:
                self.advance(record.at_ns)
            if type(record) is r.EventStored:
                self._note(self._decider.on_event(sequence, record), record.at_ns)

    def advance(self, at_ns: int) -> None:
        """Fire the rule's timers that are due by *at_ns* (law L3)."""
        if not self._is_active:
            self._is_active = True
            self._decider.activate(self.rule, at_ns)
        timers, decider = self._timers, self._decider
        while (first := timers.first()) is not None and first[0] <= at_ns:
            due_ns, timer = first
            owner, slot, key = timer
            missed = 0
            if due_ns < self._started_ns:
                missed = decider.missed(owner, slot, key, due_ns=due_ns, until_ns=self._started_ns)
            timers.disarm(timer)
            self._note(decider.on_timer(owner, slot, key, due_ns=due_ns, missed=missed), due_ns)

    def _note(self, verdicts: Iterable[Verdict], at_ns: int) -> None:
        """See which alarms stand by now."""
        for verdict in verdicts:
            if type(verdict) is Matched and CLEAR in verdict.policy.tasks:
                reason = None if verdict.details is None else verdict.details.reason
                if reason == CLEAR:
                    self.standing.pop(verdict.key, None)
                elif reason is None:
                    since_ns, count = self.standing.get(verdict.key, (at_ns, 0))
                    self.standing[verdict.key] = since_ns, count + 1
            elif type(verdict) is r.RuleEvicted and verdict.alarm:
                self.standing.pop(verdict.key, None)

    def hand_over(self, decider: Decider, timers: Timers) -> None:
        """Give *decider*, in which the rule is active, the state that it has come to."""
        counters, stages = self._decider.write_out()
        # What activating it has armed is as it would be without a past.
        timers.disarm_owner(self.rule)
        decider.deactivate(self.rule)
        decider.resume(self.rule, counters[self.rule])
        for (rule, stage), writing in stages.items():
            while entries := writing.step(ENTRIES_AT_ONCE):
                decider.load(rule, stage, r.as_stored(entries))
        _, armed = self._timers.dump()
        for owner, slot, key, due_ns, _ in armed:
            timers.arm((owner, slot, key), due_ns)
