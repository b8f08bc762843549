"""An engine without loop, log, clock and users' code: only what the kernel must be told.

Keeps nothing but bytes of what it stored, so whatever a fold needs must be in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from headrace.engine import record as r
from headrace.engine.clock import NS
from headrace.engine.kernel import Kernel
from headrace.engine.run_state import RunStatus
from headrace.engine.state import HOPS_MAX
from headrace.triggers.pattern import Pattern
from headrace.triggers.ruleset import Rule, RuleSet

R = TypeVar("R", bound=r.Record)
MakeRules = Callable[[], RuleSet]

UNITS_MAX = 5000
"""More than any test needs: an endless loop is a failure, and does not fill the memory."""


def rules(*declared: Rule | Pattern[Any]) -> MakeRules:
    """Return what makes a rule set of *declared*; a bare pattern is rule ``r1``, ``r2`` …."""
    named = [
        rule if isinstance(rule, Rule) else Rule(f"r{number}", rule, "parallel")
        for number, rule in enumerate(declared, 1)
    ]
    return lambda: RuleSet(named)


def raw(data: Any) -> Raw:
    """Return *data* as it is stored."""
    return Raw(msgspec.msgpack.encode(data))


def fold(make_rules: MakeRules, records: Iterable[bytes], *, hops_max: int = HOPS_MAX) -> Kernel:
    """Return a kernel that has read *records* and nothing else."""
    kernel = Kernel(make_rules(), hops_max=hops_max)
    kernel.fold_all(1, r.decode_all(list(records)))
    kernel.finish_fold()
    return kernel


class Shell:
    """Stamps inputs, lets timers go first, pays lifecycle events and keeps the bytes."""

    def __init__(
        self,
        make_rules: MakeRules,
        units: Iterable[Sequence[bytes]] = (),
        *,
        hops_max: int = HOPS_MAX,
    ) -> None:
        """Recover from *units*; `start` comes next."""
        self.make_rules = make_rules
        self.hops_max = hops_max
        self.units: list[list[bytes]] = [list(unit) for unit in units]
        self.kernel = fold(make_rules, self.records, hops_max=hops_max)
        self.made: list[r.Record] = []
        """What was stored since, as the kernel made it."""

    @property
    def records(self) -> list[bytes]:
        """All that is stored."""
        return [record for unit in self.units for record in unit]

    @property
    def at_ns(self) -> int:
        """Log time."""
        return self.kernel.state.at_ns

    def refold(self) -> Kernel:
        """Return a kernel made of the bytes alone."""
        return fold(self.make_rules, self.records, hops_max=self.hops_max)

    def crashed(self, upto_units: int | None = None) -> Shell:
        """Return what comes after a crash that left *upto_units* units (all, if not given)."""
        return Shell(self.make_rules, self.units[:upto_units], hops_max=self.hops_max)

    # ------------------------------------------------------------ inputs

    def start(self, at_ns: int | None = None, *, dedupe_window_ns: int = 600 * NS) -> Shell:
        """Record a start, the divergences that were met, and then fire what is overdue."""
        at_ns = self.at_ns if at_ns is None else at_ns
        rules = self.kernel.state.declared
        self.put(r.EngineStarted(at_ns, "test", "system", dict(rules), dedupe_window_ns))
        self.tick(at_ns)
        for rule, met in list(self.kernel.diverged.items()):
            del self.kernel.diverged[rule]
            self.put(r.RuleDiverged(at_ns, rule, met.sequence, met.recorded, met.derived))
        return self

    def tick(self, at_ns: int) -> int:
        """Fire what is due by *at_ns* (law L3) and return the time of the next record."""
        while (fired := self.kernel.due_timer(at_ns)) is not None:
            self.put(fired)
        return max(at_ns, self.at_ns)

    def emit(self, at_ns: int, subject: str, data: Any = None, **fields: Any) -> int:
        """Store an event; return its sequence."""
        self.tick(at_ns)
        return self.put(r.EventStored(at_ns, subject, raw(data), **fields))

    def put(self, record: r.Input) -> int:
        """Apply and store an input that is stamped; return its sequence."""
        sequence = self._put(record)
        lifecycle = self.kernel.state.lifecycle
        while (owed := lifecycle.next(self.at_ns)) is not None:
            fired = self.kernel.due_timer(self.at_ns)
            self._put(owed if fired is None else fired)
        return sequence

    def _put(self, record: r.Input) -> int:
        assert len(self.units) < UNITS_MAX, "the kernel never stops talking to itself"
        sequence = self.kernel.sequence + 1
        unit = self.kernel.submit(record)
        self.units.append([r.encode(part) for part in unit])
        self.made += unit
        return sequence

    # ------------------------------------------------------------ what there is

    def of_kind(self, kind: type[R]) -> list[R]:
        """Return the stored records of one kind, decoded from their bytes."""
        decoded = (r.decode(stored) for stored in self.records)
        return [record for record in decoded if isinstance(record, kind)]

    def fired(self) -> list[tuple[str, Any, list[int]]]:
        """Return ``(rule, key, events)`` of all firings since this shell began."""
        return [(f.rule, f.key, f.events) for f in self.made if isinstance(f, r.RuleFired)]

    def stats(self, rule: str) -> dict[str, int]:
        """Return what became of a rule's events."""
        found = self.kernel.state.stats.get(rule)
        counted: dict[str, int] = msgspec.to_builtins(found) if found is not None else {}
        return counted


def ns(seconds: float) -> int:
    """Return *seconds* after second 0 as log time."""
    return round(seconds * NS)


def statuses(shell: Shell) -> dict[int, tuple[RunStatus, str | None]]:
    """Open runs by id: their status, and why they are being cancelled."""
    return {run.id: (run.status, run.cancelling) for run in shell.kernel.state.runs.active.values()}


def outcomes(shell: Shell) -> list[str]:
    """Return what became of each firing."""
    return [fired.outcome for fired in shell.of_kind(r.RuleFired)]


def effects(shell: Shell) -> list[tuple[str, int]]:
    """Take what the shell has to carry out."""
    taken = shell.kernel.state.effects
    shell.kernel.state.effects = []
    return [(effect.kind, effect.run) for effect in taken]


def complete(shell: Shell, run: int) -> None:
    """Let a run return."""
    shell.put(r.RunCompleted(shell.at_ns, run, raw(None)))


def check(shell: Shell) -> None:
    """Make sure that the bytes say all that the kernel knows, and that nothing diverges."""
    folded = shell.refold()
    assert folded.divergences == []
    assert folded.dump() == shell.kernel.dump()
