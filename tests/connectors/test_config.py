"""headrace.toml: what it makes, and that everything wrong in it is said at once, with its place."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.connectors import package

from headrace import App, MemoryLog
from headrace.config import Config, ConfigError, load_config, read_config
from headrace.connecting import sink_retry

ENVIRON = {"MILL_URL": "mill://user:geheim@here", "PORT": "8080", "TOKEN": "geheim-1"}

GOOD = """
[run]
app = "plant.py:app"
log = "plant.log"

[sources.line]
type = "mill"
url = "${MILL_URL}/a?b=$${c}"
topics = ["alert.t1", "alert.${PORT}", "other.t2"]
port = "${PORT}"
every_s = 2
keep = true
mode = "slow"
headers = { Authorization = "Bearer ${TOKEN}" }

[sinks.notes]
type = "mill-sink"
path = "notes.txt"
timeout = 3
concurrency = 1
retry = { attempts = 3, wait_first = "10ms", wait_max = 1 }

[[forward]]
on = ["alert.>", "alarm.*"]
sink = "notes"

[[forward]]
name = "others"
on = "other.*"
sink = "notes"
"""


@pytest.fixture(autouse=True, scope="module")
def _installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("packages")
    package.install(folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(folder)
        patched.delitem(sys.modules, "mill_connectors", raising=False)
        patched.chdir(tmp_path_factory.mktemp("here"))
        yield


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "headrace.toml"


def read(text: str, environ: dict[str, str] | None = None) -> Config:
    Path("headrace.toml").write_text(text)
    return read_config("headrace.toml", ENVIRON if environ is None else environ)


def problems(text: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as found:
        read(text, environ)
    return [line.removeprefix("headrace.toml:") for line in found.value.lines]


def test_what_a_file_says_is_what_the_connectors_get() -> None:
    """Texts, numbers, lists and tables, each as the signature wants it."""
    config = read(GOOD)

    line: Any = config.sources["line"]
    assert (line.name, line.url) == ("line", "mill://user:geheim@here/a?b=${c}")
    assert line.topics == ["alert.t1", "alert.8080", "other.t2"]
    assert (line.port, line.every_s, line.keep, line.mode) == (8080, 2.0, True, "slow")
    assert line.headers == {"Authorization": "Bearer geheim-1"}
    notes: Any = config.sinks["notes"].sink
    assert (notes.name, notes.path, notes.timeout) == ("notes", "notes.txt", 3.0)
    options = config.sinks["notes"].options
    assert options["concurrency"] == 1
    assert options["retry"] == sink_retry(attempts=3, wait_first=0.01, wait_max=1)
    assert [one.name for one in config.forwards] == ["forward_notes", "others"]
    assert (config.app, config.log, config.rules) == ("plant.py:app", "plant.log", None)


async def test_app_of_a_file_takes_events_in_and_out() -> None:
    """No Python says that they go from here to there."""
    app = App("plant")
    load_config_of(app, GOOD.replace("notes.txt", f"{id(app)}.txt"))
    async with app.open(MemoryLog()) as engine:
        feeder: Any = engine.companions[0]
        await feeder.ended.wait()
        await engine.drain()
    assert sorted(lines_of(f"{id(app)}.txt")) == [
        "alert.8080 {'n': 1}",
        "alert.t1 {'n': 0}",
        "other.t2 {'n': 2}",
    ]


def test_everything_that_is_wrong_is_said_at_once() -> None:
    """Each on a line, with its place, in the order of the file."""
    found = problems("""
