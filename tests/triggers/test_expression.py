"""Conditions written as text: what they mean, and what is said of a text that is none."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.triggers.test_condition import Said, made, sayings

from headrace import Condition, Event, field
from headrace.triggers.expression import TEXT_CHARS_MAX, parse_condition, parse_field
from headrace.triggers.expression_error import ExpressionError

c = field("celsius")
x = field("x")

READ: dict[str, Condition] = {
    "celsius > 90": c > 90,
    "celsius >= 90": c >= 90,
    "celsius < -1.5": c < -1.5,
    "celsius <= +2": c <= 2,
    "90 < celsius": c > 90,
    "90 >= celsius": c <= 90,
    "x == 'on'": x == "on",
    '"on" != x': x != "on",
    "x == b'a'": x == b"a",
    "x == True": x == True,  # noqa: E712
    "x == true": x == True,  # noqa: E712
    "x != false": x != False,  # noqa: E712
    "x == null": x == None,  # noqa: E711
    "x > float('inf')": x > math.inf,
    "x >= float('-inf')": x >= -math.inf,
    "1 <= celsius <= 5": c.between(1, 5),
    "5 >= celsius >= 1": c.between(1, 5),
    "1 < celsius <= 5": (c > 1) & (c <= 5),
    "5 > celsius > 1": (c < 5) & (c > 1),
    "x > 1 < celsius": (x > 1) & (c > 1),
    "celsius.between(1, 5)": c.between(1, 5),
    "x in ['a', 'b']": x.is_in(["a", "b"]),
    "x in ('a', 1)": x.is_in(["a", 1]),
    "x in {'b', 'a'}": x.is_in(["b", "a"]),
    "x not in [1]": ~x.is_in([1]),
    "x.is_in([1, 2])": x.is_in([1, 2]),
    "x.exists()": x.exists(),
    "not x.exists()": ~x.exists(),
    "x.matches('^T[0-9]')": x.matches("^T[0-9]"),
    r"x.matches('\d+')": x.matches(r"\d+"),
    r"x.matches(r'\bwarm\b')": x.matches(r"\bwarm\b"),
    "place.name == 'hall'": field("place.name") == "hall",
    "readings[0].celsius > 1": field("readings.0.celsius") > 1,
    "readings[-1] > 1": field("readings.-1") > 1,
    "data > 5": field() > 5,
    "data[0] > 5": field("0") > 5,
    "data.data > 5": field("data") > 5,
    "data['odd-name'].class_ > 5": field("odd-name.class_") > 5,
    "field('class.x') > 5": field("class.x") > 5,
    "field().exists()": field().exists(),
    "µg > 1": field("µg") > 1,
    "a.µg.b > 1": field("a.µg.b") > 1,
    "celsius > 90 and x == 'C'": (c > 90) & (x == "C"),
    "celsius > 90 or not x == 'C'": (c > 90) | ~(x == "C"),
    "x > 1 and x > 2 and x > 3": (x > 1) & (x > 2) & (x > 3),
    "x > 1 and (x > 2 or x > 3)": (x > 1) & ((x > 2) | (x > 3)),
    "x > 1 or x > 2 and x > 3": (x > 1) | ((x > 2) & (x > 3)),
    "(x > 1) & ~(x > 2) | (x > 3)": ((x > 1) & ~(x > 2)) | (x > 3),
    "not (x > 1 and x > 2)": ~((x > 1) & (x > 2)),
    "  x > 1  ": x > 1,
    "x > 1  # too much": x > 1,
    "x > 1 # of a (\n  and x < 3\n": (x > 1) & (x < 3),
    "x == '#'": x == "#",
}


@pytest.mark.parametrize("text", READ)
def test_a_text_says_what_it_looks_like(text: str) -> None:
    """Whoever reads the rules file knows what the rule does."""
    assert parse_condition(text) == READ[text]
    assert parse_condition(text).structure == READ[text].structure


@pytest.mark.slow
@given(sayings)
@example((">", "a", 1))
def test_what_a_condition_prints_is_read_as_the_same_condition(said: Said) -> None:
    """What `headrace check` shows of a Python rule can be pasted into a rules file."""
    condition = made(said)
    text = str(condition)
    if len(text) <= TEXT_CHARS_MAX:
        again = parse_condition(text)

        assert again == condition
        assert again.structure == condition.structure


def test_a_long_condition_is_not_a_deep_one() -> None:
    """Many alternatives are one level, as they are with | in Python."""
    text = " | ".join(f"(x == {number})" for number in range(120))
    condition = parse_condition(text)

    assert str(condition).replace("field('x')", "x") == text


def of(data: Any) -> Event[Any]:
    return Event(1, "a", data, 0)


@pytest.mark.parametrize(
    ("text", "data", "verdict"),
    [
        ("x > 5 and y > 5", {"x": 9, "y": 9}, True),
        ("x > 5 and y > 5", {"x": 9}, None),
        ("x > 5 and y > 5", {"x": 1}, False),
        ("x > 5 or y > 5", {"x": 9}, True),
        ("x > 5 or y > 5", {"x": 1}, None),
        ("not x > 5", {}, None),
        ("not x > 5", {"x": "text"}, None),
        ("not x.exists()", {}, True),
        ("1 <= x <= 5", {"x": None}, None),
        ("x not in [1]", {}, None),
        ("data > 5", 9, True),
        ("readings[-1].celsius > 1", {"readings": [{"celsius": 0}, {"celsius": 2}]}, True),
    ],
)
def test_and_or_and_not_have_three_values(text: str, data: Any, verdict: bool | None) -> None:
    """A missing field makes neither a rule nor its opposite fire, as with `field` in Python."""
    assert parse_condition(text).test(of(data)) is verdict


REFUSED: dict[str, tuple[int, str]] = {
    "": (1, "found an empty text"),
    " \n ": (1, "found an empty text"),
    "celsius >": (10, "found the end after >"),
    "celsius > 90 AND x == 1": (14, "found AND here; write `and`"),
    "x > 1 && y > 2": (8, "write `and`"),
    "x > 1 || y > 2": (8, "write `or`"),
    "!x.exists()": (1, "write `not`"),
    "x = 5": (3, "write == or !="),
    "x <> 5": (3, "write == or !="),
    "class > 3": (1, "class is a word of Python; .*write data['class']"),
    "place.from == 1": (7, "write data['from']"),
    "(x > 1": (1, "expected this to be closed"),
    "x > 1)": (6, "expected no ')' here"),
    "x > 1) or (x > 2": (6, "expected '(' before ')', found none"),
    "x > 'abc": (5, "unterminated"),
    "x > 1 y > 2": (7, "found y here"),
    "x > 1; y > 2": (6, "found ; here"),
    "x > 1, y > 2": (1, "found x > 1, y > 2; write `and` between"),
    "x\0 > 1": (2, "found a null"),
    "x == '\ud800'": (7, "found half a character"),
    "x": (1, "found x alone; write x == True or x.exists()"),
    "x > 1 and place.open": (11, "found place.open alone"),
    "field('x')": (1, "found field('x') alone; write field('x') > 5"),
    "5": (1, "expected a condition such as celsius > 90"),
    "x > 1 & y > 2": (5, "without parentheses; write `and` or `or`"),
    "x == y": (6, "found y; a text goes in quotes: 'y'; two fields can only be compared by"),
    "x == place.name": (6, "found place.name; two fields can only"),
    "1 < 2": (5, "found two constants"),
    "x > 10**20": (5, "expected a constant, found 10**20"),
    "x > None": (1, "expected a number, text or bytes"),
    "x > True": (1, "expected a number, text or bytes"),
    "x > nan": (5, "expected a constant, found nan"),
    "x > float('nan')": (5, "expected a constant, found float('nan')"),
    "x > 36893488147419103232": (1, "no event holds a whole number of over 64 bits"),
    "x == 1j": (6, "expected a constant"),
    "x == ...": (6, "expected a constant"),
    "x == (1, 2)": (6, "expected a constant"),
    "x + 1 > 3": (1, "found x + 1; to calculate, write a function in Python"),
    "len(x) > 3": (1, "found len(x)"),
    "x.upper() == 'A'": (1, "found x.upper()"),
    "x.startswith('A')": (1, "expected x.between(…), .*found a call of x.startswith"),
    "__import__('os').system('true')": (1, "found a call of __import__('os').system"),
    "x.exists(1)": (1, "expected exists with 0 arguments, found 1"),
    "x.between(1)": (1, "expected between with 2 arguments, found 1"),
    "x.between(low=1, high=2)": (1, "found an argument with a name"),
    "x.between(5, 1)": (1, "expected the lower one first"),
    "x.between(1, 'a')": (1, "expected two of one kind"),
    "5 <= x <= 1": (1, "expected the lower one first"),
    "5 < x < 1": (1, "expected the lower one first"),
    "5 < x < 5": (1, "expected two bounds with room between them, found 5 twice"),
    "x is None": (6, "found `is`; write =="),
    "x is not None": (10, "found `is`; write !="),
    "'a' in name": (8, "write name.matches(…)"),
    "x in y": (6, "expected a list of constants, found y"),
    "x in [1, y]": (10, "expected a constant, found y"),
    "x in []": (6, "nothing is in an empty list"),
    "x.is_in('abc')": (9, "expected a list of constants"),
    "x.matches('(')": (1, "no regular expression"),
    "x.matches(5)": (1, "expected a regular expression as text"),
    r"x.matches('\bwarm')": (11, "found a backspace in it; write r"),
    "x[1.5] > 1": (3, "expected the number of an item or a name in quotes"),
    "x[True] > 1": (3, "expected the number of an item"),
    "x[1:2] > 1": (3, "expected the number of an item"),
    "x['a.b'] > 1": (3, "expected a name without dots"),
    "x[''] > 1": (3, "expected a name without dots"),
    "true > 1": (8, "found two constants"),
    "true.x > 1": (1, "expected a field, found true"),
    "subject == 'a'": (1, "which a condition does not see; .*data.subject"),
    "subject[1] == 'a'": (1, "data.subject"),
    "field('a..b') > 1": (1, "expected names with dots between them"),
    "field(3) > 1": (1, "expected field('place.name')"),
    "field('a', 'b') > 1": (1, "expected field('place.name')"),
    "lambda: 1": (1, "found lambda: 1"),
    "[x > 1 for x in y]": (1, "found [x > 1 for x in y]"),
    "(y := 5) > 1": (2, "found y := 5"),
    "f'{x}' == 'a'": (1, "found f'{x}'"),
    "x if y else z": (1, "found x if y else z"),
    "x > 1 if y else z": (1, "found x > 1 if y else z"),
    "a\u0301bc > 1 1": (10, "found 1 here"),
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_text_that_is_no_condition_is_refused_at_its_place(text: str) -> None:
    """Where to look, what was expected there, and what to write: nobody has to guess."""
    column, said = REFUSED[text]
    with pytest.raises(ExpressionError) as caught:
        parse_condition(text)
    error = caught.value

    assert (error.line, error.column) == (1, column)
    for part in said.split(".*"):
        assert part in error.problem
    assert "expected" in error.problem
    assert "\n" not in error.problem
    *_, shown, caret = str(error).split("\n")
    assert caret == " " * (column + 1) + "^"
    assert re.sub(r"\W", " ", shown.strip()) in re.sub(r"\W", " ", text)


def test_a_place_in_a_later_line_is_named() -> None:
    """In a text of several lines the column alone would not do."""
    with pytest.raises(ExpressionError) as caught:
        parse_condition("größe > 1 and\r\n  größe >> 3")

    assert (caught.value.line, caught.value.column) == (2, 3)
    assert str(caught.value).split("\n")[1:] == ["    größe >> 3", "    ^"]
    assert str(caught.value).startswith("line 2, column 3: expected a condition")


TOO_MUCH = {
    "characters": "x > 1" + " " * TEXT_CHARS_MAX,
    "not": "not " * 400 + "x > 1",
    "~": "~" * 1990 + "x",
    "parentheses": "(" * 900 + "x > 1" + ")" * 900,
    "open parentheses": "(" * 1990,
    "minus": "x > " + "-" * 1900 + "1",
    "brackets": "x > " + "[" * 1900,
    "lists": "x in " + "[" * 150 + "]" * 150,
    "mixed": "x > 1 and (" * 110 + "x > 1" + " or x > 2)" * 110,
    "long number": "x > " + "1" * 1900,
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_a_text_that_is_too_much_is_refused(name: str) -> None:
    """A file can neither exhaust the stack nor the memory of the engine that reads it."""
    with pytest.raises(ExpressionError, match="expected") as caught:
        parse_condition(TOO_MUCH[name])

    assert len(str(caught.value)) < 500


CHARACTERS = "xy .'\"()[]{}<>=!&|~+-*/%,:;@#\\\n0159eEjLµ_"
WORDS = ("and", "or", "not", "in", "is", "field", "data", "x", "0", "1.5", "'a'", "(", ")", "[")


@pytest.mark.slow
@given(
    st.one_of(
        st.text(max_size=40),
        st.text(CHARACTERS, max_size=40),
        st.lists(
            st.sampled_from((*WORDS, ">", "==", "]", ",", ".", "lambda", "\n")), max_size=12
        ).map(" ".join),
    )
)
def test_any_text_is_a_condition_or_refused_in_its_own_lines(text: str) -> None:
    """Whatever stands in a rules file: an answer with a place in it, and nothing is executed."""
    try:
        condition = parse_condition(text)
    except ExpressionError as refused:
        error = refused
    else:
        assert parse_condition(str(condition)) == condition
        return
    lines = error.text.split("\n")

    assert 1 <= error.line <= len(lines)
    assert 1 <= error.column <= len(lines[error.line - 1]) + 1


FIELDS = {
    "celsius": field("celsius"),
    "device.id": field("device.id"),
    "readings.0.celsius": field("readings.0.celsius"),
    "readings[0].celsius": field("readings.0.celsius"),
    "readings[-1]": field("readings.-1"),
    "odd-name.from": field("odd-name.from"),
    "data": field(),
    "data.subject": field("subject"),
    "data['odd name']": field("odd name"),
    "field('a.b')": field("a.b"),
}


@pytest.mark.parametrize("text", FIELDS)
def test_a_field_can_be_written_as_its_path(text: str) -> None:
    """`key = "device.id"` needs neither Python nor quotes within quotes."""
    assert parse_field(text).reader().structure == FIELDS[text].reader().structure


@pytest.mark.parametrize(
    "text",
    ["", " ", "a b", "a..b", ".a", "a.", "subject", "subject.1", "a > 1", "a[", "a[b]", "a()"],
)
def test_what_is_no_path_is_refused(text: str) -> None:
    """A key that could never be read would leave out every event, unnoticed."""
    with pytest.raises(ExpressionError, match="expected"):
        parse_field(text)
