"""`replay_log`: makes a log a regression test of the rules that are declared today."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from headrace.replaying import Log, replay, whatif

if TYPE_CHECKING:
    from headrace.app import App
    from headrace.engine.replay.replay import Replayed
    from headrace.engine.replay.tally import Difference, Supposed

__all__ = ["LogReplayed", "replay_log"]

SHOWN_MAX: Final = 5


class LogReplayed(Struct, frozen=True):
    """What `replay_log` came to."""

    replayed: Replayed
    """Every decision of rules that are as they were, derived again."""
    supposed: Supposed | None
    """What would be another with rules that have changed since; ``None``: none has."""

    @property
    def differences(self) -> list[Difference]:
        """The firings that would be others; the first thousand."""
        return [] if self.supposed is None else self.supposed.differences

    def of(self, rule: str) -> list[tuple[str, Any]]:
        """Return how firings of *rule* differ, by log time: ``("appeared", key)`` and the like."""
        return [(found.what, found.key) for found in self.differences if found.rule == rule]


def replay_log(log: Log, app: App, *, may_differ: Iterable[str] = ()) -> LogReplayed:
    """Check that the rules of *app* decide on what is in *log* as is recorded there.

    Rules that are the same as then have to make every decision again.  Where rules are others,
    or new, no firing may appear, vanish, move or change; but for those of *may_differ*, of
    which the returned differences say what has become.  Nothing is executed or written.

    Raises:
        AssertionError: something differs; says what and where.
        LogUnusable, LogVersion, LogMismatch, LogCorrupt: the log cannot be read to its end.
        ValueError, TypeError: there is no such rule, or *app* is none.
    """
    __tracebackhide__ = True
    allowed = _checked(app, may_differ)
    replayed = replay(log, app)
    if replayed.damage is not None:
        raise replayed.damage
    place = os.fspath(log) if isinstance(log, (str, os.PathLike)) else repr(log)
    if app.rules and len(replayed.unrecorded) == len(app.rules):
        raise AssertionError(
            f"{place}: expected a log of {app!r}, found none of its rules in force there"
        )
    wrong = [d for d in replayed.divergences if d.rule not in allowed]
    lines = [
        f"#{d.sequence} rule {d.rule!r}: recorded {d.recorded}, derived {d.derived}"
        for d in wrong[:SHOWN_MAX]
    ]
    supposed = None
    if replayed.changed or replayed.unrecorded:
        supposed = whatif(log, app)
        lines += _lines_of(supposed, allowed)
    if lines:
        raise AssertionError("\n  ".join([_headline(place, replayed, len(wrong)), *lines]))
    return LogReplayed(replayed, supposed)


def _checked(app: App, may_differ: Iterable[str]) -> set[str]:
    from headrace.app import App

    if not isinstance(app, App):
        raise TypeError(f"replay_log: expected an App, found {app!r}")
    allowed = {may_differ} if isinstance(may_differ, str) else set(may_differ)
    for name in sorted(allowed - set(app.rules)):
        raise ValueError(
            f"replay_log: may_differ: expected rules of {app!r} ({', '.join(sorted(app.rules))}), "
            f"found {name!r}"
        )
    return allowed


def _headline(place: str, replayed: Replayed, wrong: int) -> str:
    changed = sorted({change.rule for change in replayed.changed} | set(replayed.unrecorded))
    if wrong:
        return f"{place}: rules that are as they were decide otherwise (first of each rule):"
    return (
        f"{place}: expected the same firings, found others; not as in the log: "
        f"{', '.join(changed)} (what is meant to differ goes into may_differ):"
    )


def _lines_of(supposed: Supposed, allowed: set[str]) -> list[str]:
    lines = []
    for rule, counts in sorted(supposed.rules.items()):
        if rule in allowed or not counts.differ:
            continue
        parts = [
            f"{count} {what}"
            for what in ("appeared", "vanished", "moved", "changed")
            if (count := getattr(counts, what))
        ]
        first = next((d for d in supposed.differences if d.rule == rule), None)
        where = "" if first is None else f"; first {first.what} at #{first.sequence}"
        key = "" if first is None or first.key is None else f", key {first.key!r}"
        lines.append(f"rule {rule!r}: {', '.join(parts)}{where}{key}")
    for (rule, kind), other in sorted(supposed.others.items()):
        if rule not in allowed and other.recorded != other.derived:
            lines.append(
                f"rule {rule!r}: {kind}: {other.recorded} recorded, {other.derived} derived"
            )
    return lines
