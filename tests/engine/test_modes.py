"""What a firing does while runs of the same rule and key are open, and what runs leave behind."""

from __future__ import annotations

import pytest
from tests.reference.shell import (
    Shell,
    check,
    complete,
    effects,
    ns,
    outcomes,
    raw,
    rules,
    statuses,
)

from headrace import any_of, on
from headrace.engine import record as r
from headrace.engine.decider import RunMode
from headrace.triggers.ruleset import Rule

a = on("a")


# ---------------------------------------------------------------- run modes


def test_parallel_starts_a_run_for_each_firing() -> None:
    """The default: firings do not know of each other."""
    shell = Shell(rules(a)).start(ns(1))
    for _ in range(3):
        shell.emit(ns(2), "a")

    assert outcomes(shell) == ["run", "run", "run"]
    assert len(statuses(shell)) == 3
    check(shell)


@pytest.mark.parametrize("ends", ["completed", "failed", "cancelled"])
def test_single_drops_while_a_run_is_open(ends: str) -> None:
    """The new firing is recorded as dropped; when the run has ended, the next one runs."""
    shell = Shell(rules(Rule("r", a, "single"))).start(ns(1))
    shell.emit(ns(2), "a")
    (run,) = statuses(shell)
    shell.emit(ns(2), "a")
    shell.put(r.AttemptFailed(ns(3), run, 1, "OSError", "", ns(9), []))
    shell.emit(ns(3), "a")
    record: dict[str, r.Input] = {
        "completed": r.RunCompleted(ns(4), run, raw(1)),
        "failed": r.RunFailed(ns(4), run, 2, "OSError", ""),
        "cancelled": r.RunCancelled(ns(4), run, "on request"),
    }
    shell.put(record[ends])
    shell.emit(ns(5), "a")

    assert outcomes(shell) == ["run", "dropped", "dropped", "run"]
    assert (shell.stats("r")["fired"], shell.stats("r")["dropped"]) == (4, 2)
    assert effects(shell) == [("start", run), ("start", shell.kernel.sequence)]
    check(shell)


@pytest.mark.parametrize("mode", ["single", "restart"])
def test_modes_count_runs_of_the_same_rule_and_key(mode: RunMode) -> None:
    """Another key and another rule on the same event are none of its business."""
    keyed = a.key(lambda e: e.data)
    shell = Shell(rules(Rule("r", keyed, mode), Rule("s", keyed, mode))).start(ns(1))
    for key in ("x", "y", 1, ("x", 1)):
        shell.emit(ns(2), "a", key if not isinstance(key, tuple) else list(key))

    assert outcomes(shell) == ["run"] * 6
    check(shell)


def test_restart_cancels_awaits_the_end_and_starts_anew() -> None:
    """Two runs of one key never overlap."""
    shell = Shell(rules(Rule("r", a, "restart"))).start(ns(1))
    shell.emit(ns(2), "a")
    (old,) = statuses(shell)
    assert effects(shell) == [("start", old)]
    shell.emit(ns(3), "a")
    new = shell.kernel.sequence

    assert statuses(shell) == {
        old: ("active", "a newer firing restarts it"),
        new: ("waiting", None),
    }
    assert effects(shell) == [("cancel", old)]
    check(shell)

    shell.put(r.RunCancelled(ns(5), old, "a newer firing restarts it"))
    assert statuses(shell) == {new: ("active", None)}
    assert effects(shell) == [("start", new)]
    assert [x.run for x in shell.of_kind(r.RunReleased)] == [new]
    check(shell)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_of_simultaneous_firings_exactly_the_last_survives(count: int) -> None:
    """Firings while the old run is ending replace the waiting one."""
    shell = Shell(rules(Rule("r", a, "restart"))).start(ns(1))
    events = [shell.emit(ns(2), "a", number) for number in range(count)]
    first, *_, last = (run for run in shell.kernel.state.runs.active)
    assert [taken for taken in effects(shell) if taken[0] == "start"] == [("start", first)]

    shell.put(r.RunCancelled(ns(3), first, "a newer firing restarts it"))
    assert statuses(shell) == {last: ("active", None)}
    assert shell.kernel.state.runs.active[last].events == [events[-1]]
    assert effects(shell) == [("start", last)]
    assert shell.kernel.state.runs.counts == {"r": {"cancelled": count - 1}}
    assert len(shell.of_kind(r.RunCancelling)) == 1, "it is told once"
    check(shell)


def test_of_firings_of_one_event_exactly_the_last_survives() -> None:
    """One event that completes two branches of a rule for one key fires it once."""
    both = any_of(a.count(1, within=1), on("*").count(1, within=1))
    shell = Shell(rules(Rule("r", both, "restart"))).start(ns(1))
    shell.emit(ns(2), "a")

    assert outcomes(shell) == ["run"]


def test_a_run_that_completes_while_it_is_restarted_makes_way_too() -> None:
    """The old run may just have been done: the new one starts all the same."""
    shell = Shell(rules(Rule("r", a, "restart"))).start(ns(1))
    shell.emit(ns(2), "a")
    (old,) = statuses(shell)
    shell.emit(ns(2), "a")
    complete(shell, old)

    (new,) = statuses(shell)
    assert statuses(shell) == {new: ("active", None)}
    check(shell)


def test_a_waiting_run_can_be_cancelled_before_its_turn() -> None:
    """Cancelling the newer one leaves the older one to end, and nothing starts."""
    shell = Shell(rules(Rule("r", a, "restart"))).start(ns(1))
    shell.emit(ns(2), "a")
    shell.emit(ns(2), "a")
    old, new = statuses(shell)
    shell.put(r.CancelRequested(ns(3), new, "changed my mind"))
    shell.put(r.RunCancelled(ns(3), new, "changed my mind"))
    effects(shell)
    shell.put(r.RunCancelled(ns(4), old, "a newer firing restarts it"))

    assert statuses(shell) == {}
    assert effects(shell) == []
    check(shell)


