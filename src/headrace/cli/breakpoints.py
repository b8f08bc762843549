"""Breakpoints of the stepper: ``rule=overheat key=t1``, ``kind=…``, ``subject=…``, ``run=…``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from headrace.cli.errors import Usage
from headrace.cli.places import keys_named
from headrace.cli.text import safe
from headrace.cli.times import number_of
from headrace.engine import record as r
from headrace.engine.errors import RuleNotFound
from headrace.engine.projected import is_projection
from headrace.engine.subject import check_pattern, matches

if TYPE_CHECKING:
    from headrace.triggers.explain.notes import TracedStep

FIELDS: Final = ("rule", "key", "kind", "subject", "run")
FAILURES: Final = (
    r.AttemptFailed,
    r.RunFailed,
    r.RuleError,
    r.RuleMismatch,
    r.RuleLoop,
    r.RuleDiverged,
)


class Breakpoint(Struct, frozen=True):
    """What to stop at: all that is said has to be so."""

    text: str
    rule: str | None = None
    keys: tuple[Any, ...] = ()
    kind: str | None = None
    subject: str | None = None
    run: int | None = None

    def stops(self, sequence: int, record: r.Record, steps: list[tuple[str, TracedStep]]) -> bool:
        """Say whether to stop at *record*, on which rules took these *steps*."""
        if self.kind is not None and r.KIND_BY_TYPE[type(record)] != self.kind:
            return False
        if self.subject is not None and not (
            isinstance(record, r.EventStored) and matches(self.subject, record.subject)
        ):
            return False
        if self.run is not None and self.run not in runs_of(sequence, record):
            return False
        if self.rule is None and not self.keys:
            return True
        return self._is_of_rule(record, steps)

    def _is_of_rule(self, record: r.Record, steps: list[tuple[str, TracedStep]]) -> bool:
        rule = getattr(record, "rule", None)
        if isinstance(rule, str) and rule and self.rule in (None, rule):
            key = r.thaw(getattr(record, "key", None))
            if not self.keys or key in self.keys:
                return True
        return any(
            self.rule in (None, name) and (not self.keys or set(self.keys) & set(step.keys))
            for name, step in steps
        )


def words_of(text: str, names: Sequence[str]) -> Iterator[str]:
    """Yield ``name=value`` after ``name=value``; only the value of a key may have spaces in it."""
    for part in re.split(rf"\s+(?=(?:{'|'.join(names)})=)", text.strip()):
        if part.startswith("key="):
            yield part
        else:
            yield from part.split()


def breakpoint_of(text: str, rules: dict[str, str]) -> Breakpoint:
    """Return the breakpoint that *text* says; *rules* are those that are declared.

    Raises:
        Usage, RuleNotFound: it says none, or names a rule that is not there.
    """
    said: dict[str, str] = {}
    for word in words_of(text, FIELDS):
        name, equals, value = word.partition("=")
        if not equals or not value or name not in FIELDS:
            raise Usage(
                f"--break {safe(text)!r}: expected {', '.join(f'{one}=…' for one in FIELDS)} "
                f"with spaces between, found {safe(word)!r}; as in --break 'rule=overheat key=t1'"
            )
        said[name] = value
    if not said:
        raise Usage("--break '': expected what to stop at, as in --break 'rule=overheat key=t1'")
    if "rule" in said and said["rule"] not in rules:
        known = ", ".join(safe(rule) for rule in rules if not is_projection(rule)) or "none"
        raise RuleNotFound(
            f"--break {safe(text)!r}: expected one of the app's rules, found {known}"
        )
    if "kind" in said and said["kind"] not in r.KIND_BY_TYPE.values():
        known = ", ".join(sorted(r.KIND_BY_TYPE.values()))
        raise Usage(f"--break {safe(text)!r}: expected a kind of record, one of {known}")
    run = number_of(said["run"]) if "run" in said else None
    if "run" in said and run is None:
        raise Usage(f"--break {safe(text)!r}: expected a run's number, found {said['run']!r}")
    if "subject" in said:
        try:
            check_pattern(said["subject"])
        except ValueError as error:
            raise Usage(f"--break {safe(text)!r}: {error}") from error
    return Breakpoint(
        text,
        said.get("rule"),
        keys_named(said.get("key")),
        said.get("kind"),
        said.get("subject"),
        run,
    )


def runs_of(sequence: int, record: r.Record) -> list[int]:
    """Return the runs that *record*, at *sequence*, is about."""
    found: list[int] = []
    if isinstance(record, r.RuleFired):
        return [sequence] if record.outcome in ("run", "waiting") else []
    if isinstance(record, r.TimerFired):
        return [record.slot] if not record.owner and record.slot else []
    if isinstance(record, (r.StepRequested, r.RunLaunched)):
        found.append(sequence)
    for name in ("run", "parent"):
        number = getattr(record, name, 0)
        if isinstance(number, int) and number:
            found.append(number)
    return found
