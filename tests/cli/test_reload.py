"""A rules file that changes while ``headrace run`` runs, and ``rules reload``."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.cli.command import WAIT_S, Call, Start, await_engine, records
from tests.engine.stand import FullLog, StepClock, make_room, opened

from headrace import App, Engine, Firing, MemoryLog, on
from headrace.cli import watch
from headrace.cli.watch import PROBLEMS_SHOWN_MAX, RulesWatch
from headrace.engine.record import RuleChanged

APP = """
from typing import Any

from headrace import App, Firing, on

app = App("plant")


@app.action
async def cool(firing: Firing[Any]) -> None: ...


@app.action
async def tell(firing: Firing[Any]) -> None: ...


@app.rule(on("other"))
async def other() -> None: ...
"""

RULES = """
[rules.counts]
subject = "a"
pattern = { count = 2, within = "1h" }
task = "cool"

[rules.each]
subject = "a"
where = "data > 10"
task = "cool"
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where a log will be, beside an app and its rules file."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "rules.toml").write_text(RULES)
    return tmp_path / "plant.log"


class Running:
    """A ``headrace run`` in a process of its own, with what it says on stderr."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def said(self, event: str) -> dict[str, Any]:
        """Wait until it says *event* and return the line."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            found: dict[str, Any] = json.loads(line)
            if found["event"] == event:
                return {key: found[key] for key in found.keys() - {"level", "timestamp", "event"}}
        raise AssertionError(f"it ended with {self.process.wait()} before it said {event}")

    def ended(self) -> list[str]:
        """End it in good order; return what else it has said."""
        self.process.terminate()
        _, err = self.process.communicate(timeout=WAIT_S)
        assert self.process.returncode == 0
        return [json.loads(line)["event"] for line in err.splitlines()]


def running(start: Start, log: Path) -> Running:
    process = start("run", "app.py", "--log", log, "--rules", "rules.toml", "--grace", "0")
    await_engine(log)
    return Running(process)


def fired(headrace: Call, log: Path) -> dict[str, int]:
    return {row["rule"]: row["fired"] for row in headrace("rules", "list", log, "-o", "json").json}


# ---------------------------------------------------------------- run --rules


@pytest.mark.slow
def test_a_running_engine_follows_its_rules_file(headrace: Call, start: Start, log: Path) -> None:
    """Edit, save, look: the new limit acts, and what is wrong is said and changes nothing."""
    path = log.with_name("rules.toml")
    run = running(start, log)
    headrace("emit", log, "a", 5)
    path.write_text(RULES.replace("> 10", "> 3").replace("each", "every"))
    assert run.said("rules_reloaded") == {
        "file": "rules.toml",
        "added": "every",
        "removed": "each",
    }
    headrace("emit", log, "a", 5)
    assert fired(headrace, log) == {"counts": 1, "every": 1, "other": 0}

    path.write_text(RULES.replace('"cool"', '"col"').replace('"1h"', '"1 hour"'))
    problems = [run.said("rules_not_reloaded")["problem"] for _ in range(3)]
    assert [problem.partition(": expected")[0] for problem in problems] == [
        "rules.toml:4:33: rules.counts.pattern.within",
        "rules.toml:5:8: rules.counts.task",
        "rules.toml:10:8: rules.each.task",
    ]
    headrace("emit", log, "a", 5)
    assert fired(headrace, log) == {"counts": 1, "every": 2, "other": 0}

    path.unlink()
    assert run.said("rules_not_reloaded")["problem"] == (
        "rules.toml: expected a TOML file, found nothing there"
    )
    new = path.with_name("new")
    new.write_text(RULES)
    new.rename(path)
    assert run.said("rules_reloaded")["added"] == "each"
    headrace("emit", log, "a", 11)
    assert fired(headrace, log) == {"counts": 2, "each": 1, "other": 0}
    assert run.ended() == ["stopping"]
    kinds = [(one.rule, one.cause) for one in records(log) if isinstance(one, RuleChanged)]
    assert kinds == [(rule, "rules.toml") for rule in ("each", "every", "every", "each")]
    assert headrace("replay", "app.py", log, "--rules", path).code == 0


# ---------------------------------------------------------------- rules reload


