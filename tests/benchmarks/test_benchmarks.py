"""Each benchmark runs, in a tiny size, and says what it is for: its figures are not looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SECONDS_MAX = 120

BARRED = {
    "w1_throughput": {
        ("W1 fsynced", "bare loop"),
        ("W1 fsynced", "plain asyncio"),
        ("W1 fsynced, 100 rules, 3 keep 10 %", "bare loop"),
    },
    "w2_workflow": {("W2 fsynced", "bare loop")},
    "w3_latency": {
        ("W3 fsynced, p50", "W3 fsynced, fdatasync p50"),
        ("W3 fsynced, p99", "W3 fsynced, fdatasync p99"),
        ("W3 memory, p50", "W3 memory, plain asyncio p50"),
        ("W3 memory, p99", "W3 memory, plain asyncio p99"),
    },
    "log": set(),
    "triggers": set(),
    "tasks": set(),
    "replay": {
        ("replay through the rule of W1", "read and decoded"),
        ("log size, W1, groups of 1 000", "payload of W1"),
    },
    "whatif": {
        ("replay, records/s", ""),
        ("whatif, the same rules, records/s", "replay, records/s"),
        ("whatif, the same rules, MiB", ""),
    },
    "looking": {
        ("state --at in 1 000 000 events, slowest place", ""),
        ("why in 1 000 000 events, slowest place", ""),
    },
    "import_cost": {
        ("import headrace", "import asyncio, anyio, msgspec"),
        ("resident, import headrace", "resident, import asyncio, anyio, msgspec"),
        ("headrace --help", "python alone"),
    },
    "pending": {
        ("pending runs, first run after", ""),
        ("pending runs, drained", "pending runs, steady"),
        ("pending runs, resident, peak", ""),
    },
    "connectors": {
        ("JetStream source into a fsynced log", "bare nats-py, pull by callback"),
        ("MQTT source, QoS 1 into a fsynced log", "bare paho client, QoS 1"),
        ("webhook, signed, fsynced log", "bare Starlette app"),
    },
    "growth": set(),
    "soak": {
        ("soak, resident slope", ""),
        ("soak, p99, worst window", "soak, p99, median window"),
    },
}
"""The figures of each script that are to reach something, and what they are compared with."""


def ran(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a script as the Makefile does, in a *folder* that it may fill."""
    return subprocess.run(
        [sys.executable, *command],
        check=False, cwd=folder, capture_output=True, text=True, timeout=SECONDS_MAX,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", BARRED)
def test_a_script_measures_what_it_says(name: str, tmp_path: Path) -> None:
    """Whoever runs one gets each figure once, with its reference and its bar, and no debris."""
    rows = tmp_path / "rows.json"
    done = ran(tmp_path, f"{BENCHMARKS / name}.py", "--quick", "--repeat", "1", "--json", str(rows))

    assert done.returncode == 0, done.stderr[-2000:]
    lines: list[dict[str, Any]] = json.loads(rows.read_text())
    pairs = [(line["name"], line.get("reference", "")) for line in lines]
    assert len(pairs) == len(set(pairs))
    for line in lines:
        assert line["name"] in done.stdout
        assert line["low"] <= line["value"] <= line["high"]
        assert line["unit"]
        assert line["value"] > 0 or line["unit"] in ("bytes", "ms CPU", "µs", "MB/min"), line
        if line.get("reference"):
            assert line["ratio"] == pytest.approx(line["value"] / line["reference_value"])
    barred = {pair for pair, line in zip(pairs, lines, strict=True) if line.get("met") is not None}
    assert barred >= BARRED[name]
    assert list(tmp_path.iterdir()) == [rows]


@pytest.mark.slow
def test_all_of_them_make_one_file(tmp_path: Path) -> None:
    """`make bench` leaves one file, from which one can tell what it was measured with."""
    path = tmp_path / "bench.json"
    names = ("replay", "w3")
    done = ran(
        tmp_path,
        str(BENCHMARKS / "run.py"),
        "--quick",
        "--repeat",
        "1",
        "--json",
        str(path),
        *names,
    )

    assert done.returncode == 0, done.stderr[-2000:]
    assert str(path) in done.stdout
    report = json.loads(path.read_text())
    about = report["machine"]
    assert about["python"] == sys.version.split()[0]
    assert about["cpu"]
    assert about["date"].startswith("20")
    assert about["cores"] >= 1
    groups = list(dict.fromkeys(line["group"].partition(":")[0] for line in report["figures"]))
    assert groups == ["replay and log size", "W3"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run.py", "w9"), "'w9': expected one of w1, w2"),
        (("replay.py", "--repeat", "0"), "--repeat: expected at least 1, found 0"),
        (("replay.py", "--only", "zebra"), "--only: expected a part of one of"),
    ],
)
def test_a_wrong_argument_is_named(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    """What is mistyped measures nothing, and says what was expected."""
    script, *rest = arguments
    done = ran(tmp_path, str(BENCHMARKS / script), *rest)

    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout == ""
