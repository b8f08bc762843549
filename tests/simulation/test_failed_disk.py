"""A disk that fails under a whole engine, at every call: it stops, and a restart heals it."""

from __future__ import annotations

import errno
from random import Random

import pytest
from tests.simulation.lives import SHORT, Life, check_acknowledged, stored_on, undisturbed
from tests.simulation.shapes import outcome_of

from headrace import DurabilityLost

KINDS = [
    *("pwrite", "fdatasync", "fsync", "rename", "sync_directory", "open", "truncate"),
    *("close", "is_named"),
]


async def live_until_it_fails(name: str, nth: int) -> tuple[Life, DurabilityLost | None]:
    """Return a life whose disk fails at call *nth* of *name*, and what ended it."""
    life = Life()
    try:
        await life.live(SHORT, lambda: life.disk.fail(name, nth, errno.EIO))
    except DurabilityLost as lost:
        return life, lost
    return life, None


@pytest.mark.parametrize("name", KINDS)
async def test_an_error_at_every_call_of_the_disk(name: str, anyio_backend_name: str) -> None:
    """`DurabilityLost` ends the engine, no acknowledgement is wrong, and a restart goes on.

    Be it that only the process ends, or that the machine loses its power as well.
    """
    model = await undisturbed(SHORT)
    calls = sum(call.startswith(f"{name} ") for call in model.calls)
    step = 1 if anyio_backend_name == "asyncio" else 5
    ended = 0
    for nth in range(1, calls + 1, step):
        life, lost = await live_until_it_fails(name, nth)
        place = f"{name} {nth}"
        if lost is None:
            # It was of no consequence, or the records were grouped in fewer calls.
            life.check(outcome_of(model.kept), place)
            continue
        ended += 1
        assert "is safe" in str(lost)
        check_acknowledged(life.acknowledged, stored_on(life.disk.crash(Random(nth))), place)
        check_acknowledged(life.acknowledged, stored_on(life.disk.killed()), place)
        again = Life(life.disk.killed())
        again.disk.before = lambda _name, _path: None
        await again.live(SHORT)
        again.check(outcome_of(model.kept), place)
    if name in ("pwrite", "fdatasync"):
        assert ended > calls / step / 2


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("name", ["pwrite", "open"])
async def test_a_log_that_becomes_read_only(name: str, code: int) -> None:
    """A remount, or a changed mode, stops the engine as soon as it has to write."""
    life = Life()

    def make_read_only() -> None:
        def refuse(called: str, path: str) -> None:
            if called == name and path.endswith((".hrl", ".hrl.tmp")):
                raise OSError(code, "read-only", path)

        life.disk.before = refuse

    with pytest.raises(DurabilityLost, match="read-only"):
        await life.live(SHORT, make_read_only)
    check_acknowledged(life.acknowledged, stored_on(life.disk.killed()), name)
