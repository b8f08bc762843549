"""What an open log does in threads of its own, done in the caller's or not at all."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from headrace.engine.errors import LogError
from headrace.engine.log import file
from headrace.engine.log.group import Group
from headrace.engine.log.protocol import Durability
from headrace.engine.log.store import Store


class InlineWriter:
    """What `headrace.engine.log.writer.Writer` does, at once and in the caller's thread."""

    def __init__(
        self,
        store: Store,
        *,
        durability: Durability,
        notify: Callable[[], None],
        **_options: Any,
    ) -> None:
        """As the writer's."""
        self.notify = notify
        self.queue: list[Group] = []
        self.written_bytes = 0
        self.failure: LogError | None = None
        self._store = store
        self._durability = durability

    def submit(self, group: Group) -> None:
        """Write and sync *group*; a disk that fails is noted, as the thread would."""
        if self.failure is not None:
            return
        try:
            self._store.write([group])
            if self._durability == "fsynced":
                self._store.sync()
        except LogError as error:
            self.failure = error
        else:
            self.written_bytes += group.size_bytes
            self._store.write_index()
        self.notify()

    def sync(self, _sequence: int) -> None:
        """Make all durable."""
        if self.failure is not None:
            raise self.failure
        self._store.sync()

    def stop(self) -> None:
        """End."""
        if self.failure is None:
            self._store.sync()


class NoBackground:
    """Nothing is compressed or indexed beside the rest, at a time that nobody could repeat."""

    def __init__(self, *_: Any, **_options: Any) -> None:
        """As `headrace.engine.log.background.Background`."""

    def stop(self) -> None:
        """End."""


@contextmanager
def written_at_once() -> Generator[None]:
    """Let logs that are opened now write in the caller's thread.

    For checks of what was left on a disk.  Stories in which a disk fails, or loses its power,
    are told with the writer's thread.
    """
    with patch.object(file, "Writer", InlineWriter):
        yield
