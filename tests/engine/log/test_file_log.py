"""`FileLog` and `LogReader` on a real disk."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast

import pytest
from tests.simulation.session import Session, contents, record, records

from headrace.engine.errors import LogClosed, LogCorrupt, LogLocked, LogUnusable
from headrace.engine.log import Durability, FileLog, LogReader
from headrace.engine.log.files import SystemFiles
from headrace.engine.log.group import Group, merged
from headrace.engine.log.verify import verify

FIRST = "00000000000000000001.hrl"


def fill(path: Path, groups: int = 10, *, segment_bytes_max: int = 1 << 26) -> None:
    session = Session(FileLog(path, segment_bytes_max=segment_bytes_max))
    for first in range(1, groups * 10, 10):
        session.put(records(first, first + 9))
    session.log.close()


def test_path_that_is_a_file(tmp_path: Path) -> None:
    """A file in place of the directory is named, and left as it is."""
    path = tmp_path / "log"
    path.write_text("mine")
    with pytest.raises(LogUnusable, match="log: expected a directory, found a file; choose"):
        FileLog(path).open(lambda: None)
    assert path.read_text() == "mine"
    with pytest.raises(LogUnusable):
        LogReader(path)


def test_path_below_a_file(tmp_path: Path) -> None:
    """A path that cannot exist is one clear error."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(LogUnusable, match="Not a directory"):
        FileLog(tmp_path / "file" / "log").open(lambda: None)


def test_foreign_directory_is_left_alone(tmp_path: Path) -> None:
    """A directory with other files in it is refused, and nothing is put into it."""
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(LogUnusable, match=r"found 'thesis\.txt'; choose another path"):
        FileLog(tmp_path).open(lambda: None)
    assert os.listdir(tmp_path) == ["thesis.txt"]  # noqa: PTH208
    with pytest.raises(LogUnusable, match="found no MANIFEST"):
        LogReader(tmp_path)
    with pytest.raises(LogUnusable, match="found none"):
        verify(tmp_path)


class ReadOnlyFiles(SystemFiles):
    """A disk that was mounted read-only; root may write where others may not."""

    def open(self, path: str, flags: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise PermissionError(13, "Permission denied", path)
        return super().open(path, flags)


def test_unwritable_directory(tmp_path: Path) -> None:
    """What may only be read cannot be opened for writing, but it can be read."""
    fill(tmp_path / "log")
    with pytest.raises(LogUnusable, match=r"Permission denied.*check its owner and its mode"):
        FileLog(tmp_path / "log", files=ReadOnlyFiles()).open(lambda: None)
    with LogReader(tmp_path / "log", files=ReadOnlyFiles()) as reader:
        assert reader.refresh() == 100
    assert verify(tmp_path / "log", files=ReadOnlyFiles()).records == 100


def test_parents_are_made(tmp_path: Path) -> None:
    """A log may be put where there is nothing yet."""
    fill(tmp_path / "a" / "b" / "log", 1)
    assert verify(tmp_path / "a" / "b" / "log").records == 10


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("segment_bytes_max", lambda path: FileLog(path, segment_bytes_max=0)),
        ("sync_interval_s", lambda path: FileLog(path, sync_interval_s=-1.0)),
        ("durability", lambda path: FileLog(path, durability=cast("Durability", "sometimes"))),
    ],
)
def test_wrong_options(tmp_path: Path, name: str, make: Callable[[Path], FileLog]) -> None:
    """An option out of its range is a `ValueError` that names it, before the disk is touched."""
    with pytest.raises(ValueError, match=name):
        make(tmp_path / "log")
    assert not (tmp_path / "log").exists()


HOLDER = """
import sys
from headrace.engine.log import FileLog
log = FileLog(sys.argv[1])
log.open(lambda: None)
print("open", flush=True)
sys.stdin.read()
"""


def test_holder_is_named_and_its_end_frees_the_log(tmp_path: Path) -> None:
    """A second process is told which one holds the log; a kill frees it at once."""
    path = tmp_path / "log"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(LogLocked, match=f"held by pid {holder.pid} on host"):
            FileLog(path).open(lambda: None)
        holder.kill()
    fill(path, 1)


LEFT_OPEN = """
import sys
from headrace.engine.log import FileLog
log = FileLog(sys.argv[1])
log.open(lambda: None)
log.append([b"\\x01"])
log.commit()
"""


@pytest.mark.slow
def test_program_that_forgets_to_close_ends(tmp_path: Path) -> None:
    """A log that was never closed does not keep the interpreter from ending; nothing is lost."""
    path = tmp_path / "log"
    subprocess.run([sys.executable, "-c", LEFT_OPEN, path], check=True, timeout=30)
    log = FileLog(path)
    log.open(lambda: None)
    assert contents(log) == [b"\x01"]
    assert log.recovery is not None
    assert not log.recovery.clean
    log.close()


