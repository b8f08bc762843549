"""Random timelines, with many ties."""

from __future__ import annotations

from hypothesis import strategies as st
from tests.reference.happened import Given

SUBJECTS = ("a.x", "a.y", "b")

GAPS = (0, 0, 0, 1, 1, 1, 2, 3, 5, 7)
SHIFTS = (0, 0, 0, 1, 2, -1, -2, -3, -6, 0, 0, 1, -1, -1, -2, -8, -9)
NUMBERS = (0, 1, 2, 3, 4, 5, 300)
"""The last takes more bytes."""
MOMENT = st.sampled_from(
    [
        (gap, subject, data, shift)
        for shift in SHIFTS
        for data in NUMBERS
        for gap in GAPS
        for subject in SUBJECTS
    ]
)
"""Drawn as one, which is several times as fast."""
FEW, MANY = st.lists(MOMENT, max_size=16), st.lists(MOMENT, min_size=6, max_size=16)
MOMENTS = FEW | MANY | MANY


@st.composite
def timelines(draw: st.DrawFn) -> list[Given]:
    """Events with many ties, and now and then a pause in which everything expires."""
    at, made = 0, []
    for gap, subject, data, _ in draw(MOMENTS):
        at += gap
        made.append(Given(at, subject, data))
    return made


@st.composite
def stamped_timelines(draw: st.DrawFn) -> list[Given]:
    """The same with event times that are somewhere near."""
    at, made = 0, []
    for gap, subject, data, shift in draw(MOMENTS):
        at += gap
        time = {-8: None, -9: "never"}.get(shift, max(0, at + shift))
        made.append(Given(at, subject, [data, time]))
    return made
