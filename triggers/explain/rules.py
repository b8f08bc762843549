"""What all rules of an app hold, as plain data: the automata in a kernel's state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headrace.engine.state import EngineState
from headrace.triggers import nodes as n
from headrace.triggers.automaton import Automaton
from headrace.triggers.explain.holdings import Holding, holdings, keys_of
from headrace.triggers.explain.operators import slot_texts
from headrace.triggers.hit import Hit
from headrace.triggers.ruleset import RuleSet

JSON = dict[str, Any]


def inside(rules: RuleSet, rule: str) -> tuple[Automaton, n.Node]:
    """Return the automaton of *rule* and what it was made of."""
    return rules._automata[rule], rules._rules[rule].pattern.node


def automaton_view(rules: RuleSet, state: EngineState, rule: str) -> JSON:
    """Return what there is to say of *rule* apart from what it holds by key."""
    automaton, node = inside(rules, rule)
    view: JSON = {
        "rule": rule,
        "pattern": node.text(),
        "in_force": rule in state.active,
        "why_not": why_not_in_force(state, rule),
        "operators": [
            {"operator": operator, "keys": keys} for operator, keys in keys_of(automaton, node)
        ],
        "counters": dict(sorted(automaton.counters.items())),
    }
    clock = automaton._clock
    if clock is not None:
        watermark = clock._watermark
        view["watermark_ns"] = watermark.at_ns
        view["waiting"] = len(clock._waiting)
        view["sources"] = {
            name or "local": {"newest_ns": source.newest_ns, "idle": source.is_idle}
            for name, source in sorted(watermark._sources.items())
        }
    return view


def why_not_in_force(state: EngineState, rule: str) -> str | None:
    """Say why *rule*, which is declared today, takes no events there; ``None``: it does."""
    if rule in state.active:
        return None
    recorded = state.rules.get(rule)
    if recorded is None:
        return "it was not in force there"
    if recorded != state.declared.get(rule):
        return "it was another one there: it has changed since"
    return "it had diverged from what was recorded"


def held(rules: RuleSet, rule: str, at_ns: int, keys: tuple[Any, ...] = ()) -> Iterator[Holding]:
    """Yield what *rule* holds at log time *at_ns*; with *keys* only for these."""
    automaton, node = inside(rules, rule)
    if automaton._clock is not None:  # behind it goes another time
        at_ns = automaton._clock._watermark.at_ns or 0
    if not keys:
        yield from holdings(automaton, node, at_ns)
    for key in keys:
        yield from holdings(automaton, node, at_ns, (key,))
    yield from _waiting(automaton, keys)


def _waiting(automaton: Automaton, keys: tuple[Any, ...]) -> Iterator[Holding]:
    """Yield the events that wait for the watermark."""
    if automaton._clock is None:
        return
    table = automaton._clock._waiting._table
    for (at_ns, sequence), hits in sorted(table.items(), key=_turn):
        hit: Hit = hits[0][1]
        if not keys or hit.key in keys:
            yield Holding(
                "event_time",
                hit.key,
                "an event ahead of the watermark",
                "the watermark to pass its time",
                [sequence],
                None,
                at_ns,
            )


def _turn(entry: tuple[tuple[int, int], object]) -> tuple[int, int]:
    return entry[0]


def timer_text(rules: RuleSet, rule: str, slot: int) -> str:
    """Return which operator of *rule* the timer in *slot* is of."""
    if rule not in rules._automata:
        return f"slot {slot}"
    return slot_texts(*inside(rules, rule)).get(slot, f"slot {slot}")


def own_timers(rules: RuleSet, rule: str) -> Iterator[tuple[int, int, Any]]:
    """Yield the timers by event time of *rule*: when they are due, slot and key."""
    automaton, _ = inside(rules, rule)
    if automaton._clock is not None:
        _, armed = automaton._clock.timers.dump()
        for _, slot, key, due_ns, _ in armed:
            yield due_ns, slot, key
