"""`Why`: why a rule fired on a record, or did not, put together from what was traced.

The sentence first, then each clause with what it saw, what each operator made of the event,
what is open for its key and what has died, and what would have had to be otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from headrace.engine import record as r
from headrace.engine.decider import Matched
from headrace.engine.event import Event
from headrace.engine.projected import is_projection
from headrace.engine.state import EngineState
from headrace.engine.subject import matches
from headrace.triggers import nodes as n
from headrace.triggers.explain.ahead import is_ahead, waited_longer
from headrace.triggers.explain.clauses import (
    ClauseSeen,
    chains_of,
    clause_of,
    clauses_of,
    shown,
)
from headrace.triggers.explain.deaths import Death
from headrace.triggers.explain.forced import Copy
from headrace.triggers.explain.holdings import Holding
from headrace.triggers.explain.notes import Note, TracedStep, in_order
from headrace.triggers.explain.operators import is_inside, own_text, slot_texts, stages_of
from headrace.triggers.explain.outcome import outcome_of, trouble_of
from headrace.triggers.explain.partials import events_of, match_of
from headrace.triggers.explain.rules import held, inside, why_not_in_force
from headrace.triggers.explain.said import NS, Said, said, time_text
from headrace.triggers.explain.states import frozen
from headrace.triggers.explain.tracing import NOTHING, TracedRules
from headrace.triggers.nfa import START
from headrace.triggers.nodes_joined import SequenceNode
from headrace.triggers.reach import relative_conditions
from headrace.triggers.sequence import Partials, SequenceStage

HOLDINGS_MAX: Final = 50
UNKEYED_RECORDS: Final = 20_000
"""Records before the one that is asked about in which all that happens to a rule is noted, if
there is no key by which to choose."""
RULES_MAX: Final = 10
"""Rules that are named where the one that is asked about was not in force."""
MATCHES_MAX: Final = 5
"""Partial matches that a condition on the events taken so far is shown for."""


class EntrySeen(Struct, frozen=True):
    """An ``on(…)`` that takes the event, and what its conditions made of it."""

    on: str
    passes: bool
    clauses: list[ClauseSeen]


class HistoryLine(Struct, frozen=True):
    """An earlier event or timer of the key, and what became of it."""

    sequence: int
    at_ns: int
    text: str


class Why(Struct):
    """Why a rule fired on a record, or did not."""

    rule: str
    pattern: str
    verdict: str = "did not fire"
    """``fired``, ``did not fire``, ``suppressed``, ``not concerned`` or ``not in force``."""
    because: str = ""
    sequence: int = 0
    """Of the input that is explained."""
    at_ns: int = 0
    key: Any = None
    what: str = ""
    """The input in words."""
    data: str | None = None
    firings: list[dict[str, Any]] = []
    """What was recorded of the rule in that step."""
    entries: list[EntrySeen] = []
    operators: list[Said] = []
    open: list[Holding] = []
    died: list[Death] = []
    history: list[HistoryLine] = []
    wishes: list[str] = []
    """What would have had to be so for it to fire: any of these."""
    last: int = 0
    """Of one that did not concern the rule: the last record before that did."""
    looked_back_to: int = 0
    """Sequence behind which the key's past was looked at."""


