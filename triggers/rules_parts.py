"""From the tables of a rules file to patterns: subjects, conditions, keys, operators, steps."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, Final

from msgspec import Struct

from headrace.triggers.checks import duration_ns
from headrace.triggers.combine import any_of
from headrace.triggers.condition import FieldReader
from headrace.triggers.field import Field
from headrace.triggers.nodes_clock import EveryNode
from headrace.triggers.pattern import Pattern, on
from headrace.triggers.rules_operators import (
    JOINTS,
    Part,
    Takes,
    apply_joint,
    apply_operator,
    arguments,
    names_in,
    operator_tables,
    where_all,
)
from headrace.triggers.rules_places import Path
from headrace.triggers.rules_tables import Table, did_you_mean, one_of
from headrace.triggers.schedules import at_node, cron_node
from headrace.triggers.steps import not_, step

EVENT_KEYS: Final = ("subject", "subjects", "where", "key", "pattern")
"""What says which events a rule, or a step, is about."""
STEP_KEYS: Final = ("contiguity", "optional", "times", "inner", "greedy", "until", "not")
SCHEDULES: Final = ("every", "cron", "at")

_TIME_OPTIONS: Final = {
    "lateness": lambda table, key: table.span(key, zero=True),
    "idle": lambda table, key: table.span(key),
    "late": lambda table, key: table.choice(key, "drop", "as_now"),
    "partials_max": lambda table, key: table.whole(key),
}


class EventTime(Struct, frozen=True):
    """How a rule goes by event time."""

    field: Field
    options: dict[str, Any]

    def on(self, pattern: Pattern[Any]) -> Pattern[Any]:
        """Return *pattern*, which is one ``on(…)``, by event time."""
        return pattern.event_time(self.field, **self.options)


class Shared(Struct, frozen=True):
    """What a rule says for each of its steps."""

    key: FieldReader | None
    event_time: EventTime | None


def event_time_in(table: Table) -> EventTime | None:
    """Return what the rule says of event time: the path of a field, or a table."""
    name = "event_time"
    if name not in table:
        return None
    value = table.get(name)
    if not isinstance(value, dict):
        place = table.field(name)
        return None if place is None else EventTime(place, {})
    inner = Table(table.report, (*table.path, name), value, ("field", *_TIME_OPTIONS))
    if inner.lacks("field", "expected field, found none; write field = 'measured_at'"):
        return None
    place = inner.field("field")
    options = arguments(inner, _TIME_OPTIONS, ())
    return None if inner.has_problem() or place is None else EventTime(place, options)


# ---------------------------------------------------------------- what the clock drives


def scheduled(table: Table) -> Pattern[Any] | None:
    """Return the pattern of a rule that the clock drives."""
    name = next(key for key in SCHEDULES if key in table)
    for key in ("where", "key", "pattern", "event_time", "steps", "on_missed", "warm"):
        if key in table:
            why = "write catch_up" if key == "on_missed" else "there is no event that it could see"
            table.fail(key, f"expected no {key} beside {name}; {why}")
    if "tz" in table and name != "cron":
        table.fail("tz", f"expected no tz beside {name}")
    tz = table.text("tz", "the name of a time zone") if "tz" in table else "UTC"
    catch_up: Any = table.choice("catch_up", "all", "last", "none") or "last"
    make = _clock(table, name, "UTC" if tz is None else tz, catch_up)
    if make is None:
        return None
    try:
        return make()
    except (TypeError, ValueError) as error:
        table.fail("tz" if "tz" in table and f"tz={tz!r}" in str(error) else name, str(error))
    return None


def _clock(table: Table, name: str, tz: str, catch_up: Any) -> Callable[[], Pattern[Any]] | None:
    if name == "every":
        period = table.span(name)
        if period is None:
            return None
        return lambda: Pattern(EveryNode(duration_ns(name, "", period), catch_up))
    if name == "cron":
        expression = table.text(name, "a text such as '0 6 * * MON'")
        return None if expression is None else lambda: Pattern(cron_node(expression, tz, catch_up))
    return lambda: Pattern(at_node(table.get(name), catch_up))


# ---------------------------------------------------------------- events


def from_events(table: Table, shared: Shared, *, is_step: bool) -> Pattern[Any] | None:
    """Return the pattern of a rule, or of a step, that begins with events on its subjects."""
    pattern = _subjects(table, shared.event_time)
    conditions = table.conditions("where")
    if pattern is not None and conditions:
        pattern = where_all(pattern, conditions)
    key = table.event_key("key") if is_step and "key" in table else shared.key
    if pattern is not None and key is not None:
        pattern = pattern.key(key)
    for name, operator in _operators(table):
        if name in JOINTS:
            where = "in a rule, not in a step" if is_step else "with steps in place of a subject"
            operator.fail(name, f"expected {name} {where}")
            pattern = None
        else:
            pattern = apply_operator(name, operator, pattern)
    return pattern


def _operators(table: Table) -> list[tuple[str, Table]]:
    if "pattern" not in table:
        return []
    return operator_tables(table.report, (*table.path, "pattern"), table.get("pattern"))


def _subjects(table: Table, event_time: EventTime | None) -> Pattern[Any] | None:
    name = "subjects" if "subjects" in table else "subject"
    if name == "subject":
        subject = table.text(name, "a subject such as 'sensors.*.temperature'")
        texts: list[tuple[Path, str]] | None = (
            None if subject is None else [((*table.path, name), subject)]
        )
    else:
        texts = table.texts(name, "a subject such as 'sensors.*.temperature'")
        if "subject" in table:
            table.fail("subject", "expected subject or subjects, found both")
    patterns: list[Pattern[Any]] = []
    for path, text in texts or ():
        try:
            pattern = on(text)
        except ValueError as error:
            table.report.at_value(path, str(error))
        else:
            patterns.append(pattern if event_time is None else event_time.on(pattern))
    if not patterns or len(patterns) < len(texts or ()):
        return None
    return any_of(*patterns) if name == "subjects" else patterns[0]


# ---------------------------------------------------------------- steps


def from_steps(table: Table, shared: Shared) -> Pattern[Any] | None:
    """Return the pattern of a rule that begins with named steps."""
    for key in ("subject", "subjects", "where"):
        if key in table:
            table.fail(key, f"expected {key} in each of the steps, found it beside them")
    operators = _operators(table)
    if not operators:
        if "pattern" not in table:
            table.fail(
                "steps",
                f"expected a pattern that begins with {one_of(JOINTS)}, found none; write "
                f"pattern = {{ sequence = […] }} with the names of the steps",
            )
        _parts(table, shared, "steps")
        return None
    (name, first), *more = operators
    if name not in JOINTS:
        first.fail(name, f"expected {one_of(JOINTS)} first, of the steps, found {name}")
        _parts(table, shared, "steps")
        return None
    parts = _parts(table, shared, JOINTS[name].takes)
    names = names_in(name, first)
    if names is not None:
        _check_names(table, first, name, names, list(parts))
    known = {key: part for key, part in parts.items() if part is not None}
    pattern = None
    if names is not None and all(key in known for key in names) and not first.has_problem():
        pattern = apply_joint(name, first, known, names)
    else:
        arguments(first, JOINTS[name].options, JOINTS[name].needs)
    for other, operator in more:
        if other in JOINTS:
            operator.fail(other, f"expected {other} only as the first operator of a pattern")
            pattern = None
        else:
            pattern = apply_operator(other, operator, pattern)
    return pattern


def _check_names(
    table: Table, first: Table, joint: str, names: list[str], parts: list[str]
) -> None:
    """Refuse names that are no steps, or are there twice, and steps that are not named."""
    there = f"the steps are {one_of(map(repr, parts))}" if parts else "there are no steps"
    for number, name in enumerate(names):
        path = (*first.path, joint)
        if isinstance(first.get(joint), list):
            path = (*path, number)
        elif number:
            path = (*first.path, JOINTS[joint].names_in[number - 1])
        if name not in parts:
            meant = did_you_mean(name, parts) or f"; {there}"
            first.report.at_value(path, f"expected the name of a step, found {name!r}{meant}")
        elif name in names[:number]:
            first.report.at_value(path, f"expected each step once, found {name!r} again")
    for part in parts:
        if part not in names:
            first.report.at_key(
                (*table.path, "steps", part),
                f"expected each step to be named in {joint}, found no {part!r} there",
            )


def _parts(table: Table, shared: Shared, takes: Takes) -> dict[str, Part | None]:
    """Return the steps of a rule by name; ``None`` for those that are bad."""
    steps = table.get("steps")
    if not isinstance(steps, dict):
        path = (*table.path, "steps")
        Table(table.report, path, steps, ())
        return {}
    parts: dict[str, Part | None] = {}
    for name, values in steps.items():
        path = (*table.path, "steps", name)
        inner = Table(table.report, path, values, (*EVENT_KEYS, *STEP_KEYS))
        parts[name] = _part(inner, name, shared, takes)
    return parts


def _part(table: Table, name: str, shared: Shared, takes: Takes) -> Part | None:
    if "subjects" not in table and not table.has_problem():
        table.lacks("subject", "expected subject, found none; write subject = 'a.b'")
    pattern = from_events(table, shared, is_step=True)
    if takes != "steps":
        for key in STEP_KEYS:
            if key in table:
                table.fail(key, f"expected {key} only in a step of a sequence")
    is_not = table.flag("not")
    make = _negation(table, pattern) if is_not else _step(table, name, pattern)
    if table.has_problem() or pattern is None:
        return None
    if takes == "patterns":
        return pattern
    try:
        return make()
    except (TypeError, ValueError) as error:
        table.report.at_key(table.path, str(error))
    return None


def _negation(table: Table, pattern: Pattern[Any] | None) -> Callable[[], Part]:
    for key in STEP_KEYS:
        if key in table and key not in ("contiguity", "not"):
            table.fail(key, f"expected no {key} in a step that must not come (not = true)")
    contiguity: Any = "relaxed"
    if "contiguity" in table:
        contiguity = table.choice("contiguity", "relaxed", "strict")
    assert pattern is None or isinstance(pattern, Pattern)
    return lambda: not_(_there(pattern), contiguity=contiguity)


def _step(table: Table, name: str, pattern: Pattern[Any] | None) -> Callable[[], Part]:
    contiguity: Any = table.choice("contiguity", "relaxed", "strict", "any")
    times = _times(table)
    inner: Any = table.choice("inner", "relaxed", "strict", "any")
    greedy = table.flag("greedy")
    for key in ("inner", "greedy"):
        if key in table and "times" not in table:
            table.fail(key, f"expected {key} beside times, found it alone")
    optional = table.flag("optional")
    stops = table.conditions("until")

    def make() -> Part:
        made = step(name, _there(pattern), contiguity=contiguity)
        if times is not None:
            made = made.times(*times, inner=inner or "relaxed", greedy=greedy)
        if optional:
            made = made.optional()
        if stops:
            stop = stops[0]
            for other in stops[1:]:
                stop &= other
            made = made.until(stop)
        return made

    return make


def _there(pattern: Pattern[Any] | None) -> Pattern[Any]:
    assert pattern is not None, "nothing is made of a bad table"
    return pattern


def _times(table: Table) -> tuple[int, int | None] | None:
    """Return how often a step is taken: ``3``, ``[1, 3]``, or ``[1, inf]``."""
    value = table.get("times")
    if type(value) is int:
        value = [value, value]
    if isinstance(value, list) and len(value) == 2:
        least, most = value
        if type(least) is int and least >= 1:
            if most == inf:
                return least, None
            if type(most) is int and most >= least:
                return least, most
    if "times" in table:
        table.expected("times", "a whole number of at least 1, or two such as [1, 3] or [1, inf]")
    return None
