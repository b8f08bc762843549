"""Files that grow, are rotated, or come whole into a folder."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from headrace import MemoryLog
from headrace.connectors.files import CsvFile, Directory, JsonLinesFile
from headrace.connectors.protocol import Source
from headrace.testing.lives import Kept, Life, Lives, until
from headrace.testing.source_contract import SourceContract, SourceHarness

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "connectors" / "files.md"
DATA = ROOT / "src" / "headrace" / "demo_data"


class LinesHarness(SourceHarness):
    in_flight_max = 20_000
    can_be_gone = False  # a file that is open stays, whatever becomes of its name

    def __init__(self, path: Path) -> None:
        self.path = path

    def source(self) -> Source:
        return JsonLinesFile(str(self.path), poll_s=0.05)

    async def publish(self, numbers: Sequence[int]) -> None:
        lines = "".join(
            json.dumps({"subject": "a.b", "data": {"number": number}, "id": f"m{number}"}) + "\n"
            for number in numbers
        )
        with self.path.open("a") as file:
            file.write(lines)

    async def republish(self, number: int) -> bool:
        await self.publish([number])
        return True

    async def poison(self) -> bool:
        with self.path.open("a") as file:
            file.write('{"subject": "a.\n')
        return True


@pytest.mark.slow
class TestJsonLinesFile(SourceContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> SourceHarness:
        path = tmp_path / "plant.jsonl"
        path.touch()
        return LinesHarness(path)


class CsvHarness(LinesHarness):
    in_flight_max = 600  # rows of half a KiB, in what is read at once
    head = "number,note\n"

    def source(self) -> Source:
        return CsvFile(str(self.path), "a.b", types={"number": "int"}, poll_s=0.05)

    async def publish(self, numbers: Sequence[int]) -> None:
        with self.path.open("a") as file:
            file.write("".join(f"{number},{'x' * 500}\n" for number in numbers))

    async def republish(self, number: int) -> bool:
        return False  # a row has no identity but its place

    async def poison(self) -> bool:
        with self.path.open("a") as file:
            file.write("7\n")
        return True


@pytest.mark.slow
class TestCsvFile(SourceContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> SourceHarness:
        path = tmp_path / "plant.csv"
        # A file is known by its first row, too: until there is one it has not begun.
        path.write_text(CsvHarness.head)
        return CsvHarness(path)


class FolderHarness(SourceHarness):
    """A folder that goes away with its disk and comes back with it."""

    in_flight_max = 1

    def __init__(self, path: Path) -> None:
        self.path = path / "in"
        self.away = path / "away"
        self.made = path / "made"
        self.path.mkdir()
        self.made.mkdir()

    def source(self) -> Source:
        return Directory(str(self.path), payload="json", quiet_s=0, poll_s=0.02)

    async def publish(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._put(f"{number}.json", f'{{"number": {number}}}', number)

    async def republish(self, number: int) -> bool:
        await self.publish([number])
        return True

    async def disorder(self, numbers: Sequence[int]) -> bool:
        await self.publish(numbers[::-1])
        return True

    async def poison(self) -> bool:
        self._put("poison.json", "{", 10_000)
        return True

    def _put(self, name: str, text: str, second: int) -> None:
        """Bring a whole file in, as its owner would from another disk: with its time."""
        made = self.made / name
        made.write_text(text)
        os.utime(made, (second, second))
        made.rename(self.path / name)

    async def kill(self) -> None:
        self.path.rename(self.away)

    async def start(self) -> None:
        self.away.rename(self.path)

    def number(self, event: Kept) -> int:
        found: int = event.data["content"]["number"]
        return found


@pytest.mark.slow
class TestDirectory(SourceContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> SourceHarness:
        return FolderHarness(tmp_path)


async def stored(life: Life, count: int) -> None:
    await until(lambda: life.status.stored == count, f"{count} events", within_s=5)


def numbers(lives: Lives) -> list[int]:
    return [event.data["number"] for event in lives.kept() if not event.is_refusal]


@pytest.mark.slow
async def test_partial_last_line_waits(tmp_path: Path) -> None:
    """It is an event once it is whole, also if that takes a restart."""
    harness = LinesHarness(tmp_path / "x.jsonl")
    lives = Lives(harness.source, MemoryLog())
    await harness.publish([0])
    async with lives.life() as life:
        await stored(life, 1)
        with harness.path.open("a") as file:
            file.write('{"subject": "a.b", "data": {"num')
        await harness_turn(life)
        assert life.status.stored == 1
    async with lives.life() as life:
        with harness.path.open("a") as file:
            file.write('ber": 1}}\n')
        await stored(life, 1)
    assert numbers(lives) == [0, 1]


async def harness_turn(life: Life) -> None:
    """Let it look at the file several times."""
    await anyio.sleep(0.2)


@pytest.mark.parametrize("way", ["rename", "copytruncate"])
async def test_rotation_while_it_reads(tmp_path: Path, way: str) -> None:
    """Nothing is lost and nothing is there twice."""
    harness = LinesHarness(tmp_path / "x.jsonl")
    lives = Lives(harness.source, MemoryLog())
    await harness.publish(range(3))
    async with lives.life() as life:
        await stored(life, 3)
        await harness.publish(range(3, 5))
        rotate(harness.path, way)
        await harness.publish(range(5, 8))
        await stored(life, 8)
    assert numbers(lives) == list(range(8))


@pytest.mark.parametrize("way", ["rename", "copytruncate"])
async def test_rotation_while_nobody_reads(tmp_path: Path, way: str) -> None:
    """What was left of the old file comes before what is in the new one, byte names or not."""
    name = os.fsdecode(b"pl\xffant.jsonl")
    harness = LinesHarness(tmp_path / name)
    lives = Lives(harness.source, MemoryLog())
    await harness.publish(range(3))
    async with lives.life() as life:
        await stored(life, 3)
    await harness.publish(range(3, 5))
    rotate(harness.path, way)
    await harness.publish(range(5, 8))
    async with lives.life() as life:
        await stored(life, 5)
    assert numbers(lives) == list(range(8))


@pytest.mark.slow
async def test_file_that_came_and_went_while_nobody_read(tmp_path: Path) -> None:
    """It is taken if an older one was read; one of another name is somebody else's."""
    harness = LinesHarness(tmp_path / "x.jsonl")
    lives = Lives(harness.source, MemoryLog())
    await harness.publish([0])
    async with lives.life() as life:
        await stored(life, 1)
    harness.path.rename(tmp_path / "x.jsonl.2")
    await harness.publish([1])
    shutil.copy(harness.path, tmp_path / "x.jsonl.bak")
    harness.path.rename(tmp_path / "x.jsonl.1")
    await harness.publish([2])
    async with lives.life() as life:
        await stored(life, 2)
    assert numbers(lives) == [0, 1, 2]


