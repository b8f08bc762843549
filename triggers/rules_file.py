"""Rules that are written in a TOML file: `read_rules` makes rules of it, `changes` compares.

The file says when a task starts; what it does is Python's.  docs/rules-file.md has all that
can be written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from msgspec import Struct

from headrace.engine.decider import Queue, RunMode
from headrace.engine.errors import RulesFileError
from headrace.engine.retry import Retry
from headrace.triggers.modes import MODES, OnMissed, check_mode, fire_within
from headrace.triggers.pattern import Pattern
from headrace.triggers.reach import check_whole_pattern, clearing, with_timeouts
from headrace.triggers.rule_options import RuleOptions, Warm, options_of
from headrace.triggers.rules_parts import (
    EVENT_KEYS,
    SCHEDULES,
    Shared,
    event_time_in,
    from_events,
    from_steps,
    scheduled,
)
from headrace.triggers.rules_tables import Report, Table, one_of
from headrace.triggers.ruleset import Rule
from headrace.triggers.toml_file import toml_of

# An editor may leave it so for a moment: it must not look like "no more rules".
EMPTY: Final = "expected rules, found an empty file; write [rules] if there are none"

TASK_KEYS: Final = ("task", "on_clear", "on_timeout")
"""Where a rule names tasks."""

Refuse = Callable[[str, dict[str, str]], Sequence[tuple[str, str]]]
"""Takes the name of a rule and those of its tasks, by key; gives what is wrong: a key, and why."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_ACTION_KEYS: Final = (
    *TASK_KEYS,
    "mode",
    "on_missed",
    "warm",
    "retry",
    "timeout",
    "enabled",
    "description",
)
_KEYS: Final = dict.fromkeys(
    (*EVENT_KEYS, "steps", "event_time", *SCHEDULES, "tz", "catch_up", *_ACTION_KEYS)
)


class RuleText(Struct, frozen=True):
    """A rule as a file says it."""

    name: str
    pattern: Pattern[Any]
    task: str
    """The name of what each firing starts; whether it is there is for the app to say."""
    mode: RunMode = "parallel"
    on_missed: OnMissed = "fire"
    retry: Retry | None = None
    """``None``: as the task itself says."""
    timeout: float | None = None
    """Seconds for one attempt; ``None``: as the task itself says."""
    enabled: bool = True
    description: str = ""
    line: int = 0
    """The line at which it begins, from 1."""
    on_clear: str | None = None
    """The name of what a firing starts that says that what the rule told of has ended."""
    on_timeout: str | None = None
    """The name of what a partial match starts that runs out of time."""
    warm: Warm = None

    def options(self) -> RuleOptions:
        """Return what it says beside its name and task, as a rule in Python would say it."""
        return options_of(
            self.pattern,
            mode=self.mode,
            on_missed=self.on_missed,
            on_clear=self.on_clear,
            on_timeout=self.on_timeout,
            warm=self.warm,
            retry=self.retry,
            timeout=self.timeout,
        )

    def rule(self) -> Rule:
        """Return it as a `RuleSet` takes it."""
        return self.options().rule(self.name)

    def tasks(self) -> dict[str, str]:
        """Return the names of the tasks that it starts, by the key that says so."""
        named = {key: getattr(self, key) for key in TASK_KEYS}
        return {key: task for key, task in named.items() if task is not None}


class Changes(Struct, frozen=True):
    """What a new version of a rules file does to the rules of an old one, by name."""

    added: list[str]
    removed: list[str]
    changed: list[str]
    """Those of another fingerprint: their state is of no use to them (law L8)."""
    same: list[str]
    """Those of the same fingerprint."""
    other_action: list[str]
    """Those of `same` that start other tasks, or with another retry or timeout."""

    def __bool__(self) -> bool:
        """Say whether anything is to be done."""
        return bool(self.added or self.removed or self.changed or self.other_action)


def read_rules(path: str | os.PathLike[str], *, refuse: Refuse | None = None) -> list[RuleText]:
    """Return the rules of the file at *path*, in their order, also those that are not enabled.

    *refuse* says what whoever knows the tasks has against a rule.

    Raises:
        RulesFileError: it cannot be read, or something in it is wrong; says all that is.
    """
    place = os.fspath(path)
    values, places = toml_of(place, RulesFileError, EMPTY)
    report = Report(places)
    found = _rules_in(Table(report, (), values, ("rules",)), refuse)
    if report.problems:
        raise RulesFileError(place, report.problems)
    lines = places.rule_lines([rule["name"] for rule in found])
    return [RuleText(**rule, line=lines[rule["name"]]) for rule in found]


def changes(old: Sequence[RuleText], new: Sequence[RuleText]) -> Changes:
    """Return what becomes of the enabled rules of *old* if those of *new* take their place.

    A rule that is not enabled counts as not there.  Names are in the order of *new*, those
    of removed ones in that of *old*.
    """
    before = {rule.name: rule for rule in old if rule.enabled}
    after = {rule.name: rule for rule in new if rule.enabled}
    both = [(rule, before[name]) for name, rule in after.items() if name in before]
    changed = {
        rule.name for rule, was in both if rule.rule().fingerprint() != was.rule().fingerprint()
    }
    same = [rule.name for rule, _ in both if rule.name not in changed]
    other = {rule.name for rule, was in both if _action_of(rule) != _action_of(was)}
    return Changes(
        added=[name for name in after if name not in before],
        removed=[name for name in before if name not in after],
        changed=[name for name in after if name in changed],
        same=same,
        other_action=[name for name in same if name in other],
    )


