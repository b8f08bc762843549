"""What rules cost: by operator, and what keys and timers take.

Kernel only: events go through `Kernel.submit`, and what it decides is encoded into a list, as
a memory log would keep it.  Beside the count and the sequence a bare loop with a dict does the
same work.  What an event costs by the number of rules and of keys is in `growth.py`.

    python benchmarks/triggers.py [--repeat 3] [--only count] [--quick] [--json PATH]
"""

from __future__ import annotations

import argparse
import gc
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec
from common import resident_bytes
from figures import Figure, Row, measured, script
from kernels import KEYS, STEP_NS, Reading, kernel_of, per_second, rate_of, through
from msgspec import Raw

from headrace import Pattern, absent, all_of, field, on, sequence, silent
from headrace.engine import record as r
from headrace.engine.clock import NS
from headrace.engine.timers import Timers

EVENTS: Final = 60_000
HELD: Final = 1_000_000
"""Keys and timers that there are at once."""
WITHIN_S: Final = 60


def keyed(subject: str) -> Pattern[Reading]:
    """Return the readings on *subject* by device."""
    return on(subject, Reading).key(lambda e: e.data.device)


OPERATORS: Final[dict[str, tuple[list[str], Callable[[], Pattern[Any]]]]] = {
    "filter that keeps 10 %": (
        ["a"],
        lambda: on("a", Reading).where(lambda e: e.data.celsius >= 65),
    ),
    "the same by field()": (["a"], lambda: on("a", Reading).where(field("celsius") >= 65)),
    "count(3) by key": (["a"], lambda: keyed("a").count(3, within=WITHIN_S)),
    "count(500) by key": (["a"], lambda: keyed("a").count(500, within=WITHIN_S)),
    "sequence of 3 by key": (
        ["a", "b", "c"],
        lambda: sequence(keyed("a"), keyed("b"), keyed("c"), within=WITHIN_S),
    ),
    "silent by key": (["a"], lambda: silent(keyed("a"), for_=WITHIN_S)),
    "hold by key": (
        ["a"],
        lambda: keyed("a").where(lambda e: e.data.celsius >= 65).hold(for_=WITHIN_S),
    ),
    "debounce by key": (["a"], lambda: keyed("a").debounce(quiet=0.5)),
    "throttle by key": (["a"], lambda: keyed("a").throttle(0.05)),
    "tumbling(1) by key": (["a"], lambda: keyed("a").tumbling(1)),
    "all_of 2 by key": (["a", "b"], lambda: all_of(keyed("a"), keyed("b"), within=WITHIN_S)),
    "absent by key": (["a", "b"], lambda: absent(keyed("b"), after=keyed("a"), within=WITHIN_S)),
}


class BareCount:
    """Counts three within the window by key: a dict of deques and nothing else."""

    def __init__(self) -> None:
        self.fired = 0
        self._decode = msgspec.msgpack.Decoder(Reading).decode
        self._windows: dict[int, deque[int]] = {}

    def take(self, events: list[r.EventStored]) -> None:
        """Take *events*."""
        decode, windows, within_ns = self._decode, self._windows, WITHIN_S * NS
        for event in events:
            device = decode(event.data).device
            window = windows.get(device)
            if window is None:
                window = windows[device] = deque()
            while window and window[0] <= event.at_ns - within_ns:
                window.popleft()
            window.append(event.at_ns)
            if len(window) >= 3:
                window.clear()
                self.fired += 1


class BareSequence:
    """Finds a, then b, then c within the window by key: a dict of states and nothing else."""

    def __init__(self) -> None:
        self.fired = 0
        self._decode = msgspec.msgpack.Decoder(Reading).decode
        self._states: dict[int, tuple[int, int]] = {}

    def take(self, events: list[r.EventStored]) -> None:
        """Take *events*."""
        decode, states, within_ns = self._decode, self._states, WITHIN_S * NS
        order = {"a": 0, "b": 1, "c": 2}
        for event in events:
            device = decode(event.data).device
            wanted, began_ns = states.get(device, (0, 0))
            if wanted and event.at_ns - began_ns >= within_ns:
                wanted = 0
            if order[event.subject] == wanted:
                states[device] = (wanted + 1, began_ns if wanted else event.at_ns)
                if wanted == 2:
                    del states[device]
                    self.fired += 1


