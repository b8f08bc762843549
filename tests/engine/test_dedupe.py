from __future__ import annotations

from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.reference.shell import Shell, fold, ns, rules

from headrace import App, Emission, MemoryLog, on
from headrace.engine.clock import NS
from headrace.engine.dedupe import Dedupe
from headrace.engine.record import CursorMoved, SourceOpened, decode
from headrace.testing import VirtualClock

WINDOW_NS = 10


def dedupe(*, window_ns: int = WINDOW_NS, ids_max: int = 1000) -> Dedupe:
    made = Dedupe(ids_max=ids_max)
    made.window_ns = window_ns
    return made


def test_a_repeated_id_gives_the_first_sequence_within_the_window() -> None:
    """[stored, stored + window): at exactly the end the id is new again (law L2)."""
    ids = dedupe()
    ids.store(1, "e", 7, 100)

    assert ids.find(1, "e", 100) == 7
    assert ids.find(1, "e", 109) == 7
    assert ids.find(1, "e", 110) is None


def test_an_id_belongs_to_its_source() -> None:
    """Two devices may number their events alike."""
    ids = dedupe()
    ids.store(1, "e", 7, 100)

    assert ids.find(2, "e", 100) is None
    assert ids.find(0, "e", 100) is None
    assert ids.find(1, "E", 100) is None


def test_looking_does_not_extend_the_window() -> None:
    """The window counts from the first; a repetition does not move it."""
    ids = dedupe()
    ids.store(1, "e", 7, 100)
    for now_ns in range(100, 110):
        assert ids.find(1, "e", now_ns) == 7

    assert ids.find(1, "e", 110) is None


def test_without_a_window_nothing_is_remembered() -> None:
    """A window of 0 turns it off: no id is looked at, and none takes memory."""
    ids = dedupe(window_ns=0)
    ids.store(1, "e", 7, 100)

    assert ids.find(1, "e", 100) is None
    assert len(ids) == 0


def test_the_oldest_ids_go_first_when_there_are_too_many() -> None:
    """Memory is bounded (law L6), and it is counted that the promise was cut short."""
    ids = dedupe(ids_max=3)
    for number in range(5):
        ids.store(1, f"e{number}", number, 100)

    assert [ids.find(1, f"e{number}", 100) for number in range(5)] == [None, None, 2, 3, 4]
    assert ids.evicted == 2


def test_ids_out_of_the_window_take_no_memory() -> None:
    """Storing goes on for months; what is remembered is a window's worth."""
    ids = dedupe()
    for at_ns in range(1000):
        ids.store(1, f"e{at_ns}", at_ns, at_ns)
        assert len(ids) <= WINDOW_NS

    assert ids.evicted == 0


class DedupeMachine(RuleBasedStateMachine):
    """Against a list of all that was ever stored."""

    def __init__(self) -> None:
        super().__init__()
        self.ids = dedupe()
        self.stored: list[tuple[int, str, int, int]] = []
        self.now_ns = 0

    @rule(elapsed_ns=st.integers(0, 6))
    def wait(self, elapsed_ns: int) -> None:
        self.now_ns += elapsed_ns

    @rule(source=st.integers(0, 2), name=st.sampled_from("abc"))
    def arrive(self, source: int, name: str) -> None:
        known = [
            sequence
            for s, n, sequence, at_ns in self.stored
            if (s, n) == (source, name) and self.now_ns - at_ns < WINDOW_NS
        ]
        assert self.ids.find(source, name, self.now_ns) == (known[-1] if known else None)
        if not known:
            sequence = len(self.stored) + 1
            self.ids.store(source, name, sequence, self.now_ns)
            self.stored.append((source, name, sequence, self.now_ns))

    @invariant()
    def order_is_that_of_time(self) -> None:
        times = [entry[3] for entry in self.ids.dump()[2]]
        assert times == sorted(times)


TestDedupeIsAListOfAll = pytest.mark.slow(DedupeMachine.TestCase)


# ---------------------------------------------------------------- in the engine


async def test_an_event_that_comes_twice_is_stored_once() -> None:
    """A producer that retries after a lost answer does no harm: rules see the event once."""
    app, log = App("plant"), MemoryLog()

    @app.rule(on("a"))
    async def work() -> None: ...

    async with app.open(log, clock=VirtualClock()) as engine:
        first = await engine.emit("a", 1, id="e1")
        again = await engine.emit("a", 2, id="e1")
        other = await engine.emit("a", 1, id="e1", source="press")
        pair = await engine.emit_many([Emission("a", 1, "e2"), Emission("a", 1, "e2")])
        unnamed = [await engine.emit("a", 1), await engine.emit("a", 1)]
        await engine.drain()
        fired = engine.state().rules[0].fired

    assert again == first
    assert other != first
    assert pair[0] == pair[1]
    assert len(set(unnamed)) == 2
    assert fired == 5


async def test_ids_are_remembered_over_a_restart_for_the_window() -> None:
    """What was stored before a crash is known after it, as long as the window says."""
    app, log, clock = App("plant"), MemoryLog(), VirtualClock()
    async with app.open(log, clock=clock, dedupe_window=60) as engine:
        first = await engine.emit("a", 1, id="e1")
        await clock.advance(59)
    async with app.open(log, clock=clock, dedupe_window=60) as engine:
        again = await engine.emit("a", 1, id="e1")
        await clock.advance(1)
        later = await engine.emit("a", 1, id="e1")

    assert again == first
    assert later > first


