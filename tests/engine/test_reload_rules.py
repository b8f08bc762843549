"""`App.reload_rules`: a rules file that is read again while the engine runs."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.engine.stand import (
    HANG_S,
    FullLog,
    Gate,
    StepClock,
    check_live,
    make_room,
    of_kind,
    opened,
    quiet,
    refolded,
    until,
)

from headrace import (
    App,
    EngineClosed,
    Firing,
    LogFull,
    MemoryLog,
    RulesFileError,
    Run,
    field,
    on,
    reloading,
)
from headrace.engine import record as r
from headrace.engine.control_client import ControlClient
from headrace.engine.control_wire import NAME
from headrace.engine.errors import CommandRefused
from headrace.file_rules import rules_of_file
from headrace.triggers.rules_file import Changes

COUNT = """
[rules.{name}]
subject = "a"
pattern = {{ count = {n}, within = inf }}
task = "{task}"
"""
EACH = """
[rules.{name}]
subject = "{subject}"
task = "{task}"
"""
NOTHING = Changes([], [], [], [], [])


def count(name: str, n: int = 3, task: str = "note") -> str:
    return COUNT.format(name=name, n=n, task=task)


def each(name: str, subject: str = "a", task: str = "note") -> str:
    return EACH.format(name=name, subject=subject, task=task)


class Stand:
    """An app with a rule in Python, and a rules file beside it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "rules.toml"
        self.done: list[tuple[str, Any]] = []
        self.gate = Gate()

    def write(self, *rules: str) -> Path:
        self.path.write_text("".join(("[rules]\n", *rules)))
        return self.path

    def app(self, *, loads: bool = True) -> App:
        """The app as a new process would have it, with the rules that the file has now."""
        app, done, gate = App("plant"), self.done, self.gate

        @app.action
        async def note(run: Run, firing: Firing[Any]) -> None:
            done.append((firing.rule, firing.events[-1].data))

        @app.action
        async def tell(run: Run, firing: Firing[Any]) -> None:
            done.append((f"tell {firing.rule}", firing.events[-1].data))

        @app.action
        async def wait(firing: Firing[Any]) -> None:
            await gate.wait()
            done.append((f"waited {firing.rule}", firing.events[-1].data))

        @app.rule(on("p").count(2, within=60))
        async def python_rule(firing: Firing[Any]) -> None:
            done.append(("python_rule", firing.events[-1].data))

        if loads:
            app.load_rules(self.path)
        return app

    def take(self) -> list[tuple[str, Any]]:
        """What was done since the last call."""
        taken = sorted(self.done)
        self.done.clear()
        return taken


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    """An app and its rules file."""
    return Stand(tmp_path)


def causes(log: MemoryLog) -> list[tuple[str, bool, str]]:
    """What was recorded of changes: the rule, whether it is there from then on, and why."""
    return [
        (one.rule, one.fingerprint is not None, one.cause) for one in of_kind(log, r.RuleChanged)
    ]


def check_replay(app: App, log: MemoryLog) -> None:
    """A replay with the app's rules finds nothing else in the log."""
    assert refolded(log, app.decider()).divergences == []


# ---------------------------------------------------------------- what a reload does


async def test_what_has_changed_is_put_into_force_and_nothing_else(stand: Stand) -> None:
    """One limit is edited at night, and no other rule forgets what it was counting."""
    app = stand.app(loads=False)
    app.load_rules(stand.write(count("kept"), count("edited"), count("gone")))
    log = MemoryLog()
    async with opened(app, log) as engine:
        await engine.emit_many([("a", 1), ("a", 2), ("p", 1)])
        stand.write(each("fresh", "b"), count("kept"), count("edited", 2))
        changed = await app.reload_rules(engine, stand.path)
        assert changed == Changes(["fresh"], ["gone"], ["edited"], ["kept"], [])
        assert changed
        await engine.emit_many([("a", 3), ("b", 4), ("p", 2)])
        await engine.drain()
        assert stand.take() == [("fresh", 4), ("kept", 3), ("python_rule", 2)]
        await engine.emit("a", 5)
        await engine.drain()
        assert stand.take() == [("edited", 5)]
        await check_live(engine)

    path = str(stand.path)
    assert causes(log) == [("gone", False, path), ("fresh", True, path), ("edited", True, path)]
    check_replay(app, log)


