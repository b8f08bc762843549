"""From a table of ``headrace.toml`` to a connector: its settings are what its ``__init__`` takes.

Names and types are those of the signature, so that a connector of another package needs nothing
more to be configured.  What stands for a secret, ``${NAME}``, is taken from the environment; no
message shows what it was.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Mapping
from types import SimpleNamespace
from typing import Any, Final, get_type_hints

from msgspec import Struct

from headrace.connectors.addresses import masked
from headrace.connectors.protocol import ConnectorError
from headrace.connectors.registry import Kind, connector, kind_of
from headrace.engine.errors import HeadraceError
from headrace.plain_types import Mismatch, plain, said, taken
from headrace.triggers.rules_places import Path
from headrace.triggers.rules_tables import Report, Table, shown

SECRET_WORDS: Final = ("password", "passwd", "secret", "token", "key", "credential")
"""A setting that has one in its name is not shown."""
SECRET_CHARS_MIN: Final = 3
"""A value of the environment that is shorter may be part of anything."""

_VARIABLE: Final = re.compile(r"\$\$\{|\$\{([^}]*)\}?")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Made(Struct, frozen=True):
    """A connector, and what else its table says."""

    connector: Any
    table: Table
    beside: frozenset[str]
    """Keys of the table that are no settings of the connector, of those that were allowed."""


class Settings:
    """Makes the connectors of one file."""

    def __init__(self, report: Report, environ: Mapping[str, str]) -> None:
        """Report what is wrong; *environ* has what ``${NAME}`` stands for."""
        self._report = report
        self._environ = environ
        self._secrets: dict[str, str] = {}
        """What was taken from the environment, by its value."""

    def made(
        self,
        path: Path,
        values: dict[str, Any],
        kind: Kind,
        beside: Collection[str] = (),
    ) -> Made | None:
        """Return the connector of the table at *path*, whose last part is its name.

        *beside* are keys that the table may have, too.  ``None``: something is wrong.
        """
        found = self._class(path, values, kind)
        if found is None:
            return None
        parameters = _parameters(found)
        others = frozenset(beside) - parameters.keys()
        table = Table(self._report, path, values, ["type", *parameters, *sorted(others)])
        given: dict[str, Any] = {}
        for key, parameter in parameters.items():
            if key in table:
                self._setting(table, key, parameter.annotation, given)
            elif parameter.default is parameter.empty:
                self._lacks(table, key, parameter.annotation)
        if table.has_problem():
            return None
        try:
            return Made(found(**given, name=path[-1]), table, others)
        except (TypeError, ValueError, OSError, HeadraceError) as error:
            self._report.at_value(path, self._masked(str(error)))
            return None

    def _class(self, path: Path, values: dict[str, Any], kind: Kind) -> type[Any] | None:
        report, place, type = self._report, (*path, "type"), values.get("type")
        if not isinstance(type, str):
            expected = f"expected type = the type of a {kind} such as 'mqtt'"
            report.at_value(
                place if "type" in values else path,
                f"{expected}, found {shown(type) if 'type' in values else 'none'}",
            )
            return None
        try:
            found = connector(type)
        except ConnectorError as error:
            report.at_value(place, str(error))
            return None
        other = kind_of(found)
        if other != kind:
            report.at_value(
                place,
                f"expected the type of a {kind}, found {type!r}, which is a {other}; write it in "
                f"[{other}s.{path[-1]}]",
            )
            return None
        return found

    def _lacks(self, table: Table, key: str, hint: Any) -> None:
        if plain(hint) is None:
            message = f"expected {key}, which cannot stand in a file; declare it in Python"
        else:
            message = f"expected {key}, found none; write {key} = {said(hint)}"
        table.lacks(key, message)

    def _setting(self, table: Table, key: str, hint: Any, given: dict[str, Any]) -> None:
        path, written = (*table.path, key), table.get(key)
        if plain(hint) is None:
            table.fail(key, f"expected {key} to be declared in Python: it cannot stand in a file")
            return
        first = len(self._report.problems)
        value = self._expanded(path, written)
        if len(self._report.problems) > first:
            return
        try:
            given[key] = taken(value, hint, is_text=value != written)
        except Mismatch as wrong:
            # As it is written: what the environment has may be a secret.
            found = written
            for step in wrong.path:
                found = found[step]
            is_secret = any(word in key.lower() for word in SECRET_WORDS)
            what = "something else" if is_secret else shown(found)
            self._report.at_value((*path, *wrong.path), f"expected {said(hint)}, found {what}")

    def _expanded(self, path: Path, value: Any) -> Any:
        """Return *value* with what each ``${NAME}`` in its texts stands for."""
        if isinstance(value, dict):
            return {key: self._expanded((*path, key), inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._expanded((*path, number), inner) for number, inner in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        return _VARIABLE.sub(lambda found: self._variable(path, found), value)

    def _variable(self, path: Path, found: re.Match[str]) -> str:
        name = found[1]
        if name is None:
            return "${"
        if not _NAME.fullmatch(name) or not found[0].endswith("}"):
            self._report.at_value(
                path,
                f"expected ${{NAME}} for a variable of the environment, found {found[0]!r}; "
                f"write $${{ for ${{",
            )
            return ""
        value = self._environ.get(name)
        if value is None:
            self._report.at_value(
                path,
                f"expected {name} in the environment, found none; set it before headrace starts",
            )
            return ""
        self._secrets[value] = name
        return value

    def _masked(self, message: str) -> str:
        """Return what a connector says is wrong, without what the environment had."""
        for value, name in sorted(self._secrets.items(), key=lambda one: -len(one[0])):
            if len(value) >= SECRET_CHARS_MIN:
                message = message.replace(value, f"${{{name}}}")
        return masked(" ".join(message.split("\n")))


def _parameters(found: type[Any]) -> dict[str, inspect.Parameter]:
    """Return what can be set: the parameters of ``__init__`` but for the name, with their types."""
    init = found.__init__
    parameters = list(inspect.signature(init).parameters.values())[1:]
    return {
        one.name: one.replace(annotation=_hint(init, one))
        for one in parameters
        if one.name != "name" and one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
    }


def _hint(init: Any, parameter: inspect.Parameter) -> Any:
    """Return the type of a parameter; anything, if its annotation is not to be had at runtime."""
    if parameter.annotation is parameter.empty:
        return Any
    one = SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        hints = get_type_hints(one, getattr(init, "__globals__", {}))
    except (NameError, TypeError):
        return Any
    return hints[parameter.name]