class Inquiry:
    """One question about one rule, over rules that are traced."""

    def __init__(
        self, rules: TracedRules, rule: str, state: EngineState, keys: tuple[Any, ...] = ()
    ) -> None:
        """Ask about *rule* in *state*, which *rules* belong to; with *keys* about one of these."""
        self._rules = rules
        self._rule = rule
        self._state = state
        self._keys = keys
        self._copy: Copy | None = None
        self._automaton, self._node = inside(rules, rule)

    def begin(self, sequence: int, record: r.Record) -> int:
        """Let only what concerns the keys of *record*, which is asked about later, be noted.

        If it has none, return after which record all is to be noted (`note_all`): near, since
        that costs more; else -1.
        """
        trace = self._rules.traces[self._rule]
        keys = set(self._keys)
        if not keys and isinstance(record, r.EventStored):
            keys = {key for key in self._keys_of(sequence, record) if key is not None}
            is_concerned = any(
                matches(entry.subject, record.subject) for entry in self._automaton.entries
            )
        else:
            is_concerned = isinstance(record, r.TimerFired) and record.owner == self._rule
            if is_concerned and isinstance(record, r.TimerFired) and not keys:
                keys = {r.thaw(record.key)} - {None}
        trace.only = {None, *keys} if keys else NOTHING
        if keys:
            return -1
        return max(0, sequence - UNKEYED_RECORDS) if is_concerned else sequence - 1

    def note_all(self) -> None:
        """From here on note what happens whatever the key."""
        self._rules.traces[self._rule].only = None

    def before(self, sequence: int, record: r.Record) -> None:
        """Look at the state just before *record*, the one that is asked about, is applied."""
        if isinstance(record, r.EventStored) and self._automaton._clock is None:
            keys = self._keys or tuple(self._keys_of(sequence, record))
            self._copy = Copy(self._rules, self._state, self._rule, keys)

    def _keys_of(self, sequence: int, record: r.EventStored) -> list[Any]:
        keys: list[Any] = [None]
        for entry, chain in zip(self._automaton.entries, chains_of(self._node), strict=True):
            event = self._seen(entry, sequence, record)
            if event is not None:
                clauses = clauses_of(self._rule, chain, event)
                keys += [
                    clause.values["key"]
                    for clause in clauses
                    if clause.kind == "key" and clause.passes
                ]
        return keys

    def _seen(self, entry: Any, sequence: int, record: r.EventStored) -> Event[Any] | None:
        """Return *record* as *entry* reads it; ``None``: its subject or its type does not fit."""
        if not matches(entry.subject, record.subject):
            return None
        if record.source > len(self._state.sources):  # it is opened only on the way there
            record = msgspec.structs.replace(record, source=0)
        return self._rules._decoded(entry, sequence, record, [])

    def answer(
        self, sequence: int, record: r.Record, decisions: Sequence[tuple[int, r.Decision]]
    ) -> Why:
        """Say why, once *record* and the *decisions* of its unit were applied."""
        why = Why(self._rule, self._node.text(), sequence=sequence, at_ns=self._state.at_ns)
        why.what = self._what(record)
        if isinstance(record, r.EventStored):
            why.data = shown(msgspec.msgpack.decode(record.data))
        not_in_force = why_not_in_force(self._state, self._rule)
        if not_in_force is not None:
            why.verdict, why.because = "not in force", f"rule {self._rule}: {not_in_force}"
            why.because += f"; {self._what_to_do()}"
            return why
        step = self._step_at(sequence)
        self._fill(why, record, step, decisions)
        self._add_past(why, sequence)
        return why

    def _what_to_do(self) -> str:
        """Return what there was instead of a rule that was not in force, and who can tell more."""
        state = self._state
        if self._rule in state.rules:
            return "`headrace whatif` says what today's would have made of it"
        others = sorted(rule for rule in state.rules if not is_projection(rule))
        more = f" and {len(others) - RULES_MAX} more" if len(others) > RULES_MAX else ""
        there = ", ".join(others[:RULES_MAX]) or "none"
        return f"the rules in force were {there}{more}"

    def _what(self, record: r.Record) -> str:
        if isinstance(record, r.EventStored):
            return f"event on {record.subject}"
        if isinstance(record, r.TimerFired) and record.owner == self._rule:
            slot = slot_texts(self._automaton, self._node).get(record.slot, "")
            return f"timer of {slot}"
        return r.KIND_BY_TYPE[type(record)]

    def _step_at(self, sequence: int) -> TracedStep | None:
        newest = self._rules.traces[self._rule].newest
        if newest is None or newest.sequence != sequence:
            return None
        if self._keys and not set(self._keys) & set(newest.keys):
            return None
        return newest

    # ------------------------------------------------------------ the step that is asked about

    def _fill(
        self,
        why: Why,
        record: r.Record,
        step: TracedStep | None,
        decisions: Sequence[tuple[int, r.Decision]],
    ) -> None:
        outcome = outcome_of(self._state, self._rule, decisions, self._keys)
        why.firings = outcome.firings
        if step is None and not why.firings:
            why.verdict = "not concerned"
            why.because = self._why_not_concerned(record)
            if self._keys:
                self._fill_last(why)
            return
        notes = [] if step is None else step.notes
        if self._keys:
            notes = [note for note in notes if note.key in self._keys]
        for note in in_order(notes):
            why.operators += [*self._relative(note), said(self._rule, note)]
        if step is not None:
            keys = [key for key in step.keys if not self._keys or key in self._keys]
            why.key = next((key for key in keys if key is not None), None)
            self._fill_entries(why, record, step)
        if outcome.because:
            why.verdict, why.because = outcome.verdict, outcome.because
            why.wishes = [outcome.wish] if outcome.wish else []
        else:
            self._fill_refusal(why, record, notes, decisions)

    def _fill_last(self, why: Why) -> None:
        """Say of the key that is asked about what came last of it, and what it waits for."""
        trace = self._rules.traces[self._rule]
        why.key = next((key for key in self._keys if key in trace.by_key), self._keys[0])
        steps = trace.by_key.get(why.key)
        if not steps:
            why.because += f"; nothing of key {shown(why.key)} came before, as far as was looked"
            return
        last = steps[-1]
        why.verdict = "did not fire"
        why.because += (
            f"; the last of key {shown(why.key)} is #{last.sequence}: "
            + self._past_text(last, why.key)
        )
        for holding in held(self._rules, self._rule, self._state.at_ns, (why.key,)):
            until = "" if holding.until_ns is None else f", until {time_text(holding.until_ns)}"
            why.wishes.append(
                f"{holding.operator} had got what it waits for: {holding.waits_for}{until}"
            )

    def _fill_entries(self, why: Why, record: r.Record, step: TracedStep) -> None:
        if not isinstance(record, r.EventStored):
            return
        chains = list(chains_of(self._node))
        for entry, event, _ in step.entries:
            chain = chains[entry.number]
            clauses = clauses_of(self._rule, chain, event)
            passes = all(clause.passes for clause in clauses)
            why.entries.append(EntrySeen(chain[0].text(), passes, clauses))

    def _relative(self, note: Note) -> Iterable[Said]:
        """Return what conditions of steps on the events taken so far make of the event."""
        node, stage = note.node, note.stage
        if not (isinstance(stage, SequenceStage) and isinstance(node, SequenceNode)):
            return
        if note.hit is None or not note.hit.seen or not isinstance(note.before, Partials):
            return
        for number in note.met:
            for where in relative_conditions(node.steps[number].source):
                partials = [one for one in note.before.partials if one is not START]
                for partial in partials[:MATCHES_MAX]:
                    state = stage._nfa.states[partial.state]
                    if not state.care >> number & 1:
                        continue
                    match = match_of(node, partial.node)
                    seen = clause_of(self._rule, where, note.hit.event, match)
                    taken = ", ".join(f"#{one}" for one in events_of(partial.node))
                    text = f"{seen.text}: {seen.verdict}, with {taken} taken so far"
                    verdict = "passes" if seen.passes else "stops"
                    name = f"step {node.steps[number].name!r}"
                    yield Said(name, verdict, text, "" if seen.passes else seen.wish, seen)

    def _why_not_concerned(self, record: r.Record) -> str:
        subjects = sorted({entry.subject for entry in self._automaton.entries})
        wanted = ", ".join(subjects) or "none: only time drives it"
        if isinstance(record, r.EventStored):
            if any(matches(subject, record.subject) for subject in subjects):
                if self._automaton._clock is not None:
                    return "an event is given its key when the watermark passes its time"
                return (
                    f"the event is not of key {shown(self._keys[0])}"
                    if self._keys
                    else ("the rule made nothing of it")
                )
            return f"the subject {record.subject} is none of the rule's: {wanted}"
        return f"it is {self._what(record)}, and neither an event on {wanted} nor the rule's timer"

    # ------------------------------------------------------------ why it did not fire

    def _fill_refusal(
        self,
        why: Why,
        record: r.Record,
        notes: Sequence[Note],
        decisions: Sequence[tuple[int, r.Decision]],
    ) -> None:
        trouble = trouble_of(self._rule, (decision for _, decision in decisions))
        if trouble is not None:
            clauses = [clause for entry in why.entries for clause in entry.clauses]
            raised = next((clause for clause in clauses if clause.verdict == "error"), None)
            why.because = trouble if raised is None else raised.line
            why.wishes = list(waited_longer(self._rule, self._node, decisions))
        elif is_ahead(self._automaton, why.sequence):
            self._fill_ahead(why, notes)
        elif why.entries and not any(one.passes for one in why.entries) and not _took_part(notes):
            self._fill_turned_down(why, record)
            if why.operators:  # of a sequence that wants the very next event
                why.because += f"; {why.operators[-1].operator}: {why.operators[-1].text}"
        elif why.operators:
            refused = (one for one in why.operators if one.clause is not None and one.wish)
            last = next(refused, why.operators[-1])
            if last.verdict == "suppresses":
                why.verdict = "suppressed"
            why.because = f"{last.operator}: {last.text}"
            why.wishes = self._wishes_behind(why, record, last)
            if last is why.operators[-1] and why.wishes:
                why.wishes[-1] += self._suppressed_behind(in_order(notes)[-1])
        else:
            why.because = "the rule made nothing of it"

    def _fill_turned_down(self, why: Why, record: r.Record) -> None:
        lines: list[str] = []
        for entry in why.entries:
            refused = [clause for clause in entry.clauses if not clause.passes]
            lines += [clause.line for clause in refused[:1]]
        why.because = "turned down by " + "; and by ".join(dict.fromkeys(lines))
        if self._copy is None or not isinstance(record, r.EventStored):
            return
        for number, entry in self._entries_there(why, record):
            wishes = [clause.wish for clause in entry.clauses if not clause.passes]
            if any(clause.kind == "key" and not clause.passes for clause in entry.clauses):
                why.wishes += wishes[-1:]
                continue
            has_fired, step = self._copy.forced(why.sequence, record, number)
            wish = " and ".join(wishes)
            if has_fired:
                why.wishes.append(wish)
            elif step is not None and step.notes:
                then = said(self._rule, in_order(step.notes)[-1])
                more = f", and {then.wish}" if then.wish else f"; even then: {then.text}"
                why.wishes.append(f"{wish}{more}")

    def _entries_there(self, why: Why, record: r.EventStored) -> Iterable[tuple[int, EntrySeen]]:
        numbers = [
            entry.number
            for entry in self._automaton.entries
            if matches(entry.subject, record.subject)
        ]
        return zip(numbers, why.entries, strict=False)

    def _wishes_behind(self, why: Why, record: r.Record, last: Said) -> list[str]:
        """Return what would have let it go on behind the first operator."""
        wishes = [last.wish] if last.wish else []
        is_where = last.clause is not None and last.clause.kind == "where"
        if is_where and self._copy is not None and isinstance(record, r.EventStored):
            has_fired, step = self._copy.forced(why.sequence, record, None)
            if not has_fired and step is not None and step.notes:
                then = said(self._rule, in_order(step.notes)[-1])
                wishes = [f"{last.wish}, and {then.wish or then.text}"]
        return [*self._nearest_death(why), *wishes]

    def _nearest_death(self, why: Why) -> list[str]:
        """Return which partial match this event would have taken on, had that not died."""
        trace = self._rules.traces[self._rule]
        step = trace.newest
        met: set[str] = set()
        for note in [] if step is None else step.notes:
            if isinstance(note.node, SequenceNode) and not note.passed:
                met |= {note.node.steps[number].name for number in note.met}
        for death in reversed(trace.deaths.get(why.key, ())):
            if not met & set(death.names) or death.by == why.sequence:
                continue
            taken = ", ".join(f"#{event}" for event in death.events)
            if death.of == "expired":
                late_s = (why.at_ns - death.at_ns) / NS
                by = f"more than {late_s:.9g} s earlier" if late_s else "any earlier"
                return [f"it had come {by}, while {taken} waited for it"]
            if death.until_ns is None or death.until_ns > why.at_ns:
                return [f"#{death.by} had not ended {taken}, which waited for it ({death.of})"]
        return []

    def _suppressed_behind(self, note: Note) -> str:
        """Return what would suppress it all the same behind the operator of *note*; "": nothing."""
        for inner, stage in stages_of(self._automaton, self._node):
            is_behind = inner is not note.node and is_inside(note.node, inner)
            if not (is_behind and isinstance(inner, n.ThrottleNode)):
                continue
            period = frozen(stage, note.key, None)
            if inner.edge == "leading" and period is not None and period.end_ns > note.at_ns:
                ends = time_text(period.end_ns)
                return f", and {own_text(inner)} had not been in a period, which ends at {ends}"
        return ""

    def _fill_ahead(self, why: Why, notes: Sequence[Note]) -> None:
        assert self._automaton._clock is not None
        watermark_ns = self._automaton._clock._watermark.at_ns
        at = "not there yet" if watermark_ns is None else f"at {time_text(watermark_ns)}"
        why.because = f"the event waits for the watermark, which is {at}"
        why.wishes = ["the watermark had passed its time"]
        hits = (note.hit for note in notes if note.hit is not None)
        released = dict.fromkeys(event for hit in hits for event in hit.events)
        if released:
            of = ", ".join(f"#{event}" for event in released)
            why.because += f"; by its time it let go of {of}: {why.operators[-1].text}"

    # ------------------------------------------------------------ what was before

    def _add_past(self, why: Why, sequence: int) -> None:
        trace = self._rules.traces[self._rule]
        keys = self._keys or (() if why.verdict == "not concerned" else (why.key,))
        if why.verdict == "not concerned":
            why.last = trace.last if trace.last < sequence else 0
        for key in keys:
            found = list(held(self._rules, self._rule, self._state.at_ns, (key,)))
            why.open += found[: HOLDINGS_MAX - len(why.open)]
            why.died += trace.deaths.get(key, ())
            for step in trace.by_key.get(key, ()):
                if step.sequence != sequence:
                    text = self._past_text(step, key)
                    why.history.append(HistoryLine(step.sequence, step.at_ns, text))

    def _past_text(self, step: TracedStep, key: Any) -> str:
        """Return what became of an earlier step, in one line."""
        what = f"event on {step.record.subject}" if step.record is not None else "timer"
        matched = [one for one in step.verdicts if getattr(one, "key", key) == key]
        if any(isinstance(one, Matched) for one in matched):
            return f"{what}: met the pattern"
        notes = [note for note in step.notes if note.key == key]
        if notes:
            last = said(self._rule, in_order(notes)[-1])
            return f"{what}: {last.operator}: {last.text}"
        trouble = trouble_of(self._rule, step.verdicts)
        if trouble is not None:
            return f"{what}: {trouble}"
        for entry, event, _ in step.entries:
            chain = list(chains_of(self._node))[entry.number]
            for clause in clauses_of(self._rule, chain, event):
                if not clause.passes:
                    return f"{what}: {clause.line}"
        return f"{what}: waits for the watermark" if self._automaton._clock else what


def step_lines(rule: str, rules: TracedRules, step: TracedStep) -> Iterable[tuple[Any, str]]:
    """Yield what *rule* made of a step: the key, and a line for each operator that took part.

    Of an event that went no further than a condition, what that saw.
    """
    for note in in_order(step.notes):
        told = said(rule, note)
        yield note.key, f"{told.operator}: {told.text}"
    if step.notes:
        return
    _, node = inside(rules, rule)
    chains = list(chains_of(node))
    for entry, event, key in step.entries:
        refused = (one for one in clauses_of(rule, chains[entry.number], event) if not one.passes)
        clause = next(refused, None)
        if clause is not None:
            yield key, clause.line


def _took_part(notes: Sequence[Note]) -> bool:
    """Say whether any operator did more than to see that the event is none of its steps."""
    return any(note.met or not isinstance(note.node, SequenceNode) for note in notes)
