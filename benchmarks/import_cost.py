"""Start-up: what `import headrace` and `headrace --help` cost, in processor time and memory.

The reference of an import is that of the libraries that headrace stands on.  Each figure is of
fresh processes: the median of several, that take turns with Python alone, whose own start is
taken off from the times of imports.

    python benchmarks/import_cost.py [--repeat 3] [--quick] [--json PATH]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from figures import Figure, Row, at_most, measured, script

IMPORTS: Final = {
    "import asyncio, anyio, msgspec": "import asyncio, anyio, msgspec",
    "import headrace": "import headrace",
    "import what an app names": "from headrace import App, Event, Firing, Retry, Run, on",
    "import that, and an engine over a log": (
        "from headrace import App, Event, FileLog, Firing, Retry, Run, on; "
        "import headrace.engine.engine"
    ),
    "import that, structlog and tenacity": (
        "from headrace import App, Event, FileLog, Firing, Retry, Run, on; "
        "import headrace.engine.engine, structlog, tenacity"
    ),
}
GROUND: Final = "import asyncio, anyio, msgspec"
PROCESSES: Final = 5


def cpu_ms(*command: str) -> float:
    """CPU milliseconds, of user and system, of one fresh process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) * 1e3


def python(program: str) -> tuple[str, ...]:
    """Return a command: nothing of the environment, and no current folder to look through."""
    return (sys.executable, "-I", "-c", program)


def import_ms(program: str, processes: int) -> float:
    """CPU milliseconds that *program* takes beyond those of Python itself."""
    return statistics.median(
        cpu_ms(*python(program)) - cpu_ms(*python("pass")) for _ in range(processes)
    )


def help_ms(processes: int) -> float:
    """CPU milliseconds of `headrace --help`, Python's start included."""
    command = str(Path(sys.executable).parent / "headrace")
    return statistics.median(cpu_ms(command, "--help") for _ in range(processes))


def resident_mb(program: str) -> float:
    """Peak resident memory of one fresh process that runs *program*."""
    ask = "import resource as r; print(r.getrusage(r.RUSAGE_SELF).ru_maxrss)"
    ran = subprocess.run(python(f"{program}\n{ask}"), check=True, capture_output=True, text=True)
    per_unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB here
    return int(ran.stdout) * per_unit / 1e6


ROWS: Final = [
    Row(GROUND, "ms CPU"),
    Row("import headrace", "ms CPU", GROUND, at_most(1.2, "ratio")),
    *(Row(name, "ms CPU", GROUND) for name in IMPORTS if name not in (GROUND, "import headrace")),
    Row("headrace --help", "ms CPU", "python alone", at_most(350)),
    Row(f"resident, {GROUND}", "MB"),
    Row("resident, import headrace", "MB", f"resident, {GROUND}", at_most(35)),
    *(Row(f"resident, {name}", "MB", f"resident, {GROUND}") for name in list(IMPORTS)[2:]),
]


def take(options: argparse.Namespace) -> list[Figure]:
    """Measure."""
    processes = 1 if options.quick else PROCESSES
    ways: dict[str, Callable[[], float]] = {}
    for name, program in IMPORTS.items():
        cpu_ms(*python(program))  # compiles what is not compiled, fills the page cache
        ways[name] = partial(import_ms, program, processes)
        ways[f"resident, {name}"] = partial(resident_mb, program)
    ways["python alone"] = lambda: cpu_ms(*python("pass"))
    ways["headrace --help"] = partial(help_ms, processes)
    return measured(ways, ROWS, options)


if __name__ == "__main__":
    script(__doc__, "start-up", take)
