"""`RuleControl`: rules that are added, replaced, removed, paused while the engine runs.

Tasks have it as ``run.rules``; what it does can be repeated, so it is no step of their runs.

Each change is a record, so a fold of the log knows when which rule was in force.  What it
does to a rule's state is said by `headrace.engine.rule_state`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, Protocol

from headrace.engine.alarms import Alarm
from headrace.engine.backend import in_own_thread
from headrace.engine.core import Core
from headrace.engine.decider import Decider
from headrace.engine.declared import Declared
from headrace.engine.errors import RuleNotFound
from headrace.engine.kernel import Kernel
from headrace.engine.log.protocol import EventLog
from headrace.engine.payload import check_text
from headrace.engine.record import AlarmAcknowledged, RuleChanged, RulePaused
from headrace.engine.restore import first_sequence, read_back
from headrace.engine.warm import WarmUp

TEXT_CHARS_MAX: Final = 1000


Declare = Callable[..., Declared]


class Owner(Protocol):
    """What is needed of the engine."""

    log: EventLog

    def opened(self) -> Core:
        """Return the core that works."""
        ...


class RuleControl:
    """Changes the rules of an open engine.  All methods belong to its event loop."""

    def __init__(self, owner: Owner, declare: Declare | None) -> None:
        self._owner = owner
        self._declare = declare
        self._changes: dict[str, Declared | None] = {}
        """What differs from the app's declarations, for the next core: ``None``: removed."""

    def redo(self, decider: Decider) -> None:
        """Let a new decider of the app have the rules as they are by now."""
        for name, declared in self._changes.items():
            if declared is None:
                decider.retract(name)
            else:
                decider.declare(declared.rule)

    # ------------------------------------------------------------ in force

    async def add(
        self,
        pattern: Any,
        action: Callable[..., Any],
        *,
        warm: Literal["replay"] | None = None,
        **options: Any,
    ) -> int:
        """See `Engine.add_rule`."""
        if self._declare is None:
            raise TypeError("this engine was opened without an app: it takes no rules")
        declared = self._declare(pattern, action, **options)
        return await self.put(declared, warm=warm == "replay")

    async def put(self, declared: Declared, *, warm: bool = False, cause: str = "") -> int:
        """Put *declared* into force; return the record's sequence once it is durable.

        If a rule of this name is in force just as it is declared, nothing is recorded but
        its action may be another one from now on; 0 is returned.
        """
        core = self._owner.opened()
        state = core.kernel.state
        fingerprint = declared.rule.fingerprint()
        if state.rules.get(declared.name) == fingerprint and declared.name in state.active:
            self._take_code(core, declared)
            return 0
        first = 0
        if warm:
            first = await self._prepare(core, declared)
            core = self._owner.opened()
        at_ns = core.pipeline.tick()
        self._withdraw(core.kernel, declared.name)
        core.kernel.state.decider.declare(declared.rule)
        self._take_code(core, declared)
        self._changes[declared.name] = declared
        changed = RuleChanged(at_ns, declared.name, fingerprint, first, cause)
        sequence = core.pipeline.put(changed)
        await core.pipeline.committed(sequence)
        return sequence

    def _take_code(self, core: Core, declared: Declared) -> None:
        for spec in declared.specs.values():
            core.runner.declare(spec)

    def _withdraw(self, kernel: Kernel, rule: str) -> None:
        """Let *rule* be declared no more; its state goes with the record that comes next."""
        state = kernel.state
        if rule in state.active:
            state.active.discard(rule)
            state.decider.deactivate(rule)

    async def _prepare(self, core: Core, declared: Declared) -> int:
        """Let the rule see the whole log, as far as it is kept; return where that begins."""
        kernel, log = core.kernel, self._owner.log
        with kernel.tapped() as tap:
            upto = kernel.sequence
            await core.pipeline.committed(upto)
            first = first_sequence(log)
            if first > upto:
                return 0
            scratch = kernel.state.decider.only(declared.rule)
            warm_up = WarmUp(scratch, declared.name, list(kernel.state.sources))
            await in_own_thread(
                core.pipeline.backend, lambda: warm_up.feed(read_back(log, first, upto))
            )
            core.pipeline.tick()  # what is due is in the tap, too
            warm_up.feed(tap)
        kernel.state.prepared[declared.name] = warm_up
        return first

    async def remove(self, rule: str) -> int:
        """See `Engine.remove_rule`."""
        core = self._owner.opened()
        self._check(core, rule)
        at_ns = core.pipeline.tick()
        self._withdraw(core.kernel, rule)
        core.kernel.state.decider.retract(rule)
        self._changes[rule] = None
        sequence = core.pipeline.put(RuleChanged(at_ns, rule, None))
        await core.pipeline.committed(sequence)
        return sequence

    # ------------------------------------------------------------ paused, acknowledged

    async def pause(self, rule: str, reason: str = "") -> int:
        """See `Engine.pause`."""
        return await self._pause(rule, reason, paused=True)

    async def resume(self, rule: str, reason: str = "") -> int:
        """See `Engine.resume`."""
        return await self._pause(rule, reason, paused=False)

    async def _pause(self, rule: str, reason: str, *, paused: bool) -> int:
        reason = str(reason)[:TEXT_CHARS_MAX]
        check_text(reason, "the reason of a pause")
        core = self._owner.opened()
        self._check(core, rule)
        if (rule in core.kernel.state.paused) is paused:
            return 0
        sequence = core.pipeline.put(RulePaused(core.pipeline.tick(), rule, paused, reason))
        await core.pipeline.committed(sequence)
        return sequence

    def alarms(self) -> list[Alarm]:
        """See `Engine.alarms`."""
        return self._owner.opened().kernel.state.alarms.all()

    async def acknowledge(self, rule: str, key: Any = None, *, by: str = "", note: str = "") -> int:
        """See `Engine.acknowledge`."""
        texts = [str(text)[:TEXT_CHARS_MAX] for text in (by, note)]
        for text in texts:
            check_text(text, "an acknowledgement")
        core = self._owner.opened()
        if core.kernel.state.alarms.find(rule, key) is None:
            raise RuleNotFound(f"no alarm of rule {rule!r} stands for key {key!r}")
        known = AlarmAcknowledged(core.pipeline.tick(), rule, key, *texts)
        sequence = core.pipeline.put(known)
        await core.pipeline.committed(sequence)
        return sequence

    def _check(self, core: Core, rule: str) -> None:
        if rule not in core.kernel.state.rules:
            known = ", ".join(sorted(core.kernel.state.rules)) or "none"
            raise RuleNotFound(
                f"expected a rule that is in force, found {rule!r}; there are {known}"
            )
