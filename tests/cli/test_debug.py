"""``headrace debug``: commands piped in, and what they print."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from tests.cli.command import Call, Done

from headrace.cli.breakpoints import breakpoint_of
from headrace.cli.errors import Usage
from headrace.engine.inspect import stepper
from headrace.engine.log.segment import name_of


@pytest.fixture
def debug(headrace: Call, log: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Call the stepper with the lines of *stdin*."""

    def call(*arguments: object, stdin: str | None = None) -> Done:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin or ""))
        return headrace("debug", "plant.py", log, *arguments)

    return call


def moves(done: Done) -> list[tuple[int, str]]:
    """Sequence and kind of each record that was shown."""
    assert done.code == 0, done.err
    found = re.findall(r"^(\d+)  \S+Z  (\S+)", done.out, re.MULTILINE)
    return [(int(sequence), kind) for sequence, kind in found]


def kinds(headrace: Call, log: Path) -> list[str]:
    """The kinds of the records, the first at index 1."""
    return ["", *(row["kind"] for row in headrace("log", "cat", log, "-o", "jsonl").jsonl)]


def test_record_by_record_with_what_each_changes(debug: Call, headrace: Call, log: Path) -> None:
    """Each record, what the rules made of it, and what became of the runs it is about."""
    names = kinds(headrace, log)
    every = debug(stdin=f"n {len(names) + 5}\n")

    assert moves(every) == list(enumerate(names))[1:]
    assert every.out.splitlines()[-1] == f"the end: record {len(names) - 1} is the last"
    refused = "lambda e: e.data.degrees > 90 (plant.py:28): no (e.data.degrees = 20.0)"
    assert f'    cool key "t1": {refused}\n' in every.out
    assert (
        '    cool key "t1": count(3, within=60): 2 of 3 within 60 s: 1 more to come\n' in every.out
    )
    fired = names.index("rule.fired")
    assert f"    + run {fired} of cool\n        status: active\n" in every.out
    assert "        call 3: nothing -> sleep: pending" in every.out
    assert "        call 3: sleep: pending -> sleep: done\n" in every.out


def test_on_to_firings_failures_and_breakpoints(debug: Call, headrace: Call, log: Path) -> None:
    """What is looked for is found at once, and not what lies between."""
    names = kinds(headrace, log)
    fired, failed = names.index("rule.fired"), names.index("attempt.failed")
    dead = names.index("run.failed")

    assert moves(debug(stdin="f\nx\nx\nx\n")) == [
        (fired, "rule.fired"),
        (failed, "attempt.failed"),
        (dead, "run.failed"),
    ]
    found = debug("--break", "rule=cool key=t1", stdin="b\n\n\n\n\n\n\n")
    events = [n for n, kind in enumerate(names) if kind == "event"]
    assert [sequence for sequence, _ in moves(found)] == sorted([*events[:5], fired])
    assert found.out.splitlines()[-1].startswith("no breakpoint any more: record ")
    assert [kind for _, kind in moves(debug(stdin=f"b run={fired} kind=run.completed\nb\n"))] == [
        "run.completed"
    ]
    (event,) = moves(debug(stdin="b subject=fans.>\nb\n"))
    assert event == (events[-1], "event")
    assert debug("--break", "rule=cool key=t9", stdin="b\n").out.startswith("no breakpoint")


