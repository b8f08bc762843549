"""Large results in files of their own: what looks after a whole log looks after them too."""

from __future__ import annotations

import errno
import threading
import tracemalloc
from pathlib import Path

import msgspec
import pytest
from msgspec import Raw
from tests.simulation.disk import SimulatedDisk
from tests.simulation.session import Session, record

from headrace.engine.errors import BlobUnusable, LogUnusable, SegmentGone
from headrace.engine.log import FileLog, salvage, verify
from headrace.engine.log import manifest as manifests
from headrace.engine.log.blob_files import path_of
from headrace.engine.log.blobs import FileBlobs, digest_of
from headrace.engine.log.catalog import Catalog
from headrace.engine.log.compression import compress
from headrace.engine.log.copying import copy
from headrace.engine.log.files import SystemFiles
from headrace.engine.log.fork import fork
from headrace.engine.log.named import Named, named_result
from headrace.engine.record import EventStored, RunCompleted, encode

LOG, NEW = "/log", "/new"
NIL = Raw(b"\xc0")
AT_NS = 1_700_000_000_000_000_000


def end_of(run: int, digest: bytes | None) -> bytes:
    """Return the record of a run that has ended with a large result, or with none at all."""
    return encode(RunCompleted(AT_NS, run, NIL, digest))


def event_of(run: int, digest: bytes, subject: str = "run.completed.make") -> bytes:
    """Return the event that tells of such an end."""
    data = msgspec.msgpack.encode({"blob": digest.hex(), "key": None, "run": run})
    return encode(EventStored(AT_NS, subject, Raw(data)))


def log_of(disk: SimulatedDisk) -> FileLog:
    return FileLog(LOG, files=disk, reserve_bytes=0, segment_bytes_max=400)


def letters(count: int) -> list[bytes]:
    """Return so many results, each of another letter."""
    return [bytes([ord("a") + number]) * 1000 for number in range(count)]


def filled(count: int = 8) -> SimulatedDisk:
    """Return a disk with a closed log of several segments, in which runs had these results."""
    disk = SimulatedDisk()
    session = Session(log_of(disk))
    for run, result in enumerate(letters(count), 1):
        digest = session.log.blobs.put(result)
        session.put([end_of(run, digest)], [record(run)])
    session.log.close()
    return disk


def blob(number: int, folder: str = LOG) -> str:
    """Return the path of the result of the run *number*."""
    return path_of(folder, digest_of(letters(number)[-1]))


def flip(disk: SimulatedDisk, path: str) -> None:
    """Damage one byte."""
    disk.names[path].data[500] ^= 1


# ---------------------------------------------------------------- what a record names


def test_what_a_record_names() -> None:
    """The end of a run and the event about it do, and nothing else that has the same bytes."""
    digest = digest_of(b"x")
    end, event = end_of(7, digest), event_of(8, digest)
    longer = bytes([end[0] + 1]) + end[1:] + b"\x05"  # by a later version

    assert named_result(end) == named_result(longer) == Named(7, digest)
    assert named_result(event) == Named(8, digest)
    held = msgspec.msgpack.encode({"of": end, "and": event})
    for other in (
        end_of(7, None),
        end_of(7, b"short"),
        record(3),
        event_of(8, digest, "plant.completed.make"),
        encode(EventStored(AT_NS, "plant.level", Raw(held))),
        encode(RunCompleted(AT_NS, 9, Raw(held))),
        event.replace(digest.hex().encode(), b"z" * 64),
        b"\xff" + end,
    ):
        assert named_result(other) is None


# ---------------------------------------------------------------- verification


def test_verify_reads_the_results_that_records_name() -> None:
    """A log of which all are there is intact, and how many that are is said."""
    disk = filled()
    report = verify.verify(LOG, files=disk)
    assert (report.ok, report.errors, report.unnamed_results) == (True, [], 0)
    assert (report.results, report.result_bytes) == (8, 8000)


