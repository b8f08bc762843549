"""`replay_log` makes a log a test: of rules that stay, and of those that were changed."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from headrace import App, FileLog, LogUnusable, Run, on
from headrace.engine.errors import LogCorrupt
from headrace.testing import replay_log, virtual_time

LIMIT = {"celsius": 90.0}


def boiler(limit: float = 90.0, *, name: str = "cool", fixed: bool = True) -> App:
    """An app; its rule `steady` goes by a global, as no rule should."""
    app = App("boiler")
    hot = on("boilers.*").where(lambda e: e.data > limit).key(lambda e: e.tokens[1])

    @app.rule(hot.count(2, within=60), name=name)
    async def cool(run: Run) -> None:
        await run.emit("fans.start", {})

    @app.rule(on("boilers.*").where(lambda e: e.data > LIMIT["celsius"]), name="steady")
    async def steady() -> None: ...

    @app.rule(on("fans.start"), name="note")
    async def note() -> None: ...

    return app


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the app made of five readings."""
    path = tmp_path_factory.mktemp("log") / "boiler.log"

    async def fill() -> None:
        async with (
            virtual_time() as clock,
            boiler().open(FileLog(path), clock=clock, snapshot_every=0) as engine,
        ):
            for celsius in (95.0, 96.0, 85.0, 86.0, 70.0):
                await engine.emit("boilers.b1", celsius)
                await clock.advance(10)

    anyio.run(fill)
    return path


def test_the_same_rules_decide_the_same(log: Path) -> None:
    """A log of production passes as long as nobody changes what its rules decide."""
    found = replay_log(log, boiler())

    assert found.supposed is None
    assert found.differences == []
    assert found.replayed.firings == 4


def test_a_changed_rule_that_differs_fails(log: Path) -> None:
    """Whoever changes a rule learns what it would have made of what has happened."""
    with pytest.raises(AssertionError) as caught:
        replay_log(str(log), boiler(80.0))

    headline, line = str(caught.value).splitlines()
    assert headline == (
        f"{log}: expected the same firings, found others; not as in the log: cool "
        "(what is meant to differ goes into may_differ):"
    )
    assert line.startswith("  rule 'cool': 1 appeared; first appeared at #")
    assert line.endswith(", key 'b1'")


def test_what_is_meant_to_differ_may(log: Path) -> None:
    """A fix differs from the log, and that alone."""
    found = replay_log(log, boiler(80.0), may_differ={"cool"})

    assert found.of("cool") == [("appeared", "b1")]
    assert found.of("steady") == []


def test_what_follows_from_a_changed_rule_is_no_surprise(log: Path) -> None:
    """If its runs vanish, so does what they led to: that has to be named too."""
    with pytest.raises(AssertionError, match="rule 'note': 1 vanished"):
        replay_log(log, boiler(99.0), may_differ={"cool"})

    found = replay_log(log, boiler(99.0), may_differ=["cool", "note"])
    assert (found.of("cool"), found.of("note")) == ([("vanished", "b1")], [("vanished", None)])


def test_a_rule_that_decides_otherwise_unchanged_fails(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not in the rule's own text is found by what it decides."""
    monkeypatch.setitem(LIMIT, "celsius", 95.5)

    with pytest.raises(AssertionError, match="rules that are as they were decide otherwise") as e:
        replay_log(log, boiler())
    assert "rule 'steady': recorded" in str(e.value)


def test_a_log_of_another_app_is_no_test(log: Path) -> None:
    """A test that compares nothing must not pass."""
    other = App("other")

    @other.rule(on("x"))
    async def act() -> None: ...

    with pytest.raises(AssertionError, match="found none of its rules in force there"):
        replay_log(log, other)


def test_what_is_wrong_with_the_call_is_said(log: Path, tmp_path: Path) -> None:
    """A typing error does not allow what it was to allow."""
    with pytest.raises(
        ValueError, match=r"expected rules of .*\(cool, note, steady\), found 'cxx'"
    ):
        replay_log(log, boiler(), may_differ="cxx")
    with pytest.raises(TypeError, match="expected an App, found 'boiler'"):
        replay_log(log, "boiler")  # type: ignore[arg-type]
    with pytest.raises(LogUnusable):
        replay_log(tmp_path / "nothing", boiler())


def test_a_damaged_log_is_no_test(log: Path, tmp_path: Path) -> None:
    """What was compared before the damage is not all."""
    import shutil

    copy = tmp_path / "copy.log"
    shutil.copytree(log, copy)
    segment = max(copy.glob("*.hrl"), key=lambda file: file.stat().st_size)
    data = bytearray(segment.read_bytes())
    place = data.index(b"boilers.b1", len(data) // 3)
    data[place] ^= 0xFF
    segment.write_bytes(data)

    with pytest.raises(LogCorrupt):
        replay_log(copy, boiler())
