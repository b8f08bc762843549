"""What of a large tree is shown: of many alike the first ones and whatever went wrong."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from headrace.engine.tracing.tree import Node, Tree

ALIKE_MAX: Final = 5
"""Effects of one node with the same kind and name; of more than these some are folded."""
ALIKE_SHOWN: Final = 3
FAILED_SHOWN: Final = 3

FAILED: Final = frozenset(("dead", "failed"))
_WRONG: Final = frozenset(("rule.error", "rule.mismatch", "rule.loop"))


class Folded(Struct):
    """Effects that are alike and not shown one by one."""

    name: str
    kind: str
    sequences: list[int]
    below: int
    """How many further nodes are below them."""
    statuses: dict[str, int]
    """Of runs: how many ended how; of firings: what became of them."""
    took_ns: tuple[int, int] | None
    """Of runs that have ended: the shortest and the longest."""


def effects_shown(
    tree: Tree, node: Node, wanted: frozenset[int], sizes: dict[int, int], wrong: set[int]
) -> list[Node | Folded]:
    """Return the effects of *node* in order, the folded ones at the place of their first.

    *wanted* are those that were asked for, *sizes* and *wrong* as `measured` returns them.
    """
    alike: dict[tuple[str, str], list[int]] = {}
    for sequence in node.effects:
        effect = tree.nodes[sequence]
        alike.setdefault((effect.kind, effect.name), []).append(sequence)
    shown: list[tuple[int, Node | Folded]] = []
    for (kind, name), sequences in alike.items():
        if len(sequences) <= ALIKE_MAX:
            kept = sequences
        else:
            bad = [one for one in sequences if one in wrong][:FAILED_SHOWN]
            kept = sorted({*sequences[:ALIKE_SHOWN], *bad, *(wanted & set(sequences))})
        shown += [(one, tree.nodes[one]) for one in kept]
        rest = sorted(set(sequences) - set(kept))
        if rest:
            shown.append((rest[0], _folded(tree, kind, name, rest, sizes)))
    return [one for _, one in sorted(shown, key=lambda pair: pair[0])]


def _folded(
    tree: Tree, kind: str, name: str, sequences: list[int], sizes: dict[int, int]
) -> Folded:
    statuses: dict[str, int] = {}
    took: list[int] = []
    for sequence in sequences:
        node = tree.nodes[sequence]
        status = node.span.status if node.span is not None else node.outcome
        if status:
            statuses[status] = statuses.get(status, 0) + 1
        if node.span is not None and node.span.took_ns is not None:
            took.append(node.span.took_ns)
    below = sum(sizes[sequence] - 1 for sequence in sequences)
    span = (min(took), max(took)) if took else None
    return Folded(name, kind, sequences, below, statuses, span)


def measured(tree: Tree) -> tuple[dict[int, int], set[int]]:
    """Return the size of the tree below each node, and the nodes with a failure there."""
    sizes: dict[int, int] = {}
    wrong: set[int] = set()
    # An effect comes after its cause: from the last to the first, all below is known.
    for sequence in sorted(tree.nodes, reverse=True):
        node = tree.nodes[sequence]
        sizes[sequence] = 1 + sum(sizes[effect] for effect in node.effects)
        span = node.span
        failed = node.kind in _WRONG or (
            span is not None and (span.status in FAILED or bool(span.failures))
        )
        if failed or any(effect in wrong for effect in node.effects):
            wrong.add(sequence)
    return sizes, wrong


def path_to(tree: Tree, sequence: int) -> frozenset[int]:
    """Return the node at *sequence* and all that led to it."""
    path: set[int] = set()
    while sequence in tree.nodes and sequence not in path:
        path.add(sequence)
        sequence = tree.nodes[sequence].cause
    return frozenset(path)
