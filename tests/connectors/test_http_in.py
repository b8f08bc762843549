"""Webhooks into the log: what is taken, what is refused with which status, and what is stored."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from tests.connectors.asking import SECRET, Answer, ask, github

from headrace import App, Engine, FileLog, MemoryLog
from headrace.connectors.feeder import Feeder
from headrace.connectors.http_in import Webhook
from headrace.connectors.protocol import ConnectorError
from headrace.engine.clock import VirtualClock
from headrace.engine.log.protocol import EventLog
from headrace.engine.record import EventStored, decode

GITHUB = {"subject": "github.{event}", "scheme": "github", "secrets": [SECRET]}
ROUTES: dict[str, Any] = {
    "/github": GITHUB,
    "/plain": "plain.event",
    "/text": {"subject": "plain.text", "format": "text"},
    "/bytes": {"subject": "plain.bytes", "format": "bytes", "id_header": "X-Id"},
    "/ce": {"format": "cloudevents"},
    "/ce/below": {"format": "cloudevents", "subject": "outside"},
}


@asynccontextmanager
async def opened(
    webhook: Webhook, log: EventLog | None = None, **options: Any
) -> AsyncGenerator[Engine, None]:
    app = App("hooks")
    app.source(webhook)
    async with app.open(log or MemoryLog(), **options) as engine:
        with anyio.fail_after(5):
            while webhook._door is None:
                await checkpoint()
        yield engine


def stored(engine: Engine) -> list[EventStored]:
    records = [decode(raw) for _, batch in engine.log.read() for raw in batch]
    return [record for record in records if isinstance(record, EventStored)]


def data(engine: Engine) -> list[Any]:
    import msgspec

    return [msgspec.msgpack.decode(event.data) for event in stored(engine)]


def webhook(**options: Any) -> Webhook:
    return Webhook(ROUTES, **options)


# ---------------------------------------------------------------- taken


async def test_signed_webhook_is_an_event() -> None:
    """Its kind is in the subject, its data is the body, its id that of the delivery."""
    hook, body = webhook(), b'{"ref": "main"}'
    async with opened(hook) as engine:
        answer = await ask(hook, "/github", body, github(body, "d-7", "pull_request"))
        (event,) = stored(engine)

        assert (answer.status, answer.json) == (202, {"sequence": engine.kernel.sequence})
        assert (event.subject, event.id) == ("github.pull_request", "d-7")
        assert data(engine) == [{"ref": "main"}]


async def test_delivery_that_comes_again_is_stored_once() -> None:
    """It is answered as the first one was, so that the sender is content."""
    hook = webhook()
    async with opened(hook) as engine:
        answers = [await ask(hook, "/github", b"{}", github(b"{}")) for _ in range(3)]
        status = feeder(engine).status

    assert {answer.status for answer in answers} == {202}
    assert len({answer.json["sequence"] for answer in answers}) == 1
    assert (status.stored, status.duplicates) == (1, 2)


def feeder(engine: Engine) -> Feeder:
    (companion,) = engine.companions
    assert isinstance(companion, Feeder)
    return companion


async def test_ids_of_one_route_are_none_of_another() -> None:
    """Who may send to one cannot keep events of another out."""
    hook = Webhook({"/a": "a", "/b": "b"})
    async with opened(hook) as engine:
        for path in ("/a", "/b", "/a"):
            await ask(hook, path, b"1", {"Idempotency-Key": "k"})
        assert [event.subject for event in stored(engine)] == ["a", "b"]


async def test_answer_comes_behind_the_log(tmp_path: Path) -> None:
    """What was answered with 202 is in the log, whatever happens in the next moment."""
    hook = webhook()
    async with opened(hook, FileLog(tmp_path / "log")) as engine:
        for number in range(5):
            answer = await ask(hook, "/plain", b"%d" % number)
            assert answer.status == 202
            assert engine.log.committed_sequence >= answer.json["sequence"]


async def test_text_and_bytes_are_taken_as_they_are() -> None:
    """Whatever the type that is said of them."""
    hook = webhook()
    async with opened(hook) as engine:
        await ask(hook, "/text", "ä".encode(), {"content-type": "text/plain"})
        await ask(hook, "/bytes", b"\xff\x00", {"x-id": "1"})
        await ask(hook, "/bytes", b"\xff\x01", {"x-id": "1"})
        assert data(engine) == ["ä", b"\xff\x00"]
        assert (await ask(hook, "/text", b"\xff")).status == 400


async def test_body_in_parts_is_one_body() -> None:
    """As it comes from the network."""
    hook = webhook()
    async with opened(hook) as engine:
        await ask(hook, "/plain", [b'{"a"', b": ", b"1}", b""])
        assert data(engine) == [{"a": 1}]


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "raw", "identity"])
async def test_compressed_body_is_decompressed(encoding: str) -> None:
    """The signature is over what came, not over what it becomes."""
    plain = json.dumps(list(range(1000))).encode()
    raw = zlib.compressobj(wbits=-15)
    body = {
        "gzip": gzip.compress(plain),
        "deflate": zlib.compress(plain),
        "raw": raw.compress(plain) + raw.flush(),
        "identity": plain,
    }[encoding]
    headers = {"content-encoding": encoding.replace("raw", "deflate"), **github(body)}
    hook = webhook()
    async with opened(hook) as engine:
        assert (await ask(hook, "/github", body, headers)).status == 202
        assert data(engine) == [list(range(1000))]


async def test_slack_is_answered_when_it_asks_who_is_there() -> None:
    """Otherwise its settings do not take the address; and it knows an event by a field."""
    import hmac

    def headers(body: bytes, now: int) -> dict[str, str]:
        signed = f"v0:{now}:".encode() + body
        digest = hmac.digest(SECRET.encode(), signed, "sha256").hex()
        return {"x-slack-request-timestamp": str(now), "x-slack-signature": f"v0={digest}"}

    clock = VirtualClock()
    now = clock.wall_ns() // 10**9
    route = {"subject": "slack.{event}", "scheme": "slack", "secrets": SECRET}
    hook = Webhook({"/slack": route}, clock=clock)
    challenge = b'{"type": "url_verification", "challenge": "abc"}'
    event = b'{"type": "event_callback", "event_id": "Ev1", "event": {"type": "app_mention"}}'
    command = b"command=%2Fgo&text=a"
    form = {"content-type": "application/x-www-form-urlencoded"}
    async with opened(hook) as engine:
        asked = await ask(hook, "/slack", challenge, headers(challenge, now))
        for later in (0, 9):  # tried again, with a signature of its own
            await ask(hook, "/slack", event, headers(event, now + later))
        refused = await ask(hook, "/slack", command, headers(command, now) | form)

        assert (asked.status, asked.body) == (200, b"abc")
        assert [(e.subject, e.id) for e in stored(engine)] == [("slack.app_mention", "Ev1")]
        assert refused.status == 400
        assert "a field type" in refused.json["error"]


async def test_stripe_tells_the_kind_in_a_field() -> None:
    """Its dots are those of the subject; what could not stand in one is written otherwise."""
    import hmac

    clock = VirtualClock()
    now = clock.wall_ns() // 10**9
    route = {"subject": "pay.{event}", "scheme": "stripe", "secrets": ["old", SECRET]}
    hook = Webhook({"/stripe": route}, clock=clock)
    async with opened(hook) as engine:
        for kind in ("invoice.paid", "a.*.>"):
            body = json.dumps({"id": f"evt_{kind}", "type": kind}).encode()
            digest = hmac.digest(SECRET.encode(), f"{now}.".encode() + body, "sha256").hex()
            await ask(hook, "/stripe", body, {"stripe-signature": f"t={now},v1={digest}"})
        assert [e.subject for e in stored(engine)] == ["pay.invoice.paid", "pay.a.%2A.%3E"]
        assert [e.id for e in stored(engine)] == ["evt_invoice.paid", "evt_a.*.>"]


# ---------------------------------------------------------------- CloudEvents

EVENT = {"specversion": "1.0", "id": "1", "source": "/s", "type": "door.opened", "data": {"a": 1}}
STRUCTURED = {"content-type": "application/cloudevents+json; charset=utf-8"}
BATCHED = {"content-type": "application/cloudevents-batch+json"}


def binary(**more: str) -> dict[str, str]:
    attributes = {"specversion": "1.0", "id": "1", "source": "/s", "type": "door.opened"} | more
    return {f"ce-{name}": value for name, value in attributes.items()}


async def test_cloudevents_come_in_each_mode() -> None:
    """Structured, in batches and binary: the same event, stored once."""
    hook = webhook()
    async with opened(hook) as engine:
        body = json.dumps(EVENT).encode()
        batch = json.dumps([EVENT, {**EVENT, "id": "2", "subject": "7"}]).encode()
        one = await ask(hook, "/ce", body, STRUCTURED)
        two = await ask(hook, "/ce", batch, BATCHED)
        three = await ask(hook, "/ce", b'{"a": 1}', binary())
        found = stored(engine)

        assert [one.status, two.status, three.status] == [202] * 3
        assert two.json == {"sequences": [one.json["sequence"], one.json["sequence"] + 1]}
        assert three.json == one.json
        assert [e.subject for e in found] == ["door.opened", "door.opened.~7"]
        assert data(engine) == [{"a": 1}, {"a": 1}]


async def test_cloudevents_may_stand_below_a_subject_of_ours() -> None:
    """So that who sends them cannot choose any subject."""
    hook = webhook()
    async with opened(hook) as engine:
        await ask(hook, "/ce/below", json.dumps(EVENT).encode(), STRUCTURED)
        assert [e.subject for e in stored(engine)] == ["outside.door.opened"]


async def test_binary_cloudevents_hold_any_data() -> None:
    """JSON, msgpack, none, or bytes of whatever type; attributes may be percent-encoded."""
    hook = webhook()
    cases: list[tuple[bytes, str]] = [
        (b"[1]", "application/vnd.x+json"), (b"\x93\x01\x02\x03", "application/msgpack"),
        (b"\xff", "image/png"), (b"", ""),
    ]  # fmt: skip
    async with opened(hook) as engine:
        for number, (body, kind) in enumerate(cases):
            headers = binary(id=str(number), subject="caf%C3%A9") | {"content-type": kind}
            answer = await ask(hook, "/ce", body, headers)
            assert answer.status == 202, answer
        assert data(engine) == [[1], [1, 2, 3], b"\xff", None]
        assert {e.subject for e in stored(engine)} == {"door.opened.~café"}


@pytest.mark.parametrize(
    ("body", "headers", "status", "said"),
    [
        (json.dumps(EVENT | {"specversion": "2.0"}).encode(), STRUCTURED, 400, "specversion '2.0'"),
        (json.dumps([EVENT, EVENT | {"specversion": "0.3"}]).encode(), BATCHED, 400, "'0.3'"),
        (b"{}", binary(specversion="9"), 400, "specversion '9'"),
        (b"{}", {k: v for k, v in binary().items() if k != "ce-id"}, 400, "missing.*`id`"),
        (b"{}", binary(source=""), 400, "missing.*`source`"),
        (json.dumps(EVENT | {"id": ""}).encode(), STRUCTURED, 400, "an empty id"),
        (json.dumps(EVENT | {"type": "run.failed"}).encode(), STRUCTURED, 202, ""),
        (json.dumps(EVENT | {"time": "now"}).encode(), STRUCTURED, 400, "now"),
        (json.dumps(EVENT | {"headracesubject": "a.*"}).encode(), STRUCTURED, 400, "wildcard"),
        (json.dumps(EVENT | {"headracesubject": "run.x"}).encode(), STRUCTURED, 400, "reserved"),
        (json.dumps(EVENT | {"data_base64": "MQ=="}).encode(), STRUCTURED, 400, "both data"),
        (b"{", STRUCTURED, 400, "expected JSON"),
        (b"{}", BATCHED, 400, "a list"),
        (b"{}", {"content-type": "application/cloudevents+avro"}, 415, "expected a CloudEvent"),
        (b"{}", {"content-type": "application/json"}, 415, "expected a CloudEvent"),
        (b"{", binary(), 400, "expected JSON"),
        (b"\xc1", binary() | {"content-type": "application/msgpack"}, 400, "msgpack"),
        (b"{}", binary(subject="%ff"), 400, "utf-8"),
    ],
)
async def test_what_is_no_cloudevent_is_refused(
    body: bytes, headers: dict[str, str], status: int, said: str
) -> None:
    """With what was expected; nothing is stored, of a batch neither."""
    hook = webhook()
    async with opened(hook) as engine:
        answer = await ask(hook, "/ce", body, headers)

        assert answer.status == status, answer
        assert len(stored(engine)) == int(status == 202)
    if status != 202:
        assert re.search(said, answer.json["error"]), answer


# ---------------------------------------------------------------- refused


def deep(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


REFUSALS: list[tuple[str, bytes, dict[str, str], int, str]] = [
    ("/nowhere", b"{}", {}, 404, "path of a route"),
    ("/plain", b"{", {}, 400, "expected JSON"),
    ("/plain", b"\xff", {}, 400, "expected JSON"),
    ("/plain", b"", {}, 400, "expected JSON"),
    ("/plain", deep(65), {}, 400, "64 levels"),
    ("/plain", deep(100_000), {}, 400, "nested too deeply"),
    ("/plain", b"{}", {"content-type": "text/plain"}, 415, "application/json"),
    ("/plain", b"{}", {"content-type": ""}, 415, "application/json"),
    ("/plain", b"{}", {"content-type": "application/json; charset=latin-1"}, 415, "charset"),
    ("/plain", b"a=1", {"content-type": "application/x-www-form-urlencoded"}, 415, "json"),
    ("/plain", b"{}", {"content-encoding": "br"}, 415, "gzip or deflate"),
    ("/plain", b"{}", {"content-encoding": "gzip"}, 400, "gzip"),
    ("/plain", b"{}", {"content-encoding": "deflate"}, 400, "its end"),
    (
        "/plain",
        gzip.compress(b"[1]" + b" " * 5, mtime=0)[:-4],
        {"content-encoding": "gzip"},
        400,
        "its end",
    ),
    (
        "/plain",
        gzip.compress(b"[1]", mtime=0) + b"x",
        {"content-encoding": "gzip"},
        400,
        "more behind",
    ),
    (
        "/plain",
        gzip.compress(b" " * 100_000, mtime=0),
        {"content-encoding": "gzip"},
        413,
        "compressed",
    ),
    ("/plain", b" " * (1024 * 1024 + 1), {}, 413, "1048576 bytes"),
    ("/plain", b"{}", {"content-length": "1048577"}, 413, "1048576 bytes"),
    ("/plain", b"1", {"idempotency-key": "k" * 700}, 400, "600 characters"),
    ("/plain", b"1" * 400, {}, 400, "stored"),
    ("/plain", b"1", {"x-pad": "x" * 16_384}, 431, "16384 bytes"),
    ("/plain", b"1", {f"x-{n}": "1" for n in range(100)}, 431, "100 headers"),
    ("/github", b"{}", {}, 401, "none"),
    ("/github", b"{}", github(b"{ }"), 401, "found another"),
    ("/github", b"{}", {**github(b"{}"), "X-Hub-Signature-256": "sha256=ä"}, 401, "found another"),
    ("/github", b"{", github(b"{"), 400, "expected JSON"),
    ("/github", b"{}", github(b"{}", kind=""), 400, "x-github-event"),
]


@pytest.mark.parametrize(("path", "body", "headers", "status", "said"), REFUSALS)
async def test_what_cannot_be_taken_is_refused(
    path: str, body: bytes, headers: dict[str, str], status: int, said: str
) -> None:
    """With a status that says whose fault it is; the next one is taken."""
    hook = webhook()
    async with opened(hook) as engine:
        answer = await ask(hook, path, body, headers)
        after = await ask(hook, "/plain", b"1")

        assert answer.status == status, answer
        assert said in answer.json["error"]
        assert after.status == 202
        assert len(stored(engine)) == 1
        if status in {400, 401, 413, 415}:
            assert feeder(engine).status.refused == 1


async def test_levels_up_to_the_bound_are_taken() -> None:
    """And bytes, too."""
    hook = webhook()
    async with opened(hook):
        assert (await ask(hook, "/plain", deep(64))).status == 202
        body = b'"' + b"x" * 900_000 + b'"'
        assert (await ask(hook, "/bytes", body)).status == 202


async def test_large_body_is_not_read_to_its_end() -> None:
    """Parts are counted as they come: the length need not be said."""
    hook = webhook(body_bytes_max=1000)
    async with opened(hook) as engine:
        answer = await ask(hook, "/plain", [b" " * 400] * 100)

        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert stored(engine) == []


async def test_other_methods_are_refused() -> None:
    """With the one that is taken."""
    hook = webhook()
    async with opened(hook):
        answer = await ask(hook, "/plain", method="GET")
        assert (answer.status, answer.headers["allow"]) == (405, "POST")
        assert (await ask(hook, "/healthz", method="POST")).status == 405


async def test_requests_that_come_too_fast_are_refused() -> None:
    """From one address; others go on, and so does that one after a while."""
    clock = VirtualClock()
    hook = webhook(rate=2, clock=clock)
    async with opened(hook):
        statuses = [(await ask(hook, "/plain", b"1")).status for _ in range(5)]
        answer = await ask(hook, "/plain", b"1")
        other = await ask(hook, "/plain", b"1", client=("192.0.2.2", 1))
        await clock.advance(0.5)
        later = [(await ask(hook, "/plain", b"1")).status for _ in range(2)]

    assert statuses == [202] * 4 + [429]
    assert (answer.status, answer.headers["retry-after"]) == (429, "1")
    assert other.status == 202
    assert later == [202, 429]


async def test_addresses_of_one_network_are_one_sender() -> None:
    """Of IPv6 one has as many as one likes."""
    hook = webhook(rate=1, clock=VirtualClock())
    async with opened(hook):
        statuses = [
            (await ask(hook, "/plain", b"1", client=(f"2001:db8::{n}", 1))).status for n in range(3)
        ]
        other = await ask(hook, "/plain", b"1", client=("2001:db8:0:1::1", 1))

    assert (statuses, other.status) == ([202, 202, 429], 202)


async def test_body_that_does_not_come_is_not_waited_for() -> None:
    """408 after the deadline, and nothing is stored."""
    hook = webhook(body_deadline_s=0.05)
    async with opened(hook) as engine:
        answer = await ask(hook, "/plain", b"1", {"expect": "100-continue"}, stalls=True)

        assert answer.status == 408
        assert stored(engine) == []


async def test_no_more_requests_at_a_time_than_are_allowed() -> None:
    """What is in flight is bounded also where a host's server lets everybody in."""
    hook = webhook(connections_max=2)
    async with opened(hook) as engine:
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(lambda: ask(hook, "/plain", b"1", stalls=True))
            await anyio.wait_all_tasks_blocked()
            answer = await ask(hook, "/plain", b"1")
            assert answer.status == 503
            group.cancel_scope.cancel()
        after = await ask(hook, "/plain", b"1")

        assert after.status == 202
        assert len(stored(engine)) == 1


