"""Companions: what works beside an engine while it is open, such as the sources of its events.

They begin when runs do.  They are told to end, by cancellation, before runs get their grace
period, so that nothing comes in any more; the engine waits until they have let go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import anyio
from anyio.abc import TaskGroup

E_contra = TypeVar("E_contra", contravariant=True)


class Companion(Protocol[E_contra]):
    """Something that works beside an engine."""

    @property
    def name(self) -> str:
        """What diagnostics call it."""
        ...

    async def run(self, engine: E_contra) -> None:
        """Work until there is nothing left to do, or until cancelled.

        What it raises ends the body of the engine's ``async with``, and comes out of it.
        """
        ...


class Company:
    """The companions of one engine."""

    def __init__(self, companions: Sequence[Companion[Any]] = ()) -> None:
        """Take them; nothing runs yet."""
        self.companions = tuple(companions)
        self._scope: anyio.CancelScope | None = None
        self._left: anyio.Event | None = None

    def start(self, group: TaskGroup, engine: object) -> None:
        """Let all of them work, as tasks of *group*."""
        if self.companions:
            self._scope, self._left = anyio.CancelScope(), anyio.Event()
            group.start_soon(self._run, engine, name="headrace companions")

    async def _run(self, engine: object) -> None:
        assert self._scope is not None
        assert self._left is not None
        try:
            with self._scope:
                async with anyio.create_task_group() as group:
                    for companion in self.companions:
                        group.start_soon(companion.run, engine, name=f"headrace {companion.name}")
        finally:
            self._left.set()

    async def leave(self) -> None:
        """Tell all of them to end, and wait until they have."""
        if self._scope is not None and self._left is not None:
            self._scope.cancel()
            await self._left.wait()
