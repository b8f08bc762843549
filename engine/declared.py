"""`Declared`: a rule with its code, as the facade makes it and the engine takes it."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from headrace.engine.task import TaskSpec


class Declared(Struct, frozen=True):
    """A rule with the code of its actions."""

    name: str
    rule: Any
    """What the engine's `Decider` takes."""
    specs: dict[str, TaskSpec]
    """Its action under its own name, and those for other reasons under theirs."""
