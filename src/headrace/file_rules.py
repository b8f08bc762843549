"""From the rules of a file to what an app declares: their actions are tasks that it has.

`AppFiles` is what an app has loaded; `headrace.reloading` reads a file anew while an engine runs.
"""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from functools import cache, partial
from inspect import Parameter
from typing import Any, get_args

import msgspec
from msgspec import Struct

from headrace.engine.declared import Declared
from headrace.engine.task import TaskSpec, _hints_of
from headrace.triggers.rule_options import task_name
from headrace.triggers.rules_file import RuleText, read_rules
from headrace.triggers.ruleset import Rule


class FileRule(Struct, frozen=True):
    """A rule of a file, and the rule with its code that it makes."""

    said: RuleText
    declared: Declared
    fingerprint: str


class LoadedFile(Struct, frozen=True):
    """A version of a rules file."""

    path: str
    """As it was given."""
    rules: list[FileRule]

    def actions(self) -> dict[str, str]:
        """Return the names of the actions of its rules that are enabled, and whose each is."""
        enabled = [rule.declared for rule in self.rules if rule.said.enabled]
        return {name: declared.name for declared in enabled for name in declared.specs}


class Surroundings(Struct, frozen=True):
    """What the rules of a file find there."""

    tasks: Mapping[str, TaskSpec]
    """Among them the actions of `rules`."""
    actions: Mapping[str, TaskSpec]
    rules: Collection[str]
    reserved: Mapping[str, str] = {}
    """Names of actions that only one rule may have, which is named."""


def rules_of_file(path: str | os.PathLike[str], there: Surroundings) -> list[FileRule]:
    """Return the rules of the file at *path*, in their order, also those not enabled.

    Raises:
        RulesFileError: something is wrong in it, or does not fit what is *there*; says all
            that is.
    """
    known = {**there.tasks, **there.actions}
    owners = dict(there.reserved)
    fault_of = cache(lambda task: _fault_of(known[task]))

    def refuse(name: str, named: dict[str, str]) -> list[tuple[str, str]]:
        found = []
        reasons = [key.removeprefix("on_") for key in named if key != "task"]
        names = {"": name} | {f"on_{reason}": task_name(name, reason) for reason in reasons}
        for key, own in names.items():
            if own in there.rules or own in known:
                whose = f"a {'rule' if own in there.rules else 'task'} of the app"
                found.append((key, _taken(own, whose)))
            elif owners.setdefault(own, name) != name:
                found.append((key, _taken(own, f"an action of rule {owners[own]!r}")))
        for key, task in named.items():
            if task not in known:
                found.append((key, _unknown(task, [*there.actions, *there.tasks])))
            elif (fault := fault_of(task)) is not None:
                found.append((key, fault))
        return found

    rules = [(said, _declared(said, known)) for said in read_rules(path, refuse=refuse)]
    return [FileRule(said, made, made.rule.fingerprint()) for said, made in rules]


class AppFiles:
    """The rules files that an app has loaded, by the absolute path of each."""

    def __init__(
        self, tasks: dict[str, TaskSpec], actions: Mapping[str, TaskSpec], rules: dict[str, Rule]
    ) -> None:
        """Serve the app that has these declarations."""
        self._tasks = tasks
        self._actions = actions
        self._rules = rules
        self.loaded: dict[str, LoadedFile] = {}

    def load(self, path: str | os.PathLike[str]) -> list[FileRule]:
        """Declare the rules of a file that are enabled; return them all.

        Raises:
            RulesFileError: see `rules_of_file`.  Nothing was declared.
        """
        found = rules_of_file(path, Surroundings(self._tasks, self._actions, self._rules))
        self.declare(path, found)
        return found

    def around(
        self, path: str | os.PathLike[str], rules: Collection[str], reserved: Mapping[str, str]
    ) -> Surroundings:
        """Return what there is but for the file at *path*, and *rules* that are there besides."""
        own = self._own(path)
        tasks = {name: spec for name, spec in self._tasks.items() if name not in own}
        others = {name for name in self._rules if name not in own}
        return Surroundings(tasks, dict(self._actions), others.union(rules), reserved)

    def declare(self, path: str | os.PathLike[str], found: list[FileRule]) -> None:
        """Declare the rules of a file that are enabled, in place of those that it had before."""
        own = self._own(path)
        place = next((n for n, name in enumerate(self._rules) if name in own), len(self._rules))
        rules = [(name, rule) for name, rule in self._rules.items() if name not in own]
        new = [rule.declared for rule in found if rule.said.enabled]
        rules[place:place] = [(declared.name, declared.rule) for declared in new]
        for name in own:
            self._tasks.pop(name, None)
        for declared in new:
            self._tasks.update(declared.specs)
        self._rules.clear()
        self._rules.update(rules)
        self.loaded[absolute(path)] = LoadedFile(os.fspath(path), found)

    def _own(self, path: str | os.PathLike[str]) -> set[str]:
        """Return the names of the actions of a file, among them those of its rules."""
        before = self.loaded.get(absolute(path))
        return set() if before is None else set(before.actions())


def absolute(path: str | os.PathLike[str]) -> str:
    """Return what a file goes by, wherever the process is; links are not followed."""
    return os.path.abspath(path)  # noqa: PTH100 (resolve() follows them)


def _declared(said: RuleText, known: Mapping[str, TaskSpec]) -> Declared:
    """Return a rule with its code: tasks of *known*, with the rule's own retry and timeout."""

    def spec(task: str, name: str, *, retry: Any, timeout: Any, **_: Any) -> TaskSpec:
        action = copy.copy(known[task])
        action.name = name
        # The function itself stays the task's: who calls that from a run means the task.
        action.function = partial(action.function)
        action.retry = action.retry if retry is None else retry
        action.timeout_s = action.timeout_s if timeout is None else timeout
        return action

    return said.options().declared(said.task, said.name, spec)


def _taken(name: str, whose: str) -> str:
    return f"expected a name of its own, found that of {whose}, {name!r}"


def _unknown(task: str, known: list[str]) -> str:
    close = get_close_matches(task, known, n=1)
    if close:
        return f"expected a task of the app, found {task!r}; did you mean {close[0]!r}?"
    there = f"it has {', '.join(known)}" if known else "it has none"
    return f"expected a task of the app, found {task!r}; {there}"


def _fault_of(task: TaskSpec) -> str | None:
    """Return why *task* cannot be what a rule of a file starts, or ``None``."""
    variadic = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    for parameter in task.parameters:
        if parameter.default is parameter.empty and parameter.kind not in variadic:
            return (
                f"expected a task that takes `run: Run`, `firing: Firing`, both or neither, by "
                f"annotation, found that {task.name!r} takes {parameter.name!r}; what takes a "
                f"firing is declared with @app.action"
            )
    kind = _typed_firing(task)
    if kind is not None:
        return (
            f"expected a task that takes plain data (`firing: Firing[Any]`), found that "
            f"{task.name!r} takes a Firing[{kind.__name__}]; rules of a file do not decode"
        )
    return None


def _typed_firing(task: TaskSpec) -> type | None:
    """Return the class that the events of the firing that *task* takes would have to be of."""
    if task.firing_name is None:
        return None
    for hint in get_args(_hints_of(task.name, task.function).get(task.firing_name)):
        for kind in (hint, *get_args(hint)):
            if isinstance(kind, type) and (
                issubclass(kind, msgspec.Struct) or dataclasses.is_dataclass(kind)
            ):
                return kind
    return None
