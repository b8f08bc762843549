"""The background of an open log: index files that are missing come back, segments shrink."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.simulation.session import Session, contents, records

from headrace.engine.log import FileLog, background
from headrace.engine.log.background import Background
from headrace.engine.log.compression import compress
from headrace.engine.log.verify import verify

COUNT = 200
WAIT_S_MAX = 30.0


def log_at(path: Path, **options: Any) -> FileLog:
    return FileLog(path, segment_bytes_max=900, reserve_bytes=0, **options)


def write(path: Path) -> None:
    """Write a log of several segments."""
    session = Session(log_at(path))
    for first in range(1, COUNT, 10):
        session.put(records(first, first + 9))
    session.log.close()


def names(path: Path, suffix: str) -> list[str]:
    return sorted(file.name for file in path.glob(f"*{suffix}"))


def background_of(log: FileLog) -> Background:
    """Return the background of *log*, which is open; its thread does not begin for seconds."""
    assert log._background is not None
    return log._background


def when_called(patch: pytest.MonkeyPatch, times: int) -> Callable[[], bool]:
    """Return what waits until the background has compressed *times* segments."""
    done, count = threading.Event(), 0

    def compressed(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        try:
            return compress(*args, **kwargs)
        finally:
            count += 1
            if count == times:
                done.set()

    patch.setattr(background, "compress", compressed)
    return lambda: done.wait(WAIT_S_MAX)


def test_missing_and_damaged_indexes_come_back(tmp_path: Path) -> None:
    """An index that is gone, cut, or of another segment is written anew; others are left alone."""
    write(tmp_path)
    expected = {name: (tmp_path / name).read_bytes() for name in names(tmp_path, ".idx")}
    assert len(expected) >= 4
    missing, short, strange, good = list(expected)[:4]
    (tmp_path / missing).unlink()
    (tmp_path / short).write_bytes(expected[short][:-1])
    (tmp_path / strange).write_bytes(expected[good])
    before = (tmp_path / good).stat().st_ino
    log = log_at(tmp_path)
    log.open(lambda: None)
    background_of(log).work()
    log.close()
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path, ".idx")} == expected
    assert (tmp_path / good).stat().st_ino == before


def test_segments_are_compressed_while_the_log_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``compress`` finished segments shrink by themselves; the records stay the same."""
    monkeypatch.setattr(background, "LOOK_S", 0.001)
    wait = when_called(monkeypatch, 5)
    session = Session(log_at(tmp_path, compress=True))
    for first in range(1, COUNT, 10):
        session.put(records(first, first + 9))
    assert wait()
    assert contents(session.log) == records(1, COUNT)
    session.log.close()
    assert len(names(tmp_path, ".hrz")) >= 4
    assert not names(tmp_path, ".tmp")
    assert verify(tmp_path).ok
    session = Session(log_at(tmp_path))
    assert contents(session.log) == records(1, COUNT)
    session.log.close()


def test_without_compress_nothing_is_replaced(tmp_path: Path) -> None:
    """Compression is for who asks for it; what is compressed stays readable without."""
    write(tmp_path)
    log = log_at(tmp_path)
    log.open(lambda: None)
    background_of(log).work()
    log.close()
    assert names(tmp_path, ".hrz") == []


def test_closing_does_not_wait_for_a_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that is closed gives up what is being compressed, and leaves nothing of it behind."""
    write(tmp_path)
    monkeypatch.setattr("headrace.engine.log.compression.STEP_BYTES", 1)
    log = log_at(tmp_path, compress=True)
    log.open(lambda: None)
    work = background_of(log)
    work.stop()
    work.work()
    log.close()
    assert names(tmp_path, ".hrz") == []
    assert names(tmp_path, ".tmp") == []


def test_work_goes_on_once_a_full_disk_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is done while the log is full, in the middle of a segment too; then all of it is."""
    monkeypatch.setattr(background, "LOOK_S", 0.001)
    monkeypatch.setattr("headrace.engine.log.compression.STEP_BYTES", 1)
    write(tmp_path)
    log = log_at(tmp_path)
    log.open(lambda: None)
    looked, look = 0, threading.Semaphore(0)

    def healthy() -> bool:
        nonlocal looked
        looked += 1
        look.release()
        return not 2 <= looked < 20

    assert log._store is not None
    catalog = log._store.catalog
    behind = Background(
        log._files, str(tmp_path), catalog, compresses=True, healthy=healthy, clock=log._clock
    )
    while any(entry.packed is None for entry in catalog.manifest.segments[:-1]):
        assert look.acquire(timeout=WAIT_S_MAX)
    assert looked > 20
    behind.stop()
    log.close()
    assert verify(tmp_path).ok


def test_damage_does_not_stop_the_log(tmp_path: Path) -> None:
    """Damage in an old segment is reported to who reads it, not to who writes new records."""
    write(tmp_path)
    first = tmp_path / names(tmp_path, ".hrl")[0]
    data = bytearray(first.read_bytes())
    data[200] ^= 1
    first.write_bytes(data)
    session = Session(log_at(tmp_path, compress=True))
    assert isinstance(session.log, FileLog)
    background_of(session.log).work()
    session.put(records(COUNT + 1, COUNT + 1))
    assert session.log.failure is None
    session.log.close()
    assert first.read_bytes() == data
    assert len(names(tmp_path, ".hrz")) >= 3
    assert not verify(tmp_path).ok
