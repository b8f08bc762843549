"""Plain sequences against the reference model, which looks each start up in the history."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from tests.reference.happened import Given
from tests.reference.playing import START, assert_same, declared, play
from tests.reference.shell import ns
from tests.reference.spec import Sequence, Spec
from tests.reference.strategies import family, plain_sequences
from tests.reference.timelines import timelines


@pytest.mark.slow
@settings(max_examples=600)
@given(spec=plain_sequences(), timeline=timelines())
def test_sequences_of_events_are_what_the_model_says(spec: Sequence, timeline: list[Given]) -> None:
    """Anchors, contiguity, negations, conditions on what was taken, and running out of time."""
    shell = play(declared(spec).start(ns(START)), timeline)

    assert_same(shell, spec, timeline)


@pytest.mark.slow
@settings(max_examples=500)
@given(spec=family("sequence"), timeline=timelines())
def test_sequences_of_anything_are_what_the_model_says(spec: Spec, timeline: list[Given]) -> None:
    """Steps that are counts, silences, sequences …, and what comes behind a sequence."""
    shell = play(declared(spec).start(ns(START)), timeline)

    assert_same(shell, spec, timeline)
