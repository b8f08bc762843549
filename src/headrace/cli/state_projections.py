"""Projections as `state`, `diff` and `debug` show them: by key, those changed last first."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.cli.state_parts import Wanted
from headrace.cli.text import safe, to_json

if TYPE_CHECKING:
    from headrace.engine.inspect.differ import Things
    from headrace.engine.kernel import Kernel
    from headrace.engine.log import LogReader
    from headrace.engine.projected import View
    from headrace.triggers.ruleset import RuleSet

JSON = dict[str, Any]


def projections(
    kernel: Kernel, rules: RuleSet, wanted: Wanted, limit: int, reader: LogReader | None = None
) -> Iterator[JSON]:
    """Yield each projection with its states, at most *limit* of them, if they are wanted.

    One that was not in force there, as it is declared today, is folded from the log that
    *reader* reads; without a reader it has none.
    """
    from headrace.engine.inspect.project import folded_anew, view_in
    from headrace.engine.projected import is_projection, own_name
    from headrace.triggers.explain.rules import inside, why_not_in_force

    if not _shows(wanted):
        return
    for rule in filter(is_projection, rules.fingerprints()):
        why_not = why_not_in_force(kernel.state, rule)
        view = view_in(kernel, rule)
        if why_not is not None and reader is not None:
            view = folded_anew(reader, rules, rule, kernel.sequence)
        found = _states(view, wanted)
        _, node = inside(rules, rule)
        yield {
            "projection": own_name(rule),
            "pattern": node.text(),
            "in_force": why_not is None,
            "why_not": why_not,
            "keys": len(view),
            "since": view.since,
            "states": [{"key": key, "state": state} for key, state in islice(found, limit)],
            "more": sum(1 for _ in found),
        }


def add_projections(things: Things, kernel: Kernel, rules: RuleSet, wanted: Wanted) -> None:
    """Add the states of the projections that are in force, by name, so that they compare."""
    from headrace.engine.inspect.project import view_in
    from headrace.engine.projected import is_projection, own_name

    for rule in filter(is_projection, rules.fingerprints()):
        if _shows(wanted) and rule in kernel.state.active:
            for key, state in _states(view_in(kernel, rule), wanted):
                named = "" if key is None else f" key {to_json(key)}"
                fields = state if isinstance(state, dict) else {"state": state}
                things[f"projection {own_name(rule)}{named}"] = fields


def projection_lines(row: JSON) -> Iterator[str]:
    """Yield the lines of a projection."""
    count = row["keys"]
    keys = f"{count} key{'' if count == 1 else 's'}"
    yield f"projection {safe(row['projection'])}: {safe(row['pattern'])}, {keys}"
    if row["why_not"]:
        yield f"  folded for this from the log: {row['why_not']}"
    if row["since"] > 1:
        yield f"  of what is from record {row['since']} on: what came before was not kept"
    for one in row["states"]:
        key = "" if one["key"] is None else f"key {to_json(one['key'])}: "
        yield f"  {key}{to_json(one['state'])}"
    if row["more"]:
        yield f"  and {row['more']} more; --limit shows them"


def _shows(wanted: Wanted) -> bool:
    return wanted.rule is None and wanted.run is None


def _states(view: View[Any], wanted: Wanted) -> Iterator[tuple[Any, Any]]:
    """Yield the keys that are wanted with their states as plain data."""
    found: Iterator[tuple[Any, Any]] = view.newest_first()
    if wanted.keys:
        found = ((key, view[key]) for key in wanted.keys if key in view)
    for key, state in found:
        yield key, msgspec.to_builtins(state, str_keys=True, order="deterministic")
