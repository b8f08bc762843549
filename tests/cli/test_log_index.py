"""``log index``, and what `log info` says of compression."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from tests.cli.command import Call
from tests.cli.test_errors import one_line

from headrace import App, FileLog
from headrace.engine.log.catalog import Catalog
from headrace.engine.log.compression import compress
from headrace.engine.log.files import SystemFiles
from headrace.engine.log.manifest import load

EVENTS = 200


async def _fill(path: Path) -> None:
    async with App("plant").open(FileLog(path, segment_bytes_max=3000)) as engine:
        await engine.emit_many([("plant.level", {"metres": n}) for n in range(EVENTS // 2)])
        await engine.emit_many([("plant.level", {"metres": n}) for n in range(EVENTS // 2)])
        for number in range(EVENTS):
            await engine.emit("plant.level", {"metres": number})


@pytest.fixture
def long_log(tmp_path: Path) -> Path:
    """A closed log of several segments."""
    anyio.run(_fill, tmp_path / "long.log")
    return tmp_path / "long.log"


def test_index_makes_each_index_anew(headrace: Call, long_log: Path) -> None:
    """After files were lost or mixed up, one command makes all indexes what they were."""
    indexes = sorted(long_log.glob("*.idx"))
    expected = [path.read_bytes() for path in indexes]
    assert len(indexes) >= 3
    indexes[0].unlink()
    indexes[1].write_bytes(b"")
    done = headrace("log", "index", long_log, "-o", "json").json
    assert (done["log"], done["segments"]) == (str(long_log), len(indexes))
    assert done["entries"] >= len(indexes)
    assert [path.read_bytes() for path in indexes] == expected
    said = headrace("log", "index", long_log).out
    assert said == f"{len(indexes)} finished segments indexed, {done['entries']} entries\n"


def test_index_of_a_damaged_log(headrace: Call, long_log: Path) -> None:
    """A damaged segment is reported with its place, in one line, with the code for it."""
    segment = min(long_log.glob("*.hrl"))
    data = bytearray(segment.read_bytes())
    data[100] ^= 1
    segment.write_bytes(data)
    done = headrace("log", "index", long_log)
    assert done.code == 6
    assert str(segment) in one_line(done)


def test_info_says_what_compression_saves(headrace: Call, long_log: Path) -> None:
    """Before there is nothing to say; afterwards how many segments are how much smaller."""
    before = headrace("log", "info", long_log, "-o", "json").json
    assert before["compression"] == {}
    files, folder = SystemFiles(), str(long_log)
    manifest = load(files, folder)
    assert manifest is not None
    catalog = Catalog(files, folder, manifest)
    assert compress(files, folder, catalog, manifest.segments[0]) is not None
    after = headrace("log", "info", long_log, "-o", "json").json
    assert after["compression"]["segments"] == 1
    assert after["compression"]["ratio"] > 1.05
    assert after["records"] == before["records"]
    assert headrace("log", "verify", long_log).code == 0
