"""The rules that are in force after a full disk, and those of a start: also of very many."""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from typing import Any

import anyio
import pytest
from tests.engine.stand import (
    FullLog,
    GatedLog,
    StepClock,
    check_live,
    check_replay,
    fill_disk,
    make_room,
    noted,
    nothing,
    of_kind,
    opened,
    outcomes,
    quiet,
)

from headrace import App, LogFull, MemoryLog, field, on
from headrace.engine import record as r
from headrace.engine import starting
from headrace.engine.defaults import PROBE_S

# ---------------------------------------------------------------- a full disk


async def test_changes_survive_a_full_disk() -> None:
    """The engine that goes on has the rules that it had, not those of the app."""
    app, log, clock, seen = App("t"), FullLog(), StepClock(), list[Any]()
    app.rule(on("a"), name="own")(nothing)
    app.rule(on("b"), name="changed")(nothing)
    async with opened(app, log, clock) as engine:
        await engine.add_rule(on("c").count(2, within=1e6), noted(seen), name="extra")
        await engine.add_rule(on("b").count(2, within=1e6), nothing, name="changed")
        await engine.add_rule(on("b").count(3, within=1e6), noted(seen), name="changed")
        await engine.remove_rule("own")
        await engine.pause("changed")
        await engine.emit_many([("c", 1), ("b", 1)])
        await fill_disk(engine, log)
        with pytest.raises(LogFull):
            await engine.add_rule(on("d"), nothing, name="more")
        with pytest.raises(LogFull):
            await engine.pause("extra")
        with pytest.raises(LogFull):
            await engine.remove_rule("extra")
        await make_room(engine, log, clock)
        assert sorted(engine.kernel.state.rules) == ["changed", "extra"]
        await engine.resume("changed")
        await engine.emit_many([("a", 2), ("b", 2), ("c", 2), ("b", 3)])
        await engine.drain()
        await check_live(engine)

    assert seen == [2, 3]
    assert outcomes(log, "own") == []


async def test_what_did_not_fit_is_not_in_force_afterwards() -> None:
    """`LogFull` is certain: the rule that was there goes on, with its own code."""
    app, log, clock = App("t"), FullLog(), StepClock()
    seen, unseen = list[Any](), list[Any]()
    app.rule(on("a"), name="own")(noted(seen))
    app.rule(on("b"), name="other")(noted(seen))
    async with opened(app, log, clock) as engine:
        await quiet(engine)
        log.full_at_append = True
        with pytest.raises(LogFull):
            await engine.add_rule(on("a.b"), noted(unseen), name="own")
        await make_room(engine, log, clock)
        log.full_at = log.commits + 1
        told = list[Exception]()

        async def told_by(call: Awaitable[int]) -> None:
            try:
                await call
            except LogFull as error:
                told.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(told_by, engine.add_rule(on("c"), noted(unseen), name="own"))
            group.start_soon(told_by, engine.add_rule(on("c"), noted(unseen), name="new"))
            group.start_soon(told_by, engine.remove_rule("other"))
        assert len(told) == 3
        await make_room(engine, log, clock)
        assert sorted(engine.kernel.state.rules) == ["other", "own"]
        await engine.emit_many([("a", 1), ("a.b", 2), ("b", 3), ("c", 4)])
        await engine.drain()
        await check_live(engine)
        # It can be asked again.
        assert await engine.add_rule(on("c"), noted(unseen), name="new") > 0

    assert (seen, unseen) == ([1, 3], [])
    check_replay(app, log)


async def test_the_disk_is_full_behind_the_change() -> None:
    """Who was told that the rule is in force finds it there, with its code."""
    app, log, clock, seen = App("t"), GatedLog(), StepClock(), list[Any]()
    app.rule(on("a"), name="x")(nothing)
    async with opened(app, log, clock) as engine, anyio.create_task_group() as group:
        await quiet(engine)
        log.hold = True
        group.start_soon(
            partial(engine.add_rule, on("a").where(field() > 1), noted(seen), name="x")
        )
        await quiet(engine)
        log._committed = log.next_sequence - 1  # the disk took it, and is full by now
        log.failure = LogFull("no room")
        log.hold = False
        log._check_open()()
        await quiet(engine)
        while not engine.state().ready:
            await clock.step(engine, PROBE_S)
        await engine.emit_many([("a", 1), ("a", 2)])
        await engine.drain()
        await check_live(engine)
    assert seen == [2]


# ---------------------------------------------------------------- many rules


def many(count: int) -> App:
    app = App("t")
    for number in range(count):
        app.rule(on(f"a.{number}"), name=f"r{number}")(nothing)
    return app


@pytest.mark.slow
async def test_more_rules_than_one_record_names() -> None:
    """A start with any number of rules is recorded; no record of it is too large to be stored."""
    app, log = many(5003), MemoryLog()
    async with opened(app, log) as engine:
        await engine.emit_many([("a.0", 1), ("a.5002", 1)])
        await engine.drain()
        assert len(engine.kernel.state.rules) == 5003
        assert await engine.snapshot() == log.committed_sequence
    (listed,) = of_kind(log, r.RulesListed)
    (started,) = of_kind(log, r.EngineStarted)
    assert (len(listed.rules), len(started.rules)) == (5000, 3)
    assert len(of_kind(log, r.RuleFired)) == 2


async def test_rules_in_several_parts_are_the_same_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Into how many parts they were divided is no matter of what is in force."""
    app, log, clock = many(10), MemoryLog(), StepClock()
    for at_once in (4, 100, 3, 1, 100):
        monkeypatch.setattr(starting, "RULES_AT_ONCE", at_once)
        async with opened(app, log, clock) as engine:
            await engine.emit("a.7")
            await engine.drain()
            assert len(engine.kernel.state.rules) == 10
            await check_live(engine)
            await engine.snapshot()
    assert [len(listed.rules) for listed in of_kind(log, r.RulesListed)] == [4] * 2 + [3] * 3 + [
        1
    ] * 9
    assert len(of_kind(log, r.RuleFired)) == 5
    check_replay(app, log)


async def test_a_start_that_was_cut_short_names_no_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash between the parts of a list leaves nothing behind, also if the app changes then."""
    monkeypatch.setattr(starting, "RULES_AT_ONCE", 2)
    log = MemoryLog()
    async with opened(many(5), log):
        pass
    for cut in (1, 2):
        for count in (1, 2, 5):
            left, app = log.copy(cut), many(count)
            async with opened(app, left) as engine:
                assert len(engine.kernel.state.rules) == count
                await check_live(engine)
                await engine.snapshot()
            check_replay(app, left)
