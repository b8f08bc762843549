from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.engine.subject import (
    RESERVED_PREFIXES,
    begins_with_wildcard,
    check_emit,
    check_pattern,
    check_subject,
    is_reserved,
    matches,
    matches_user,
)

tokens = st.sampled_from(["a", "b", "run", "runner", "*", ">", "a*", ">>", "", "é"])
texts = st.lists(tokens, min_size=1, max_size=6).map(".".join)


def matches_slowly(pattern: list[str], subject: list[str]) -> bool:
    """What `matches` means, by cases and with no regard to speed."""
    match pattern, subject:
        case [], []:
            return True
        case [">"], [_, *_]:
            return True
        case [first, *rest], [token, *others]:
            return first in ("*", token) and matches_slowly(rest, others)
        case _:
            return False


def is_valid(text: str) -> bool:
    try:
        check_pattern(text)
    except ValueError:
        return False
    return True


@pytest.mark.slow
@given(texts, texts)
def test_matching_is_what_it_means(pattern: str, subject: str) -> None:
    """The quick answer is the obvious one, and what is invalid never matches."""
    meant = (
        is_valid(pattern)
        and "" not in subject.split(".")
        and matches_slowly(pattern.split("."), subject.split("."))
    )

    assert matches(pattern, subject) == meant


@given(st.one_of(texts, st.text(max_size=8)))
def test_a_subject_is_a_pattern_without_wildcards(text: str) -> None:
    """What can be emitted can also be asked for, by the same name."""
    is_subject = True
    try:
        check_subject(text)
    except ValueError:
        is_subject = False
    has_wildcard = not {"*", ">"}.isdisjoint(text.split("."))

    assert is_subject == (is_valid(text) and not has_wildcard)
    if is_subject:
        assert matches(text, text)
        assert matches(">", text)


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("", 1, "expected a token, found the end"),
        (".a", 1, "expected a token, found '.'"),
        ("a..b", 3, "expected a token, found '.'"),
        ("a.b.", 5, "expected a token, found the end"),
        ("a b", 2, "found ' '; subjects hold no white space"),
        ("a.b\tc", 4, "found '\\t'"),
        ("a.\n", 3, "found '\\n'"),
        ("a.\ud83d", 3, "which is half a character"),
        ("a.>.b", 3, "found '>' before the end"),
        (">.a", 1, "found '>' before the end"),
    ],
)
def test_a_wrong_pattern_is_refused_with_place_and_reason(
    text: str, place: int, reason: str
) -> None:
    """Whoever mistypes a pattern is told which character is wrong and why."""
    with pytest.raises(ValueError, match=f"character {place}: ") as caught:
        check_pattern(text)

    assert str(caught.value).startswith(f"pattern {text!r}, character {place}: ")
    assert reason in str(caught.value)


@pytest.mark.parametrize(("text", "place"), [("*", 1), ("a.*.b", 3), ("a.bc.>", 6)])
def test_a_subject_with_a_wildcard_is_refused(text: str, place: int) -> None:
    """An event cannot be addressed to a pattern."""
    check_pattern(text)
    with pytest.raises(ValueError, match=f"character {place}: found the wildcard"):
        check_subject(text)


@pytest.mark.parametrize(
    "text", ["a", "a.b", "foo*", "f>o.b", "a.**", ">>", "$SYS.x", "é.日本", "a\v"]
)
def test_unusual_subjects_are_valid(text: str) -> None:
    """What nats-server lets through is not refused here."""
    check_pattern(text)
    check_subject(text)
    check_emit(text)


@pytest.mark.parametrize("prefix", RESERVED_PREFIXES)
def test_the_engine_keeps_its_own_subjects(prefix: str) -> None:
    """No event from outside can pass for one of the engine's, and none matches by accident."""
    subject = f"{prefix}failed.pay"
    first = prefix.rstrip(".")

    assert is_reserved(subject)
    with pytest.raises(ValueError, match=f"{first}.> is reserved"):
        check_emit(subject)
    for pattern in (">", "*.>", "*.failed.*", "*.failed.pay"):
        assert matches(pattern, subject)
        assert not matches_user(pattern, subject)
    for pattern in (subject, f"{first}.>", f"{first}.*.pay"):
        assert matches_user(pattern, subject)


@pytest.mark.parametrize("subject", ["run", "runs.x", "runner.x", "x.run.y", "Run.x"])
def test_only_the_whole_first_token_is_reserved(subject: str) -> None:
    """Subjects that merely look like the engine's own stay free."""
    check_emit(subject)

    assert not is_reserved(subject)
    assert matches_user(">", subject)


@given(texts)
def test_begins_with_wildcard_looks_at_the_whole_first_token(text: str) -> None:
    """``*a.b`` and ``>>`` are literal: they are not kept from reserved subjects."""
    if is_valid(text):
        assert begins_with_wildcard(text) == (text.split(".", maxsplit=1)[0] in ("*", ">"))
