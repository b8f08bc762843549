"""What a what-if comes to: the differences, counted by rule and key; some of them in full."""

from __future__ import annotations

from typing import Any, Final, Literal

from msgspec import Struct

from headrace.engine.errors import LogCorrupt
from headrace.engine.record import RuleFired

KEYS_MAX: Final = 10_000
"""Keys that are counted apart, of all rules together; what others have is in their rules' sum."""

What = Literal["appeared", "vanished", "moved", "changed"]
Fate = Literal["recorded", "unknown", "gone", "none"]
"""What is known of a firing's run: the recorded one stands in, nothing does, there would be none
any more, or there is none on either side."""


class Difference(Struct, frozen=True, gc=False):
    """A firing, or a run, that would not be as it was."""

    what: What
    rule: str
    key: Any
    sequence: int
    """Of the recorded firing; for one that appears of the record that it comes with or after."""
    at_ns: int
    """Log time of that."""
    recorded: RuleFired | None
    derived: RuleFired | None
    run: Fate
    why: str = ""
    """What can be said beyond both sides."""
    run_id: int = 0
    """The recorded run that it is about; 0: there is none."""


class Counts(Struct):
    """How many firings are how."""

    same: int = 0
    appeared: int = 0
    vanished: int = 0
    moved: int = 0
    changed: int = 0

    @property
    def differ(self) -> int:
        """How many are not the same."""
        return self.appeared + self.vanished + self.moved + self.changed


class Others(Struct):
    """How often a rule had another decision than a firing: as recorded, and as derived."""

    recorded: int = 0
    derived: int = 0


class Supposed(Struct, kw_only=True):
    """What a what-if came to."""

    begun_after: int
    """The sequence of the snapshot that it began at; 0: the log's beginning."""
    last: int = 0
    """The last record that was seen."""
    events: int = 0
    """Events that the rules were shown, among them those that came anew."""
    total: Counts
    rules: dict[str, Counts]
    keys: dict[tuple[str, Any], Counts]
    """Those that differ, by rule and key."""
    others: dict[tuple[str, str], Others]
    """By rule and kind of decision, such as ``rule.error``."""
    differences: list[Difference]
    """By log time; at most as many as were asked for."""
    runs_unknown: int = 0
    """Runs that would follow, of which nothing is recorded."""
    runs_gone: int = 0
    """Runs that would not be, or not as they were."""
    events_gone: int = 0
    """Events that would not be, since runs that emitted them, or what they tell of, are gone."""
    events_new: int = 0
    """Events about rules and runs that would come anew."""
    kept: list[str] = []
    """Rules that tasks had added, whose firings were taken as recorded."""
    unknown: int = 0
    damage: LogCorrupt | None = None
    digest: str = ""
    """Stands for all firings that were derived, in their order."""

    @property
    def same(self) -> bool:
        """Whether nothing would be another."""
        return not self.total.differ and all(
            other.recorded == other.derived for other in self.others.values()
        )


class Tally:
    """Counts what is found; keeps the first *shown_max* differences."""

    def __init__(self, begun_after: int, shown_max: int) -> None:
        self.result = Supposed(
            begun_after=begun_after,
            total=Counts(),
            rules={},
            keys={},
            others={},
            differences=[],
        )
        self._shown_max = shown_max

    def same(self, rule: str) -> None:
        """Count a firing that is as it was."""
        self.of_rule(rule).same += 1
        self.result.total.same += 1

    def of_rule(self, rule: str) -> Counts:
        """Return the counts of *rule*, to be changed."""
        counts = self.result.rules.get(rule)
        if counts is None:
            counts = self.result.rules[rule] = Counts()
        return counts

    @property
    def has_room(self) -> bool:
        """Whether the next difference would be kept."""
        return len(self.result.differences) < self._shown_max

    def differs(self, found: Difference) -> None:
        """Count a difference, and keep it if there is room."""
        self.count(found.what, found.rule, found.key, found.run)
        if self.has_room:
            self.result.differences.append(found)

    def count(self, what: What, rule: str, key: Any, run: Fate) -> None:
        """Count a difference."""
        result = self.result
        place = (rule, key)
        of_key = result.keys.get(place)
        if of_key is None:
            of_key = Counts()
            if len(result.keys) < KEYS_MAX:
                result.keys[place] = of_key
        of_rule, total = self.of_rule(rule), result.total
        if what == "appeared":
            total.appeared += 1
            of_rule.appeared += 1
            of_key.appeared += 1
        elif what == "vanished":
            total.vanished += 1
            of_rule.vanished += 1
            of_key.vanished += 1
        elif what == "moved":
            total.moved += 1
            of_rule.moved += 1
            of_key.moved += 1
        else:
            total.changed += 1
            of_rule.changed += 1
            of_key.changed += 1
        if run == "unknown":
            result.runs_unknown += 1
        elif run == "gone":
            result.runs_gone += 1

    def other(self, rule: str, kind: str) -> Others:
        """Return the counts of decisions of some *kind*, to be changed."""
        counts = self.result.others.get((rule, kind))
        if counts is None:
            counts = self.result.others[rule, kind] = Others()
        return counts
