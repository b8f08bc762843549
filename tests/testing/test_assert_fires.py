"""`assert_fires` passes where a rule does as expected, and else tells the story."""

from __future__ import annotations

from typing import Any

import pytest

from headrace import App, field, on, silent
from headrace.testing import Timeline, assert_fires

READINGS = on("boilers.*").key(lambda e: e.tokens[1])
THREE = READINGS.where(field("celsius") > 90).count(3, within=60)
HOT = (
    Timeline().every(20, "boilers.b1", [{"celsius": 95.0}] * 5).at(1, "boilers.b2", {"celsius": 0})
)


def test_it_returns_the_firings() -> None:
    """A test can look at the rest of them itself."""
    fired = assert_fires(THREE, HOT, at=[40], keys=["b1"], times=1)

    assert [event.data["celsius"] for event in fired[0].events] == [95.0] * 3
    assert assert_fires(THREE, HOT) == fired


def test_a_rule_of_an_app_is_taken_as_it_is() -> None:
    """What runs in production is what is tested."""
    app = App("t")

    @app.rule(THREE)
    async def cool() -> None: ...

    assert_fires(app.rules["cool"], HOT, at=[40])


def test_what_is_due_later_fires_up_to_then() -> None:
    """What does not come can be waited for."""
    assert_fires(silent(READINGS, for_=600, expect=["b1"]), HOT, keys=["b2", "b1"], until=3600)


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        ({"at": [40, 60]}, "expected at [40, 60], found [40]"),
        ({"at": [40.1]}, "expected at [40.1], found [40]"),
        ({"keys": ["b2"]}, "expected keys ['b2'], found ['b1']"),
        ({"times": 0}, "expected 0 firings, found 1"),
        ({"times": 2, "keys": []}, "expected keys [], found ['b1']; 2 firings, found 1"),
    ],
)
def test_what_is_otherwise_is_said(expected: dict[str, Any], said: str) -> None:
    """Each thing that is wrong is told, with what was found."""
    with pytest.raises(AssertionError) as caught:
        assert_fires(THREE, HOT, **expected)

    first, *story = str(caught.value).splitlines()
    assert first.endswith(said)
    assert [line.split() for line in story][2:5] == [
        ["20", "boilers.b1", "{'celsius':", "95.0}"],
        ["40", "boilers.b1", "{'celsius':", "95.0}"],
        ["40", "→", "fires", "for", "'b1'"],
    ]


def test_without_a_firing_it_fails() -> None:
    """That it says nothing more means one at least."""
    with pytest.raises(AssertionError, match="expected a firing, found none"):
        assert_fires(THREE, Timeline().at(0, "boilers.b1", {"celsius": 95.0}))


def test_a_long_story_is_cut_in_the_middle() -> None:
    """A failing test over a whole log stays readable."""
    long = Timeline().every(1, "boilers.b1", [{"celsius": 0, "note": "x" * 100}] * 1000)
    with pytest.raises(AssertionError) as caught:
        assert_fires(THREE, long)

    lines = str(caught.value).splitlines()
    assert len(lines) == 22
    assert lines[11] == "  … 980 more lines …"
    assert max(map(len, lines[1:])) < 100


def test_something_else_is_refused() -> None:
    """A rule's function or name is no rule."""
    with pytest.raises(TypeError, match="expected a pattern or a rule such as"):
        assert_fires("cool", HOT)  # type: ignore[arg-type]
