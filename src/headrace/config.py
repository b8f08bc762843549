"""``headrace.toml``: the sources and sinks of an app, and how it is run, without Python.

docs/connectors/config.md says what can be written.  What a connector can be given is what its
``__init__`` takes; `headrace.settings` checks it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from msgspec import Struct

from headrace.connecting import sink_retry
from headrace.connectors.protocol import Sink, SinkUnavailable, Source
from headrace.engine.errors import FileProblems
from headrace.settings import Made, Settings
from headrace.tasks import NAME
from headrace.triggers.combine import any_of
from headrace.triggers.pattern import Pattern, on
from headrace.triggers.rules_tables import Report, Table, did_you_mean, shown
from headrace.triggers.toml_file import toml_of

if TYPE_CHECKING:
    from headrace.app import App

EMPTY: Final = "expected tables such as [sources.line], found an empty file"
SECTIONS: Final = ("run", "sources", "sinks", "forward", "telemetry")
RUN_KEYS: Final = ("app", "log", "rules")
FORWARD_KEYS: Final = ("on", "sink", "name")
TELEMETRY_KEYS: Final = ("opentelemetry",)
RETRY_KEYS: Final = ("attempts", "wait_first", "wait_max")
SINK_KEYS: Final = ("retry", "concurrency", "timeout")
"""What a sink's table may say of the task that sends, unless it is a setting of the sink."""


class ConfigError(FileProblems):
    """A configuration cannot be used.  Nothing of it was declared."""


class Forward(Struct, frozen=True):
    """Events that a sink is given."""

    name: str
    """Of the rule that does it."""
    pattern: Pattern[Any]
    sink: str


class DeclaredSink(Struct, frozen=True):
    """A sink, and how its task is declared."""

    sink: Sink[Any, Any]
    options: dict[str, Any]


class NamedSink:
    """Stands for a sink where nothing is sent."""

    message_type: Any = Any
    result_type: Any = Any

    def __init__(self, name: str) -> None:
        """Have the name of the sink."""
        self.name = name

    def message_of(self, subject: str, data: Any) -> Any:
        """Return the event's data."""
        return data

    async def __aenter__(self) -> Self:
        """Do nothing."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Do nothing."""

    async def send(self, message: Any, *, key: str) -> Any:
        """Send nothing.

        Raises:
            SinkUnavailable: always.
        """
        raise SinkUnavailable(f"{self.name}: expected to look back only, found a message to send")


class Config(Struct, frozen=True):
    """What a file says; nothing is connected yet."""

    path: str
    app: str | None = None
    """``module:attribute`` or ``plant.py:app``."""
    log: str | None = None
    rules: str | None = None
    """The path of a rules file."""
    telemetry: bool = False
    """Whether engines make traces, with OpenTelemetry."""
    sources: dict[str, Source] = {}
    sinks: dict[str, DeclaredSink] = {}
    forwards: list[Forward] = []

    def declare(self, app: App) -> None:
        """Declare sources, sinks and forwards in *app*.

        Raises:
            ConfigError: a name is taken; nothing was declared.
        """
        self._check_names(app)
        if self.telemetry:
            app.telemetry()
        for source in self.sources.values():
            app.source(source)
        tasks = {name: app.sink(made.sink, **made.options) for name, made in self.sinks.items()}
        for forward in self.forwards:
            app.rule(forward.pattern, name=forward.name)(tasks[forward.sink].forward)

    def _check_names(self, app: App) -> None:
        values, places = toml_of(self.path, ConfigError, EMPTY)
        report = Report(places)
        for name in self.sources:
            if name in app.sources:
                report.at_key(("sources", name), _taken(name, "a source"))
        for name in self.sinks:
            if name in app.sinks:
                report.at_key(("sinks", name), _taken(name, "a sink"))
            elif name in app.tasks:
                report.at_key(("sinks", name), _taken(name, "a task"))
        for number, forward in enumerate(self.forwards[: len(values.get("forward", ()))]):
            if forward.name in app.rules or forward.name in app.tasks:
                report.at_value(("forward", number), _taken(forward.name, "a rule or task"))
        if report.problems:
            raise ConfigError(self.path, report.problems)


def read_config(
    path: str | os.PathLike[str],
    environ: Mapping[str, str] | None = None,
    *,
    connectors: bool = True,
) -> Config:
    """Return what the file at *path* says; *environ* has what ``${NAME}`` stands for.

    Without *connectors* there are no sources, and sinks only have names: enough to look back,
    where neither a secret nor a library is needed.

    Raises:
        ConfigError: it cannot be read, or something in it is wrong: says all that is.
    """
    place = os.fspath(path)
    values, places = toml_of(place, ConfigError, EMPTY)
    report = Report(places)
    settings = Settings(report, os.environ if environ is None else environ)
    table = Table(report, (), values, SECTIONS)
    said = _run_in(table)
    telemetry = _telemetry_in(table, is_needed=connectors)
    sources: dict[str, Source] = {}
    for name, own in _named(table, "sources"):
        if connectors and (made := settings.made(("sources", name), own, "source")) is not None:
            sources[name] = made.connector
    sinks: dict[str, DeclaredSink] = {}
    for name, own in _named(table, "sinks"):
        if not connectors:
            sinks[name] = DeclaredSink(NamedSink(name), {})
        elif (made := settings.made(("sinks", name), own, "sink", SINK_KEYS)) is not None:
            sinks[name] = DeclaredSink(made.connector, _options(made))
    forwards = _forwards(table)
    if report.problems:
        raise ConfigError(place, report.problems)
    return Config(
        place, **said, telemetry=telemetry, sources=sources, sinks=sinks, forwards=forwards
    )


