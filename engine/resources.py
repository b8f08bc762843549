"""Resources: what tasks need of their process, such as a pool of connections.

Opened with the engine before any run starts, in the order of their declaration, and closed
after the last run, in reverse.  They are no arguments: nothing of them is recorded.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack
from typing import Any, Final, Generic, TypeVar, cast

import anyio
from anyio.abc import TaskGroup

from headrace.engine.backend import is_cancelled_here
from headrace.engine.diagnostics import logger
from headrace.engine.errors import ResourceFailed

CLOSE_S_MAX: Final = 30.0
"""How long the resources of an engine may take to be closed."""

R = TypeVar("R")

Factory = Callable[[], AbstractAsyncContextManager[R] | AbstractContextManager[R]]


def sole(error: BaseException) -> BaseException:
    """Return what is in a group of one, else the *error* itself."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


class Resource(Generic[R]):
    """What `App.resource` declares: the mark of a parameter, as in ``Annotated[Pool, db]``."""

    def __init__(self, name: str, factory: Factory[R]) -> None:
        """Made by `App.resource`, not by users."""
        self.name = name
        self.factory = factory

    def __repr__(self) -> str:
        """Name it."""
        return f"<Resource {self.name}>"

    @property
    def injected(self) -> R:
        """A default for the parameter: type checkers then let callers leave it out.

        ``async def pay(order: int, pool: Annotated[Pool, db] = db.injected) -> str``.  The
        engine never uses it; who calls the function itself passes the resource.
        """
        return cast("R", self)


class OpenResources:
    """The resources of one engine, by name, as long as they are open.

    A task of its own opens them, keeps them and closes them: the task groups that they may
    hold open are then not around the host's code, so what cancels that does not reach them.
    """

    def __init__(
        self, declared: Mapping[str, Resource[Any]], replaced: Mapping[str, Any] | None = None
    ) -> None:
        """Take what is declared, but for what is *replaced* by a value or a function.

        Raises:
            ValueError: *replaced* names one that is not declared.
        """
        self.values: dict[str, Any] = {}
        self._declared = dict(declared)
        self._replaced = dict(replaced or {})
        self._group: TaskGroup | None = None
        self._opened: anyio.Event
        self._closing: anyio.Event
        self._opening: anyio.CancelScope
        """Around the resource that is opened next, and all after it."""
        self._is_given_up = False
        """Whether the host does not wait any longer for them to be open."""
        self._failure: ResourceFailed | None = None
        unknown = sorted(self._replaced.keys() - self._declared.keys())
        if unknown:
            there = ", ".join(sorted(self._declared)) or "none"
            raise ValueError(
                f"resources: expected names of declared resources ({there}), found {unknown[0]!r}"
            )

    async def open(self) -> None:
        """Open all, in their order.

        Raises:
            ResourceFailed: one could not be opened; those that were are closed again.
        """
        if not self._declared:
            return
        self._opened, self._closing = anyio.Event(), anyio.Event()
        self._opening = anyio.CancelScope()
        self._group = await anyio.create_task_group().__aenter__()
        self._group.start_soon(self._hold, name="headrace resources")
        try:
            await self._opened.wait()
        except BaseException:
            if not self._opened.is_set():
                self._is_given_up = True
                self._opening.cancel()
            await self.close()
            raise
        if self._failure is not None:
            await self.close()
            raise self._failure

    async def close(self) -> None:
        """Close all that are open, in reverse.  An error of one does not keep others open."""
        group, self._group = self._group, None
        if group is not None:
            self._closing.set()
            try:
                await group.__aexit__(None, None, None)
            except BaseExceptionGroup as several:
                raise sole(several) from None

    async def _hold(self) -> None:
        stack = AsyncExitStack()
        with anyio.CancelScope(shield=True) as scope:
            try:
                await self._open_all(stack)
                self._opened.set()
                await self._closing.wait()
            except ResourceFailed as failure:
                self._failure = failure
            except anyio.get_cancelled_exc_class():
                if not self._is_given_up:
                    raise  # it is for the scope of a resource that has failed
            finally:
                self.values.clear()
                # A host that is cancelled wants them closed as well; not for ever.
                scope.deadline = anyio.current_time() + CLOSE_S_MAX
                await self._close_all(stack)
        if scope.cancelled_caught:
            logger().error("resource_not_closed", error=f"not within {CLOSE_S_MAX:g} s")
        self._opened.set()

    async def _open_all(self, stack: AsyncExitStack) -> None:
        for name, resource in self._declared.items():
            # Left when it is closed: scopes that it holds open lie within.
            stack.enter_context(self._opening)
            try:
                self.values[name] = await self._entered(stack, name, resource)
            except BaseException as error:
                if isinstance(error, Exception) or _is_of_another(error):
                    raise ResourceFailed(
                        f"resource {name!r}: expected to open it, found {type(error).__name__}: "
                        f"{error}; the engine has not started, and nothing was written"
                    ) from error
                raise
            self._opening = anyio.CancelScope()

    async def _entered(self, stack: AsyncExitStack, name: str, resource: Resource[Any]) -> Any:
        made: Any = self._replaced.get(name, resource.factory)
        if name in self._replaced and not inspect.isroutine(made):
            return made
        made = made()
        if hasattr(made, "__aenter__"):
            return await stack.enter_async_context(made)
        if hasattr(made, "__enter__"):
            return stack.enter_context(made)
        if name in self._replaced:
            return made
        raise TypeError(
            f"its function returned {type(made).__name__!r}, and not a context manager; decorate "
            "it with contextlib.asynccontextmanager"
        )

    async def _close_all(self, stack: AsyncExitStack) -> None:
        try:
            await stack.aclose()
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, Exception) or _is_of_another(error):
                logger().error("resource_not_closed", error=f"{type(error).__name__}: {error}")
            raise


def _is_of_another(error: BaseException) -> bool:
    """Say whether *error* is the cancellation of something that was awaited, and not of this."""
    return isinstance(error, asyncio.CancelledError) and not is_cancelled_here()
