"""Snapshot files under faults: a snapshot is whole and right, or it is not used."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from random import Random

import pytest
from tests.simulation.disk import SimulatedDisk

from headrace.engine.errors import SnapshotUnusable
from headrace.engine.log.snapshots import FileSnapshots, name_of, sequence_of

FOLDER = "/log"
RECORDS = {7: b"\x93\x01seven", 19: b"\x93\x01nineteen", 40: b"\x93\x01forty"}


def parts_of(sequence: int) -> list[list[bytes]]:
    """Three blocks, one of them larger than what is read at once would be in a small log."""
    return [
        [b"header%d" % sequence],
        [bytes([number]) * number for number in range(40)],
        [b"end" * sequence],
    ]


def save(disk: SimulatedDisk, sequence: int) -> None:
    """Write the snapshot at *sequence* and prune, as the engine does."""
    snapshots = FileSnapshots(disk, FOLDER)
    file = snapshots.begin(sequence)
    try:
        for block in parts_of(sequence):
            file.write(block)
        file.finish(oldest_sequence=sequence - 3, record=RECORDS[sequence])
    except OSError:
        file.abort()
        raise
    snapshots.prune()


def new_disk(*sequences: int) -> SimulatedDisk:
    """Return a disk with an empty log directory and these snapshots."""
    disk = SimulatedDisk()
    disk.folders.add(FOLDER)
    disk.durable_folders.add(FOLDER)
    for sequence in sequences:
        save(disk, sequence)
    return disk


def usable(disk: SimulatedDisk) -> list[int]:
    """Return the snapshots that can be read, newest first; each is right, part by part."""
    snapshots = FileSnapshots(disk, FOLDER)
    found = []
    for sequence in snapshots.sequences():
        with suppress(SnapshotUnusable):
            parts = list(snapshots.read(sequence, RECORDS[sequence]))
            assert parts == [part for block in parts_of(sequence) for part in block]
            found.append(sequence)
    return found


def test_every_cut_and_every_flipped_bit_is_found() -> None:
    """No damaged file is taken for a snapshot, wherever the damage is."""
    disk = new_disk(19)
    inode = disk.names[f"{FOLDER}/{name_of(19)}"]
    whole = bytes(inode.data)
    assert usable(disk) == [19]
    for length in range(len(whole)):
        inode.data[:] = whole[:length]
        assert usable(disk) == []
        assert FileSnapshots(disk, FOLDER).needs().keys() <= {19}
    for place in range(len(whole)):
        for bit in range(8):
            inode.data[:] = whole
            inode.data[place] ^= 1 << bit
            assert usable(disk) == [], (place, bit)
    inode.data[:] = whole + b"\0"
    assert usable(disk) == []
    inode.data[:] = whole
    assert usable(disk) == [19]


def test_snapshot_of_another_log_is_not_used() -> None:
    """The log's record at its sequence is another one, or is not there."""
    snapshots = FileSnapshots(new_disk(19), FOLDER)
    for record in (b"another", None):
        with pytest.raises(SnapshotUnusable, match=r"snap-0+19\.hrs"):
            list(snapshots.read(19, record))


def test_renamed_snapshot_is_not_used() -> None:
    """It would stand for a state that it does not hold."""
    disk = new_disk(19)
    disk.names[f"{FOLDER}/{name_of(40)}"] = disk.names.pop(f"{FOLDER}/{name_of(19)}")
    with pytest.raises(SnapshotUnusable, match="expected the snapshot at 40, found one at 19"):
        list(FileSnapshots(disk, FOLDER).read(40, RECORDS[19]))


@pytest.mark.parametrize("present", [(), (7,), (7, 19)])
def test_power_loss_leaves_the_old_ones_or_the_new_one(present: tuple[int, ...]) -> None:
    """At every moment of saving and pruning, whatever of the unsynced bytes came through."""
    calls = new_disk(*present)
    before = len(calls.calls)
    save(calls, 40)
    for moment in range(len(calls.calls) - before + 1):
        for seed in range(6):
            disk = new_disk(*present)
            disk.power_off_after(len(disk.calls) + moment)
            with suppress(OSError):
                save(disk, 40)
            found = usable(disk.crash(Random(seed)))
            # Each is there and right or not there, and two remain if there were two.
            assert len(found) >= min(len(present), 2)
            assert set(found) <= {*present, 40}


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize(
    "name", ["open", "pwrite", "fsync", "close", "rename", "sync_directory", "unlink", "listdir"]
)
def test_failing_call_costs_at_most_the_new_one(name: str, code: int) -> None:
    """On the k-th call of each kind: the older snapshots are usable, and nothing is left."""
    for nth in range(1, 9):
        disk = new_disk(7, 19)
        disk.fail(name, nth, code)
        with suppress(OSError):
            save(disk, 40)
        disk.before = lambda called, path: None
        assert len(usable(disk)) >= 2
        left = [path for path in disk.names if path.endswith(".tmp")]
        assert not left or name in ("unlink", "close")
        save(disk, 40)
        assert usable(disk) == [40, 19]


@pytest.mark.parametrize(
    "change",
    [str.upper, lambda name: name[:-1], lambda name: "x" + name, lambda name: name + ".tmp"],
)
def test_other_names_are_no_snapshots(change: Callable[[str], str]) -> None:
    """Nobody's file is removed because it looks like one."""
    assert sequence_of(name_of(12)) == 12
    assert sequence_of(change(name_of(12))) is None


def test_two_are_kept_and_one_that_is_of_no_use_is_not() -> None:
    """What could not be read is the first to go."""
    disk = new_disk(7, 19)
    snapshots = FileSnapshots(disk, FOLDER)
    snapshots.discard(19)
    file = snapshots.begin(40)
    file.finish(oldest_sequence=41, record=RECORDS[40])
    snapshots.prune()
    assert snapshots.sequences() == [40, 7]
    assert snapshots.needs() == {40: 40, 7: 4}
