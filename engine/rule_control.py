"""`RuleControl`: rules that are added, replaced, removed, paused while the engine runs.

Tasks have it as ``run.rules``; what it does can be repeated, so it is no step of their runs.

Each change is a record, so a fold of the log knows when which rule was in force.  What it
does to a rule's state is said by `headrace.engine.rule_state`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Literal, Protocol

import anyio
from anyio.lowlevel import checkpoint
from msgspec import Struct
from msgspec.structs import replace

from headrace.engine.alarms import Alarm
from headrace.engine.backend import in_own_thread
from headrace.engine.core import Core
from headrace.engine.decider import Decider
from headrace.engine.declared import Declared
from headrace.engine.kernel import Kernel
from headrace.engine.log.protocol import EventLog
from headrace.engine.record import RuleChanged
from headrace.engine.restore import first_sequence, read_back
from headrace.engine.rule_requests import acknowledgement_of, check_in_force, pause_of, storable
from headrace.engine.task import TaskSpec
from headrace.engine.warm import WarmUp

CHANGES_AT_ONCE: Final = 10
"""Changes of rules before other tasks get their turn."""

Declare = Callable[..., Declared]


class Owner(Protocol):
    """What is needed of the engine."""

    log: EventLog

    def opened(self) -> Core:
        """Return the core that works."""
        ...


class _Change(Struct, frozen=True):
    """A rule that is another than the app declares, from a record on."""

    sequence: int
    name: str
    declared: Declared | None
    """``None``: it was removed."""


class RuleControl:
    """Changes the rules of an open engine.  All methods belong to its event loop."""

    def __init__(self, owner: Owner, declare: Declare | None, specs: dict[str, TaskSpec]) -> None:
        """Serve *owner*, whose cores take the code of tasks from *specs*."""
        self._owner = owner
        self._declare = declare
        self._specs = specs
        self._tasks: dict[str, str] = {}
        """The rule that brought it, by the name of a task."""
        self._changes: dict[str, list[_Change]] = {}
        """By rule: the last that is stored, and those that may not be yet."""
        self._lock = anyio.Lock()

    def redo(self, decider: Decider) -> None:
        """Let a new decider of the app have the rules as the log has them, which is failed or new.

        What was put and never stored is forgotten: whoever asked for it was told.
        """
        upto = self._owner.log.committed_sequence
        stored: list[_Change] = []
        for changes in self._changes.values():
            changes[:] = [change for change in changes if change.sequence <= upto][-1:]
            stored += changes
        for change in sorted(stored, key=lambda change: change.sequence):
            if change.declared is None:
                decider.retract(change.name)
            else:
                decider.declare(change.declared.rule)
                self._specs.update(change.declared.specs)

    def _note(self, sequence: int, name: str, declared: Declared | None) -> None:
        """Note a change for the next core."""
        upto = self._owner.log.committed_sequence
        changes = self._changes.setdefault(name, [])
        while len(changes) > 1 and changes[1].sequence <= upto:
            del changes[0]
        changes.append(_Change(sequence, name, declared))

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
        return await self.put(self._declare(pattern, action, warm=warm, **options))

    async def put(self, declared: Declared, *, cause: str = "") -> int:
        """Put *declared* into force; return the record's sequence once it is durable.

        If a rule of this name is in force just as it is declared, nothing is recorded but
        its action may be another one from now on; 0 is returned.  So it is before log time
        has begun, by input: the start will record it.
        """
        (sequence,) = await self.change([declared], cause=cause)
        return sequence

    async def change(
        self, put: Sequence[Declared] = (), remove: Sequence[str] = (), *, cause: str = ""
    ) -> list[int]:
        """See `Engine.change_rules`."""
        cause = storable(cause, "the cause of a change")
        self._check_tasks(put)
        async with self._lock:
            core = self._working()
            sequences: list[int] = []
            for rule in remove:
                sequences.append(self._remove(core, rule, cause))
                await self._let_others(sequences)
            for declared in put:
                sequences.append(await self._put(core, declared, cause))
                await self._let_others(sequences)
            upto = max(sequences, default=0) or core.kernel.sequence
        await core.pipeline.committed(upto)
        return sequences

    async def _let_others(self, done: list[int]) -> None:
        if len(done) % CHANGES_AT_ONCE == 0:
            await checkpoint()

    async def _put(self, core: Core, declared: Declared, cause: str) -> int:
        """Put *declared* into force; return the record's sequence, 0 if there is none."""
        name, fingerprint = declared.name, declared.rule.fingerprint()
        state, pipeline = core.kernel.state, core.pipeline
        if core.start_is_due:
            state.decider.declare(declared.rule)
            self._take_code(core, declared)
            self._note(0, name, declared)
            return 0
        if state.rules.get(name) == fingerprint and name in state.active:
            if pipeline.committed_sequence < core.kernel.sequence:
                # Behind the code of a change that may not be stored yet.
                pipeline.after(core.kernel.sequence, partial(self._take_code, core, declared))
            else:
                self._take_code(core, declared)
            for change in self._changes.get(name, [])[-1:]:
                self._changes[name][-1] = replace(change, declared=declared)
            return 0
        at_ns, first = pipeline.tick(), 0
        if name in state.decider.only(declared.rule).warm():
            at_ns, first = await self._prepare(core, declared)
        self._withdraw(core.kernel, name)
        state.decider.declare(declared.rule)
        # Once it is stored, and no later: until then runs of the version before begin.
        pipeline.after(core.kernel.sequence + 1, partial(self._take_code, core, declared))
        sequence = pipeline.put(RuleChanged(at_ns, name, fingerprint, first, cause))
        self._note(sequence, name, declared)
        return sequence

    def _working(self) -> Core:
        """Return the core, if it can store anything."""
        core = self._owner.opened()
        if core.pipeline.failure is not None:
            raise core.pipeline.failure
        return core

    def _check_tasks(self, put: Sequence[Declared]) -> None:
        """Refuse tasks with the names of another rule's; those of the app are for it to say."""
        brought: dict[str, str] = {}
        for declared in put:
            for task in declared.specs:
                rule = self._tasks.get(task) or brought.setdefault(task, declared.name)
                if rule != declared.name:
                    raise ValueError(
                        f"rule {declared.name!r}: expected a task name that is free, found "
                        f"{task!r} of rule {rule!r}; give it a name= of its own"
                    )
        self._tasks.update(brought)

    def _take_code(self, core: Core, declared: Declared) -> None:
        for spec in declared.specs.values():
            core.runner.declare(spec)

    def _withdraw(self, kernel: Kernel, rule: str) -> None:
        """Let *rule* be declared no more; its state goes with the record that comes next."""
        state = kernel.state
        if rule in state.active:
            state.active.discard(rule)
            state.decider.deactivate(rule)

    async def _prepare(self, core: Core, declared: Declared) -> tuple[int, int]:
        """Let the rule see the whole log, as far as it is kept.

        Returns the time of the record that is to come next, and where what it saw begins.
        """
        kernel, log, pipeline = core.kernel, self._owner.log, core.pipeline
        with kernel.tapped() as tap:
            upto = kernel.sequence
            await pipeline.committed(upto)
            first = first_sequence(log)
            if first > upto:
                return pipeline.tick(), 0
            scratch = kernel.state.decider.only(declared.rule)
            # The list itself: a source may be new in what is tapped.
            warm_up = WarmUp(scratch, declared.name, kernel.state.sources)
            await in_own_thread(pipeline.backend, lambda: warm_up.feed(read_back(log, first, upto)))
            at_ns = pipeline.tick()  # what is due is in the tap, too
            warm_up.feed(tap)
        kernel.state.prepared[declared.name] = warm_up
        return at_ns, first

    async def remove(self, rule: str) -> int:
        """See `Engine.remove_rule`."""
        async with self._lock:
            core = self._working()
            state = core.kernel.state
            if not (core.start_is_due and rule in state.declared):
                check_in_force(state, rule)
            sequence = self._remove(core, rule)
        await core.pipeline.committed(sequence)
        return sequence

    def _remove(self, core: Core, rule: str, cause: str = "") -> int:
        """Let *rule* be in force no more; return the record's sequence, 0 if there is none."""
        state, pipeline = core.kernel.state, core.pipeline
        sequence = 0
        if core.start_is_due:
            state.decider.retract(rule)
        elif rule not in state.rules:
            return 0
        else:
            at_ns = pipeline.tick()
            self._withdraw(core.kernel, rule)
            state.decider.retract(rule)
            sequence = pipeline.put(RuleChanged(at_ns, rule, None, cause=cause))
        self._note(sequence, rule, None)
        return sequence

    # ------------------------------------------------------------ paused, acknowledged

    async def pause(self, rule: str, reason: str = "") -> int:
        """See `Engine.pause`."""
        return await self._pause(rule, reason, paused=True)

    async def resume(self, rule: str, reason: str = "") -> int:
        """See `Engine.resume`."""
        return await self._pause(rule, reason, paused=False)

    async def _pause(self, rule: str, reason: str, *, paused: bool) -> int:
        reason = storable(reason, "the reason of a pause")
        core = self._working()
        state, pipeline = core.kernel.state, core.pipeline
        asked = pause_of(state, rule, reason, paused=paused, tick=pipeline.tick)
        sequence = 0 if asked is None else pipeline.put(asked)
        await pipeline.committed(sequence or core.kernel.sequence)
        return sequence

    def alarms(self) -> list[Alarm]:
        """See `Engine.alarms`."""
        return self._owner.opened().kernel.state.alarms.all()

    async def acknowledge(self, rule: str, key: Any = None, *, by: str = "", note: str = "") -> int:
        """See `Engine.acknowledge`."""
        by, note = (storable(text, "an acknowledgement") for text in (by, note))
        core = self._working()
        state, pipeline = core.kernel.state, core.pipeline
        known = acknowledgement_of(state, rule, key, by=by, note=note, tick=pipeline.tick)
        sequence = pipeline.put(known)
        await pipeline.committed(sequence)
        return sequence
