"""Control of the fault tests themselves: each seeded bug must be caught by one of them.

A bug is put in by replacing one method; the checks of the other files must then fail.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgspec
import pytest
from tests.simulation import test_log_damage as damage
from tests.simulation import test_log_errors as errors
from tests.simulation import test_log_power as power
from tests.simulation.disk import SimulatedDisk

from headrace.engine.errors import LogError
from headrace.engine.log import (
    evidence,
    files,
    frame,
    head,
    neighbours,
    recovery,
    segment,
    store,
)
from headrace.engine.log.active import ActiveSegment
from headrace.engine.log.group import Group

Patch = pytest.MonkeyPatch

# Some bugs trip over our own assertions in the writer's thread.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


def power_loss() -> None:
    for calls in range(0, power.calls_of("fsynced", 0), 2):
        power.lose_power("fsynced", 0, calls)


def damaged(test: Callable[[SimulatedDisk], None]) -> Callable[[], None]:
    def check() -> None:
        for disk in damage.written():
            test(disk)

    return check


def cuts() -> None:
    left = damage.written()
    damage.check_cuts(left.closed)
    damage.check_cuts(left.killed, besides=left.closed)


def flips() -> None:
    left = damage.written()
    damage.check_flips(left.closed, Random(1))
    damage.check_flips(left.killed, Random(1), besides=left.closed)


def sync_errors() -> None:
    errors.test_sync_error_is_final("fdatasync")


def ack_before_sync(patch: Patch) -> None:
    """Nothing is synced, all is acknowledged."""
    patch.setattr(ActiveSegment, "sync", lambda _self: None)


def skip_directory_sync(patch: Patch) -> None:
    """New names are not made durable."""
    patch.setattr(SimulatedDisk, "sync_directory", lambda _self, _path: None)


def skip_checksum(patch: Patch) -> None:
    """The checksum of a body is not compared."""

    def decode(data: memoryview, offset: int) -> frame.Frame:
        patched = bytearray(data)
        size = frame.frame_size(data)
        crc = zlib.crc32(data[frame.FRAME_HEADER_BYTES : size])
        patched[32:36] = crc.to_bytes(4, "little")
        header = zlib.crc32(patched[:36])
        patched[36:40] = header.to_bytes(4, "little")
        good = frame.decode_frame(memoryview(bytes(patched)), offset)
        original = int.from_bytes(data[36:40], "little")
        return msgspec.structs.replace(good, crc=original)

    patch.setattr(segment, "decode_frame", decode)


def ignore_head(patch: Patch) -> None:
    """What HEAD proves is not used."""
    patch.setattr(head, "load", lambda _files, _folder: None)


def cut_anything(patch: Patch) -> None:
    """Damage is always taken for a torn write."""
    patch.setattr(recovery, "judge", lambda scan, _head: scan.tear)


def retry_sync(patch: Patch) -> None:
    """A failed sync is tried again, and its success believed."""
    original = ActiveSegment.sync

    def sync(self: ActiveSegment) -> None:
        try:
            original(self)
        except OSError:
            original(self)

    patch.setattr(ActiveSegment, "sync", sync)


def acknowledge_after_failure(patch: Patch) -> None:
    """A failed sync is passed over."""
    original = ActiveSegment.sync

    def sync(self: ActiveSegment) -> None:
        try:
            original(self)
        except OSError:
            return

    patch.setattr(ActiveSegment, "sync", sync)


def unchained(patch: Patch) -> None:
    """Frames are accepted whatever came before them."""
    original = segment.Walk.next_frame

    def next_frame(self: segment.Walk, limit_offset: int | None = None) -> frame.Frame | None:
        self.chain = None
        data = self._bytes_at(self.offset, frame.FRAME_HEADER_BYTES)
        if len(data) >= frame.FRAME_HEADER_BYTES:
            self.sequence = int.from_bytes(data[12:20], "little")
        return original(self, limit_offset)

    patch.setattr(segment.Walk, "next_frame", next_frame)


def no_short_write_loop(patch: Patch) -> None:
    """A write that took less than it was given is believed to be whole."""

    def write_all(disk: files.Files, fd: int, data: files.Data, offset_bytes: int) -> None:
        disk.pwrite(fd, data, offset_bytes)

    patch.setattr("headrace.engine.log.active.write_all", write_all)


def no_cut_back(patch: Patch) -> None:
    """After a full disk the part that was written stays where it is."""
    patch.setattr(ActiveSegment, "cut_back", lambda _self: None)


def reuse_sequence(patch: Patch) -> None:
    """A new segment begins with a sequence that was given already."""
    original = neighbours.next_segment

    def next_segment(*args: Any, **kwargs: Any) -> ActiveSegment:
        made = original(*args, **kwargs)
        made.sequence -= 1
        return made

    patch.setattr(store, "next_segment", next_segment)


def half_units(patch: Patch) -> None:
    """The records of a unit are committed one by one."""
    original = ActiveSegment.write_groups

    def write_groups(self: ActiveSegment, groups: Sequence[Group], durable: int) -> None:
        for group in groups:
            for one in group.records:
                original(self, [Group(self.sequence, [one], [1], len(one))], durable)

    patch.setattr(ActiveSegment, "write_groups", write_groups)


def acknowledge_before_write(patch: Patch) -> None:
    """A group counts as written before it is."""
    original = store.Store.write

    def write(self: store.Store, groups: Sequence[Group]) -> None:
        self.written_sequence += sum(len(group.records) for group in groups)
        self.durable_sequence = self.written_sequence
        original(self, groups)

    patch.setattr(store.Store, "write", write)


def unproven_after_damage(patch: Patch) -> None:
    """What stands after the damage is not used as evidence."""
    patch.setattr(evidence, "_proven_after", lambda _files, _active: 0)


MUTANTS: list[tuple[Callable[[Patch], None], Callable[[], None]]] = [
    (ack_before_sync, power_loss),
    (skip_directory_sync, power_loss),
    (skip_checksum, flips),
    (ignore_head, damaged(damage.test_older_segment_is_noticed)),
    (cut_anything, cuts),
    (retry_sync, sync_errors),
    (acknowledge_after_failure, sync_errors),
    (unchained, damaged(damage.test_frames_swapped_repeated_removed)),
    (no_short_write_loop, errors.test_short_writes),
    (no_cut_back, errors.test_full_disk_is_cut_back),
    (reuse_sequence, power_loss),
    (half_units, power_loss),
    (acknowledge_before_write, power_loss),
    (unproven_after_damage, damaged(damage.test_without_head_and_cut_inside_the_log)),
]


@pytest.mark.parametrize(("seed", "check"), MUTANTS, ids=lambda f: getattr(f, "__name__", ""))
def test_seeded_bug_is_caught(
    seed: Callable[[Patch], None], check: Callable[[], None], monkeypatch: Patch
) -> None:
    """A fault test that passes with this bug would be worth nothing."""
    seed(monkeypatch)
    with pytest.raises((AssertionError, LogError, pytest.fail.Exception)):
        check()


@pytest.mark.parametrize("check", dict.fromkeys(check for _, check in MUTANTS))
def test_checks_pass_without_a_bug(check: Callable[[], None]) -> None:
    """The checks that the mutants must fail do not fail by themselves."""
    check()
