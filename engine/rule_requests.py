"""What is asked of the rules in force, as the records that say it: checked, and not yet stored.

The same for an engine at work and for a log that no engine has open.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from headrace.engine.errors import RuleNotFound
from headrace.engine.payload import check_text
from headrace.engine.projected import is_projection
from headrace.engine.record import AlarmAcknowledged, RulePaused
from headrace.engine.rule_state import RuleState

TEXT_CHARS_MAX: Final = 1000
"""Of a reason, a name or a note; more is cut off."""
NAMES_SHOWN_MAX: Final = 10

Tick = Callable[[], int]
"""Fires what is due and returns the time of the record that is to come (law L3)."""


def check_in_force(state: RuleState, rule: str) -> None:
    """Check that *rule* is in force.

    Raises:
        RuleNotFound: it is not; says which are.
    """
    if rule not in state.rules or is_projection(rule):
        rules = [name for name in state.rules if not is_projection(name)]
        raise RuleNotFound(
            f"expected a rule that is in force, found {rule!r}; there {_named(rules)}"
        )


def pause_of(
    state: RuleState, rule: str, reason: str, *, paused: bool, tick: Tick
) -> RulePaused | None:
    """Return what pauses *rule*, or resumes it; ``None`` if that is so already.

    Raises:
        RuleNotFound: it is not in force.
    """
    check_in_force(state, rule)
    at_ns = tick()
    if (rule in state.paused) is paused:
        return None
    return RulePaused(at_ns, rule, paused, reason)


def acknowledgement_of(
    state: RuleState, rule: str, key: Any, *, by: str, note: str, tick: Tick
) -> AlarmAcknowledged:
    """Return what says that somebody knows of the alarm of *rule* for *key*.

    Raises:
        RuleNotFound: the rule is not in force, or no alarm stands; says which do.
    """
    check_in_force(state, rule)
    at_ns = tick()  # a timer may end it
    alarm = state.alarms.find(rule, key)
    if alarm is None:
        keys = [repr(one.key) for one in state.alarms.all() if one.rule == rule]
        raise RuleNotFound(
            f"expected an alarm that stands, found none of rule {rule!r} for key {key!r}; of "
            f"this rule there {_named(keys)}"
        )
    return AlarmAcknowledged(at_ns, rule, alarm.key, by, note)


def storable(text: str, what: str) -> str:
    """Return *text* as a record takes it: no longer than it may be.

    Raises:
        EventRefused: it has no encoding; *what* says whose it is.
    """
    text = str(text)[:TEXT_CHARS_MAX]
    check_text(text, what)
    return text


def _named(names: list[str]) -> str:
    """Return ``is none``, or ``are a, b and 3 more``."""
    if not names:
        return "is none"
    shown = ", ".join(sorted(names)[:NAMES_SHOWN_MAX])
    more = len(names) - NAMES_SHOWN_MAX
    return f"{'is' if len(names) == 1 else 'are'} {shown}{f' and {more} more' if more > 0 else ''}"
