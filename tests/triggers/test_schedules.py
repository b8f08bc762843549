"""`every`, `cron` and `at`: declared, fired by the kernel, and caught up with after a downtime."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from itertools import combinations
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.reference.shell import Shell, ns, rules

from headrace import App, on
from headrace.engine import record as r
from headrace.engine.clock import NS
from headrace.triggers import schedules
from headrace.triggers.fingerprint import fingerprint
from headrace.triggers.nodes import Node
from headrace.triggers.nodes_clock import AtNode, CatchUp, CronNode, EveryNode
from headrace.triggers.pattern import Pattern
from headrace.triggers.ruleset import Rule
from headrace.triggers.schedules import at_node, cron_node

POLICIES: list[CatchUp] = ["all", "last", "none"]


def pattern(node: Node) -> Pattern[Any]:
    return Pattern(node)


def every_ten(kind: str, catch_up: CatchUp) -> Pattern[Any]:
    """Every ten seconds from 0, in one of two ways."""
    if kind == "every":
        return pattern(EveryNode(ns(10), catch_up))
    return pattern(CronNode("*/10 * * * * *", "UTC", catch_up))


def timers_of(shell: Shell) -> list[tuple[int, int]]:
    return [(fired.due_ns // NS, fired.missed) for fired in shell.of_kind(r.TimerFired)]


def runs_of(shell: Shell) -> list[tuple[int, int]]:
    runs = shell.kernel.state.runs.active.values()
    return [((run.due_ns or 0) // NS, run.missed) for run in runs]


def check(shell: Shell) -> None:
    """A fold of the bytes alone is in the same state, and finds no divergence."""
    again = shell.refold()
    assert again.divergences == []
    assert again.dump() == shell.kernel.dump()


# ---------------------------------------------------------------- after a downtime

# Started at 0 and again at …; the timers that fire up to 60, and the runs: (due, missed).
DOWNTIMES: list[tuple[int, CatchUp, list[tuple[int, int]], list[tuple[int, int]]]] = [
    (10, "last", [(10, 0), (20, 0), (30, 0)], [(10, 0), (20, 0), (30, 0)]),
    (10, "none", [(10, 0), (20, 0), (30, 0)], [(10, 0), (20, 0), (30, 0)]),
    (11, "last", [(10, 0), (20, 0), (30, 0)], [(10, 0), (20, 0), (30, 0)]),
    (11, "none", [(10, 1), (20, 0), (30, 0)], [(20, 0), (30, 0)]),
    (11, "all", [(10, 0), (20, 0), (30, 0)], [(10, 0), (20, 0), (30, 0)]),
    (20, "last", [(10, 0), (20, 0), (30, 0)], [(10, 0), (20, 0), (30, 0)]),
    (25, "last", [(10, 1), (30, 0)], [(10, 1), (30, 0)]),
    (25, "none", [(10, 2), (30, 0)], [(30, 0)]),
    (25, "all", [(10, 0), (20, 0), (30, 0)], [(10, 0), (20, 0), (30, 0)]),
    (30, "none", [(10, 2), (30, 0)], [(30, 0)]),
]


@pytest.mark.parametrize(("started_s", "catch_up", "timers", "runs"), DOWNTIMES)
@pytest.mark.parametrize("kind", ["every", "cron"])
def test_a_downtime_is_caught_up_with_as_declared(
    kind: str,
    started_s: int,
    catch_up: CatchUp,
    timers: list[tuple[int, int]],
    runs: list[tuple[int, int]],
) -> None:
    """One for all, each, or none; then the grid goes on as if nothing had been."""
    shell = Shell(rules(every_ten(kind, catch_up))).start(ns(0)).crashed().start(ns(started_s))
    shell.tick(ns(30))

    assert timers_of(shell) == timers
    assert runs_of(shell) == runs
    check(shell)


@pytest.mark.parametrize("kind", ["every", "cron"])
def test_all_is_bounded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A schedule of each second that was away for a year does not start thirty million runs."""
    monkeypatch.setattr(schedules, "CATCH_UP_MAX", 3)
    shell = Shell(rules(every_ten(kind, "all"))).start(ns(0)).crashed().start(ns(65))

    assert timers_of(shell) == runs_of(shell) == [(10, 3), (50, 0), (60, 0)]
    check(shell)