[run]
logs = "a"
[sources.line]
type = "mil"
[sources."a b"]
type = "mill"
[sources.two]
type = "mill-sink"
[sources.three]
type = "mill"
topics = ["a", 1]
prot = 80
every_s = "2"
mode = "quick"
payload = 3
tls = "x"
read = "x"
[sinks.notes]
path = 1
[sinks.more]
type = "mill-sink"
path = "x"
concurrency = 0
retry = { tries = 2 }
[[forward]]
on = "alert..x"
sink = "note"
""")
    expected = [
        "3:1: run.logs: expected a known key, found 'logs'; did you mean 'log'?",
        "5:8: sources.line.type: expected the type of a connector that is installed (",
        "6:10: sources.'a b': expected a name of 1 to 64 letters",
        "9:8: sources.two.type: expected the type of a source, found 'mill-sink', which is a sink",
        "10:10: sources.three: expected url, found none; write url = a text",
        "12:16: sources.three.topics[1]: expected a list, each a text, found 1",
        "13:1: sources.three.prot: expected a known key, found 'prot'; did you mean 'port'?",
        "14:11: sources.three.every_s: expected a number, found '2'",
        "15:8: sources.three.mode: expected 'fast' or 'slow', found 'quick'",
        "16:11: sources.three.payload: expected 'json' or 'text', found 3",
        "18:8: sources.three.read: expected read to be declared in Python: it cannot stand in",
        "19:8: sinks.notes: expected type = the type of a sink such as",
        "24:15: sinks.more.concurrency: expected a whole number of at least 1, found 0",
        "25:11: sinks.more.retry.tries: expected attempts, wait_first or wait_max, found 'tries'",
        "27:6: forward[0].on: ",
        "28:8: forward[0].sink: expected a sink of this file, found 'note'; did you mean 'notes'?",
    ]
    assert len(found) == len(expected), "\n".join(found)
    for line, begin in zip(found, expected, strict=True):
        assert line.startswith(begin), (line, begin)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", " expected tables such as [sources.line], found an empty file"),
        ("[sources", "1:9: expected TOML: "),
        ("[surces.a]\n", "1:2: surces: expected a known key, found 'surces'; did you mean 's"),
        ("sources = 1", "1:11: sources: expected a table, found 1"),
        ("[sources]\na = 1", '2:5: sources.a: expected a table with type = "…", found 1'),
        ("[sources.a]\ntype = 1", "2:8: sources.a.type: expected type = the type of a source such"),
        ("forward = 1", "1:11: forward: expected [[forward]], a list of tables, found 1"),
        ("[[forward]]", "1:3: forward[0]: expected on, found none"),
        ("[run]\napp = 1", "2:7: run.app: expected an app such as 'plant.py:app', found 1"),
    ],
)
def test_file_of_another_shape_is_refused(text: str, expected: str) -> None:
    """It says what would do."""
    assert problems(text)[0].startswith(expected)


def test_variable_that_is_not_set_is_said_with_its_place() -> None:
    """All of them, and nothing is taken for a variable that is none."""
    text = '[sources.a]\ntype = "mill"\nurl = "${NO}"\ntopics = ["${NOR}", "${1}", "${"]\n'
    not_set = "in the environment, found none; set it before headrace starts"
    no_name = "expected ${NAME} for a variable of the environment, found"
    assert problems(text, {}) == [
        f"3:7: sources.a.url: expected NO {not_set}",
        f"4:11: sources.a.topics[0]: expected NOR {not_set}",
        f"4:21: sources.a.topics[1]: {no_name} '${{1}}'; write $${{ for ${{",
        f"4:29: sources.a.topics[2]: {no_name} '${{'; write $${{ for ${{",
    ]


def test_secret_is_not_in_what_is_said() -> None:
    """Neither where its type is wrong, nor in what the connector itself says."""
    text = '[sources.a]\ntype = "mill"\nurl = "bad://u:${TOKEN}@h?x=${TOKEN}"\nport = "${TOKEN}"\n'
    (wrong_type,) = problems(text)
    assert wrong_type == "4:8: sources.a.port: expected a whole number, found '${TOKEN}'"
    written = (
        '[sources.a]\ntype = "redis-stream"\nurl = "redis://h"\nstream = "s"\npassword = 4711\n'
    )
    assert problems(written) == ["5:12: sources.a.password: expected a text, found something else"]
    (own,) = problems(text.replace('port = "${TOKEN}"', ""))
    assert "geheim" not in own
    assert own.startswith("1:10: sources.a: Mill, url: expected another address, found 'bad://***@")


def test_name_that_the_app_has_is_refused() -> None:
    """Before anything is declared."""
    app = App("plant")
    load_config_of(app, GOOD)
    before = (len(app.sources), len(app.rules))
    with pytest.raises(ConfigError) as found:
        load_config_of(app, GOOD)
    lines = [line.partition(": ")[2] for line in found.value.lines]
    taken = "expected a name that is not taken, found"
    assert lines == [
        f"sources.line: {taken} 'line', which is that of a source",
        f"sinks.notes: {taken} 'notes', which is that of a sink",
        f"forward[0]: {taken} 'forward_notes', which is that of a rule or task",
        f"forward[1]: {taken} 'others', which is that of a rule or task",
    ]
    assert (len(app.sources), len(app.rules)) == before


def test_two_forwards_of_one_name_are_refused() -> None:
    """A rule has a name of its own."""
    text = GOOD.replace('name = "others"\n', "")
    (line,) = problems(text)
    assert "found 'forward_notes', which is that of an earlier forward" in line


def load_config_of(app: App, text: str) -> None:
    Path("headrace.toml").write_text(text)
    load_config("headrace.toml", app, ENVIRON)


def lines_of(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


INK = ["", "1", '"x"', "[", "]", "{", "}", "=", "\n", "true", "${", "1e999", "[[a]]\n", "[run]\n"]
MORE_INK = ['type = "memory"\n', "\x00", "é", "9" * 5000, "-1", "inf", "[[]]"]
SLIPS = st.tuples(st.integers(0, len(GOOD)), st.integers(0, 12), st.sampled_from([*INK, *MORE_INK]))


@given(edits=st.lists(SLIPS, min_size=1, max_size=4))
@settings(max_examples=150)
@pytest.mark.slow
def test_whatever_is_written_is_used_or_refused(
    edits: list[tuple[int, int, str]], scratch: Path
) -> None:
    """A slip of the pen ends in problems with their places, never in a traceback."""
    text = GOOD
    for place, cut, put in edits:
        text = text[:place] + put + text[place + cut :]
    scratch.write_text(text, encoding="utf-8")
    said = ""
    try:
        read_config(scratch, ENVIRON).declare(App("plant"))
    except ConfigError as error:
        said = str(error)
    assert "geheim" not in said


def test_tries_that_do_not_fit_each_other_are_said_with_their_place() -> None:
    """What the policy itself refuses is wrong in the file."""
    text = """
[sinks.notes]
type = "mill-sink"
path = "notes.txt"
retry = { wait_first = 9, wait_max = 1 }
"""
    (found,) = problems(text)
    assert found.startswith("5:9: sinks.notes.retry: ")
    assert "expected at most wait_max" in found