def test_verify_names_each_result_that_is_missing_or_damaged() -> None:
    """With the record and the run, in whichever segment; and the other ones are still whole."""
    disk = filled()
    disk.unlink(blob(2))
    flip(disk, blob(7))
    report = verify.verify(LOG, files=disk)
    assert not report.ok
    assert [(fault.file, fault.sequence, fault.run) for fault in report.errors] == [
        (blob(2), 3, 2),
        (blob(7), 13, 7),
    ]
    reasons = [fault.reason for fault in report.errors]
    assert reasons[0] == "expected the result of run 2, found nothing there"
    assert reasons[1] == "expected the result of run 7, found 1000 bytes with another digest"
    assert (report.results, report.unnamed_results) == (6, 0)


def test_verify_counts_results_that_nobody_names() -> None:
    """What a crash leaves is no damage; of a log with damaged records it is not known."""
    disk = filled()
    blobs = FileBlobs(disk, LOG)
    blobs.put(b"nobody's")
    held = blobs.put(b"the state's")
    report = verify.verify(LOG, files=disk)
    assert (report.ok, report.unnamed_results) == (True, 2)
    report = verify.verify(LOG, held=[held], files=disk)
    assert (report.ok, report.unnamed_results, report.results) == (True, 1, 9)
    first = min(path for path in disk.names if path.endswith(".hrl"))
    disk.names[first].data[100] ^= 1
    assert verify.verify(LOG, files=disk).unnamed_results is None


def test_verify_looks_for_what_the_state_needs() -> None:
    """Its record may be gone, and then only who knows the state can ask for it."""
    disk = filled()
    gone = digest_of(b"gone")
    report = verify.verify(LOG, held=[gone], files=disk)
    (fault,) = report.errors
    assert (fault.file, fault.sequence, fault.run) == (path_of(LOG, gone), 0, 0)
    assert fault.reason == "expected a result that the state refers to, found nothing there"
    assert report.unnamed_results == 0


def test_verify_reads_a_result_once() -> None:
    """However many records name it, such as its run's end and the event about it."""
    disk = SimulatedDisk()
    session = Session(log_of(disk))
    digest = session.log.blobs.put(b"x" * 1000)
    for run in range(1, 20):
        session.put([end_of(run, digest)], [event_of(run, digest)])
    session.log.close()
    disk.calls.clear()
    report = verify.verify(LOG, files=disk)
    assert (report.ok, report.results) == (True, 1)
    assert disk.calls.count(f"open {path_of(LOG, digest)}") == 1
    disk.unlink(path_of(LOG, digest))
    assert len(verify.verify(LOG, files=disk).errors) == 1


def test_verify_finds_what_compressed_segments_name() -> None:
    """The names are looked for in the records, not in the bytes of the file."""
    disk = SimulatedDisk()
    session = Session(log_of(disk))
    for run in range(1, 40):
        session.put([end_of(run, session.log.blobs.put(letters(1)[0]))], *[[record(run)]] * 9)
    session.log.close()
    manifest = manifests.load(disk, LOG)
    assert manifest is not None
    catalog = Catalog(disk, LOG, manifest)
    packed = compress(disk, LOG, catalog, manifest.segments[0])
    assert packed is not None
    for group in 1, 11:  # in the compressed one, and in another
        assert verify.verify(LOG, files=disk).results == 1, group
    disk.unlink(blob(1))
    assert verify.verify(LOG, files=disk).errors[0].sequence == 1