def test_forked_child_does_not_write(tmp_path: Path) -> None:
    """A child that was forked is refused, and its end changes nothing for the parent."""
    session = Session(FileLog(tmp_path / "log"))
    log = session.log
    child = os.fork()
    if child == 0:
        try:
            log.append([record(9)])
            log.commit()
        except LogClosed:
            log.close()
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    session.put(records(1, 3))
    with pytest.raises(LogLocked):
        FileLog(tmp_path / "log").open(lambda: None)
    log.close()
    assert verify(tmp_path / "log").records == 3


def test_writer_thread_ends_with_the_log(tmp_path: Path) -> None:
    """While it is open a log has one thread, afterwards none, and no open file."""
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    session = Session(FileLog(tmp_path / "log", segment_bytes_max=500))
    session.put(records(1, 3))
    assert threading.active_count() == before[0] + 1
    for first in range(4, 100, 3):
        session.put(records(first, first + 2))
        session.log.fetch([1, first])
        assert len(contents(session.log)) == first + 2
    session.log.close()
    after = threading.active_count(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    assert after == before


def tear(path: Path, cut_bytes: int) -> bytes:
    """Put the beginning of a frame after the last one; return it."""
    segment = path / FIRST
    data = segment.read_bytes()
    torn = data[64 : 64 + cut_bytes]
    segment.write_bytes(data + torn)
    return torn


@pytest.mark.parametrize("cut_bytes", [1, 39, 40, 41, 200])
def test_torn_tail_is_saved_cut_and_reported(tmp_path: Path, cut_bytes: int) -> None:
    """An unfinished last write is never silently gone."""
    path = tmp_path / "log"
    fill(path)
    whole = (path / FIRST).read_bytes()
    torn = tear(path, cut_bytes)
    assert verify(path).torn_bytes == cut_bytes
    log = FileLog(path)
    log.open(lambda: None)
    assert log.recovery is not None
    assert log.recovery.torn_bytes == cut_bytes
    assert log.recovery.torn_path == f"{path}/{FIRST}.torn-{len(whole)}"
    assert log.recovery.torn_reason is not None
    assert not log.recovery.clean
    assert Path(f"{path}/{FIRST}.torn-{len(whole)}").read_bytes() == torn
    assert (path / FIRST).read_bytes() == whole
    assert contents(log) == records(1, 100)
    log.close()
    # Torn again at the same place: the first copy is kept.
    (path / FIRST).write_bytes(whole)
    tear(path, cut_bytes)
    (path / "HEAD").unlink()
    log.open(lambda: None)
    assert log.recovery.torn_path is not None
    log.close()
    assert len(list(path.glob("*.torn-*"))) == 2


def test_strict_refuses_a_torn_tail(tmp_path: Path) -> None:
    """With *strict* nothing is cut."""
    path = tmp_path / "log"
    fill(path)
    tear(path, 50)
    before = (path / FIRST).read_bytes()
    with pytest.raises(LogCorrupt, match="strict"):
        FileLog(path, strict=True).open(lambda: None)
    assert (path / FIRST).read_bytes() == before


def test_leftovers_are_removed(tmp_path: Path) -> None:
    """Files that a crash left half-made are gone after the next start."""
    path = tmp_path / "log"
    fill(path)
    (path / "MANIFEST.tmp").write_text("half")
    fill_more = FileLog(path)
    fill_more.open(lambda: None)
    fill_more.close()
    assert not (path / "MANIFEST.tmp").exists()


def test_seek_by_sequence_and_time(tmp_path: Path) -> None:
    """In a log of several segments each record is found by its sequence and by its time."""
    path = tmp_path / "log"
    fill(path, 50, segment_bytes_max=3000)
    assert len(list(path.glob("*.hrl"))) > 3
    with LogReader(path) as reader:
        for sequence in (1, 2, 77, 250, 251, 499, 500):
            first, batch = next(reader.read(after=sequence - 1))
            assert (first, batch[0]) == (sequence, record(sequence))
            at_ns = 1_700_000_000_000_000_000 + sequence
            assert reader.sequence_at(at_ns) == sequence
        assert reader.sequence_at(0) == 1
        assert reader.sequence_at(1 << 62) == 501
        assert reader.fetch([500, 3, 501]) == {500: record(500), 3: record(3)}
        assert [f for f, _ in reader.read(after=490, upto=495)] == [491]
        assert reader.closed_cleanly


def test_a_fetch_goes_on_behind_a_reading_that_ended_with_a_segment(tmp_path: Path) -> None:
    """Where each segment begins: what comes next is in the next one, and there is no damage."""
    path = tmp_path / "log"
    fill(path, 50, segment_bytes_max=3000)
    bases = sorted(int(segment.stem) for segment in path.glob("*.hrl"))
    assert len(bases) > 3
    for base in bases[1:]:
        with LogReader(path) as reader:
            list(reader.read(upto=base - 1))
            assert reader.fetch([base, base + 1]) == {n: record(n) for n in (base, base + 1)}
            list(reader.read(upto=base - 1))
            assert next(reader.read(after=base - 1))[0] == base


def test_reader_follows_the_writer_over_segments(tmp_path: Path) -> None:
    """Who follows sees each record once, in order, over rotations and restarts."""
    path = tmp_path / "log"
    session = Session(FileLog(path, segment_bytes_max=1000))
    seen: list[bytes] = []
    written = 0

    def write_more() -> bool:
        nonlocal session, written
        if written == 300:
            return False
        if written == 150:
            session.log.close()
            session = Session(FileLog(path, segment_bytes_max=1000, durability="flushed"))
        session.put(records(written + 1, written + 3))
        written += 3
        return True

    with LogReader(path) as reader:
        for first, batch in reader.follow(wait=write_more):
            assert first == len(seen) + 1
            seen.extend(batch)
            assert reader.last_sequence == written
    session.log.close()
    assert seen == records(1, 300)


def test_reader_waits_for_a_frame_that_is_being_written(tmp_path: Path) -> None:
    """The beginning of a frame at the end is not an error and not shown."""
    path = tmp_path / "log"
    fill(path)
    whole = (path / FIRST).read_bytes()
    for cut_bytes in range(1, 120, 7):
        (path / FIRST).write_bytes(whole)
        tear(path, cut_bytes)
        with LogReader(path) as reader:
            assert reader.refresh() == 100
            assert sum(len(batch) for _, batch in reader.read()) == 100


def test_reader_does_not_show_what_is_not_durable(tmp_path: Path) -> None:
    """At level ``fsynced`` a record is seen by others once it is acknowledged, not before."""

    class SlowSync(SystemFiles):
        def fdatasync(self, fd: int) -> None:
            if not free.is_set():
                reached.set()
                assert free.wait(30)
            super().fdatasync(fd)

    free, reached = threading.Event(), threading.Event()
    free.set()
    session = Session(FileLog(tmp_path / "log", files=SlowSync()))
    session.put(records(1, 1))
    free.clear()
    session.log.append(records(2, 2))
    session.log.commit()
    assert reached.wait(30)
    with LogReader(tmp_path / "log") as reader:
        assert reader.refresh() == 1
        free.set()
        session.wait(2)
        assert reader.refresh() == 2
    session.log.close()


def test_groups_grow_while_the_disk_is_busy(tmp_path: Path) -> None:
    """Whatever comes during one sync is one group with one sync, however many commits it had."""
    syncs: list[int] = []

    class CountingFiles(SystemFiles):
        def fdatasync(self, fd: int) -> None:
            syncs.append(fd)
            if len(syncs) == marked + 1:
                assert free.wait(30)
            super().fdatasync(fd)

    free, marked = threading.Event(), 1 << 30
    session = Session(FileLog(tmp_path / "log", files=CountingFiles()))
    session.put(records(1, 1))
    marked = len(syncs)
    for number in range(2, 102):
        session.log.append([record(number)])
        session.log.commit()
    free.set()
    session.wait(101)
    assert len(syncs) - marked <= 3
    assert contents(session.log) == records(1, 101)
    session.log.close()


def test_commits_while_groups_are_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop may commit at any moment, also while the writer goes through its queue."""
    session = Session(FileLog(tmp_path))
    merging, committed = threading.Event(), threading.Event()

    def slowly(groups: Iterable[Group]) -> list[Group]:
        found: list[Group] = []
        for group in groups:
            found.append(group)
            merging.set()
            assert committed.wait(30)
        return merged(found)

    monkeypatch.setattr("headrace.engine.log.writer.merged", slowly)
    number = 0
    while not merging.is_set():
        number += 1
        session.log.append([record(number)])
        session.log.commit()
    session.log.append([record(number + 1)])
    session.log.commit()
    committed.set()
    session.wait(number + 1)
    assert contents(session.log) == records(1, number + 1)
    session.log.close()


class CountingFiles(SystemFiles):
    """Counts how often a file is read."""

    reads = 0

    def pread(self, fd: int, size_bytes: int, offset_bytes: int) -> bytes:
        """See `SystemFiles`."""
        self.reads += 1
        return super().pread(fd, size_bytes, offset_bytes)


def test_neighbours_are_fetched_without_reading_again(tmp_path: Path) -> None:
    """Who goes from run to run, as after a start, reads a frame once, not once for each."""
    files = CountingFiles()
    session = Session(FileLog(tmp_path / "log", files=files))
    session.put(records(1, 300))
    session.put(records(301, 320))
    assert session.log.fetch([7]) == {7: record(7)}
    before = files.reads
    for sequence in (8, 300, 1, 7):
        assert session.log.fetch([sequence]) == {sequence: record(sequence)}
    assert files.reads == before
    assert session.log.fetch([300, 301, 999]) == {300: record(300), 301: record(301)}
    assert files.reads > before
    session.log.close()
