"""Traces by a file: ``[telemetry]`` of headrace.toml, and what the commands say of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.command import Call
from tests.connectors.traces import CARRIED

from headrace import App
from headrace.cli.apps import load
from headrace.config import read_config
from headrace.connectors import telemetry
from headrace.engine.clock import VirtualClock
from headrace.engine.log import LogReader
from headrace.engine.record import EventStored, decode

pytestmark = pytest.mark.slow

CONFIG = """
[run]
app = "plant.py:app"
log = "plant.log"

[telemetry]
opentelemetry = true
"""
PLANT = """
from headrace import App, Run, on

app = App("plant")

@app.rule(on("a"))
async def mill(run: Run) -> None:
    await run.emit("b")
"""


@pytest.fixture
def here(headrace: Call) -> Call:
    """A folder with an app and a configuration that asks for traces."""
    Path("headrace.toml").write_text(CONFIG)
    Path("plant.py").write_text(PLANT)
    return headrace


def test_check_says_whether_traces_are_made(here: Call) -> None:
    """And for which provider; of an app that makes none there is no word on it."""
    asked = here("check", "--config", "headrace.toml")
    assert "traces    OpenTelemetry, ProxyTracerProvider\n" in asked.out
    document = json.loads(here("check", "--config", "headrace.toml", "-o", "json").out)
    assert document["tracer_provider"] == "ProxyTracerProvider"
    assert "traces" not in here("check", "plant.py:app").out
    document = json.loads(here("check", "plant.py:app", "-o", "json").out)
    assert document["tracer_provider"] is None


def test_doctor_warns_of_spans_that_nobody_gets(here: Call) -> None:
    """The API makes none by itself: it says what is missing."""
    asked = here("doctor", "--config", "headrace.toml").out
    assert (
        "warn  traces        made with OpenTelemetry, whose spans go to nobody in this process; "
        "set up a tracer provider, or start it as opentelemetry-instrument -- headrace run …\n"
        in asked
    )
    assert "ok    traces        none are made\n" in here("doctor", "plant.py:app").out


def test_what_a_run_emits_has_the_context_of_what_began_it(here: Call) -> None:
    """The file switches it on for `headrace run`, and what is read has headers as others have."""
    event = {"specversion": "1.0", "id": "1", "source": "s", "type": "a", **CARRIED}
    Path("file").write_text(json.dumps(event))
    assert here("log", "import", "file", "plant.log").code == 0
    Path("none").write_text("")
    done = here("run", "--config", "headrace.toml", "--from", "none")
    assert done.code == 0, done.err
    with LogReader("plant.log") as reader:
        found = [decode(raw) for _, batch in reader.read() for raw in batch]

    events = [(e.subject, e.headers) for e in found if isinstance(e, EventStored)]
    assert events == [("a", CARRIED), ("b", CARRIED)]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("opentelemetry = 1", "7:17: telemetry.opentelemetry: expected true or false, found 1"),
        ("otel = true", "7:1: telemetry.otel: expected opentelemetry, found 'otel'"),
    ],
)
def test_what_is_wrong_in_the_table_is_said_with_its_place(
    here: Call, text: str, error: str
) -> None:
    """As of all tables, and nothing is run."""
    Path("headrace.toml").write_text(CONFIG.replace("opentelemetry = true", text))
    done = here("check", "--config", "headrace.toml")
    assert done.code == 2
    assert f"headrace.toml:{error}" in done.err


def test_extra_that_is_not_there_is_said_with_its_place(
    here: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is run; to look back it is not needed."""
    monkeypatch.setattr(telemetry, "has_opentelemetry", lambda: False)
    done = here("check", "--config", "headrace.toml")
    assert done.code == 2
    assert (
        "headrace.toml:7:17: telemetry.opentelemetry: expected the extra 'otel' to be installed, "
        "found no module 'opentelemetry'; pip install 'headrace[otel]'" in done.err
    )
    assert read_config("headrace.toml", {}, connectors=False).telemetry is False


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_looks_back_needs_no_headers(here: Call, anyio_backend: str) -> None:
    """Trees of causes, runs and replays of a log with headers are those of one without."""
    app: App = load("plant.py:app")
    for name, headers in (("with", CARRIED), ("without", None)):
        async with app.open(name, clock=VirtualClock(), control=False) as engine:
            await engine.emit("a", {"litres": 7}, headers=headers)
            await engine.drain()
    found: list[list[str]] = []
    for name in ("with", "without"):
        said = [
            here("trace", name, 2, "-o", "json"),
            here("runs", "list", name, "-o", "json"),
            here("replay", "plant.py:app", name, "-o", "json"),
            here("state", "plant.py:app", name, "--at", 5, "-o", "json"),
            here("timeline", name, "--out", f"{name}.html"),
        ]
        assert [done.code for done in said] == [0] * 5, [done.err for done in said]
        found.append([done.out.replace(name, "log") for done in said[:4]])

    assert found[0] == found[1]
    assert '"name": "b"' in found[0][0]
