"""`failing_task`: lets a task of an app fail, for as long as a block lasts."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.app import App
    from headrace.engine.task import TaskSpec

__all__ = ["TaskDouble", "failing_task"]


class TaskDouble:
    """What is called in place of a task.

    It passes for the task's own function wherever that is looked up, since code goes on to
    call and spawn that.
    """

    def __init__(self, spec: TaskSpec, times: int | None, error: BaseException) -> None:
        self._function = spec.function
        self._is_async = spec.is_async
        self._times = times
        self._error = error
        self.calls = 0
        """How often it was called, with and without success."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Fail, or do what the task does."""
        return self._later(*args, **kwargs) if self._is_async else self._now(*args, **kwargs)

    async def _later(self, *args: Any, **kwargs: Any) -> Any:
        return await self._now(*args, **kwargs)

    def _now(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self._times is None or self.calls <= self._times:
            raise self._error.with_traceback(None)
        return self._function(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return other is self or other is self._function

    def __hash__(self) -> int:
        return hash(self._function)


@contextmanager
def failing_task(
    app: App,
    task: str | Callable[..., Any],
    *,
    error: BaseException,
    times: int | None = None,
) -> Generator[TaskDouble]:
    """Let a task of *app*, or the action of a rule, raise *error* while the block lasts.

    The first *times* calls do so, of whatever run; all that follow go to the task itself.
    Without *times* all fail.  *task* is its function or its name.

    Raises:
        ValueError: *app* has no such task, or *times* is below 1.
        TypeError: it is executed in another process, where it cannot be replaced.
    """
    if times is not None and times < 1:
        raise ValueError(f"failing_task: expected times from 1, found {times!r}")
    spec = _spec_of(app, task)
    if spec.process_path is not None:
        raise TypeError(
            f"failing_task: expected a task of this process, found {spec.name!r}, which is "
            "declared with process=True; let what it calls fail instead"
        )
    function = spec.function
    double = TaskDouble(spec, times, error)
    spec.function = double
    try:
        yield double
    finally:
        spec.function = function


def _spec_of(app: App, task: str | Callable[..., Any]) -> TaskSpec:
    for name, spec in app.tasks.items():
        if task in (name, spec.function):
            return spec
    shown = task if isinstance(task, str) else getattr(task, "__qualname__", repr(task))
    raise ValueError(
        f"failing_task: expected a task of {app!r} ({', '.join(sorted(app.tasks))}), found {shown}"
    )
