"""Resources: what tasks need of their process, such as a pool of connections.

Opened with the engine before any run starts, in the order of their declaration, and closed
after the last run, in reverse.  They are no arguments: nothing of them is recorded.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack
from typing import Any, Final, Generic, TypeVar, cast

import anyio

from headrace.engine.diagnostics import logger
from headrace.engine.errors import ResourceFailed

CLOSE_S_MAX: Final = 30.0
"""How long the resources of an engine may take to be closed."""

R = TypeVar("R")

Factory = Callable[[], AbstractAsyncContextManager[R] | AbstractContextManager[R]]


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
    """The resources of one engine, by name, as long as they are open."""

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
        self._stack: AsyncExitStack | None = None
        self._scope: anyio.CancelScope
        """Around them all: scopes that they hold open lie within it."""
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
        self._stack = AsyncExitStack()
        self._scope = self._stack.enter_context(anyio.CancelScope())
        for name, resource in self._declared.items():
            try:
                self.values[name] = await self._opened(self._stack, name, resource)
            except BaseException as error:
                await self.close()
                if isinstance(error, Exception):
                    raise ResourceFailed(
                        f"resource {name!r}: expected to open it, found {type(error).__name__}: "
                        f"{error}; the engine has not started, and nothing was written"
                    ) from error
                raise

    async def _opened(self, stack: AsyncExitStack, name: str, resource: Resource[Any]) -> Any:
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

    async def close(self) -> None:
        """Close all that are open, in reverse.  An error of one does not keep others open."""
        stack, self._stack = self._stack, None
        self.values.clear()
        if stack is not None:
            try:
                # A host that is cancelled wants it closed as well; not for ever.
                self._scope.shield = True
                self._scope.deadline = anyio.current_time() + CLOSE_S_MAX
                await stack.aclose()
                if self._scope.cancelled_caught:
                    logger().error("resource_not_closed", error=f"not within {CLOSE_S_MAX:g} s")
            except Exception as error:
                logger().error("resource_not_closed", error=f"{type(error).__name__}: {error}")
                raise
