"""`assert_fires`: says in a failing test what a rule made of a timeline, and what was expected."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from headrace.engine.event import Firing
from headrace.testing.timeline import Moment
from headrace.testing.trial import firings
from headrace.triggers.pattern import Pattern
from headrace.triggers.ruleset import Rule

__all__ = ["assert_fires"]

SHOWN_MAX: Final = 20
DATA_CHARS_MAX: Final = 60
AT_PRECISION_S: Final = 1e-6


def assert_fires(
    rule: Pattern[Any] | Rule,
    timeline: Iterable[tuple[float, str, Any] | Moment],
    *,
    at: Sequence[float] | None = None,
    keys: Sequence[Any] | None = None,
    times: int | None = None,
    until: float | None = None,
) -> list[Firing[Any]]:
    """Check when *rule* fires on *timeline*, and return its firings.

    *rule* is a pattern, or a rule of an app: ``app.rules["overheat"]``.  *at* are the seconds
    of all its firings, *keys* their keys, both in order; *times* is how many there are, 0 for
    none.  Without any of them there is one at least.  *until* is as in `firings`.

    Raises:
        AssertionError: they are others; shows them among the events.
        TypeError: *rule* is something else.
    """
    __tracebackhide__ = True
    if not isinstance(rule, (Pattern, Rule)):
        raise TypeError(
            f"assert_fires: expected a pattern or a rule such as app.rules['overheat'], found "
            f"{rule!r}"
        )
    happened = list(timeline)
    found = firings(rule.pattern if isinstance(rule, Rule) else rule, happened, until=until)
    wrong = []
    if at is not None and not _same_times([f.at for f in found], at):
        wrong.append(f"at {_seconds(at)}, found {_seconds([f.at for f in found])}")
    if keys is not None and [f.key for f in found] != list(keys):
        wrong.append(f"keys {list(keys)}, found {[f.key for f in found]}")
    if times is not None and len(found) != times:
        wrong.append(f"{_firings(times)}, found {len(found)}")
    if at is None and keys is None and times is None and not found:
        wrong.append("a firing, found none")
    if wrong:
        name = f"rule {rule.name!r}" if isinstance(rule, Rule) else repr(rule)
        raise AssertionError(
            "\n".join([f"{name}: expected {'; '.join(wrong)}", *_story(happened, found)])
        )
    return found


def _same_times(found: list[float], expected: Sequence[float]) -> bool:
    return len(found) == len(expected) and all(
        abs(a - b) <= AT_PRECISION_S for a, b in zip(found, expected, strict=True)
    )


def _seconds(times: Sequence[float]) -> str:
    return f"[{', '.join(f'{t:.9g}' for t in times)}]"


def _firings(count: int) -> str:
    return "1 firing" if count == 1 else f"{count} firings"


def _story(happened: list[tuple[float, str, Any] | Moment], found: list[Firing[Any]]) -> list[str]:
    """Return what happened, a line each: events, and behind them what fired by then."""
    lines: list[tuple[float, int, str]] = []
    for t, subject, data, *_ in happened:
        shown = repr(data)
        if len(shown) > DATA_CHARS_MAX:
            shown = shown[: DATA_CHARS_MAX - 1] + "…"
        lines.append((t, 0, f"  {t:>10.9g}  {subject}  {shown}"))
    for firing in found:
        key = "" if firing.key is None else f" for {firing.key!r}"
        lines.append((firing.at, 1, f"  {firing.at:>10.9g}  → fires{key}"))
    lines.sort(key=lambda line: line[:2])
    if len(lines) <= SHOWN_MAX:
        return [text for *_, text in lines]
    half = SHOWN_MAX // 2
    left_out = f"  … {len(lines) - 2 * half} more lines …"
    return [text for *_, text in [*lines[:half], (0, 0, left_out), *lines[-half:]]]
