"""Connectors by name, as a file says ``type = "mqtt"``: those that are installed, ours and others'.

A package announces a connector by an entry point of the group ``headrace.connectors``, whose name
is the type and whose object is the class.  None is imported before it is asked for.
"""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from importlib.metadata import Distribution, EntryPoint, entry_points
from typing import Any, Final, Literal

from msgspec import Struct

from headrace.connectors.promises import Promise
from headrace.connectors.protocol import ConnectorError

GROUP: Final = "headrace.connectors"
OWN: Final = "headrace"

Kind = Literal["source", "sink"]


class ConnectorUnknown(ConnectorError):
    """No connector of that type is installed."""


class ConnectorBroken(ConnectorError):
    """A connector is installed, and cannot be imported or is none."""


class Listed(Struct, frozen=True):
    """A connector that is installed."""

    type: str
    kind: Kind | None
    """``None``: it is broken."""
    place: str
    """``module:class``."""
    package: str
    """What was installed that has it."""
    promise: Promise | None = None
    """Of a source, where it is the same for all of its settings."""
    error: str = ""
    """What is wrong with it."""


def connector(type: str) -> type[Any]:
    """Return the class of the connector that is called *type*.

    Raises:
        ConnectorUnknown: there is none; says which there are.
        ConnectorBroken: it cannot be imported, or is neither source nor sink.
    """
    return _class(type, _announced())


def _class(type: str, found: dict[str, EntryPoint]) -> type[Any]:
    if type not in found:
        close = get_close_matches(type, found, n=1)
        meant = f"; did you mean {close[0]!r}?" if close else ""
        there = ", ".join(found) or "none"
        raise ConnectorUnknown(
            f"expected the type of a connector that is installed ({there}), found {type!r}{meant}"
        )
    loaded = _loaded(found[type])
    if kind_of(loaded) is None:
        raise ConnectorBroken(
            f"{found[type].value}: expected a class with `run` or `send`, found {loaded!r:.80}; "
            f"correct the entry point {type!r} of {_package(found[type])}"
        )
    made: type[Any] = loaded  # type: ignore[valid-type]
    return made


def kind_of(found: object) -> Kind | None:
    """Say what a class is: ``None`` if it is neither source nor sink."""
    if not isinstance(found, type):
        return None
    if callable(getattr(found, "run", None)):
        return "source"
    return "sink" if callable(getattr(found, "send", None)) else None


def listed() -> list[Listed]:
    """Return all connectors that are installed, by type; those that are broken say why."""
    rows: list[Listed] = []
    announced = _announced()  # once: it looks into every package of the environment
    for name, point in announced.items():
        row = Listed(name, None, point.value, _package(point))
        try:
            found = _class(name, announced)
        except ConnectorError as error:
            rows.append(Listed(row.type, None, row.place, row.package, error=str(error)))
            continue
        promise = getattr(found, "promise", None)
        said: Any = promise if isinstance(promise, str) else None
        rows.append(Listed(row.type, kind_of(found), row.place, row.package, said))
    return rows


def _announced() -> dict[str, EntryPoint]:
    """Return what is announced, by type; of two with one type ours, or the first by package."""
    package = cache(_package_of)  # its name is read from a file each time

    def place(point: EntryPoint) -> tuple[bool, str, str]:
        return package(point.dist) != OWN, package(point.dist), point.name

    points = sorted(entry_points(group=GROUP), key=place)
    found: dict[str, EntryPoint] = {}
    for point in points:
        found.setdefault(point.name, point)
    return dict(sorted(found.items()))


def _package(point: EntryPoint) -> str:
    return _package_of(point.dist)


def _package_of(dist: Distribution | None) -> str:
    return dist.name if dist is not None else ""


def _loaded(point: EntryPoint) -> object:
    try:
        found: object = point.load()
    except Exception as error:
        raise ConnectorBroken(
            f"{point.value}: expected a class that can be imported, found "
            f"{type(error).__name__}: {error}; correct or reinstall {_package(point)}"
        ) from error
    return found
