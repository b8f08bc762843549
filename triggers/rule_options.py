"""What is said of a rule beside its name and its action: checked once, for all ways to add one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from msgspec import Struct

from headrace.engine.decider import RunMode
from headrace.engine.declared import Declared
from headrace.engine.task import TaskSpec
from headrace.triggers.checks import Seconds
from headrace.triggers.modes import OnMissed, check_mode, late_ns_of
from headrace.triggers.pattern import Pattern
from headrace.triggers.reach import check_whole_pattern, clearing, with_timeouts
from headrace.triggers.ruleset import Rule

Action = Callable[..., Any]
Warm = Literal["replay"] | None


class RuleOptions(Struct, frozen=True):
    """The options of a rule, as they were checked."""

    pattern: Pattern[Any]
    mode: RunMode
    late_ns: int | None
    others: dict[str, Any]
    """What firings with a reason of their own start, by reason: a function, or what names one."""
    warm: bool
    retry: Any
    timeout: Seconds | None
    version: str | None
    replayable: bool

    def rule(self, name: str) -> Rule:
        """Return the rule *name*, without its code."""
        tasks = {reason: task_name(name, reason) for reason in self.others}
        return Rule(
            name, self.pattern, self.mode, self.version, self.late_ns, tasks, warm=self.warm
        )

    def declared(self, action: Any, name: str, spec: Callable[..., TaskSpec]) -> Declared:
        """Return the rule *name* with its code; *spec* makes that of a function, or its name.

        Raises:
            TypeError, ValueError: a function cannot be an action; says why.
        """
        how: dict[str, Any] = {"retry": self.retry, "timeout": self.timeout, "is_action": True}
        if self.replayable:
            how["replayable"] = True
        specs = {name: spec(action, name, version=self.version, **how)}
        for reason, other in self.others.items():
            task = task_name(name, reason)
            specs[task] = spec(other, task, **how)
        return Declared(name, self.rule(name), specs)


def task_name(rule: str, reason: str) -> str:
    """Return what the log calls the action of *rule* for firings with *reason*."""
    return f"{rule}-{reason}"


def options_of(
    pattern: Pattern[Any],
    *,
    mode: Any = "parallel",
    on_missed: OnMissed = "fire",
    on_clear: Action | str | None = None,
    on_timeout: Action | str | None = None,
    warm: Warm = None,
    retry: Any = None,
    timeout: Seconds | None = None,
    version: str | None = None,
    replayable: bool = False,
) -> RuleOptions:
    """Check what is said of a rule.

    Raises:
        TypeError, ValueError: it cannot work; says which part and why.
    """
    if not isinstance(pattern, Pattern):
        raise TypeError(f"rule({pattern!r}): expected a pattern such as on('a.b')")
    if warm not in (None, "replay"):
        raise ValueError(f"rule(warm={warm!r}): expected 'replay' or None")
    others: dict[str, Any] = {}
    if on_clear is not None:
        pattern = Pattern(clearing(pattern.node))
        others["clear"] = on_clear
    if on_timeout is not None:
        pattern = Pattern(with_timeouts(pattern.node))
        others["timeout"] = on_timeout
    check_whole_pattern(pattern.node)
    return RuleOptions(
        pattern,
        check_mode(mode),
        late_ns_of(on_missed),
        others,
        warm == "replay",
        retry,
        timeout,
        version,
        replayable,
    )
