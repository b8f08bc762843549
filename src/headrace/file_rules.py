"""From the rules of a file to what an app declares: their actions are tasks that it has."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from functools import partial
from inspect import Parameter
from typing import get_args

import msgspec
from msgspec import Struct

from headrace.engine.task import TaskSpec, _hints_of
from headrace.triggers.rules_file import RuleText, read_rules


class FileRule(Struct, frozen=True):
    """A rule of a file, and the action under its own name."""

    said: RuleText
    action: TaskSpec


def rules_of_file(
    path: str | os.PathLike[str],
    *,
    tasks: Mapping[str, TaskSpec],
    actions: Mapping[str, TaskSpec],
    rules: Collection[str],
) -> list[FileRule]:
    """Return the rules of the file at *path*, each with its action.

    That is one of *tasks* (among them the actions of *rules*) or of *actions*, as the file
    names it.

    Raises:
        RulesFileError: something is wrong in it, or does not fit these; says all that is.
    """

    def refuse(name: str, task: str) -> list[tuple[str, str]]:
        found = [("", _taken(name, rules))] if name in tasks or name in actions else []
        spec = actions.get(task) or tasks.get(task)
        if spec is None:
            known = [*actions, *tasks]
            return [*found, ("task", _unknown(task, known))]
        fault = _fault_of(spec)
        return found if fault is None else [*found, ("task", fault)]

    return [
        FileRule(said, _action(said, actions.get(said.task) or tasks[said.task]))
        for said in read_rules(path, refuse=refuse)
    ]


def _action(said: RuleText, task: TaskSpec) -> TaskSpec:
    """Return *task* as the action of a rule: under its name, and by its retry and timeout."""
    action = copy.copy(task)
    action.name = said.name
    # The function itself stays the task's: who calls that from a run means the task.
    action.function = partial(task.function)
    action.retry = task.retry if said.retry is None else said.retry
    action.timeout_s = task.timeout_s if said.timeout is None else said.timeout
    return action


def _taken(name: str, rules: Collection[str]) -> str:
    kind = "rule" if name in rules else "task"
    return f"expected a name of its own, found that of a {kind} of the app, {name!r}"


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
