"""A causal tree as text: a line for each node, and of many alike only some."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from headrace.cli.output import counts
from headrace.cli.run_causes import cause_lines, said_of
from headrace.cli.text import duration, rfc3339, safe, to_json
from headrace.engine.tracing.fold import ALIKE_MAX, Folded, effects_shown, measured, path_to
from headrace.engine.tracing.spans import Failure, Span, Wait
from headrace.engine.tracing.tree import Node, Tree

if TYPE_CHECKING:
    from headrace.cli.trace_found import Trace

DATA_CHARS_MAX: Final = 100

Item = Node | Folded | Failure | Wait
_Sizes = tuple[dict[int, int], set[int]]


def lines(found: Trace, *, whole: bool) -> Iterator[str]:
    """Yield the lines of the tree; *whole*: with nothing folded and nothing cut."""
    causes = [{"sequence": place, **said_of(cause)} for place, cause in found.causes]
    yield from cause_lines(causes)
    tree, wanted = found.tree, path_to(found.tree, found.asked)
    sizes = measured(tree)
    # A stack, since a tree may be deeper than Python lets functions be.
    stack: list[tuple[str, str, Item, int]] = [("", "", found.root, found.root.at_ns)]
    while stack:
        lead, indent, item, cause_ns = stack.pop()
        yield lead + _line(item, found, cause_ns, whole=whole)
        if not isinstance(item, Node):
            continue
        below = _below(tree, item, None if whole else wanted, sizes)
        for place, one in reversed(list(enumerate(below))):
            is_last = place == len(below) - 1
            branch, further = ("└─ ", "   ") if is_last else ("├─ ", "│  ")
            stack.append((indent + branch, indent + further, one, item.at_ns))
    if tree.is_cut:
        yield (
            f"cut at record {tree.last}, at {len(tree.nodes)} records of the tree: "
            "--limit allows more"
        )
    else:
        count = len(tree.nodes)
        upto = max(tree.last, found.root.sequence)
        yield (
            f"{count} record{'s' if count > 1 else ''} of the tree, found in "
            f"{found.root.sequence} to {upto}"
        )


def _below(tree: Tree, node: Node, wanted: frozenset[int] | None, sizes: _Sizes) -> list[Item]:
    """Return what comes below *node*, in the order of the log."""
    if wanted is None:
        found: list[tuple[int, Item]] = [(one, tree.nodes[one]) for one in node.effects]
    else:
        found = [(_place(item), item) for item in effects_shown(tree, node, wanted, *sizes)]
    if node.span is not None:
        waits = [wait for wait in node.span.waits if wait.kind != "retry"]
        found += [(wait.sequence, wait) for wait in _some(waits, wanted)]
        found += [(failure.sequence, failure) for failure in _some(node.span.failures, wanted)]
    return [item for _, item in sorted(found, key=lambda pair: pair[0])]


def _place(item: Node | Folded) -> int:
    return item.sequences[0] if isinstance(item, Folded) else item.sequence


def _some(items: list[Wait] | list[Failure], wanted: frozenset[int] | None) -> list[Wait | Failure]:
    """Return those that are shown: of many the first and the last ones."""
    if wanted is None or len(items) <= ALIKE_MAX:
        return [*items]
    half = ALIKE_MAX // 2
    return [*items[:half], *items[-half:]]


def _line(item: Item, found: Trace, begin_ns: int, *, whole: bool) -> str:
    """Return the line of *item*, with its times from those of its cause on."""
    if isinstance(item, Folded):
        return _folded_line(item)
    if isinstance(item, Failure):
        then = (
            f"tried again {_offset(item.retry_at_ns, begin_ns)}" if item.retry_at_ns else "given up"
        )
        at = _offset(item.at_ns, begin_ns)
        return f"attempt {item.attempt} failed {at}, {then}: {safe(item.error)}"
    if isinstance(item, Wait):
        return _wait_line(item, begin_ns)
    text = _node_line(item, begin_ns, chars_max=None if whole else DATA_CHARS_MAX)
    if item.sequence == found.root.sequence:
        text = f"{text}  {rfc3339(item.at_ns)}"
    else:
        text = f"{text}  {_offset(item.at_ns, begin_ns)}"
    return f"{text}  ◀" if item.sequence == found.asked else text


def _node_line(node: Node, begin_ns: int, *, chars_max: int | None) -> str:
    parts = [_title(node)]
    if node.key is not None:
        parts.append(f"[{safe(node.key) if isinstance(node.key, str) else to_json(node.key)}]")
    if node.data is not None:
        data = to_json(node.data)
        cut = chars_max is not None and len(data) > chars_max
        parts.append(f"{data[:chars_max]}…" if cut else data)
    text = " ".join(parts)
    if node.span is not None:
        text = f"{text}  {_ended(node.span)}"
    elif node.outcome:
        text = f"{text}  {node.outcome}"
    if node.reason and node.span is None:
        text = f"{text}: {safe(node.reason)}"
    if node.also:
        more = f" and {len(node.also) - ALIKE_MAX} more" if len(node.also) > ALIKE_MAX else ""
        named = ", ".join(map(str, node.also[-ALIKE_MAX:]))
        text = f"{text}  with event{'s' if len(node.also) > 1 else ''} {named}{more}"
    if node.due_ns is not None:
        text = f"{text}  due {_offset(node.due_ns, begin_ns)}"
    return text


def _title(node: Node) -> str:
    name = safe(node.name)
    if node.span is not None:
        return f"{node.span.kind} {name}  run {node.sequence}"
    if node.kind == "step.requested":
        return f"to undo: {name}  record {node.sequence}"
    return f"{node.kind} {node.sequence}  {name}".rstrip()


def _ended(span: Span) -> str:
    attempts = f", attempt {span.attempt}" if span.attempt > 1 else ""
    took = f", took {duration(span.took_ns)}" if span.took_ns is not None else ""
    why = f": {safe(span.error)}" if span.status == "cancelled" and span.error else ""
    return f"{span.status}{attempts}{took}{why}"


def _wait_line(wait: Wait, begin_ns: int) -> str:
    what = {"turn": "waited for its turn", "wait": "wait for"}.get(wait.kind, wait.kind)
    name = f" {safe(wait.name)}" if wait.name else ""
    begun = _offset(wait.begin_ns, begin_ns)
    if not wait.how:
        due = "" if wait.due_ns is None else f", until {_offset(wait.due_ns, begin_ns)}"
        return f"{what}{name}  still waits{due}  {begun}"
    by = "" if wait.how in ("turn", "time") and wait.kind != "wait" else f", by {wait.how}"
    return f"{what}{name}  {duration(wait.end_ns - wait.begin_ns)}{by}  {begun}"


def _folded_line(folded: Folded) -> str:
    first, last = folded.sequences[0], folded.sequences[-1]
    what = "runs of" if folded.kind == "run" else folded.kind
    parts = [f"… {len(folded.sequences)} more {what} {safe(folded.name)}, {first} to {last}"]
    if folded.statuses:
        parts.append(counts(dict(sorted(folded.statuses.items()))))
    if folded.took_ns is not None:
        parts.append(f"took {duration(folded.took_ns[0])} to {duration(folded.took_ns[1])}")
    if folded.below:
        parts.append(f"{folded.below} records below them")
    return "; ".join(parts)


def _offset(at_ns: int, begin_ns: int) -> str:
    ns = at_ns - begin_ns
    return f"-{duration(-ns)}" if ns < 0 else f"+{duration(ns)}"
