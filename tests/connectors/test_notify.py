"""`NotifySink`: what people are told, by Apprise to a server on this machine."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anyio
import pytest
from anyio import to_thread
from tests.connectors.asking import SECRET

from headrace import App, MemoryLog, ResourceFailed, on
from headrace.connecting import sink_retry
from headrace.connectors.notify import Notification, NotifySink
from headrace.connectors.protocol import ExtraMissing, SinkRefused, SinkUnavailable
from headrace.testing.sink_contract import SinkContract, SinkHarness

pytest.importorskip("apprise")
# Apprise loads all its plugins when the first URL is added.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.slow]


class People:
    """What they were told, and what they answer."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.answers: list[int] = []
        self.wait_s = 0.0
        self.port = 0
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"json://user:{SECRET}@127.0.0.1:{self.port}/{SECRET}"

    def begin(self) -> None:
        """Listen, at the same port as before."""
        people = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                people.told.append(json.loads(body))
                time.sleep(people.wait_s)
                self.send_response(people.answers.pop(0) if people.answers else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def end(self) -> None:
        """Be there no more."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            self._thread.join()
            server.server_close()


@pytest.fixture
def people() -> Iterator[People]:
    made = People()
    made.begin()
    yield made
    made.end()


class TellsPeople(SinkHarness):
    """What is told has no key, and is told twice if it is tried twice."""

    def __init__(self, people: People) -> None:
        self.people = people

    def sink(self) -> NotifySink:
        return NotifySink(self.people.url, timeout_s=3)

    def message(self, number: int) -> Notification:
        return Notification(str(number))

    async def taken(self) -> list[int]:
        return [int(told["message"]) for told in self.people.told]

    def refused(self) -> Notification:
        return Notification("")

    async def kill(self) -> None:
        self.people.end()

    async def start(self) -> None:
        self.people.begin()


class TestNotifySink(SinkContract):
    @pytest.fixture
    def harness(self, people: People) -> SinkHarness:
        return TellsPeople(people)


async def test_events_are_told_by_the_templates(people: People) -> None:
    """A rule forwards what it sees; one that is not taken is told again."""
    app = App("plant")
    sink = NotifySink(people.url, title="{subject} is hot", body="{data.c} °C in {data.at.room}")
    sent = app.sink(sink, retry=sink_retry(wait_first=0.01))
    app.rule(on("alert.*"))(sent.forward)
    people.answers = [503]
    async with app.open(MemoryLog()) as engine:
        await engine.emit("alert.t1", {"c": 93.5, "at": {"room": "hall"}})
        await engine.drain()
        assert [run.status for run in engine.runs() if run.rule] == ["completed"]
    first, again = people.told

    assert (first["title"], first["message"]) == ("alert.t1 is hot", "93.5 °C in hall")
    assert (again["title"], again["message"]) == (first["title"], first["message"])


async def test_what_is_not_taken_is_said(people: People) -> None:
    """By all of them, or it counts as not taken; without the addresses."""
    async with NotifySink([people.url, people.url]) as sink:
        await sink.send(Notification("a"), key="k")
        people.answers = [200, 500]
        with pytest.raises(SinkUnavailable, match="all of 2") as caught:
            await sink.send(Notification("b", "t"), key="k")
        with pytest.raises(SinkRefused, match="found neither"):
            await sink.send(Notification(""), key="k")
        assert SECRET not in str(caught.value) + repr(sink)
    assert len(people.told) == 4


async def test_slow_service_is_not_waited_for(people: People) -> None:
    """The loop goes on meanwhile, and after the deadline so does the run."""
    people.wait_s = 0.5
    async with NotifySink(people.url, timeout_s=0.05) as sink:
        with anyio.fail_after(5), pytest.raises(SinkUnavailable, match=r"within 0.05 s"):
            await sink.send(Notification("a"), key="k")
    await anyio.sleep(0.6)  # its thread has an answer to wait for


async def test_those_who_answer_late_take_no_thread_from_others(people: People) -> None:
    """Threads that all of a program share are few, and a service may be silent for long."""
    people.wait_s = 0.3
    async with NotifySink(people.url) as sink, anyio.create_task_group() as group:
        group.start_soon(partial(sink.send, Notification("a"), key="k"))
        with anyio.fail_after(5):
            while not people.told:
                await anyio.sleep(0.01)

        assert to_thread.current_default_thread_limiter().borrowed_tokens == 0


async def test_doctor_hears_whether_the_addresses_are_known() -> None:
    """Before anything is sent, and without showing them."""
    said = await NotifySink([f"json://{SECRET}@a", "json://b"]).probe()
    assert said.startswith("Apprise knows the addresses (2 of 2)")
    assert SECRET not in said
    with pytest.raises(ValueError, match="number 2: expected an address that Apprise knows"):
        await NotifySink(["json://a", f"nothing://{SECRET}"]).probe()
    with pytest.raises(ValueError, match=r"found another one \(…\)"):
        await NotifySink(f"token {SECRET}://a").probe()


@pytest.mark.parametrize("url", [f"nothing://{SECRET}@host", "slak://hidden/a?x=hidden"])
async def test_address_that_apprise_does_not_know_ends_the_start(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Not the first message; the address is not shown, nor does Apprise show it."""
    app = App("plant")
    app.sink(NotifySink(url))
    with pytest.raises(
        ResourceFailed, match="number 1: expected an address that Apprise"
    ) as caught:
        async with app.open(MemoryLog()):
            pytest.fail("it is open")
    for secret in (SECRET, "hidden"):
        assert secret not in str(caught.value)
        assert secret not in caplog.text


@pytest.mark.parametrize(
    ("template", "data", "text"),
    [
        ("{subject}: {data}", {"a": [1, "ä"]}, 'a.b: {"a":[1,"ä"]}'),
        ("{data.a}", {"a": "x"}, "x"),
        ("{data.a.b}", {"a": 3}, ""),
        ("{data.__class__}", {"a": 3}, ""),
        ("plain", None, "plain"),
        ("", 1, ""),
    ],
)
def test_templates_are_filled(template: str, data: Any, text: str) -> None:
    """From the data alone: what is not there is empty, and nothing is called."""
    assert NotifySink("json://a", body=template).message_of("a.b", data).body == text


@pytest.mark.parametrize("template", ["{", "{x}", "{data.}", "{subject.x}", "{data[0]}", "{0}"])
def test_templates_that_cannot_work_are_refused(template: str) -> None:
    """At once, with what may stand there."""
    with pytest.raises(ValueError, match=r"body: expected \{subject\}"):
        NotifySink("json://a", body=template)


def test_what_is_no_template_is_shown_on_one_line() -> None:
    """And not all of it, where a brace is missing near the beginning."""
    with pytest.raises(ValueError, match="body: expected") as caught:
        NotifySink("json://a", body="{data\n" + "x" * 1000)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("urls", "found"),
    [
        ("", "text without '://' as number 1"),
        ([], "none"),
        (["json://a", ""], "text without '://' as number 2"),
        ([SECRET], "text without '://' as number 1"),
        (["json://a", 7], "int as number 2"),
    ],
)
def test_no_address_is_a_mistake(urls: Any, found: str) -> None:
    """It is said which one; the addresses are not shown."""
    with pytest.raises(ValueError, match=f"urls: expected addresses .* found {found}") as caught:
        NotifySink(urls)
    assert SECRET not in str(caught.value)


async def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install."""
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(ExtraMissing, match=r"headrace\[notify\]"):
        async with NotifySink("json://a"):
            pytest.fail("it is open")
