"""A projection for the app of the simulations: folded by key, forgotten, and failing at times."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from headrace import App, Event, any_of, on


class Tally(Struct):
    """What has come of one kind."""

    count: int = 0
    last: list[int] = []


def tally(state: Tally, event: Event[Any]) -> Tally | None:
    """Count; fail on every fifth event, half-way; forget a key that has had seven."""
    state.count += 1
    if event.sequence % 5 == 0:
        raise ValueError("every fifth")
    state.last = [*state.last[-2:], event.sequence]
    return state if state.count < 7 else None


def add_projections(app: App) -> None:
    """Fold what the input brings, and what runs emit of it, on few enough subjects."""
    kinds = any_of(on("chain", int), on("fan"), on("again"), on("late.*"))
    # A version stands for the functions: reading them takes longer than most lives.
    app.projection(
        kinds, key=lambda e: e.tokens[0], initial=Tally(), keys_max=3, version="1"
    )(tally)  # fmt: skip
