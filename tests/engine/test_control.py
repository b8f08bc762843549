"""The socket by which other processes ask a running engine: useful, and harmless."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import anyio
import msgspec
import pytest
from anyio import to_thread

from headrace import (
    App,
    Emission,
    EventRefused,
    FileLog,
    Firing,
    MemoryLog,
    Run,
    RunNotFound,
    on,
)
from headrace.engine import control
from headrace.engine.control_client import ControlClient
from headrace.engine.control_wire import MESSAGE_BYTES_MAX, NAME, Request, packed
from headrace.engine.errors import CommandRefused, EngineUnreachable, RuleNotFound
from headrace.engine.log import LogReader
from headrace.engine.record import EventStored, decode

R = TypeVar("R")
HANG_S = 20.0


def make_app(seen: list[Any] | None = None) -> App:
    app = App("plant")

    @app.rule(on("a.*"))
    async def note(firing: Firing[Any]) -> None:
        if seen is not None:
            seen.append(firing.events[0].data)

    @app.rule(on("long"))
    async def long(run: Run) -> None:
        await run.sleep(1000)

    return app


async def ask(log: Path, call: Callable[[ControlClient], R]) -> R:
    """Return what *call* gets from the engine, as another process would."""

    def connect() -> R:
        with ControlClient(log, timeout_s=HANG_S) as client:
            return call(client)

    with anyio.fail_after(HANG_S):
        while not (log / NAME).exists():
            await anyio.lowlevel.checkpoint()
        return await to_thread.run_sync(connect)


def raw_answer(log: Path, sent: bytes) -> bytes:
    """Send bytes and nothing more; return all that comes back."""
    with socket.socket(socket.AF_UNIX) as client, anyio_timeout(client):
        client.connect(str(log / NAME))
        try:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass
        parts = []
        try:
            while part := client.recv(65536):
                parts.append(part)
        except ConnectionResetError:
            pass
        return b"".join(parts)


def has_ended(client: socket.socket) -> bool:
    """Wait for what the engine does; say whether that was to end the connection."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:  # it had not read all
        return True


def anyio_timeout(client: socket.socket) -> socket.socket:
    client.settimeout(HANG_S)
    return client


def fault_in(answer: bytes) -> dict[str, str]:
    found: dict[str, str] = msgspec.msgpack.decode(answer[4:])["error"]
    return found


# ---------------------------------------------------------------- what it is for


@pytest.mark.slow
async def test_status_emit_and_cancel(tmp_path: Path) -> None:
    """Another process can look at a running engine, give it events and stop a run."""
    seen, folder = list[Any](), tmp_path / "log"
    async with make_app(seen).open(folder, grace_s=0) as engine:
        status = await ask(folder, lambda c: c.ask("status"))
        assert status["state"]["events"] == 0
        assert (status["pid"], status["log_id"]) == (os.getpid(), engine.log.log_id.hex())

        events = [Emission("a.x", {"n": 1}, id="e", source="s", time=5.0, key="k")]
        events += [Emission("a.y", n) for n in range(2500)]
        sequences = await ask(folder, lambda c: c.emit_many(events))
        assert len(set(sequences)) == 2501
        assert engine.log.durable_sequence >= max(sequences)
        again = await ask(folder, lambda c: c.emit_many(events[:1]))
        assert again == sequences[:1]
        await engine.drain()

        run = await ask(folder, lambda c: c.emit_many([Emission("long")]))
        (view,) = engine.runs("active")
        asked = await ask(folder, lambda c: c.cancel(view.id, "not needed"))
        assert asked > run[0]
        await engine.drain()
        assert [v.error for v in engine.runs("cancelled")] == ["not needed"]
        with pytest.raises(RunNotFound):
            await ask(folder, lambda c: c.cancel(view.id, "again"))
    assert seen == [{"n": 1}, *range(2500)]
    first = next(x for x in records_of(folder) if isinstance(x, EventStored))
    assert (first.id, first.time_ns, first.key) == ("e", 5_000_000_000, "k")


