"""`EngineFiles`: rules files that are read anew while an engine runs."""

from __future__ import annotations

import os
from typing import Any, Final

import anyio
from msgspec import Struct

from headrace.engine.backend import current_backend, in_own_thread
from headrace.engine.engine import Engine
from headrace.engine.errors import CommandRefused, Problem, RulesFileError
from headrace.file_rules import AppFiles, FileRule, LoadedFile, absolute, rules_of_file
from headrace.triggers.rules_file import Changes, changes

PROBLEMS_SENT_MAX: Final = 100
"""Of one file, to whoever asks over the control socket: an answer has its bounds."""
NAMES_SENT_MAX: Final = 1000
KINDS: Final = ("added", "changed", "other_action", "removed")


class _InForce(Struct):
    """What an engine has of a file."""

    path: str
    """As it was given."""
    versions: dict[str, list[FileRule]]
    """What may be in force, by rule: more than one if a change did not come to its end."""
    actions: dict[str, str]
    """Every action that there was, and whose: runs of those that are gone may be open."""
    is_sure: bool = True
    """Whether each rule is known to have the code of its version."""

    def rules(self, declared: dict[str, str]) -> list[FileRule]:
        """Return those that are in force, by what is *declared*.

        Not by what should be: tasks change rules, too, and what they put in place of a rule
        of the file is theirs.
        """
        return [
            rule
            for name, versions in self.versions.items()
            for rule in versions
            if rule.fingerprint == declared.get(name)
        ]


def _in_force(file: LoadedFile) -> _InForce:
    versions = {rule.said.name: [rule] for rule in file.rules if rule.said.enabled}
    return _InForce(file.path, versions, file.actions())


class EngineFiles:
    """The rules files of an open engine.  All methods belong to its event loop."""

    def __init__(self, app: AppFiles) -> None:
        """Take the files that *app* has loaded by now: the engine begins with these."""
        self._app = app
        self._files = {key: _in_force(file) for key, file in app.loaded.items()}
        self._lock = anyio.Lock()

    async def reload(self, engine: Engine, path: str | os.PathLike[str]) -> Changes:
        """See `App.reload_rules`."""
        async with self._lock:
            file = self._files.get(absolute(path)) or _InForce(os.fspath(path), {}, {})
            declared = engine.kernel.state.declared
            old = file.rules(declared)
            others = declared.keys() - {rule.said.name for rule in old}
            there = self._app.around(path, others, file.actions)

            def read() -> tuple[list[FileRule], Changes]:
                new = rules_of_file(path, there)
                return new, changes([rule.said for rule in old], [rule.said for rule in new])

            # In a thread: ten thousand rules take seconds, and the engine goes on meanwhile.
            found, result = await in_own_thread(current_backend(), read)
            # Not before: a path that was a slip is none of those that `reload_all` reads.
            self._files[absolute(path)] = file
            await self._apply(engine, file, LoadedFile(os.fspath(path), found), result)
            self._app.declare(path, found)
            return result

    async def _apply(
        self, engine: Engine, file: _InForce, new: LoadedFile, result: Changes
    ) -> None:
        """Put what is new into force; see to it that it can be finished if that fails."""
        todo = {*result.added, *result.changed, *result.other_action}
        rules = [rule for rule in new.rules if rule.said.enabled]
        put = [rule for rule in rules if rule.said.name in todo or not file.is_sure]
        for rule in put:
            versions = file.versions.setdefault(rule.said.name, [])
            if all(rule.fingerprint != version.fingerprint for version in versions):
                versions.append(rule)
        file.actions = new.actions() | file.actions
        file.is_sure = False
        if put or result.removed:
            cause = _as_text(new.path)
            declared = [rule.declared for rule in put]
            try:
                await engine.change_rules(declared, result.removed, cause=cause)
            except ValueError as error:  # of a rule that a task has added
                raise RulesFileError(new.path, [Problem(0, 0, "", str(error))]) from error
        file.versions = _in_force(new).versions
        file.is_sure = True

    async def reload_all(self, engine: Engine) -> dict[str, Any]:
        """Reload every file; return for each what has changed, or what is wrong with it.

        For the control socket.

        Raises:
            CommandRefused: there is none.
        """
        if not self._files:
            raise CommandRefused(
                "expected an app with a rules file, found one without; start it with --rules, or "
                "let it call app.load_rules"
            )
        return {"files": [await self._reloaded(engine, file.path) for file in self._files.values()]}

    async def _reloaded(self, engine: Engine, path: str) -> dict[str, Any]:
        problems: list[str] = []
        result = Changes([], [], [], [], [])
        try:
            result = await self.reload(engine, path)
        except RulesFileError as error:
            problems = error.lines
        names: dict[str, list[str]] = {kind: getattr(result, kind) for kind in KINDS}
        counts = {kind: len(several) for kind, several in names.items()}
        return {
            "path": _as_text(path),
            **{kind: several[:NAMES_SENT_MAX] for kind, several in names.items()},
            "problems": [_as_text(problem) for problem in problems[:PROBLEMS_SENT_MAX]],
            "counts": counts | {"same": len(result.same), "problems": len(problems)},
        }


def _as_text(said: str) -> str:
    """Return *said* so that it can be sent and recorded: names of files in it are bytes."""
    return said.encode(errors="backslashreplace").decode()
