"""What is wrong in a rules file is said at its exact place, and all of it at once.

In the texts below « stands right before the place that has to be named.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace import HeadraceError, RulesFileError
from headrace.engine.errors import Problem
from headrace.triggers.rules_file import read_rules
from headrace.triggers.rules_places import Places
from headrace.triggers.toml_file import FILE_BYTES_MAX


def problems_of(stored: str | bytes, folder: Path) -> list[Problem]:
    path = folder / "rules.toml"
    path.write_bytes(stored.encode() if isinstance(stored, str) else stored)
    with pytest.raises(RulesFileError) as caught:
        read_rules(path)
    assert str(caught.value) == "\n".join(caught.value.lines)
    assert isinstance(caught.value, HeadraceError)
    return caught.value.problems


def marked(text: str) -> tuple[str, tuple[int, int]]:
    """The text without its mark, and the line and column of that."""
    before, _, after = text.partition("«")
    assert "«" not in after
    return before + after, (before.count("\n") + 1, len(before) - before.rfind("\n"))


STEPS = "\nsteps.one.subject = 'a'\nsteps.two.subject = 'b'"

IN_A_RULE: dict[str, tuple[str, str]] = {
    "unknown key": ("«timeuot = 3", "timeuot: expected a known key, .*did you mean 'timeout'?"),
    "nothing like it": ("«colour = 3", "colour: expected subject, subjects, where, key, pattern"),
    "subject": ("subject = «'a..b'", "subject: pattern 'a..b', character 3: expected a token"),
    "subject kind": ("subject = «3", "subject: expected a subject such as .*found 3"),
    "subjects": ("subjects = ['a', «'b c']", "subjects[1]: pattern 'b c'"),
    "subjects empty": ("subjects = «[]", "subjects: expected a subject.*found an empty list"),
    "subjects kind": ("subjects = ['a', «{}]", "subjects[1]: expected a subject.*found a table"),
    "both": ("subject = «'a'\nsubjects = ['a']", "subject: expected subject or subjects, found"),
    "where": ("where = 'x > «y'", "where: expected a constant, found y"),
    "where in a list": ("where = ['x > 1',\n  'x >>« ']", "where[1]: expected a condition"),
    "where over lines": (
        "where = '''\nx > 1 and\n  «größe >> 2'''",
        "where: expected a condition.*found größe >> 2",
    ),
    "where at once": ("where = '''x > 1 and\n x > «y'''", "where: expected a constant"),
    "where with escapes": ('where = «"x == \\"a"', "where: expected a condition"),
    "where kind": ("where = «3", "where: expected a condition such as 'celsius > 90' or a list"),
    "key": ("key = 'subject.«x'", "key: expected the number of a token, from 0, found 'x'"),
    "key path": ("key = '«a b'", "key: expected the path of a field"),
    "key part": ("key = ['a', 'subject.«']", "key[1]: expected the number of a token"),
    "key kind": ("key = ['a', «3]", "key[1]: expected a key such as 'subject.1'"),
    "key parts": ("key = «[" + "'a'," * 17 + "]", "key: expected 1 to 16 parts of a key, found 17"),
    "pattern kind": ("pattern = «'count'", "pattern: expected a table such as { count = 3"),
    "pattern empty": ("pattern = «[]", "pattern: expected operators such as"),
    "no operator": (
        "pattern = «{ cuont = 3 }",
        "pattern: expected an operator.*mean 'count'",
    ),
    "no operator at all": ("pattern = «{}", "pattern: expected an operator.*found an empty table"),
    "two operators": (
        "pattern = { hold = 3, «throttle = 4 }",
        "pattern.throttle: expected one operator in a table, found hold and throttle; write a list",
    ),
    "option": (
        "pattern = { count = 3, «witin = 4, within = 5 }",
        "pattern.witin: expected a known key, found 'witin'; did you mean 'within'?",
    ),
    "option of another": (
        "pattern = { throttle = 3, «within = 5 }",
        "pattern.within: expected throttle or edge, found 'within'",
    ),
    "lacking": ("pattern = «{ count = 3 }", "pattern: expected within, found none; write within"),
    "lacking in a list": (
        "pattern = [{ throttle = 3 },\n «{ dedupe = 'x' }]",
        "pattern[1]: expected ttl, found none; write ttl = '1m'",
    ),
    "lacking in an array": (
        "[[rules.r.pattern]]\nthrottle = 5\n[[rules.r.«pattern]]\nhopping = 5",
        "pattern[1]: expected every, found none",
    ),
    "whole": ("pattern = { count = «0, within = 5 }", "count: expected a whole number of at least"),
    "bool": ("pattern = { count = «true, within = 5 }", "at least 1, found true"),
    "float": ("pattern = { count = «1.5, within = 5 }", "at least 1, found 1.5"),
    "too many": (
        "pattern = { count = «1001, within = 5 }",
        "count: count(1001): at most 1000 events are held",
    ),
    "huge": ("pattern = { count = «0x" + "f" * 99 + ", within = 5 }", "found a number of over 64"),
    "negative": (
        "pattern = { hold = «-5 }",
        "hold: expected more than 0 and less than",
    ),
    "nan": ("pattern = { throttle = «nan }", "throttle: expected more than 0"),
    "inf": ("pattern = { throttle = «inf }", "throttle: expected more than 0"),
    "huge span": ("timeout = «0x" + "f" * 999, "timeout: expected more than 0"),
    "unit": ("timeout = «'5 min'", "timeout: expected a number and its unit such as '250ms'"),
    "no time": ("timeout = «'0s'", "timeout: expected more than 0"),
    "too long": ("timeout = «'20000d'", "timeout: expected more than 0 and less than 1e9"),
    "span kind": ("timeout = «[5]", "timeout: expected seconds, or a text such as '250ms'"),
    "choice": (
        "pattern = { count = 3, within = 5, mode = «'edgy' }",
        "pattern.mode: expected 'reset', 'edge' or 'every', found 'edgy'; did you mean 'edge'?",
    ),
    "crosses nothing": ("pattern = { crosses = «'x' }", "crosses: .*expected one of the two"),
    "crosses both": (
        "pattern = { crosses = «'x', above = 1, below = 0 }",
        "crosses: .*expected one of the two",
    ),
    "crosses field": ("pattern = { crosses = '«x > 5', above = 5 }", "crosses: expected the path"),
    "crosses inf": ("pattern = { crosses = 'x', above = «inf }", "above: expected a number"),
    "hold": (
        "pattern = { hold = «5 }",
        "hold: expected a condition right before hold.*give where",
    ),
    "edge alone": (
        "pattern = { count = «3, within = inf, mode = 'edge' }",
        "count: .*fires once for ever",
    ),
    "batch": ("pattern = { batch = «inf }", "batch: .*or it never ends"),
    "zone": ("pattern = { tumbling = «'1d', tz = 'Mars/Base' }", "tumbling: .*Mars/Base"),
    "expect": (
        "pattern = { silent = 5, expect = ['a', «[['b']]] }",
        "expect[1]: expected str, .*found a list",
    ),
    "expect kind": ("pattern = { silent = 5, expect = «'a' }", "expect: expected a list of keys"),
    "no event": (
        "pattern = [{ silent = 5, expect = ['a'] }, { where = «'x > 1' }]",
        "pattern[1].where: .*may fire when there is no event",
    ),
    "steps of none": (
        "pattern = { sequence = «['one', 'two'] }",
        "sequence: expected sequence with steps in place of a subject",
    ),
    "event time": ("event_time = «{ lateness = 5 }", "event_time: expected field, found none"),
    "event time path": ("event_time = '«a b'", "event_time: expected the path of a field"),
    "event time key": ("event_time = { «feild = 'x' }", "feild: expected a known key"),
    "mode": ("mode = «'sngle'", "mode: expected 'parallel', .*did you mean 'single'?"),
    "mode table": ("mode = «{ overflow = 'drop_old' }", "mode: expected queue, found none"),
    "queue": ("mode = { queue = «0 }", "mode.queue: expected a whole number"),
    "on_missed": ("on_missed = «'never'", "expected 'fire' or 'skip' or { fire_within = 30 }"),
    "on_missed table": ("on_missed = { «within = 3 }", "within: expected a known key"),
    "retry": ("retry = «3", "retry: expected a table, found 3"),
    "retry key": ("retry = { «attemps = 3 }", "attemps: expected a known key.*'attempts'"),
    "retry wait": ("retry = «{ wait_first = 60 }", "retry: .*raise wait_max too"),
    "enabled": ("enabled = «'yes'", "enabled: expected true or false, found 'yes'"),
    "description": ("description = «3", "description: expected a text, found 3"),
    "task": ("task = «['a']", "task: expected the name of a task, found a list"),
    "on_clear": (
        "pattern = { silent = 5 }\non_clear = «3",
        "on_clear: expected the name of a task",
    ),
    "on_clear of a moment": (
        "pattern = { count = 3, within = 5 }\non_clear = «'t'",
        "on_clear: .*expected a pattern whose condition ends",
    ),
    "on_clear before the end": (
        "pattern = [{ silent = 5 }, { throttle = 9 }]\non_clear = «'t'",
        "on_clear: .*its last operator .crosses",
    ),
    "on_timeout": (
        "pattern = { silent = 5 }\non_timeout = «'t'",
        "on_timeout: .*expected a sequence(…) with nothing behind it",
    ),
    "warm": ("warm = «true", "warm: expected 'replay', found true"),
    "clock": ("tz = «'UTC'", "tz: expected tz beside cron"),
    "catch_up": ("catch_up = «'all'", "catch_up: expected catch_up beside every, cron or at"),
}


@pytest.mark.parametrize("name", IN_A_RULE)
def test_a_mistake_in_a_rule_is_named_at_its_place(name: str, tmp_path: Path) -> None:
    """An editor jumps to the very character, and the message says what to write there."""
    said, expected = IN_A_RULE[name]
    subject = "" if "subject" in said.split(" = ")[0] else "subject = 'a'\n"
    task = "" if said.startswith("task") else "task = 't'\n"
    text, place = marked(f"# rules\n[rules.r]\n{subject}{task}{said}\n")
    (problem,) = problems_of(text, tmp_path)

    assert (problem.line, problem.column) == place
    assert problem.path.startswith("rules.r.")
    for part in expected.split(".*"):
        assert part in f"{problem.path}: {problem.message}"


WHOLE: dict[str, tuple[str, str]] = {
    "no task": ("[rules.«r]\nsubject = 'a'", "rules.r: expected task, found none"),
    "no subject": ("[rules.«r]\ntask = 't'", "rules.r: expected subject, subjects, steps, every"),
    "no table": ("[rules]\nr = «3", "rules.r: expected a table, found 3"),
    "name": ("[rules.«'a b']\nsubject = 'a'\ntask = 't'", "rules.'a b': expected a name of 1 to"),
    "other table": ("[rules]\n[«rule.r]\nsubject = 'a'", "rule: expected .*did you mean 'rules'?"),
    "no rules": ("«# nothing", "expected a table for each rule such as [rules.overheat]"),
    "rules": ("rules = «3", "rules: expected a table, found 3"),
    "a list": ("[[«rules]]\nsubject = 'a'", "rules: expected a table, found a list"),
    "inline": ("rules = { r = { subject = 'a', task = 't', «x = 1 } }", "rules.r.x: expected"),
    "dotted": ("rules.r.subject = 'a'\nrules.r.task = «3", "rules.r.task: expected the name"),
    "quoted": ('[rules."r"]\ntask = \'t\'\n"subject" = «3', "rules.r.subject: expected a subject"),
    "schedule and subject": (
        "[rules.r]\ntask = 't'\nevery = 5\nsubject = «'a'",
        "rules.r.subject: expected one of every and subject, found both",
    ),
    "schedule and where": (
        "[rules.r]\ntask = 't'\nevery = 5\nwhere = «'x > 1'",
        "where: expected no where beside every; there is no event",
    ),
    "schedule and on_clear": (
        "[rules.r]\ntask = 't'\nevery = 5\non_clear = «'t'",
        "on_clear: .*expected a pattern whose condition ends",
    ),
    "schedule and warm": (
        "[rules.r]\ntask = 't'\nevery = 5\nwarm = «'replay'",
        "warm: expected no warm beside every; there is no event that it could see",
    ),
    "no time to run out of": (
        (
            "[rules.r]\ntask = 't'\npattern = { sequence = ['one', 'two'] }\n"
            f"on_timeout = «'t'{STEPS}"
        ),
        "on_timeout: .*expected within=, or nothing runs out",
    ),
    "schedule and on_missed": (
        "[rules.r]\ntask = 't'\nevery = 5\non_missed = «'skip'",
        "on_missed: expected no on_missed beside every; write catch_up",
    ),
    "every": ("[rules.r]\ntask = 't'\nevery = «'1 day'", "every: expected a number and its unit"),
    "cron": ("[rules.r]\ntask = 't'\ncron = «'0 6 * *'", "cron: .*expected 5 fields"),
    "cron kind": ("[rules.r]\ntask = 't'\ncron = «5", "cron: expected a text such as"),
    "cron zone": ("[rules.r]\ntask = 't'\ncron = '0 6 * * *'\ntz = «'X/Y'", "tz: .*X/Y"),
    "at": ("[rules.r]\ntask = 't'\nat = «2027-03-01T08:00:00", "at: .*it has no time zone"),
    "at text": ("[rules.r]\ntask = 't'\nat = «'soon'", "at: .*expected a time such as"),
    "at day": ("[rules.r]\ntask = 't'\nat = «2027-03-01", "at: .*expected a datetime"),
    "no pattern": (
        f"[rules.r]\ntask = 't'{STEPS.replace('steps', '«steps', 1)}",
        "rules.r.steps: expected a pattern that begins with sequence, all_of, any_of or absent",
    ),
    "no joint": (
        f"[rules.r]\ntask = 't'\npattern = {{ count = «3, within = 5 }}{STEPS}",
        "pattern.count: expected sequence, all_of, any_of or absent first, .*found count",
    ),
    "joint later": (
        (
            "[rules.r]\ntask = 't'\npattern = [{ any_of = ['one', 'two'] }, "
            f"{{ sequence = «['one'] }}]{STEPS}"
        ),
        "pattern[1].sequence: expected sequence only as the first operator",
    ),
    "step's name": (
        f"[rules.r]\ntask = 't'\npattern = {{ sequence = ['one', 'two', «'tow'] }}{STEPS}",
        "sequence[2]: expected the name of a step, found 'tow'; did you mean 'two'?",
    ),
    "step twice": (
        f"[rules.r]\ntask = 't'\npattern = {{ sequence = ['one', 'two', «'one'] }}{STEPS}",
        "sequence[2]: expected each step once, found 'one' again",
    ),
    "step not named": (
        f"[rules.r]\ntask = 't'\npattern = {{ any_of = ['one'] }}{STEPS.replace('two', '«two')}",
        "steps.two: expected each step to be named in any_of, found no 'two' there",
    ),
    "step kind": (
        f"[rules.r]\ntask = 't'\npattern = {{ sequence = ['one', «3] }}{STEPS}",
        "sequence[1]: expected the name of a step, found 3",
    ),
    "steps kind": (
        f"[rules.r]\ntask = 't'\npattern = {{ sequence = «'one' }}{STEPS}",
        "sequence: expected a list of names of steps, found 'one'",
    ),
    "absent": (
        (
            "[rules.r]\ntask = 't'\npattern = { absent = 'one', after = «'tow', within = 5 }\n"
            "steps.one.subject = 'a'"
        ),
        "after: expected the name of a step, found 'tow'",
    ),
    "skip": (
        f"[rules.r]\ntask = 't'\npattern = {{ sequence = ['one', 'two'], skip = «['x'] }}{STEPS}",
        "skip: expected ['to_first', step] or ['to_last', step]",
    ),
    "skip to none": (
        (
            "[rules.r]\ntask = 't'\npattern = "
            f"{{ sequence = «['one', 'two'], skip = ['to_first', 'x'] }}{STEPS}"
        ),
        "sequence: .*there is no step 'x'",
    ),
    "where beside steps": (
        (
            "[rules.r]\ntask = 't'\nwhere = «'x > 1'\n"
            f"pattern = {{ sequence = ['one', 'two'] }}{STEPS}"
        ),
        "where: expected where in each of the steps, found it beside them",
    ),
    "step without subject": (
        "[rules.r]\ntask = 't'\npattern = { any_of = ['one'] }\n[rules.r.steps.«one]\nkey = 'x'",
        "steps.one: expected subject, found none",
    ),
    "step's condition": (
        (
            "[rules.r]\ntask = 't'\npattern = { any_of = ['one'] }\n[rules.r.steps.one]\n"
            "subject = 'a'\nwhere = 'x «= 1'"
        ),
        "steps.one.where: expected a condition.*write == or !=",
    ),
    "step of a step": (
        (
            "[rules.r]\ntask = 't'\npattern = { any_of = ['one'] }\n[rules.r.steps.one]\n"
            "subject = 'a'\npattern = { sequence = «['x'] }"
        ),
        "steps.one.pattern.sequence: expected sequence in a rule, not in a step",
    ),
    "times": (
        (
            f"[rules.r]\ntask = 't'\npattern = {{ sequence = ['one', 'two'] }}{STEPS}\n"
            f"steps.one.times = «[3, 1]"
        ),
        "steps.one.times: expected a whole number of at least 1, or two such as [1, 3]",
    ),
    "until": (
        (
            f"[rules.r]\ntask = 't'\npattern = {{ sequence = ['one', 'two'] }}"
            f"{STEPS.replace('one', '«one', 1)}\nsteps.one.until = 'x > 1'"
        ),
        "steps.one: .*ends a loop without bound",
    ),
    "not of any_of": (
        (
            f"[rules.r]\ntask = 't'\npattern = {{ any_of = ['one', 'two'] }}{STEPS}\n"
            f"steps.one.not = «true"
        ),
        "steps.one.not: expected not only in a step of a sequence",
    ),
    "not and optional": (
        f"[rules.r]\ntask = 't'\npattern = {{ sequence = ['one', 'two'] }}{STEPS}\n"
        f"steps.two = {{ subject = 'b', not = true, optional = «true }}".replace(
            "\nsteps.two.subject = 'b'", ""
        ),
        "steps.two.optional: expected no optional in a step that must not come",
    ),
    "not first": (
        (
            "[rules.r]\ntask = 't'\npattern = { sequence = «['two', 'one'] }\n"
            "steps.one.subject = 'a'\nsteps.two = { subject = 'b', not = true }"
        ),
        "sequence: .*cannot be its first step",
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_mistake_in_a_file_is_named_at_its_place(name: str, tmp_path: Path) -> None:
    """However the tables are written: with headers, dots or braces."""
    text, place = marked(WHOLE[name][0])
    (problem,) = problems_of(text, tmp_path)

    assert (problem.line, problem.column) == place
    for part in WHOLE[name][1].split(".*"):
        assert part in str(problem).partition(": ")[2]


NO_TOML: dict[str, tuple[str | bytes, tuple[int, int], str]] = {
    "syntax": ("[rules.r]\nsubject = \n", (2, 11), "expected TOML: Invalid value"),
    "twice": ("[rules.r]\nx = 1\nx = 2", (3, 6), "expected TOML: Cannot overwrite a value"),
    "open": ("[rules.r]\nx = 'a", (2, 7), "expected TOML: "),
    "yaml": ("rules:\n  r: 1", (1, 6), "expected TOML: "),
    "json": ('{"rules": {}}', (1, 1), "expected TOML: Invalid statement"),
    "not UTF-8": (b"[rules.r]\nx = '\xe4\xf6'", (2, 6), "expected UTF-8, found byte 0xe4"),
    "UTF-16": ("[rules]".encode("utf-16"), (1, 1), "expected UTF-8, found byte 0xff"),
    "zeros": (b"[rules]\n\0\0", (2, 1), "expected TOML: "),
    "deep": ("x = " + "[" * 100_000, (0, 0), "expected TOML, found lists nested too deeply"),
    "digits": ("x = " + "1" * 5000, (0, 0), "expected TOML: "),
    "empty": ("", (0, 0), "expected rules, found an empty file; write [rules] if there are none"),
    "blank": ("\n \n", (0, 0), "expected rules, found an empty file"),
    "large": (b"#" * (FILE_BYTES_MAX + 1), (0, 0), "expected at most 16777216 bytes, found more"),
}


@pytest.mark.parametrize("name", NO_TOML)
def test_a_file_that_is_no_toml_is_refused_at_its_place(name: str, tmp_path: Path) -> None:
    """Whatever was saved under that name, by whatever went wrong."""
    stored, place, said = NO_TOML[name]
    (problem,) = problems_of(stored, tmp_path)

    assert (problem.line, problem.column, problem.path) == (*place, "")
    assert problem.message.startswith(said)
    assert len(problem.message) < 300


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A wrong path ends like a wrong file, with its name."""
    for path, found in ((tmp_path, "a folder"), (tmp_path / "nix.toml", "nothing there")):
        with pytest.raises(RulesFileError) as caught:
            read_rules(path)
        assert str(caught.value) == f"{path}: expected a TOML file, found {found}"
    with pytest.raises(RulesFileError, match="expected a file that can be read"):
        read_rules("rules\0.toml")


