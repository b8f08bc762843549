"""The same work on other engines, beside headrace in the same run: what `make bench-peers` runs.

Each peer has an environment of its own below `benchmarks/.peers`, which is made by pip when it
is missing.  One that cannot be installed, or does not do the work, is named in the table.
Every peer is used as its own documentation says is fast; what it keeps of the work is stated.

    python benchmarks/run_peers.py [--repeat 3] [--quick] [--keep] [--json PATH] [PEER ...]
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import w1_throughput
import w2_workflow
import w3_latency
from common import on_asyncio, samples, scratch
from figures import REPEAT, Bar, Figure, Row, Runs, at_least, figure, progress, shown
from run import HERE, Report, machine, results_path, write

PEERS: Final = {
    "bytewax": "with_bytewax",
    "dbos": "with_dbos",
    "reactivex": "with_reactivex",
    "taskiq": "with_taskiq",
    "bubus": "with_bubus",
    "faststream": "with_faststream",
    "eventsourcing": "with_eventsourcing",
    "llama-index-workflows": "with_llama_index",
    "temporal": "with_temporal",
    "prefect": "with_prefect",
    "dagster": "with_dagster",
}
VENVS: Final = HERE / ".peers"
INSTALL_S_MAX: Final = 900
WAY_S_MAX: Final = 180
NOTHING: Final = "nothing"

OURS: Final = {"W1": "W1, headrace, fsynced", "W2": "W2, headrace, fsynced"}
KEPT_BY_US: Final = {
    "W1, headrace, fsynced": "everything, synced",
    "W1, headrace, flushed": "everything, synced within 50 ms",
    "W1, headrace, memory": NOTHING,
    "W2, headrace, fsynced": "everything, synced",
    "W3, headrace, fsynced": "everything, synced",
    "W3, headrace, memory": NOTHING,
}


class PeerFailed(Exception):
    """A peer could not be installed, or did not do the work: the text says why."""


def installed(name: str, packages: tuple[str, ...]) -> Path:
    """Return the Python of the peer's environment, made if it is missing.

    Raises:
        PeerFailed: it could not be made.
    """
    folder = VENVS / name
    python = folder / "bin" / "python"
    stamp = folder / "packages"
    wanted = "\n".join(packages)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    progress(f"installing {name}")
    shutil.rmtree(folder, ignore_errors=True)
    quiet = ("--quiet", "--disable-pip-version-check")
    for command in (
        [sys.executable, "-m", "venv", "--without-pip", str(folder)],
        [sys.executable, "-m", "pip", "--python", str(python), "install", *quiet, *packages],
    ):
        try:
            ran = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=INSTALL_S_MAX
            )
        except subprocess.TimeoutExpired:
            raise PeerFailed(f"not installed within {INSTALL_S_MAX} s") from None
        if ran.returncode:
            raise PeerFailed(f"not installed: {last_line(ran.stderr)}")
    stamp.write_text(wanted, encoding="utf-8")
    return python


def last_line(text: str) -> str:
    """Return the last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:120] if lines else "it said nothing"