# ---------------------------------------------------------------- its life


async def test_before_and_after_the_engine_there_is_503() -> None:
    """A host mounts it once, and opens its engine when it likes."""
    hook = webhook()
    before = [await ask(hook, path, b"1") for path in ("/plain", "/readyz")]
    health = await ask(hook, "/healthz", method="GET")
    async with opened(hook):
        during = await ask(hook, "/readyz", method="GET")
    after = await ask(hook, "/plain", b"1")
    async with opened(hook):
        again = await ask(hook, "/plain", b"1")

    assert [answer.status for answer in before] == [503, 405]
    assert before[0].headers["retry-after"]
    assert [health.status, during.status, after.status, again.status] == [200, 200, 503, 202]
    assert (await ask(hook, "/readyz", method="GET")).status == 503


async def test_mounted_below_a_path_it_knows_its_own() -> None:
    """As Starlette says it: the path is the whole one."""
    hook = webhook()
    async with opened(hook):
        answer = await ask(hook, "/hooks/plain", b"1", root_path="/hooks")
        assert answer.status == 202


@pytest.mark.slow
async def test_request_in_flight_gets_503_when_the_engine_ends() -> None:
    """It is not left alone with what nobody will store."""
    hook, answers = webhook(), list[Answer]()

    async def send() -> None:
        answers.append(await ask(hook, "/plain", b"1", stalls=True))

    async with anyio.create_task_group() as group:
        async with opened(hook):
            group.start_soon(send)
            await anyio.wait_all_tasks_blocked()
        group.cancel_scope.deadline = anyio.current_time() + 5

    (answer,) = answers
    assert (answer.status, answer.headers["connection"]) == (503, "close")


