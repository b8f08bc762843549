"""Older snapshots are kept for looking back: thinned out, and for nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.engine.log import past
from headrace.engine.log.files import SystemFiles
from headrace.engine.log.segment import name_of as segment_name_of
from headrace.engine.log.snapshots import FileSnapshots, PastSnapshots


def save(folder: Path, sequence: int) -> None:
    """Write the snapshot at *sequence* and prune, as the engine does."""
    snapshots = FileSnapshots(SystemFiles(), str(folder))
    file = snapshots.begin(sequence)
    file.write([b"part of %d" % sequence])
    file.finish(oldest_sequence=1, record=b"record %d" % sequence)
    snapshots.prune()


def kept(folder: Path) -> list[int]:
    """Return the older ones, newest first; each is whole."""
    found = PastSnapshots(SystemFiles(), str(folder))
    for sequence in found.sequences():
        parts = list(found.read(sequence, b"record %d" % sequence))
        assert parts == [b"part of %d" % sequence]
    return found.sequences()


def test_what_a_start_needs_no_more_is_kept_for_looking_back(tmp_path: Path) -> None:
    """The state of last week is near a snapshot, and the newest two are what they were."""
    for sequence in (10, 20, 30, 40):
        save(tmp_path, sequence)

    snapshots = FileSnapshots(SystemFiles(), str(tmp_path))
    assert snapshots.sequences() == [40, 30]
    assert snapshots.needs().keys() == {40, 30}, "the others keep no records from going"
    assert kept(tmp_path) == [20, 10]


def test_they_are_thinned_out_evenly(tmp_path: Path) -> None:
    """However long the log, they are few, and no stretch between two of them is much longer."""
    for number in range(1, 101):
        save(tmp_path, number * 10)

    found = [*kept(tmp_path)[::-1], 990]
    gaps = [after - before for before, after in zip([0, *found], found, strict=False)]
    assert len(found) == past.PAST_MAX + 1
    assert max(gaps) <= 2 * 1000 / past.PAST_MAX + 10, gaps


def test_large_ones_are_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They never take more of the disk than is said."""
    save(tmp_path, 10)
    (size_bytes,) = {path.stat().st_size for path in tmp_path.glob("snap-*")}
    monkeypatch.setattr(past, "PAST_BYTES_MAX", 3 * size_bytes + 10)
    for sequence in range(20, 120, 10):
        save(tmp_path, sequence)

    assert len(kept(tmp_path)) == 3


def test_they_go_with_their_records(tmp_path: Path) -> None:
    """One whose record was removed is of no use to anybody."""
    for sequence in (10, 20, 30, 40):
        save(tmp_path, sequence)
    (tmp_path / segment_name_of(15)).touch()
    save(tmp_path, 50)

    assert kept(tmp_path) == [30, 20]
