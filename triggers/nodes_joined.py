"""The nodes of what has several sources: `any_of`, `all_of`, `absent` and `sequence`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from msgspec import Struct

from headrace.triggers.checks import PARTIALS_MAX
from headrace.triggers.nodes import Keep, Node, Rearm, changed, name_of, said, seconds

Contiguity = Literal["strict", "relaxed", "any"]
Anchor = Literal["first", "last", "every"]
Skip = Literal["past_last", "none", "to_next"] | tuple[Literal["to_first", "to_last"], str]


class AnyNode(Node, frozen=True):
    """Any of several; one event counts once."""

    branches: tuple[Node, ...]

    @property
    def sources(self) -> tuple[Node, ...]:
        """See `Node`."""
        return self.branches

    def text(self) -> str:
        """See `Node`."""
        return f"any_of({', '.join(branch.text() for branch in self.branches)})"

    def parts(self) -> list[object]:
        """See `Node`."""
        parts: list[object] = ["any_of"]
        for branch in self.branches:
            parts += ["branch", *branch.parts()]
        return [*parts, "end"]  # or what follows would look like a part of its last branch


class AllNode(Node, frozen=True):
    """All of several, in any order, within some time."""

    branches: tuple[Node, ...]
    names: tuple[str, ...]
    within_ns: int | None
    keep: Keep
    partials_max: int = PARTIALS_MAX

    @property
    def sources(self) -> tuple[Node, ...]:
        """See `Node`."""
        return self.branches

    def text(self) -> str:
        """See `Node`."""
        branches = [
            branch.text() if name == f"s{number}" else f"step({name!r}, {branch.text()})"
            for number, (name, branch) in enumerate(zip(self.names, self.branches, strict=True), 1)
        ]
        more = said(keep=(self.keep, "latest"), partials_max=(self.partials_max, PARTIALS_MAX))
        return f"all_of({', '.join(branches)}, within={seconds(self.within_ns)}{more})"

    def parts(self) -> list[object]:
        """See `Node`."""
        parts: list[object] = ["all_of", self.within_ns, self.keep]
        parts += changed((self.partials_max, PARTIALS_MAX))
        for name, branch in zip(self.names, self.branches, strict=True):
            parts += ["branch", name, *branch.parts()]
        return [*parts, "end"]


class AbsentNode(Node, frozen=True):
    """*after*, and then no *source* for some time."""

    source: Node
    after: Node
    within_ns: int
    rearm: Rearm

    @property
    def sources(self) -> tuple[Node, ...]:
        """See `Node`."""
        return (self.source, self.after)

    def text(self) -> str:
        """See `Node`."""
        rearm = said(rearm=(self.rearm, "ignore"))
        within = f"within={seconds(self.within_ns)}"
        return f"absent({self.source.text()}, after={self.after.text()}, {within}{rearm})"

    def parts(self) -> list[object]:
        """See `Node`."""
        sources = [*self.source.parts(), "after", *self.after.parts()]
        return ["absent", self.within_ns, self.rearm, *sources, "end"]


class Quantifier(Struct, frozen=True):
    """How often a step or a group of a sequence is taken."""

    least: int = 1
    most: int | None = 1
    """``None``: as often as it comes."""
    inner: Contiguity = "relaxed"
    """What may lie between two turns of the loop."""
    greedy: bool = True
    optional: bool = False

    @property
    def is_loop(self) -> bool:
        """Whether it can be taken more than once."""
        return self.most != 1

    def text(self) -> str:
        """Return the calls that make it."""
        optional = ".optional()" if self.optional else ""
        if not self.is_loop:
            return optional
        most = "" if self.most == self.least else f", {self.most}"
        more = said(inner=(self.inner, "relaxed"), greedy=(self.greedy, True))
        return f".times({self.least}{most}{more}){optional}"

    def parts(self) -> list[object]:
        """Return all that it says."""
        return [self.least, self.most, self.inner, self.greedy, self.optional]


ONCE = Quantifier()


class StepNode(Struct, frozen=True):
    """A step of a sequence."""

    name: str
    source: Node
    contiguity: Contiguity
    """To the step before."""
    quantifier: Quantifier = ONCE
    until: Callable[..., object] | None = None
    until_is_relative: bool = False
    is_not: bool = False
    is_named: bool = True

    def text(self, default: Contiguity) -> str:
        """Return it as users write it, in a sequence of contiguity *default*."""
        if self.is_not:
            more = said(contiguity=(self.contiguity, "relaxed"))
            return f"not_({self.source.text()}{more})"
        more = said(contiguity=(self.contiguity, default))
        until = "" if self.until is None else f".until({name_of(self.until)})"
        if not (self.is_named or more or until or self.quantifier != ONCE):
            return self.source.text()
        return f"step({self.name!r}, {self.source.text()}{more}){self.quantifier.text()}{until}"

    def parts(self) -> list[object]:
        """Return all that decides what it takes."""
        how = [self.contiguity, self.is_not, *self.quantifier.parts(), self.until]
        return ["step", self.name, *how, *self.source.parts(), "end"]

    def steps(self) -> Iterator[StepNode]:
        """Yield itself."""
        yield self


class GroupNode(Struct, frozen=True):
    """Several steps that are taken, and repeated, as one."""

    name: str
    members: tuple[StepNode | GroupNode, ...]
    contiguity: Contiguity
    quantifier: Quantifier = ONCE

    def text(self, default: Contiguity) -> str:
        """See `StepNode`."""
        members = ", ".join(member.text(default) for member in self.members)
        more = said(contiguity=(self.contiguity, default))
        return f"group({self.name!r}, {members}{more}){self.quantifier.text()}"

    def parts(self) -> list[object]:
        """See `StepNode`."""
        how = [self.name, self.contiguity, *self.quantifier.parts()]
        return ["group", *how, *(part for m in self.members for part in m.parts()), "end"]

    def steps(self) -> Iterator[StepNode]:
        """Yield all steps in it, in the order in which they are written."""
        for member in self.members:
            yield from member.steps()


class SequenceNode(Node, frozen=True):
    """One after the other."""

    members: tuple[StepNode | GroupNode, ...]
    within_ns: int | None
    within_gap_ns: int | None
    contiguity: Contiguity
    skip: Skip
    replaces_start: bool
    """Whether a new start takes the place of a partial that has only its start."""
    on_timeout: bool
    partials_max: int = PARTIALS_MAX
    waits: bool = False
    """Whether a match waits while a partial that began earlier may still be completed."""

    @property
    def steps(self) -> tuple[StepNode, ...]:
        """All steps in it, also those of groups and what must not come."""
        return tuple(step for member in self.members for step in member.steps())

    @property
    def sources(self) -> tuple[Node, ...]:
        """See `Node`."""
        return tuple(step.source for step in self.steps)

    def text(self) -> str:
        """See `Node`."""
        members = ", ".join(member.text(self.contiguity) for member in self.members)
        within = f", within={seconds(self.within_ns)}" if self.within_ns is not None else ""
        gap = f", within_gap={seconds(self.within_gap_ns)}" if self.within_gap_ns else ""
        anchor = "last" if self.replaces_start else "first"
        more = said(
            contiguity=(self.contiguity, "relaxed"),
            anchor=(anchor, "first"),
            skip=(self.skip, "" if self.waits else "past_last"),
            on_timeout=(self.on_timeout, False),
            partials_max=(self.partials_max, PARTIALS_MAX),
        )
        return f"sequence({members}{within}{gap}{more})"

    def parts(self) -> list[object]:
        """See `Node`."""
        how: list[object] = ["sequence", self.within_ns, self.within_gap_ns, self.skip]
        how += [self.replaces_start, self.on_timeout]
        how += changed((self.partials_max, PARTIALS_MAX), (self.waits, False))
        return [*how, *(part for m in self.members for part in m.parts()), "end"]