def rotate(path: Path, way: str) -> None:
    old = path.with_name(path.name + ".1")
    if way == "rename":
        path.rename(old)
    else:
        shutil.copy(path, old)
        os.truncate(path, 0)


async def test_file_that_is_not_there_yet(tmp_path: Path) -> None:
    """It is waited for, and said."""
    harness = LinesHarness(tmp_path / "later.jsonl")
    lives = Lives(harness.source, MemoryLog())
    async with lives.life() as life:
        await until(lambda: life.status.state == "lost", "it is said", within_s=5)
        assert "later.jsonl" in life.status.error
        await harness.publish([0])
        await stored(life, 1)


@pytest.mark.slow
async def test_rows_of_a_csv_file(tmp_path: Path) -> None:
    """Typed values, a subject of columns, times; a bad row is refused, a new file goes on."""
    path = tmp_path / "t.csv"
    head = "unit,at,celsius,on\n"
    path.write_text(head + "m 1,2026-03-01T08:00:00Z,93.5,true\nm2,2026-03-01T08:00:01Z,,0\n")

    def source() -> Source:
        return CsvFile(
            str(path),
            "plant.{unit}.temperature",
            types={"celsius": "float", "on": "bool"},
            time_column="at",
            poll_s=0.05,
        )

    lives = Lives(source, MemoryLog())
    async with lives.life() as life:
        await stored(life, 2)
        with path.open("a") as file:
            file.write("m3,2026-03-01T08:00:02Z,hot,1\nm4\n")
        await stored(life, 4)
        path.rename(tmp_path / "t.csv.1")
        path.write_text(head + "m5,2026-03-01T08:00:03Z,1,1\n")
        await stored(life, 5)
    async with lives.life() as life:
        await until(lambda: life.status.state == "connected", "the file", within_s=5)
        await harness_turn(life)
        assert life.status.stored == 0
    one, two, three, four, five = lives.kept()
    assert one.subject == "plant.m%201.temperature"
    assert (one.data["celsius"], one.data["on"]) == (93.5, True)
    assert (two.data["celsius"], two.data["on"]) == (None, False)
    assert "column 'celsius': expected float, found 'hot'" in three.data["reason"]
    assert "expected 4 values, found 1" in four.data["reason"]
    assert five.subject == "plant.m5.temperature"


async def test_csv_file_without_the_columns_says_so(tmp_path: Path) -> None:
    """What is missing and what is there."""
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n")
    lives = Lives(lambda: CsvFile(str(path), "x.{unit}", poll_s=0.05), MemoryLog())
    async with lives.life() as life:
        await until(lambda: "expected columns unit" in life.status.error, "it", within_s=5)


async def test_files_of_a_folder(tmp_path: Path) -> None:
    """Each once it is quiet, with its content; then it is moved away."""
    lives = Lives(
        lambda: Directory(str(tmp_path), payload="json", quiet_s=0.15, poll_s=0.05), MemoryLog()
    )
    (tmp_path / "a.json").write_text('{"n": 1}')
    (tmp_path / os.fsdecode(b"b\xff.json")).write_bytes(b"\xff")
    async with lives.life() as life:
        await stored(life, 2)
        await until(lambda: len(list((tmp_path / "done").iterdir())) == 2, "moved", within_s=5)
        (tmp_path / "a.json").write_text('{"n": 2}')
        await stored(life, 3)
        await until((tmp_path / "done" / "a.json.1").exists, "moved", within_s=5)
    good: list[Any] = [event.data for event in lives.kept() if not event.is_refusal]
    assert [data["content"] for data in good] == [{"n": 1}, {"n": 2}]
    (bad,) = [event.data for event in lives.kept() if event.is_refusal]
    assert (bad["place"], bad["raw"]) == ("b\\xff.json", b"\xff")