@pytest.mark.slow
def test_backwards_shows_the_same_as_forwards(
    debug: Call, headrace: Call, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a state is kept nearby or not, a record shows what it showed before."""
    last = len(kinds(headrace, log)) - 1
    forwards = debug(stdin="n 99\n").out.splitlines()[:-1]

    def backwards() -> list[str]:
        pages = debug(stdin=f"goto {last}\n" + "back\n" * last).out
        assert pages.endswith("the beginning\n")
        shown = re.split(r"^(?=\d+  )", pages.removesuffix("the beginning\n"), flags=re.MULTILINE)
        return [line for page in reversed(shown) for line in page.splitlines()]

    assert backwards() == forwards
    monkeypatch.setattr(stepper, "KEPT_EVERY", 1)
    assert backwards() == forwards
    monkeypatch.setattr(stepper, "KEPT_MAX", 2)
    assert backwards() == forwards
    monkeypatch.setattr(stepper, "KEPT_BYTES_MAX", 10)
    assert backwards() == forwards


def test_going_to_a_place_and_back(debug: Call, headrace: Call, log: Path) -> None:
    """By sequence or by time, in both directions."""
    fired = kinds(headrace, log).index("rule.fired")
    done = debug("--at", fired, stdin="back 2\ngoto 2023-11-14T22:13:50Z\nn\ngoto 1\n")

    assert [sequence for sequence, _ in moves(done)] == [fired - 2, fired - 2, fired - 1, 1]


def test_state_and_why_at_any_place(debug: Call, headrace: Call, log: Path) -> None:
    """The same as the commands of these names print there."""
    fired = kinds(headrace, log).index("rule.fired")
    stdin = f"goto {fired - 2}\np\np key=t1\nwhy\nwhy cool\n"
    out = debug(stdin=stdin).out

    state = headrace("state", "plant.py", log, "--at", fired - 2).out
    of_key = headrace("state", "plant.py", log, "--at", fired - 2, "--key", "t1").out
    why = headrace("why", "plant.py", log, "cool", "--at", fired - 2).out
    assert out.endswith(state + of_key + why + why)


def test_what_cannot_be_obeyed_is_said_and_the_session_goes_on(debug: Call) -> None:
    """A slip of the finger at step 400 must not cost the 399 before it."""
    lines = [
        "jump",
        "n x",
        "goto",
        "goto 999",
        "p shape=round",
        "p rule=warm",
        "p run=2",
        "why warm",
        "why",
        "b",
        "b rule=warm",
        "b when=noon",
        "n",
    ]
    done = debug(stdin="\n".join(lines) + "\n")
    said = done.out.splitlines()

    assert said[0] == "'jump': expected n, f, x, b, p, why, back, goto, help or quit; see help"
    assert said[1] == "error: n: expected how many records, from 1, found 'x'"
    assert said[2] == "error: goto: expected a sequence or a time, found nothing"
    assert said[3].startswith("error: goto 999: expected a sequence from 1 to ")
    assert said[4] == "error: p: expected rule=…, key=… or run=…, found 'shape=round'"
    assert said[5] == "error: rule 'warm': expected one of the app's rules, found cool"
    assert said[6].startswith("error: --run 2: expected a run that is open after record 0")
    assert said[7] == said[5]
    assert said[8] == "error: why: expected a record, found the beginning; n goes to the first"
    assert said[9] == "there is no breakpoint: b rule=… key=… makes one"
    assert said[10] == "error: --break 'rule=warm': expected one of the app's rules, found cool"
    assert said[11].startswith("error: --break 'when=noon': expected rule=…, key=…, kind=…")
    assert moves(done) == [(1, "engine.started")]


def test_help_names_every_command_and_quit_ends(debug: Call) -> None:
    """Whoever is there for the first time finds the way out, too."""
    done = debug(stdin="help\nquit\nn\n")

    for command in ("n ", "f ", "x ", "b ", "p ", "why ", "back ", "goto ", "quit "):
        assert any(line.startswith(command) for line in done.out.splitlines()), command
    assert moves(done) == []


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["--break", "rule=warm"], 4, "expected one of the app's rules, found cool"),
        (["--break", "colour=red"], 2, "expected rule=…, key=…, kind=…, subject=…, run=…"),
        (["--break", "kind=firing"], 2, "expected a kind of record, one of "),
        (["--break", "run=first"], 2, "expected a run's number, found 'first'"),
        (["--break", "subject=a..b"], 2, "--break 'subject=a..b': "),
        (["--at", "99999"], 4, "--at 99999: expected a sequence from 1 to "),
    ],
)
def test_what_cannot_be_begun_is_said(
    debug: Call, arguments: list[str], code: int, error: str
) -> None:
    """Before anything is read."""
    done = debug(*arguments, stdin="n\n")

    assert done.code == code
    assert error in done.last_error
    assert done.out == ""


def test_a_damaged_log_can_be_stepped_through_up_to_the_damage(debug: Call, log: Path) -> None:
    """What is intact is shown; where it ends is said, and one can go back from there."""
    path = log / name_of(1)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = debug(stdin="n 99\nn\ngoto 2\n")

    shown = moves(done)
    assert shown[-1][0] == 2
    assert len(shown) > 3
    errors = [line for line in done.out.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2, "it is said again, and not taken for the end"
    assert "byte" in errors[0]


@pytest.mark.slow
def test_piped_in_a_process_of_its_own(shell: Call, log: Path) -> None:
    """As in a script: no prompt, and the end of the input ends it."""
    done = shell("debug", "plant.py", log, stdin="f\nback\n")

    assert done.code == 0, done.err
    assert [kind for _, kind in moves(done)] == ["rule.fired", "event"]
    assert done.err == ""


def test_on_to_what_a_run_did(debug: Call, headrace: Call, log: Path) -> None:
    """`run=` stops at each record that is about the run, and at no other."""
    rows = headrace("log", "cat", log, "-o", "jsonl").jsonl
    (fired,) = [row["sequence"] for row in rows if row["kind"] == "rule.fired"]
    of_it = [
        (row["sequence"], row["kind"])
        for row in rows
        if row["sequence"] == fired or fired in (row.get("run"), row.get("parent"))
    ]
    done = debug("--break", f"run={fired}", stdin="b\n" * (len(rows) + 1))

    assert len(of_it) > 3
    assert [one for one in moves(done) if one[1] != "timer.fired"] == [
        one for one in of_it if one[1] != "timer.fired"
    ]


def test_a_key_may_have_spaces_in_it() -> None:
    """As text or as JSON, wherever it stands; what follows it is no part of it."""
    rules = {"cool": ""}
    first = breakpoint_of("key=pump 1 rule=cool", rules)
    second = breakpoint_of('rule=cool  key=["a", 1]', rules)

    assert (first.keys, first.rule) == (("pump 1",), "cool")
    assert second.keys == (("a", 1), '["a", 1]')
    with pytest.raises(Usage, match="found 'it'"):
        breakpoint_of("rule=cool it", rules)


def test_the_state_of_a_key_with_spaces(
    headrace: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`p` takes keys as breakpoints do."""
    Path("rooms.py").write_text(ROOMS)
    lines = [
        f'{{"subject": "air", "time": "2026-03-01T08:00:0{n}Z", "data": {{}}}}\n' for n in "12"
    ]
    (tmp_path / "air.jsonl").write_text("".join(lines))
    run = ("run", "rooms.py", "--log", "rooms.log", "--from", "air.jsonl", "--clock", "input")
    assert headrace(*run).code == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("goto 4\np key=room 1\n"))
    done = headrace("debug", "rooms.py", "rooms.log")

    assert 'key "room 1" count(9, within=60): 2 of 9' in done.out


ROOMS = """\
from headrace import App, on

app = App("rooms")


@app.rule(on("air").key(lambda _: "room 1").count(9, within=60))
def nine() -> None: ...
"""
