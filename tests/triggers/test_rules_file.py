"""Rules in TOML: what each way of writing means, and the exact place of each mistake."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace import (
    Pattern,
    Retry,
    RulesFileError,
    absent,
    all_of,
    any_of,
    field,
    fire_within,
    not_,
    on,
    queue,
    sequence,
    silent,
    step,
)
from headrace.engine.errors import Problem
from headrace.testing import firings
from headrace.triggers.expression import parse_condition
from headrace.triggers.key_text import key_of, parse_key
from headrace.triggers.nodes_clock import EveryNode
from headrace.triggers.rules_file import Changes, RuleText, changes, read_rules
from headrace.triggers.rules_tables import seconds_in
from headrace.triggers.ruleset import Rule
from headrace.triggers.schedules import at_node, cron_node

NS = 1_000_000_000


def read(text: str, folder: Path) -> list[RuleText]:
    path = folder / "rules.toml"
    path.write_bytes(text.encode())
    return read_rules(path)


def problems_of(text: str, folder: Path) -> list[Problem]:
    with pytest.raises(RulesFileError) as caught:
        read(text, folder)
    return caught.value.problems


def one(said: str, folder: Path) -> RuleText:
    """The rule whose table has these lines; its task is there."""
    (rule,) = read(f"[rules.r]\ntask = 't'\n{said}\n", folder)
    return rule


EXAMPLE = """
# each table under [rules] is a rule
[rules.overheat]
subject = "sensors.*.temperature"
where = ["celsius > 90", "unit == 'C'"]
key = "subject.1"
pattern = { count = 3, within = 60, mode = "reset" }
task = "cool_down"
mode = "single"
on_missed = "skip"
retry = { attempts = 5, wait_first = 0.2, wait_max = 30 }
timeout = 20
enabled = true
description = "three times too hot"

[rules.gone_quiet]
subject = "sensors.*.temperature"
key = "subject.1"
pattern = { silent = 600, repeat = "every", expect = ["t1"] }
task = "page_operator"