def test_a_firing_replaces_a_waiting_run_that_is_being_cancelled() -> None:
    """Whatever is on its way out does not keep the newest firing from running."""
    shell = Shell(rules(Rule("r", a, "restart"))).start(ns(1))
    for _ in range(2):
        shell.emit(ns(2), "a")
    old, waiting = statuses(shell)
    shell.put(r.CancelRequested(ns(3), waiting, "changed my mind"))
    shell.emit(ns(3), "a")
    newest = shell.kernel.sequence
    shell.put(r.RunCancelled(ns(4), old, "a newer firing restarts it"))

    assert statuses(shell) == {newest: ("active", None)}
    check(shell)


def test_a_rule_that_becomes_restart_clears_what_was_parallel() -> None:
    """After a change of the mode several runs may be open; the new one awaits them all."""
    shell = Shell(rules(Rule("r", a, "parallel"))).start(ns(1))
    for _ in range(3):
        shell.emit(ns(2), "a")
    changed = Shell(rules(Rule("r", a, "restart")), shell.units).start(ns(3))
    changed.emit(ns(4), "a")
    *old, new = statuses(changed)
    for run in old:
        assert statuses(changed)[new] == ("waiting", None)
        changed.put(r.RunCancelled(ns(5), run, "a newer firing restarts it"))

    assert statuses(changed) == {new: ("active", None)}
    assert [released.run for released in changed.of_kind(r.RunReleased)] == [new]
    check(changed)


def test_cancelling_a_run_twice_tells_it_once() -> None:
    """The second request changes nothing; the first reason counts."""
    shell = Shell(rules(a)).start(ns(1))
    shell.emit(ns(2), "a")
    (run,) = statuses(shell)
    for reason in ("first", "second"):
        shell.put(r.CancelRequested(ns(3), run, reason))

    assert statuses(shell) == {run: ("active", "first")}
    assert effects(shell) == [("start", run), ("cancel", run)]
    check(shell)


# ---------------------------------------------------------------- attempts and children


def test_a_retry_is_a_new_attempt_at_the_time_of_its_timer() -> None:
    """What a run reads as now is when it was resumed, not when it was due or first began."""
    shell = Shell(rules(a)).start(ns(0))
    shell.emit(ns(1), "a")
    (run,) = shell.kernel.state.runs.active.values()
    shell.put(r.AttemptFailed(ns(2), run.id, 1, "OSError", "", ns(5), []))
    assert (run.status, run.attempt, run.retry_at_ns) == ("retrying", 1, ns(5))
    effects(shell)
    shell.tick(ns(9))

    assert (run.status, run.attempt, run.retry_at_ns) == ("active", 2, None)
    assert (run.created_at_ns, run.attempt_at_ns) == (ns(1), ns(9))
    assert effects(shell) == [("start", run.id)]
    check(shell)


def test_what_a_run_leaves_behind_ends_with_it() -> None:
    """A resumed run may ask for less than before: no child of it and no timer stays for ever."""
    shell = Shell(rules(a)).start(ns(0))
    shell.emit(ns(1), "a")
    (top,) = statuses(shell)
    parent = top
    for _ in range(3):
        child = shell.put(r.StepRequested(ns(1), parent, 1, "spawn", "work", raw({})))
        shell.put(r.SleepRequested(ns(1), parent, 2, ns(50)))
        parent = child
    launched = shell.put(r.StepRequested(ns(1), parent, 1, "launch", "work", raw({})))
    shell.put(r.AttemptFailed(ns(2), parent, 1, "OSError", "", ns(60), []))
    complete(shell, top)

    assert list(statuses(shell)) == [launched]
    assert shell.kernel.due_timer(ns(1000)) is None
    assert shell.kernel.state.runs.counts == {"r1": {"completed": 1}, "work": {"cancelled": 3}}
    check(shell)


def test_a_child_that_was_forgotten_does_not_answer_for_the_new_one() -> None:
    """The end of a step that a retry asked for anew is the new run's end, not the old one's."""
    shell = Shell(rules(a)).start(ns(0))
    shell.emit(ns(1), "a")
    (top,) = statuses(shell)
    old = shell.put(r.StepRequested(ns(1), top, 1, "spawn", "work", raw({})))
    shell.put(r.AttemptFailed(ns(2), top, 1, "OSError", "", ns(3), [1]))
    shell.tick(ns(3))
    new = shell.put(r.StepRequested(ns(3), top, 1, "spawn", "work", raw({})))
    complete(shell, old)

    step = shell.kernel.state.runs.active[top].steps[1]
    assert (step.sequence, step.status) == (new, "pending")
    complete(shell, new)
    assert step.status == "done"
    check(shell)


def test_a_launched_run_is_one_hop_further() -> None:
    """A chain of runs that launch each other ends like any other loop; steps do not count."""
    shell = Shell(rules(a)).start(ns(0))
    shell.emit(ns(1), "a")
    (top,) = shell.kernel.state.runs.active.values()
    kinds: tuple[r.StepKind, ...] = ("call", "spawn", "launch")
    made = {
        kind: shell.put(r.StepRequested(ns(1), top.id, number, kind, "work", raw({})))
        for number, kind in enumerate(kinds, 1)
    }

    runs = shell.kernel.state.runs.active
    assert {kind: runs[run].hops for kind, run in made.items()} == {
        "call": 1,
        "spawn": 1,
        "launch": 2,
    }
    assert {runs[run].trace for run in made.values()} == {top.trace}
    check(shell)
