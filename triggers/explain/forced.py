"""What an event would have led to, had a condition held that turned it down.

Found out, not guessed: a copy of the rule, with the state of the event's key, is given the
event once more, with that condition taken out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from headrace.engine.decider import Matched
from headrace.engine.record import EventStored, as_stored
from headrace.engine.state import EngineState
from headrace.engine.timers import Timers
from headrace.triggers.dedupe import Dedupe
from headrace.triggers.entry import KEY
from headrace.triggers.explain.notes import TracedStep
from headrace.triggers.explain.operators import stages_of
from headrace.triggers.explain.tracing import TracedRules, _Probe
from headrace.triggers.sequence import SequenceStage
from headrace.triggers.stages import Where


class Copy:
    """A rule with the state that it had for some keys, to be given one event."""

    def __init__(
        self, rules: TracedRules, state: EngineState, rule: str, keys: Iterable[Any]
    ) -> None:
        """Copy what *rule* holds for *keys* in *state*, which *rules* belong to."""
        self._rule = rule
        self._declared = rules._rules[rule]
        self._sources = list(state.sources)
        self._started_ns = state.started_at_ns
        automaton = rules._automata[rule]
        self._counters = dict(automaton.counters)
        self._entries: list[list[Any]] = []
        self._timers: list[tuple[int, Any, int]] = []
        wanted = list(dict.fromkeys(keys))
        for _, stage in stages_of(automaton, self._declared.pattern.node):
            self._entries.append(as_stored(_entries(stage, wanted)))
        for slot in range(len(automaton._timed)):
            for key in wanted:
                due_ns = state.timers.due_ns((rule, slot, key))
                if due_ns is not None:
                    self._timers.append((slot, key, due_ns))

    def fresh(self) -> TracedRules:
        """Return the rule in that state."""
        made = TracedRules([self._declared])
        timers = Timers()
        made.attach(timers, self._sources)
        made.note_start(self._started_ns)
        made.resume(self._rule, self._counters)
        for number, entries in enumerate(self._entries):
            made.load(self._rule, number, entries)
        for slot, key, due_ns in self._timers:
            timers.arm((self._rule, slot, key), due_ns)
        return made

    def forced(
        self, sequence: int, event: EventStored, entry: int | None
    ) -> tuple[bool, TracedStep | None]:
        """Say whether *event* would have met the pattern with nothing to turn it down.

        Conditions are taken out at the *entry* of this number, or, for ``None``, behind
        operators.  Also returned is what its operators would have made of it.
        """
        made = self.fresh()
        automaton = made._automata[self._rule]
        if entry is not None:
            inner = automaton.entries[entry]
            inner.head = tuple(
                (what, function if what == KEY else _true) for what, function in inner.head
            )
        else:
            for where in _wheres(made, self._rule):
                where.condition = _true
            for _, stage in stages_of(automaton, self._declared.pattern.node):
                if isinstance(stage, SequenceStage):
                    steps = stage._conditions.relative
                    steps[:] = [(bit, number, (_true,)) for bit, number, _ in steps]
        verdicts = made.on_event(sequence, event)
        has_fired = any(type(verdict) is Matched for verdict in verdicts)
        return has_fired, made.traces[self._rule].newest


def _true(*_: object) -> bool:
    return True


def _entries(stage: Any, keys: list[Any]) -> list[Any]:
    table = stage._table
    if isinstance(stage, Dedupe):
        wanted = set(keys)
        return [stage.packed(*entry)[0] for entry in table.items() if entry[0][0] in wanted]
    found = ((key, table.peek(key)) for key in keys)
    return [stage.packed(key, state)[0] for key, state in found if state is not None]


def _wheres(rules: TracedRules, rule: str) -> Iterable[Where]:
    """Return the conditions behind operators."""
    automaton = rules._automata[rule]
    firsts: list[Any] = [
        stage for _, stage in stages_of(automaton, rules._rules[rule].pattern.node)
    ]
    firsts += [join for join in automaton.joins if hasattr(join, "_then")]
    found: dict[int, Where] = {}
    for first in firsts:
        then = first._then
        while then is not None:
            if isinstance(then, Where):
                found[id(then)] = then
            then = then.then if isinstance(then, (_Probe, Where)) else getattr(then, "then", None)
    return found.values()
