"""What rules cost: by their number, by the number of keys and of timers, and by operator.

Kernel only: events go through `Kernel.submit`, and what it decides is encoded into a list, as
a memory log would keep it.  Beside the count and the sequence a bare loop with a dict does the
same work, in the same run.  Prints tables and asserts nothing.

    .venv/bin/python benchmarks/triggers.py [--events 300000] [--repeat 3]
"""

from __future__ import annotations

import argparse
import gc
import os
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

import msgspec
from common import repeat, row, span
from msgspec import Raw, Struct

from headrace import Pattern, absent, all_of, field, on, sequence, silent
from headrace.engine import record as r
from headrace.engine.clock import NS
from headrace.engine.kernel import Kernel
from headrace.engine.timers import Timers
from headrace.triggers.ruleset import Rule, RuleSet

KEYS: Final = 1000
RULES: Final = (10, 1_000, 100_000)
GROUP: Final = 3000
"""Events that are made at once: what has just come is in the processor's cache."""
STEP_NS: Final = 10_000
WITHIN_S: Final = 60


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


# ---------------------------------------------------------------- operators


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


def operators(count: int, times: int) -> None:
    """Print the throughput of each operator."""
    print(row("kernel, one rule: events/s", "median", "µs an event", "firings"))
    for name, (subjects, make) in OPERATORS.items():
        fired = [0]

        def run(
            make: Callable[[], Pattern[Any]] = make,
            subjects: list[str] = subjects,
            fired: list[int] = fired,
        ) -> float:
            kernel = kernel_of(make())
            rate = rate_of(partial(through, kernel), count, subjects)
            fired[0] = kernel.state.stats["r0"].fired
            return rate

        figures = repeat(run, times)
        print(row(name, span(figures), f"{1e6 / figures[0]:.2f}", str(fired[0])))
    for name, subjects, bare in (
        ("bare loop: the same count(3)", ["a"], BareCount),
        ("bare loop: the same sequence", ["a", "b", "c"], BareSequence),
    ):
        loops: list[BareCount | BareSequence] = []

        def run_bare(
            bare: type[BareCount | BareSequence] = bare,
            subjects: list[str] = subjects,
            loops: list[BareCount | BareSequence] = loops,
        ) -> float:
            loops.append(bare())
            return rate_of(loops[-1].take, count, subjects)

        figures = repeat(run_bare, times)
        print(row(name, span(figures), f"{1e6 / figures[0]:.2f}", str(loops[-1].fired)))


# ---------------------------------------------------------------- scale


def by_rules(times: int) -> None:
    """Print what an event costs by the number of rules, of which one concerns it.

    In turns, so that a machine that is busy for a while is so for all of them.
    """
    print(row("cost of an event by the number of rules", "µs an event", "ratio", "build s"))
    for kind, subject in (("literal", "plant.{}.temp"), ("wildcard", "plant.{}.*.temp")):
        built_s: list[float] = []
        runs: list[Callable[[], float]] = []
        for count in RULES:
            start = time.perf_counter()
            kernel = kernel_of(*(on(subject.format(n)).count(3, within=1) for n in range(count)))
            built_s.append(time.perf_counter() - start)
            names = [subject.format(n % count).replace("*", f"m{n % 7}") for n in range(1000)]
            runs.append(rounds(kernel, names))
        for run in runs:
            run()  # the first event on a subject walks the trie
        costs = [[run() for run in runs] for _ in range(times * 5)]
        for place, count in enumerate(RULES):
            cost = median(each[place] for each in costs)
            ratio = median(each[place] / each[0] for each in costs)
            print(
                row(
                    f"{count} rules, {kind} subjects",
                    f"{cost:.2f}",
                    f"{ratio:.2f} x",
                    f"{built_s[place]:.1f}",
                )
            )


def rounds(kernel: Kernel, names: list[str]) -> Callable[[], float]:
    """Return what lets 20 000 events more through *kernel*, and gives the µs that one took."""
    at_ns = 1

    def run() -> float:
        nonlocal at_ns
        events = [
            r.EventStored(at_ns + n * STEP_NS, names[n % len(names)], Raw(b"\x01"))
            for n in range(20_000)
        ]
        at_ns = events[-1].at_ns
        return 1e6 / per_second(len(events), lambda: through(kernel, events))

    return run


def resident_bytes() -> int:
    """Return what this process has in memory (Linux)."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def by_keys(times: int) -> None:
    """Print what a key of a count rule costs in memory, and an event by the number of keys."""
    print(row("count(3) by key", "bytes a key", "µs an event", "ratio"))
    base = 0.0
    for count in (1_000, 100_000, 1_000_000):
        pattern = on("a", Reading).key(lambda e: e.data.device, keys_max=2_000_000)
        kernel = kernel_of(pattern.count(3, within=1e6))
        encode = msgspec.msgpack.Encoder().encode
        gc.collect()
        before, at_ns = resident_bytes(), 1
        for device in range(count):
            at_ns += STEP_NS
            data = Raw(encode(Reading(10**6 + device, 20.0)))
            kernel.submit(r.EventStored(at_ns, "a", data))
        each = (resident_bytes() - before) / count
        payloads = [Raw(encode(Reading(10**6 + n * 7919 % count, 20.0))) for n in range(100_000)]
        now = [at_ns]

        def run(
            kernel: Kernel = kernel, payloads: list[Raw] = payloads, now: list[int] = now
        ) -> float:
            events = [
                r.EventStored(now[0] + n * STEP_NS, "a", data) for n, data in enumerate(payloads)
            ]
            now[0] = events[-1].at_ns
            return 1e6 / per_second(len(events), lambda: through(kernel, events))

        cost = repeat(run, times)[0]
        base = base or cost
        print(row(f"{count} keys", f"{each:.0f}", f"{cost:.2f}", f"{cost / base:.2f} x"))


def by_timers(count: int = 1_000_000) -> None:
    """Print what it costs to arm a million timers and to fire them all."""
    print(row("timers", "µs each", "µs together"))
    timers = Timers()
    ids = [("r", 0, n) for n in range(count)]
    # In no order, over twenty seconds.
    due = [n * 7919 % count * 20_000 for n in range(count)]

    def arm_all() -> None:
        for one, at in zip(ids, due, strict=True):
            timers.arm(one, at)

    def fire() -> None:
        while (first := timers.first()) is not None:
            timers.disarm(first[1])

    arm = 1e6 / per_second(count, arm_all)
    fired = 1e6 / per_second(count, fire)
    print(row(f"arm {count}, in any order", f"{arm:.2f}"))
    print(row(f"fire {count}", f"{fired:.2f}", f"{arm + fired:.2f}"))
    kernel = kernel_of(silent(on("a").key(lambda e: e.data, keys_max=count), for_=1e6))
    encode = msgspec.msgpack.Encoder().encode
    events = [r.EventStored(1 + n, "a", Raw(encode(n))) for n in range(count)]
    armed = 1e6 / per_second(count, lambda: [kernel.submit(event) for event in events])
    print(row(f"an event each that arms one of {count}", f"{armed:.2f}"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    operators(options.events, options.repeat)
    by_rules(options.repeat)
    by_keys(options.repeat)
    by_timers()


if __name__ == "__main__":
    main()
