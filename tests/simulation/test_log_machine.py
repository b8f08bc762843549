"""A log under random use, restarts and crashes, against a plain list."""

from __future__ import annotations

from contextlib import suppress
from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.simulation.disk import SimulatedDisk
from tests.simulation.session import Session, contents, record

from headrace.engine.errors import LogError
from headrace.engine.log import FileLog, LogReader
from headrace.engine.log.copying import copy
from headrace.engine.log.fork import fork
from headrace.engine.log.protocol import Durability
from headrace.engine.log.verify import verify

PATH = "/log"
durabilities: st.SearchStrategy[Durability] = st.sampled_from(("fsynced", "flushed", "memory"))
units = st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=4), min_size=1, max_size=4)


class LogMachine(RuleBasedStateMachine):
    """The model is the list of appended records, and how many of them are durable."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = SimulatedDisk()
        self.model: list[bytes] = []
        self.unit_ends = {0}
        self.durable = 0
        self.count = 0
        self.session: Session | None = None
        self.durability: Durability = "fsynced"
        self.log_id = b""
        self.path = PATH
        self.open("fsynced", 300)

    def open(self, durability: Durability, segment_bytes_max: int) -> None:
        self.durability = durability
        log = FileLog(
            self.path,
            files=self.disk,
            durability=durability,
            segment_bytes_max=segment_bytes_max,
            sync_interval_s=3600.0,
            reserve_bytes=16,
        )
        self.session = Session(log)
        assert self.log_id in (b"", log.log_id)
        self.log_id = log.log_id

    def make_units(self, sizes: list[list[int]]) -> list[list[bytes]]:
        made: list[list[bytes]] = []
        for unit in sizes:
            made.append([])
            for size in unit:
                self.count += 1
                made[-1].append(record(self.count, size_bytes=size))
        return made

    @precondition(lambda self: self.session is not None)
    @rule(sizes=units)
    def put(self, sizes: list[list[int]]) -> None:
        assert self.session is not None
        made = self.make_units(sizes)
        self.session.put(*made)
        for unit in made:
            self.model.extend(unit)
            self.unit_ends.add(len(self.model))
        self.durable = self.session.log.durable_sequence
        if self.durability == "fsynced":
            assert self.durable == len(self.model)

    @precondition(lambda self: self.session is not None and self.durability != "memory")
    @rule(sizes=units, free_bytes=st.integers(0, 200))
    def fill_the_disk(self, sizes: list[list[int]], free_bytes: int) -> None:
        assert self.session is not None
        made = self.make_units(sizes)
        self.disk.free_bytes = free_bytes
        log = self.session.log
        assert isinstance(log, FileLog)
        with suppress(LogError):
            self.session.put(*made)
        self.disk.free_bytes = None
        assert log.resume()
        assert self.session is not None
        found = contents(self.session.log)
        assert found[: len(self.model)] == self.model
        added = [r for unit in made for r in unit]
        assert found[len(self.model) :] in ([], added)
        if len(found) > len(self.model):
            for unit in made:
                self.model.extend(unit)
                self.unit_ends.add(len(self.model))
        self.durable = self.session.log.durable_sequence

    @precondition(lambda self: self.session is not None)
    @rule(durability=durabilities, segment_bytes_max=st.sampled_from((1, 300, 5000)))
    def restart(self, durability: Durability, segment_bytes_max: int) -> None:
        assert self.session is not None
        self.session.log.close()
        self.durable = len(self.model)
        self.open(durability, segment_bytes_max)

    @precondition(lambda self: self.session is not None)
    @rule(place=st.floats(0, 1), close=st.booleans(), durability=durabilities)
    def go_on_in_a_fork(self, place: float, close: bool, durability: Durability) -> None:
        assert self.session is not None
        before = self.session
        if close or self.durability == "memory":  # then what counts may not be written yet
            before.log.close()
        made = fork(self.path, self.place_of(place), f"{self.path}f", files=self.disk)
        before.log.close()
        self.path, self.log_id = f"{self.path}f", made.log_id
        self.open(durability, 300)
        assert contents(self.session.log) == self.model[: made.sequence]
        del self.model[made.sequence :]
        self.durable = made.sequence
        self.unit_ends = {end for end in self.unit_ends if end <= made.sequence} | {made.sequence}

    def place_of(self, place: float) -> int | None:
        """Return a sequence of the log's, or ``None``: the last one."""
        last = len(self.model)
        return round(1 + place * (last - 1)) if last and place < 0.9 else None

    @precondition(lambda self: self.session is not None)
    @rule(close=st.booleans(), durability=durabilities)
    def go_on_in_a_copy(self, close: bool, durability: Durability) -> None:
        assert self.session is not None
        if close or self.durability == "memory":
            self.session.log.close()
        made = copy(self.path, f"{self.path}c", files=self.disk)
        assert made.last_sequence == len(self.model)
        self.session.log.close()
        self.path = f"{self.path}c"
        self.open(durability, 300)
        self.durable = len(self.model)

    @precondition(lambda self: self.session is not None)
    @rule(seed=st.integers(0, 2**32), durability=durabilities)
    def lose_power(self, seed: int, durability: Durability) -> None:
        self.leave_session()
        self.disk = self.crashed.crash(Random(seed))
        self.open(durability, 300)
        assert self.session is not None
        found = contents(self.session.log)
        assert self.durable <= len(found) <= len(self.model)
        assert found == self.model[: len(found)]
        assert len(found) in self.unit_ends
        self.model = found
        self.durable = len(found)
        self.unit_ends = {end for end in self.unit_ends if end <= len(found)}

    def leave_session(self) -> None:
        """End the writer without letting it change the disk any more."""
        assert self.session is not None
        self.crashed = self.disk
        self.disk.power_off_after(0)
        with suppress(LogError):
            self.session.log.close()
        self.session = None

    @invariant()
    def what_is_read_is_what_was_written(self) -> None:
        if self.session is None:
            return
        assert contents(self.session.log) == self.model
        if self.model:
            middle = len(self.model) // 2 + 1
            assert self.session.log.fetch([middle]) == {middle: self.model[middle - 1]}
            assert contents(self.session.log, middle) == self.model[middle:]

    @invariant()
    def readers_beside_it_see_a_prefix(self) -> None:
        if self.durability == "memory":
            return
        with LogReader(self.path, files=self.disk) as reader:
            found = [r for _, batch in reader.read() for r in batch]
        assert found == self.model
        report = verify(self.path, files=self.disk)
        assert report.ok, report.errors
        assert report.records == len(self.model)

    def teardown(self) -> None:
        if self.session is not None:
            with suppress(LogError):
                self.session.log.close()


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)
