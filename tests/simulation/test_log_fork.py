"""Forks and copies on a disk that fails at every moment: a whole log, or none."""

from __future__ import annotations

import errno
from collections.abc import Callable, Hashable
from contextlib import suppress
from random import Random

import pytest
from tests.simulation.disk import SimulatedDisk
from tests.simulation.forks import (
    BLOB,
    ENDS,
    EXTRAS,
    FORK_ID,
    LOG_ID,
    RECORDS,
    SNAPSHOTS,
    SOURCE,
    TARGET,
    check_log,
    disk_with,
    files_of,
    log_on,
    read,
    world,
)
from tests.simulation.session import SameDay, Session

from headrace.engine.errors import LogCorrupt, LogError, LogUnusable
from headrace.engine.log import clone, folder
from headrace.engine.log import manifest as manifests
from headrace.engine.log.copying import copy
from headrace.engine.log.folder import UNFINISHED
from headrace.engine.log.fork import fork
from headrace.engine.log.tail import Tail

Make = Callable[[SimulatedDisk], None]


def fork_in_the_middle(disk: SimulatedDisk) -> None:
    fork(SOURCE, ENDS[9], TARGET, files=disk, new_id=lambda: FORK_ID, clock=SameDay())


def fork_without_links(disk: SimulatedDisk) -> None:
    """Fork on a disk that has no hard links, besides whatever else it does not do."""
    before = disk.before

    def refuse(name: str, path: str) -> None:
        before(name, path)
        if name == "link":
            raise OSError(errno.EXDEV, "another disk")

    disk.before = refuse
    try:
        fork(SOURCE, None, TARGET, files=disk, new_id=lambda: FORK_ID, clock=SameDay())
    finally:
        disk.before = before


def whole_copy(disk: SimulatedDisk) -> None:
    copy(SOURCE, TARGET, files=disk)


MAKERS: tuple[Make, ...] = (fork_in_the_middle, fork_without_links, whole_copy)
EXPECTED: dict[Make, tuple[list[bytes], bytes]] = {
    fork_in_the_middle: (RECORDS[: ENDS[9]], FORK_ID),
    fork_without_links: (RECORDS, FORK_ID),
    whole_copy: (RECORDS, LOG_ID),
}


def calls_of(make: Make) -> list[str]:
    """Return the operations of *make* without a fault."""
    disk = world()
    disk.calls.clear()
    make(disk)
    return [call.split()[0] for call in disk.calls]


def check_left(
    disk: SimulatedDisk,
    make: Make,
    before: dict[str, bytes],
    seen: set[Hashable],
    *,
    restarted: bool = False,
) -> bool:
    """Check what a fault has left at the target and at the source; say if there is a log.

    If there is none it says so, and making it once more works.  Most faults leave what another
    one has left: that was checked if it is among what *seen* holds for this *make*.
    """
    disk.before = lambda _name, _path: None
    disk.free_bytes = None
    assert files_of(disk, SOURCE) == before
    there = f"{TARGET}/{manifests.NAME}" in disk.names
    if (left := disk.found()) in seen:
        return there
    if not there:
        if files_of(disk, TARGET):
            with pytest.raises(LogUnusable, match="cut short"):
                log_on(disk, TARGET).open(lambda: None)
        make(disk)
    expected, log_id = EXPECTED[make]
    check_log(disk, TARGET, expected, log_id)
    kept = {name for name in SNAPSHOTS if int(name[5:25]) <= len(expected)}
    for name in (*kept, BLOB):
        assert files_of(disk, TARGET)[f"{TARGET}/{name}"] == EXTRAS[name]
    assert files_of(disk, SOURCE) == before
    if not restarted:  # after which there is nothing left of the source but these bytes
        check_log(disk, SOURCE, RECORDS, LOG_ID)
    seen.add(left)
    return there


def lose_power(make: Make, calls: int, seen: set[Hashable], *, seed: int = 0) -> None:
    """Let the power go after *calls* operations, and check what is left."""
    disk = world()
    before = files_of(disk, SOURCE)
    disk.power_off_after(calls)
    done = False
    with suppress(LogError):
        make(disk)
        done = True
    left = disk.crash(Random(seed * 1_000_003 + calls))
    there = check_left(left, make, before, seen, restarted=True)
    assert there or not done, "it was said to be there"


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("seed", range(2))
def test_power_loss_after_every_operation(make: Make, seed: int) -> None:
    """Whenever the power goes there is a whole log, or one that is known to be none."""
    seen: set[Hashable] = set()
    for calls in range(len(calls_of(make)) + 1):
        lose_power(make, calls, seen, seed=seed)


