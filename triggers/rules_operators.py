"""What the table ``pattern`` of a rules file can say: the operators, one table each.

``{ count = 3, within = "1m" }``: the operator's name with its main argument, and the others
by their names in Python.  ``inf`` stands where Python has ``None`` for "without bound".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Final, Literal, cast

from msgspec import Struct

from headrace.triggers import nodes
from headrace.triggers.combine import absent, all_of, any_of, silent
from headrace.triggers.condition import Condition
from headrace.triggers.pattern import Pattern
from headrace.triggers.reach import check_has_event, check_hold
from headrace.triggers.rules_places import Path
from headrace.triggers.rules_tables import Report, Table, did_you_mean, one_of, shown
from headrace.triggers.sequences import sequence
from headrace.triggers.steps import Not, Step

Read = Callable[[Table, str], Any]
Part = Pattern[Any] | Step[Any] | Not
Takes = Literal["steps", "names", "patterns"]


class Operator(Struct, frozen=True):
    """One operator: how its arguments are read, and what it makes of the pattern before it."""

    read: Read
    apply: Callable[[Pattern[Any], Any, dict[str, Any]], Pattern[Any]]
    options: dict[str, Read] = {}
    needs: tuple[str, ...] = ()
    """Options that have to be said."""


class Joint(Struct, frozen=True):
    """An operator that begins a pattern, of named steps."""

    join: Callable[[dict[str, Part], list[str], dict[str, Any]], Pattern[Any]]
    options: dict[str, Read] = {}
    needs: tuple[str, ...] = ()
    takes: Takes = "patterns"
    """Steps that can be repeated, left out or forbidden; with a mere name; without one."""
    names_in: tuple[str, ...] = ()
    """Options that name a step, too."""


def where_all(pattern: Pattern[Any], conditions: Sequence[Condition]) -> Pattern[Any]:
    """Return *pattern* where all *conditions* hold.

    Raises:
        ValueError: there may be no event.
    """
    check_has_event("where", pattern.node)
    node = pattern.node
    for condition in conditions:
        # As `.where` does it, less the question what it takes: that is known.
        node = nodes.WhereNode(node, condition)
    return Pattern(node)


def _hold(pattern: Pattern[Any], seconds: Any, _: dict[str, Any]) -> Pattern[Any]:
    try:
        check_hold(pattern.node)
    except ValueError:
        raise ValueError(
            "expected a condition right before hold, which can be true for a while; give "
            "where = …, or put { where = … } before it"
        ) from None
    return pattern.hold(for_=seconds)


# ---------------------------------------------------------------- how arguments are read


def _span(table: Table, key: str) -> Any:
    return table.span(key)


def _span_or_inf(table: Table, key: str) -> Any:
    return table.span(key, unbounded=True)


def _whole(table: Table, key: str) -> Any:
    return table.whole(key)


def _whole_or_inf(table: Table, key: str) -> Any:
    return table.whole(key, unbounded=True)


def _number(table: Table, key: str) -> Any:
    return table.number(key)


def _flag(table: Table, key: str) -> Any:
    return table.flag(key)


def _text(table: Table, key: str) -> Any:
    return table.text(key)


def _choice(*choices: str) -> Read:
    return lambda table, key: table.choice(key, *choices)


def _dedupe_key(table: Table, key: str) -> Any:
    return inf if table.get(key) is True else table.event_key(key)


def _skip(table: Table, key: str) -> Any:
    value = table.get(key)
    if (
        isinstance(value, list)
        and len(value) == 2
        and value[0] in ("to_first", "to_last")
        and isinstance(value[1], str)
    ):
        return tuple(value)
    if isinstance(value, list):
        table.expected(key, "['to_first', step] or ['to_last', step]")
        return None
    return table.choice(key, "past_last", "none", "to_next")


def _name(table: Table, key: str) -> Any:
    texts = [table.text(key, "the name of a step")]
    return None if texts == [None] else texts


def _names(table: Table, key: str) -> Any:
    if isinstance(table.get(key), str):
        table.expected(key, "a list of names of steps")
        return None
    texts = table.texts(key, "the name of a step")
    return None if texts is None else [text for _, text in texts]


OPERATORS: Final[dict[str, Operator]] = {
    "where": Operator(lambda table, key: table.conditions(key), lambda p, a, _: where_all(p, a)),
    "key": Operator(
        lambda table, key: table.event_key(key),
        lambda p, a, more: p.key(a, **more),
        {"keys_max": _whole},
    ),
    "count": Operator(
        _whole,
        lambda p, a, more: p.count(a, **more),
        {
            "within": _span_or_inf,
            "mode": _choice("reset", "edge", "every"),
            "partials_max": _whole,
        },
        needs=("within",),
    ),
    "crosses": Operator(
        lambda table, key: table.field(key),
        lambda p, a, more: p.crosses(a, **more),
        {"above": _number, "below": _number, "hysteresis": _number, "initial": _flag},
    ),
    "hold": Operator(_span, _hold),
    "debounce": Operator(
        _span,
        lambda p, a, more: p.debounce(a, **more),
        {
            "max_wait": _span,
            "edge": _choice("leading", "trailing", "both"),
            "partials_max": _whole,
        },
    ),
    "throttle": Operator(
        _span,
        lambda p, a, more: p.throttle(a, **more),
        {"edge": _choice("leading", "trailing", "both")},
    ),
    "rate_limit": Operator(
        _whole,
        lambda p, a, more: p.rate_limit(a, **more),
        {
            "per": _span,
            "burst": _whole,
            "overflow": _choice("queue", "drop", "latest"),
            "partials_max": _whole,
        },
        needs=("per",),
    ),
    "dedupe": Operator(
        _dedupe_key,
        lambda p, a, more: p.dedupe(a, **more),
        {"ttl": _span, "refresh": _flag},
        needs=("ttl",),
    ),
    "batch": Operator(
        _whole_or_inf,
        lambda p, a, more: p.batch(a, **more),
        {"within": _span, "bytes_max": _whole},
    ),
    "tumbling": Operator(
        _span,
        lambda p, a, more: p.tumbling(a, **more),
        {"tz": _text, "emit_empty": _flag, "partials_max": _whole},
    ),
    "hopping": Operator(
        _span,
        lambda p, a, more: p.hopping(a, **more),
        {"every": _span, "tz": _text, "emit_empty": _flag, "partials_max": _whole},
        needs=("every",),
    ),
    "session": Operator(
        _span,
        lambda p, a, more: p.session(a, **more),
        {"max": _span, "partials_max": _whole},
    ),
    "silent": Operator(
        _span,
        lambda p, a, more: silent(p, for_=a, **more),
        {
            "repeat": _choice("once", "every"),
            "expect": lambda table, key: table.keys_listed(key),
        },
    ),
}
JOINTS: Final[dict[str, Joint]] = {
    "sequence": Joint(
        lambda parts, names, more: sequence(*(parts[name] for name in names), **more),
        {
            "within": _span_or_inf,
            "within_gap": _span_or_inf,
            "contiguity": _choice("relaxed", "strict", "any"),
            "anchor": _choice("first", "last", "every"),
            "skip": _skip,
            "on_timeout": _flag,
            "partials_max": _whole,
        },
        takes="steps",
    ),
    "all_of": Joint(
        lambda parts, names, more: all_of(
            *cast("list[Step[Any]]", [parts[name] for name in names]), **more
        ),
        {
            "within": _span_or_inf,
            "keep": _choice("latest", "first", "all"),
            "partials_max": _whole,
        },
        needs=("within",),
        takes="names",
    ),
    "any_of": Joint(
        lambda parts, names, more: any_of(
            *cast("list[Pattern[Any]]", [parts[name] for name in names]), **more
        ),
    ),
    "absent": Joint(
        lambda parts, names, more: absent(
            cast("Pattern[Any]", parts[names[0]]),
            **{**more, "after": cast("Any", parts[more["after"]])},
        ),
        {"after": _text, "within": _span, "rearm": _choice("ignore", "restart")},
        needs=("after", "within"),
        names_in=("after",),
    ),
}
_ALL: Final = (*OPERATORS, *JOINTS)
_SAID_HOW: Final = {
    "within": "within = '1m'",
    "per": "per = '1m'",
    "ttl": "ttl = '1m'",
    "every": "every = '1m'",
    "after": "after = a step's name",
}


def operator_tables(report: Report, path: Path, value: Any) -> list[tuple[str, Table]]:
    """Return the operators of *value*, a table or a list of tables, by their names."""
    if not isinstance(value, list):
        items = [(path, value)]
    else:
        items = [((*path, number), item) for number, item in enumerate(value)]
        if not items:
            report.at_value(path, "expected operators such as { count = 3, within = '1m' }")
    tables = [_operator(report, item_path, item) for item_path, item in items]
    return [found for found in tables if found is not None]


def _operator(report: Report, path: Path, item: Any) -> tuple[str, Table] | None:
    if not isinstance(item, dict):
        example = "a table such as { count = 3, within = '1m' }"
        report.at_value(path, f"expected {example}, found {shown(item)}")
        return None
    names = [key for key in item if key in _ALL]
    if len(names) == 1:
        name = names[0]
        known = (name, *(OPERATORS[name] if name in OPERATORS else JOINTS[name]).options)
        return name, Table(report, path, item, known)
    if names:
        report.at_key(
            (*path, names[1]),
            f"expected one operator in a table, found {names[0]} and {names[1]}; write a list "
            f"of tables, in the order in which they apply",
        )
        return None
    meant = next(filter(None, (did_you_mean(key, _ALL) for key in item)), "")
    found = f"{one_of(map(repr, item))}{meant}" if item else "an empty table"
    report.at_value(path, f"expected an operator ({one_of(_ALL)}), found {found}")
    return None


def apply_operator(name: str, table: Table, pattern: Pattern[Any] | None) -> Pattern[Any] | None:
    """Return what the operator *name* makes of *pattern*; ``None`` if it cannot be."""
    operator = OPERATORS[name]
    main = operator.read(table, name)
    more = arguments(table, operator.options, operator.needs)
    if table.has_problem() or pattern is None:
        return None
    try:
        return operator.apply(pattern, _argument(main), more)
    except (TypeError, ValueError) as error:
        table.fail(name, str(error))
    return None


def names_in(name: str, table: Table) -> list[str] | None:
    """Return the steps that the joint *name* names, in its order; ``None`` if they are bad."""
    names: list[str] | None = (_name if name == "absent" else _names)(table, name)
    for option in JOINTS[name].names_in:
        other = table.text(option, "the name of a step") if option in table else None
        names = None if names is None or other is None else [*names, other]
    return names


def apply_joint(
    name: str, table: Table, parts: dict[str, Part], names: list[str]
) -> Pattern[Any] | None:
    """Return what the joint *name* makes of those of *parts* that it *names*."""
    joint = JOINTS[name]
    more = arguments(table, joint.options, joint.needs)
    if table.has_problem():
        return None
    try:
        return joint.join(parts, names, more)
    except (TypeError, ValueError) as error:
        table.fail(name, str(error))
    return None


def arguments(table: Table, options: dict[str, Read], needs: Sequence[str]) -> dict[str, Any]:
    """Return the arguments that *table* says, by name; ``None`` for what is inf."""
    more: dict[str, Any] = {}
    for option, read in options.items():
        if option in table:
            more[option] = _argument(read(table, option))
        elif option in needs:
            also = ", or inf for no bound" * (read is _span_or_inf)
            table.lacks(option, f"expected {option}, found none; write {_SAID_HOW[option]}{also}")
    return more


def _argument(value: Any) -> Any:
    """Return *value* as Python takes it: where the file says inf, there is no bound."""
    return None if type(value) is float and value == inf else value