async def test_slow_log_is_not_waited_for_without_end() -> None:
    """The sender is told to come again, and what it sent is not stored twice."""
    hook = webhook(store_deadline_s=0.05)
    async with opened(hook, pending_runs_max=1) as engine:
        intake = feeder(engine)
        assert hook._door is not None
        real = hook._door.intake.put

        async def slow(events: Any) -> list[int]:
            await real(events)
            await anyio.sleep_forever()
            raise AssertionError

        hook._door.intake.put = slow  # type: ignore[method-assign]
        late = await ask(hook, "/plain", b"1", {"idempotency-key": "k"})
        hook._door.intake.put = real  # type: ignore[method-assign]
        again = await ask(hook, "/plain", b"1", {"idempotency-key": "k"})

        assert (late.status, again.status) == (503, 202)
        assert "retry-after" in late.headers
        assert (intake.status.stored, intake.status.duplicates) == (1, 1)


async def test_one_engine_at_a_time() -> None:
    """Two would not know whose a request is."""
    hook = webhook()
    with pytest.raises(ConnectorError, match="one engine at a time"):
        async with opened(hook), opened(hook):
            await anyio.sleep_forever()


async def test_secrets_are_nowhere_in_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither headers that hold them nor settings; not in what is printed either."""
    planted = "planted-9f3b"
    hook = Webhook({"/github": GITHUB | {"secrets": [SECRET, planted]}, "/plain": "plain.event"})
    headers: dict[str, str] = dict.fromkeys(
        ("authorization", "cookie", "x-api-key", "x-token"), planted
    )
    async with opened(hook, FileLog(tmp_path / "log")):
        signature = github(b"{}")["X-Hub-Signature-256"].removeprefix("sha256=")
        assert (await ask(hook, "/github", b"{}", github(b"{}") | headers)).status == 202
        assert (await ask(hook, "/github", b"{}", headers)).status == 401
        assert (await ask(hook, "/plain", b"{", headers)).status == 400
    said = capfd.readouterr()
    text = repr(hook) + repr(hook._routes) + said.out + said.err
    files = [path.read_bytes() for path in (tmp_path / "log").rglob("*") if path.is_file()]

    assert files
    for secret in (planted, SECRET, signature):
        assert secret not in text
        assert not any(secret.encode() in content for content in files)


async def test_sources_of_cloudevents_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log keeps each name of a source for ever."""
    from headrace.connectors import http_in

    monkeypatch.setattr(http_in, "SOURCES_MAX", 2)
    hook = webhook()
    async with opened(hook):
        statuses = [
            (
                await ask(hook, "/ce", json.dumps({**EVENT, "source": one}).encode(), STRUCTURED)
            ).status
            for one in ("/1", "/2", "/3", "/1")
        ]
    assert statuses == [202, 202, 400, 202]


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("routes", "options", "said"),
    [
        ([], {}, "a table of paths"),
        ({"github": "a"}, {}, "paths such as '/github'"),
        ({"/a?b": "a"}, {}, "paths such as"),
        ({"/healthz": "a"}, {}, "another path than"),
        ({"/a": 3}, {}, "a subject, or a table"),
        ({"/a": ""}, {}, "subject: expected one"),
        ({"/a": "a.*"}, {}, "wildcard"),
        ({"/a": "run.a"}, {}, "reserved"),
        ({"/a": "a.{event}"}, {}, "only where scheme="),
        ({"/a": {**GITHUB, "subject": "a.{evnt}"}}, {}, "no {…} but {event}"),
        ({"/a": {**GITHUB, "secrets": []}}, {}, "at least one, found none"),
        ({"/a": {**GITHUB, "secrets": [""]}}, {}, "one that is empty"),
        ({"/a": {"subject": "a", "scheme": "github"}}, {}, "at least one, found none"),
        ({"/a": {"subject": "a", "secrets": ["x"]}}, {}, "expected scheme="),
        ({"/a": {"subject": "a", "secret": "x"}}, {}, "unknown field `secret`"),
        ({"/a": {"subject": "a", "format": "xml"}}, {}, "format"),
        ({}, {"listen": "8080"}, "host:port"),
        ({}, {"listen": "localhost:99999"}, "host:port"),
        ({}, {"rate": 0}, "rate: expected a number above 0"),
        ({}, {"body_bytes_max": "1"}, "body_bytes_max: expected a number"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    routes: Any, options: dict[str, Any], said: str
) -> None:
    """At once, with the place and without secrets."""
    with pytest.raises((ValueError, TypeError), match=said) as caught:
        Webhook(routes, **options)
    assert SECRET not in str(caught.value)
    assert str(caught.value).startswith("webhook")
