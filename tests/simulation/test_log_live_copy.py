"""Copies and forks of a log that another process is writing, and of one on another path."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from random import Random

import pytest
from tests.simulation.session import Session, contents, record, records
from tests.simulation.test_log_shared import PATIENCE_S, started

from headrace.engine.errors import LogCorrupt, LogMismatch, LogUnusable
from headrace.engine.log import Durability, FileLog, LogReader
from headrace.engine.log.copying import copy
from headrace.engine.log.files import SystemFiles
from headrace.engine.log.fork import fork
from headrace.engine.log.verify import verify

ROUNDS = 30


class LookingFiles(SystemFiles):
    """A disk on which everything under *folder* may only be read."""

    def __init__(self, folder: Path) -> None:
        self._folder = f"{folder}/"

    def _refuse(self, path: str) -> None:
        if path.startswith(self._folder):
            raise PermissionError(13, "may only be read", path)

    def open(self, path: str, flags: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            self._refuse(path)
        return super().open(path, flags)

    def rename(self, source: str, target: str) -> None:
        self._refuse(source)
        self._refuse(target)
        super().rename(source, target)

    def link(self, source: str, target: str) -> None:
        self._refuse(target)
        super().link(source, target)

    def unlink(self, path: str) -> None:
        self._refuse(path)
        super().unlink(path)

    def mkdir(self, path: str) -> None:
        self._refuse(path)
        super().mkdir(path)

    def rmdir(self, path: str) -> None:
        self._refuse(path)
        super().rmdir(path)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def check(path: Path, first: int, last: int) -> None:
    """Check that the log at *path* is whole, holds the records *first* to *last*, and goes on."""
    report = verify(path)
    assert report.ok, report.errors
    assert (report.first_sequence, report.last_sequence, report.torn_bytes) == (first, last, 0)
    session = Session(FileLog(path, reserve_bytes=0))
    assert session.log.next_sequence == last + 1
    session.put([record(last + 1)])
    found = [r for _, batch in session.log.read(after=first - 1) for r in batch]
    session.log.close()
    # The writer's first record is its first group.
    assert found == records(first, last + 1)


@pytest.mark.parametrize("durability", ["fsynced", "flushed"])
def test_a_log_that_is_being_written(tmp_path: Path, durability: Durability) -> None:
    """At any moment: all that was acknowledged, nothing torn, and the writer is not disturbed.

    The writer goes on to new segments and removes old ones meanwhile.
    """
    source, rng = tmp_path / "log", Random(7)
    disk = LookingFiles(source)
    with started("write", source, durability) as writer:
        assert writer.hear_line() == "ready\n"
        writer.tell("go")
        for number in range(ROUNDS):
            with LogReader(source) as reader:
                acknowledged = reader.refresh()
            copied = copy(source, tmp_path / "copy", files=disk)
            assert copied.last_sequence >= acknowledged
            made = fork(source, None, tmp_path / "fork", files=disk)
            assert made.sequence >= copied.last_sequence
            check(tmp_path / "copy", copied.first_sequence, copied.last_sequence)
            check(tmp_path / "fork", made.first_sequence, made.sequence)
            at = rng.randint(max(made.first_sequence, made.sequence - 600), made.sequence)
            try:
                early = fork(source, at, tmp_path / "early", files=disk)
            except LogMismatch:
                with LogReader(source) as reader:
                    assert at < reader.first_sequence, number
            else:
                assert (early.sequence, early.left_out) == (at, None)
                check(tmp_path / "early", early.first_sequence, at)
            for name in ("copy", "fork", "early"):
                shutil.rmtree(tmp_path / name, ignore_errors=True)
        writer.tell("stop")
        last, removed = writer.hear()
        assert writer.end() == 0
    assert removed > 0
    report = verify(source)
    assert (report.ok, report.last_sequence) == (True, last)


def test_the_original_is_not_touched(tmp_path: Path) -> None:
    """While its writer stands still, in the middle of whatever it does, no byte changes."""
    source = tmp_path / "log"
    with started("write", source, "fsynced") as writer:
        assert writer.hear_line() == "ready\n"
        writer.tell("go")
        for number in range(6):
            with LogReader(source) as reader:
                acknowledged = reader.refresh()
            os.kill(writer.pid, signal.SIGSTOP)
            _, status = os.waitpid(writer.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
            before = files_of(source)
            copied = copy(source, tmp_path / f"copy{number}")
            made = fork(source, None, tmp_path / f"fork{number}")
            assert files_of(source) == before
            os.kill(writer.pid, signal.SIGCONT)
            assert copied.last_sequence == made.sequence >= acknowledged
            check(tmp_path / f"copy{number}", copied.first_sequence, copied.last_sequence)
        writer.tell("stop")
        writer.hear()
        assert writer.end() == 0
    for number in range(6):
        with LogReader(tmp_path / f"fork{number}") as reader:
            check(tmp_path / f"fork{number}", reader.first_sequence, reader.refresh())


def test_a_log_whose_writer_was_killed(tmp_path: Path) -> None:
    """What a kill leaves can be copied and forked as it lies there, and then started itself."""
    source = tmp_path / "log"
    with started("write", source, "fsynced") as writer:
        assert writer.hear_line() == "ready\n"
        writer.tell("go")
        with LogReader(source) as reader:
            deadline_s = time.monotonic() + PATIENCE_S
            while (acknowledged := reader.refresh()) < 2000:
                assert time.monotonic() < deadline_s
        writer.kill()
    before = files_of(source)
    copied = copy(source, tmp_path / "copy")
    made = fork(source, acknowledged, tmp_path / "fork")
    assert files_of(source) == before
    assert copied.last_sequence >= acknowledged == made.sequence
    check(tmp_path / "copy", copied.first_sequence, copied.last_sequence)
    check(tmp_path / "fork", made.first_sequence, made.sequence)
    session = Session(FileLog(source))
    assert session.log.next_sequence == copied.last_sequence + 1
    session.log.close()


def test_plain_copies_of_a_log_in_use(tmp_path: Path) -> None:
    """What `cp -r` makes of a live log opens with all that was acknowledged, or says why not."""
    source = tmp_path / "log"
    opened = refused = 0
    with started("write", source, "fsynced") as writer:
        assert writer.hear_line() == "ready\n"
        writer.tell("go")
        for number in range(30):
            with LogReader(source) as reader:
                first, acknowledged = reader.first_sequence, reader.refresh()
            plain = tmp_path / f"plain{number}"
            try:
                shutil.copytree(source, plain)
            except shutil.Error:
                continue  # a file went while it was copied, and cp says so
            log = FileLog(plain, reserve_bytes=0)
            try:
                log.open(lambda: None)
            except (LogCorrupt, LogUnusable) as error:
                assert "; " in str(error), "it says what to do"  # noqa: PT017
                refused += 1
                continue
            opened += 1
            first = max(first, verify(plain).first_sequence)
            found = [r for _, batch in log.read(after=first - 1) for r in batch]
            log.close()
            assert len(found) >= acknowledged - first + 1
            assert found == records(first, first + len(found) - 1)
            shutil.rmtree(plain)
        writer.tell("stop")
        writer.hear()
        assert writer.end() == 0
    print(f"{opened} opened, {refused} refused")
    assert opened + refused > 0


def written(path: Path, count: int = 3000) -> list[bytes]:
    """Write a closed log of several segments and return its records."""
    session = Session(FileLog(path, segment_bytes_max=16 * 1024, reserve_bytes=0))
    for first in range(1, count, 50):
        session.put(records(first, first + 49))
    session.log.close()
    return records(1, count)


def test_fork_on_another_disk(tmp_path: Path) -> None:
    """Where there can be no hard links the segments are copied."""
    shared_memory = Path("/dev/shm")
    if not shared_memory.is_dir() or shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system here")
    expected = written(tmp_path / "log")
    target = shared_memory / f"headrace-test-{os.getpid()}"
    try:
        made = fork(tmp_path / "log", None, target)
        assert made.linked == 0
        check(target, 1, len(expected))
    finally:
        shutil.rmtree(target, ignore_errors=True)


def test_a_fork_outlives_its_origin_and_moves(tmp_path: Path) -> None:
    """Shared segments belong to both: removing or moving one log leaves the other whole."""
    expected = written(tmp_path / "log")
    made = fork(tmp_path / "log", 2000, tmp_path / "fork")
    assert made.linked > 2
    copy(tmp_path / "fork", tmp_path / "backup")
    shutil.rmtree(tmp_path / "log")
    (tmp_path / "fork").rename(tmp_path / "moved")
    check(tmp_path / "moved", 1, 2000)
    check(tmp_path / "backup", 1, 2000)
    assert len(expected) == 3000


def test_a_directory_that_may_only_be_read(tmp_path: Path) -> None:
    """A fork or a copy is the way to go on with a log on a disk that is read-only."""
    expected = written(tmp_path / "log")
    disk = LookingFiles(tmp_path / "log")
    with pytest.raises(LogUnusable, match="check its owner and its mode"):
        FileLog(tmp_path / "log", files=disk).open(lambda: None)
    fork(tmp_path / "log", None, tmp_path / "fork", files=disk)
    copy(tmp_path / "log", tmp_path / "copy", files=disk)
    for name in ("fork", "copy"):
        session = Session(FileLog(tmp_path / name))
        assert contents(session.log) == expected
        session.log.close()


def test_a_target_that_may_not_be_written(tmp_path: Path) -> None:
    """The error names the directory that could not be made, and the log is as it was."""
    written(tmp_path / "log", 100)
    disk = LookingFiles(tmp_path / "closed")
    (tmp_path / "closed").mkdir()
    before = files_of(tmp_path / "log")
    refused = r"closed/new: expected .*; check both and try again"
    with pytest.raises(LogUnusable, match=refused):
        fork(tmp_path / "log", None, tmp_path / "closed" / "new", files=disk)
    with pytest.raises(LogUnusable, match=refused):
        copy(tmp_path / "log", tmp_path / "closed" / "new", files=disk)
    assert files_of(tmp_path / "log") == before