@pytest.mark.slow
def test_a_reload_says_what_has_changed(headrace: Call, start: Start, log: Path) -> None:
    """A deployment waits for it, and knows that the new rules are in force from here on."""
    path = log.with_name("rules.toml")
    run = running(start, log)
    headrace("emit", log, "a", 5)
    done = headrace("rules", "reload", log)
    assert (done.code, done.err) == (0, "")
    assert done.out == "file       rules.toml\nunchanged  2\n"
    path.write_text(
        RULES.replace('"cool"', '"tell"', 1).replace("each", "fresh")
        + "\n".join(f"[rules.n{n}]\nsubject = 'n'\ntask = 'cool'" for n in range(25))
    )
    done = headrace("rules", "reload", log)
    assert done.out.splitlines() == [
        "file          rules.toml",
        f"added         fresh, {', '.join(f'n{n}' for n in range(19))} and 6 more",
        "other action  counts",
        "removed       each",
        "unchanged     0",
    ]
    headrace("emit", log, "a", 5)
    assert fired(headrace, log)["counts"] == 1
    path.write_text("[rules]\n")
    document = headrace("rules", "reload", log, "-o", "json").json
    assert document["log"] == str(log)
    (file,) = document["files"]
    assert (file["counts"]["removed"], file["problems"]) == (27, [])
    run.ended()


@pytest.mark.slow
def test_a_bad_file_is_said_to_whoever_asks_for_a_reload(
    headrace: Call, start: Start, log: Path
) -> None:
    """As `check` would say it, line by line, with exit code 2; the engine goes on as before."""
    path = log.with_name("rules.toml")
    run = running(start, log)
    path.write_text(RULES.replace('"cool"', '"col"'))
    done = headrace("rules", "reload", log)
    assert done.code == 2
    assert [line.partition(": expected")[0] for line in done.err.splitlines()[:-1]] == [
        "rules.toml:5:8: rules.counts.task",
        "rules.toml:10:8: rules.each.task",
    ]
    assert done.last_error == (
        "rules.toml: expected rules that can be used, found 2 problems; correct them; what is in "
        "force stays"
    )
    assert done.out == "file      rules.toml\nproblems  2\n"
    path.write_text("")
    done = headrace("rules", "reload", log, "-o", "json")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert done.last_error.startswith("rules.toml: expected rules, found an empty file")
    assert done.json["files"][0]["problems"] == [done.last_error]
    run.ended()
    assert not any(isinstance(one, RuleChanged) for one in records(log))


@pytest.mark.slow
def test_without_an_engine_there_is_nothing_to_reload(headrace: Call, log: Path) -> None:
    """Exit code 5, as whenever an engine is needed and does not answer."""
    (log.parent / "none.jsonl").write_text("")
    call = ("run", "app.py", "--log", log, "--rules", "rules.toml", "--from", "none.jsonl")
    assert headrace(*call).code == 0
    done = headrace("rules", "reload", log)
    assert (done.code, len(done.err.splitlines())) == (5, 1)
    assert done.last_error.startswith("no engine answers, and the next start reads the rules by it")
    assert headrace("rules", "reload", "nothing.log").code == 4


@pytest.mark.slow
def test_an_engine_without_a_rules_file_says_so(headrace: Call, start: Start, log: Path) -> None:
    """The file was forgotten at the start, and a reload is the wrong way to add it."""
    process = start("run", "app.py", "--log", log, "--grace", "0")
    await_engine(log)
    done = headrace("rules", "reload", log)
    process.terminate()
    process.communicate(timeout=WAIT_S)

    assert done.code == 1
    assert "expected an app with a rules file, found one without; start it with --rules" in done.err


# ---------------------------------------------------------------- how a file is looked at


class Said:
    """A logger that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[Any] = []

    def info(self, event: str, **facts: Any) -> None:
        """Keep what has changed."""
        self.lines.append((event, {key: facts[key] for key in facts if key != "file"}))

    def error(self, event: str, *, problem: str) -> None:
        """Keep a problem."""
        assert event == "rules_not_reloaded"
        self.lines.append(problem)

    def take(self) -> list[Any]:
        """What was said since the last call."""
        taken, self.lines = self.lines, []
        return taken


class Stand:
    """A watch over a file, which looks when it is told to."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "rules.toml"
        self.path.write_text(RULES)
        self.app = App("plant")
        self.said = Said()

        async def cool(firing: Firing[Any]) -> None: ...

        self.app.action(cool)
        self.app.load_rules(self.path)

    def over(self, engine: Engine) -> Callable[[], Any]:
        return RulesWatch(self.app, engine, self.path, self.said)._look

    def age(self) -> None:
        """Let the file be an hour old, so that its times tell versions apart."""
        status = self.path.stat()
        then = status.st_mtime_ns - 3600 * 10**9
        os.utime(self.path, ns=(then, then))


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    """A rules file and its app; between two looks at it nothing has to be waited for."""
    monkeypatch.setattr(watch, "SETTLE_S", 0)
    return Stand(tmp_path)


def rules_of(engine: Engine) -> set[str]:
    return set(engine.kernel.state.rules)


