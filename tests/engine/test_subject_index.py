from __future__ import annotations

from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace.engine.subject import check_pattern, matches_user
from headrace.engine.subject_index import SubjectIndex

V = TypeVar("V")


def is_valid(text: str) -> bool:
    try:
        check_pattern(text)
    except ValueError:
        return False
    return True


words = st.sampled_from(["a", "b", "run", "rule", "*", "a*"])
subjects = st.lists(words, min_size=1, max_size=4).map(".".join)
patterns = st.lists(words | st.just(">"), min_size=1, max_size=4).map(".".join).filter(is_valid)


@pytest.mark.slow
@given(st.lists(patterns, max_size=30), st.lists(subjects | st.just("a..b"), max_size=10))
def test_lookup_is_the_filter_by_matches(added: list[str], asked: list[str]) -> None:
    """An index finds what asking every pattern in turn would find, in the same order."""
    index = SubjectIndex[int]()
    for value, pattern in enumerate(added):
        index.add(pattern, value)

    for subject in asked:
        meant = tuple(v for v, pattern in enumerate(added) if matches_user(pattern, subject))
        assert index.lookup(subject) == meant
        assert index.lookup(subject) == meant  # from the cache


class IndexAgainstList(RuleBasedStateMachine):
    """An index and a list of (pattern, value) that see the same changes."""

    def __init__(self) -> None:
        super().__init__()
        self.index = SubjectIndex[str](cache_subjects_max=2)
        self.model: list[tuple[str, str]] = []

    @rule(pattern=patterns, value=st.sampled_from("uvwxyz"))
    def add(self, pattern: str, value: str) -> None:
        self.index.add(pattern, value)
        self.model.append((pattern, value))

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        _, value = data.draw(st.sampled_from(self.model))
        self.index.remove(value)
        self.model = [entry for entry in self.model if entry[1] != value]

    @rule(subject=subjects)
    def look(self, subject: str) -> None:
        meant = tuple(value for pattern, value in self.model if matches_user(pattern, subject))
        assert self.index.lookup(subject) == meant

    @invariant()
    def is_as_long_as_the_list(self) -> None:
        assert len(self.index) == len(self.model)
        assert len(self.index._cache) <= 2
        assert self.model or self.index._root.is_empty()


IndexAgainstList.TestCase.__doc__ = """Rules that come and go leave nothing behind."""
TestIndexAgainstList = pytest.mark.slow(IndexAgainstList.TestCase)


def test_an_invalid_pattern_changes_nothing() -> None:
    """A refused rule leaves no trace that a later removal could trip over."""
    index = SubjectIndex[str]()
    with pytest.raises(ValueError, match="character 3"):
        index.add("a..b", "v")

    assert len(index) == 0
    with pytest.raises(KeyError):
        index.remove("v")


def test_the_cache_is_bounded() -> None:
    """A million devices do not cost a million entries, and answers stay right."""
    index = SubjectIndex[str](cache_subjects_max=100)
    index.add("device.*.up", "rule")

    for number in range(1_000):
        assert index.lookup(f"device.{number}.up") == ("rule",)
        assert index.lookup(f"device.{number}.down") == ()
        assert len(index._cache) <= 100


@pytest.mark.slow
def test_many_patterns_are_walked_by_token() -> None:
    """With 100 000 patterns a first lookup touches only those that share its tokens."""
    index = SubjectIndex[int]()
    for number in range(100_000):
        index.add(f"plant.{number % 1_000}.*.p{number // 1_000}.>", number)

    assert index.lookup("plant.7.x.p3.y.z") == (3_007,)
    assert index.lookup("plant.7.x.p3") == ()
    assert len(index._root.tokens["plant"].tokens["7"].tokens) == 0


def test_a_cache_of_nothing_is_refused() -> None:
    """A limit that cannot work is refused when it is given, not when it hurts."""
    with pytest.raises(ValueError, match="at least 1, not 0"):
        SubjectIndex[str](cache_subjects_max=0)
