"""Events that were put into the log while no engine ran: stored by the next one, once."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from tests.engine.stand import (
    FailingLog,
    StepClock,
    borders,
    of_kind,
    opened,
    quiet,
    records_of,
)
from tests.reference.shell import fold

from headrace import (
    App,
    DurabilityLost,
    Emission,
    EngineClosed,
    EventRefused,
    Firing,
    MemoryLog,
    Run,
    RunNotFound,
    SegmentGone,
    on,
    silent,
)
from headrace.engine import record as r
from headrace.engine.clock import NS
from headrace.engine.decider import NoRules
from headrace.engine.errors import LogMismatch
from headrace.engine.offers import Offers
from headrace.engine.offline import OfflineLog
from headrace.engine.restore import restore
from headrace.engine.snapshot import Snapshot

DAY_S = 86_400.0


def make_app(seen: list[Any] | None = None) -> App:
    """An app that reacts to single events, to pairs of them and to silence."""
    app = App("plant")

    @app.rule(on("a.*"))
    async def each(firing: Firing[Any]) -> None:
        if seen is not None:
            seen.append(firing.events[0].data)

    @app.rule(on("a.*").count(2, within=60))
    async def pair() -> None: ...

    @app.rule(silent(on("a.*"), for_=30))
    async def quiet_for_long() -> None: ...

    @app.rule(on("rule.fired.pair"))
    async def told() -> None: ...

    return app


def offer(log: MemoryLog, *events: Emission, clock: StepClock | None = None) -> list[int]:
    with OfflineLog(log, clock=clock or StepClock()) as offline:
        return offline.offer(events)


def stored(log: MemoryLog) -> list[tuple[str, Any, int]]:
    """Subject, data and offer of each event from outside."""
    return [
        (event.subject, msgspec.msgpack.decode(event.data), event.offer)
        for event in of_kind(log, r.EventStored)
        if not event.hops
    ]


def check_fold(log: MemoryLog) -> None:
    """The bytes say all, and a fold doubts nothing of what was recorded."""
    kernel = fold(make_app().decider, [raw for _, batch in log.read() for raw in batch])
    assert kernel.divergences == []
    assert len(kernel.state.offers) == 0


# ---------------------------------------------------------------- offered and stored


async def test_what_was_offered_is_stored_by_the_next_engine() -> None:
    """An event that came while no engine ran is an event like any other: rules fire on it."""
    log, seen = MemoryLog(), list[Any]()
    async with opened(make_app(), log):
        pass
    sequences = offer(log, Emission("a.x", 1), Emission("a.y", 2, id="e", source="s", key="k"))
    assert [stored(log), sequences] == [[], [3, 4]]

    async with opened(make_app(seen), log) as engine:
        assert await engine.emit("b") > 0
        await engine.drain()
        assert engine.state().offers == 0

    assert stored(log) == [("a.x", 1, 3), ("a.y", 2, 4), ("b", None, 0)]
    assert seen == [1, 2]
    (second,) = [event for event in of_kind(log, r.EventStored) if event.id]
    assert (second.source, second.id, second.key) == (1, "e", "k")
    check_fold(log)


async def test_offers_to_a_log_that_no_engine_has_opened_yet() -> None:
    """A log may begin with what is to happen in it."""
    log = MemoryLog()
    offer(log, Emission("a.x", 1))
    offer(log, Emission("a.y", 2))

    async with opened(make_app(), log) as engine:
        await engine.drain()

    assert [data for _, data, _ in stored(log)] == [1, 2]
    assert of_kind(log, r.EventOffered)[0].at_ns == 0
    check_fold(log)


async def test_drain_and_later_events_wait_for_what_was_offered() -> None:
    """What came first is first in the log, however fast the host is."""
    log = MemoryLog()
    offer(log, *(Emission("a.x", number) for number in range(450)))
    async with opened(make_app(), log) as engine:
        await engine.emit_many([("a.x", 450), ("a.x", 451)])

    assert [data for _, data, _ in stored(log)] == list(range(452))


async def test_log_time_stands_still_while_no_engine_runs() -> None:
    """An offer has the time of the last record; what is overdue fires before it is stored."""
    log, clock = MemoryLog(), StepClock()
    async with opened(make_app(), log, clock) as engine:
        await engine.emit("a.x", 1)
    (stopped,) = of_kind(log, r.EngineStopped)
    clock.pass_by(DAY_S)
    offer(log, Emission("a.x", 2), clock=clock)

    async with opened(make_app(), log, clock) as engine:
        await engine.drain()

    (offered,) = of_kind(log, r.EventOffered)
    assert offered.at_ns == stopped.at_ns
    assert offered.offered_at_ns == clock.wall_ns()
    kinds = [type(x) for _, x in records_of(log) if isinstance(x, (r.TimerFired, r.EventStored))]
    assert kinds[:3] == [r.EventStored, r.TimerFired, r.EventStored]
    assert of_kind(log, r.EventStored)[1].at_ns == clock.wall_ns()
    check_fold(log)


class ShortLog(MemoryLog):
    """A log of which retention has left only the last few records, or none."""

    kept: int | None = None

    def read(self, *, after: int = 0) -> Any:
        """See `MemoryLog`."""
        if self.kept is None:
            return super().read(after=after)
        first = self.committed_sequence - self.kept + 1
        if 0 < after < first - 1:
            raise SegmentGone("log", wanted=after + 1, first_sequence=first)
        return super().read(after=max(after, first - 1))


@pytest.mark.parametrize("kept", [0, 1, 2, 30, None])
async def test_log_time_is_known_however_little_is_kept(kept: int | None) -> None:
    """An offer must not go back in time, or no engine could open the log again."""
    log, clock = ShortLog(), StepClock()
    async with opened(make_app(), log, clock) as engine:
        await engine.emit_many([("b", None)] * 100)
    if kept == 0:
        with suppress(DurabilityLost):
            async with opened(make_app(), log, clock) as engine:
                await engine.snapshot()
                log.failure = DurabilityLost("so that no end is recorded")
                await engine.emit("b")
    last_ns = max(getattr(record, "at_ns", 0) for _, record in records_of(log))
    log.kept = kept
    with OfflineLog(log, clock=clock) as offline:
        log.kept = None
        offline.offer([Emission("a.x", 1)])

    assert of_kind(log, r.EventOffered)[0].at_ns == last_ns


# ---------------------------------------------------------------- by input


async def test_by_input_an_offer_moves_time_on_as_an_event_does() -> None:
    """Recorded data that is offered plays as it happened: windows and silence go by it."""
    log, start_s = MemoryLog(), 1_400_000_000
    times = [0, 10, 100, 101]
    offer(log, *(Emission("a.x", at, time=start_s + at) for at in times), Emission("a.x", None))

    app = make_app()
    async with opened(app, log, "input") as engine:
        await engine.emit_many([Emission("a.y", 5, time=start_s + 102.0)])
        await engine.drain()

    events = [event for event in of_kind(log, r.EventStored) if not event.hops]
    seconds = [event.at_ns // NS - start_s for event in events]
    assert seconds == [0, 10, 100, 101, 101, 102]
    assert [timer.due_ns // NS - start_s for timer in of_kind(log, r.TimerFired)] == [40]
    pairs = [fired for fired in of_kind(log, r.RuleFired) if fired.rule == "pair"]
    assert len(pairs) == 3
    check_fold(log)


async def test_by_input_an_event_without_a_time_is_not_held_up() -> None:
    """It may be that of a run, for which what was offered waits."""
    log, app = MemoryLog(), App("plant")

    @app.rule(on("a"))
    async def echo() -> None:
        await engines[0].emit("echo")

    offer(log, *(Emission("a", number, time=1000.0 + number) for number in range(3)))
    engines: list[Any] = []
    async with opened(app, log, "input") as engine:
        engines.append(engine)
        await engine.drain()

    assert [subject for subject, _, _ in stored(log)] == ["a", "echo"] * 3


# ---------------------------------------------------------------- ids


async def test_an_offer_with_an_id_that_is_stored_is_not_stored_again() -> None:
    """A producer that repeats itself over a stop of the engine does not duplicate its event."""
    log, clock = MemoryLog(), StepClock()
    async with opened(make_app(), log, clock) as engine:
        await engine.emit("a.x", 1, id="e", source="s")
        await engine.emit("a.x", 1, id="e")
    offer(
        log,
        Emission("a.x", 2, id="e", source="s"),
        Emission("a.x", 3, id="e"),
        Emission("a.x", 4, id="e", source="t"),
        Emission("a.x", 5, id="f", source="s"),
        clock=clock,
    )
    async with opened(make_app(), log, clock) as engine:
        await engine.drain()

    assert [data for _, data, _ in stored(log)] == [1, 1, 4, 5]


async def test_an_offer_is_not_offered_twice() -> None:
    """The same id in two offers is one event, also if no engine has been there yet."""
    log = MemoryLog()
    for data in (1, 2, 3):
        offer(log, Emission("a.x", data, id="e", source="s"), Emission("a.x", data))

    async with opened(make_app(), log) as engine:
        await engine.drain()
        assert await engine.emit("a.x", 4, id="e", source="s") == 9

    assert [data for _, data, _ in stored(log)] == [1, 1, 2, 3]


async def test_an_id_that_is_owed_is_known_to_emit() -> None:
    """By input an event without a time may overtake what was offered, but not be it."""
    log = MemoryLog()
    async with opened(make_app(), log, "input") as engine:
        await engine.emit("a.x", 0, time=4.0)
    _, owed = offer(log, Emission("a.x", 1, time=5.0), Emission("a.x", 2, time=6.0, id="e"))
    async with opened(make_app(), log, "input") as engine:
        assert await engine.emit("a.x", 3, id="e") == owed
        await engine.drain()

    assert [data for _, data, _ in stored(log)] == [0, 1, 2]


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (Emission("run.failed.x"), ValueError),
        (Emission("rule.fired.x"), ValueError),
        (Emission("a..b"), ValueError),
        (Emission("a", object()), EventRefused),
        (Emission("a", "x" * 2_000_000), EventRefused),
        (Emission("a", id="\udcff"), EventRefused),
        (Emission("a", time=-1.0), ValueError),
    ],
    ids=["run", "rule", "subject", "type", "size", "id", "time"],
)
def test_what_cannot_be_stored_cannot_be_offered(event: Emission, error: type[Exception]) -> None:
    """The producer hears of it, and nothing of its batch is left for an engine to choke on."""
    log = MemoryLog()
    with pytest.raises(error):
        offer(log, Emission("a.x", 1), event)

    assert log.committed_sequence == 0


# ---------------------------------------------------------------- cancelling runs


async def test_a_run_is_cancelled_while_no_engine_runs() -> None:
    """What is asked of a stopped engine is done when it starts."""
    log, clock, app = MemoryLog(), StepClock(), App("plant")

    @app.rule(on("a"))
    async def slow(run: Run) -> None:
        await run.sleep(1000)

    async with opened(app, log, clock) as engine:
        await engine.emit("a")
        await quiet(engine)
        (run,) = engine.runs("active")
    clock.pass_by(5000)
    with OfflineLog(log, clock=clock) as offline:
        with pytest.raises(RunNotFound):
            offline.cancel(1, "no run")
        sequence = offline.cancel(run.id, "on request")
        with pytest.raises(EventRefused):
            offline.cancel(run.id, "\udcff")
    assert isinstance(records_of(log)[sequence - 1][1], r.CancelRequested)

    async with opened(app, log, clock) as engine:
        await engine.drain()
        assert [view.status for view in engine.runs()] == ["cancelled"]
    with OfflineLog(log) as offline, pytest.raises(RunNotFound):
        offline.cancel(run.id, "again")
    kernel = fold(app.decider, [raw for _, batch in log.read() for raw in batch])
    assert kernel.divergences == []


# ---------------------------------------------------------------- crashes


async def lives(log: MemoryLog, clock: Any) -> MemoryLog:
    """Let an engine do all that is left to do in a copy of *log*."""
    async with opened(make_app(), log, clock) as engine:
        await engine.drain()
    return log


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["system", "input"])
async def test_a_crash_between_offer_and_payment_stores_each_once(kind: str) -> None:
    """Wherever the engine dies, each offer becomes one event, in the order of the offers."""
    log = MemoryLog()
    events = [
        Emission(
            "a.x", number, time=1_700_000_000.0 + 7 * number, source=f"s{number % 2}", id=str(i)
        )
        for i, number in enumerate([0, 1, 2, 3, 10, 11])
    ]
    offer(log, *events[:3], *events[:1])
    offer(log, *events[2:])
    await lives(log, "input" if kind == "input" else StepClock())
    expected = [event.data for event in events]
    assert [data for _, data, _ in stored(log)] == expected
    firings = len(of_kind(log, r.RuleFired))

    for cut in borders(log):
        if cut < 8:
            continue  # not all was offered yet
        left = await lives(log.copy(cut), "input" if kind == "input" else StepClock())
        assert [data for _, data, _ in stored(left)] == expected, f"cut at {cut}"
        assert len(of_kind(left, r.RuleFired)) == firings, f"cut at {cut}"
        check_fold(left)


@pytest.mark.slow
@pytest.mark.parametrize("fail_at", range(1, 7))
async def test_a_disk_that_dies_loses_no_offer(fail_at: int) -> None:
    """Offers are paid by the next engine whose disk works, and none twice."""
    log = FailingLog()
    offer(log, *(Emission("a.x", number) for number in range(300)))
    log.fail_at = log.commits + fail_at
    try:
        async with opened(make_app(), log) as engine:
            for _ in range(6):
                await engine.emit("a.x", 300)
            await engine.drain()
    except DurabilityLost:
        pass
    log.fail_at = 0
    async with opened(make_app(), log) as engine:
        await engine.drain()

    assert [data for _, data, _ in stored(log)][:300] == list(range(300))
    assert len({number for _, _, number in stored(log) if number}) == 300
    check_fold(log)


@pytest.mark.slow
async def test_an_engine_that_closes_leaves_the_rest_for_the_next() -> None:
    """Closing does not wait for a backlog, and whoever waits for it is told."""
    log = MemoryLog()
    offer(log, *(Emission("a.x", number) for number in range(2000)))
    refused = list[str]()
    async with opened(make_app(), log) as engine:
        engine.stop()
        try:
            await engine.emit("a.x")
        except EngineClosed as error:
            refused.append(str(error))
    assert len(stored(log)) < 2000
    assert len(refused) == 1

    async with opened(make_app(), log) as engine:
        await engine.drain()
    assert [data for _, data, _ in stored(log)] == list(range(2000))


# ---------------------------------------------------------------- the queue


def test_the_queue_survives_as_data() -> None:
    """A snapshot holds it: what is read back is what was written."""
    offers = Offers()
    offers.owe(3, "s", "e")
    offers.owe(4, "", None)
    offers.owe(5, "s", "e")
    offers.owe(6, "s", "f")
    assert (offers.oldest, offers.find("s", "e"), len(offers)) == (3, 3, 3)

    again = Offers()
    again.load(msgspec.msgpack.decode(msgspec.msgpack.encode(offers.dump())))
    again.paid(4, "", None)
    assert list(again.owed) == [3, 4, 6]
    again.paid(3, "s", "e")
    assert (again.find("s", "e"), again.find("s", "f"), again.oldest) == (None, 6, 4)
    assert offers.dump() != again.dump()
    assert Offers().oldest is None


def test_an_offer_that_was_lost_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot names it and a damaged log, salvaged, has it no more: no start, and why."""
    log = MemoryLog()
    with OfflineLog(log) as offline:
        lost, last = offline.offer([Emission("a.x", 1), Emission("a.x", 2)])
    snapshot = Snapshot(restore(log, NoRules(), clock=None))
    file = log.snapshots.begin(snapshot.sequence)
    file.write(list(snapshot.parts()))
    fetched = log.fetch
    file.finish(oldest_sequence=snapshot.oldest_sequence, record=fetched([last])[last])
    monkeypatch.setattr(
        log, "fetch", lambda wanted: {s: raw for s, raw in fetched(wanted).items() if s != lost}
    )
    with pytest.raises(LogMismatch, match=f"record {lost}, an event that was offered"):
        restore(log, NoRules(), clock=None)
