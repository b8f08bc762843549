"""Pipes in and out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from anyio import to_thread

from headrace import MemoryLog
from headrace.connectors.protocol import SinkRefused
from headrace.connectors.stdio import LineMessage, Stdin, StdoutSink
from headrace.testing.lives import Lives, until
from headrace.testing.sink_contract import SinkContract, SinkHarness
from headrace.testing.source_contract import SourceContract, SourceHarness

pytestmark = pytest.mark.slow


class PipeHarness(SourceHarness):
    """What was read from a pipe is not there any more, so nothing is kept for another life."""

    in_flight_max = 1600  # of the shortest lines, in 64 KiB
    can_be_gone = False
    keeps = False

    def __init__(self) -> None:
        self.out, self.into = os.pipe()

    def source(self) -> Stdin:
        return Stdin(fd=self.out)

    async def publish(self, numbers: Sequence[int]) -> None:
        line = b'{"subject": "a.b", "data": {"number": %d}}\n'
        await to_thread.run_sync(self._write, b"".join(line % number for number in numbers))

    async def poison(self) -> bool:
        self._write(b"nonsense\n")
        return True

    def _write(self, data: bytes) -> None:
        with open(self.into, "wb", closefd=False) as pipe:
            pipe.write(data)


class TestStdin(SourceContract):
    @pytest.fixture
    def harness(self) -> Iterator[SourceHarness]:
        harness = PipeHarness()
        yield harness
        os.close(harness.out)
        os.close(harness.into)


class LinesOfOutput(SinkHarness):
    """A file takes whatever it is given, and knows no keys."""

    can_be_gone = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def sink(self) -> StdoutSink:
        return StdoutSink(fd=self.fd)

    def message(self, number: int) -> LineMessage:
        return LineMessage("a.b", {"number": number})

    async def taken(self) -> list[int]:
        return [line["data"]["number"] for line in self._lines()]

    async def keys(self) -> list[str] | None:
        return [line["id"] for line in self._lines()]

    def _lines(self) -> list[Any]:
        return [msgspec.json.decode(line) for line in self.path.read_bytes().splitlines()]


class TestStdoutSink(SinkContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> Iterator[SinkHarness]:
        harness = LinesOfOutput(tmp_path / "out.jsonl")
        yield harness
        os.close(harness.fd)


async def test_lines_of_a_pipe() -> None:
    """Whole lines at once, the last one also without a newline; bad ones are kept."""
    out, into = os.pipe()
    lives = Lives(lambda: Stdin(fd=out), MemoryLog())
    async with lives.life() as life:
        os.write(into, b'{"subject": "a.b", "data": 1}\n{"subject": "a.c", "da')
        await until(lambda: life.status.stored == 1, "the first", within_s=5)
        os.write(into, b'ta": 2}\nnonsense\n\n{"subject": "a.d"}')
        os.close(into)
        with anyio.fail_after(5):
            await life.ended.wait()
    os.close(out)
    one, two, bad, three = lives.kept()
    assert [(one.subject, one.data), (two.subject, two.data)] == [("a.b", 1), ("a.c", 2)]
    assert (bad.is_refusal, bad.data["raw"], three.subject) == (True, b"nonsense", "a.d")


async def test_waiting_for_a_pipe_can_be_cancelled() -> None:
    """No thread stays behind that would take a line which nobody stores."""
    out, into = os.pipe()
    lives = Lives(lambda: Stdin(fd=out), MemoryLog())
    with anyio.fail_after(3):
        async with lives.life() as life:
            await until(lambda: life.status.state == "connected", "a start", within_s=5)
        os.write(into, b'{"subject": "a.b"}\n')
        async with lives.life() as life:
            await until(lambda: life.status.stored == 1, "the line", within_s=5)
    os.close(into)
    os.close(out)


async def test_lines_are_printed_whole() -> None:
    """More than a pipe holds, from several at a time."""
    out, into = os.pipe()
    text = "x" * 100_000
    got: list[bytes] = []

    def read() -> bytes:
        found = b""
        while found.count(b"\n") < 3:
            found += os.read(out, 65536)
        return found

    async with StdoutSink(fd=into) as sink, anyio.create_task_group() as group:
        for number in range(3):
            message = LineMessage("a.b", {"number": number, "text": text})
            group.start_soon(lambda m=message: sink.send(m, key="k"))  # type: ignore[misc]
        got.append(await to_thread.run_sync(read))
    (lines,) = (one.splitlines() for one in got)
    os.close(out)
    os.close(into)
    found = [msgspec.json.decode(line) for line in lines]
    assert sorted(line["data"]["number"] for line in found) == [0, 1, 2]
    assert {line["id"] for line in found} == {"k"}


async def test_output_that_nobody_reads() -> None:
    """It is said, and does not come back by trying again."""
    out, into = os.pipe()
    os.close(out)
    async with StdoutSink(fd=into) as sink:
        with pytest.raises(SinkRefused, match="its reader has gone"):
            await sink.send(LineMessage("a.b", 1), key="k")
    os.close(into)