def operator_rate(subjects: list[str], make: Callable[[], Pattern[Any]], count: int) -> float:
    """Return the events/s of a kernel with that rule."""
    return rate_of(partial(through, kernel_of(make())), count, subjects)


def bare_rate(subjects: list[str], bare: Callable[[], Any], count: int) -> float:
    """Return the events/s of a bare loop that finds the same."""
    loop = bare()
    rate = rate_of(loop.take, count, subjects)
    assert loop.fired or count < KEYS * 3 * len(subjects)
    return rate


def key_bytes(count: int) -> float:
    """Return what a key of a count takes in memory, with two events in its window."""
    pattern = on("a", Reading).key(lambda e: e.data.device, keys_max=2_000_000)
    kernel = kernel_of(pattern.count(3, within=1e6))
    encode = msgspec.msgpack.Encoder().encode
    gc.collect()
    before = resident_bytes()
    for number in range(2 * count):
        data = Raw(encode(Reading(10**6 + number % count, 20.0)))
        kernel.submit(r.EventStored(1 + number * STEP_NS, "a", data))
        kernel.state.effects.clear()
    return (resident_bytes() - before) / count


def timer_us(count: int) -> dict[str, float]:
    """Return the µs that it takes to arm a timer, in any order over twenty seconds, and to fire."""
    timers = Timers()
    ids = [("r", 0, n) for n in range(count)]
    due = [n * 7919 % count * 20_000 for n in range(count)]

    def arm_all() -> None:
        for one, at in zip(ids, due, strict=True):
            timers.arm(one, at)

    def fire() -> None:
        while (first := timers.first()) is not None:
            timers.disarm(first[1])

    kernel = kernel_of(silent(on("a").key(lambda e: e.data, keys_max=count), for_=1e6))
    encode = msgspec.msgpack.Encoder().encode
    events = [r.EventStored(1 + n, "a", Raw(encode(n))) for n in range(count)]
    return {
        "arm": 1e6 / per_second(count, arm_all),
        "fire": 1e6 / per_second(count, fire),
        "event that arms one": 1e6 / per_second(count, lambda: through(kernel, events)),
    }


BARE: Final[dict[str, Callable[[], Any]]] = {
    "count(3) by key": BareCount,
    "sequence of 3 by key": BareSequence,
}
TIMERS: Final = "1 000 000 timers"
ROWS: Final = [
    *(Row(f"bare loop, {name}", "events/s") for name in BARE),
    *(Row(name, "events/s", f"bare loop, {name}" if name in BARE else "") for name in OPERATORS),
    Row("a key of count(3), of 1 000 000", "bytes"),
    *(Row(f"{TIMERS}, {name}", "µs") for name in ("arm", "fire", "event that arms one")),
]


def take(options: argparse.Namespace) -> list[Figure]:
    """Measure."""
    count, held = (3000, 1000) if options.quick else (EVENTS, HELD)
    ways: dict[str, Callable[[], Any]] = {
        name: partial(operator_rate, subjects, make, count)
        for name, (subjects, make) in OPERATORS.items()
    }
    for name, bare in BARE.items():
        ways[f"bare loop, {name}"] = partial(bare_rate, OPERATORS[name][0], bare, count)
    ways["a key of count(3), of 1 000 000"] = partial(key_bytes, max(held, 10_000))
    ways[TIMERS] = partial(timer_us, held)
    return measured(ways, ROWS, options)


if __name__ == "__main__":
    script(__doc__, "triggers: events/s through one rule, kernel only", take)
