"""Logs of each released format stay readable for ever, and the bytes do not drift.

To add a format, never to change one: ``python tests/engine/log/test_golden.py DIRECTORY``
writes the log of the present format.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from tests.simulation.disk import SimulatedDisk
from tests.simulation.session import Session, contents, records

from headrace.engine.clock import VirtualClock
from headrace.engine.log import FileLog, LogReader
from headrace.engine.log.frame import FORMAT
from headrace.engine.log.verify import verify

GOLDEN = Path(__file__).with_name("golden")
LOG_ID = bytes(range(16))
COUNT = 60


def write() -> dict[str, bytes]:
    """Write the golden log and return its files: two runs, four segments, several units."""
    disk = SimulatedDisk()
    for start in (1, 31):
        log = FileLog(
            "/log",
            files=disk,
            clock=VirtualClock(),
            new_id=lambda: LOG_ID,
            segment_bytes_max=700,
            reserve_bytes=0,
        )
        session = Session(log)
        for first in range(start, start + 30, 5):
            session.put(records(first, first), records(first + 1, first + 4))
        session.log.close()
    return {
        path.removeprefix("/log/"): bytes(inode.data)
        for path, inode in disk.names.items()
        # An index file is a cache: no format depends on it.
        if not path.endswith(("LOCK", ".idx"))
    }


@pytest.fixture(params=sorted(path.name for path in GOLDEN.iterdir()))
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Give a copy of the log of each released format."""
    return Path(shutil.copytree(GOLDEN / str(request.param), tmp_path / "log"))


def test_golden_log_is_readable(golden: Path) -> None:
    """Each released format is verified, read, opened and continued by this headrace."""
    report = verify(golden)
    assert (report.ok, report.records, report.last_sequence) == (True, COUNT, COUNT)
    with LogReader(golden) as reader:
        assert [r for _, batch in reader.read() for r in batch] == records(1, COUNT)
    session = Session(FileLog(golden))
    assert session.log.log_id == LOG_ID
    session.put(records(COUNT + 1, COUNT + 3))
    assert contents(session.log) == records(1, COUNT + 3)
    session.log.close()
    assert verify(golden).ok


def test_bytes_are_those_of_the_golden_log() -> None:
    """The same records make the same bytes as when the format was released."""
    folder = GOLDEN / str(FORMAT)
    assert write() == {path.name: path.read_bytes() for path in folder.iterdir()}


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True)
    for name, data in write().items():
        (target / name).write_bytes(data)
