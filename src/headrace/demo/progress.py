"""Progress on stderr: a bar on a terminal, four lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

Advance = Callable[[int], None]
"""Say how much is done, counted from the beginning."""


@contextmanager
def shown(title: str, total: int) -> Generator[Advance, None, None]:
    """Show how far something of size *total* has come."""
    if not sys.stderr.isatty():
        yield _Lines(title, total).advance
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total)
        yield lambda done: progress.update(task, completed=done)


class _Lines:
    """A line for each quarter."""

    def __init__(self, title: str, total: int) -> None:
        self._title = title
        self._total = total
        self._quarters = 0

    def advance(self, done: int) -> None:
        quarters = 4 * done // self._total if self._total else 4
        if quarters > self._quarters:
            self._quarters = quarters
            sys.stderr.write(f"{self._title}: {done} of {self._total}\n")
            sys.stderr.flush()
