"""`ExpressionError`: what is said of a text that is no condition."""

from __future__ import annotations

import ast
import re
import warnings
from keyword import iskeyword
from typing import Final

EXPECTED: Final = "expected a condition such as celsius > 90 and unit == 'C'"
SHOWN_CHARS_MAX: Final = 100

_COMMENT: Final = re.compile(r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|#[^\n]*""")
"""A text in quotes, so that a # in it is none, or a comment."""
_OPERATORS: Final = ("and", "or", "not", "in", "is")
_HINTS: Final = (
    (re.compile(r"&&?"), "write `and`"),
    (re.compile(r"\|\|?"), "write `or`"),
    (re.compile("<>|="), "write == or !="),
    (re.compile("!"), "write `not`"),
)


class ExpressionError(ValueError):
    """A text that is no condition, or no field, and the place where it stops being one."""

    def __init__(self, text: str, line: int, column: int, problem: str) -> None:
        """Say *problem*, which is at *line* and *column* of *text*, both from 1."""
        lines = text.split("\n")
        where = f"column {column}" if len(lines) == 1 else f"line {line}, column {column}"
        first = max(0, column - SHOWN_CHARS_MAX // 2)
        cut = lines[line - 1][first : first + SHOWN_CHARS_MAX]
        shown = "".join(char if char.isprintable() else " " for char in cut)
        caret = " " * (column - 1 - first) + "^"
        problem = " ".join(problem.split("\n"))
        super().__init__(f"{where}: {problem}\n  {shown}\n  {caret}")
        self.text = text
        self.line = line
        self.column = column
        self.problem = problem
        """What was expected, what was found and what to do, without the place."""


def place_of(text: str, index: int) -> tuple[int, int]:
    """Return line and column, from 1, of the character at *index*."""
    before = text[:index]
    return before.count("\n") + 1, index - before.rfind("\n")


def syntax_error(text: str, error: SyntaxError) -> ExpressionError:
    """Return what to say of *text*, which Python refused in parentheses with *error*."""
    index, said = _index_of(text, error)
    line, column = place_of(text, index)
    if "too many nested" in said:
        return ExpressionError(text, line, column, "expected fewer parentheses in each other")
    if "unmatched" in said:
        return ExpressionError(text, line, column, f"expected no {text[index : index + 1]!r} here")
    if "never closed" in said:
        return ExpressionError(text, line, column, "expected this to be closed, found the end")
    rest = text[index:]
    if not rest.strip():
        last = text.rsplit(maxsplit=1)[-1]
        return ExpressionError(text, line, column, f"{EXPECTED}, found the end after {last[-20:]}")
    word = re.match(r"\w+", rest)
    found = word[0] if word else rest[0]
    hint = _hint(text, index, found) or f"Python says: {said}"
    return ExpressionError(text, line, column, f"{EXPECTED}, found {found} here; {hint}")


def _index_of(text: str, error: SyntaxError) -> tuple[int, str]:
    """Return where Python stopped, as an index in *text*, and what it says.

    In parentheses it takes much for a forgotten comma, so it is asked again without them,
    and so without lines and comments.
    """
    plain = _COMMENT.sub(lambda found: found[1] or " " * len(found[0]), text).replace("\n", " ")
    indent = len(plain) - len(plain.lstrip())
    stripped = plain.strip()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(stripped, mode="eval")
    except SyntaxError as again:
        is_end = (again.lineno or 1) > 1 or not again.offset
        at = len(stripped) if is_end else min((again.offset or 1) - 1, len(stripped))
        return indent + at, _said(again)
    return 0, _said(error)  # a text in quotes that goes over several lines


def _said(error: SyntaxError) -> str:
    return error.msg.partition(" (")[0]


def _hint(text: str, index: int, found: str) -> str:
    """Return what is likely to be meant by *found*, which stands at *index*."""
    if found.lower() in _OPERATORS and found not in _OPERATORS:
        return f"write `{found.lower()}`"
    before = text[:index]
    for name in (found, *re.findall(r"\w+", before)[-1:]):
        if iskeyword(name) and name not in _OPERATORS:
            return f"{name} is a word of Python; for a field of that name write data['{name}']"
    sign = re.search(r"[&|<>=!]*$", before)
    assert sign is not None
    signs = text[sign.start() : index + 2]
    return next((hint for known, hint in _HINTS if known.match(signs)), "")
