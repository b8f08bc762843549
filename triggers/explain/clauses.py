"""What each condition and key next to an ``on(…)`` sees in one event, and makes of it.

A condition of `field` explains itself, clause by clause.  Of any other function the place,
the source and the values that it reads are shown: it is asked once more, which is no harm,
since conditions are pure (law L4).
"""

from __future__ import annotations

import ast
import reprlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any, Final

import msgspec
from msgspec import Struct

from headrace.engine.decider import Verdict
from headrace.engine.event import Event
from headrace.engine.record import RuleError
from headrace.triggers import nodes as n
from headrace.triggers import source
from headrace.triggers.condition import Condition
from headrace.triggers.nodes_clock import ScheduleNode
from headrace.triggers.nodes_joined import SequenceNode
from headrace.triggers.reach import without_relative
from headrace.triggers.stage import asked, checked_key

SHOWN_CHARS_MAX: Final = 200
READS_MAX: Final = 8
"""Values of an event that are shown beside a function."""

Chain = tuple[n.FilterNode, list[n.Node]]
"""An ``on(…)`` and the conditions and keys next to it, in written order."""


class ClauseSeen(Struct, frozen=True):
    """One condition, or key, and what it made of an event."""

    kind: str
    """``where``, ``key``, ``type`` …"""
    text: str
    """As it is written."""
    place: str | None
    """Of a function: file and line."""
    verdict: str
    """``yes``, ``no``, ``unknown``, ``error``; of a key ``none``, or ``yes``."""
    values: dict[str, Any]
    """What it read, by how that is written."""
    lines: list[str]
    """Clause by clause, where it has several; the error, where it raised one."""

    @property
    def passes(self) -> bool:
        """Whether the event went on."""
        return self.verdict == "yes"

    @property
    def line(self) -> str:
        """Return all that was seen, on one line."""
        where = f" ({self.place})" if self.place else ""
        if self.verdict == "error":
            return f"{self.text}{where}: raised {'; '.join(self.lines)}"
        if len(self.lines) == 1 and self.text.startswith("field("):
            return self.lines[0]
        seen = ", ".join(f"{name} = {shown(value)}" for name, value in self.values.items())
        if self.lines:
            seen = "; ".join(self.lines)
        elif self.kind == "key" and self.passes:
            return f"{self.text}{where} = {shown(self.values['key'])}"
        verdict = "gives no key" if self.kind == "key" else self.verdict
        return f"{self.text}{where}: {verdict}{f' ({seen})' if seen else ''}"

    @property
    def wish(self) -> str:
        """Return what would have had to be so, with what was seen."""
        seen = ", ".join(f"{name} was {shown(value)}" for name, value in self.values.items())
        where = f" ({self.place})" if self.place else ""
        if self.kind == "key":
            return f"{self.text}{where} had given a key{f' ({seen})' if seen else ''}"
        return f"{self.text}{where} had held{f' ({seen})' if seen else ''}"


def chains_of(node: n.Node) -> Iterator[Chain]:
    """Yield each ``on(…)`` of a pattern, in the order of `Automaton.entries`."""
    yield from _chains(node, [])


def _chains(node: n.Node, after: list[n.Node]) -> Iterator[Chain]:
    if isinstance(node, n.FilterNode):
        yield node, after
    elif isinstance(node, (n.WhereNode, n.KeyNode)):
        yield from _chains(node.source, [node, *after])
    elif isinstance(node, SequenceNode):
        for step in node.steps:
            yield from _chains(without_relative(step.source), [])
    elif not isinstance(node, ScheduleNode):
        for inner in node.sources:
            yield from _chains(inner, [])


def clauses_of(rule: str, chain: Chain, event: Event[Any]) -> list[ClauseSeen]:
    """Return what each condition and key of *chain* makes of *event*.

    All of them, also behind one that turned it down: somebody may want to change several.
    """
    return [clause_of(rule, node, event) for node in chain[1]]


def clause_of(
    rule: str, node: n.Node, event: Event[Any], match: Mapping[str, Any] | None = None
) -> ClauseSeen:
    """Return what a ``.where`` or a ``.key`` makes of *event*.

    *match* are the events taken so far, for a condition of a step that takes these.
    """
    if isinstance(node, n.KeyNode):
        return _key_seen(rule, node.key, event)
    assert isinstance(node, n.WhereNode), node
    return condition_seen(rule, node.condition, event, match if node.is_relative else None)