async def test_pause_and_acknowledge(tmp_path: Path) -> None:
    """Another process can stop a rule from starting runs, and say that it knows of an alarm."""
    app, folder = make_app(), tmp_path / "log"
    hot = on("hot").key(lambda e: (e.data, 7)).count(1, within=1e6, mode="edge")

    async def over() -> None: ...

    app.rule(hot, name="hot", on_clear=over)(over)
    async with app.open(folder, grace_s=0) as engine:
        paused = await ask(folder, lambda c: c.pause("note", "in repair", paused=True))
        assert engine.log.durable_sequence >= paused > 0
        assert await ask(folder, lambda c: c.pause("note", "again", paused=True)) == 0
        status = await ask(folder, lambda c: c.ask("status"))
        rules = {rule["name"]: rule["paused"] for rule in status["state"]["rules"]}
        assert rules == {"hot": False, "long": False, "note": True}
        assert await ask(folder, lambda c: c.pause("note", "", paused=False)) > paused

        await engine.emit("hot", "x")
        assert (await ask(folder, lambda c: c.ask("status")))["state"]["alarms"] == 1
        known = await ask(
            folder, lambda c: c.acknowledge("hot", ("x", 7), by="ada", note="on my way")
        )
        assert engine.log.durable_sequence >= known > 0
        assert [alarm.by for alarm in engine.alarms()] == ["ada"]

        for call in (
            lambda c: c.pause("nix", "", paused=True),
            lambda c: c.acknowledge("nix", None, by="", note=""),
            lambda c: c.acknowledge("hot", {"x": 7}, by="", note=""),
        ):
            with pytest.raises(RuleNotFound, match="expected"):
                await ask(folder, call)
        for command, arguments in (
            ("pause", {"rule": 5}),
            ("pause", {}),
            ("pause", {"rule": "note", "paused": "yes"}),
            ("acknowledge", {"rule": "hot", "by": 5}),
        ):
            with pytest.raises(CommandRefused, match="its arguments"):
                await ask(folder, partial(ControlClient.ask, command=command, arguments=arguments))


def records_of(folder: Path) -> list[Any]:
    with LogReader(folder) as reader:
        return [decode(raw) for _, batch in reader.read() for raw in batch]


async def test_more_commands_can_be_registered(tmp_path: Path) -> None:
    """Whoever extends the engine need not invent a way to reach it."""

    class Wanted(msgspec.Struct):
        name: str
        count: int = 2

    async def repeat(wanted: Wanted) -> list[str]:
        return [wanted.name] * wanted.count

    async def broken(_: dict[str, Any]) -> None:
        raise ZeroDivisionError("a bug")

    async def talkative(_: dict[str, Any]) -> str:
        return "x" * (MESSAGE_BYTES_MAX + 1)

    async with make_app().open(tmp_path / "log") as engine:
        engine.control.register("repeat", repeat, Wanted)
        engine.control.register("broken", broken)
        engine.control.register("talkative", talkative)
        folder = tmp_path / "log"
        assert await ask(folder, lambda c: c.ask("repeat", {"name": "a"})) == ["a", "a"]
        for command, arguments, said in (
            ("repeat", {"count": 3}, "missing required field `name`"),
            ("broken", {}, "internal error: a bug"),
            ("talkative", {}, "at most"),
            ("unheard", {}, "expected one of acknowledge, broken, cancel, emit, .*talkative"),
        ):
            with pytest.raises(CommandRefused, match=said):
                await ask(folder, partial(ControlClient.ask, command=command, arguments=arguments))
        assert await engine.emit("a.x") > 0


# ---------------------------------------------------------------- the file


async def test_only_the_owner_may_connect(tmp_path: Path) -> None:
    """The socket has mode 0600 from its first moment, and is gone with the engine."""
    folder = tmp_path / "log"
    async with make_app().open(folder):
        await ask(folder, lambda c: c.ask("status"))
        mode = (folder / NAME).stat().st_mode
        assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)
    assert not (folder / NAME).exists()
    assert not [path for path in folder.iterdir() if path.suffix == ".tmp"]
    with pytest.raises(EngineUnreachable, match=r"control\.sock"):
        ControlClient(folder)


async def test_a_socket_of_a_dead_process_is_replaced(tmp_path: Path) -> None:
    """After kill -9 the next engine can be reached: it holds the lock, so the other is dead."""
    folder = tmp_path / "log"
    folder.mkdir()
    for name in (NAME, f"{NAME}.tmp"):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(folder / name))
    async with make_app().open(folder):
        await anyio.wait_all_tasks_blocked()
        status = await ask(folder, lambda c: c.ask("status"))
        assert status["pid"] == os.getpid()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