async def test_file_that_cannot_be_read_is_not_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another owner, or a link by the time it is opened: it is said once, and tried again."""
    elsewhere = tmp_path.parent / "planted.txt"
    elsewhere.write_text("planted")
    harness = FolderHarness(tmp_path)
    lives = Lives(harness.source, MemoryLog())
    there = Directory._there

    def swap(self: Directory) -> dict[str, tuple[int, int]]:
        found = there(self)
        if (first := str(harness.path / "0.json")) in found:
            Path(first).unlink()
            Path(first).symlink_to(elsewhere)
        return found

    monkeypatch.setattr(Directory, "_there", swap)
    async with lives.life() as life:
        await harness.publish(range(3))
        await stored(life, 2)
        assert life.status.state == "connected"
    assert [harness.number(event) for event in lives.kept()] == [1, 2]
    assert elsewhere.exists()


@pytest.mark.slow
async def test_file_that_is_still_written_waits(tmp_path: Path) -> None:
    """And one that was stored before a crash is not stored again."""
    lives = Lives(lambda: Directory(str(tmp_path), quiet_s=0.2, poll_s=0.02), MemoryLog())
    path = tmp_path / "slow.bin"
    async with lives.life("behind it") as life:
        for size in range(5):
            path.write_bytes(b"x" * size)
            await anyio.sleep(0.05)
        await life.intake.stopped.wait()
    assert path.exists()
    async with lives.life() as life:
        await until(lambda: life.status.duplicates == 1, "it again", within_s=5)
        await until(lambda: len(list(tmp_path.glob("*.bin"))) == 0, "moved", within_s=5)
        assert life.status.duplicates == 1
    (one,) = lives.kept()
    assert (one.data["name"], one.data["size"]) == ("slow.bin", 4)


def test_settings_are_checked_at_once() -> None:
    """With the place, what was expected and what was found."""
    with pytest.raises(TypeError, match="path: expected a path, found 7"):
        JsonLinesFile(7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="types: expected text, int"):
        CsvFile("x.csv", "a.b", types={"a": "number"})
    with pytest.raises(ValueError, match="wildcard"):
        CsvFile("x.csv", "a.*")
    with pytest.raises(ValueError, match="quiet_s: expected a number"):
        Directory("x", quiet_s=-1)


@pytest.mark.slow
async def test_real_data_that_is_rotated_while_it_is_read(tmp_path: Path) -> None:
    """Each of 22 695 readings of a machine is there once and in its order."""
    text = gzip.decompress((DATA / "machine_temperature_system_failure.csv.gz").read_bytes())
    head, *rows = text.splitlines(keepends=True)
    path = tmp_path / "machine.csv"

    def source() -> Source:
        return CsvFile(str(path), "machine.temperature", types={"value": "float"}, poll_s=0.02)

    lives = Lives(source, MemoryLog())
    parts = [rows[first : first + 1500] for first in range(0, len(rows), 1500)]
    for number, part in enumerate(parts):
        if path.exists():
            path.rename(tmp_path / f"machine.csv.{number}")
        path.write_bytes(head)
        async with lives.life() as life:
            for first in range(0, len(part), 500):
                with path.open("ab") as file:
                    file.write(b"".join(part[first : first + 500])[:-3])
                await anyio.sleep(0.01)
                with path.open("ab") as file:
                    file.write(b"".join(part[first : first + 500])[-3:])
            # The first one in any case: what was rotated before that is not for this source.
            if number % 2 == 0:
                await until(lambda: life.status.stored > 0, "some", within_s=30)
    async with lives.life():
        # Not by reading all that is there, again and again: that takes the source its time.
        await until(lambda: lives.log.committed_sequence > len(rows), "all", within_s=60)
        await until(lambda: len(lives.kept()) >= len(rows), "all", within_s=60)
    kept = lives.kept()
    assert not [event for event in kept if event.is_refusal]
    expected = [float(row.split(b",")[1]) for row in rows]
    assert [event.data["value"] for event in kept] == expected


async def test_example_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What the page shows works as it stands."""
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    rows = "unit,at,celsius\nm1,2026-03-01T08:00:00Z,93.5\nm2,2026-03-01T08:00:00Z,20\n"
    (tmp_path / "temperatures.csv").write_text(rows)
    page: dict[str, Any] = {"__name__": "page"}
    exec(compile(program, str(PAGE), "exec"), page)
    async with page["app"].open(MemoryLog()) as engine:
        await until(lambda: engine.kernel.sequence > 2, "both rows", within_s=5)
        await engine.drain()
    (line,) = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert (line["subject"], line["data"]["celsius"]) == ("plant.m1.temperature", 93.5)
