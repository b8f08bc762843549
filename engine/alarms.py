"""The alarms that stand: firings of rules that also say when what they told of has ended.

Part of the kernel's state.  An alarm is raised by a firing, stands until one with the reason
``clear`` or until its rule is another, and can be acknowledged meanwhile.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from headrace.engine.record import thaw
from headrace.engine.table import Table, Writing


class Alarm(Struct, frozen=True):
    """One alarm that stands."""

    rule: str
    key: Any
    firing: int
    """Sequence of the firing that raised it; of a rule that did not begin empty and would have
    raised it before, that of the record which put it in force."""
    raised_at_ns: int
    count: int = 1
    """How often the rule has fired since, with that firing."""
    acknowledged_at_ns: int | None = None
    by: str = ""
    """Who acknowledged it."""
    note: str = ""


class Alarms:
    """The alarms that stand, by rule and key."""

    def __init__(self) -> None:
        self._standing: Table[tuple[str, Any], Alarm] = Table()

    def __len__(self) -> int:
        return len(self._standing)

    def find(self, rule: str, key: Any) -> Alarm | None:
        """Return the alarm of *rule* for *key*, as it is or as it is stored, if one stands."""
        try:
            return self._standing.peek((rule, thaw(key)))
        except TypeError:
            return None  # it cannot be hashed, so it is no key

    def all(self) -> list[Alarm]:
        """Return all that stand, in the order in which they were raised."""
        return sorted((alarm for _, alarm in self._standing.items()), key=lambda a: a.firing)

    def put(self, alarm: Alarm) -> None:
        """Let *alarm* stand, in place of the one for its rule and key."""
        self._standing.store((alarm.rule, alarm.key), alarm)

    def end(self, rule: str, key: Any) -> None:
        """Let no alarm of *rule* stand for *key*."""
        self._standing.pop((rule, key))

    def end_rule(self, rule: str) -> None:
        """Let no alarm of *rule* stand."""
        for alarm in self.all():
            if alarm.rule == rule:
                self.end(rule, alarm.key)

    def dump(self) -> list[Any]:
        """Return the whole state as data that msgspec encodes."""
        return [_packed(("", None), alarm)[0] for alarm in self.all()]

    def write_out(self) -> Writing:
        """Begin to write it out."""
        return self._standing.write_out(_packed)

    def load(self, entries: list[Any]) -> None:
        """Take in what was written out."""
        for rule, key, *rest in entries:
            self.put(Alarm(rule, thaw(key), *rest))


def _packed(_: tuple[str, Any], alarm: Alarm) -> tuple[Any, int | None]:
    # That it names a sequence does not keep the record: only the number is shown.
    return [getattr(alarm, name) for name in Alarm.__struct_fields__], None
