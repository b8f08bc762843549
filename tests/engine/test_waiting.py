"""Run modes in which firings wait, and firings that were due while nothing ran."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.reference.shell import Shell, check, complete, effects, ns, outcomes, rules, statuses

from headrace import App, fire_within, on, queue, silent
from headrace.engine import record as r
from headrace.engine.decider import Queue, RunMode
from headrace.triggers.ruleset import Rule

a = on("a")


def ruled(mode: RunMode) -> Shell:
    """A shell with one rule of this mode, on the log's first second."""
    return Shell(rules(Rule("r", a, mode))).start(ns(1))


# ---------------------------------------------------------------- latest


def test_latest_lets_the_run_finish_and_then_starts_for_the_newest_firing() -> None:
    """Nothing is cancelled; of those that came meanwhile exactly the last one runs."""
    shell = ruled("latest")
    events = [shell.emit(ns(2), "a", number) for number in range(4)]
    first, last = statuses(shell)

    assert statuses(shell) == {first: ("active", None), last: ("waiting", None)}
    assert len(shell.of_kind(r.RunReplaced)) == 2
    assert shell.of_kind(r.RunCancelling) == []
    complete(shell, first)
    assert statuses(shell) == {last: ("active", None)}
    assert shell.kernel.state.runs.active[last].events == [events[-1]]
    check(shell)


# ---------------------------------------------------------------- queue


def test_a_queue_runs_all_one_after_the_other() -> None:
    """In the order of their firings, and never two at once."""
    shell = ruled(Queue(10))
    for number in range(4):
        shell.emit(ns(2), "a", number)
    order = list(statuses(shell))

    assert outcomes(shell) == ["run", "waiting", "waiting", "waiting"]
    started = [run for _, run in effects(shell)]
    while statuses(shell):
        complete(shell, started[-1])
        started += [run for _, run in effects(shell)]
        check(shell)
    assert started == order


@pytest.mark.parametrize(("overflow", "kept"), [("drop_new", [0, 1, 2]), ("drop_old", [0, 3, 4])])
def test_a_queue_that_is_full_drops_the_newest_or_the_oldest(
    overflow: Any, kept: list[int]
) -> None:
    """What is dropped is recorded: a firing as dropped, a waiting run as replaced."""
    shell = ruled(Queue(2, overflow))
    events = [shell.emit(ns(2), "a", number) for number in range(5)]

    left = [run.events[0] for run in shell.kernel.state.runs.active.values()]
    assert left == [events[number] for number in kept]
    dropped = outcomes(shell).count("dropped") + len(shell.of_kind(r.RunReplaced))
    assert dropped == 2
    check(shell)


def test_each_key_has_a_queue_of_its_own() -> None:
    """A slow device does not hold up the others."""
    shell = Shell(rules(Rule("r", a.key(lambda e: e.data), Queue(1)))).start(ns(1))
    for key in ("x", "y", "x", "y", "x"):
        shell.emit(ns(2), "a", key)

    assert outcomes(shell) == ["run", "run", "waiting", "waiting", "dropped"]
    check(shell)


def test_a_waiting_run_that_is_cancelled_leaves_the_queue() -> None:
    """The run before it is not disturbed, and the one behind it is next."""
    shell = ruled(Queue(5))
    for number in range(3):
        shell.emit(ns(2), "a", number)
    first, second, third = statuses(shell)
    shell.put(r.CancelRequested(ns(2), second, "not needed"))
    shell.put(r.RunCancelled(ns(2), second, "not needed"))

    assert statuses(shell) == {first: ("active", None), third: ("waiting", None)}
    complete(shell, first)
    assert statuses(shell) == {third: ("active", None)}
    check(shell)


