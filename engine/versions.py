"""Versions of tasks: which declaration is the code of which run.

A run belongs to the version of its task that was in force when it was made, and is executed
by no other.  So code that asks for its steps in another order is declared beside the old one,
under the same name with another version, until the old runs have ended.
"""

from __future__ import annotations

from collections.abc import Mapping

from headrace.engine.fresh import Batch
from headrace.engine.run_state import RunState
from headrace.engine.task import TaskSpec


def place_of(task: str, version: str | None) -> str:
    """Return the name under which a version of a task is kept that takes no new runs."""
    return f"{task}@{version or ''}"


def spec_for(specs: Mapping[str, TaskSpec], run: RunState | Batch) -> TaskSpec | None:
    """Return the code of *run*; ``None``: it is not declared.

    The version of a rule stands for its pattern, so any version of it has the rule's action.
    """
    spec = specs.get(run.task)
    if spec is None or spec.is_action or (spec.version or "") == run.version:
        return spec
    return specs.get(place_of(run.task, run.version))


def versions_in_force(specs: Mapping[str, TaskSpec]) -> dict[str, str]:
    """Return the versions that new runs belong to, by task: of those that have any."""
    return {
        name: spec.version
        for name, spec in specs.items()
        if name == spec.name and spec.version and not spec.is_action
    }
