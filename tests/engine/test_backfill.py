"""Events of the past are folded into rules without effects, and then the engine goes live."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.engine.stand import of_kind, opened

from headrace import (
    App,
    Emission,
    FileLog,
    Firing,
    HistoryUnusable,
    LogMismatch,
    MemoryLog,
    on,
    silent,
)
from headrace.engine import record as r
from headrace.engine.backfill import Past, backfill, past_of_log
from headrace.engine.clock import NS, VirtualClock
from headrace.engine.kernel import Kernel
from headrace.engine.offline import OfflineLog
from headrace.engine.restore import restore
from headrace.engine.snapshot import Snapshot, load

DAY = 1_600_000_000.0


class Plant:
    """An app that counts, and what its actions did."""

    def __init__(self) -> None:
        self.acted: list[Any] = []
        self.app = app = App("plant")

        @app.rule(on("a").key(lambda e: e.data % 2).count(3, within=100))
        async def three(firing: Firing[int]) -> None:
            self.acted.append((firing.key, [event.data for event in firing.events]))

        @app.rule(silent(on("a"), for_=50))
        async def quiet(firing: Firing[int]) -> None:
            self.acted.append(("quiet", firing.at - DAY))

        @app.rule(on("rule.fired.three"))
        async def told(firing: Firing[Any]) -> None:
            self.acted.append("told")


def events(count: int, *, step_s: float = 10, start_s: float = DAY) -> list[Emission]:
    """Events as somebody has kept them."""
    return [Emission("a", n, f"e{n}", time=start_s + n * step_s) for n in range(count)]


def outcomes(log: MemoryLog) -> list[tuple[str, str]]:
    """Return what became of each firing."""
    return [(fired.rule, fired.outcome) for fired in of_kind(log, r.RuleFired)]


async def test_history_has_no_effects_and_leads_to_the_state_that_live_events_go_on_from() -> None:
    """A window that was half full when history ended is completed by the first live event."""
    plant, log = Plant(), MemoryLog()
    done = offline_backfill(plant, log, past_events(5), now_s=DAY + 45)

    assert (done.events, done.before, done.known, done.firings) == (5, 0, 0, 2)
    assert outcomes(log) == [("three", "history"), ("told", "history")]
    async with opened(plant.app, log, VirtualClock(wall_ns=int(DAY + 50) * NS)) as engine:
        await engine.emit("a", 5)
        await engine.drain()
        assert plant.acted == [(1, [1, 3, 5]), "told"]
        assert engine.state().events == 5 + 1 + 2  # with the two that tell of firings


def test_timers_of_the_past_fire_at_their_own_times() -> None:
    """A silence in the past is seen where it was, and so is one that reaches into the present."""
    plant, log = Plant(), MemoryLog()
    gap = [Emission("a", 1, time=DAY), Emission("a", 2, time=DAY + 200)]
    plant.app.backfill(log, gap)

    fired = of_kind(log, r.RuleFired)
    assert [(f.due_ns, f.outcome) for f in fired] == [
        ((int(DAY) + 50) * NS, "history"),
        ((int(DAY) + 250) * NS, "history"),
    ]


def test_a_file_of_history_is_gone_on_with_by_the_feed(tmp_path: Path) -> None:
    """No gap, no overlap: the cursor of the file is where the history ended."""
    path = tmp_path / "readings.jsonl"
    lines = [{"subject": "a", "data": n, "time": DAY + n, "id": f"e{n}"} for n in range(4)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines[:3]))
    plant, log = Plant(), MemoryLog()
    first = plant.app.backfill(log, path)
    again = plant.app.backfill(log, path)

    assert (first.events, again.events, again.before) == (3, 0, 3)
    kernel = restore(log, plant.app.decider(), clock=None)
    assert list(kernel.state.cursors.values()) == [path.stat().st_size]


def test_an_older_log_is_history(tmp_path: Path) -> None:
    """With its sources, ids and log times; again it brings only what came since."""
    plant, old, new = Plant(), tmp_path / "old.log", MemoryLog()
    plant.app.backfill(old, events(3))
    first = plant.app.backfill(new, old)

    assert first.events == 3
    assert [e.at_ns for e in of_kind(new, r.EventStored)] == [
        (int(DAY) + 10 * n) * NS for n in range(3)
    ]
    assert plant.app.backfill(new, old).before == 3


def offline_backfill(
    plant: Plant,
    log: MemoryLog,
    past: Iterator[Past] | list[Past],
    *,
    now_s: float = DAY + 10_000,
) -> Any:
    """Backfill with a clock of the test's."""
    with OfflineLog(log) as offline:
        return backfill(
            offline,
            plant.app.decider(),
            past,
            name="test",
            version="test",
            clock="system",
            dedupe_window_ns=600 * NS,
            now_ns=lambda: int(now_s) * NS,
        )


def past_events(count: int) -> list[Past]:
    return [Past(int(DAY + 10 * n) * NS, Emission("a", n)) for n in range(count)]


