"""examples/alert.py: a task that keeps failing sends one message, to a server on this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from tests.test_examples import load

from headrace import Engine, MemoryLog, ResourceFailed

pytest.importorskip("apprise")
# Apprise loads all its plugins when the first URL is added.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Sink:
    """What was posted, and what is answered."""

    def __init__(self) -> None:
        """Take everything."""
        self.messages: list[dict[str, Any]] = []
        self.answers: list[int] = []
        self.url = ""


@pytest.fixture
def sink() -> Iterator[Sink]:
    """An HTTP server on the loopback interface, with a thread of its own."""
    made = Sink()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.messages.append(json.loads(body))
            self.send_response(made.answers.pop(0) if made.answers else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        made.url = f"json://127.0.0.1:{server.server_address[1]}/alerts"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield made
        server.shutdown()
        thread.join()


async def fail_uploads(engine: Engine, times_s: list[float]) -> None:
    """Let files arrive that cannot be uploaded, each at its time."""
    for time_s in times_s:
        await engine.emit("file.arrived", f"{time_s:g}.csv", time=1e9 + time_s)
        await engine.drain()


@pytest.mark.slow
async def test_three_failures_in_ten_minutes_are_one_message(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those that are further apart are none."""
    monkeypatch.setenv("ALERT_URL", sink.url)
    app = load("alert").app

    async with app.open(MemoryLog(), clock="input") as engine:
        await fail_uploads(engine, [0, 400, 1200])
        assert sink.messages == []
        await fail_uploads(engine, [1300, 1400])
        assert [run.error for run in engine.runs("dead") if run.task != "upload"] == []

    (message,) = sink.messages
    assert message["title"] == "upload has failed three times in ten minutes"
    assert message["message"].count("the store does not answer") == 3


@pytest.mark.slow
async def test_a_message_that_is_not_taken_is_sent_again(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task is tried again, as any other."""
    monkeypatch.setenv("ALERT_URL", sink.url)
    sink.answers = [503]
    app = load("alert").app

    async with app.open(MemoryLog(), clock="input") as engine:
        await fail_uploads(engine, [0, 1, 2])
        done = [run for run in engine.runs("completed") if run.task == "notify"]
        assert [run.attempt for run in done] == [2]
    assert len(sink.messages) == 2


async def test_nobody_to_tell_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the first alarm."""
    monkeypatch.setenv("ALERT_URL", "nothing")
    with pytest.raises(ResourceFailed, match="ALERT_URL='nothing'"):
        async with load("alert").app.open(MemoryLog()):
            pytest.fail("it is open")
