"""The state of a projection at any place of a log, whatever the log was run with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.engine.stand import ShortLog, borders, of_kind, opened
from tests.engine.test_projections import (
    Reading,
    Summary,
    by_hand,
    make_app,
    some,
    summed,
)

from headrace import App, Event, FileLog, LogCorrupt, MemoryLog, RuleNotFound, on
from headrace.engine import record as r
from headrace.engine.inspect import project as project_module
from headrace.engine.log import LogReader
from headrace.engine.log.segment import name_of
from headrace.replaying import project


def counted(state: int, event: Event[Reading]) -> int:
    """Fold what no engine has folded yet."""
    return state + 1


def new_app() -> App:
    """An app with a projection that is younger than the log."""
    app = make_app()
    app.projection(on("sensors.>", Reading), initial=0)(counted)
    return app


async def test_it_is_what_it_was_after_each_record() -> None:
    """For the one that the log was run with, and for one that was written today."""
    log, app, events = MemoryLog(), new_app(), some(30)
    async with opened(make_app(), log) as engine:
        for event in events:
            await engine.emit(*event)
    for at in borders(log)[1:]:
        stored = len(of_kind(log.copy(at), r.EventStored))
        assert dict(project(log, app, summed, at=at)) == by_hand(events[:stored])
        readings = [data for _, data in events[:stored] if isinstance(data, Reading)]
        assert project(log, app, counted, at=at).get(None, 0) == len(readings)
    assert dict(project(log, app, "summary")) == by_hand(events)


async def test_it_begins_at_the_nearest_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If that has its state: then no more is read than what came after it."""
    app, events = make_app(), some(40)
    places: list[int] = []
    async with opened(app, FileLog(tmp_path / "log")) as engine:
        for event in events:
            places.append(await engine.emit(*event))
            if len(places) in (10, 30):
                await engine.snapshot()

    def never(*_: object) -> None:
        raise AssertionError("it was folded from the beginning")

    with monkeypatch.context() as patch:
        patch.setattr(project_module, "folded_anew", never)
        for number in (10, 15, 29, 30, 35, 39):
            found = project(tmp_path / "log", app, summed, at=places[number])
            assert dict(found) == by_hand(events[: number + 1])
        with pytest.raises(AssertionError, match="from the beginning"):
            project(tmp_path / "log", app, summed, at=places[5])
    assert dict(project(tmp_path / "log", app, summed, at=places[5])) == by_hand(events[:6])
    assert project(tmp_path / "log", new_app(), counted, at=places[20]).since == 1


async def test_a_changed_one_is_not_taken_from_a_snapshot(tmp_path: Path) -> None:
    """The snapshot has the state of another one."""
    async with opened(make_app(), FileLog(tmp_path / "log")) as engine:
        await engine.emit_many(some(20))
        await engine.snapshot()

    def changed(state: Summary, event: Event[Reading]) -> Summary:
        return Summary(state.count + 100)

    found = project(tmp_path / "log", make_app(changed), changed)
    assert {key: state.count for key, state in found.items()} == {
        key: 100 * sum(1 for subject, data in some(20) if key in subject and type(data) is Reading)
        for key in found
    }


async def test_the_log_may_be_in_use(tmp_path: Path) -> None:
    """What is committed by then is seen, and nothing is written."""
    app = make_app()
    async with opened(app, FileLog(tmp_path / "log")) as engine:
        await engine.emit_many(some(20))
        before = sorted(path.name for path in (tmp_path / "log").iterdir())
        assert dict(project(tmp_path / "log", app, summed)) == dict(engine.view(summed))
        assert sorted(path.name for path in (tmp_path / "log").iterdir()) == before


async def test_without_the_beginning_it_says_from_where_on_it_is() -> None:
    """Events name their sources by number, and the names may be gone, too."""
    log, app = ShortLog(), App("t")

    def sources(state: list[str], event: Event[Any]) -> list[str]:
        return [*state, event.source]

    app.projection(on("a"), initial=list[str]())(sources)
    async with opened(App("t"), log) as engine:
        for name in ("x", "y", "x", "z", "y"):
            await engine.emit("a", source=name)
        await engine.snapshot()
        await engine.emit("a", source="w")
    assert project(log, app, sources)[None] == ["x", "y", "x", "z", "y", "w"]
    log.first = 6  # the third event
    found = project(log, app, sources)
    assert (found[None], found.since) == (["x", "z", "y", "w"], 6)


async def test_bad_places_and_names_are_refused(tmp_path: Path) -> None:
    """In one line that says what there is."""
    log, app = MemoryLog(), make_app()
    async with opened(app, log) as engine:
        await engine.emit_many(some(3))
    last = log.committed_sequence
    for at in (0, -1, last + 1):
        with pytest.raises(ValueError, match=rf"at={at}: expected a sequence from 1 to {last}$"):
            project(log, app, summed, at=at)
    with pytest.raises(ValueError, match="at=1: expected a log that has records"):
        project(MemoryLog(), app, summed, at=1)
    assert dict(project(MemoryLog(), app, summed)) == {}
    with pytest.raises(RuleNotFound, match=r"\(summary\), found 'peaks'"):
        project(log, app, "peaks")
    with pytest.raises(TypeError, match="found counted; declare it"):
        project(log, app, counted)


async def test_damage_is_told(tmp_path: Path) -> None:
    """It is never the state of what is before, unnoticed."""
    app = make_app()
    async with opened(app, FileLog(tmp_path / "log")) as engine:
        for event in some(20):
            await engine.emit(*event)
    segment = tmp_path / "log" / name_of(1)
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 0xFF
    segment.write_bytes(data)
    with LogReader(tmp_path / "log") as reader, pytest.raises(LogCorrupt):
        project(reader, app, summed)
