"""A rules file that is looked at while ``headrace run`` runs, and read again when it changes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio import to_thread

from headrace.cli.output import some_of
from headrace.engine.clock import NS
from headrace.engine.errors import DurabilityLost, EngineClosed, HeadraceError, RulesFileError

if TYPE_CHECKING:
    from headrace.app import App
    from headrace.engine.engine import Engine

LOOK_S: Final = 1.0
SETTLE_S: Final = 0.2
"""How long a file has to stay as it is before it is read: editors write in two steps."""
YOUNG_NS: Final = 2 * NS
"""A file that was changed so short a time ago may change again without its times showing it."""
PROBLEMS_SHOWN_MAX: Final = 100

Look = tuple[int, int, int, int] | None
"""When a file was changed, its size, inode and device; ``None``: it is not there."""


class RulesWatch:
    """Keeps the rules of one file in force as they are in it."""

    def __init__(self, app: App, engine: Engine, path: Path, logger: Any) -> None:
        self._app = app
        self._engine = engine
        self._path = path
        self._logger = logger
        self._has_read = False
        self._seen: Look = None
        # It may have changed since the app read it, so the first look reads it again.
        self._is_unsure = True
        """Whether the file may be another one than was read, though it looks the same."""
        self._reported: list[str] = []

    async def run(self) -> None:
        """Look at the file from time to time, until cancelled or the engine closes."""
        try:
            while True:
                await anyio.sleep(LOOK_S)
                await self._look()
        except (EngineClosed, DurabilityLost):
            return

    async def _look(self) -> None:
        look = await self._at_file()
        if look == self._seen and not self._is_unsure:
            return
        await anyio.sleep(SETTLE_S)
        if await self._at_file() != look:
            return  # somebody is writing it: at the next look
        is_other = self._has_read and look != self._seen
        try:
            result = await self._app.reload_rules(self._engine, self._path)
        except RulesFileError as error:
            self._report(error.lines)
        except (EngineClosed, DurabilityLost):
            raise
        except HeadraceError as error:
            self._report([f"{self._path}: {error}"])
            return  # no matter of the file: at the next look, once more
        else:
            self._reported = []
            if result or is_other:
                kinds = ("added", "changed", "other_action", "removed")
                named = {kind: getattr(result, kind) for kind in kinds}
                said = {kind: some_of(names, len(names)) for kind, names in named.items() if names}
                self._logger.info("rules_reloaded", file=str(self._path), **said)
        self._seen, self._has_read = look, True
        self._is_unsure = look is not None and 0 <= time.time_ns() - look[0] < YOUNG_NS

    async def _at_file(self) -> Look:
        # In a thread: a file system that hangs must not hold up the engine.
        return await to_thread.run_sync(_look_at, self._path, abandon_on_cancel=True)

    def _report(self, lines: list[str]) -> None:
        """Say what is wrong, once, a line for each problem; the rules in force stay."""
        if lines == self._reported:
            return
        self._reported = lines
        for line in lines[:PROBLEMS_SHOWN_MAX]:
            self._logger.error("rules_not_reloaded", problem=line)
        if len(lines) > PROBLEMS_SHOWN_MAX:
            more = f"{self._path}: and {len(lines) - PROBLEMS_SHOWN_MAX} problems more"
            self._logger.error("rules_not_reloaded", problem=more)


def _look_at(path: Path) -> Look:
    try:
        status = os.stat(path)  # noqa: PTH116 (the call of the system is what this is about)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev
