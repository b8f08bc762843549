"""What it costs to find the rules that an event concerns, by the number of patterns.

A repeated subject is one dict lookup; a first one walks the trie.  Prints a table and
asserts nothing.
"""

from __future__ import annotations

import timeit
from time import perf_counter_ns
from typing import Final

from headrace.engine.subject import check_emit, matches
from headrace.engine.subject_index import SubjectIndex

PATTERNS: Final = (1, 100, 10_000, 100_000)
SUBJECTS: Final = 20_000
REPEATS: Final = 5


def best_us(statement: str, names: dict[str, object], *, times: int) -> float:
    """Microseconds of one execution, the best of several rounds."""
    rounds = timeit.repeat(statement, globals=names, number=times, repeat=REPEATS)
    return min(rounds) / times * 1e6


def main() -> None:
    """Measure and print."""
    print(f"{'patterns':>10} {'add us':>8} {'first us':>9} {'again us':>9}")
    for count in PATTERNS:
        index: SubjectIndex[int] = SubjectIndex()
        began_ns = perf_counter_ns()
        for number in range(count):
            index.add(f"plant.{number % 1_000}.*.p{number // 1_000}.>", number)
        add_us = (perf_counter_ns() - began_ns) / count / 1e3
        subjects = [f"plant.{n % 1_000}.x{n}.p{n % 7}.temperature" for n in range(SUBJECTS)]
        began_ns = perf_counter_ns()
        for subject in subjects:
            index.lookup(subject)
        first_us = (perf_counter_ns() - began_ns) / SUBJECTS / 1e3
        names: dict[str, object] = {"lookup": index.lookup, "subject": subjects[0]}
        again_us = best_us("lookup(subject)", names, times=200_000)
        print(f"{count:>10} {add_us:8.2f} {first_us:9.2f} {again_us:9.3f}")
    names = {"check_emit": check_emit, "matches": matches, "subject": "sensors.t1.temperature"}
    print(f"check_emit(subject): {best_us('check_emit(subject)', names, times=50_000):.2f} us")
    asked = best_us("matches('sensors.*.temperature', subject)", names, times=50_000)
    print(f"matches(pattern, subject): {asked:.2f} us")


if __name__ == "__main__":
    main()