async def test_a_change_between_the_start_and_the_first_look_is_seen(stand: Stand) -> None:
    """An engine may take minutes to open, and the file was read before."""
    stand.path.write_text(RULES.replace("each", "late"))
    stand.age()
    async with opened(stand.app) as engine:
        look = stand.over(engine)
        await look()
        assert rules_of(engine) == {"counts", "late"}
        assert stand.said.take() == [("rules_reloaded", {"added": "late", "removed": "each"})]
        await look()
        stand.path.touch()
        stand.age()
    assert stand.said.take() == []


async def test_an_old_file_that_is_the_same_is_not_read_again(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a second costs nothing: who looks at a thousand rules does not read them."""
    stand.age()
    async with opened(stand.app) as engine:
        look = stand.over(engine)
        await look()
        monkeypatch.setattr(stand.app, "reload_rules", None)
        await look()
    assert stand.said.take() == []


async def test_two_versions_of_the_same_time_and_size_are_told_apart(stand: Stand) -> None:
    """Times of files are coarse: a second save within one tick must not be missed."""
    async with opened(stand.app) as engine:
        look = stand.over(engine)
        await look()
        status = stand.path.stat()
        stand.path.write_text(RULES.replace("each", "same"))
        os.utime(stand.path, ns=(status.st_atime_ns, status.st_mtime_ns))
        await look()
        assert rules_of(engine) == {"counts", "same"}
        assert len(stand.said.take()) == 1
        await look()
    assert stand.said.take() == []


async def test_a_file_that_is_being_written_is_left_alone(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An editor empties a file and fills it: neither moment is what somebody meant."""
    async with opened(stand.app) as engine:
        look = stand.over(engine)
        await look()
        steps = iter(["", "[rules.counts]\nsubject = 'a'\n", RULES.replace("each", "new")])

        async def sleep(_: float) -> None:
            stand.path.write_text(next(steps))

        with monkeypatch.context() as patched:
            patched.setattr(anyio, "sleep", sleep)
            for _ in range(3):
                await look()
                assert rules_of(engine) == {"counts", "each"}
        assert stand.said.take() == []
        await look()
        assert rules_of(engine) == {"counts", "new"}


async def test_what_is_wrong_is_said_once(stand: Stand) -> None:
    """A file that stays bad over a weekend fills no disk with its complaints."""
    async with opened(stand.app) as engine:
        look = stand.over(engine)
        await look()
        stand.path.write_text("[rules")
        for _ in range(3):
            await look()
        (problem,) = stand.said.take()
        assert problem.startswith(f"{stand.path}:1:7: expected TOML")
        stand.path.unlink()
        for _ in range(3):
            await look()
        assert stand.said.take() == [f"{stand.path}: expected a TOML file, found nothing there"]
        assert rules_of(engine) == {"counts", "each"}
        stand.path.write_text(RULES)
        await look()
        assert stand.said.take() == [("rules_reloaded", {})]


async def test_there_is_an_end_to_what_is_said(stand: Stand) -> None:
    """Ten thousand problems are one, such as a wrong file under this name."""
    async with opened(stand.app) as engine:
        look = stand.over(engine)
        stand.path.write_text("[rules]\n" + "".join(f"r{n} = 1\n" for n in range(1000)))
        await look()
    said = stand.said.take()

    assert len(said) == PROBLEMS_SHOWN_MAX + 1
    assert said[-1] == f"{stand.path}: and {1000 - PROBLEMS_SHOWN_MAX} problems more"


async def test_a_full_disk_only_delays_a_change(stand: Stand) -> None:
    """Nobody has to save the file once more when there is room."""
    log, clock = FullLog(), StepClock()
    async with opened(stand.app, log, clock) as engine:
        look = stand.over(engine)
        await look()
        stand.path.write_text(RULES.replace("each", "new"))
        stand.age()
        log.fill()
        for _ in range(3):
            await look()
        assert stand.said.take() == [f"{stand.path}: the disk of the test is full"]
        await make_room(engine, log, clock)
        await look()
        assert rules_of(engine) == {"counts", "new"}


async def test_the_watch_ends_with_its_engine(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that has closed changes nothing, and that is no error of anybody."""
    monkeypatch.setattr(watch, "LOOK_S", 0)
    engine = stand.app.open(MemoryLog(), grace_s=0)
    async with engine:
        pass
    stand.path.write_text(RULES.replace("each", "new"))
    with anyio.fail_after(WAIT_S):
        await RulesWatch(stand.app, engine, stand.path, stand.said).run()

    assert stand.said.take() == []


async def test_a_rule_of_python_is_none_of_the_watch(stand: Stand) -> None:
    """What tasks add while the engine runs stays, whatever the file says."""

    async def act() -> None: ...

    async with opened(stand.app) as engine:
        await engine.add_rule(on("x"), act, name="added")
        look = stand.over(engine)
        stand.path.write_text("[rules]\n")
        await look()
        assert rules_of(engine) == {"added"}
