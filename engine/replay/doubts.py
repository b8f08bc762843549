"""What is asked once a replay has found a difference: how many there are, and whether a rule
makes the same of the same log each time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from msgspec import Struct
from msgspec.structs import replace

from headrace.engine.decider import Decider
from headrace.engine.replay.stretch import Stretch
from headrace.engine.replay.whatif import WhatIf


class Doubts(Struct, frozen=True):
    """What two more passes over the log came to."""

    by_rule: dict[str, int]
    """How many firings of a rule differ, where it has gone on as today's conditions say."""
    unsteady: list[str]
    """Rules that made other firings in the second pass than in the first."""


def count_all(stretch: Stretch, decider: Callable[[], Decider], rules: Collection[str]) -> Doubts:
    """Count the firings of *rules* that differ; see which are not deterministic."""
    quiet = replace(stretch, progress=lambda _sequence: None)
    one, other = (WhatIf(quiet, decider(), shown_max=0) for _ in range(2))
    counted, _ = one.result(), other.result()
    by_rule = {
        rule: found.differ
        for rule, found in sorted(counted.rules.items())
        if rule in rules and found.differ
    }
    first, second = one.firings_by_rule(), other.firings_by_rule()
    unsteady = [rule for rule in sorted(rules) if first.get(rule) != second.get(rule)]
    return Doubts(by_rule, unsteady)
