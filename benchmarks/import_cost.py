"""What `import headrace` costs a host, against the libraries that it stands on.

Each import is timed in fresh processes that take turns, so that both see the same machine;
the figure is CPU time, user and system, of the process with the interpreter's own start
taken off.  Prints a table and asserts nothing.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
from typing import Final

CASES: Final = {
    "python alone": "pass",
    "asyncio, anyio, msgspec": "import asyncio, anyio, msgspec",
    "headrace": "import headrace",
    "what an app names": "from headrace import App, Event, Firing, Retry, Run, on",
    "that, and an engine over a log": (
        "from headrace import App, Event, FileLog, Firing, Retry, Run, on; "
        "import headrace.engine.engine"
    ),
    "that, structlog and tenacity": (
        "from headrace import App, Event, FileLog, Firing, Retry, Run, on; "
        "import headrace.engine.engine, structlog, tenacity"
    ),
}
ALONE, GROUND, *_ = CASES
ROUNDS_WARM: Final = 2  # compiles what is not compiled, fills the page cache


def cpu_s(program: str) -> float:
    """CPU seconds of one fresh process that runs *program*."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # -I: nothing of the environment, and no current folder to look through.
    subprocess.run([sys.executable, "-I", "-c", program], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def resident_mb(program: str) -> float:
    """Peak resident memory of one fresh process that runs *program*."""
    ask = "import resource as r; print(r.getrusage(r.RUSAGE_SELF).ru_maxrss)"
    ran = subprocess.run(
        [sys.executable, "-I", "-c", f"{program}\n{ask}"],
        check=True,
        capture_output=True,
        text=True,
    )
    per_unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB here
    return int(ran.stdout) * per_unit / 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="CPU time of `import headrace`.")
    parser.add_argument("--rounds", type=int, default=40)
    rounds: int = parser.parse_args().rounds
    took: dict[str, list[float]] = {case: [] for case in CASES}
    for number in range(ROUNDS_WARM + rounds):
        for case, program in CASES.items():
            spent_s = cpu_s(program)
            if number >= ROUNDS_WARM:
                took[case].append(spent_s)
    alone_s = statistics.median(took[ALONE])
    ground_s = statistics.median(took[GROUND]) - alone_s
    print(f"{'import':28} {'CPU ms':>8} {'ratio':>6} {'resident MB':>12}")
    for case, program in CASES.items():
        spent_s = statistics.median(took[case])
        if case != ALONE:
            spent_s -= alone_s
        ratio = f"{spent_s / ground_s:6.2f}" if case != ALONE else " " * 6
        print(f"{case:28} {spent_s * 1000:8.1f} {ratio} {resident_mb(program):12.1f}")
    print(f"{rounds} rounds, medians; the ratio is to {GROUND!r}")


if __name__ == "__main__":
    main()