@pytest.mark.soak
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("seed", range(2, 100))
def test_power_loss_often(make: Make, seed: int) -> None:
    """Many more schedules of the same."""
    seen: set[Hashable] = set()
    for calls in range(len(calls_of(make)) + 1):
        lose_power(make, calls, seen, seed=seed)


@pytest.mark.parametrize("make", MAKERS)
def test_kill_after_every_operation(make: Make) -> None:
    """A process that is killed leaves a whole log, or one that is known to be none."""
    seen: set[Hashable] = set()
    for calls in range(len(calls_of(make)) + 1):
        disk = world()
        before = files_of(disk, SOURCE)
        disk.power_off_after(calls)
        with suppress(LogError):
            make(disk)
        check_left(disk.killed(), make, before, seen, restarted=True)


def test_power_loss_while_half_a_fork_is_made_anew() -> None:
    """Making it once more over what a crash left is as safe as making it."""
    cut = len(calls_of(whole_copy)) * 2 // 3
    seen: set[Hashable] = set()
    for calls in range(3 * cut):
        disk = world()
        before = files_of(disk, SOURCE)
        disk.power_off_after(cut)
        with suppress(LogError):
            whole_copy(disk)
        disk = disk.crash(Random(calls))
        disk.power_off_after(calls)
        with suppress(LogError):
            whole_copy(disk)
        check_left(disk.crash(Random(calls)), whole_copy, before, seen, restarted=True)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_error_at_every_operation(make: Make, code: int) -> None:
    """If the disk fails once, that is said, and nothing is left but perhaps the mark."""
    names = calls_of(make)
    seen: set[Hashable] = set()
    for name in sorted(set(names)):
        for nth in range(1, names.count(name) + 1):
            disk = world()
            before = files_of(disk, SOURCE)
            disk.fail(name, nth, code)
            try:
                make(disk)
            except LogUnusable:
                assert files_of(disk, TARGET).keys() <= {f"{TARGET}/{UNFINISHED}"}, (name, nth)
            else:
                assert name in ("unlink", "close"), (name, nth)
            if name != "close":
                assert not disk.descriptors, (name, nth)
            check_left(disk, make, before, seen)


@pytest.mark.parametrize("make", MAKERS)
def test_disk_that_fills_up(make: Make) -> None:
    """Without room for all of it there is nothing at all, and what it took is free again."""
    seen: set[Hashable] = set()
    for free_bytes in range(0, 2600, 37):
        disk = world()
        before = files_of(disk, SOURCE)
        disk.free_bytes = free_bytes
        try:
            make(disk)
        except LogUnusable:
            assert not files_of(disk, TARGET)
            assert TARGET not in disk.folders
            assert disk.free_bytes >= free_bytes
        check_left(disk, make, before, seen)


def test_short_writes() -> None:
    """A disk that takes writes in pieces stores them whole."""
    for make in MAKERS:
        seen: set[Hashable] = set()
        for seed in range(10):
            disk = world()
            disk.short_writes = Random(seed)
            make(disk)
            disk.short_writes = None
            check_left(disk, make, files_of(disk, SOURCE), seen)


