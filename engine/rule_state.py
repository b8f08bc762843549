"""The part of the engine's state that is about rules: which are in force, and what became of them.

A rule is in force by a record: of a start, or of a change while the engine ran.  It takes
events only if it is declared today just as that record says (law L8).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from headrace.engine import record as r
from headrace.engine.alarms import Alarm, Alarms
from headrace.engine.decider import Decider, Verdict
from headrace.engine.errors import SegmentGone
from headrace.engine.lifecycle import Lifecycle
from headrace.engine.timers import Timers
from headrace.engine.verdicts import CLEAR
from headrace.engine.warm import WarmUp

ReadBack = Callable[[int, int], Iterable[tuple[int, r.Record]]]
"""Reads the stored records from a sequence to another, both included."""


class RuleStats(Struct):
    """What became of a rule's events so far, by recorded decisions."""

    fired: int = 0
    dropped: int = 0
    mismatched: int = 0
    errors: int = 0
    evicted: int = 0
    loops: int = 0
    last_fired_at_ns: int = 0
    late: int = 0
    missed: int = 0
    paused: int = 0
    history: int = 0


class RuleState:
    """The rules in force.  Changes by records only."""

    def __init__(self, decider: Decider) -> None:
        self.decider = decider
        self.at_ns = 0
        """Log time: that of the last input."""
        self.started_at_ns = 0
        self.events = 0
        self.sources: list[str] = []
        self.timers = Timers()
        self.lifecycle = Lifecycle(decider.wants)
        self.declared = decider.fingerprints()
        self.rules: dict[str, str] = {}
        """Fingerprint by rule, as the last start and later changes recorded them."""
        self.active: set[str] = set()
        """Rules whose declared fingerprint is the recorded one: they take events."""
        self.paused: set[str] = set()
        """Rules that start no runs."""
        self.history = ""
        """While events are from before the engine took part: where they come from."""
        self.history_from = 0
        """How many events there were from outside, and of runs, when that began."""
        self.stats: dict[str, RuleStats] = {}
        self.alarms = Alarms()
        self.listed = r.RulesListed(0, {})
        """What was listed ahead of the next start."""
        self.seen_from: dict[str, int] = {}
        """Of rules that did not begin empty, the first record that they saw, if it is not 1."""
        self.read_back: ReadBack | None = None
        """How to read the log once more, for a rule that does not begin empty."""
        self.prepared: dict[str, WarmUp] = {}
        """Rules that were brought to where they begin, by whoever is about to put them in force."""
        self.cold: list[str] = []
        """Rules that were not to begin empty, but the records for that are gone."""
        decider.attach(self.timers, self.sources)

    @property
    def wants_own(self) -> bool:
        """Whether anybody may want an event of the engine's own."""
        return self.decider.wants_own

    # ------------------------------------------------------------ in force

    def put_in_force(self, sequence: int, started: r.EngineStarted) -> None:
        """Let the rules of a start be those in force."""
        rules = {**self.listed.rules, **started.rules}
        warm = {**self.listed.warm, **started.warm}
        self.listed = r.RulesListed(0, {})
        for rule in [rule for rule in self.rules if rule not in rules]:
            self._set_rule(sequence, rule, None)
            self.paused.discard(rule)
        # Sorted, since the log does not keep their order, and activation arms timers.
        for rule, fingerprint in sorted(rules.items()):
            # One that is as it was sees the log once more after it has diverged.
            if self.rules.get(rule) != fingerprint or rule in warm:
                self._set_rule(sequence, rule, fingerprint, warm=warm.get(rule, 0))
            self.stats.setdefault(rule, RuleStats())
        self.rules = rules

    def _set_rule(
        self, sequence: int, rule: str, fingerprint: str | None, *, warm: int = 0
    ) -> None:
        """Put *rule* into force as recorded: with today's declaration only if it is that."""
        if rule in self.active:
            self.active.discard(rule)
            self.decider.deactivate(rule)
        self.alarms.end_rule(rule)
        self.seen_from.pop(rule, None)
        if fingerprint is None or self.declared.get(rule) != fingerprint:
            return
        self.active.add(rule)
        self.decider.activate(rule, self.at_ns)
        if warm:
            prepared = self.prepared.pop(rule, None) or self._warmed(rule, warm, sequence)
            if prepared is None:
                self.cold.append(rule)
            else:
                prepared.advance(self.at_ns)
                prepared.hand_over(self.decider, self.timers)
                if warm > 1:
                    self.seen_from[rule] = warm
                for key, (since_ns, count) in prepared.standing.items():
                    self.alarms.put(Alarm(rule, key, sequence, since_ns, count))

    def _warmed(self, rule: str, first: int, sequence: int) -> WarmUp | None:
        """Let *rule* see the stored events from *first* on, before *sequence*.

        Returns ``None`` if they cannot be read any more.
        """
        if self.read_back is None:
            return None
        warm_up = WarmUp(self.decider.alone(rule), rule, self.sources)
        try:
            warm_up.feed(self.read_back(first, sequence - 1))
        except SegmentGone:
            return None
        return warm_up

    def rules_listed(self, _: int, listed: r.RulesListed) -> Sequence[Verdict]:
        """See `RulesListed`."""
        before = r.RulesListed(0, {}) if listed.is_first else self.listed
        self.listed = r.RulesListed(
            listed.at_ns, {**before.rules, **listed.rules}, {**before.warm, **listed.warm}
        )
        return ()

    def rule_changed(self, sequence: int, changed: r.RuleChanged) -> Sequence[Verdict]:
        """See `RuleChanged`."""
        rule, fingerprint = changed.rule, changed.fingerprint
        if fingerprint is None:
            self.rules.pop(rule, None)
            self.paused.discard(rule)
        else:
            self.rules[rule] = fingerprint
            self.stats.setdefault(rule, RuleStats())
        self._set_rule(sequence, rule, fingerprint, warm=changed.warm)
        data = {"rule": rule, "fingerprint": fingerprint, "cause": changed.cause}
        self._owe("changed", rule, trace=sequence, hops=1, data=data)
        return ()

    def rule_paused(self, sequence: int, paused: r.RulePaused) -> Sequence[Verdict]:
        """See `RulePaused`."""
        rule = paused.rule
        if rule in self.rules and (rule in self.paused) is not paused.paused:
            (self.paused.add if paused.paused else self.paused.discard)(rule)
            kind = "paused" if paused.paused else "resumed"
            data = {"rule": rule, "reason": paused.reason}
            self._owe(kind, rule, trace=sequence, hops=1, data=data)
        return ()

    def rule_diverged(self, sequence: int, diverged: r.RuleDiverged) -> Sequence[Verdict]:
        """See `RuleDiverged`."""
        if diverged.rule in self.rules:
            self._set_rule(sequence, diverged.rule, self.rules[diverged.rule])
        return ()

    def history_began(self, _: int, began: r.HistoryBegan) -> Sequence[Verdict]:
        """See `HistoryBegan`."""
        self.history = began.source
        self.history_from = self.events - self.lifecycle.stored
        return ()

    @property
    def history_count(self) -> int:
        """How many events of the past were stored since it began."""
        return self.events - self.lifecycle.stored - self.history_from

    def history_ended(self, _: int, ended: r.HistoryEnded) -> Sequence[Verdict]:
        """See `HistoryEnded`."""
        self.history = ""
        return ()

    def alarm_acknowledged(self, sequence: int, known: r.AlarmAcknowledged) -> Sequence[Verdict]:
        """See `AlarmAcknowledged`."""
        rule, key = known.rule, r.thaw(known.key)
        alarm = self.alarms.find(rule, key)
        if alarm is not None:
            self.alarms.put(
                replace(alarm, acknowledged_at_ns=self.at_ns, by=known.by, note=known.note)
            )
            data = {"rule": rule, "key": known.key, "by": known.by, "note": known.note}
            self._owe("acknowledged", rule, trace=sequence, hops=1, data=data)
        return ()

    # ------------------------------------------------------------ what became of their events

    def note_fired(self, sequence: int, fired: r.RuleFired) -> None:
        """Count a firing; raise or end an alarm; owe the event about it."""
        rule, outcome, details = fired.rule, fired.outcome, fired.details
        stats = self.stats_of(rule)
        stats.fired += 1
        stats.last_fired_at_ns = self.at_ns
        if outcome != "run" and outcome != "waiting":
            setattr(stats, outcome, getattr(stats, outcome) + 1)
        if details is not None:
            if details.alarm:
                self._raise(sequence, fired)
            elif details.reason == CLEAR:
                self.alarms.end(rule, fired.key)
        if self.wants_own and self.lifecycle.wants(f"rule.fired.{rule}"):
            data = {"firing": sequence, "rule": rule, "key": fired.key, "outcome": outcome}
            if details is not None and details.reason is not None:
                data["reason"] = details.reason
            self._owe("fired", rule, trace=fired.trace or sequence, hops=fired.hops, data=data)

    def _raise(self, sequence: int, fired: r.RuleFired) -> None:
        standing = self.alarms.find(fired.rule, fired.key)
        if standing is None:
            self.alarms.put(Alarm(fired.rule, fired.key, sequence, self.at_ns))
        else:
            self.alarms.put(replace(standing, count=standing.count + 1))

    def note_evicted(self, evicted: r.RuleEvicted) -> None:
        """Count it; an automaton that is gone ends no alarm any more."""
        self.stats_of(evicted.rule).evicted += 1
        if evicted.alarm:
            self.alarms.end(evicted.rule, r.thaw(evicted.key))

    def note_mismatch(self, decision: r.RuleMismatch | r.RuleError, cause: r.Input) -> None:
        """Count an event that a rule could not read, or whose condition failed; owe the event."""
        stats = self.stats_of(decision.rule)
        if type(decision) is r.RuleMismatch:
            stats.mismatched += 1
        else:
            stats.errors += 1
        kind = "mismatch" if type(decision) is r.RuleMismatch else "error"
        data = {"rule": decision.rule, "event": decision.event, "error": decision.error}
        self._owe_about(kind, data, cause, "error", "mismatch")

    def note_late(self, late: r.RuleLate, cause: r.Input) -> None:
        """Count an event that came too late; owe the event about it."""
        self.stats_of(late.rule).late += 1
        data = {
            "rule": late.rule,
            "event": late.event,
            "time_ns": late.time_ns,
            "watermark_ns": late.watermark_ns,
        }
        self._owe_about("late", data, cause, "late")

    def _owe_about(self, kind: str, data: dict[str, Any], cause: r.Input, *about: str) -> None:
        """Owe an event about an event, unless that is itself one of the kinds *about*.

        A rule that fails on the event about its failure would go on for ever.
        """
        event: int = data["event"]
        trace, hops = event, 1
        if type(cause) is r.EventStored:
            if cause.subject.startswith(tuple([f"rule.{one}." for one in about])):
                return
            trace, hops = cause.trace or event, cause.hops + 1
        self._owe(kind, data["rule"], trace=trace, hops=hops, data=data)

    def _owe(self, kind: str, rule: str, *, trace: int, hops: int, data: dict[str, Any]) -> None:
        self.lifecycle.owe(f"rule.{kind}.{rule}", run=0, trace=trace, hops=hops, data=data)

    def stats_of(self, rule: str) -> RuleStats:
        """Return what is counted for *rule*, to be changed."""
        stats = self.stats.get(rule)
        if stats is None:
            stats = self.stats[rule] = RuleStats()
        return stats

    def dump_rules(self) -> dict[str, Any]:
        """Return the state as data that msgspec encodes."""
        return {
            "rules": self.rules,
            "active": sorted(self.active),
            "paused": sorted(self.paused),
            "history": [self.history, self.history_from],
            "listed": [sorted(self.listed.rules.items()), sorted(self.listed.warm.items())],
            "seen_from": sorted(self.seen_from.items()),
            "stats": self.stats,
            "alarms": self.alarms.dump(),
            "automata": self.decider.dump(),
        }