def load_config(
    path: str | os.PathLike[str], app: App, environ: Mapping[str, str] | None = None
) -> Config:
    """Declare in *app* what the file at *path* says, and return it.

    Raises:
        ConfigError: see `read_config` and `Config.declare`.
    """
    config = read_config(path, environ)
    config.declare(app)
    return config


def _run_in(table: Table) -> dict[str, str | None]:
    own = Table(table.report, ("run",), table.get("run") if "run" in table else {}, RUN_KEYS)
    what = {"app": "an app such as 'plant.py:app'", "log": "a folder", "rules": "a file"}
    return {key: own.text(key, what[key]) for key in RUN_KEYS}


def _telemetry_in(table: Table, *, is_needed: bool) -> bool:
    """Say whether traces are to be made: never where nothing but looking back is."""
    if "telemetry" not in table:
        return False
    own = Table(table.report, ("telemetry",), table.get("telemetry"), TELEMETRY_KEYS)
    wanted = bool(own.flag("opentelemetry")) and is_needed
    if wanted:
        from headrace.connectors.telemetry import has_opentelemetry

        if not has_opentelemetry():
            own.fail(
                "opentelemetry",
                "expected the extra 'otel' to be installed, found no module 'opentelemetry'; "
                "pip install 'headrace[otel]'",
            )
    return wanted


def _named(table: Table, section: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the tables of a section with their names, which are those of connectors."""
    if section not in table:
        return []
    report, found = table.report, table.get(section)
    named: list[tuple[str, dict[str, Any]]] = []
    for name, own in Table(report, (section,), found, found).entries():
        if not NAME.fullmatch(name):
            report.at_key(
                (section, name),
                f"expected a name of 1 to 64 letters, digits, '_' and '-', beginning with a "
                f"letter or '_', found {name!r}",
            )
        elif not isinstance(own, dict):
            report.at_value(
                (section, name), f'expected a table with type = "…", found {shown(own)}'
            )
        else:
            named.append((name, own))
    return named


def _options(made: Made) -> dict[str, Any]:
    """Return what the table of a sink says of the task that sends."""
    table, options = made.table, dict[str, Any]()
    if "concurrency" in made.beside:
        options["concurrency"] = table.whole("concurrency")
    if "timeout" in made.beside:
        options["timeout"] = table.span("timeout")
    if "retry" in made.beside and "retry" in table:
        inner = Table(table.report, (*table.path, "retry"), table.get("retry"), RETRY_KEYS)
        said: dict[str, Any] = {
            "attempts": inner.whole("attempts"),
            "wait_first": inner.span("wait_first", zero=True),
            "wait_max": inner.span("wait_max", zero=True),
        }
        given = {key: value for key, value in said.items() if value is not None}
        try:
            options["retry"] = sink_retry(**given)
        except (TypeError, ValueError) as error:
            inner.report.at_value(inner.path, str(error))
    return {key: value for key, value in options.items() if value is not None}


def _forwards(table: Table) -> list[Forward]:
    """Return the items of ``[[forward]]`` that are right."""
    items, found, names = table.get("forward"), list[Forward](), dict[str, int]()
    if "forward" in table and not isinstance(items, list):
        table.expected("forward", "[[forward]], a list of tables")
        return found
    declared = table.get("sinks")
    sinks = declared if isinstance(declared, dict) else {}
    for number, item in enumerate(items or ()):
        own = Table(table.report, ("forward", number), item, FORWARD_KEYS)
        made = _forward(own, sinks)
        if made is None:
            continue
        if made.name in names:
            own.fail("name", f"{_taken(made.name, 'an earlier forward')}: write name = another one")
        names[made.name] = number
        found.append(made)
    return found


def _forward(own: Table, sinks: Mapping[str, Any]) -> Forward | None:
    lacks_on = own.lacks("on", "expected on, found none; write on = a subject such as 'alert.>'")
    lacks_sink = own.lacks("sink", "expected sink, found none; write sink = the name of a sink")
    patterns: list[Pattern[Any]] = []
    for path, subject in () if lacks_on else own.texts("on", "a subject such as 'alert.>'") or ():
        try:
            patterns.append(on(subject))
        except ValueError as error:
            own.report.at_value(path, str(error))
    sink = None if lacks_sink else own.text("sink", "the name of a sink")
    if sink is not None and sink not in sinks:
        meant = did_you_mean(sink, sinks)
        own.fail("sink", f"expected a sink of this file, found {sink!r}{meant}")
    name = own.text("name", "the name of the rule that does it")
    if name is not None and not NAME.fullmatch(name):
        own.expected("name", "a name of 1 to 64 letters, digits, '_' and '-'")
    if own.has_problem() or sink is None:
        return None
    pattern = patterns[0] if len(patterns) == 1 else any_of(*patterns)
    return Forward(name or f"forward_{sink}"[:64], pattern, sink)


def _taken(name: str, by: str) -> str:
    return f"expected a name that is not taken, found {name!r}, which is that of {by}"
