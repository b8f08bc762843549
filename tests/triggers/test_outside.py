"""Clocks and chance are found in the code of conditions, however they are written."""

from __future__ import annotations

import datetime as dt
import functools
import os
import random
import secrets
import time
import uuid
from datetime import datetime as moment
from random import random as dice
from time import time as clock
from typing import Any
from uuid import uuid4

import pytest

from headrace.triggers.outside import outside_read

LIMIT = 90.0


def is_past(event: Any) -> bool:
    return bool(event.data > clock())


def closed_over() -> Any:
    now = time.monotonic_ns
    return lambda event: event.data > now()


def bound(limit: float, event: Any) -> bool:
    return bool(event.data + limit > time.time())


class Judge:
    def judges(self, event: Any) -> bool:
        return bool(event.data > random.gauss(0, 1))


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (lambda e: e.data < time.time(), ["time.time"]),
        (lambda e: e.data < time.perf_counter_ns(), ["time.perf_counter_ns"]),
        (lambda e: e.data < clock(), ["time.time"]),
        (lambda e: e.data.hour == moment.now().hour, ["datetime.now"]),  # noqa: DTZ005
        (lambda e: e.data == dt.date.today(), ["date.today"]),  # noqa: DTZ011
        (lambda e: e.data < dt.datetime.now(dt.UTC), ["datetime.now"]),
        (lambda e: e.data < dice(), ["random.random"]),
        (lambda e: e.data < random.choice([1, 2]), ["random.choice"]),
        (lambda e: e.data in [secrets.token_hex() for _ in range(3)], ["secrets.token_hex"]),
        (lambda e: e.data == uuid4() or e.data == uuid.uuid1(), ["uuid.uuid1", "uuid.uuid4"]),
        (lambda e: e.data == os.urandom(4), ["os.urandom"]),
        (lambda e: e.data or is_past(e), ["time.time"]),
        (closed_over(), ["time.monotonic_ns"]),
        (functools.partial(bound, 3.0), ["time.time"]),
        (Judge().judges, ["random.gauss"]),
        (lambda e: e.data > LIMIT and e.time > 3, []),
        (lambda e: (time.strptime(e.data, "%H"), dt.datetime.fromisoformat(e.data)), []),
        (lambda e: (uuid.UUID(e.data), os.fspath(e.data)), []),
        (len, []),
    ],
)
def test_what_a_function_reads(function: Any, found: list[str]) -> None:
    """By its module, by its own name, inside, through a is_past; and what is neither is not."""
    assert outside_read(["> 90", function, int]) == found
