"""All benchmarks, each in a process of its own: what `make bench` runs.

Prints each table as it comes, then what falls short, and writes all rows as JSON to
`benchmarks/results/`, with the commit, the date, the processor and the Python they are of.

    python benchmarks/run.py [--repeat 3] [--quick] [--json PATH] [NAME ...]
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import msgspec
from figures import REPEAT, Figure, show
from msgspec import Struct

HERE: Final = Path(__file__).parent
RESULTS: Final = HERE / "results"
SCRIPTS: Final = {
    "w1": "w1_throughput.py",
    "w2": "w2_workflow.py",
    "w3": "w3_latency.py",
    "log": "log.py",
    "triggers": "triggers.py",
    "tasks": "tasks.py",
    "replay": "replay.py",
    "whatif": "whatif.py",
    "looking": "looking.py",
    "start-up": "import_cost.py",
    "pending": "pending.py",
    "connectors": "connectors.py",
    "growth": "growth.py",
}
ONCE: Final = ("pending", "growth")
"""Those that take a minute: each of their figures is a median of its own already."""


class Machine(Struct):
    """What the figures were measured with."""

    commit: str
    date: str
    cpu: str
    cores: int
    python: str
    packages: dict[str, str]
    load: float
    """Processes that wanted to run in the minute before: others, if it is not near 0."""
    took_s: float = 0.0


class Report(Struct):
    """One file of results."""

    machine: Machine
    figures: list[Figure]


def said(*command: str) -> str:
    """Return the first line that *command* prints, or nothing."""
    try:
        ran = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return ran.stdout.strip().partition("\n")[0]


def machine() -> Machine:
    """Describe this machine."""
    changed = "+changes" if said("git", "status", "--porcelain", "--untracked-files=no") else ""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        names = [line.partition(":")[2].strip() for line in text.splitlines() if "model n" in line]
    except OSError:
        names = []
    packages: dict[str, str] = {}
    for name in ("headrace", "msgspec", "anyio", "uvloop"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "none"
    return Machine(
        commit=said("git", "rev-parse", "--short=12", "HEAD") + changed,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        cpu=names[0] if names else platform.processor() or platform.machine(),
        cores=os.cpu_count() or 1,
        python=platform.python_version(),
        packages=packages,
        load=round(os.getloadavg()[0], 2),
    )


def run(name: str, options: argparse.Namespace) -> list[Figure]:
    """Run one script; return its rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        times = 1 if name in ONCE else options.repeat
        command = [sys.executable, str(HERE / SCRIPTS[name]), "--json", str(path)]
        command += ["--repeat", str(times), *(["--quick"] if options.quick else [])]
        ran = subprocess.run(command, check=False)
        if ran.returncode:
            sys.exit(f"benchmarks/{SCRIPTS[name]} ended with exit code {ran.returncode}")
        return msgspec.json.decode(path.read_bytes(), type=list[Figure])


def write(report: Report, path: Path) -> None:
    """Write one file of results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")


def results_path(kind: str, about: Machine) -> Path:
    """Return where the results of a run go by default."""
    moment = about.date.replace(":", "").replace("-", "").partition("+")[0]
    return RESULTS / f"{kind}-{moment}.json"


def main() -> None:
    """Run them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SCRIPTS)}")
    parser.add_argument("--repeat", type=int, default=REPEAT, metavar="N", help="runs of each")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that all works")
    parser.add_argument("--json", type=Path, metavar="PATH", help="where the rows are written")
    options = parser.parse_args()
    for name in options.names:
        if name not in SCRIPTS:
            parser.error(f"{name!r}: expected one of {', '.join(SCRIPTS)}")
    about, lines, start = machine(), list[Figure](), time.monotonic()
    path: Path = options.json or results_path("bench", about)
    for name in options.names or SCRIPTS:
        try:
            lines += run(name, options)
        except KeyboardInterrupt:
            sys.exit(f"interrupted in {SCRIPTS[name]}; what came before it is in {path}")
        about.took_s = round(time.monotonic() - start, 1)
        write(Report(about, lines), path)  # an interrupted run keeps what it has
        print()
    barred = [line for line in lines if line.met is not None]
    short = [line for line in barred if not line.met]
    if short:
        show("what falls short", short)
    print(
        f"{len(lines)} figures in {about.took_s:.0f} s; "
        f"{len(barred) - len(short)} of {len(barred)} bars met"
    )
    print(f"all of it is in {path}")


if __name__ == "__main__":
    main()
