"""A kernel by itself: events go through it, and what it decides is encoded into a list."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from headrace import Pattern
from headrace.engine import record as r
from headrace.engine.kernel import Kernel
from headrace.triggers.ruleset import Rule, RuleSet

KEYS: Final = 1000
GROUP: Final = 3000
"""Events that are made at once: what has just come is in the processor's cache."""
STEP_NS: Final = 10_000


class Reading(Struct):
    """A small event."""

    device: int
    celsius: float


def kernel_of(*patterns: Pattern[Any]) -> Kernel:
    """Return a kernel in which *patterns* are in force."""
    rules = [Rule(f"r{n}", pattern, "single", "1") for n, pattern in enumerate(patterns)]
    kernel = Kernel(RuleSet(rules))
    kernel.submit(r.EngineStarted(0, "", "input", kernel.state.declared))
    return kernel


def stored(first: int, count: int, subjects: list[str], keys: int = KEYS) -> list[r.EventStored]:
    """Return events *first* and following of *keys* devices, 10 microseconds apart.

    Each device comes on all *subjects*, one after the other.
    """
    encode = msgspec.msgpack.Encoder().encode
    payloads = [Raw(encode(Reading(n, 20.0 + n % 50))) for n in range(keys)]
    turns = len(subjects)
    return [
        r.EventStored(1 + n * STEP_NS, subjects[n // keys % turns], payloads[n % keys])
        for n in range(first, first + count)
    ]


def rate_of(
    work: Callable[[list[r.EventStored]], object], count: int, subjects: list[str]
) -> float:
    """Return the events/s of *work*, to which *count* events come as they do: a few at a time."""
    took, first = 0.0, 0
    gc.collect()
    gc.freeze()
    gc.disable()
    while first < count:
        events = stored(first, GROUP, subjects)
        start = time.perf_counter()
        work(events)
        took += time.perf_counter() - start
        first += GROUP
    gc.enable()
    gc.unfreeze()
    return first / took


def per_second(count: int, work: Callable[[], object]) -> float:
    """Return how often *work* does one of *count* in a second, without the garbage collector."""
    gc.collect()
    gc.freeze()
    gc.disable()
    start = time.perf_counter()
    work()
    took = time.perf_counter() - start
    gc.enable()
    gc.unfreeze()
    return count / took


def through(kernel: Kernel, events: list[r.EventStored]) -> None:
    """Let *events* go through, with the timers that are due, and keep what is decided."""
    log: list[bytes] = []
    submit, due_timer, encode = kernel.submit, kernel.due_timer, r.encode
    for event in events:
        while (fired := due_timer(event.at_ns)) is not None:
            log += map(encode, submit(fired))
        log += map(encode, submit(event))
        kernel.state.effects.clear()
