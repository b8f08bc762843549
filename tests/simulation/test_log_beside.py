"""Readers that look at a log at each moment between two operations of its writer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from random import Random

import pytest
from tests.simulation.disk import SimulatedDisk
from tests.simulation.session import Session, records

from headrace.engine.errors import SegmentGone
from headrace.engine.log import Durability, FileLog, LogReader
from headrace.engine.log.verify import verify

PATH = "/log"
GROUPS = 24
OVERTAKEN_EVERY = 97
"""How seldom the reader without a lease reads on."""


class Beside:
    """A writer on a disk in memory, and readers that look in at each of its operations."""

    def __init__(self, durability: Durability, seed: int) -> None:
        self._rng = Random(seed)
        self.disk = SimulatedDisk()
        self.log = FileLog(
            PATH,
            files=self.disk,
            durability=durability,
            segment_bytes_max=400,
            keep_bytes=0,
            reserve_bytes=0,
        )
        self.session = Session(self.log)
        self.acknowledged = self.session.put(records(1, 1))
        self._looking = threading.Lock()
        self.follower = LogReader(PATH, files=self.disk)
        self.followed: list[bytes] = []
        self.following = self.follow()
        self.overtaken = LogReader(PATH, lease=False, files=self.disk)
        self.overtaken_at = 0
        self.rare = LogReader(PATH, files=self.disk)
        self.looks = 0

    def follow(self) -> Iterator[int]:
        """Read on at each turn, as far as there is something."""
        turns = iter(lambda: True, False)
        for first, batch in self.follower.follow(wait=lambda: next(turns)):
            assert first == len(self.followed) + 1
            self.followed += batch
            yield len(self.followed)

    def look(self, _name: str, _path: str) -> None:
        """See with every kind of reader at least what is acknowledged, and nothing made up."""
        # The readers' own operations are not looked at; another thread may be at work, too.
        if not self._looking.acquire(blocking=False):
            return
        try:
            self.looks += 1
            committed = self.acknowledged
            for reader in (LogReader(PATH, files=self.disk), self.rare):
                # One that has just looked is in another state than one that has not.
                if reader is not self.rare or self._rng.random() < 0.2:
                    assert committed <= reader.refresh() < self.log.next_sequence
            with LogReader(PATH, files=self.disk) as reader:
                found = [(first, batch) for first, batch in reader.read()]
                sequence = found[0][0]
                assert sequence == reader.first_sequence
                for first, batch in found:
                    assert (first, batch) == (sequence, records(first, first + len(batch) - 1))
                    sequence += len(batch)
                assert sequence > committed
            self._follow_to(committed)
            self.overtake()
        finally:
            self._looking.release()

    def follow_to(self, sequence: int) -> None:
        """Read on up to *sequence*, once nobody else does."""
        with self._looking:
            self._follow_to(sequence)

    def _follow_to(self, sequence: int) -> None:
        while len(self.followed) < sequence:
            next(self.following)

    def overtake(self) -> None:
        """Read without a lease: on, or from where the log begins now."""
        kept = LogReader(PATH, files=self.disk).first_sequence
        if 0 < self.overtaken_at < kept - 1:
            with pytest.raises(SegmentGone) as gone:
                next(self.overtaken.read(after=self.overtaken_at))
            assert (gone.value.wanted, gone.value.first_sequence) == (self.overtaken_at + 1, kept)
            self.overtaken_at = kept - 1
        if self.looks % OVERTAKEN_EVERY == 0:
            for first, batch in self.overtaken.read(after=self.overtaken_at):
                assert self.overtaken_at in (0, first - 1)
                self.overtaken_at = first + len(batch) - 1


@pytest.mark.parametrize("durability", ["fsynced", "flushed"])
@pytest.mark.parametrize("seed", range(5))
def test_readers_at_each_operation(durability: Durability, seed: int) -> None:
    """In the middle of a write, a rotation or a removal a log reads as before it, or as after."""
    beside = Beside(durability, seed)
    for group in range(GROUPS):
        beside.disk.before = beside.look
        first = beside.log.next_sequence
        beside.acknowledged = beside.session.put(records(first, first + 2))
        if group % 5 == 4:
            beside.log.retain(beside.log.committed_sequence)
        beside.disk.before = lambda _name, _path: None
    last = beside.log.committed_sequence
    beside.follow_to(last)
    assert beside.log.retain(last).segments > 0
    beside.log.close()

    assert beside.looks > 10 * GROUPS
    assert beside.overtaken_at > 1
    assert beside.followed == records(1, last)
    assert verify(PATH, files=beside.disk).ok