@pytest.mark.slow
@given(
    mode=st.sampled_from(["single", "restart", "latest", Queue(1), Queue(3, "drop_old")]),
    steps=st.lists(st.sampled_from(["fire", "end", "crash"]), max_size=25),
)
def test_at_most_one_run_of_a_key_is_active(mode: RunMode, steps: list[str]) -> None:
    """Whatever fires and ends, and however often the process dies; none is forgotten."""
    shell = ruled(mode)
    for step in steps:
        present = statuses(shell)
        active = [run for run, (status, _) in present.items() if status == "active"]
        assert len(active) == min(1, len(present))
        if step == "fire":
            shell.emit(shell.at_ns, "a")
        elif step == "crash":
            shell = shell.crashed().start(shell.at_ns)
        elif active:
            complete(shell, active[0])
    check(shell)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"mode": "twice"}, r"mode='twice'.*parallel, single, restart, latest or queue"),
    ({"on_missed": "later"}, r"on_missed='later'.*'fire', 'skip' or fire_within"),
    ({"warm": "yes"}, r"warm='yes'.*'replay'"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_is_said_of_runs_is_checked(options: dict[str, Any], message: str) -> None:
    """When the app is imported, not when the first event comes."""
    with pytest.raises(ValueError, match=message):
        App("t").rule(a, **options)


def test_a_queue_is_checked() -> None:
    """With the place and the reason."""
    with pytest.raises(ValueError, match=r"queue\(max=0\).*at least 1"):
        queue(0)
    with pytest.raises(ValueError, match=r"overflow='both'.*'drop_new' or 'drop_old'"):
        queue(1, "both")  # type: ignore[arg-type]
    app = App("t")
    app.rule(a, mode="queue", name="r")(lambda: None)
    assert app.rules["r"].mode == queue() == Queue(10)


# ---------------------------------------------------------------- missed


def after_downtime(late_ns: int | None, *, down_s: float) -> Shell:
    """A watchdog that was due at second 15, in a log that was closed from 11 on."""
    rule = Rule("r", silent(a, for_=5), "parallel", late_ns=late_ns)
    shell = Shell(rules(rule)).start(ns(1))
    shell.emit(ns(10), "a")
    shell = shell.crashed().start(ns(10 + down_s))
    check(shell)
    return shell


def test_what_was_due_in_a_downtime_fires_at_the_start() -> None:
    """Before any new event, with the time that it was due."""
    shell = after_downtime(None, down_s=3600)
    (fired,) = shell.of_kind(r.RuleFired)

    assert (fired.outcome, fired.due_ns) == ("run", ns(15))


@pytest.mark.parametrize(
    ("late_s", "down_s", "outcome"),
    [(0, 5, "missed"), (0, 3600, "missed"), (60, 64.9, "run"), (60, 65, "missed")],
)
def test_what_is_too_late_is_recorded_and_starts_nothing(
    late_s: int, down_s: float, outcome: str
) -> None:
    """``skip`` and ``fire_within(60)``: half-open, as everything."""
    shell = after_downtime(late_s * 10**9, down_s=down_s)
    (fired,) = shell.of_kind(r.RuleFired)
    expected = "run" if down_s == 5 else outcome  # due at the very start: that is not missed

    assert fired.outcome == expected
    assert shell.stats("r")["missed"] == (expected == "missed")


def test_a_timer_that_is_merely_late_is_not_missed() -> None:
    """A busy engine fires late, and that is no downtime."""
    rule = Rule("r", silent(a, for_=5), "parallel", late_ns=0)
    shell = Shell(rules(rule)).start(ns(1))
    shell.emit(ns(10), "a")
    shell.tick(ns(100))

    assert outcomes(shell) == ["run"]


def test_options_of_rules_are_part_of_what_they_are() -> None:
    """Another queue or another patience is another rule; what is not said changes nothing."""
    plain = Rule("r", a, "parallel", "1")
    others = [
        Rule("r", a, Queue(3), "1"),
        Rule("r", a, Queue(4), "1"),
        Rule("r", a, "latest", "1"),
        Rule("r", a, "parallel", "1", late_ns=0),
        Rule("r", a, "parallel", "1", late_ns=fire_within(5).late_ns),
        Rule("r", a, "parallel", "1", tasks={"clear": "r-clear"}),
    ]

    assert len({rule.fingerprint() for rule in (plain, *others)}) == 1 + len(others)
    assert Rule("r", a, "parallel", "1", warm=True).fingerprint() == plain.fingerprint()
