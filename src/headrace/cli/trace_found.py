"""`Trace`: what `trace` has found, in whatever format it is written."""

from __future__ import annotations

from msgspec import Struct

from headrace.engine import record as r
from headrace.engine.errors import LogCorrupt
from headrace.engine.tracing.tree import Node, Tree


class Trace(Struct):
    """What was found."""

    log: str
    asked: int
    """The node that was asked for."""
    tree: Tree
    causes: list[tuple[int, r.Record | None]]
    """What led to the root, the nearest first."""
    damage: LogCorrupt | None = None
    """What ended the search early."""

    @property
    def root(self) -> Node:
        """The first node."""
        return next(iter(self.tree.nodes.values()))
