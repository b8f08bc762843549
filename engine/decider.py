"""`Decider`: what the kernel asks of whoever knows the rules.

The engine does not know patterns.  `headrace.triggers` implements this protocol; `NoRules`
is for reading a log without its app.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from msgspec import Struct

from headrace.engine.emission import Checked
from headrace.engine.event import Event
from headrace.engine.projected import Folded
from headrace.engine.record import (
    Details,
    EventStored,
    RuleError,
    RuleEvicted,
    RuleLate,
    RuleMismatch,
)
from headrace.engine.table import Writing
from headrace.engine.timers import Timers


class Queue(Struct, frozen=True):
    """A run mode: firings wait for their turn, at most *max* of one rule and key."""

    max: int = 10
    overflow: Literal["drop_new", "drop_old"] = "drop_new"


RunMode = Literal["parallel", "single", "restart", "latest"] | Queue


class Policy(Struct, frozen=True):
    """What a rule says of its runs, apart from its pattern."""

    mode: RunMode
    late_ns: int | None = None
    """A timer that was due in a downtime fires only if it is late by less; ``None``: always."""
    tasks: dict[str, str] = {}
    """The task that a firing of some reason starts instead of the rule's action, by reason."""

    @property
    def is_plain(self) -> bool:
        """Whether it says nothing: each firing starts the rule's action."""
        return self.mode == "parallel" and self.late_ns is None and not self.tasks


class Matched(Struct, frozen=True, gc=False):
    """A rule's pattern was met.  What becomes of it is for the kernel to say."""

    rule: str
    key: Any
    events: list[int]
    """Sequences of the events that met it, oldest first."""
    policy: Policy
    due_ns: int | None = None
    branches: list[int] | None = None
    trace: int = 0
    hops: int = 0
    details: Details | None = None
    """What only some patterns have to say."""


Verdict = Matched | RuleMismatch | RuleError | RuleEvicted | RuleLate


class Watched(Struct, frozen=True):
    """A pattern that a run waits for, ready to be used once."""

    decider: Decider
    """Has it as its only rule, not active yet."""
    rule: str
    subjects: list[str]
    """Of the events that it has to see; empty: only time meets it."""
    text: str
    """As the user wrote it, as far as that can be said."""
    digest: bytes
    """Stands for all that decides when it is met."""


class Decider(Protocol):
    """The automata of all rules: pure over what they are told, with no clock of their own.

    All of their state changes in these calls, so that a fold of the log rebuilds it.
    """

    wants_own: bool
    """Whether any rule may want events of the engine's own; if not, `wants` need not be asked."""

    def fingerprints(self) -> dict[str, str]:
        """Return the fingerprint of every declared rule, in the order of declaration."""
        ...

    def warm(self) -> set[str]:
        """Return the rules that, when they are new or changed, are not to begin empty."""
        ...

    def alone(self, rule: str) -> Decider:
        """Return another decider that has *rule* and nothing else."""
        ...

    def only(self, rule: Any) -> Decider:
        """Return another decider that has *rule*, as `declare` takes it, and nothing else."""
        ...

    def declare(self, rule: Any) -> str:
        """Take another rule, or another version of one that is not active; return its fingerprint.

        It comes after all others in order.
        """
        ...

    def retract(self, rule: str) -> None:
        """Forget the declaration of *rule*, which is not active."""
        ...

    def watched(self, pattern: Any) -> Watched:
        """Return *pattern* for a run that waits for it.

        Raises:
            TypeError: it is none.
        """
        ...

    def attach(self, timers: Timers, sources: list[str]) -> None:
        """Use *timers* from now on; *sources* names the sources by number."""
        ...

    def let_go(self) -> None:
        """Be of no use until the next `attach`: what rules are made of holds each other."""
        ...

    def activate(self, rule: str, at_ns: int) -> None:
        """Let *rule* take events from now on; it starts empty."""
        ...

    def deactivate(self, rule: str) -> None:
        """Let *rule* take no more events; its state and its timers are dropped."""
        ...

    def note_start(self, at_ns: int) -> None:
        """Note that an engine has started: what was due before is overdue."""
        ...

    def on_event(self, sequence: int, event: EventStored) -> Sequence[Verdict]:
        """Advance all active rules by one event; verdicts in the order of declaration."""
        ...

    def on_plain(
        self, sequence: int, at_ns: int, events: Sequence[Checked], start: int
    ) -> tuple[int, Sequence[Verdict]]:
        """As `on_event` of *events* from *start* on, up to and with the first that has verdicts.

        Of the events only subject and data are known; the first has *sequence*.  Returns how many
        these are, and the verdicts.
        """
        ...

    def on_timer(
        self, rule: str, slot: int, key: Any, *, due_ns: int, missed: int
    ) -> Sequence[Verdict]:
        """Advance *rule* by a timer of its own that was due."""
        ...

    def missed(self, rule: str, slot: int, key: Any, *, due_ns: int, until_ns: int) -> int:
        """Return how many due times from *due_ns* on, before *until_ns*, lead to no firing.

        It is asked of a timer that was due in a downtime, which ended at *until_ns*.  The
        answer is recorded, and comes back in `on_timer`: that is all that a fold is told.
        """
        ...

    def wants(self, subject: str) -> bool:
        """Say whether any active rule's pattern matches *subject*."""
        ...

    def recent(self, sequence: int) -> EventStored | None:
        """Return a matched event if it is still in memory.  A cache, not state."""
        ...

    def view(self, rule: str, sequence: int, event: EventStored) -> Event[Any] | None:
        """Return *event* with the type that *rule* reads it as; ``None`` if it fits none."""
        ...

    def projection(self, which: Any) -> str:
        """Return what the log calls a projection, which is given as its function or its name.

        Raises:
            TypeError, RuleNotFound: it is none.
        """
        ...

    def folded(self, rule: str) -> Folded[Any]:
        """Return what a projection, as the log calls it, has made of the events."""
        ...

    def counters(self) -> dict[str, dict[str, int]]:
        """Return what each rule has counted without recording it (``keys``, ``unkeyed`` …)."""
        ...

    def dump(self) -> Any:
        """Return the state of all automata as data that msgspec encodes."""
        ...

    def write_out(self) -> tuple[dict[str, dict[str, int]], dict[tuple[str, int], Writing]]:
        """Begin to write out the state of all active rules.

        Returns what each rule has counted, and its stages' state by ``(rule, number)``.
        """
        ...

    def resume(self, rule: str, counters: dict[str, int]) -> None:
        """Let *rule* take events from now on; its state is loaded, its timers are armed."""
        ...

    def load(self, rule: str, stage: int, entries: list[Any]) -> None:
        """Take in state of *rule* that was written out."""
        ...