def test_all_that_is_wrong_is_said_at_once_and_in_order(tmp_path: Path) -> None:
    """One look at the list, one round of corrections; what is right raises no noise."""
    text = """
[rules.good]
subject = "a"
task = "t"

[rules.hot]
subject = "a..b"
where = ["x >", "x > 1", "y = 2"]
key = "subject.z"
pattern = [{ count = 0, witin = 5 }, { throttle = "5 sec" }]
mode = "sngle"
timeout = -1

[rules.door]
pattern = { sequence = ["opened", "closd"], within = "x" }
task = "t"
steps.opened = { subject = "a b", where = "x" }
steps.closed = { subject = "b", times = 0 }
"""
    found = problems_of(text, tmp_path)

    assert [(problem.line, problem.path.removeprefix("rules.")) for problem in found] == [
        (6, "hot"),
        (7, "hot.subject"),
        (8, "hot.where[0]"),
        (8, "hot.where[2]"),
        (9, "hot.key"),
        (10, "hot.pattern[0].count"),
        (10, "hot.pattern[0].witin"),
        (10, "hot.pattern[1].throttle"),
        (11, "hot.mode"),
        (12, "hot.timeout"),
        (15, "door.pattern.sequence[1]"),
        (15, "door.pattern.within"),
        (17, "door.steps.opened.subject"),
        (17, "door.steps.opened.where"),
        (18, "door.steps.closed"),
        (18, "door.steps.closed.times"),
    ]


