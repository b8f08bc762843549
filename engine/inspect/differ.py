"""What changed between two states, thing by thing and field by field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from msgspec import Struct

Things = dict[str, dict[str, Any]]
"""What there is, by name, each with its fields."""


class Change(Struct, frozen=True):
    """One thing that is not in both states what it is."""

    what: str
    change: Literal["appeared", "vanished", "changed"]
    fields: dict[str, tuple[Any, Any]]
    """What each field was in the one and is in the other; ``None`` where it has none."""


def changes(a: Things, b: Things) -> Iterator[Change]:
    """Yield what differs from *a* to *b*: in the order of *a*, then what *b* has besides."""
    for what, before in a.items():
        after = b.get(what)
        if after is None:
            yield Change(what, "vanished", fields_of(before, {}))
        elif before != after:
            yield Change(what, "changed", fields_of(before, after))
    for what, after in b.items():
        if what not in a:
            yield Change(what, "appeared", fields_of({}, after))


def fields_of(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the fields that differ; what is nothing on both sides does not."""
    names = dict.fromkeys([*before, *after])
    return {
        name: (before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    }
