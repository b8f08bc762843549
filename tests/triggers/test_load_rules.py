"""`App.load_rules`: rules of a file beside those in Python, with the app's own tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.engine.stand import StepClock, check_live, opened

from headrace import (
    App,
    Firing,
    MemoryLog,
    Retry,
    RulesFileError,
    Run,
    on,
    sequence,
    silent,
    step,
)
from headrace.engine.clock import VirtualClock
from headrace.triggers.key_text import parse_key


class Reading(msgspec.Struct):
    celsius: float


@dataclass
class Door:
    is_open: bool


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Write a rules file and return where it is."""

    def write(text: str) -> Path:
        path = tmp_path / "rules.toml"
        path.write_text(text)
        return path

    return write


Write = Callable[[str], Path]


def plant() -> tuple[App, list[Any]]:
    """An app with something of each kind, and what was done in it."""
    app, done = App("plant"), list[Any]()

    @app.action
    async def note(run: Run, firing: Firing[Any]) -> None:
        done.append((firing.rule, firing.key, [event.data for event in firing.events]))

    @app.action(retry=Retry(attempts=3, wait_first=1), timeout=5, name="careful")
    def careful_action(firing: Firing[dict[str, int]]) -> None: ...

    @app.task(retry=Retry(attempts=2), timeout=7)
    async def beat(run: Run) -> None:
        done.append(("beat", run.task))

    @app.task
    async def plain(times: int = 1) -> None:
        done.append(("plain", times))

    @app.rule(on("door.*"))
    async def python_rule(run: Run, firing: Firing[Any]) -> None:
        await run.call(plain, 3)
        done.append((firing.rule, run.task))

    return app, done


async def play(app: App, *events: tuple[str, Any]) -> None:
    async with app.open(MemoryLog(), clock=VirtualClock()) as engine:
        for subject, data in events:
            await engine.emit(subject, data)
        await engine.drain()


async def test_a_rule_of_a_file_starts_the_task_that_it_names(write: Write) -> None:
    """The file says when, the function what: it gets run and firing as in Python."""
    app, done = plant()
    app.load_rules(
        write("""
        [rules.hot]
        subject = "sensors.*"
        where = "celsius > 90"
        key = "subject.1"
        pattern = { count = 2, within = 60 }
        task = "note"
        [rules.any_door]
        subject = "door.>"
        task = "beat"
        [rules.second]
        subject = "door.>"
        task = "python_rule"
        """)
    )
    hot = {"celsius": 95}
    await play(app, ("sensors.t1", hot), ("sensors.t2", hot), ("sensors.t1", {"celsius": 96}))
    await play(app, ("door.a", None))

    assert done[0] == ("hot", "t1", [hot, {"celsius": 96}])
    assert sorted(done[1:]) == [
        ("beat", "any_door"),
        ("plain", 3),
        ("plain", 3),
        ("python_rule", "python_rule"),
        ("second", "second"),
    ]


async def test_a_task_that_rules_start_stays_a_step_of_its_own(write: Write) -> None:
    """`run.call(beat)` is a run of the task beat, whichever rules start the same function."""
    app, done = plant()
    app.load_rules(write("[rules.r]\nsubject = 'x'\ntask = 'beat'\ntimeout = 1"))

    @app.rule(on("y"))
    async def calls(run: Run) -> None:
        await run.call(app.tasks["beat"].function)

    await play(app, ("y", None), ("x", None))

    assert sorted(done) == [("beat", "beat"), ("beat", "r")]
    assert app.tasks["beat"].timeout_s == 7


def test_rules_of_a_file_come_behind_those_before_them_and_in_its_order(write: Write) -> None:
    """Rules fire in the order of their declaration; so that can be seen in file and app."""
    app, _ = plant()
    text = "[rules.{}]\nsubject = 'a'\ntask = 'note'\nenabled = {}\n"
    said = [("z", "true"), ("off", "false"), ("a", "true")]
    found = app.load_rules(write("".join(text.format(*pair) for pair in said)))

    @app.rule(on("a"))
    async def last() -> None: ...

    assert [rule.name for rule in found] == ["z", "off", "a"]
    assert list(app.rules) == ["python_rule", "z", "a", "last"]
    assert "off" not in app.tasks