def test_whoever_knows_the_tasks_has_a_word_too(tmp_path: Path) -> None:
    """A task that is not there is a mistake of the file, and stands in the same list."""
    path = tmp_path / "rules.toml"
    path.write_text(
        "[rules.a]\nsubject = 3\ntask = 'x'\n"
        "[rules.b]\nsubject = 'b'\ntask = 'y'\non_clear = 'z'\npattern = { silent = 1 }\n"
    )
    asked: list[tuple[str, dict[str, str]]] = []

    def refuse(rule: str, tasks: dict[str, str]) -> list[tuple[str, str]]:
        asked.append((rule, tasks))
        return [(key, f"no {task}") for key, task in tasks.items()] + [("", "no name")]

    with pytest.raises(RulesFileError) as caught:
        read_rules(path, refuse=refuse)

    assert asked == [("a", {"task": "x"}), ("b", {"task": "y", "on_clear": "z"})]
    assert [str(problem) for problem in caught.value.problems] == [
        "1:8: rules.a: no name",
        "2:11: rules.a.subject: expected a subject such as 'sensors.*.temperature', found 3",
        "3:8: rules.a.task: no x",
        "4:8: rules.b: no name",
        "6:8: rules.b.task: no y",
        "7:12: rules.b.on_clear: no z",
    ]


