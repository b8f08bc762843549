"""`Executor`: what a run needs of whoever executes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

from msgspec import Raw

from headrace.engine.commit import Pipeline
from headrace.engine.observer import Observer
from headrace.engine.processes import Processes
from headrace.engine.stopwatch import Stopwatch
from headrace.engine.task import TaskSpec


class Rules(Protocol):
    """The rules of an engine, to be changed: see `headrace.engine.rule_control.RuleControl`."""

    async def add(
        self,
        pattern: Any,
        action: Callable[..., Any],
        *,
        warm: Literal["replay"] | None = None,
        **options: Any,
    ) -> int:
        """See `Engine.add_rule`."""
        ...

    async def remove(self, rule: str) -> int:
        """See `Engine.remove_rule`."""
        ...

    async def pause(self, rule: str, reason: str = "") -> int:
        """See `Engine.pause`."""
        ...

    async def resume(self, rule: str, reason: str = "") -> int:
        """See `Engine.resume`."""
        ...


class Executor(Protocol):
    """Implemented by `headrace.engine.runner.Runner`."""

    pipeline: Pipeline
    processes: Processes
    """The worker processes of tasks that are declared with ``process=True``."""
    stopwatch: Stopwatch
    """What finds out whose code blocks the event loop."""
    rules: Rules | None
    """What changes the engine's rules."""
    observer: Observer | None
    """Who wants to know how runs execute."""

    def spec_of(self, task: Callable[..., Any]) -> TaskSpec:
        """Return the declaration of *task*, or raise `TypeError`."""
        ...

    def start(self, run_id: int) -> None:
        """Let a worker execute the run, if nothing does so yet."""
        ...

    def may_begin(self, parent: object, spec: TaskSpec) -> bool:
        """Say whether a step of *parent* may begin before its request is recorded."""
        ...

    async def begin_step(self, parent: object, spec: TaskSpec, raw: Raw, ordinal: int) -> None:
        """Execute a step, and record it as soon as that has to wait, or is done; then `finish`."""
        ...

    async def finish(self, parent: object, run_id: int) -> None:
        """Execute the child here, or wait for it; return when its end is committed."""
        ...

    def when_ended(self, run_id: int, call: Callable[[], None]) -> None:
        """Call *call* once the end of the run is committed."""
        ...

    def cancel_child(self, run_id: int, reason: str) -> None:
        """End the run without success, now or as soon as its code lets go."""
        ...

    def park(self, run: object, change: int) -> None:
        """Note that the code of *run* waits for children or a timer (+1), or no more (-1)."""
        ...

    def leave(self, run: object) -> None:
        """End the attempt of *run*, whose code was cancelled at a wait by itself."""
        ...

    def check_wait(self, run_id: int) -> None:
        """Raise `WaitsForItself` if the code that asks could never end when it waits for a run."""
        ...

    def is_at_work(self, run: object) -> bool:
        """Say whether the code of *run* executes, and nobody has asked for its end."""
        ...

    async def take_back(self) -> bool:
        """See `Crew.take_back`, with *only_own*."""
        ...

    def resource(self, name: str) -> Any:
        """Return the resource of this name, which is open."""
        ...

    def logger_of(self, run_id: int) -> Any:
        """Return a structlog logger that names the run."""
        ...
