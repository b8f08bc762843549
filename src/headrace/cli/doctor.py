"""``headrace doctor``: whether this machine, a log's disk and the servers are as they should be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.cli.errors import FAILURE, OK, UNREACHABLE
from headrace.cli.findings import Finding, fail, ok, warn
from headrace.cli.output import Output, write, write_document, write_rows
from headrace.cli.text import safe
from headrace.engine.errors import HeadraceError

if TYPE_CHECKING:
    from headrace.app import App


def doctor(
    name: str | None, *, log: Path | None, config: Path | None, rules: Path | None, output: Output
) -> int:
    """Print what was found, each with what to mend; return the exit code."""
    found = list(_all(name, log=log, config=config, rules=rules))
    rows = [_row(one) for one in found]
    if output == "table":
        for one in found:
            write(_line(one))
    elif output == "json":
        states = [one.state for one in found]
        write_document({"ok": "fail" not in states, "checks": rows}, output, str)
    else:
        write_rows(rows, output, (), empty="")
    failed = [one for one in found if one.state == "fail"]
    if not failed:
        return OK
    return UNREACHABLE if all(one.is_connection for one in failed) else FAILURE


def _all(
    name: str | None, *, log: Path | None, config: Path | None, rules: Path | None
) -> Iterator[Finding]:
    from headrace.cli import doctor_machine as machine

    yield machine.python()
    yield from machine.libraries()
    yield from machine.connectors()
    yield from machine.clocks()
    yield machine.open_files()
    app: App | None = None
    if name is not None or config is not None or rules is not None:
        try:
            app, said = _settings(name, rules, config)
        except HeadraceError as error:
            problems = [*getattr(error, "__notes__", ()), str(error)]
            mend = "nothing else that needs the app was looked at"
            yield from (fail("settings", problem, mend) for problem in problems if problem.strip())
        else:
            yield ok("settings", _said(app))
            log = log or (Path(said) if said is not None else None)
    if log is not None:
        from headrace.cli.doctor_disk import disk

        yield from disk(log)
    elif app is None and config is not None:
        found = "not looked at: what says which log it is cannot be used"
        yield warn("disk", found, "correct the settings, or name it: --log DIR")
    else:
        yield warn("disk", "no log was named", "name it: --log DIR, or log in [run] of --config")
    if app is not None:
        yield _traces(app)
        from headrace.cli.doctor_links import links

        yield from links(app)


def _settings(name: str | None, rules: Path | None, config: Path | None) -> tuple[App, str | None]:
    from headrace.cli.apps import load_with

    app, said = load_with("doctor", name, rules, config)
    return app, said.log


def _traces(app: App) -> Finding:
    provider = app.tracer_provider
    if provider is None:
        return ok("traces", "none are made")
    if provider == "ProxyTracerProvider":
        return warn(
            "traces",
            "made with OpenTelemetry, whose spans go to nobody in this process",
            "set up a tracer provider, or start it as opentelemetry-instrument -- headrace run …",
        )
    return ok("traces", f"made with OpenTelemetry, for {provider}")


def _said(app: App) -> str:
    return (
        f"app {app.name}: {len(app.rules)} rules, {len(app.tasks)} tasks, "
        f"{len(app.sources)} sources, {len(app.sinks)} sinks"
    )


def _row(one: Finding) -> dict[str, Any]:
    return {"check": one.check, "state": one.state, "found": one.found, "mend": one.mend}


def _line(one: Finding) -> str:
    mend = f"; {one.mend}" if one.mend else ""
    return safe(f"{one.state:<6}{one.check:<14}{one.found}{mend}")
