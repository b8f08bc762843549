"""Settings of every connector that cannot be: each is refused at once, in one line."""

from __future__ import annotations

import inspect
import math
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from headrace.engine.errors import HeadraceError

ENTRIES = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"][
    "entry-points"
]["headrace.connectors"]
LINE_CHARS_MAX = 400
OTHERS = {"self", "topic", "clock", "name"}
"""What is for programs only, and the name, which the app looks at when it takes the connector."""
VALUES: list[Any] = [
    None, 7, -1, 0, 1.5, math.inf, 10**400, True, b"x", [], [1], [None], ["\0"], {}, {"a": 1},
    {1: 2}, {"x": "a\nb"}, {"x": None}, "", "\0", "a\nb", "\ud800", "x" * 100_000, ("a",),
]  # fmt: skip
NEEDED: dict[str, dict[str, Any]] = {
    "csv-file": {"path": "/nowhere/x", "subject": "a.b"},
    "directory": {"path": "/nowhere"},
    "http-sink": {"url": "http://h"},
    "json-lines-file": {"path": "/nowhere/x"},
    "jetstream": {"url": "nats://h", "stream": "S"},
    "kafka": {"servers": "h:1", "topics": ["t"]},
    "kafka-sink": {"servers": "h:1", "topic": "t"},
    "mqtt": {"url": "mqtt://h", "topics": ["a"]},
    "mqtt-sink": {"url": "mqtt://h"},
    "nats": {"url": "nats://h", "subjects": "a"},
    "nats-sink": {"url": "nats://h"},
    "notify-sink": {"urls": "json://h"},
    "postgres-notify": {"url": "postgresql://u@h/d", "channels": ["c"]},
    "postgres-outbox": {"url": "postgresql://u@h/d"},
    "postgres-sink": {"url": "postgresql://u@h/d", "table": "t"},
    "redis-stream": {"url": "redis://h", "stream": "s"},
    "redis-stream-sink": {"url": "redis://h", "stream": "s"},
    "sse": {"url": "http://h"},
    "stdin": {},
    "stdout-sink": {},
    "webhook": {"routes": {"/a": "a"}},
    "websocket": {"url": "ws://h"},
}


def callable_of(entry: str) -> Callable[..., Any]:
    module, _, name = ENTRIES[entry].partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


def settings() -> list[tuple[str, str]]:
    found = []
    for entry in sorted(NEEDED):
        of = inspect.signature(callable_of(entry)).parameters
        found += [(entry, name) for name in of if name not in OTHERS]
    return found


SETTINGS = settings()


def refusal(entry: str, name: str, value: object) -> str | None:
    """Return why *value* is refused; ``None``: it is taken."""
    given = NEEDED[entry] | {name: value}
    if name == "statement":
        del given["table"]
    try:
        callable_of(entry)(**given)
    except (TypeError, ValueError, HeadraceError) as error:
        return str(error)
    return None


def test_each_connector_is_looked_at() -> None:
    """One that comes has its line above."""
    assert NEEDED.keys() == ENTRIES.keys() - {"memory", "memory-sink"}


@pytest.mark.parametrize(("entry", "name"), SETTINGS)
def test_what_is_of_no_kind_is_refused(entry: str, name: str) -> None:
    """And the line says which setting it was: a program or a file has many."""
    for value in (object(), {1, 2}, math.nan):
        said = refusal(entry, name, value)
        assert said is not None, f"took {value!r}"
        assert name in said or "address" in said
        assert "\n" not in said


@pytest.mark.parametrize(("entry", "name"), SETTINGS)
def test_whatever_is_given_is_taken_or_refused_in_one_line(entry: str, name: str) -> None:
    """No error of Python's own, no page of text."""
    for value in VALUES:
        said = refusal(entry, name, value)
        if said is not None:
            assert name in said or "address" in said, ascii(value)[:40]
            assert "\n" not in said
            assert len(said) <= LINE_CHARS_MAX


@pytest.mark.parametrize("entry", ["sse", "websocket", "http-sink"])
def test_headers_that_cannot_be_sent(entry: str) -> None:
    """One that would be two, or none; the value is not shown, since it may be a secret."""
    for headers in (
        {"a": "planted\r\nx: 1"},
        {"a": "pl\u00e4nted"},
        {"a b": "1"},
        {"a": 1},
        {1: "a"},
    ):
        said = refusal(entry, "headers", headers)
        assert said is not None
        assert "headers" in said
        assert "planted" not in said