def go(python: Path, module: str, way: str, count: int) -> Mapping[str, float]:
    """Let a peer do the work once, in a process of its own.

    Raises:
        PeerFailed: it did not.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(scratch())
        said, told = (stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2))
        command = [str(python), str(HERE / "peers" / f"{module}.py"), way, str(count)]
        process = subprocess.Popen(
            [*command, str(folder.resolve())],
            stdout=said, stderr=told, cwd=folder, start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(WAY_S_MAX)
        except subprocess.TimeoutExpired:
            raise PeerFailed(f"not done within {WAY_S_MAX} s") from None
        finally:
            # With the servers that it has started: its session is all theirs.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said.seek(0)
        told.seek(0)
        output, errors = last_line(said.read()), last_line(told.read())
    try:
        found: dict[str, float] = json.loads(output)
    except json.JSONDecodeError:
        raise PeerFailed(f"failed: {errors}") from None
    return found


def our_ways(folder: Path, *, quick: bool) -> dict[str, Callable[[], Mapping[str, float]]]:
    """Return what headrace does of the same work."""
    events = samples(2000 if quick else w1_throughput.EVENTS)
    workflows, reactions = (200, 20) if quick else (w2_workflow.WORKFLOWS // 2, 300)

    def w1(level: Any) -> dict[str, float]:
        return {"": on_asyncio(w1_throughput.headrace(events, folder, level))}

    def w3(level: Any) -> dict[str, float]:
        found = on_asyncio(w3_latency.headrace(reactions, folder, level))
        return {name: value for name, value in found.items() if name in ("p50", "p99")}

    return {
        "W1, headrace, fsynced": partial(w1, "fsynced"),
        "W1, headrace, flushed": partial(w1, "flushed"),
        "W1, headrace, memory": partial(w1, "memory"),
        "W2, headrace, fsynced": lambda: {"": on_asyncio(w2_workflow.headrace(workflows, folder))},
        "W3, headrace, fsynced": partial(w3, "fsynced"),
        "W3, headrace, memory": partial(w3, "memory"),
    }


class Comparison:
    """What was measured, way by way, and what could not be."""

    def __init__(self) -> None:
        self.runs: Runs = {}
        self.keeps: dict[str, str] = dict(KEPT_BY_US)
        self.failed: dict[str, str] = {}

    def take(self, way: str, run: Callable[[], Mapping[str, float]]) -> None:
        """Go one way once; one that has failed is not tried again."""
        if way in self.failed:
            return
        progress(way)
        try:
            found = run()
        except PeerFailed as failure:
            self.failed[way] = str(failure)
            return
        for part, value in found.items():
            self.runs.setdefault(f"{way}, {part}" if part else way, []).append(value)

    def lines(self) -> list[Figure]:
        """Return the table: each figure, and what of headrace it is compared with."""
        found: list[Figure] = []
        for name in sorted(self.runs, key=lambda name: (name[:2], "headrace" not in name)):
            way = next(way for way in sorted(self.keeps, key=len, reverse=True) if way in name)
            if way in self.failed:
                continue
            work, percentile = name[:2], name.rpartition(", ")[2]
            unit = {"W1": "events/s", "W2": "workflows/s", "W3": "ms"}[work]
            ours = OURS.get(work, f"W3, headrace, fsynced, {percentile}")
            reference = "" if "headrace" in name else ours
            row = Row(name, unit, reference, note=f"keeps {self.keeps[way]}")
            found.append(figure(row, self.runs[name], self.paired(reference, name)))
        return found + self.verdicts()

    def paired(self, reference: str, name: str) -> list[float] | None:
        """Return the runs of *reference*, if there are as many as of *name*."""
        runs = self.runs.get(reference, [])
        return runs if len(runs) == len(self.runs[name]) else None

    def verdicts(self) -> list[Figure]:
        """Return what the bars are about."""
        kept = [
            name
            for name, runs in self.runs.items()
            if name.startswith("W1") and "headrace" not in name
            and self.keeps.get(name, NOTHING) != NOTHING and name not in self.failed and runs
        ]  # fmt: skip
        best = max(
            kept, key=lambda name: sorted(self.runs[name])[len(self.runs[name]) // 2], default=""
        )
        asked: list[tuple[str, str, Bar]] = [
            ("W1, headrace, fsynced", best, at_least(30, "ratio")),
            ("W1, headrace, flushed", "W1, bytewax, batch 1", at_least(1, "ratio")),
            ("W2, headrace, fsynced", "W2, DBOS, SQLite WAL", at_least(200, "ratio")),
        ]
        return [
            figure(Row(name, "", reference, bar), self.runs[name], self.paired(reference, name))
            for name, reference, bar in asked
            if name in self.runs and self.runs.get(reference)
        ]


def show(lines: list[Figure], failed: Mapping[str, str]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="headrace and its peers, in one run", title_justify="left", box=None)
    for heading in (
        "work and system",
        "value",
        "range",
        "unit",
        "keeps",
        "headrace",
        "headrace ÷ it",
    ):
        right = heading in ("value", "range", "headrace", "headrace ÷ it")
        table.add_column(heading, justify="right" if right else "left")
    for line in lines:
        if line.met is None:
            table.add_row(
                line.name, shown(line.value), f"{shown(line.low)} – {shown(line.high)}", line.unit,
                line.note.removeprefix("keeps "), shown(line.reference_value),
                shown(1 / line.ratio) if line.ratio else "",
            )  # fmt: skip
    console = Console()
    (console if console.is_terminal else Console(width=180)).print(table, highlight=False)
    for name, why in failed.items():
        print(f"{name}: {why}")
    for line in lines:
        if line.met is not None:
            verdict = "met" if line.met else "short"
            print(f"{line.name} is {shown(line.ratio)} × {line.reference}; {line.bar}: {verdict}")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="PEER", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--repeat", type=int, default=REPEAT, metavar="N", help="runs of each")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works")
    parser.add_argument(
        "--keep", action="store_true", help="keep the environments for the next run"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="where the rows are written")
    options = parser.parse_args()
    for name in options.names:
        if name not in PEERS:
            parser.error(f"{name!r}: expected one of {', '.join(PEERS)}")
    if options.repeat < 1:
        parser.error(f"--repeat: expected at least 1, found {options.repeat}")
    about, start = machine(), time.monotonic()
    found = Comparison()
    measure(found, options)
    lines = found.lines()
    about.took_s = round(time.monotonic() - start, 1)
    show(lines, found.failed)
    for name, why in found.failed.items():
        lines.append(Figure(name=name, value=0, low=0, high=0, unit="", runs=[], note=why))
    for line in lines:
        line.group = "peers"
    path: Path = options.json or results_path("peers", about)
    write(Report(about, lines), path)
    print(f"all of it is in {path}")


def measure(found: Comparison, options: argparse.Namespace) -> None:
    """Go all ways in turn, as often as asked for."""
    sys.path.insert(0, str(HERE / "peers"))
    peers: dict[str, tuple[Path, str, str, int]] = {}
    for name in options.names or PEERS:
        module = importlib.import_module(PEERS[name])
        try:
            python = installed(name, module.PACKAGES)
        except PeerFailed as failure:
            found.failed[name] = str(failure)
            continue
        for way, (_, keeps, count) in module.WAYS.items():
            found.keeps[way] = keeps
            peers[way] = (python, PEERS[name], way, min(count, 20) if options.quick else count)
    with scratch() as folder:
        for _ in range(options.repeat):
            for way, run in our_ways(folder, quick=options.quick).items():
                found.take(way, run)
            for way, arguments in peers.items():
                found.take(way, partial(go, *arguments))
    progress("")
    if not options.keep:
        shutil.rmtree(VENVS, ignore_errors=True)


if __name__ == "__main__":
    main()
