"""The stages without state of their own: `.where`, `.key`, `.aggregate`, and the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import msgspec
from msgspec import UNSET

from headrace.engine.decider import Matched, Policy, Verdict
from headrace.engine.event import Event
from headrace.engine.record import Details, EventStored, RuleError
from headrace.triggers.hit import Hit, Need, last_line, with_value
from headrace.triggers.stage import LevelStage, Place, Stage, holds, key_of

_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_decode = msgspec.msgpack.Decoder().decode


class Sink:
    """The end of a pattern: what arrives is a match of the rule."""

    need = Need.NONE

    def __init__(self, rule: str, policy: Policy, *, by_event_time: bool) -> None:
        self._rule = rule
        self._policy = policy
        self._by_event_time = by_event_time

    @property
    def take(self) -> Callable[..., None] | None:
        """See `EventStage`; event time is known only with a hit."""
        return None if self._by_event_time else self._take

    def _take(
        self, key: Any, event: Event[Any], record: EventStored, _: int, out: list[Verdict]
    ) -> None:
        sequence = event.sequence
        trace = record.trace or sequence
        out.append(
            Matched(
                self._rule,
                key,
                [sequence],
                self._policy,
                None,
                None,
                trace,
                record.hops,
            )
        )

    def push(self, hit: Hit, out: list[Verdict]) -> None:
        """See `Stage`."""
        branches = None if hit.branches is None else list(hit.branches)
        out.append(
            Matched(
                self._rule,
                hit.key,
                list(hit.events),
                self._policy,
                hit.due_ns,
                branches,
                hit.trace,
                hit.hops,
                self._details(hit),
            )
        )

    def _details(self, hit: Hit) -> Details | None:
        at_ns = hit.at_ns if self._by_event_time else None
        if (
            hit.reason is None
            and hit.steps is None
            and hit.value is None
            and not hit.more
            and at_ns is None
        ):
            return None
        steps: dict[str, list[int]] | None = None
        if hit.steps is not None:
            named = set(hit.events)
            steps = {
                name: [number for number in numbers if number in named]
                for name, numbers in hit.steps
            }
        return Details(hit.reason, steps, hit.value, hit.count if hit.more else 0, at_ns)


class Where:
    """`.where` behind an operator; directly behind `on` it is part of the entry."""

    def __init__(
        self, rule: str, condition: Callable[[Any], object], then: Stage, *, is_level: bool = False
    ) -> None:
        self._rule = rule
        self.condition = condition
        self.then = then
        self.is_level = is_level
        """Whether what it turns down is handed on as such."""
        self.need = max(Need.LAST, then.need)

    def push(self, hit: Hit, out: list[Verdict]) -> None:
        """See `Stage`."""
        if holds(self._rule, self.condition, hit.event, out):
            self.then.push(hit, out)
        elif self.is_level:
            self.miss(hit, out)

    def miss(self, hit: Hit, out: list[Verdict]) -> None:
        """See `LevelStage`."""
        cast("LevelStage", self.then).miss(hit, out)


class Key:
    """`.key` behind an operator; directly behind `on` it is part of the entry."""

    def __init__(
        self, rule: str, key: Callable[[Any], Any], then: Stage, unkeyed: Callable[[], None]
    ) -> None:
        self._rule = rule
        self.key = key
        self.then = then
        self._unkeyed = unkeyed
        self.need = max(Need.LAST, then.need)

    def push(self, hit: Hit, out: list[Verdict]) -> None:
        """See `Stage`."""
        key = key_of(self._rule, self.key, hit.event, out)
        if key is None:
            self._unkeyed()
            return
        self.then.push(msgspec.structs.replace(hit, key=key), out)

    def miss(self, hit: Hit, out: list[Verdict]) -> None:
        """See `LevelStage`; as in `Entry`, errors are not recorded."""
        key = key_of(self._rule, self.key, hit.event, [])
        if key is not None:
            keyed = msgspec.structs.replace(hit, key=key)
            cast("LevelStage", self.then).miss(keyed, out)


class Aggregate:
    """`.aggregate`: hands on what a function makes of all events, beside them."""

    def __init__(self, place: Place, fold: Callable[[Any], object], then: Stage) -> None:
        self._rule = place.rule
        self._fold = fold
        self._then = then
        self.need = Need.ALL

    def push(self, hit: Hit, out: list[Verdict]) -> None:
        """See `Stage`; a function that raises is a recorded error, and no firing."""
        value = self._value(hit, out)
        if value is UNSET:
            return
        seen = hit.seen
        if seen:
            seen = (*seen[:-1], with_value(seen[-1], value))
        self._then.push(msgspec.structs.replace(hit, seen=seen, value=value), out)

    def _value(self, hit: Hit, out: list[Verdict]) -> Any:
        newest = hit.events[-1] if hit.events else 0
        try:
            # As plain data at once: what a restart would make of it.
            value = self._fold([seen.event for seen in hit.seen])
            plain = msgspec.to_builtins(value, str_keys=True, order="deterministic")
            return _decode(_encode(plain))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 (user code: law L4)
            out.append(RuleError(self._rule, newest, "aggregate", last_line(error)))
        return UNSET