def condition_seen(
    rule: str,
    condition: Callable[..., object],
    event: Event[Any],
    match: Mapping[str, Any] | None = None,
) -> ClauseSeen:
    """Return what *condition* makes of *event*."""
    if isinstance(condition, Condition):
        explained = condition.explain(event)
        values = {
            clause.field: clause.value
            for clause in explained.clauses
            if clause.value is not msgspec.UNSET
        }
        missing = [clause.field for clause in explained.clauses if clause.verdict == "missing"]
        values.update(dict.fromkeys(missing, MISSING))
        lines = [str(clause) for clause in explained.clauses]
        return ClauseSeen("where", explained.condition, None, explained.verdict, values, lines)
    out: list[Verdict] = []
    given = () if match is None else (match,)
    _, answer = asked(rule, "where", lambda *these: bool(condition(*these)), event, out, *given)
    verdict = "yes" if answer is True else "no"
    lines = []
    for error in out:
        if isinstance(error, RuleError):
            verdict, lines = "error", [error.error]
    names = (event,) if match is None else (event, match)
    return ClauseSeen(
        "where", text_of(condition), place_of(condition), verdict, _reads(condition, names), lines
    )


def _key_seen(rule: str, key: Callable[[Any], Any], event: Event[Any]) -> ClauseSeen:
    out: list[Verdict] = []
    _, value = asked(rule, "key", key, event, out)
    usable = None if out else checked_key(rule, value, event, out)
    lines = [error.error for error in out if isinstance(error, RuleError)]
    verdict = "error" if lines else "none" if usable is None else "yes"
    values = {"key": usable} if usable is not None else _reads(key, (event,))
    return ClauseSeen("key", text_of(key), place_of(key), verdict, values, lines)


class _Missing:
    def __repr__(self) -> str:
        return "missing"


MISSING: Final = _Missing()
"""In place of a value that an event does not have."""


# ------------------------------------------------------------ functions


def text_of(function: Callable[..., Any]) -> str:
    """Return a function as its source says it; of one with a name that name."""
    if isinstance(function, FunctionType):
        name = function.__name__
        if name != "<lambda>":
            return f"{name}(…)"
        found = _lambda_of(function)
        return found or "lambda"
    return repr(function) if hasattr(function, "structure") else n.name_of(function)


def _lambda_of(function: FunctionType) -> str | None:
    try:
        text = source._text_of(function)
        node = source._node_of(function.__code__, text)
    except source.SourceUnknown:
        return None
    found = ast.get_source_segment(text, node)
    return None if found is None else " ".join(found.split())[:SHOWN_CHARS_MAX]


def place_of(function: Callable[..., Any]) -> str | None:
    """Return the file and line of a function, from the present folder if it is in there."""
    if not isinstance(function, FunctionType):
        return None
    path = Path(function.__code__.co_filename)
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return f"{path}:{function.__code__.co_firstlineno}"


def _reads(function: Callable[..., Any], given: tuple[Any, ...]) -> dict[str, Any]:
    """Return what *function* reads of its arguments, as far as it is plain from its source."""
    if not isinstance(function, FunctionType):
        return {}
    try:
        node = source._node_of(function.__code__, source._text_of(function))
    except source.SourceUnknown:
        return {}
    names = [argument.arg for argument in node.args.args]
    arguments = dict(zip(names, given, strict=False))
    found: dict[str, Any] = {}
    inner: set[int] = set()
    for part in ast.walk(node):
        if isinstance(part, (ast.Attribute, ast.Subscript)) and id(part) not in inner:
            inner.update(id(one) for one in ast.walk(part) if one is not part)
            value = _value_of(part, arguments)
            if value is not None and len(found) < READS_MAX:
                found[ast.unparse(part)] = value[0]
    return found


def _value_of(part: ast.AST, arguments: Mapping[str, Any]) -> tuple[Any] | None:
    """Return the value of a chain of attributes and items, as a tuple; ``None``: it is not one."""
    if isinstance(part, ast.Name):
        return (arguments[part.id],) if part.id in arguments else None
    if not isinstance(part, (ast.Attribute, ast.Subscript)):
        return None
    before = _value_of(part.value, arguments)
    if before is None:
        return None
    try:
        if isinstance(part, ast.Attribute):
            found = getattr(before[0], part.attr)
        else:
            found = before[0][ast.literal_eval(part.slice)]
    except (AttributeError, LookupError, TypeError, ValueError):
        return (MISSING,)
    return None if callable(found) else (found,)


def shown(value: Any) -> str:
    """Return a value on one line, cut to what one line holds."""
    if isinstance(value, (dict, list, tuple, Struct)):
        short = reprlib.Repr()
        short.maxlevel, short.maxdict, short.maxlist = 4, 12, 12
        short.maxstring = short.maxother = SHOWN_CHARS_MAX
        return short.repr(value)
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS_MAX else f"{text[:SHOWN_CHARS_MAX]}…"
