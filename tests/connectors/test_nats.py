"""Core NATS in and out, and how its server is spoken to: credentials, TLS, what is no NATS."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from tests.connectors.nats_server import NatsOnDisk, Wire
from tests.connectors.tcp_proxy import TcpProxy

from headrace import MemoryLog
from headrace.connectors.jetstream import JetStream
from headrace.connectors.nats import Nats, NatsMessage, NatsSink
from headrace.connectors.protocol import ConnectorError, SinkUnavailable, Source
from headrace.testing.lives import Lives, until
from headrace.testing.sink_contract import SinkContract, SinkHarness
from headrace.testing.source_contract import SourceContract, SourceHarness

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The library is made for asyncio."""
    return "asyncio"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsOnDisk]:
    with NatsOnDisk(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def server(running: NatsOnDisk) -> NatsOnDisk:
    """A server that is up and has an empty stream."""
    running.kill()
    running.start()
    with Wire(running.port) as wire:
        wire.stream("JOBS", subjects=["jobs.>"])
    return running


class CoreHarness(SourceHarness):
    in_flight_max = 200
    keeps = False

    def __init__(self, server: NatsOnDisk) -> None:
        self.server = server

    def source(self) -> Source:
        return Nats(self.server.url, "jobs.>", in_flight_max=200, keepalive_s=1, timeout_s=2)

    async def publish(self, numbers: Sequence[int]) -> None:
        def publish() -> None:
            with Wire(self.server.port) as wire:
                for number in numbers:
                    wire.publish("jobs.a", json.dumps({"number": number}).encode())

        await to_thread.run_sync(publish)

    async def poison(self) -> bool:
        with Wire(self.server.port) as wire:
            wire.publish("jobs.a", b'{"number": \xff')
        return True

    async def kill(self) -> None:
        self.server.kill()

    async def start(self) -> None:
        await to_thread.run_sync(self.server.start)


class TestNats(SourceContract):
    @pytest.fixture
    def harness(self, server: NatsOnDisk) -> SourceHarness:
        return CoreHarness(server)


class StoredHarness(SinkHarness):
    dedupes = True

    def __init__(self, server: NatsOnDisk) -> None:
        self.server = server

    def sink(self) -> NatsSink:
        return NatsSink(self.server.url, prefix="jobs", timeout_s=2)

    def message(self, number: int) -> NatsMessage:
        return NatsMessage("jobs.out", {"number": number}, {"Extra": "ü"})

    async def taken(self) -> list[int]:
        return [json.loads(base64.b64decode(one["data"]))["number"] for one in self._stored()]

    async def keys(self) -> list[str] | None:
        heads = [base64.b64decode(one["hdrs"]).decode() for one in self._stored()]
        assert all("Extra: ü" in head for head in heads)
        return [head.partition("Nats-Msg-Id: ")[2].partition("\r")[0] for head in heads]

    def _stored(self) -> list[dict[str, Any]]:
        with Wire(self.server.port) as wire:
            last = wire.ask("$JS.API.STREAM.INFO.JOBS")["state"]["last_seq"]
            return [
                wire.ask("$JS.API.STREAM.MSG.GET.JOBS", {"seq": place + 1})["message"]
                for place in range(last)
            ]

    def refused(self) -> Any:
        return NatsMessage("jobs.out", b"x" * 2_000_000)

    async def kill(self) -> None:
        self.server.kill()

    async def start(self) -> None:
        await to_thread.run_sync(self.server.start)


class TestNatsSink(SinkContract):
    @pytest.fixture
    def harness(self, server: NatsOnDisk) -> SinkHarness:
        return StoredHarness(server)


async def failure(source: Source) -> str:
    """Return the one line with which *source* ends."""
    with pytest.raises(BaseExceptionGroup) as found, anyio.fail_after(10):
        async with Lives(lambda: source, MemoryLog()).life():
            await anyio.sleep_forever()
    (error,) = found.value.exceptions
    assert isinstance(error, ConnectorError), error
    assert "\n" not in str(error)
    return str(error)


async def test_sink_of_core_nats_and_what_no_stream_takes(server: NatsOnDisk) -> None:
    """Without JetStream it is enough that the server has read it; with it a stream must have."""
    lives = Lives(lambda: Nats(server.url, "free.*", prefix="n"), MemoryLog())
    async with lives.life() as life:
        await until(lambda: life.status.state == "connected", "a connection", within_s=5)
        async with NatsSink(server.url, jetstream=False, name="core") as sink:
            assert (await sink.send(NatsMessage("free.a", [1]), key="k")).sequence == 0
        await until(lambda: life.status.stored == 1, "the message", within_s=5)
    (event,) = lives.kept()
    assert (event.subject, event.data, event.id) == ("n.free.a", [1], "k")
    async with NatsSink(server.url) as sink:
        stored = await sink.send(NatsMessage("jobs.b", b"x"), key="one")
        again = await sink.send(NatsMessage("jobs.b", b"x"), key="one")
        assert (stored.stream, stored.duplicate) == ("JOBS", False)
        assert (again.sequence, again.duplicate) == (stored.sequence, True)
        with pytest.raises(SinkUnavailable, match=r"free\.b.*nobody"):
            await sink.send(NatsMessage("free.b"), key="two")


async def test_what_comes_faster_than_it_is_stored_is_counted(server: NatsOnDisk) -> None:
    """At most once, and nobody is told a lie about it."""
    lives = Lives(lambda: Nats(server.url, "free.*", in_flight_max=10), MemoryLog())
    async with lives.life() as life:
        await until(lambda: life.status.state == "connected", "a connection", within_s=5)
        life.intake.shut()
        async with NatsSink(server.url, jetstream=False, name="core") as sink:
            for number in range(50):
                await sink.send(NatsMessage("free.a", number), key=f"{number}")
        await until(lambda: life.status.dropped == 40, "40 dropped", within_s=5)
        life.intake.open()
        await until(lambda: life.status.stored == 10, "the others", within_s=5)


async def test_queue_shares_messages(server: NatsOnDisk) -> None:
    """Each goes to one of those who have named the same queue."""
    one, other = (
        Lives(lambda: Nats(server.url, "free.*", queue="q"), MemoryLog()) for _ in range(2)
    )
    async with one.life() as first, other.life() as second:
        await until(lambda: first.status.state == "connected", "one", within_s=5)
        await until(lambda: second.status.state == "connected", "the other", within_s=5)
        async with NatsSink(server.url, jetstream=False, name="core") as sink:
            for number in range(40):
                await sink.send(NatsMessage("free.a", number), key=f"{number}")
        await until(lambda: first.status.stored + second.status.stored == 40, "all", within_s=5)
        assert first.status.stored > 0
        assert second.status.stored > 0


async def test_half_open_connection_of_core_nats_is_noticed(server: NatsOnDisk) -> None:
    """Within `keepalive_s` and an answer's time."""
    async with TcpProxy(server.port) as proxy:
        url = f"nats://127.0.0.1:{proxy.port}"
        lives = Lives(lambda: Nats(url, "a", keepalive_s=0.5, timeout_s=0.5), MemoryLog())
        async with lives.life() as life:
            await until(lambda: life.status.state == "connected", "a connection", within_s=5)
            proxy.freeze()
            await until(lambda: life.status.state == "lost", "it is noticed", within_s=3)
            proxy.thaw()
            await until(lambda: life.status.state == "connected", "a new one", within_s=5)


async def test_sink_whose_connection_breaks_while_it_waits(server: NatsOnDisk) -> None:
    """It hears so at once, not after `timeout_s`, and sends by a new connection afterwards."""
    async with TcpProxy(server.port) as proxy:
        url = f"nats://127.0.0.1:{proxy.port}"
        async with NatsSink(url, timeout_s=60) as sink:
            await sink.send(NatsMessage("jobs.b", 1), key="one")
            proxy.freeze()

            async def send() -> None:
                with pytest.raises(SinkUnavailable):
                    await sink.send(NatsMessage("jobs.b", 2), key="two")

            with anyio.fail_after(5):
                async with anyio.create_task_group() as group:
                    group.start_soon(send)
                    await anyio.wait_all_tasks_blocked()
                    proxy.reset_all()
            proxy.thaw()
            again = await sink.send(NatsMessage("jobs.b", 2), key="two")
            assert again.sequence == 2


@pytest.mark.parametrize(
    ("settings", "right", "wrong"),
    [
        ("authorization { user: u, password: planted }", {"user": "u", "password": "planted"},
         {"user": "u", "password": "planted-wrong"}),
        ("authorization { token: planted }", {"token": "planted"}, {}),
    ],
)  # fmt: skip
async def test_credentials(
    tmp_path: Path, settings: str, right: dict[str, Any], wrong: dict[str, Any]
) -> None:
    """Those that are right let in, in the address too; others are said, and no secret with it."""
    with NatsOnDisk(tmp_path, settings) as server:
        source = JetStream(server.url, "S", create={"subjects": ["s"]}, **right)
        assert "stream 'S'" in await source.probe()
        text = await failure(JetStream(server.url, "S", create={"subjects": ["s"]}, **wrong))
        assert "expected to be let in" in text
        assert "planted" not in text + repr(source)
        login = ":".join(right.values())
        inside = server.url.replace("://", f"://{login}@")
        found = Nats(inside, "s")
        assert "nats-server 2." in await found.probe()
        assert "planted" not in repr(found)


async def test_nkey(tmp_path: Path) -> None:
    """A seed in a file lets in; a file without one is said before anything is connected."""
    import nkeys  # type: ignore[import-untyped]

    seed = nkeys.encode_seed(b"1" * 32, nkeys.PREFIX_BYTE_USER)
    public: Any = nkeys.from_seed(bytearray(seed)).public_key
    file = tmp_path / "user.nk"
    file.write_bytes(seed)
    with NatsOnDisk(
        tmp_path, f"authorization {{ users: [{{ nkey: {public.decode()} }}] }}"
    ) as server:
        assert "nats-server" in await Nats(server.url, "s", nkey_file=str(file)).probe()
        assert "let in" in await failure(Nats(server.url, "s"))
        file.write_text("planted")
        text = await failure(Nats(server.url, "s", nkey_file=str(file)))
        assert "the seed of an nkey" in text
        assert "planted" not in text
        text = await failure(Nats(server.url, "s", creds_file=str(file)))
        assert "a user's JWT and seed" in text
        assert "No such file" in await failure(Nats(server.url, "s", creds_file="/nowhere/x"))


async def test_tls(tmp_path: Path) -> None:
    """With a certificate that is vouched for; never to a server without TLS if it is asked for."""
    made = await anyio.run_process(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            "-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=IP:127.0.0.1",
        ],
        cwd=tmp_path, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    tls = f'tls {{ cert_file: "{cert}", key_file: "{key}" }}'
    with NatsOnDisk(tmp_path, tls, scheme="tls") as server:
        assert "nats-server" in await Nats(server.url, "s", ca_file=cert).probe()
        assert "check ca_file" in await failure(Nats(server.url, "s"))
    with NatsOnDisk(tmp_path) as plain:
        text = await failure(
            Nats(f"tls://127.0.0.1:{plain.port}", "s", user="u", password="planted")
        )
        assert "found a server without" in text


async def test_server_of_another_protocol() -> None:
    """It is said what it says, unless it says nothing: then it may be a server that is late."""

    async def greet(connection: anyio.abc.SocketStream) -> None:
        async with connection:
            await connection.send(b"SSH-2.0-OpenSSH_9.2\r\n")

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        group.start_soon(listener.serve, greet)
        text = await failure(Nats(f"nats://u:planted@127.0.0.1:{port}", "s"))
        assert "SSH-2.0" in text
        assert "check the port" in text
        assert "planted" not in text
        group.cancel_scope.cancel()


def test_settings_are_checked_at_once() -> None:
    """With the place, what was expected and what was found, and without the password."""
    with pytest.raises(ConnectorError, match=r"Nats 'nats': expected an address"):
        Nats("http://u:planted@x", "s")
    with pytest.raises(ValueError, match="subjects: pattern"):
        Nats("nats://x", "a..b")
    with pytest.raises(ValueError, match="set prefix"):
        Nats("nats://x", "run.>")
    with pytest.raises(ValueError, match=r"at least one"):
        Nats("nats://x", [])
    with pytest.raises(ValueError, match="one way to log in, found user and token"):
        Nats("nats://x", "s", user="u", password="p", token="t")
    with pytest.raises(ValueError, match="stream: expected a name without dots"):
        JetStream("nats://x", "a.b")
    with pytest.raises(ValueError, match="create: expected settings"):
        JetStream("nats://x", "S", create={})
    with pytest.raises(ValueError, match="start: expected 'first'"):
        JetStream("nats://x", "S", start=0)
    with pytest.raises(ValueError, match="in_flight_max"):
        JetStream("nats://x", "S", in_flight_max=0)
    with pytest.raises(TypeError, match="jetstream: expected true or false"):
        NatsSink("nats://x", jetstream=1)  # type: ignore[arg-type]
    assert "planted" not in repr(NatsSink("nats://u:planted@x"))
