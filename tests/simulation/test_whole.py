"""Whole engines from one seed each, with faults of all kinds: see `tests.simulation.whole`."""

from __future__ import annotations

import logging
from collections.abc import Generator
from typing import Any

import pytest
from tests.simulation.whole import simulate

from headrace.engine.dedupe import Dedupe
from headrace.engine.engine import Engine
from headrace.engine.steps import Steps

SEEDS = 200
EVENTS = 15
AT_ONCE = 10

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("anyio_backend", ["asyncio"])]


@pytest.fixture(autouse=True)
def quiet() -> Generator[None]:
    """Say nothing of disks that are full a thousand times."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
async def test_whatever_happens_it_comes_to_the_same(first: int) -> None:
    """Nothing acknowledged is lost, nothing is there twice, nothing differs in the end."""
    for seed in range(first, first + AT_ONCE):
        await simulate(seed, count=EVENTS)


@pytest.mark.soak
@pytest.mark.parametrize("first", range(1000, 21_000, 50))
async def test_whatever_happens_for_long(first: int) -> None:
    """The same for 20 000 seeds."""
    for seed in range(first, first + 50):
        await simulate(seed, count=EVENTS)


async def test_a_seed_is_enough_to_see_it_again() -> None:
    """The same lives, and the same bytes in the log."""
    first = [await simulate(seed) for seed in range(300, 306)]

    assert first == [await simulate(seed) for seed in range(300, 306)]
    assert len({report.digest for report in first}) == len(first)
    assert {life.split()[0] for report in first for life in report.lives} > {"power", "kill"}


def forget_ids(patch: pytest.MonkeyPatch) -> None:
    """No event is recognised as one that was stored before."""
    patch.setattr(Dedupe, "find", lambda *_: None)


def move_no_cursor(patch: pytest.MonkeyPatch) -> None:
    """A start does not know how far its source had come, and the ids are forgotten too."""
    forget_ids(patch)
    patch.setattr(Engine, "cursor", lambda _self, _source: None)


def run_steps_again(patch: pytest.MonkeyPatch) -> None:
    """What a step came to is not found when its run is invoked again."""
    patch.setattr(Steps, "_recorded", lambda *_: None)


@pytest.mark.parametrize("bug", [forget_ids, move_no_cursor, run_steps_again])
async def test_a_seeded_bug_is_found(bug: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulation that passes with it would be worth nothing."""
    bug(monkeypatch)

    with pytest.raises((AssertionError, BaseExceptionGroup)):
        for seed in range(20):
            await simulate(seed)