def test_what_the_rule_says_of_runs_goes_before_what_the_task_says(write: Write) -> None:
    """A retry belongs to the task, until a rule knows better."""
    app, _ = plant()
    text = "[rules.{}]\nsubject = 'a'\ntask = '{}'\n{}\n"
    app.load_rules(
        write(
            text.format("as_it_is", "careful", "")
            + text.format("other", "careful", "retry = { attempts = 9 }\ntimeout = '2m'")
            + text.format("of_a_task", "beat", "timeout = 1")
        )
    )

    def said(name: str) -> tuple[Any, float | None]:
        spec = app.tasks[name]
        return spec.retry, spec.timeout_s

    assert said("as_it_is") == (Retry(attempts=3, wait_first=1), 5)
    assert said("other") == (Retry(attempts=9), 120)
    assert said("of_a_task") == (Retry(attempts=2), 1)
    assert said("beat") == (Retry(attempts=2), 7)


ALARMS = """
[rules.quiet]
subject = "sensors.*"
key = "subject.1"
pattern = { silent = 60 }
task = "note"
on_clear = "note"
warm = "replay"
timeout = 3
[rules.pair]
key = "subject.1"
pattern = { sequence = ["a", "b"], within = 10 }
task = "beat"
on_timeout = "note"
steps.a = { subject = "a.*" }
steps.b = { subject = "b.*" }
"""


async def test_a_rule_of_a_file_tells_of_ends_too(write: Write) -> None:
    """An alarm that ends, and a pair of which half is missing, start what the file names."""
    app, done = plant()
    app.load_rules(write(ALARMS))
    clock = StepClock()
    async with opened(app, MemoryLog(), clock) as engine:
        await engine.emit_many([("sensors.t1", 1), ("a.x", 2), ("b.x", 3), ("a.y", 4)])
        await clock.step(engine, 30)
        assert done == [("beat", "pair"), ("pair", "y", [4])]
        await clock.step(engine, 40)
        (alarm,) = engine.alarms()
        assert (alarm.rule, alarm.key) == ("quiet", "t1")
        await engine.emit("sensors.t1", 5)
        await engine.drain()
        assert engine.alarms() == []
        await check_live(engine)

    assert done[2:] == [("quiet", "t1", [1]), ("quiet", "t1", [5])]


def test_a_rule_with_other_actions_is_the_one_that_python_makes(write: Write) -> None:
    """So it can move between a file and Python, and keeps its state and its open runs."""
    app, _ = plant()
    app.load_rules(write(ALARMS))
    python = App("other")

    async def act() -> None: ...

    token = parse_key("subject.1")
    quiet = silent(on("sensors.*").key(token), for_=60)
    python.rule(quiet, name="quiet", on_clear=act, warm="replay")(act)
    pair = sequence(step("a", on("a.*").key(token)), step("b", on("b.*").key(token)), within=10)
    python.rule(pair, name="pair", on_timeout=act)(act)

    assert python.decider().fingerprints().items() <= app.decider().fingerprints().items()
    assert app.rules["quiet"].warm
    assert not app.rules["pair"].warm
    assert {name for name in app.tasks if "-" in name} == {"quiet-clear", "pair-timeout"}
    assert app.tasks["quiet-clear"].timeout_s == 3
    assert app.tasks["pair-timeout"].timeout_s is None


def app_with_odd_tasks() -> App:
    app = App("plant")

    @app.task
    async def add(run: Run, number: int) -> None: ...

    @app.action
    async def typed(firing: Firing[Reading]) -> None: ...

    @app.action
    async def either(firing: Firing[Reading | Door]) -> None: ...

    @app.rule(on("a", Door))
    async def doors(firing: Firing[Door]) -> None: ...

    @app.action
    async def cool(run: Run) -> None: ...

    return app