async def test_a_long_path_is_no_obstacle(tmp_path: Path) -> None:
    """Addresses of sockets end at some 107 bytes; paths of logs do not."""
    folder = tmp_path / ("d" * 120) / ("e" * 120)
    async with make_app().open(folder):
        status = await ask(folder, lambda c: c.ask("status"))
        assert status["state"]["events"] == 0
    assert not (folder / NAME).exists()


async def test_without_a_directory_or_a_wish_there_is_no_socket(tmp_path: Path) -> None:
    """An engine in memory, and one whose host wants none, work as ever."""
    async with make_app().open(MemoryLog()) as engine:
        assert await engine.emit("a.x") > 0
    folder = tmp_path / "log"
    async with make_app().open(FileLog(folder), control=False) as engine:
        assert await engine.emit("a.x") > 0
        await anyio.wait_all_tasks_blocked()
        assert not (folder / NAME).exists()


async def test_a_directory_that_goes_away_is_no_harm(tmp_path: Path) -> None:
    """Somebody deletes the folder, or makes another in its place: serving ends quietly."""
    folder = tmp_path / "log"
    folder.mkdir()
    for replaced in (False, True):
        served = control.ControlSocket(str(folder))
        async with anyio.create_task_group() as group:
            group.start_soon(served.serve)
            await anyio.wait_all_tasks_blocked()
            (folder / NAME).unlink()
            if replaced:
                (folder / NAME).write_text("somebody else's")
            else:
                folder.rmdir()
            group.cancel_scope.cancel()
        assert (folder / NAME).exists() == replaced
        folder.mkdir(exist_ok=True)
    (folder / NAME).unlink()
    folder.rmdir()
    await control.ControlSocket(str(folder)).serve()
    await control.ControlSocket(None).serve()


async def test_a_folder_that_takes_no_socket_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The engine goes on without a socket, and says why there is none."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "this file system has no sockets")

    monkeypatch.setattr(os, "rename", refuse)
    async with make_app().open(tmp_path / "log") as engine:
        assert await engine.emit("a.x") > 0
    assert "this file system has no sockets" in caplog.text


# ---------------------------------------------------------------- bad clients


def bodies(rng: Random) -> bytes:
    """Return what a client might send that is none of ours, or broken."""
    kind = rng.randrange(6)
    noise = rng.randbytes(rng.randrange(200))
    if kind == 0:
        return noise
    if kind == 1:
        return len(noise).to_bytes(4, "big") + noise
    command = rng.choice(["emit", "cancel", "status", "", "x" * 300])
    events = rng.choice([7, [{}], [{"subject": "run.x"}], [{"subject": "a..b"}]])
    run = rng.choice([{"run": -1}, {"run": "x"}, {"run": 1, "reason": 5}])
    arguments = rng.choice([{}, [], 5, None, {"events": events}, run])
    whole = packed({"v": rng.choice([1, 1, 1, 2, "1"]), "command": command, "arguments": arguments})
    if kind == 2:
        return whole[: rng.randrange(len(whole))]
    if kind == 3:
        place = rng.randrange(len(whole))
        return whole[:place] + rng.randbytes(1) + whole[place + 1 :]
    if kind == 4:
        return rng.randrange(2**32).to_bytes(4, "big") + whole
    return whole + noise


@pytest.mark.parametrize("seed", range(3))
async def test_nonsense_gets_an_error_and_harms_nobody(tmp_path: Path, seed: int) -> None:
    """Whatever bytes come: an answer or the end of the connection, and the engine goes on."""
    rng, folder = Random(seed), tmp_path / "log"
    async with make_app().open(folder) as engine:
        await ask(folder, lambda c: c.ask("status"))
        for _ in range(150):
            answer = await to_thread.run_sync(raw_answer, folder, bodies(rng))
            if answer:
                length = int.from_bytes(answer[:4], "big")
                said = msgspec.msgpack.decode(answer[4 : 4 + length])
                assert said["v"] == 1
                assert "result" in said or said["error"]["message"]
        assert engine.state().events == 0
        assert await engine.emit("a.x") > 0
        await ask(folder, lambda c: c.ask("status"))