def _action_of(rule: RuleText) -> tuple[dict[str, str], Retry | None, float | None]:
    return rule.tasks(), rule.retry, rule.timeout


# ---------------------------------------------------------------- rules


def _rules_in(table: Table, refuse: Refuse | None) -> list[dict[str, Any]]:
    """Return what the rules say, for a `RuleText` each; those that are bad are left out."""
    if "rules" not in table:
        if not table.has_problem():
            table.lacks(
                "rules", "expected a table for each rule such as [rules.overheat], found none"
            )
        return []
    rules = table.get("rules")
    found: list[dict[str, Any]] = []
    for name, values in Table(table.report, ("rules",), rules, rules).entries():
        rule = Table(table.report, ("rules", name), values, _KEYS)
        if not _NAME.fullmatch(name):
            table.report.at_key(
                rule.path,
                f"expected a name of 1 to 64 letters, digits, '_' and '-', beginning with a "
                f"letter or '_', found {name!r}",
            )
        if not isinstance(values, dict):
            continue
        said = _rule_in(rule)
        named = {key: rule.get(key) for key in TASK_KEYS}
        tasks = {key: task for key, task in named.items() if isinstance(task, str)}
        if refuse is not None:
            for key, message in refuse(name, tasks):
                rule.fail(key, message)
        if not rule.has_problem():
            found.append({"name": name, **tasks, **said})
    return found


def _rule_in(table: Table) -> dict[str, Any]:
    """Return what a rule says, but for its name and tasks."""
    said: dict[str, Any] = {
        "mode": _mode(table),
        "on_missed": _on_missed(table),
        "warm": table.choice("warm", "replay"),
        "retry": _retry(table),
        "timeout": table.span("timeout"),
        "enabled": table.flag("enabled"),
        "description": table.text("description"),
    }
    if not table.lacks("task", "expected task, found none; write task = the name of a task"):
        table.text("task", "the name of a task")
    pattern = _pattern(table)
    for key, ends in (("on_clear", clearing), ("on_timeout", with_timeouts)):
        if table.text(key, "the name of a task") is not None and pattern is not None:
            try:
                ends(pattern.node)
            except ValueError as error:
                table.fail(key, str(error))
    return {
        "pattern": pattern,
        **{key: value for key, value in said.items() if value is not None},
    }


def _pattern(table: Table) -> Pattern[Any] | None:
    given = [key for key in (*SCHEDULES, "steps", "subjects", "subject") if key in table]
    for key in ("tz", "catch_up"):
        if key in table and not any(name in table for name in SCHEDULES):
            table.fail(key, f"expected {key} beside {'cron' if key == 'tz' else one_of(SCHEDULES)}")
    if not given:
        table.fail("subject", "expected subject, subjects, steps, every, cron or at, found none")
        given = ["subject"]
    if given[0] in SCHEDULES:
        for other in given[1:]:
            if other != "steps":
                table.fail(other, f"expected one of {given[0]} and {other}, found both")
        return scheduled(table)
    shared = Shared(
        table.event_key("key") if "key" in table else None,
        event_time_in(table),
    )
    if given[0] == "steps":
        pattern = from_steps(table, shared)
    else:
        pattern = from_events(table, shared, is_step=False)
    if pattern is not None and not table.has_problem():
        try:
            check_whole_pattern(pattern.node)
        except ValueError as error:
            table.fail("pattern", str(error))
    return pattern


# ---------------------------------------------------------------- what it starts


def _mode(table: Table) -> RunMode | None:
    value = table.get("mode")
    if not isinstance(value, dict):
        chosen = table.choice("mode", *MODES, "queue")
        return None if chosen is None else check_mode(chosen)
    inner = Table(table.report, (*table.path, "mode"), value, ("queue", "overflow"))
    if inner.has_problem() or inner.lacks(
        "queue", "expected queue, found none; write { queue = 10 }"
    ):
        return None
    most = inner.whole("queue")
    overflow: Any = inner.choice("overflow", "drop_new", "drop_old")
    return None if inner.has_problem() else Queue(most, overflow or "drop_new")


def _on_missed(table: Table) -> OnMissed | None:
    value = table.get("on_missed")
    if not isinstance(value, dict):
        chosen: OnMissed | None = cast(
            "Any", table.choice("on_missed", "fire", "skip", also=" or { fire_within = 30 }")
        )
        return chosen
    inner = Table(table.report, (*table.path, "on_missed"), value, ("fire_within",))
    if inner.has_problem() or inner.lacks("fire_within", "expected fire_within, found none"):
        return None
    seconds = inner.span("fire_within")
    if seconds is None:
        return None
    return fire_within(seconds)


def _retry(table: Table) -> Retry | None:
    if "retry" not in table:
        return None
    known = ("attempts", "wait_first", "wait_max", "jitter")
    inner = Table(table.report, (*table.path, "retry"), table.get("retry"), known)
    said: dict[str, Any] = {
        "attempts": inner.whole("attempts"),
        "wait_first": inner.span("wait_first", zero=True),
        "wait_max": inner.span("wait_max", zero=True),
        "jitter": inner.number("jitter"),
    }
    if inner.has_problem():
        return None
    try:
        return Retry(**{key: value for key, value in said.items() if value is not None})
    except ValueError as error:
        table.fail("retry", str(error))
    return None