class NoRules:
    """A `Decider` without rules: recorded decisions hold and nothing is derived."""

    wants_own = False

    def fingerprints(self) -> dict[str, str]:
        """See `Decider`."""
        return {}

    def warm(self) -> set[str]:
        """See `Decider`."""
        return set()

    def alone(self, rule: str) -> Decider:
        """See `Decider`."""
        raise KeyError(rule)

    def only(self, rule: Any) -> Decider:
        """See `Decider`."""
        raise TypeError(f"no rule can be declared here: {rule!r}")

    def declare(self, rule: Any) -> str:
        """See `Decider`."""
        raise TypeError(f"no rule can be declared here: {rule!r}")

    def retract(self, rule: str) -> None:
        """See `Decider`."""

    def watched(self, pattern: Any) -> Watched:
        """See `Decider`."""
        raise TypeError(f"no pattern can be waited for here: {pattern!r}")

    def attach(self, timers: Timers, sources: list[str]) -> None:
        """See `Decider`."""

    def let_go(self) -> None:
        """See `Decider`."""

    def activate(self, rule: str, at_ns: int) -> None:
        """See `Decider`."""

    def deactivate(self, rule: str) -> None:
        """See `Decider`."""

    def note_start(self, at_ns: int) -> None:
        """See `Decider`."""

    def on_event(self, sequence: int, event: EventStored) -> Sequence[Verdict]:
        """See `Decider`."""
        return ()

    def on_plain(
        self, sequence: int, at_ns: int, events: Sequence[Checked], start: int
    ) -> tuple[int, Sequence[Verdict]]:
        """See `Decider`."""
        return len(events) - start, ()

    def on_timer(
        self, rule: str, slot: int, key: Any, *, due_ns: int, missed: int
    ) -> Sequence[Verdict]:
        """See `Decider`."""
        return ()

    def missed(self, rule: str, slot: int, key: Any, *, due_ns: int, until_ns: int) -> int:
        """See `Decider`."""
        return 0

    def wants(self, subject: str) -> bool:
        """See `Decider`."""
        return False

    def recent(self, sequence: int) -> EventStored | None:
        """See `Decider`."""
        return None

    def view(self, rule: str, sequence: int, event: EventStored) -> Event[Any] | None:
        """See `Decider`."""
        return None

    def projection(self, which: Any) -> str:
        """See `Decider`."""
        raise TypeError(f"no projection is known here: {which!r}")

    def folded(self, rule: str) -> Folded[Any]:
        """See `Decider`."""
        raise KeyError(rule)

    def counters(self) -> dict[str, dict[str, int]]:
        """See `Decider`."""
        return {}

    def dump(self) -> Any:
        """See `Decider`."""
        return []

    def write_out(self) -> tuple[dict[str, dict[str, int]], dict[tuple[str, int], Writing]]:
        """See `Decider`."""
        return {}, {}

    def resume(self, rule: str, counters: dict[str, int]) -> None:
        """See `Decider`."""

    def load(self, rule: str, stage: int, entries: list[Any]) -> None:
        """See `Decider`."""
