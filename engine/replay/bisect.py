"""`bisect`: the first record at which two apps part that see the same log.

Both see it from its beginning, as in a what-if, and now and then what stands for the states of
both is compared.  Where it differs first, the stretch before that is gone through again with
finer steps.  So a log is read a few times, and memory does not grow with it.  A difference of
states that goes away again before anything was decided otherwise may be missed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from headrace.engine import record as r
from headrace.engine.decider import Decider
from headrace.engine.errors import LogCorrupt
from headrace.engine.replay.replay import DIGEST_BYTES
from headrace.engine.replay.stretch import Stretch
from headrace.engine.replay.units import Unit
from headrace.engine.replay.whatif import WhatIf

COMPARISONS: Final = 64
"""How often the states are compared in the first pass: their size is what that costs."""
REFINEMENT: Final = 32
"""The steps of each pass are so many times finer than those of the one before."""
FIRED_MAX: Final = 1000
"""Firings between two comparisons that are kept to be shown."""

_encode = msgspec.msgpack.Encoder(order="deterministic").encode
Make = Callable[[], Decider]


class Parted(Struct, kw_only=True):
    """Where two apps part."""

    begun_after: int
    """The sequence of the snapshot that it began at; 0: the log's beginning."""
    last: int = 0
    """The last record that both have seen."""
    at: int | None = None
    """The record of which they make different things; ``None``: there is none."""
    record: r.Input | None = None
    """That record: an input."""
    rules: list[str] = []
    """The rules whose states or firings are not the same from then on."""
    fired: tuple[list[r.RuleFired], list[r.RuleFired]] = ([], [])
    """What the one app and the other fire with it, or by timers before it."""
    damage: LogCorrupt | None = None
    """What ended it before the end of the log, if they have not parted by then."""


def bisect(stretch: Stretch, a: Make, b: Make) -> Parted:
    """Return the first record of *stretch* of which the rules of *a* and *b* make another thing.

    Raises:
        LogMismatch: records are missing that the states follow from.
    """
    step = max(1, stretch.log.committed_sequence // COMPARISONS)
    pair = _Pair(stretch, a, b)
    same_units = pair.run(step, same_units=0)
    quiet = replace(stretch, progress=lambda _sequence: None)
    while pair.parted.at is not None and step > 1:
        step = max(1, step // REFINEMENT)
        pair = _Pair(quiet, a, b)
        same_units = pair.run(step, same_units=same_units)
    return pair.parted


class _Pair:
    """Two apps on their way through the same log, in step."""

    def __init__(self, stretch: Stretch, a: Make, b: Make) -> None:
        self._sides = _Side(stretch, a), _Side(stretch, b)
        self._comparable: list[str] = []
        self.parted = Parted(begun_after=self._sides[0].world.begun_after)

    def run(self, step: int, *, same_units: int) -> int:
        """Go on until they part; compare after each *step* units, but not within *same_units*.

        Returns how many units there were when they were seen to be the same for the last time.
        """
        a, b = self._sides
        unit: Unit | None = None
        for taken, (unit, other) in enumerate(zip(a.units, b.units, strict=True), 1):
            a.take(unit)
            b.take(other)
            self.parted.last = unit[0] + len(unit[2])
            if taken == 1:
                # What is another from the start is how the rule is built: only what it fires tells.
                mine, theirs = a.states(), b.states()
                self._comparable = [rule for rule in mine if mine[rule] == theirs.get(rule)]
            if taken == same_units:
                a.fired.clear()
                b.fired.clear()
            elif taken > same_units and (taken - same_units) % step == 0:
                if self._differ(unit):
                    return same_units
                same_units = taken
        if unit is not None and not self._differ(unit):
            self.parted.damage = a.world.damage
        return same_units

    def _differ(self, unit: Unit) -> bool:
        """Compare both; note where they part if they do."""
        a, b = self._sides
        if a.digest(self._comparable) == b.digest(self._comparable):
            a.fired.clear()
            b.fired.clear()
            return False
        parted = self.parted
        parted.at, parted.record = unit[0], unit[1]
        one, other = a.states(), b.states()
        unlike = {name for name in self._comparable if one[name] != other[name]}
        unlike |= {
            fired.rule
            for mine, theirs in ((a.fired, b.fired), (b.fired, a.fired))
            for fired in mine
            if fired not in theirs
        }
        parted.rules = sorted(unlike)
        parted.fired = list(a.fired), list(b.fired)
        return True


class _Side:
    """One app over the log."""

    def __init__(self, stretch: Stretch, make: Make) -> None:
        self.fired: deque[r.RuleFired] = deque(maxlen=FIRED_MAX)
        """What it has fired since the last comparison, or the last of that."""
        self.world = WhatIf(stretch, make(), shown_max=0, on_fired=self.fired.append)
        self.units = iter(self.world.units)
        self.take = self.world.take

    def states(self) -> dict[str, bytes]:
        """Return what stands for the state of each rule."""
        automata: dict[str, Any] = self.world.state.decider.dump()
        return {rule: _digest(dumped) for rule, dumped in automata.items()}

    def digest(self, rules: list[str]) -> bytes:
        """Return what stands for all that has been fired, the runs, and the states of *rules*."""
        state, automata = self.world.state, self.world.state.decider.dump()
        said = [automata[rule] for rule in rules]
        runs = [list(state.runs.active), state.alarms.dump()]
        return _digest([self.world.fired_digest(), said, runs])


def _digest(plain: Any) -> bytes:
    return blake2b(_encode(plain), digest_size=DIGEST_BYTES).digest()
