"""The garbage collector while an app is run by itself."""

from __future__ import annotations

import gc
from typing import Any

from headrace.engine.collector import THRESHOLDS, seldom_collected


def test_collector_looks_seldom_and_then_as_before() -> None:
    """What is there is left alone; afterwards all is as the process had it."""
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    with seldom_collected():
        assert gc.get_threshold() == THRESHOLDS
        assert gc.get_freeze_count() > frozen
    assert gc.get_threshold() == before
    assert bool(gc.get_freeze_count()) == bool(frozen)


def test_garbage_that_comes_later_is_still_found() -> None:
    """Cycles are collected, only later."""
    collections: list[Any] = []

    class Knot:
        def __init__(self) -> None:
            self.own = self

        def __del__(self) -> None:
            collections.append(1)

    with seldom_collected():
        for _ in range(THRESHOLDS[0] + 1000):
            Knot()
    assert collections