def test_verify_lists_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a log whose results were all left behind it says how many more there are."""
    monkeypatch.setattr(verify, "LISTED_MAX", 3)
    disk = filled()
    for number in range(1, 9):
        disk.unlink(blob(number))
    report = verify.verify(LOG, files=disk)
    assert (len(report.errors), report.errors_unlisted, report.ok) == (3, 5, False)
    monkeypatch.setattr(verify, "LISTED_MAX", 0)
    assert not verify.verify(LOG, files=disk).ok


def test_verify_of_what_retention_removes_meanwhile() -> None:
    """Where no lease can be had, a result that goes with its record is no damage."""
    disk = filled(40)
    log = log_of(disk)
    log._policy = type(log._policy)(keep_bytes=0)
    seen: list[str] = []

    def meanwhile(name: str, path: str) -> None:
        if "lease" in path:
            raise PermissionError(errno.EACCES, "may only be read", path)
        if name == "open" and path == blob(1) and not seen:
            seen.append(path)
            assert log.retain(40).segments
            disk.unlink(blob(1))

    disk.before = meanwhile
    with pytest.raises(SegmentGone):
        verify.verify(LOG, files=disk)
    assert seen


@pytest.mark.slow
def test_nothing_holds_a_result_whole(tmp_path: Path) -> None:
    """Verification, copies and salvage take a piece of it at a time."""
    session = Session(FileLog(tmp_path / "log"))
    digest = session.log.blobs.put(bytes(48 * 1024 * 1024))
    session.put([end_of(1, digest)])
    session.log.close()
    tracemalloc.start()
    assert verify.verify(tmp_path / "log").results == 1
    assert copy(tmp_path / "log", tmp_path / "copy").results == 1
    assert salvage.salvage(tmp_path / "log", tmp_path / "new").results == 1
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 12 * 1024 * 1024


# ---------------------------------------------------------------- salvage


def test_salvage_carries_the_results() -> None:
    """Byte by byte, also those that only the state may need; what was half-written stays."""
    disk = filled()
    FileBlobs(disk, LOG).put(b"nobody's")
    disk.names[f"{blob(1)}.tmp"] = disk.names[blob(1)]
    found = salvage.salvage(LOG, NEW, files=disk)
    assert (found.complete, found.results, found.lost) == (True, 9, [])
    report = verify.verify(NEW, files=disk)
    assert (report.ok, report.results, report.unnamed_results) == (True, 8, 1)
    for number in range(1, 9):
        assert bytes(disk.names[blob(number, NEW)].data) == letters(number)[-1]
        assert disk.names[blob(number, NEW)] is not disk.names[blob(number)]
    assert not [path for path in disk.names if path.startswith(NEW) and path.endswith(".tmp")]


def test_salvage_names_each_result_that_is_lost() -> None:
    """What is damaged is not carried on as if it were whole."""
    disk = filled()
    blobs = FileBlobs(disk, LOG)
    unnamed = path_of(LOG, blobs.put(b"u" * 1000))
    disk.unlink(blob(2))
    flip(disk, blob(7))
    flip(disk, unnamed)
    found = salvage.salvage(LOG, NEW, files=disk)
    assert (found.complete, found.gaps, found.results) == (False, [], 6)
    assert [(lost.sequence, lost.run) for lost in found.lost] == [(3, 2), (13, 7), (0, 0)]
    expected = "expected a result that was stored there, found"
    assert [lost.reason for lost in found.lost] == [
        f"{blob(2)}: {expected} nothing there",
        f"{blob(7)}: {expected} 1000 bytes with another digest",
        f"{unnamed}: {expected} 1000 bytes with another digest",
    ]
    assert blob(7, NEW) not in disk.names
    assert [fault.run for fault in verify.verify(NEW, files=disk).errors] == [2, 7]
    with pytest.raises(BlobUnusable, match="nothing there"):
        FileBlobs(disk, NEW).get(digest_of(letters(7)[-1]))


def test_salvage_lists_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """As verification does, and it is not complete then."""
    monkeypatch.setattr(salvage, "LISTED_MAX", 3)
    disk = filled()
    for number in range(1, 9):
        disk.unlink(blob(number))
    found = salvage.salvage(LOG, NEW, files=disk)
    assert (len(found.lost), found.lost_unlisted, found.complete) == (3, 5, False)


@pytest.mark.parametrize("where", ["blobs", "blobs/part"])
def test_salvage_goes_on_where_a_directory_cannot_be_read(where: str) -> None:
    """The records are worth more than the results, and what is lost is said."""
    disk = filled()
    path = blob(3).rpartition("/")[0]
    path = path if where == "blobs/part" else f"{LOG}/blobs"
    gone = 1 if where == "blobs/part" else 8

    def refuse(name: str, called: str) -> None:
        if name == "listdir" and called == path:
            raise OSError(errno.EIO, "a bad sector", called)

    disk.before = refuse
    found = salvage.salvage(LOG, NEW, files=disk)
    disk.before = lambda _name, _path: None
    assert (found.records, found.complete, found.results) == (16, False, 8 - gone)
    assert "expected a directory of large results, found [Errno 5]" in found.lost[0].reason
    assert "found that its directory cannot be listed" in found.lost[-1].reason
    assert len(found.lost) == 1 + gone
    # They are there, and were not taken.
    assert [fault.run for fault in verify.verify(NEW, files=disk).errors] == (
        [3] if gone == 1 else [*range(1, 9)]
    )


def test_salvage_from_a_disk_that_changes_its_mind() -> None:
    """Bytes that were right at the first look and are wrong at the next are not carried on."""
    disk = filled()
    looks: list[str] = []

    def rot(name: str, path: str) -> None:
        if name == "open" and path == blob(5):
            looks.append(path)
            if len(looks) == 2:
                flip(disk, path)

    disk.before = rot
    found = salvage.salvage(LOG, NEW, files=disk)
    assert (found.results, [lost.run for lost in found.lost]) == (7, [5])
    assert not [path for path in disk.names if path.startswith(blob(5, NEW))]


def test_salvage_that_is_interrupted_leaves_nothing() -> None:
    """Ctrl-C among the results, or a disk that fills up with them: not even a directory."""
    for error in (KeyboardInterrupt(), OSError(errno.ENOSPC, "no room")):
        disk = filled()

        def stop(name: str, path: str, error: BaseException = error) -> None:
            if name == "pwrite" and path.startswith(blob(5, NEW)):
                raise error

        disk.before = stop
        with pytest.raises((KeyboardInterrupt, LogUnusable)):
            salvage.salvage(LOG, NEW, files=disk)
        disk.before = lambda _name, _path: None
        assert not [path for path in disk.names if path.startswith(NEW)]
        assert not [path for path in disk.folders if path.startswith(NEW)]
        assert salvage.salvage(LOG, NEW, files=disk).complete


# ---------------------------------------------------------------- copies and forks


def test_a_damaged_result_is_not_copied() -> None:
    """As a damaged segment: a backup would hide it.  A fork that shares it is no backup."""
    disk = filled()
    flip(disk, blob(4))
    with pytest.raises(BlobUnusable, match=f"{blob(4)}: .*`headrace log salvage {LOG} NEW`"):
        copy(LOG, NEW, files=disk)
    assert NEW not in disk.folders
    assert not [path for path in disk.names if path.startswith(NEW)]
    made = fork(LOG, None, NEW, files=disk)
    assert made.results == 8
    assert disk.names[blob(4, NEW)] is disk.names[blob(4)]
    assert [fault.run for fault in verify.verify(NEW, files=disk).errors] == [4]


def test_a_damaged_result_is_not_copied_into_a_fork() -> None:
    """On a disk without links a fork is made of copies."""
    disk = filled()
    flip(disk, blob(4))

    def refuse(name: str, _path: str) -> None:
        if name == "link":
            raise OSError(errno.EXDEV, "another disk")

    disk.before = refuse
    with pytest.raises(BlobUnusable, match="another digest"):
        fork(LOG, None, NEW, files=disk)
    assert NEW not in disk.folders


@pytest.mark.parametrize("way", ["copy", "fork"])
def test_results_that_retention_removes_meanwhile(way: str) -> None:
    """A copy never names what it has not got: it begins anew with what is kept by then."""
    disk = filled(40)
    log = log_of(disk)
    log._policy = type(log._policy)(keep_bytes=0)
    seen: list[str] = []

    def meanwhile(name: str, path: str) -> None:
        if name == "mkdir" and path == f"{NEW}/blobs" and not seen:
            seen.append(path)
            assert log.retain(40).segments
            disk.unlink(blob(1))

    disk.before = meanwhile
    made = copy(LOG, NEW, files=disk) if way == "copy" else fork(LOG, None, NEW, files=disk)
    disk.before = lambda _name, _path: None
    assert seen
    report = verify.verify(NEW, files=disk)
    assert report.errors == []
    assert (made.first_sequence, made.results) == (report.first_sequence, 39)
    assert made.first_sequence > 1


def test_what_else_is_among_the_results_is_not_taken() -> None:
    """Names that are no digests, or of another directory, belong to nobody."""
    disk = filled(1)
    for name in ("x", "blobs/notes", f"blobs/zz/{'z' * 64}", f"blobs/{'0' * 2}/{'1' * 64}"):
        disk.folders.add(f"{LOG}/{name}".rpartition("/")[0])
        disk.names[f"{LOG}/{name}"] = disk.names[blob(1)]
    assert copy(LOG, NEW, files=disk).results == 1
    assert salvage.salvage(LOG, "/other", files=disk).results == 1
    assert verify.verify(LOG, files=disk).unnamed_results == 0


# ---------------------------------------------------------------- what a crash left half-written


def half_written(disk: SimulatedDisk) -> list[str]:
    return [path for path in disk.names if path.endswith(".tmp")]


def killed_while_storing() -> SimulatedDisk:
    """Return the disk of a process that was killed while it wrote a result."""
    disk = SimulatedDisk()
    session = Session(log_of(disk))
    session.put([record(1)])
    left = disk.killed()

    def die(name: str, path: str) -> None:
        if name == "fsync" and "/blobs/" in path:
            disk.off = True
        if disk.off:
            raise OSError(errno.EIO, "killed", path)

    disk.before = die
    with pytest.raises(Exception, match="killed"):
        session.log.blobs.put(b"x" * 1000)
    disk.before = lambda _name, _path: None
    disk.descriptors.clear()
    return left


def test_what_was_half_written_goes_at_the_next_start() -> None:
    """And the result can be stored again."""
    disk = killed_while_storing()
    assert len(half_written(disk)) == 1
    session = Session(log_of(disk))
    assert not half_written(disk)
    digest = session.log.blobs.put(b"x" * 1000)
    assert FileBlobs(disk, LOG).get(digest) == b"x" * 1000
    session.log.close()


def test_a_log_that_was_closed_is_opened_without_looking_among_its_results() -> None:
    """There may be a million of them, and nothing half-written."""
    disk = filled()
    disk.calls.clear()
    session = Session(log_of(disk))
    assert not [call for call in disk.calls if "/blobs" in call]
    session.log.close()


def test_a_leftover_that_cannot_be_removed_stops_no_start() -> None:
    """It is no harm."""
    disk = killed_while_storing()

    def refuse(name: str, path: str) -> None:
        if name == "unlink" and "/blobs/" in path:
            raise OSError(errno.EACCES, "no")

    disk.before = refuse
    Session(log_of(disk)).log.close()
    assert half_written(disk)


class _SlowDisk(SystemFiles):
    """A disk that takes as long to sync a result as somebody needs to see it half-written."""

    def __init__(self) -> None:
        self.is_writing = threading.Event()
        self.is_seen = threading.Event()

    def fsync(self, fd: int) -> None:
        """See `SystemFiles`."""
        self.is_writing.set()
        assert self.is_seen.wait(30)
        super().fsync(fd)

    def listdir(self, path: str) -> list[str]:
        """See `SystemFiles`."""
        names = super().listdir(path)
        if digest_of(b"x" * 1000).hex() + ".tmp" in names:
            self.is_seen.set()
        return names


def test_a_sweep_removes_leftovers_and_nothing_that_is_being_written(tmp_path: Path) -> None:
    """Whatever is half-written while nobody writes is left over."""
    disk = _SlowDisk()
    blobs = FileBlobs(disk, str(tmp_path))
    leftover = tmp_path / "blobs" / "ab" / f"{'ab' * 32}.tmp"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"half")
    stored: list[bytes] = []
    writer = threading.Thread(target=lambda: stored.append(blobs.put(b"x" * 1000)))
    writer.start()
    assert disk.is_writing.wait(30)
    assert blobs.sweep(lambda: ()) == 0
    writer.join()
    assert not list(tmp_path.glob("blobs/*/*.tmp"))
    assert FileBlobs(SystemFiles(), str(tmp_path)).get(stored[0]) == b"x" * 1000