class Interrupted(Exception):
    """Somebody pressed a key."""


@pytest.mark.parametrize("after", [0, 1, 4, 7])
def test_what_was_interrupted_is_gone_on_with(after: int) -> None:
    """The same records as without the interruption, but for the second start."""
    whole, cut = MemoryLog(), MemoryLog()
    offline_backfill(Plant(), whole, past_events(7))

    def interrupted() -> Iterator[Past]:
        for number, past in enumerate([*past_events(7), None]):
            if number == after:
                raise Interrupted
            assert past is not None
            yield past

    with pytest.raises(Interrupted):
        offline_backfill(Plant(), cut, interrupted())
    done = offline_backfill(Plant(), cut, past_events(7))

    assert (done.events, done.before) == (7 - after, after)
    assert plain(cut) == plain(whole)
    dumps = [dump_of(log) for log in (cut, whole)]
    assert dumps[0] == dumps[1]


def plain(log: MemoryLog) -> list[Any]:
    """What is in a log, apart from starts and sequences."""
    kinds = (r.EventStored, r.RuleFired, r.TimerFired, r.HistoryBegan, r.HistoryEnded)
    records = [record for kind in kinds for record in of_kind(log, kind)]
    return [
        (type(record).__name__, getattr(record, "at_ns", None), getattr(record, "outcome", None))
        for record in records
    ]


def dump_of(log: MemoryLog) -> Any:
    state = restore(log, Plant().app.decider(), clock=None).state
    return (state.stats, len(state.timers), state.decider.counters(), state.history)


async def test_an_unfinished_backfill_cannot_go_live() -> None:
    """Or there would be a gap; the error says how to go on."""
    plant, log = Plant(), MemoryLog()
    with pytest.raises(Interrupted):
        offline_backfill(plant, log, interrupted_after_two())

    with pytest.raises(LogMismatch, match=r"backfill of 'test' is unfinished.*same events"):
        async with opened(plant.app, log):
            pass
    with pytest.raises(LogMismatch, match=r"backfill of 'test'.*found 'history'"):
        plant.app.backfill(log, events(3))
    offline_backfill(plant, log, past_events(3))
    async with opened(plant.app, log, VirtualClock(wall_ns=int(DAY + 20_000) * NS)) as engine:
        assert engine.state().ready


def interrupted_after_two() -> Iterator[Past]:
    yield from past_events(2)
    raise Interrupted


def test_a_snapshot_in_the_middle_of_history_is_one_of_history() -> None:
    """What is counted, and that firings have no effects, is in it."""
    plant, log = Plant(), MemoryLog()
    with pytest.raises(Interrupted):
        offline_backfill(plant, log, interrupted_after_two())
    kernel = restore(log, plant.app.decider(), clock=None)
    loaded = Kernel(plant.app.decider())
    load(loaded, list(Snapshot(kernel).parts()))

    assert loaded.dump() == kernel.dump()
    assert (loaded.state.history, loaded.state.history_count) == ("test", 2)


REFUSED: dict[str, tuple[list[Emission], str]] = {
    "no time": ([Emission("a", 1, time=DAY), Emission("a", 2)], r"event 2 \(a\).*found none"),
    "back": (
        [Emission("a", 1, time=DAY), Emission("a", 2, time=DAY - 1)],
        r"a at 2020-09-13T12:26:39Z.*from 2020-09-13T12:26:40Z on, that of the event before",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_history_is_refused_with_its_place(name: str) -> None:
    """What came before is stored, and can be gone on with."""
    history, message = REFUSED[name]
    plant, log = Plant(), MemoryLog()

    with pytest.raises(HistoryUnusable, match=message):
        plant.app.backfill(log, history)
    assert len(of_kind(log, r.EventStored)) == 1


def test_a_log_takes_only_history_that_is_newer() -> None:
    """Log time never goes back: what is older than the log cannot be put before it."""
    plant, log = Plant(), MemoryLog()
    plant.app.backfill(log, events(2))

    with pytest.raises(HistoryUnusable, match="log time; a log takes only what is newer"):
        plant.app.backfill(log, events(2, start_s=DAY - 500), name="older")


def test_a_log_is_no_history_of_itself(tmp_path: Path) -> None:
    """A mistyped path is told before anything is written."""
    plant = Plant()
    plant.app.backfill(tmp_path / "a.log", events(2))

    with pytest.raises(HistoryUnusable, match="another log"):
        plant.app.backfill(tmp_path / "a.log", tmp_path / "." / "a.log")


def test_history_of_a_file_log_survives(tmp_path: Path) -> None:
    """On a disk as in memory, and the log is given back."""
    plant = Plant()
    done = plant.app.backfill(tmp_path / "new.log", events(5))

    log = FileLog(tmp_path / "new.log")
    log.open(lambda: None)
    try:
        stored = [past.event.data for past in past_of_log(log)]
        assert (done.events, len(stored)) == (5, 5)
    finally:
        log.close()
