"""Subjects and wildcards: what is valid and what matches, exactly as nats-server has it.

A subject is tokens joined by dots, none of them empty.  In a pattern a token that is just
``*`` stands for any one token, and ``>`` as the last token for one or more; anywhere else
the two are ordinary characters (``foo*`` and ``f>o`` are literal).  Case matters.
Space, tab, line feed, form feed and carriage return are refused; all else of Unicode is
allowed.  `tests/engine/test_subject_nats.py` compares every rule with a running server.

Beyond the server's rules, four first tokens belong to the engine: see `is_reserved`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

RESERVED_PREFIXES: Final = ("run.", "rule.", "engine.", "clock.")

_SPACES: Final = " \t\n\f\r"


def matches(pattern: str, subject: str) -> bool:
    """Say whether *pattern* matches *subject*, as the server's subject list would.

    Total: what is no valid pattern matches nothing, and what is no subject is matched by
    nothing.  A wildcard in *subject* is an ordinary token there.
    """
    wanted, found = pattern.split("."), subject.split(".")
    if "" in found or "" in wanted or ">" in wanted[:-1]:
        return False
    if wanted[-1] == ">":
        if len(found) < len(wanted):
            return False
        wanted.pop()
    elif len(found) != len(wanted):
        return False
    for want, token in zip(wanted, found, strict=False):
        if want != token and want != "*":
            return False
    return True


def matches_user(pattern: str, subject: str) -> bool:
    """As `matches`, for a pattern that a user wrote: see `is_reserved`."""
    if is_reserved(subject) and begins_with_wildcard(pattern):
        return False
    return matches(pattern, subject)


def is_reserved(subject: str) -> bool:
    """Say whether *subject* belongs to the engine's own events.

    These are the subjects below ``run``, ``rule``, ``engine`` and ``clock``.  `check_emit`
    refuses them, and a pattern that begins with a wildcard does not match them: a rule on
    ``>`` would otherwise fire on its own firing for ever.  ``run.failed.*`` and ``rule.>``
    do match: whoever writes the first token means it.
    """
    return subject.startswith(RESERVED_PREFIXES)


def begins_with_wildcard(pattern: str) -> bool:
    """Say whether the first token of *pattern* is ``*`` or ``>``."""
    return pattern == ">" or pattern == "*" or pattern.startswith("*.")


def check_pattern(pattern: str) -> None:
    """Raise `ValueError`, with the place and the reason, if *pattern* is not valid."""
    if _is_plain(pattern):
        return
    fault = _fault(pattern, wildcards=True)
    if fault:
        raise ValueError(f"pattern {pattern!r}, {fault}")


def check_subject(subject: str) -> None:
    """Raise `ValueError`, with the place and the reason, if nothing can have *subject*.

    A subject is a valid pattern without wildcards.
    """
    if _is_plain(subject):
        return
    fault = _fault(subject, wildcards=False)
    if fault:
        raise ValueError(f"subject {subject!r}, {fault}")


EMIT_CHARS_MAX: Final = 500
"""Longer subjects are valid for a server, but not stored: they come with each event."""


@lru_cache(maxsize=16_384)
def check_emit(subject: str) -> None:
    """Raise `ValueError` if *subject* is not valid or is one of the engine's own.

    Remembers what it found valid: every event goes through here, and on few subjects.
    """
    check_subject(subject)
    if len(subject) > EMIT_CHARS_MAX:
        raise ValueError(
            f"subject {subject[:40]!r}…: expected at most {EMIT_CHARS_MAX} characters, found "
            f"{len(subject)}; put what is long into the data"
        )
    if is_reserved(subject):
        first = subject.partition(".")[0]
        raise ValueError(
            f"subject {subject!r}, character 1: {first}.> is reserved for what the engine "
            f"says about itself; choose another first token"
        )


def _is_plain(text: str) -> bool:
    # The common case in 0.3 µs: every emitted event goes through here.  A plain text is
    # valid both as a subject and as a pattern; any other is looked at token by token.
    return not (
        not text
        or ".." in text
        or text[0] == "."
        or text[-1] == "."
        or "*" in text
        or ">" in text
        or " " in text
        or "\t" in text
        or "\n" in text
        or "\f" in text
        or "\r" in text
        or not text.isascii()
    )


def _fault(text: str, *, wildcards: bool) -> str | None:
    """Return the first fault of *text* as ``character N: …``, or ``None``."""
    if not text:
        return "character 1: expected a token, found the end; name at least one, as in 'a.b'"
    tokens = text.split(".")
    at = 1  # 1-based place of the token's first character
    for index, token in enumerate(tokens):
        if not token:
            found = "the end" if index == len(tokens) - 1 else "'.'"
            return f"character {at}: expected a token, found {found}; leave no token empty"
        for place, character in enumerate(token, at):
            if character in _SPACES:
                return f"character {place}: found {character!r}; subjects hold no white space"
            if "\ud800" <= character <= "\udfff":
                return f"character {place}: found {character!r}, which is half a character"
        if token in ("*", ">") and not wildcards:
            return (
                f"character {at}: found the wildcard {token!r}, expected a plain token; only "
                f"a pattern has wildcards"
            )
        if token == ">" and index < len(tokens) - 1:
            return f"character {at}: found '>' before the end; it can only be the last token"
        at += len(token) + 1
    return None
