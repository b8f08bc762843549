"""The stages that only the clock drives: `app.every`, `app.cron` and `app.at`.

The state of each is one timer, which the kernel keeps.  Where it goes next follows from
where it was and from the recorded `missed`, so a fold rebuilds it exactly.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from headrace.engine.decider import Verdict
from headrace.triggers.hit import Hit, Need
from headrace.triggers.nodes_clock import AtNode, CatchUp, CronNode, EveryNode, ScheduleNode
from headrace.triggers.stage import Place, Stage

CATCH_UP_MAX: Final = 10_000
"""Firings of one schedule that ``catch_up="all"`` makes up for; before them, one stands for all."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_AT_NS_MAX: Final = 2**63 - 1


class Schedule(ABC):
    """A stage that a timer of its own drives; nothing comes before it.

    ``missed`` of a firing is the number of due times that lead to none and that it stands
    for.  With ``catch_up="none"`` it is never 0 for what was due in a downtime: so the
    timer's record itself says that nothing fires.
    """

    need = Need.NONE

    def __init__(self, place: Place, then: Stage, *, catch_up: CatchUp) -> None:
        self._place = place
        self._then = then
        self._catch_up = catch_up

    @abstractmethod
    def next_ns(self, after_ns: int, skipped: int = 0) -> int | None:
        """Return the due time after *after_ns*, or the one *skipped* due times later."""

    @abstractmethod
    def _between(self, due_ns: int, until_ns: int) -> int:
        """Return how many due times lie after *due_ns* and before *until_ns*."""

    def start(self, at_ns: int) -> None:
        """See `TimedStage`."""
        self._arm(self.next_ns(at_ns))

    def _arm(self, due_ns: int | None) -> None:
        if due_ns is not None:
            self._place.arm(None, due_ns)

    def missed(self, key: Any, due_ns: int, until_ns: int) -> int:
        """See `TimedStage`."""
        count = 1 + self._between(due_ns, until_ns)
        if self._catch_up == "all":
            return max(0, count - CATCH_UP_MAX)
        return count if self._catch_up == "none" else count - 1

    def push(self, hit: Hit, out: list[Verdict]) -> None:  # noqa: B027 (none needs more)
        """See `Stage`; nothing comes before a clock."""

    def fire(self, key: Any, *, due_ns: int, missed: int, out: list[Verdict]) -> None:
        """See `TimedStage`."""
        fires = self._catch_up != "none" or missed == 0
        self._arm(self.next_ns(due_ns, missed if fires else missed - 1))
        if fires:
            self._then.push(Hit(None, due_ns, (), (), 0, 0, due_ns), out)


class Every(Schedule):
    """`app.every`: a grid that begins when the rule is activated."""

    def __init__(self, place: Place, then: Stage, node: EveryNode) -> None:
        super().__init__(place, then, catch_up=node.catch_up)
        self._period_ns = node.period_ns

    def next_ns(self, after_ns: int, skipped: int = 0) -> int | None:
        """See `Schedule`."""
        return after_ns + (skipped + 1) * self._period_ns

    def _between(self, due_ns: int, until_ns: int) -> int:
        return (until_ns - 1 - due_ns) // self._period_ns


class Cron(Schedule):
    """`app.cron`: local times that match an expression."""

    def __init__(self, place: Place, then: Stage, node: CronNode) -> None:
        from headrace.triggers.cron import CronTimes

        super().__init__(place, then, catch_up=node.catch_up)
        self._times = CronTimes(node.expression, node.tz)
        # (due, until, times between them), as last counted: a cache, not state.
        self._counted = (0, 0, 0)

    def next_ns(self, after_ns: int, skipped: int = 0) -> int | None:
        """See `Schedule`."""
        return self._times.next_ns(after_ns, skipped=skipped)

    def _between(self, due_ns: int, until_ns: int) -> int:
        counted_ns, counted_until_ns, count = self._counted
        if until_ns == counted_until_ns and due_ns >= counted_ns:
            # Each of the many firings of `catch_up="all"` asks anew: take off what is gone.
            count -= self._times.count(counted_ns, due_ns + 1)
        else:
            count = self._times.count(due_ns, until_ns)
        self._counted = (due_ns, until_ns, count)
        return count


class At(Schedule):
    """`app.at`: one time."""

    def __init__(self, place: Place, then: Stage, node: AtNode) -> None:
        super().__init__(place, then, catch_up=node.catch_up)
        self._at_ns = node.at_ns

    def start(self, at_ns: int) -> None:
        """See `TimedStage`."""
        if self._at_ns >= at_ns or self._catch_up == "all":
            self._arm(self._at_ns)

    def next_ns(self, after_ns: int, skipped: int = 0) -> int | None:
        """See `Schedule`."""
        return self._at_ns if self._at_ns > after_ns else None

    def _between(self, due_ns: int, until_ns: int) -> int:
        return 0


def schedule_of(node: ScheduleNode, place: Place, then: Stage) -> Schedule:
    """Return the stage that does what *node* says."""
    if isinstance(node, EveryNode):
        return Every(place, then, node)
    if isinstance(node, CronNode):
        return Cron(place, then, node)
    return At(place, then, node)


def at_node(when: datetime | str, catch_up: CatchUp) -> AtNode:
    """Return the node of one time: a datetime with a zone, or a text as in RFC 3339.

    Raises:
        TypeError, ValueError: it says no time, or not which one.
    """
    place = f"at({when!r})" if isinstance(when, str) else f"at({when})"
    said = when
    if isinstance(said, str):
        try:
            said = msgspec.convert(said, datetime)
        except msgspec.ValidationError:
            raise ValueError(
                f"{place}: expected a time such as '2027-03-01T08:00:00Z' or "
                f"'2027-03-01T09:00:00+01:00' (RFC 3339)"
            ) from None
    if not isinstance(said, datetime):
        raise TypeError(f"at({when!r}): expected a datetime or a text such as 2027-03-01T08:00:00Z")
    if said.utcoffset() is None:
        raise ValueError(
            f"{place}: it has no time zone, so it is another time on each machine; "
            f"give a datetime tzinfo=, and end a text with Z or an offset such as +01:00"
        )
    if said.astimezone(UTC).astimezone(said.tzinfo).replace(tzinfo=None) != said.replace(
        tzinfo=None
    ):
        raise ValueError(f"{place}: this time does not exist there: clocks were put forward")
    at_ns = (said - _EPOCH) // timedelta(microseconds=1) * 1000
    if not 0 <= at_ns <= _AT_NS_MAX:
        raise ValueError(f"{place}: expected a year from 1970 to 2261")
    return AtNode(at_ns, check_catch_up("at", catch_up))


def cron_node(expression: str, tz: str, catch_up: CatchUp) -> CronNode:
    """Return the node of a cron expression, which is checked.

    Raises:
        TypeError, ValueError: it cannot work; says where and why.
    """
    if not isinstance(expression, str):
        raise TypeError(f"cron({expression!r}): expected a text such as '0 6 * * MON'")
    if not isinstance(tz, str):
        raise TypeError(f"cron(tz={tz!r}): expected the name of a time zone: 'Europe/Berlin'")
    check_catch_up("cron", catch_up)
    from headrace.triggers.cron import CronTimes

    expression = " ".join(expression.upper().split())
    CronTimes(expression, tz)
    return CronNode(expression, tz, catch_up)


def check_catch_up(place: str, catch_up: CatchUp) -> CatchUp:
    """Return *catch_up*, or refuse it."""
    if catch_up not in ("all", "last", "none"):
        raise ValueError(f"{place}(catch_up={catch_up!r}): expected 'all', 'last' or 'none'")
    return catch_up
