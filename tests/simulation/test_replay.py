"""Replay and what-if of the logs that whole engines leave, after faults of all kinds."""

from __future__ import annotations

import copy
import logging
from collections.abc import Generator
from random import Random
from typing import Any

import pytest
from tests.simulation import whole
from tests.simulation.shapes import Trail, _Digested, make_app
from tests.simulation.whole import SeededLife, simulate

from headrace import App, MemoryLog, Retry
from headrace.engine.decider import Queue
from headrace.replaying import replay, whatif

SEEDS = 30
AT_ONCE = 10
CHANGES = 4
MODES: list[Any] = ["parallel", "single", "restart", "latest", Queue(1, "drop_old")]

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("anyio_backend", ["asyncio"])]


@pytest.fixture(autouse=True)
def quiet() -> Generator[None]:
    """Say nothing of disks that are full a thousand times."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> list[MemoryLog]:
    """The logs of the last lives, as they come."""
    found: list[MemoryLog] = []
    check = SeededLife.check

    def checked(life: SeededLife, *arguments: Any) -> None:
        found.append(life.kept)
        check(life, *arguments)

    monkeypatch.setattr(whole.SeededLife, "check", checked)
    return found


def changed(app: App, rng: Random) -> App:
    """Take away some of the rules, give others another mode, and tasks other retries."""
    for name, rule in list(app.rules.items()):
        if rng.random() < 0.2:
            del app.rules[name]
        elif rng.random() < 0.5:
            fields = {field: getattr(rule, field) for field in rule.__struct_fields__}
            mode = rng.choice(MODES)
            digest = fields["digest"] if mode == rule.mode else fields["digest"][::-1]
            app.rules[name] = _Digested(**fields | {"mode": mode, "digest": digest})
    for name, spec in list(app.tasks.items()):
        if rng.random() < 0.3:
            app.tasks[name] = copy.copy(spec)
            app.tasks[name].retry = rng.choice([None, Retry(attempts=1), Retry(attempts=6)])
    return app


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
async def test_nothing_differs_under_the_rules_that_there_were(
    first: int, logs: list[MemoryLog]
) -> None:
    """However often it crashed: each firing is derived again, and each run stands in."""
    for seed in range(first, first + AT_ONCE):
        await simulate(seed)
        app = make_app(Trail())
        found = whatif(logs[-1], app)

        assert found.same, (seed, found.differences[:3])
        assert (found.events_gone, found.events_new, found.runs_gone) == (0, 0, 0), seed
        assert not replay(logs[-1], app).diverged, seed


@pytest.mark.parametrize("first", range(100, 100 + SEEDS, AT_ONCE))
async def test_any_change_of_rules_and_retries_comes_to_an_end(
    first: int, logs: list[MemoryLog]
) -> None:
    """Each recorded firing is accounted for once: as the same, or in one of the differences."""
    differ = 0
    for seed in range(first, first + AT_ONCE):
        await simulate(seed)
        recorded = whatif(logs[-1], make_app(Trail())).total.same
        for number in range(CHANGES):
            rng = Random(seed * CHANGES + number)
            found = whatif(logs[-1], changed(make_app(Trail()), rng), shown_max=100_000)
            of_firings = [one for one in found.differences if one.recorded is not None]

            assert found.total.differ == len(found.differences), (seed, number)
            assert found.total.same + len(of_firings) == recorded, (seed, number)
            differ += found.total.differ
    assert differ