[rules.door_left_open]
key = "subject.1"
pattern = { sequence = ["opened", "closed"], within = 30, on_timeout = true }
task = "tell"
[rules.door_left_open.steps.opened]
subject = "doors.*"
where = "state == 'open'"
[rules.door_left_open.steps.closed]
subject = "doors.*"
where = "state == 'closed'"
"""


def test_a_file_says_what_rules_in_python_would(tmp_path: Path) -> None:
    """Whoever moves a rule from one to the other knows that it stays the rule that it was."""
    overheat, quiet, door = read(EXAMPLE, tmp_path)
    token = parse_key("subject.1")
    doors = on("doors.*")

    assert (overheat.name, overheat.task, overheat.mode) == ("overheat", "cool_down", "single")
    assert overheat.retry == Retry(attempts=5, wait_first=0.2, wait_max=30)
    assert (overheat.on_missed, overheat.timeout, overheat.enabled) == ("skip", 20, True)
    assert overheat.description == "three times too hot"
    assert [overheat.line, quiet.line, door.line] == [3, 16, 22]
    assert (quiet.mode, quiet.on_missed, quiet.retry) == ("parallel", "fire", None)
    assert (quiet.timeout, quiet.description) == (None, "")
    sensors = on("sensors.*.temperature")
    hot = sensors.where(field("celsius") > 90).where(field("unit") == "C")
    three = hot.key(token).count(3, within=60)
    assert overheat.rule().fingerprint() == Rule("", three, "single", late_ns=0).fingerprint()
    watch = silent(sensors.key(token), for_=600, repeat="every", expect=["t1"])
    assert quiet.rule().fingerprint() == Rule("", watch, "parallel").fingerprint()
    opened = step("opened", doors.where(field("state") == "open").key(token))
    closed = step("closed", doors.where(field("state") == "closed").key(token))
    left_open = sequence(opened, closed, within=30, on_timeout=True)
    assert door.rule().fingerprint() == Rule("", left_open, "parallel").fingerprint()


A, B = on("a"), on("b")
HOT = field("x") > 5
S1, S2 = step("one", A), step("two", B)
TWO = "\nsteps.one.subject = 'a'\nsteps.two.subject = 'b'"
ONE = "\nsteps.one.subject = 'a'"

WAYS: dict[str, tuple[str, Pattern[Any]]] = {
    "subject": ("subject = 'a'", A),
    "subjects": ("subjects = ['a', 'b.>']", any_of(A, on("b.>"))),
    "one of several": ("subjects = 'a'", any_of(A)),
    "where": ("subject = 'a'\nwhere = 'x > 5'", A.where(HOT)),
    "wheres": ("subject = 'a'\nwhere = ['x > 5', 'y == 1']", A.where(HOT).where(field("y") == 1)),
    "key field": ("subject = 'a'\nkey = 'device.id'", A.key(field("device.id"))),
    "key subject": ("subject = 'a'\nkey = 'subject'", A.key(parse_key("subject"))),
    "key parts": (
        "subject = 'a'\nkey = ['subject.-1', 'x']",
        A.key(key_of([parse_key("subject.-1"), parse_key("x")])),
    ),
    "count": ("subject = 'a'\npattern = { count = 3, within = '1m' }", A.count(3, within=60)),
    "count options": (
        "subject = 'a'\npattern = { count = 3, within = inf, mode = 'every', partials_max = 9 }",
        A.count(3, within=None, mode="every", partials_max=9),
    ),
    "dotted": (
        "subject = 'a'\npattern.count = 3\npattern.within = 60",
        A.count(3, within=60),
    ),
    "crosses": (
        "subject = 'a'\npattern = { crosses = 'p.x', above = 30, hysteresis = 2, initial = true }",
        A.crosses(field("p.x"), above=30, hysteresis=2, initial=True),
    ),
    "crosses below": (
        "subject = 'a'\npattern = { crosses = 'data', below = 1.5 }",
        A.crosses(field(), below=1.5),
    ),
    "hold": (
        "subject = 'a'\nwhere = 'x > 5'\nkey = 'k'\npattern = { hold = 30 }",
        A.where(HOT).key(field("k")).hold(for_=30),
    ),
    "debounce": (
        "subject = 'a'\npattern = { debounce = '250ms', max_wait = 5, edge = 'both' }",
        A.debounce(0.25, 5, "both"),
    ),
    "throttle": (
        "subject = 'a'\npattern = { throttle = '1h', edge = 'trailing' }",
        A.throttle(3600, "trailing"),
    ),
    "rate_limit": (
        "subject = 'a'\npattern = { rate_limit = 5, per = '1m', burst = 2, overflow = 'latest' }",
        A.rate_limit(5, 60, 2, "latest"),
    ),
    "dedupe": (
        "subject = 'a'\npattern = { dedupe = 'id', ttl = '1d', refresh = true }",
        A.dedupe(field("id"), 86400, refresh=True),
    ),
    "dedupe all": ("subject = 'a'\npattern = { dedupe = true, ttl = 5 }", A.dedupe(None, 5)),
    "batch": (
        "subject = 'a'\npattern = { batch = 100, within = 10, bytes_max = 1000 }",
        A.batch(100, 10, 1000),
    ),
    "batch by time": ("subject = 'a'\npattern = { batch = inf, within = 10 }", A.batch(within=10)),
    "tumbling": (
        "subject = 'a'\npattern = { tumbling = '1d', tz = 'Europe/Berlin', emit_empty = true }",
        A.tumbling(86400, tz="Europe/Berlin", emit_empty=True),
    ),
    "hopping": (
        "subject = 'a'\npattern = { hopping = '1h', every = '10m' }",
        A.hopping(3600, 600),
    ),
    "session": ("subject = 'a'\npattern = { session = 30, max = '1h' }", A.session(30, 3600)),
    "silent": (
        "subject = 'a'\npattern = { silent = '10m', expect = ['t1', 2, ['x', 1]] }",
        silent(A, for_=600, expect=["t1", 2, ("x", 1)]),
    ),
    "several": (
        "subject = 'a'\npattern = [{ debounce = 5 }, { count = 3, within = '1m' }]",
        A.debounce(5).count(3, within=60),
    ),
    "array of tables": (
        "subject = 'a'\n[[rules.r.pattern]]\ndebounce = 5\n[[rules.r.pattern]]\nthrottle = 9",
        A.debounce(5).throttle(9),
    ),
    "where between": (
        "subject = 'a'\npattern = [{ throttle = 5 }, { where = 'x > 5' }, { hold = 3 }]",
        A.throttle(5).where(HOT).hold(for_=3),
    ),
    "key between": (
        "subject = 'a'\npattern = [{ key = 'k', keys_max = 9 }, { silent = 3 }]",
        silent(A.key(field("k"), keys_max=9), for_=3),
    ),
    "event time": (
        "subject = 'a'\nwhere = 'x > 5'\nevent_time = 'at'\npattern = { hold = 5 }",
        A.event_time(field("at")).where(HOT).hold(for_=5),
    ),
    "event time options": (
        (
            "subjects = ['a', 'b']\nevent_time = { field = 'at', lateness = '5s', idle = 60, "
            "late = 'as_now', partials_max = 7 }"
        ),
        any_of(
            *(
                p.event_time(field("at"), lateness=5, idle=60, late="as_now", partials_max=7)
                for p in (A, B)
            )
        ),
    ),
    "event time exact": (
        "subject = 'a'\nevent_time = { field = 'at', lateness = 0 }",
        A.event_time(field("at"), lateness=0),
    ),
    "any_of": (f"pattern = {{ any_of = ['two', 'one'] }}{TWO}", any_of(B, A)),
    "all_of": (
        f"pattern = {{ all_of = ['one', 'two'], within = inf, keep = 'first' }}{TWO}",
        all_of(S1, S2, within=None, keep="first"),
    ),
    "absent": (
        f"pattern = {{ absent = 'two', after = 'one', within = 10, rearm = 'restart' }}{TWO}",
        absent(B, after=A, within=10, rearm="restart"),
    ),
    "sequence": (
        (
            f"pattern = {{ sequence = ['one', 'two'], within = '1m', contiguity = 'strict', "
            f"anchor = 'every', partials_max = 5 }}{TWO}"
        ),
        sequence(S1, S2, within=60, contiguity="strict", anchor="every", partials_max=5),
    ),
    "sequence gap": (
        f"pattern = {{ sequence = ['one', 'two'], within_gap = 5 }}{TWO}",
        sequence(S1, S2, within_gap=5),
    ),
    "sequence skip": (
        f"pattern = {{ sequence = ['one', 'two'], skip = ['to_first', 'two'] }}{TWO}",
        sequence(S1, S2, skip=("to_first", "two")),
    ),
    "sequence skip word": (
        f"pattern = {{ sequence = ['one', 'two'], skip = 'to_next' }}{TWO}",
        sequence(S1, S2, skip="to_next"),
    ),
    "loop": (
        (
            f"pattern = {{ sequence = ['one', 'two'] }}{TWO}\nsteps.one.times = [2, inf]\n"
            f"steps.one.inner = 'strict'\nsteps.one.until = ['x > 5', 'y == 1']\n"
            f"steps.one.greedy = false"
        ),
        sequence(
            S1.times(2, None, inner="strict", greedy=False).until(HOT & (field("y") == 1)), S2
        ),
    ),
    "times": (
        (
            f"pattern = {{ sequence = ['one', 'two'] }}{TWO}\nsteps.one.times = 3\n"
            f"steps.one.optional = true\nsteps.two.contiguity = 'any'"
        ),
        sequence(S1.times(3).optional(), step("two", B, contiguity="any")),
    ),
    "negation": (
        (
            f"pattern = {{ sequence = ['one', 'none', 'two'] }}{TWO}\n"
            f"steps.none = {{ subject = 'c', not = true, contiguity = 'strict' }}"
        ),
        sequence(S1, not_(on("c"), contiguity="strict"), S2),
    ),
    "negation at the end": (
        (
            f"pattern = {{ sequence = ['one', 'none'], within = 9 }}{ONE}\n"
            f"steps.none = {{ subject = 'c', not = true }}"
        ),
        sequence(S1, not_(on("c")), within=9),
    ),
    "key of all steps": (
        f"key = 'k'\npattern = {{ sequence = ['one', 'two'] }}{TWO}\nsteps.two.key = 'other'",
        sequence(step("one", A.key(field("k"))), step("two", B.key(field("other")))),
    ),
    "patterns of steps": (
        (
            f"pattern = {{ sequence = ['one', 'two'] }}{TWO}\n"
            f"steps.two.pattern = {{ count = 3, within = 60 }}\nsteps.two.where = 'x > 5'"
        ),
        sequence(S1, step("two", B.where(HOT).count(3, within=60))),
    ),
    "behind steps": (
        f"pattern = [{{ any_of = ['one', 'two'] }}, {{ throttle = 5 }}]{TWO}",
        any_of(A, B).throttle(5),
    ),
    "every": ("every = '1h'", Pattern(EveryNode(3600 * NS))),
    "every catch up": ("every = 60\ncatch_up = 'all'", Pattern(EveryNode(60 * NS, "all"))),
    "cron": (
        "cron = '0 6 * * mon'\ntz = 'Europe/Berlin'\ncatch_up = 'none'",
        Pattern(cron_node("0 6 * * MON", "Europe/Berlin", "none")),
    ),
    "at text": (
        "at = '2027-03-01T08:00:00Z'",
        Pattern(at_node("2027-03-01T08:00:00Z", "last")),
    ),
    "at date": (
        "at = 2027-03-01T09:00:00+01:00",
        Pattern(at_node("2027-03-01T08:00:00Z", "last")),
    ),
}


@pytest.mark.parametrize("name", WAYS)
def test_each_way_of_writing_is_the_pattern_in_python(name: str, tmp_path: Path) -> None:
    """All that Python says with plain values can be said in a file, and means the same."""
    said, pattern = WAYS[name]
    rule = one(said, tmp_path)

    assert repr(rule.pattern) == repr(pattern)
    assert rule.rule().fingerprint() == Rule("", pattern, "parallel").fingerprint()


@pytest.mark.parametrize(
    ("said", "attribute", "value"),
    [
        ("mode = 'queue'", "mode", queue()),
        ("mode = { queue = 3 }", "mode", queue(3)),
        ("mode = { queue = 3, overflow = 'drop_old' }", "mode", queue(3, "drop_old")),
        ("mode.queue = 3", "mode", queue(3)),
        ("mode = 'latest'", "mode", "latest"),
        ("on_missed = 'fire'", "on_missed", "fire"),
        ("on_missed = { fire_within = '5m' }", "on_missed", fire_within(300)),
        ("retry = {}", "retry", Retry()),
        ("retry = { wait_first = 0, jitter = 0 }", "retry", Retry(wait_first=0, jitter=0)),
        ("retry.wait_max = '2m'", "retry", Retry(wait_max=120)),
        ("timeout = '1.5s'", "timeout", 1.5),
        ("enabled = false", "enabled", False),
    ],
)
def test_what_a_firing_starts_can_be_said(
    said: str, attribute: str, value: Any, tmp_path: Path
) -> None:
    """Modes, retries and downtimes need no Python either."""
    assert getattr(one(f"subject = 'a'\n{said}", tmp_path), attribute) == value


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("30s", 30),
        ("5m", 300),
        ("2h", 7200),
        ("1d", 86400),
        ("1.5 h", 5400),
        ("10us", 1e-5),
        ("7ns", 7e-9),
        ("0.1s", 0.1),
        ("1h30m", None),
        ("5", None),
        ("-5s", None),
        ("5 minutes", None),
        ("5M", None),
        ("s", None),
        ("1e3s", None),
        ("", None),
        ("٣s", None),
        ("1" * 5000 + "s", None),
    ],
)
def test_durations_are_numbers_with_a_unit(text: str, seconds: float | None) -> None:
    """What could be read in two ways, such as 5M, is not read at all."""
    assert seconds_in(text) == seconds


@given(st.integers(1, 10**6), st.sampled_from(["ms", "s", "m"]))
def test_a_duration_is_exact_to_the_nanosecond(number: int, unit: str) -> None:
    """A window of "100ms" is the very window of within=0.1: the rule keeps its state."""
    unit_ns = {"ms": NS // 1000, "s": NS, "m": 60 * NS}[unit]
    seconds = seconds_in(f"{number}{unit}")
    assert seconds is not None
    pattern = A.count(2, within=seconds)

    assert getattr(pattern.node, "within_ns", None) == number * unit_ns


# ---------------------------------------------------------------- keys


def keyed(key: str, folder: Path) -> list[Any]:
    """The keys of the firings of some events."""
    rule = one(f"subject = '>'\nkey = {key}", folder)
    data = {"device": {"id": 7}, "n": 1}
    timeline = [(0.0, "doors.a.open", data), (1.0, "doors", data), (2.0, "x.y.z", {"n": None})]
    return [fired.key for fired in firings(rule.pattern, timeline)]


@pytest.mark.parametrize(
    ("key", "keys"),
    [
        ("'subject'", ["doors.a.open", "doors", "x.y.z"]),
        ("'subject.1'", ["a", "y"]),
        ("'subject.-1'", ["open", "doors", "z"]),
        ("'subject.-3'", ["doors", "x"]),
        ("'device.id'", [7, 7]),
        ("'data.n'", [1, 1]),
        ("['subject.1', 'device.id']", [("a", 7)]),
        ("['n']", [(1,), (1,)]),
    ],
)
def test_a_key_is_read_from_subject_and_data(key: str, keys: list[Any], tmp_path: Path) -> None:
    """What an event lacks leaves it out, as a key of None does in Python."""
    assert keyed(key, tmp_path) == keys


def test_a_rule_of_a_file_fires_like_any_other(tmp_path: Path) -> None:
    """The file is another spelling, not another engine."""
    overheat, *_ = read(EXAMPLE, tmp_path)
    hot = {"celsius": 95, "unit": "C"}
    timeline = [
        (0.0, "sensors.t1.temperature", hot),
        (10.0, "sensors.t2.temperature", hot),
        (20.0, "sensors.t1.temperature", {"celsius": 95, "unit": "F"}),
        (50.0, "sensors.t1.temperature", hot),
        (59.0, "sensors.t1.temperature", hot),
    ]

    assert [(fired.at, fired.key) for fired in firings(overheat.pattern, timeline)] == [(59, "t1")]


# ---------------------------------------------------------------- versions


def named(folder: Path, **said: str) -> list[RuleText]:
    """Rules by name, each of these lines."""
    return read("".join(f"[rules.{name}]\n{lines}\n" for name, lines in said.items()), folder)


def test_two_versions_of_a_file_are_compared_rule_by_rule(tmp_path: Path) -> None:
    """What has not changed keeps its state when a running engine takes the new version."""
    old = named(
        tmp_path,
        gone="subject = 'a'\ntask = 't'",
        same="subject = 'a'\ntask = 't'\npattern = { count = 3, within = 60 }",
        other="subject = 'a'\ntask = 't'",
        where="subject = 'a'\ntask = 't'",
        mode="subject = 'a'\ntask = 't'",
        off="subject = 'a'\ntask = 't'",
        on="subject = 'a'\ntask = 't'\nenabled = false",
        cleared="subject = 'a'\npattern = { silent = 5 }\ntask = 't'\non_clear = 'u'",
        warm="subject = 'a'\ntask = 't'",
        clears="subject = 'a'\npattern = { silent = 5 }\ntask = 't'",
    )
    new = named(
        tmp_path,
        fresh="subject = 'a'\ntask = 't'",
        on="subject = 'a'\ntask = 't'",
        off="subject = 'a'\ntask = 't'\nenabled = false",
        mode="subject = 'a'\ntask = 't'\nmode = 'single'",
        where="subject = 'a'\ntask = 't'\nwhere = 'x > 1'",
        other="subject = 'a'\ntask = 'u'",
        cleared="subject = 'a'\npattern = { silent = 5 }\ntask = 't'\non_clear = 'v'",
        warm="subject = 'a'\ntask = 't'\nwarm = 'replay'",
        clears="subject = 'a'\npattern = { silent = 5 }\ntask = 't'\non_clear = 't'",
        same="# the same in other words\nsubject = 'a'\ntask = 't'\ndescription = 'three'\n"
        "[[rules.same.pattern]]\nwithin = '1m'\ncount = 3",
    )

    assert changes(old, new) == Changes(
        added=["fresh", "on"],
        removed=["gone", "off"],
        changed=["mode", "where", "clears"],
        same=["other", "cleared", "warm", "same"],
        other_action=["other", "cleared"],
    )


def test_a_version_is_the_same_as_itself(tmp_path: Path) -> None:
    """A file that is read again changes nothing."""
    first, again = read(EXAMPLE, tmp_path), read(EXAMPLE, tmp_path)
    names = [rule.name for rule in first]

    assert changes(first, again) == Changes([], [], [], names, [])
    assert changes(first, []) == Changes([], names, [], [], [])


# ---------------------------------------------------------------- files


def test_a_file_without_rules_says_so(tmp_path: Path) -> None:
    """No rules is a thing that can be meant; an empty file may be half written."""
    assert read("[rules]\n", tmp_path) == []
    assert read("rules = {}", tmp_path) == []


@pytest.mark.parametrize("start", ["\ufeff", "\r\n", "# é\r\n"])
def test_marks_and_line_ends_of_other_systems_are_read(start: str, tmp_path: Path) -> None:
    """A file that was saved on Windows is as good, and its places are right."""
    text = f"{start}[rules.r]\r\nsubject = 'a'\r\ntask = 't'\r\n"
    (rule,) = read(text, tmp_path)
    (problem,) = problems_of(text + "timeout = 'x'\r\n", tmp_path)

    assert rule.line == text[: text.index("[")].count("\n") + 1
    assert (problem.line, problem.column) == (rule.line + 3, 11)


@pytest.mark.slow
def test_ten_thousand_rules_are_read(tmp_path: Path) -> None:
    """A generated file with a rule for each device is a file like any other; see the time."""
    lines = "where = 'celsius > {}'\nkey = 'subject.1'\ntask = 'cool'"
    text = "".join(
        f"[rules.r{n}]\nsubject = 'sensors.s{n}.>'\n{lines.format(n % 100)}\n"
        for n in range(10_000)
    )
    began = time.perf_counter()
    found = read(text, tmp_path)
    print(f"10 000 rules in {time.perf_counter() - began:.2f} s")

    assert [(rule.name, rule.line) for rule in found[::999]] == [
        (f"r{n}", 5 * n + 1) for n in range(0, 10_000, 999)
    ]


def test_conditions_of_a_file_are_those_of_the_text(tmp_path: Path) -> None:
    """Escapes and lines of TOML come first, then the condition's own."""
    basic = one('subject = "a"\nwhere = "x == \\"a\\" and\\ty.matches(\'\\\\\\\\d\')"', tmp_path)
    literal = one(
        "subject = 'a'\nwhere = '''\nx == 'a'  # one\nand y.matches(r'\\d')\n'''", tmp_path
    )
    condition = parse_condition(r"x == 'a' and y.matches(r'\d')")

    assert repr(basic.pattern) == repr(literal.pattern) == repr(A.where(condition))


def test_inf_is_the_only_way_to_say_without_bound(tmp_path: Path) -> None:
    """A bound that was forgotten is not taken for none."""
    without = one("subject = 'a'\npattern = { count = 3, within = inf }", tmp_path)
    (problem,) = problems_of(
        "[rules.r]\ntask = 't'\nsubject = 'a'\npattern = { count = 3 }", tmp_path
    )

    assert getattr(without.pattern.node, "within_ns", math.inf) is None
    assert (
        problem.message == "expected within, found none; write within = '1m', or inf for no bound"
    )
