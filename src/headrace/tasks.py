"""`Tasks`: the part of an `App` that declares functions: tasks, and actions for rules of a file."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Final, TypeVar, Unpack, overload

from headrace.chaining import Link
from headrace.engine.limits import LimitOptions, limits_of
from headrace.engine.resources import Resource
from headrace.engine.run import Run
from headrace.engine.task import TaskSpec
from headrace.engine.versions import place_of
from headrace.triggers.checks import Seconds, duration_ns

F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R")

NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")


class Tasks(ABC):
    """Functions by name."""

    def __init__(self) -> None:
        self.tasks: dict[str, TaskSpec] = {}
        """Tasks and rules' actions by name: a run names its code by this."""
        self.older: dict[str, TaskSpec] = {}
        """Versions of tasks that take no new runs."""
        self.actions: dict[str, TaskSpec] = {}
        """What `action` has declared, by name."""
        self.resources: dict[str, Resource[Any]] = {}
        """What `resource` has declared, by name, in that order."""

    @overload
    def resource(
        self, name: str, factory: Callable[[], AbstractAsyncContextManager[R]]
    ) -> Resource[R]: ...
    @overload
    def resource(
        self, name: str, factory: Callable[[], AbstractContextManager[R]]
    ) -> Resource[R]: ...
    def resource(self, name: str, factory: Callable[[], Any]) -> Resource[Any]:
        """Declare what tasks and actions take by annotation: ``pool: Annotated[Pool, db]``.

        *factory* takes nothing and returns a context manager, async or not.  It is opened
        with the engine, before any run starts, in the order of declaration, and closed after
        the last run, in reverse; all runs share it.  Declare it before the tasks that take
        it.  ``app.open(…, resources={name: fake})`` replaces it, as in tests.

        Raises:
            ValueError: *name* is no name, or is declared already.
            TypeError: *factory* cannot be called.
        """
        check_name("resource", name)
        if name in self.resources:
            raise ValueError(f"resource {name!r} is declared twice; give one of them another name")
        if not callable(factory):
            raise TypeError(
                f"resource {name!r}: expected a function that returns a context manager, found "
                f"{factory!r}"
            )
        declared = self.resources[name] = Resource(name, factory)
        return declared

    @overload
    def task(self, function: F) -> F: ...
    @overload
    def task(
        self,
        *,
        retry: Any = None,
        timeout: Seconds | None = None,
        name: str | None = None,
        version: str | None = None,
        process: bool = False,
        replayable: bool = False,
        then: Callable[..., Any] | None = None,
        on_failure: Callable[..., Any] | None = None,
        **limits: Unpack[LimitOptions],
    ) -> Callable[[F], F]: ...
    def task(
        self,
        function: F | None = None,
        *,
        retry: Any = None,
        timeout: Seconds | None = None,
        name: str | None = None,
        version: str | None = None,
        process: bool = False,
        replayable: bool = False,
        then: Callable[..., Any] | None = None,
        on_failure: Callable[..., Any] | None = None,
        **limits: Unpack[LimitOptions],
    ) -> F | Callable[[F], F]:
        """Declare a function as a task; it stays an ordinary function.

        *retry* is a `Retry` or a tenacity policy, or a list of them, of which the first decides
        that is for the exception; without one a failure is final.  *timeout* bounds one attempt,
        in seconds.  *name* is what the log knows it by.

        *limits*: ``deadline`` bounds the run with all its attempts and the waits in between;
        an attempt has failed that does not call ``run.progress`` each ``heartbeat`` seconds;
        ``concurrency`` and ``concurrency_per_key`` are how many attempts execute at once,
        ``rate`` how many begin in a time (``"100/s"`` or a `Rate`), ``priority`` who goes
        first (the higher), ``breaker`` a `Breaker`.  See docs/fault-tolerance.md.

        An ``async def`` is executed in the event loop, a ``def`` in a thread, and with
        *process* in a worker process: for what needs a processor for long.  It is found there
        by its module and name, and takes nothing but its arguments.

        With *replayable* a replay may execute the code, to compare its calls.  *then* is a task
        that follows each run that completes, and *on_failure* one that follows each that is given
        up: see `App.then` and `App.on_failure`.

        *version* lets runs go on with the code that they began with: declare the new code
        under the same name with another version, after the old, which then only finishes its
        own runs.  A run whose version is not declared any more stays open, with a warning.

        Raises:
            TypeError, ValueError: it cannot work; says which part and why.
        """

        def declare(function: F) -> F:
            self._declare(
                function,
                name or name_of(function),
                retry=retry,
                timeout=timeout,
                version=version,
                process=process,
                replayable=replayable,
                limits=limits,
            )
            if then is not None:
                self._chain(function, "then", then)
            if on_failure is not None:
                self._chain(function, "on_failure", on_failure)
            return function

        return declare if function is None else declare(function)

    @overload
    def action(self, function: F) -> F: ...
    @overload
    def action(
        self, *, retry: Any = None, timeout: Seconds | None = None, name: str | None = None
    ) -> Callable[[F], F]: ...
    def action(
        self,
        function: F | None = None,
        *,
        retry: Any = None,
        timeout: Seconds | None = None,
        name: str | None = None,
    ) -> F | Callable[[F], F]:
        """Declare a function that rules of a file can start; see `load_rules`.

        It takes ``run: Run``, ``firing: Firing[Any]``, both or neither, as a rule's action
        does.  *retry* and *timeout* hold for the rules that say none.

        Raises:
            TypeError, ValueError: it cannot work; says which part and why.
        """

        def declare(function: F) -> F:
            action_name = name or name_of(function)
            spec = self._spec(function, action_name, retry=retry, timeout=timeout, is_action=True)
            self.actions[action_name] = spec
            return function

        return declare if function is None else declare(function)

    def _declare(self, function: Callable[..., Any], name: str, **options: Any) -> None:
        taken, version = self.tasks.get(name), options["version"]
        if (
            taken is None
            or taken.is_action
            or version == taken.version
            or (place_of(name, version) in self.older)
        ):
            made = self._spec(function, name, **options)
        else:
            made = spec_of(function, name, resources=self.resources, **options)
            self.older[place_of(name, taken.version)] = taken
        self.tasks[name] = made

    @abstractmethod
    def _chain(self, first: Callable[..., Any], link: Link, other: Callable[..., Any]) -> None:
        """Start *other* when *first* ends as *link* says: for what has rules, too."""

    def _spec(self, function: Callable[..., Any], name: str, **how: Any) -> TaskSpec:
        """Return what is declared of *function*, under a name that is not taken."""
        made = spec_of(function, name, resources=self.resources, **how)
        taken = self.tasks.get(name) or self.actions.get(name)
        if taken is not None:
            raise ValueError(
                f"task {name!r} is declared twice, at {taken.place} and again; "
                f"give one of them a name= of its own"
            )
        return made


