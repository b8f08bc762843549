"""`replay`: derive every firing and timer of a log again, and compare with what was recorded.

Recorded decisions win, as in any fold: a rule that has decided otherwise takes no further
part in it, since its state is not that of the past any more.  How many of its firings differ
in all is said by `headrace.engine.replay.whatif`, which lets it go on.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Final

from msgspec import Raw, Struct

from headrace.engine import record as r
from headrace.engine.decider import Decider
from headrace.engine.errors import LogCorrupt
from headrace.engine.kernel import Divergence, Kernel
from headrace.engine.projected import is_projection
from headrace.engine.replay.stretch import Stretch

SHOWN_MAX: Final = 1000
"""Differences and changes that are kept; all are counted."""
DIGEST_BYTES: Final = 16


class Field(Struct, frozen=True):
    """One field of a decision, as recorded and as derived; ``None``: it says nothing."""

    name: str
    recorded: Any
    derived: Any

    @property
    def differs(self) -> bool:
        """Whether both sides are not the same."""
        return bool(self.recorded != self.derived)


class Changed(Struct, frozen=True):
    """The place from which on a rule was another one than it is today."""

    sequence: int
    rule: str
    is_declared: bool
    """Whether it is declared today at all."""


class Replayed(Struct, kw_only=True):
    """What a replay came to."""

    begun_after: int
    """The sequence of the snapshot that it began at; 0: the log's beginning."""
    last: int = 0
    """The last record that was compared."""
    events: int = 0
    firings: int = 0
    """Firings that are recorded there, of all rules."""
    timers: int = 0
    """Timers that have fired there."""
    divergences: list[Divergence] = []
    """The first of each rule, by sequence; at most `SHOWN_MAX`."""
    diverged: int = 0
    """How many there were of those."""
    changed: list[Changed] = []
    foreign: list[str] = []
    """Rules of the log, if none of them is declared today: then nothing was compared."""
    unrecorded: list[str] = []
    """Rules that are declared, and were never in force in the log."""
    unknown: int = 0
    """Records of kinds that are not known here, which were passed over."""
    damage: LogCorrupt | None = None
    """What ended it before its end: all this is about what is before."""
    digest: str = ""
    """Stands for the whole state at its end: the same wherever and whenever it is replayed."""


def replay(stretch: Stretch, decider: Decider) -> Replayed:
    """Compare the decisions of *stretch* with those of the rules of *decider*.

    Raises:
        LogMismatch: records are missing that the state follows from.
    """
    kernel, problems = stretch.kernel(decider)
    changes = _Changes(decider.fingerprints())
    changes.note(kernel.sequence, kernel.state.rules)
    found = Replayed(begun_after=kernel.sequence)
    fired_before = _fired(kernel)
    events_before = kernel.state.events
    try:
        for first, batch in stretch.batches(kernel, problems):
            found.timers += _fold(stretch, kernel, changes, first, batch)
            _collect(found, kernel)
    except LogCorrupt as damage:
        found.damage = damage
    kernel.finish_fold()
    _collect(found, kernel)
    found.last = kernel.sequence
    found.events = kernel.state.events - events_before
    found.firings = _fired(kernel) - fired_before
    found.changed = changes.found
    found.foreign = changes.foreign()
    in_force = kernel.state.rules
    rules = {rule for rule in decider.fingerprints() if not is_projection(rule)}
    found.unrecorded = sorted(rules - set(in_force)) if in_force else []
    found.unknown = kernel.unknown
    found.digest = digest_of(kernel)
    return found


def _fold(
    stretch: Stretch, kernel: Kernel, changes: _Changes, first: int, batch: list[bytes]
) -> int:
    """Fold *batch*; return how many timers have fired in it."""
    records = r.decode_all(batch, first=first, one=stretch.decode)
    kinds = list(map(type, records))
    if r.EngineStarted in kinds:
        for sequence, record in enumerate(records, first):
            if isinstance(record, r.EngineStarted):
                changes.note(sequence, record.rules)
    kernel.fold_all(first, records)
    kernel.state.effects.clear()  # nobody carries them out
    return kinds.count(r.TimerFired)


def _collect(found: Replayed, kernel: Kernel) -> None:
    """Take over the divergences of *kernel*, which would keep them all."""
    if kernel.divergences:
        found.diverged += len(kernel.divergences)
        found.divergences += kernel.divergences[: SHOWN_MAX - len(found.divergences)]
        kernel.divergences.clear()
    kernel.changed.clear()


def _fired(kernel: Kernel) -> int:
    return sum(stats.fired for stats in kernel.state.stats.values())


class _Changes:
    """Where each stretch begins in which a rule was another one than today."""

    def __init__(self, declared: dict[str, str]) -> None:
        """*declared* are today's fingerprints by rule."""
        self._declared = declared
        self._rules: dict[str, str] = {}
        self._seen: set[str] = set()
        self.found: list[Changed] = []

    def note(self, sequence: int, rules: dict[str, str]) -> None:
        """Look at what is in force from *sequence* on."""
        for rule, fingerprint in rules.items():
            if is_projection(rule):
                continue  # it decides nothing
            self._seen.add(rule)
            today = self._declared.get(rule)
            if fingerprint not in (today, self._rules.get(rule)) and len(self.found) < SHOWN_MAX:
                self.found.append(Changed(sequence, rule, today is not None))
        self._rules = dict(rules)

    def foreign(self) -> list[str]:
        """Return the rules that were seen, if none of them is declared today."""
        return [] if self._seen & self._declared.keys() else sorted(self._seen)


def digest_of(kernel: Kernel) -> str:
    """Return what stands for the whole state of *kernel*."""
    return blake2b(kernel.dump(), digest_size=DIGEST_BYTES).hexdigest()


def fields_of(divergence: Divergence) -> list[Field]:
    """Return both sides of *divergence* field by field, beginning with the kind of decision."""
    recorded, derived = divergence.sides
    if recorded is None and derived is None:
        return [Field("timer", divergence.recorded, divergence.derived)]
    return fields_between(recorded, derived)


def fields_between(recorded: r.Decision | None, derived: r.Decision | None) -> list[Field]:
    """Return two decisions field by field; of one that is not there every field is ``None``."""
    names = ["kind"]
    for side in (recorded, derived):
        if side is not None:
            names += [name for name in side.__struct_fields__ if name not in names]
    rows = [Field(name, _value(recorded, name), _value(derived, name)) for name in names]
    return [row for row in rows if row.recorded is not None or row.derived is not None]


def _value(side: r.Decision | None, name: str) -> Any:
    if side is None:
        return None
    if name == "kind":
        return r.KIND_BY_TYPE[type(side)]
    value = getattr(side, name, None)
    if name == "key":
        return r.thaw(value)
    if isinstance(value, Raw):
        return bytes(value)
    return value