async def test_the_answer_to_a_repetition_waits_for_the_first() -> None:
    """A repetition is acknowledged only once the first is durable."""
    app, answers = App("plant"), list[str]()

    class SlowLog(MemoryLog):
        held = False

        def commit(self) -> None:
            if not self.held:
                super().commit()

    log = SlowLog()
    async with app.open(log, clock=VirtualClock()) as engine, anyio.create_task_group() as group:
        log.held = True

        async def send(name: str) -> None:
            await engine.emit("a", 1, id="e1")
            answers.append(name)

        group.start_soon(send, "first")
        await anyio.wait_all_tasks_blocked()
        group.start_soon(send, "again")
        await anyio.wait_all_tasks_blocked()
        assert answers == []
        log.held = False
        log.commit()

    assert sorted(answers) == ["again", "first"]


async def test_repeated_events_move_the_cursor() -> None:
    """A source that goes on behind what it has sent twice does not send it a third time."""
    app, log = App("plant"), MemoryLog()
    async with app.open(log, clock=VirtualClock()) as engine:
        for position in range(1, 4):
            await engine.emit("a", id=f"e{position}", source="press", position=position)
        again = await engine.emit("a", id="e2", source="press", position=4)
        assert again == 4  # after `EngineStarted`, `SourceOpened` and the first event
        assert engine.cursor("press") == 4
        assert log.committed_sequence == engine.kernel.sequence
    async with app.open(log, clock=VirtualClock()) as engine:
        assert engine.cursor("press") == 4
        assert engine.state().events == 3


async def test_a_batch_moves_each_cursor_once() -> None:
    """What a source repeats costs one small record a batch, and none if something new follows."""
    app, log = App("plant"), MemoryLog()

    def batch(source: str, *ids: int, first: int) -> list[Emission]:
        return [
            Emission("a", id=f"e{number}", source=source, position=position)
            for position, number in enumerate(ids, first)
        ]

    async with app.open(log, clock=VirtualClock()) as engine:
        for source in ("press", "oven"):
            await engine.emit_many(batch(source, 1, 2, 3, first=1))
        before = engine.kernel.sequence
        await engine.emit_many(
            [
                *batch("press", 1, 2, 3, first=4),
                *batch("oven", 1, 4, first=4),
                Emission("a", id="e1", source="press"),
            ]
        )
        assert engine.kernel.sequence == before + 2
        assert (engine.cursor("press"), engine.cursor("oven")) == (6, 5)
        records = [decode(raw) for _, batch in log.read() for raw in batch]
    (moved,) = [record for record in records if isinstance(record, CursorMoved)]
    assert (moved.source, moved.position) == (1, 6)


async def test_what_is_repeated_late_does_not_move_the_cursor_back() -> None:
    """An old event that comes once more says nothing of how far the source has come."""
    app, log = App("plant"), MemoryLog()
    async with app.open(log, clock=VirtualClock()) as engine:
        for position in (10, 20):
            await engine.emit("a", id=f"e{position}", source="press", position=position)
        before = engine.kernel.sequence
        for repeated in (10, 20, None):
            await engine.emit("a", id="e10", source="press", position=repeated)
        await engine.emit("a", id="e1", position=5)
        await engine.emit("a", id="e1", position=6)  # of no source, so that nobody goes on
        assert engine.cursor("press") == 20
        assert engine.kernel.sequence == before + 1


def test_the_window_is_recorded_with_each_start() -> None:
    """A fold remembers exactly what the engine did, also when the window was changed."""
    shell = Shell(rules(on("a"))).start(ns(1), dedupe_window_ns=5 * NS)
    for at_s, window_s in [(2, 100), (9, 1), (11, 0), (12, 50)]:
        shell.emit(ns(at_s), "a", id=f"e{at_s}", source=0)
        shell = shell.crashed().start(ns(at_s), dedupe_window_ns=window_s * NS)
    shell.emit(ns(13), "a", id="last")

    remembered: Any = shell.kernel.state.dedupe.dump()
    assert fold(shell.make_rules, shell.records).dump() == shell.kernel.dump()
    assert remembered[0] == 50 * NS
    assert [entry[1] for entry in remembered[2]][-1] == "last"


@pytest.mark.slow
@given(
    arrivals=st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 1), st.sampled_from("abc")), max_size=30
    )
)
def test_a_fold_remembers_what_the_engine_did(arrivals: list[tuple[int, int, str]]) -> None:
    """Byte for byte: which ids are known after a crash is not a matter of luck."""
    shell = Shell(rules(on("a"))).start(ns(0), dedupe_window_ns=5 * NS)
    shell.put(SourceOpened(ns(0), 1, "press"))
    at_s = 0
    for elapsed_s, source, name in arrivals:
        at_s += elapsed_s
        if shell.kernel.state.dedupe.find(source, name, ns(at_s)) is None:
            shell.emit(ns(at_s), "a", id=name, source=source)

    assert shell.refold().dump() == shell.kernel.dump()