# ---------------------------------------------------------------- places

names = st.sampled_from(["a", "b-c", "1", "é", "x.y", "q'", 'q"', ""])
scalars: st.SearchStrategy[Any] = st.one_of(
    st.integers(-9, 99),
    st.booleans(),
    st.sampled_from([1.5, "", "text", "# no comment", "a]b}c,d", 'q"q', "l1\nl2", "it's", '""x']),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=8,
)


class Writer:
    """Writes values as TOML in ways that are drawn, and notes where each begins."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.text = ""
        self.at: dict[tuple[str | int, ...], int] = {}

    def draw(self, *options: str) -> str:
        return self.data.draw(st.sampled_from(options))

    def key(self, name: str) -> str:
        if name.isascii() and name.replace("-", "").isalnum():
            return self.draw(name, f"'{name}'", f'"{name}"')
        quoted = name.replace('"', '\\"')
        return f'"{quoted}"'

    def scalar(self, value: Any) -> str:
        if not isinstance(value, str):
            return str(value).lower()
        basic = value.replace('"', '\\"').replace("\n", "\\n")
        forms = [f'"{basic}"', f'"""{basic}"""', f'"""\n{basic}"""']
        if "'" not in value:
            forms.append(f"'''\n{value}'''")
            if "\n" not in value:
                forms.append(f"'{value}'")
        return self.draw(*forms)

    def value(self, value: Any, path: tuple[str | int, ...]) -> None:
        self.at[path] = len(self.text)
        if isinstance(value, list):
            self.text += "["
            for number, item in enumerate(value):
                self.text += self.draw("", " ", "\n  ", " # ] a comment\n")
                self.value(item, (*path, number))
                self.text += self.draw(",", " ,", "\n,")
            self.text += self.draw("]", "\n]", "# [\n]")
        elif isinstance(value, dict):
            self.text += "{ "
            for number, (name, item) in enumerate(value.items()):
                self.text += f"{', ' * bool(number)}{self.key(name)} = "
                self.value(item, (*path, name))
            self.text += " }"
        else:
            self.text += self.scalar(value)

    def table(self, value: dict[str, Any], path: tuple[str | int, ...]) -> None:
        for name, item in value.items():
            self.text += self.draw("", "# key = 1\n", "\n", "  ")
            self.text += self.key(name) + self.draw("=", " = ")
            self.value(item, (*path, name))
            self.text += self.draw("\n", " # 'c\n")


@pytest.mark.slow
@given(st.dictionaries(names, values, max_size=3), st.lists(values, max_size=2), st.data())
def test_every_value_is_found_where_it_stands(
    top: dict[str, Any], items: list[Any], data: st.DataObject
) -> None:
    """However a file is laid out, a problem is never said to be somewhere else."""
    writer = Writer(data)
    writer.table(top, ())
    writer.text += "[t.'x.y'] # a table\n"
    writer.table(top, ("t", "x.y"))
    for number, item in enumerate(items):
        writer.text += "[[t.list]]\n"
        writer.table({"v": item}, ("t", "list", number))
        writer.text += "[ t . list . inner ]\n"
        writer.table({"v": item}, ("t", "list", number, "inner"))
    tomllib.loads(writer.text)
    places = Places(writer.text)

    for path, index in writer.at.items():
        before = writer.text[:index]
        assert places.of_value(path) == (before.count("\n") + 1, index - before.rfind("\n"))