def spec_of(
    function: Callable[..., Any],
    name: str,
    *,
    retry: Any = None,
    timeout: Seconds | None = None,
    version: str | None = None,
    is_action: bool = False,
    resources: Mapping[str, Resource[Any]] | None = None,
    process: bool = False,
    replayable: bool = False,
    limits: LimitOptions | None = None,
) -> TaskSpec:
    """Return what is declared of *function* as a task.

    Raises:
        TypeError, ValueError: it cannot work; says which part and why.
    """
    check_name("task", name)
    timeout_s = None if timeout is None else duration_ns(name, "timeout", timeout) / 1e9
    return TaskSpec(
        name,
        function,
        run_type=Run,
        retry=retry,
        timeout_s=timeout_s,
        version=version,
        is_action=is_action,
        resources=resources,
        process=process,
        replayable=replayable,
        limits=limits_of(name, limits or {}),
    )


def name_of(function: Callable[..., Any]) -> str:
    """Return the name under which *function* is declared unless it is given another.

    Raises:
        TypeError: it has none of its own.
    """
    name = getattr(function, "__name__", None)
    if not isinstance(name, str) or name == "<lambda>":
        raise TypeError(f"{function!r} has no name of its own; give it one with name=")
    return name


def check_name(place: str, name: object) -> None:
    """Refuse what is no name of an app, a rule or a task.

    Raises:
        ValueError: says what *place* expects.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(
            f"{place} name {name!r}: expected 1 to 64 letters, digits, '_' and '-', "
            f"beginning with a letter or '_'"
        )
