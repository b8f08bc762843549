"""Chains of tasks without code: what starts when a run of another task has ended.

A chain is a rule on ``run.completed.<task>`` or ``run.failed.<task>``, whose action launches
the task that follows.  So it is as durable as any rule, and is listed, paused and replayed
like one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal
from zlib import crc32

import msgspec
from msgspec import Raw

from headrace.engine.event import Firing
from headrace.engine.failure import Failure
from headrace.engine.run import Run
from headrace.engine.task import TaskSpec

Link = Literal["then", "on_failure"]

NAME_CHARS_MAX: Final = 64
SUBJECTS: Final[dict[Link, str]] = {"then": "run.completed", "on_failure": "run.failed"}


def rule_name(first: str, link: Link, other: str) -> str:
    """Return the name of the rule that lets *other* follow *first*."""
    name = f"{first}-{link}-{other}"
    if len(name) <= NAME_CHARS_MAX:
        return name
    digest = f"-{crc32(name.encode()):08x}"
    return name[: NAME_CHARS_MAX - len(digest)] + digest


def check_follower(link: Link, spec: TaskSpec) -> None:
    """Refuse what cannot be called with what it would get.

    Raises:
        TypeError: the task does not take exactly one argument by position.
    """
    wanted = "the result" if link == "then" else "a Failure"
    try:
        spec.encode_args((None,), {})
    except TypeError:
        found = ", ".join(p.name for p in spec.parameters) or "nothing"
        raise TypeError(
            f"{link}={spec.name!r}: expected a task that can be called with one argument, "
            f"{wanted}, found one that takes {found}"
        ) from None


def action_of(link: Link, other: Callable[..., Any]) -> Callable[..., Any]:
    """Return the action of the rule that lets *other* follow."""

    async def follow(run: Run, firing: Firing[dict[str, Any]]) -> None:
        ended = firing.events[0].data
        given: Any
        if link == "on_failure":
            given = msgspec.convert(ended, Failure)
        elif (blob := ended["blob"]) is not None:
            given = Raw(run._stored(bytes.fromhex(blob)))
        else:
            given = ended["result"]
        await run.launch(other, given)

    follow.__qualname__ = follow.__name__ = f"{link}_{getattr(other, '__name__', 'task')}"
    return follow
