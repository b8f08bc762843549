"""A TOML file as values and their places, or what is wrong with it, with its place."""

from __future__ import annotations

import re
import tomllib
from typing import Any, Final

from headrace.engine.errors import FileProblems, Problem
from headrace.triggers.rules_places import Places

FILE_BYTES_MAX: Final = 16 * 1024 * 1024

_TOML_PLACE: Final = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)")


def toml_of(path: str, unusable: type[FileProblems], empty: str) -> tuple[dict[str, Any], Places]:
    """Return what the file at *path* says, and where in it.

    *empty* says what was expected of a file in which there is nothing.

    Raises:
        FileProblems: it cannot be read, or is no TOML; of the kind *unusable*.
    """
    text = _text_of(path, unusable, empty)
    try:
        values = tomllib.loads(text)
    except ValueError as error:  # also of a number with thousands of digits
        raise unusable(path, [_syntax(str(error), text)]) from None
    except RecursionError:
        problem = Problem(0, 0, "", "expected TOML, found lists nested too deeply")
        raise unusable(path, [problem]) from None
    return values, Places(text)


def _text_of(path: str, unusable: type[FileProblems], empty: str) -> str:
    """Return what is in the file, with a mere newline at the end of each line.

    Raises:
        FileProblems: it cannot be read as text, or there is nothing in it.
    """

    def refused(message: str, line: int = 0, column: int = 0) -> FileProblems:
        return unusable(path, [Problem(line, column, "", message)])

    try:
        with open(path, "rb") as file:  # noqa: PTH123 (its name is the user's, word for word)
            stored = file.read(FILE_BYTES_MAX + 1)
    except IsADirectoryError:
        raise refused("expected a TOML file, found a folder") from None
    except FileNotFoundError:
        raise refused("expected a TOML file, found nothing there") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise refused(f"expected a file that can be read, found: {why}") from None
    if len(stored) > FILE_BYTES_MAX:
        raise refused(f"expected at most {FILE_BYTES_MAX} bytes, found more; split it")
    try:
        text = stored.decode("utf-8-sig")  # some editors put a mark at the beginning
    except UnicodeDecodeError as error:
        before = stored[: error.start].decode("utf-8-sig", "replace")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        found = f"byte {stored[error.start]:#04x}"
        raise refused(f"expected UTF-8, found {found}; save it as UTF-8", line, column) from None
    if not text.strip():
        raise refused(empty)
    return text.replace("\r\n", "\n")


def _syntax(said: str, text: str) -> Problem:
    found = _TOML_PLACE.fullmatch(said)
    if found is None:
        return Problem(0, 0, "", f"expected TOML: {said}")
    lines = text.split("\n")
    line, column = int(found[2] or len(lines)), int(found[3] or len(lines[-1]) + 1)
    return Problem(line, column, "", f"expected TOML: {found[1]}")