def damages() -> list[tuple[str, bytes | None]]:
    """Return what can be wrong with the files of the log that a fork reads."""
    disk = world(extras=False)
    found: list[tuple[str, bytes | None]] = []
    for path, data in files_of(disk, SOURCE).items():
        if path.endswith(("LOCK", "HEAD", ".idx")):
            continue
        found += [(path, None), (path, b""), (path, data[:50]), (path, data[: len(data) * 2 // 3])]
        found += [(path, data[:n] + bytes([data[n] ^ 4]) + data[n + 1 :]) for n in (5, 30)]
    last = max(path for path in files_of(disk, SOURCE) if path.endswith(".hrl"))
    whole = files_of(disk, SOURCE)[last]
    found += [
        (last, whole[:n] + bytes([whole[n] ^ 4]) + whole[n + 1 :]) for n in range(len(whole) - 40)
    ]
    return found


def test_damaged_source_makes_no_fork() -> None:
    """What is missing, cut or changed is named with its file, and nothing is made."""
    for path, data in damages():
        files = files_of(world(extras=False), SOURCE)
        files.pop(path)
        if data is not None:
            files[path] = data
        disk = disk_with(files)
        with pytest.raises((LogCorrupt, LogUnusable), match=f"{SOURCE}.*expected"):
            fork(SOURCE, None, TARGET, files=disk)
        with pytest.raises((LogCorrupt, LogUnusable), match=f"{SOURCE}.*expected"):
            copy(SOURCE, TARGET, files=disk)
        assert TARGET not in disk.folders
        assert files_of(disk, SOURCE) == files


def test_fork_of_a_damaged_shared_segment_shows_the_damage() -> None:
    """A body that a fork shares is not read by it; damage there is found in both alike."""
    disk = world(extras=False)
    first = min(path for path in files_of(disk, SOURCE) if path.endswith(".hrl"))
    disk.names[first].data[200] ^= 1
    fork(SOURCE, None, TARGET, files=disk)
    for path in (SOURCE, TARGET):
        with pytest.raises(LogCorrupt, match=r"0001\.hrl byte"):
            read(disk, path)


def test_damage_after_the_fork_does_not_matter_in_finished_segments() -> None:
    """What lies after the place is not read: a fork before damage is a way to go on."""
    disk = world(extras=False)
    second = sorted(path for path in files_of(disk, SOURCE) if path.endswith(".hrl"))[1]
    disk.names[second].data[-100] ^= 1
    fork(SOURCE, ENDS[2], TARGET, files=disk, new_id=lambda: FORK_ID, clock=SameDay())
    check_log(disk, TARGET, RECORDS[: ENDS[2]], FORK_ID)


# Control of the tests above: each of these bugs must be caught by one of them.

Patch = pytest.MonkeyPatch


def manifest_first(patch: Patch) -> None:
    """What the list names is not durable yet when the list is."""
    sync = SimulatedDisk.sync_directory
    patch.setattr(
        SimulatedDisk,
        "sync_directory",
        lambda disk, path: sync(disk, path) if path != TARGET else None,
    )


def tail_without_sync(patch: Patch) -> None:
    """The last segment is not made durable."""
    patch.setattr(Tail, "sync", Tail._flush)


def no_mark(patch: Patch) -> None:
    """Half a fork does not say that it is one."""
    patch.setattr(folder, "check_finished", lambda _path, _names: None)


def nothing_removed(patch: Patch) -> None:
    """After an error what was made is left there."""
    patch.setattr(clone, "_empty", lambda _files, _path: None)


def tail_longer(patch: Patch) -> None:
    """The frame with the last record is taken over whole."""
    add = Tail.add
    patch.setattr(Tail, "add", lambda tail, path, frame, _upto: add(tail, path, frame, 10**9))


def copied_unchecked(patch: Patch) -> None:
    """The digest of what is copied is not compared."""
    patch.setattr(clone, "new_digest", _Agrees)


class _Agrees:
    def update(self, _data: bytes) -> None:
        pass

    def digest(self) -> _Agrees:
        return self

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def hexdigest(self) -> str:
        return ""


def power_at_every_operation() -> None:
    for seed in range(3):
        test_power_loss_after_every_operation(whole_copy, seed)


def flipped_bytes() -> None:
    files = files_of(world(extras=False), SOURCE)
    first = min(path for path in files if path.endswith(".hrl"))
    data = files[first]
    files[first] = data[:200] + bytes([data[200] ^ 1]) + data[201:]
    with pytest.raises(LogCorrupt):
        copy(SOURCE, TARGET, files=disk_with(files))


def cut_anywhere() -> None:
    for end in ENDS[1:]:
        disk = world()
        fork(SOURCE, end, TARGET, files=disk, new_id=lambda: FORK_ID, clock=SameDay())
        check_log(disk, TARGET, RECORDS[:end], FORK_ID)


@pytest.mark.parametrize(
    ("bug", "check"),
    [
        (manifest_first, power_at_every_operation),
        (tail_without_sync, power_at_every_operation),
        (no_mark, power_at_every_operation),
        (nothing_removed, lambda: test_error_at_every_operation(whole_copy, errno.EIO)),
        (tail_longer, cut_anywhere),
        (copied_unchecked, flipped_bytes),
    ],
)
def test_seeded_bugs_are_caught(
    bug: Callable[[Patch], None], check: Callable[[], None], monkeypatch: Patch
) -> None:
    """Tests that would miss one of these bugs would not protect anybody."""
    bug(monkeypatch)
    with pytest.raises((AssertionError, LogError, pytest.fail.Exception)):
        check()


def test_log_of_an_interrupted_copy_is_not_begun_anew() -> None:
    """An engine that is started on half a copy refuses, however little of it is there."""
    for calls in range(len(calls_of(whole_copy))):
        disk = world()
        disk.power_off_after(calls)
        with suppress(LogError):
            whole_copy(disk)
        left = disk.killed()
        if files_of(left, TARGET) and f"{TARGET}/MANIFEST" not in left.names:
            with pytest.raises(LogUnusable, match="cut short"):
                Session(log_on(left, TARGET))