@pytest.mark.parametrize(
    ("name", "task", "place", "said"),
    [
        ("r", "coool", "3:8: rules.r.task", "expected a task of the app, found 'coool'; did you"),
        ("r", "xyz", "3:8: rules.r.task", "found 'xyz'; it has typed, either, cool, add, doors"),
        ("r", "add", "3:8: rules.r.task", "found that 'add' takes 'number'; .*@app.action"),
        ("r", "typed", "3:8: rules.r.task", "takes a Firing[Reading]; .*do not decode"),
        ("r", "either", "3:8: rules.r.task", "takes a Firing[Reading]"),
        ("r", "doors", "3:8: rules.r.task", "takes a Firing[Door]"),
        ("doors", "cool", "1:8: rules.doors", "found that of a rule of the app, 'doors'"),
        ("add", "cool", "1:8: rules.add", "found that of a task of the app, 'add'"),
        ("cool", "cool", "1:8: rules.cool", "found that of a task of the app, 'cool'"),
    ],
)
def test_a_task_that_does_not_fit_is_a_mistake_of_the_file(
    write: Write, name: str, task: str, place: str, said: str
) -> None:
    """It shows when the file is loaded, with its line, and not when the first firing comes."""
    app = app_with_odd_tasks()
    before = dict(app.tasks), dict(app.rules)
    good = "[rules.good]\nsubject = 'a'\ntask = 'cool'"
    path = write(f"[rules.{name}]\nsubject = 'a'\ntask = '{task}'\n{good}")
    with pytest.raises(RulesFileError) as caught:
        app.load_rules(path)

    (problem,) = caught.value.problems
    assert str(problem).startswith(f"{place}: ")
    for part in said.split(".*"):
        assert part in problem.message
    assert (app.tasks, app.rules) == before


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (
            "a = { task = 'cool', on_clear = 'cool', on_timeout = 'xyz' }",
            "rules.a.on_timeout: expected a task of the app, found 'xyz'",
        ),
        (
            "a = { task = 'cool', on_clear = 'typed' }",
            "rules.a.on_clear: expected a task that takes plain data",
        ),
        (
            "a = { task = 'cool', on_clear = 'cool' }\na-clear = { task = 'cool' }",
            "rules.a-clear: expected a name of its own, found that of an action of rule 'a'",
        ),
        (
            "a-clear = { task = 'cool' }\na = { task = 'cool', on_clear = 'cool' }",
            "rules.a.on_clear: expected a name of its own, found that of an action of rule 'a-cl",
        ),
        (
            "a = { task = 'cool', on_clear = 'cool' }\na-clear = { task = 'x', enabled = false }",
            "rules.a-clear: expected a name of its own",
        ),
        (
            "odd = { task = 'cool', on_timeout = 'cool' }",
            "rules.odd.on_timeout: expected a name of its own, found that of a task of the app",
        ),
    ],
)
def test_other_actions_have_names_that_fit(write: Write, rules: str, said: str) -> None:
    """What the log calls them is their rule's name and why: that must mean one thing only."""
    app = app_with_odd_tasks()

    async def other() -> None: ...

    app.task(name="odd-timeout")(other)
    pair = "subject = 'x', pattern = { silent = 9 }"
    if "on_timeout" in rules:
        pair = "steps = { a = { subject = 'x' } }, pattern = { sequence = ['a'], within = 9 }"
    text = "[rules]\n" + rules.replace("{ task", f"{{ {pair}, task")
    with pytest.raises(RulesFileError) as caught:
        app.load_rules(write(text))

    assert said in str(caught.value)


def test_a_file_that_is_loaded_twice_is_refused(write: Write) -> None:
    """Two rules of one name would be two states under it."""
    app = app_with_odd_tasks()
    path = write("[rules.r]\nsubject = 'a'\ntask = 'cool'")
    app.load_rules(path)

    with pytest.raises(RulesFileError, match="found that of a rule of the app, 'r'"):
        app.load_rules(path)


def test_an_app_without_tasks_says_so(write: Write) -> None:
    """The first thing that somebody tries is a file beside an empty app."""
    path = write("[rules.r]\nsubject = 'a'\ntask = 't'")

    with pytest.raises(RulesFileError, match="found 't'; it has none"):
        App("empty").load_rules(path)


def test_an_action_is_checked_when_it_is_declared() -> None:
    """An action takes what a rule's action takes, and its name is one of the app's names."""
    app = app_with_odd_tasks()

    async def wrong(run: Run, number: int) -> None: ...

    async def cool() -> None: ...

    with pytest.raises(TypeError, match="its action takes 'number'"):
        app.action(wrong)
    with pytest.raises(ValueError, match="'cool' is declared twice"):
        app.task(cool)
    with pytest.raises(ValueError, match="'add' is declared twice"):
        app.action(name="add")(cool)