async def test_a_file_that_is_the_same_changes_nothing(stand: Stand) -> None:
    """Whoever saves a file, or says the same in other words, disturbs nothing."""
    stand.write(count("one"), each("two"))
    app, log = stand.app(), MemoryLog()
    async with opened(app, log) as engine:
        before = engine.kernel.sequence
        again = await app.reload_rules(engine, stand.path)
        stand.write("# in other words\n", each("two"), count("one") + "description = 'three'\n")
        words = await app.reload_rules(engine, stand.path)
        assert engine.kernel.sequence == before

    assert again == Changes([], [], [], ["one", "two"], [])
    assert words == Changes([], [], [], ["two", "one"], [])
    assert not again
    assert not words


async def test_another_task_is_no_other_rule(stand: Stand) -> None:
    """What is done is not when: the count goes on, and its third event starts the new task."""
    stand.write(count("one"))
    app, log = stand.app(), MemoryLog()
    async with opened(app, log) as engine:
        await engine.emit_many([("a", 1), ("a", 2)])
        stand.write(count("one", task="tell"))
        assert await app.reload_rules(engine, stand.path) == Changes([], [], [], ["one"], ["one"])
        await engine.emit("a", 3)
        await engine.drain()
        await check_live(engine)

    assert stand.take() == [("tell one", 3)]
    assert causes(log) == []


async def test_a_changed_rule_begins_empty_or_warm(stand: Stand) -> None:
    """Warm it is as if its new limit had been there from the start of the log."""
    stand.write(count("cold", 4), count("warm", 4) + 'warm = "replay"\n')
    app, log = stand.app(), MemoryLog()
    async with opened(app, log) as engine:
        await engine.emit_many([("a", 1), ("a", 2)])
        stand.write(count("cold", 3), count("warm", 3) + 'warm = "replay"\n')
        assert (await app.reload_rules(engine, stand.path)).changed == ["cold", "warm"]
        await engine.emit("a", 3)
        await engine.drain()
        assert stand.take() == [("warm", 3)]
        await check_live(engine)

    assert [one.warm for one in of_kind(log, r.RuleChanged)] == [0, 1]
    check_replay(app, log)


async def test_a_rule_that_comes_back_begins_anew(stand: Stand) -> None:
    """What is switched off sees nothing, so what it had counted means nothing any more."""
    stand.write(count("one", 2))
    app, log = stand.app(), MemoryLog()
    async with opened(app, log) as engine:
        await engine.emit("a", 1)
        stand.write(count("one", 2) + "enabled = false\n")
        assert (await app.reload_rules(engine, stand.path)).removed == ["one"]
        await engine.emit("a", 2)
        stand.write(count("one", 2))
        assert (await app.reload_rules(engine, stand.path)).added == ["one"]
        await engine.emit("a", 3)
        await engine.drain()
        assert stand.take() == []
        await engine.emit("a", 4)
        await engine.drain()
        await check_live(engine)

    assert stand.take() == [("one", 4)]
    path = str(stand.path)
    assert causes(log) == [("one", False, path), ("one", True, path)]


async def test_runs_of_a_rule_that_is_gone_finish(stand: Stand) -> None:
    """Work that has begun is done, with the code that it began with."""
    stand.write(each("one", task="wait"))
    app = stand.app()
    async with opened(app) as engine:
        await engine.emit("a", 1)
        await quiet(engine)
        stand.write()
        await app.reload_rules(engine, stand.path)
        stand.gate.open()
        await engine.drain()

    assert stand.take() == [("waited one", 1)]


async def test_a_file_that_was_never_loaded_can_be_added(stand: Stand) -> None:
    """An engine begins without rules and gets them later."""
    app = stand.app(loads=False)
    async with opened(app) as engine:
        stand.write(each("one"))
        assert (await app.reload_rules(engine, stand.path)).added == ["one"]
        await engine.emit("a", 1)
        await engine.drain()

    assert stand.take() == [("one", 1)]
    assert list(app.rules) == ["python_rule", "one"]


# ---------------------------------------------------------------- what is refused