@pytest.mark.parametrize(
    ("sent", "kind", "said"),
    [
        (b"\xff\xff\xff\xff", "BadRequest", "at most"),
        (b"\x00\x00\x00\x01\xc1", "BadRequest", "expected {v, command, arguments}"),
        (packed({"v": 1}), "BadRequest", "missing required field `command`"),
        (packed(Request(9, "status")), "BadRequest", "found 9"),
        (
            packed(Request(1, "nothing")),
            "UnknownCommand",
            "expected one of acknowledge, cancel, emit, ",
        ),
        (packed({"v": 1, "command": "cancel", "arguments": {}}), "BadRequest", "`run`"),
        (
            packed({"v": 1, "command": "emit", "arguments": {"events": [{"subject": "run.x"}]}}),
            "ValueError",
            "reserved",
        ),
    ],
    ids=repr,
)
async def test_a_bad_request_is_told_what_is_wrong(
    tmp_path: Path, sent: bytes, kind: str, said: str
) -> None:
    """Whoever writes another client finds out what is expected."""
    folder = tmp_path / "log"
    async with make_app().open(folder):
        await ask(folder, lambda c: c.ask("status"))
        fault = fault_in(await to_thread.run_sync(raw_answer, folder, sent))
    assert fault["kind"] == kind
    assert said in fault["message"]


async def test_data_that_nobody_could_decode_is_refused(tmp_path: Path) -> None:
    """Bytes that are no msgpack, or text that is no UTF-8, do not get into the log."""
    folder = tmp_path / "log"
    broken = Emission("a.x", msgspec.Raw(b"\xa2\xff\xff"))
    async with make_app().open(folder) as engine:
        with pytest.raises(EventRefused, match="can be decoded"):
            await ask(folder, lambda c: c.emit_many([Emission("a.x", 1), broken]))
        assert engine.state().events == 0


@pytest.mark.slow
async def test_too_many_clients_are_turned_away(tmp_path: Path) -> None:
    """Connections that are left open do not pile up."""
    folder = tmp_path / "log"
    async with make_app().open(folder) as engine:
        await ask(folder, lambda c: c.ask("status"))
        clients = []
        for _ in range(control.CLIENTS_MAX):
            clients.append(socket.socket(socket.AF_UNIX))
            clients[-1].connect(str(folder / NAME))
            await anyio.wait_all_tasks_blocked()
        with pytest.raises(CommandRefused, match="at most 16 clients"):
            await ask(folder, lambda c: c.ask("status"))
        for client in clients:
            client.close()
        await anyio.wait_all_tasks_blocked()
        assert (await ask(folder, lambda c: c.ask("status")))["state"]["events"] == 0
        assert await engine.emit("a.x") > 0


@pytest.mark.parametrize("sent", [b"", b"\x00\x00", b"\x00\x00\x10\x00half of it"])
async def test_a_client_that_hangs_does_not_hang_the_engine(tmp_path: Path, sent: bytes) -> None:
    """Closing waits for nobody who is connected."""
    folder = tmp_path / "log"
    with anyio.fail_after(HANG_S), socket.socket(socket.AF_UNIX) as client:
        async with make_app().open(folder, grace_s=0) as engine:
            await ask(folder, lambda c: c.ask("status"))
            client.connect(str(folder / NAME))
            client.sendall(sent)
            await anyio.wait_all_tasks_blocked()
            assert await engine.emit("a.x") > 0
        assert has_ended(client)


async def test_a_client_that_is_slow_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither half a request nor an answer that nobody takes is waited for for ever."""
    monkeypatch.setattr(control, "MESSAGE_S", 0.01)
    monkeypatch.setattr(control, "IDLE_S", 0.01)
    folder = tmp_path / "log"
    async with make_app().open(folder):
        await anyio.wait_all_tasks_blocked()
        for sent in (b"", b"\x00\x00\x00\x09half"):
            with socket.socket(socket.AF_UNIX) as client, anyio_timeout(client):
                client.connect(str(folder / NAME))
                client.sendall(sent)
                assert await to_thread.run_sync(has_ended, client)


def test_an_engine_that_says_nonsense_is_unreachable(tmp_path: Path) -> None:
    """The client has bounds too: it neither hangs nor takes what is no answer."""
    for said in (b"", b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\xc1", b"\x00\x00\x00\x09half"):
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(tmp_path / NAME))
            server.listen()
            with ControlClient(tmp_path, timeout_s=HANG_S) as client:
                connection, _ = server.accept()
                connection.sendall(said)
                connection.shutdown(socket.SHUT_WR)
                with pytest.raises(EngineUnreachable, match="not known whether"):
                    client.ask("status")
                connection.close()
        (tmp_path / NAME).unlink()