@pytest.mark.parametrize("catch_up", POLICIES)
@pytest.mark.parametrize("kind", ["every", "cron"])
def test_a_slow_engine_misses_nothing(kind: str, catch_up: CatchUp) -> None:
    """Only a downtime is caught up with: what is late for another reason fires each time."""
    shell = Shell(rules(every_ten(kind, catch_up))).start(ns(0))
    shell.emit(ns(45), "a")

    assert runs_of(shell) == [(10, 0), (20, 0), (30, 0), (40, 0)]
    check(shell)


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(st.integers(0, 90), st.sampled_from(["tick", "crash", "lose"])), max_size=12
    ),
    st.sampled_from(POLICIES),
)
def test_any_life_fires_what_its_downtimes_leave(
    steps: list[tuple[int, str]], catch_up: CatchUp
) -> None:
    """`every` and `cron` do the same; no due time is fired twice, or both fired and missed."""
    lives = list[Shell]()
    for kind in ("every", "cron"):
        shell = Shell(rules(every_ten(kind, catch_up))).start(ns(0))
        now = 0
        for seconds, what in steps:
            now += seconds
            if what == "tick":
                shell.tick(ns(now))
            else:
                units = len(shell.units) - (what == "lose")
                shell = shell.crashed(max(1, units)).start(ns(now))
        shell.tick(ns(now))
        check(shell)
        lives.append(shell)

    stored = [[bytes(record) for record in life.records[1:]] for life in lives]
    kinds = (r.TimerFired, r.RuleFired)
    fired, other = (
        [record for record in map(r.decode, records) if isinstance(record, kinds)]
        for records in stored
    )
    assert fired == other
    due = 10
    for timer in (record for record in fired if isinstance(record, r.TimerFired)):
        assert timer.due_ns == ns(due)
        due += 10 * (timer.missed + (0 if catch_up == "none" and timer.missed else 1))
    assert due > (lives[0].at_ns // NS)


def test_a_firing_stands_where_its_time_was() -> None:
    """It says when it was due and how late it is, as for every timer."""
    node = CronNode("0 6 * * *", "UTC", "last")
    shell = Shell(rules(pattern(node))).start(ns(0)).crashed().start(ns(3 * 86_400))

    (fired,) = shell.of_kind(r.TimerFired)
    assert (fired.at_ns, fired.due_ns, fired.missed) == (ns(3 * 86_400), ns(6 * 3600), 2)
    check(shell)


# ---------------------------------------------------------------- at

# Started at 0, again at …; time 100; whether it has fired by 200.
AT: list[tuple[list[int], CatchUp, list[int]]] = [
    ([0], "last", [100]),
    ([0], "none", [100]),
    ([0, 100], "none", [100]),
    ([0, 101], "last", [101]),
    ([0, 101], "all", [101]),
    ([0, 101], "none", []),
    ([100], "none", [100]),
    ([101], "last", []),
    ([101], "none", []),
    ([101], "all", [101]),
    ([0, 150, 160], "last", [150]),
    ([101, 150], "all", [101]),
]


@pytest.mark.parametrize(("starts", "catch_up", "fired"), AT)
def test_at_fires_once(starts: list[int], catch_up: CatchUp, fired: list[int]) -> None:
    """Late after a downtime unless told not to; before the rule was there only if told to."""
    shell = Shell(rules(pattern(AtNode(ns(100), catch_up))))
    for started in starts:
        shell = shell.crashed().start(ns(started))
    shell.tick(ns(100))
    shell.tick(ns(200))
    shell = shell.crashed().start(ns(300))

    runs = shell.kernel.state.runs.active.values()
    assert [run.created_at_ns // NS for run in runs] == fired
    assert all(run.due_ns == ns(100) for run in runs)
    assert len(shell.kernel.state.timers) == 0
    check(shell)


def test_schedules_keep_their_order_and_other_rules() -> None:
    """L3: by due time, then by arming, whatever drives them; and before the event."""
    shell = Shell(
        rules(
            every_ten("every", "last"),
            every_ten("cron", "last"),
            pattern(AtNode(ns(10), "last")),
            on("a"),
        )
    ).start(ns(0))
    shell.emit(ns(10), "a")

    assert [fired.rule for fired in shell.of_kind(r.RuleFired)] == ["r1", "r2", "r3", "r4"]
    check(shell)


# ---------------------------------------------------------------- declared


def test_declarations_become_rules() -> None:
    """All three, with what they say."""
    app = App("t")

    @app.cron(" 0  6 * * mon ", tz="Europe/Berlin", catch_up="all", mode="single")
    def weekly() -> None: ...

    @app.cron("*/5 * * * *")
    def often() -> None: ...

    @app.at("2027-03-01T09:00:00.25+01:00", name="then")
    @app.at(datetime(2027, 3, 1, 9, tzinfo=ZoneInfo("Europe/Berlin")), catch_up="none")
    def once() -> None: ...

    @app.every(timedelta(minutes=1), catch_up="none")
    def beat() -> None: ...

    assert {name: rule.pattern.node.text() for name, rule in app.rules.items()} == {
        "weekly": "cron('0 6 * * MON', tz='Europe/Berlin', catch_up='all')",
        "often": "cron('*/5 * * * *', tz='UTC')",
        "once": "at('2027-03-01T08:00:00Z', catch_up='none')",
        "then": "at('2027-03-01T08:00:00.250000Z')",
        "beat": "every(60, catch_up='none')",
    }
    assert app.rules["weekly"].mode == "single"


def loose(function: Any) -> Any:
    """Return *function* without its types: users may not run a type checker."""
    return function


app = App("refused")
REFUSED: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "cron": (lambda: app.cron("61 * * * *"), ValueError, r"^cron\('61 \* .*field 1 \(minute\)"),
    "cron number": (lambda: loose(app.cron)(5), TypeError, r"cron\(5\): expected a text"),
    "tz": (lambda: app.cron("* * * * *", tz="Mars"), ValueError, r"cron\(tz='Mars'\)"),
    "tz object": (lambda: loose(app.cron)("* * * * *", tz=UTC), TypeError, r"cron\(tz=.*name of"),
    "catch_up": (
        lambda: loose(app.cron)("* * * * *", catch_up="first"),
        ValueError,
        r"cron\(catch_up='first'\): expected 'all', 'last' or 'none'",
    ),
    "every catch_up": (
        lambda: loose(app.every)(5, catch_up=True),
        ValueError,
        r"every\(catch_up=True\)",
    ),
    "at catch_up": (
        lambda: loose(app.at)("2027-03-01T08:00:00Z", catch_up=None),
        ValueError,
        r"at\(catch_up=None\)",
    ),
    "naive": (
        lambda: app.at(datetime(2027, 3, 1)),  # noqa: DTZ001
        ValueError,
        r"at\(2027-03-01 00:00:00\): it has no time zone.*give a datetime tzinfo=",
    ),
    "naive text": (lambda: app.at("2027-03-01T08:00:00"), ValueError, r"has no time zone.*with Z"),
    "no time": (lambda: app.at("tomorrow"), ValueError, r"at\('tomorrow'\).*RFC 3339"),
    "no day": (lambda: app.at("2027-02-30T08:00:00Z"), ValueError, r"RFC 3339"),
    "number": (lambda: loose(app.at)(1_800_000_000), TypeError, r"at\(1800000000\)"),
    "gap": (
        lambda: app.at(datetime(2026, 3, 29, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))),
        ValueError,
        r"does not exist there",
    ),
    "early": (lambda: app.at("1969-12-31T23:59:59Z"), ValueError, r"from 1970 to 2261"),
    "late": (lambda: app.at("2263-01-01T00:00:00Z"), ValueError, r"from 1970 to 2261"),
    "where": (
        lambda: pattern(CronNode("* * * * *", "UTC", "last")).where(bool),
        ValueError,
        r"cron\('\* \* \* \* \*', tz='UTC'\)\.where\(…\): .* may fire when there is no event",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused_when_declared(case: str) -> None:
    """In one line that names the place."""
    declare, kind, words = REFUSED[case]
    with pytest.raises(kind, match=words) as caught:
        declare()
    assert "\n" not in str(caught.value)
    assert app.rules == {}


def test_times_of_at_are_exact() -> None:
    """To the microsecond, in any zone, also in the repeated hour."""
    berlin = ZoneInfo("Europe/Berlin")
    twice = [datetime(2026, 10, 25, 2, 30, tzinfo=berlin, fold=fold) for fold in (0, 1)]

    assert at_node("1970-01-01T00:00:00.000001Z", "last").at_ns == 1000
    assert at_node("2100-01-01T00:00:00.999999Z", "last").at_ns == 4_102_444_800_999_999_000
    assert (
        at_node(datetime(1970, 1, 1, 3, tzinfo=timezone(timedelta(hours=2))), "last").at_ns
        == 3600 * NS
    )
    first, second = (at_node(when, "last").at_ns for when in twice)
    assert second - first == 3600 * NS


def of(node: Node) -> str:
    return Rule("r", pattern(node), "parallel").fingerprint()


def test_another_schedule_is_another_rule() -> None:
    """L8: expression, zone and policy count; how it is spelt does not."""
    nodes: list[Node] = [
        cron_node("0 6 * * *", "UTC", "last"),
        cron_node("0 6 * * *", "UTC", "all"),
        cron_node("0 6 * * *", "UTC", "none"),
        cron_node("0 6 * * *", "Europe/Berlin", "last"),
        cron_node("0 7 * * *", "UTC", "last"),
        at_node("2027-03-01T08:00:00Z", "last"),
        at_node("2027-03-01T08:00:00Z", "all"),
        at_node("2027-03-01T08:00:01Z", "last"),
        EveryNode(ns(60)),
        EveryNode(ns(60), "all"),
        EveryNode(ns(60), "none"),
        EveryNode(ns(61)),
    ]

    assert [(a, b) for a, b in combinations(nodes, 2) if of(a) == of(b)] == []
    assert of(nodes[0]) == of(cron_node(" 0 6  * * * ", "UTC", "last"))
    assert of(cron_node("0 6 * * MON", "UTC", "last")) == of(
        cron_node("0 6 * * mon", "UTC", "last")
    )
    assert of(nodes[5]) == of(at_node("2027-03-01T09:00:00+01:00", "last"))


def test_clock_rules_of_older_logs_are_the_same_rules() -> None:
    """`every` has got a policy; where none is given the rule keeps its state."""
    assert of(EveryNode(ns(60))) == fingerprint("every", ns(60), "parallel")


@pytest.mark.slow
def test_only_a_cron_loads_cronsim() -> None:
    """Whoever declares none does not pay for it."""
    program = (
        "import sys; from headrace import App; app = App('t')\n"
        "app.every(1, name='a')(print); app.at('2027-03-01T08:00:00Z', name='b')(print)\n"
        "app.decider().fingerprints()\n"
        "assert not {'cronsim', 'zoneinfo', 'headrace.triggers.cron'} & set(sys.modules)\n"
        "app.cron('* * * * *', name='c')(print)\n"
        "assert 'cronsim' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)

    assert done.returncode == 0, done.stderr.decode()