BAD: dict[str, tuple[str, str]] = {
    "half written": (count("one", 5) + "[rules.two]\nsubj", "expected TOML"),
    "empty": ("", "expected rules, found an empty file"),
    "one bad rule": (count("one", 5) + each("two", task="notte"), "did you mean 'note'?"),
    "a rule of Python": (count("one", 5) + each("python_rule"), "that of a rule of the app"),
    "a rule of a task": (count("one", 5) + each("added"), "that of a rule of the app"),
    "an action": (count("one", 5) + each("tell"), "that of a task of the app, 'tell'"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_file_is_refused_as_a_whole(stand: Stand, name: str) -> None:
    """Nothing is in force that is half of what somebody meant, and the engine goes on."""
    stand.write(count("one"))
    app, log = stand.app(), MemoryLog()

    async def act(firing: Firing[Any]) -> None: ...

    async with opened(app, log) as engine:
        await engine.add_rule(on("x"), act, name="added")
        await engine.emit_many([("a", 1), ("a", 2)])
        before = engine.kernel.sequence
        text, said = BAD[name]
        stand.path.write_text(text)
        with pytest.raises(RulesFileError) as caught:
            await app.reload_rules(engine, stand.path)
        assert said in str(caught.value)
        assert engine.kernel.sequence == before
        await engine.emit("a", 3)
        await engine.drain()
        assert stand.take() == [("one", 3)]
        stand.write(count("one", 1))
        assert (await app.reload_rules(engine, stand.path)).changed == ["one"]

    assert [cause for _, _, cause in causes(log)] == ["", str(stand.path)]


async def test_an_action_of_a_rule_that_is_gone_is_not_given_to_another(stand: Stand) -> None:
    """Its open runs are known by that name, and would go on with somebody else's code."""
    clears = 'subject = "a"\npattern = { silent = 5 }\ntask = "note"\non_clear = "wait"\n'
    stand.write("[rules.one]\n", clears)
    app = stand.app()
    async with opened(app) as engine:
        stand.write(each("one-clear"))
        with pytest.raises(RulesFileError, match="that of an action of rule 'one', 'one-clear'"):
            await app.reload_rules(engine, stand.path)
        stand.write("[rules.one]\n", clears.replace("5", "6"))
        assert (await app.reload_rules(engine, stand.path)).changed == ["one"]


async def test_an_engine_of_another_app_is_refused(stand: Stand) -> None:
    """Its tasks are not those that the file means."""
    stand.write(each("one"))
    async with opened(stand.app()) as engine:
        other = stand.app()
        with pytest.raises(ValueError, match=r"an engine that <App plant: .* has opened"):
            await other.reload_rules(engine, stand.path)


async def test_a_task_that_a_rule_of_another_task_brought_is_not_taken(stand: Stand) -> None:
    """Rules that tasks add have actions as well, and the file's must not be taken for these."""
    stand.write()
    app, log = stand.app(), MemoryLog()

    async def act(firing: Firing[Any]) -> None: ...

    async with opened(app, log) as engine:
        await engine.add_rule(on("x").crosses(field("n"), above=3), act, name="x", on_clear=act)
        stand.write(each("new"), each("x-clear"))
        with pytest.raises(RulesFileError, match="found 'x-clear' of rule 'x'"):
            await app.reload_rules(engine, stand.path)

    assert [name for name, _, _ in causes(log)] == ["x"]
    assert "new" not in app.rules


async def test_a_rule_that_a_task_has_replaced_is_no_more_of_the_file(stand: Stand) -> None:
    """What somebody put there on purpose stays until its name is taken out of the file."""
    stand.write(each("one"), each("two"))
    app = stand.app()

    async def act(firing: Firing[Any]) -> None:
        stand.done.append(("act", firing.events[-1].data))

    async with opened(app) as engine:
        await engine.add_rule(on("b"), act, name="one")
        await engine.remove_rule("two")
        with pytest.raises(RulesFileError, match=r"rules.one: expected a name of its own"):
            await app.reload_rules(engine, stand.path)
        stand.write(each("two"))
        assert (await app.reload_rules(engine, stand.path)).added == ["two"]
        await engine.emit_many([("a", 1), ("b", 2)])
        await engine.drain()

    assert stand.take() == [("act", 2), ("two", 1)]


# ---------------------------------------------------------------- starts


async def test_a_restart_with_the_same_file_keeps_all_state(stand: Stand) -> None:
    """A rule that was added by night counts on after the morning's deployment."""
    stand.write(count("old"))
    app, log = stand.app(), MemoryLog()
    async with opened(app, log) as engine:
        await engine.emit("a", 1)
        stand.write(count("new"), count("old"))
        await app.reload_rules(engine, stand.path)
        await engine.emit("a", 2)
    for again in (stand.app(), app):  # a new process, and the app that was told
        async with opened(again, log) as engine:
            assert list(again.rules) == ["python_rule", "new", "old"]
            await check_live(engine)
    assert causes(log) == [("new", True, str(stand.path))]
    async with opened(stand.app(), log) as engine:
        await engine.emit("a", 3)
        await engine.drain()
        assert stand.take() == [("old", 3)]
        await engine.emit("a", 4)
        await engine.drain()
        assert stand.take() == [("new", 4)]
    check_replay(stand.app(), log)


async def test_the_rules_of_a_file_stay_in_their_place(stand: Stand) -> None:
    """Rules fire in the order of their declaration, also those that come later."""
    app = stand.app(loads=False)
    app.load_rules(stand.write(each("one"), each("two")))

    async def act() -> None: ...

    app.rule(on("z"), name="last")(act)
    async with opened(app) as engine:
        stand.write(each("three"), each("two"), each("off") + "enabled = false\n")
        await app.reload_rules(engine, stand.path)

    assert list(app.rules) == ["python_rule", "three", "two", "last"]
    assert "one" not in app.tasks
    assert app.tasks["three"].place == app.actions["note"].place


async def test_two_engines_of_one_app_have_their_own_rules(stand: Stand) -> None:
    """A test engine beside the real one: what one is told, the other need not know."""
    stand.write(each("one"))
    app, logs = stand.app(), (MemoryLog(), MemoryLog())
    async with opened(app, logs[0]) as first, opened(app, logs[1]) as second:
        stand.write(each("two"))
        assert (await app.reload_rules(first, stand.path)).added == ["two"]
        assert set(second.kernel.state.rules) == {"python_rule", "one"}
        changed = await app.reload_rules(second, stand.path)
        assert changed == Changes(["two"], ["one"], [], [], [])
        assert first.kernel.state.rules == second.kernel.state.rules


async def test_before_log_time_has_begun_there_is_nothing_to_record(stand: Stand) -> None:
    """By input a log begins with its first event: its start says what is in force then."""
    stand.write(each("one"), each("two"))
    app, log = stand.app(), MemoryLog()
    async with opened(app, log, "input") as engine:
        stand.write(each("two", "b"), each("three"))
        changed = await app.reload_rules(engine, stand.path)
        assert changed == Changes(["three"], ["one"], ["two"], [], [])
        await engine.emit("a", 1, time=5)
        await engine.drain()

    assert stand.take() == [("three", 1)]
    assert causes(log) == []
    (started,) = of_kind(log, r.EngineStarted)
    assert set(started.rules) == {"python_rule", "two", "three"}


@pytest.mark.slow
def test_an_engine_that_is_gone_is_not_kept(stand: Stand) -> None:
    """A program that opens many engines, as tests do, does not grow by them."""
    stand.write(each("one"))
    app = stand.app()
    kept = weakref.ref(app.open(MemoryLog()))
    gc.collect()

    assert kept() is None


# ---------------------------------------------------------------- at once, and what goes wrong


async def test_two_reloads_at_once_are_one_after_the_other(stand: Stand) -> None:
    """The watcher and a person's command come together: each change is made once."""
    stand.write(each("one"))
    app, log = stand.app(), MemoryLog()
    results: list[Changes] = []
    async with opened(app, log) as engine:
        stand.write(each("two"), each("three"))

        async def reload() -> None:
            results.append(await app.reload_rules(engine, stand.path))

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(reload)

    assert [bool(result) for result in results] == [True, False, False]
    assert sorted(name for name, _, _ in causes(log)) == ["one", "three", "two"]


async def test_events_are_taken_while_a_file_is_read(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large file takes its time, and the engine has no pause."""
    stand.write(count("one", 1))
    app, log = stand.app(), MemoryLog()
    goes_on = threading.Event()

    def slowly(*arguments: Any) -> Any:
        assert goes_on.wait(HANG_S)
        return rules_of_file(*arguments)

    monkeypatch.setattr(reloading, "rules_of_file", slowly)
    async with opened(app, log) as engine, anyio.create_task_group() as group:
        stand.write()
        group.start_soon(app.reload_rules, engine, stand.path)
        await quiet(engine)
        await engine.emit("a", 1)
        await engine.drain()
        assert stand.take() == [("one", 1)]
        goes_on.set()

    assert causes(log) == [("one", False, str(stand.path))]


async def test_a_change_that_a_full_disk_interrupts_can_be_repeated(stand: Stand) -> None:
    """What was not stored is not in force, and the next try does what is left."""
    stand.write(count("one"), count("two"), count("act"))
    app, log, clock = stand.app(), FullLog(), StepClock()
    async with opened(app, log, clock) as engine:
        await engine.emit_many([("a", 1), ("a", 2)])
        stand.write(count("one", 2), count("two"), count("act", task="tell"), count("new", 1))
        log.fill()
        with pytest.raises(LogFull):
            await app.reload_rules(engine, stand.path)
        await make_room(engine, log, clock)
        assert {"one", "two", "act"} <= engine.kernel.state.rules.keys()
        changed = await app.reload_rules(engine, stand.path)
        assert changed == Changes(["new"], [], ["one"], ["two", "act"], ["act"])
        await engine.emit("a", 3)
        await engine.drain()
        await check_live(engine)

    assert stand.take() == [("new", 3), ("tell act", 3), ("two", 3)]


async def test_an_action_that_was_changed_outlives_a_full_disk(stand: Stand) -> None:
    """It is in no record, and is the action all the same until the engine closes."""
    stand.write(each("old"))
    app, log, clock = stand.app(), FullLog(), StepClock()
    async with opened(app, log, clock) as engine:
        stand.write(each("old"), each("new"))
        await app.reload_rules(engine, stand.path)
        stand.write(each("old", task="tell"), each("new", task="tell"))
        assert (await app.reload_rules(engine, stand.path)).other_action == ["old", "new"]
        log.fill()
        await quiet(engine)
        await make_room(engine, log, clock)
        await engine.emit("a", 1)
        await engine.drain()

    assert stand.take() == [("tell new", 1), ("tell old", 1)]


async def test_a_closed_engine_says_so(stand: Stand) -> None:
    """Nothing is declared for an engine that takes nothing any more."""
    stand.write(each("one"))
    app = stand.app()
    engine = app.open(MemoryLog())
    with pytest.raises(EngineClosed, match="not open"):
        await app.reload_rules(engine, stand.path)
    async with engine:
        pass
    stand.write(each("two"))
    with pytest.raises(EngineClosed):
        await app.reload_rules(engine, stand.path)

    assert "two" not in app.rules


# ---------------------------------------------------------------- over the control socket


async def asked(log: Path) -> Any:
    await until((log / NAME).exists)

    def ask() -> Any:
        with ControlClient(log) as client:
            return client.ask("reload")

    return await anyio.to_thread.run_sync(ask)


@pytest.mark.slow
async def test_other_processes_can_have_the_files_reloaded(stand: Stand, tmp_path: Path) -> None:
    """Each file that the app has loaded: what has changed, or what is wrong with it."""
    stand.write(each("one"))
    app, other = stand.app(), tmp_path / "other.toml"
    other.write_text(each("x"))
    app.load_rules(other)
    async with app.open(tmp_path / "log", grace_s=0) as engine:
        stand.write(each("one", task="tell"), *[each(f"n{number}") for number in range(1500)])
        other.write_text(each("x") + "y = 1\nz = 2\n")
        good, bad = (await asked(tmp_path / "log"))["files"]
        assert len(engine.kernel.state.rules) == 1503

    assert (good["path"], bad["path"]) == (str(stand.path), str(other))
    assert good["added"][:2] == ["n0", "n1"]
    assert len(good["added"]) == 1000
    assert good["counts"] == {
        "added": 1500,
        "changed": 0,
        "other_action": 1,
        "removed": 0,
        "same": 1,
        "problems": 0,
    }
    assert (bad["counts"]["problems"], bad["counts"]["same"]) == (2, 0)
    assert [problem.split(": ")[1] for problem in bad["problems"]] == ["rules.x.y", "rules.x.z"]


async def test_an_app_without_a_rules_file_says_so(stand: Stand, tmp_path: Path) -> None:
    """Whoever asks learns that there is nothing to read, and what would be."""
    async with stand.app(loads=False).open(tmp_path / "log", grace_s=0):
        with pytest.raises(CommandRefused, match="found one without; start it with --rules"):
            await asked(tmp_path / "log")


async def test_a_slip_of_the_fingers_is_said_once(stand: Stand, tmp_path: Path) -> None:
    """A file that was never read is no file of the app: later reloads do not ask for it."""
    stand.write(each("one"))
    app = stand.app()
    async with app.open(tmp_path / "log", grace_s=0) as engine:
        with pytest.raises(RulesFileError):
            await app.reload_rules(engine, tmp_path / "typo.toml")
        files = (await asked(tmp_path / "log"))["files"]

    assert [file["path"] for file in files] == [str(stand.path)]


async def test_a_file_may_have_any_name(stand: Stand, tmp_path: Path) -> None:
    """Its name is the cause that is recorded, as far as a record can hold it."""
    app, log = stand.app(loads=False), MemoryLog()
    path = tmp_path / "r\udcff.toml"
    path.write_text(each("one"))
    async with opened(app, log) as engine:
        await app.reload_rules(engine, path)

    folder = tmp_path / "log"
    async with app.open(folder, grace_s=0):
        (file,) = (await asked(folder))["files"]
    assert (file["path"].rpartition("/")[2], file["counts"]["same"]) == ("r\\udcff.toml", 1)
    ((_, _, cause),) = causes(log)
    assert cause.endswith("r\\udcff.toml")
