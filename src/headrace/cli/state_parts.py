"""The parts of the engine's state that `state`, `diff` and `debug` show, with their filters.

A part is named, ordered and plain: automata with what they hold by key, timers, open runs
with their calls, and limits.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from headrace.cli.text import rfc3339_exact, safe
from headrace.engine.errors import RuleNotFound, RunNotFound

if TYPE_CHECKING:
    from headrace.engine.kernel import Kernel
    from headrace.triggers.explain.holdings import Holding
    from headrace.triggers.ruleset import RuleSet

JSON = dict[str, Any]


class Wanted(Struct, frozen=True):
    """What of the state is to be shown."""

    rule: str | None = None
    keys: tuple[Any, ...] = ()
    """The key that is wanted, in each way in which it may be meant; none: all."""
    run: int | None = None

    @property
    def shows_rules(self) -> bool:
        """Whether automata are wanted, and not one run only."""
        return self.run is None or self.rule is not None or bool(self.keys)

    def takes(self, rule: str, key: Any) -> bool:
        """Say whether what belongs to *rule* and *key* is wanted."""
        return (self.rule is None or rule == self.rule) and (not self.keys or key in self.keys)


def check_run(run: int | None, kernel: Kernel) -> None:
    """Refuse a run that is not open.

    Raises:
        RunNotFound: says whether it has ended.
    """
    table = kernel.state.runs
    if run is not None and run not in table.active:
        ended = next((view for view in table.ended if view.id == run), None)
        found = "none of that number" if ended is None else f"that it had ended as {ended.status}"
        raise RunNotFound(
            f"--run {run}: expected a run that is open after record {kernel.sequence}, found "
            f"{found}; `headrace runs show` tells a run's whole story"
        )


def _rules_of(rules: RuleSet) -> list[str]:
    from headrace.engine.projected import is_projection

    return [rule for rule in rules.fingerprints() if not is_projection(rule)]


def check_rule(rule: str | None, rules: RuleSet) -> None:
    """Refuse a rule that the app does not declare.

    Raises:
        RuleNotFound: says which it does.
    """
    from headrace.engine.projected import recorded_name

    declared = _rules_of(rules)
    if rule is not None and rule not in declared:
        known = ", ".join(map(safe, declared)) or "none"
        found = f"a projection, which `headrace state` shows; rules are {known}"
        if recorded_name(rule) not in rules.fingerprints():
            found = known
        raise RuleNotFound(f"rule {safe(rule)!r}: expected one of the app's rules, found {found}")


def automata(
    kernel: Kernel, rules: RuleSet, wanted: Wanted, limit: int | None = None
) -> Iterator[JSON]:
    """Yield each rule that is wanted, with what it holds: at most *limit* of it."""
    from headrace.triggers.explain.rules import automaton_view, held

    if not wanted.shows_rules:
        return
    for rule in _rules_of(rules):
        if wanted.rule not in (None, rule):
            continue
        view = automaton_view(rules, kernel.state, rule)
        found = iter(held(rules, rule, kernel.state.at_ns, wanted.keys))
        view["open"] = [holding_of(holding) for holding in islice(found, limit)]
        view["more"] = sum(1 for _ in found)
        yield with_times(view)


def holding_of(holding: Holding) -> JSON:
    """Return what an operator holds for a key, as it is printed."""
    return {
        "operator": holding.operator,
        "key": holding.key,
        "has": holding.has,
        "waits_for": holding.waits_for,
        "events": holding.events,
        "steps": holding.steps,
        "since": rfc3339_exact(holding.since_ns),
        "until": rfc3339_exact(holding.until_ns),
    }


def timers(kernel: Kernel, rules: RuleSet, wanted: Wanted) -> Iterator[JSON]:
    """Yield the timers that are wanted, the next one first."""
    from headrace.engine.inspect.views import timers as all_timers
    from headrace.triggers.explain.rules import own_timers, timer_text

    for timer in all_timers(kernel.state):
        rule = timer.get("rule")
        if rule is not None:
            if wanted.shows_rules and wanted.takes(rule, timer["key"]):
                timer["what"] = timer_text(rules, rule, timer.pop("slot"))
                yield with_times(timer)
        elif _takes_timer(kernel, wanted, timer):
            yield with_times(timer)
    for rule in _rules_of(rules) if wanted.shows_rules else ():
        for due_ns, slot, key in own_timers(rules, rule):
            if wanted.takes(rule, key):
                what = f"{timer_text(rules, rule, slot)}, by event time"
                yield with_times({"due_ns": due_ns, "rule": rule, "key": key, "what": what})


def _takes_timer(kernel: Kernel, wanted: Wanted, timer: JSON) -> bool:
    """Say whether a timer of a run or of a circuit is wanted."""
    if "run" not in timer:
        return wanted == Wanted()
    if wanted.run is not None:
        return bool(timer["run"] == wanted.run)
    run = kernel.state.runs.active.get(timer["run"])
    return wanted == Wanted() if run is None else wanted.takes(run.rule, run.key)


def open_runs(kernel: Kernel, wanted: Wanted) -> Iterator[JSON]:
    """Yield the runs that are wanted and have not ended, oldest first."""
    from headrace.engine.inspect.views import run_view

    for run in kernel.state.runs.active.values():
        if wanted.run is not None:
            if run.id != wanted.run:
                continue
        elif not wanted.takes(run.rule, run.key):
            continue
        yield with_times(run_view(kernel.state, run))


def limits(kernel: Kernel) -> JSON:
    """Return what holds runs back."""
    from headrace.engine.inspect.views import limits as all_limits

    found: JSON = with_times(all_limits(kernel.state))
    return found


def with_times(value: Any) -> Any:
    """Return *value* with its fields in nanoseconds as times: ``due_ns`` becomes ``due``."""
    if isinstance(value, dict):
        return {
            (name.removesuffix("_ns") if name.endswith("_ns") else name): (
                rfc3339_exact(item) if name.endswith("_ns") else with_times(item)
            )
            for name, item in value.items()
        }
    return [with_times(item) for item in value] if isinstance(value, list) else value
