"""A log says the same to whoever asks: whatever the hash seed, time zone or Python is.

The log has firings by event and by timer, keys, a failing run with retries, chained rules,
and two starts.  Each way is a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.cli.command import PLANT, Call, lines_of

ROOT = Path(__file__).parents[2]
OTHER_PYTHON = "HEADRACE_PYTHON_3_13"
"""Names a Python 3.13 that has what headrace depends on; without, one is looked for."""
MORE_RULES = """

from headrace import any_of, sequence, silent

readings = on("plant.*.temperature", Reading).key(lambda e: e.tokens[1])


@app.rule(silent(readings, for_=25))
async def quiet(run: Run, firing: Firing[Reading]) -> None:
    await run.emit(f"quiet.{firing.key}", {"names": sorted({"a", "b", firing.key})})


@app.rule(readings.debounce(quiet=15, max_wait=60))
async def calm(run: Run, firing: Firing[Reading]) -> None: ...


@app.rule(readings.tumbling(120).aggregate(lambda events: max(e.data.degrees for e in events)))
async def peak(run: Run, firing: Firing[Reading]) -> None: ...


@app.rule(any_of(on("run.failed.page"), on("fans.*.start"), on("quiet.*")).count(2, within=600))
async def busy(run: Run, firing: Firing[dict]) -> None: ...


@app.cron("*/1 * * * *", tz="Europe/Berlin")
async def minute(run: Run) -> None: ...
"""
WAYS: dict[str, dict[str, str]] = {
    "the same once more": {},
    "hash seed 0": {"PYTHONHASHSEED": "0"},
    "hash seed 1": {"PYTHONHASHSEED": "1"},
    "random hash seed": {"PYTHONHASHSEED": "random"},
    "another time zone": {"TZ": "Asia/Kathmandu"},
    "another language": {"LC_ALL": "C"},
}


@pytest.fixture
def asked(headrace: Call, tmp_path: Path) -> Path:
    """A folder with an app, a changed one, and the log of two lives of the first."""
    (tmp_path / "plant.py").write_text(PLANT + MORE_RULES)
    changed = (PLANT + MORE_RULES).replace("> 90", "> 70").replace("for_=25", "for_=40")
    changed = changed.replace("quiet=15", "quiet=9").replace("tumbling(120)", "tumbling(60)")
    (tmp_path / "changed.py").write_text(changed)
    degrees = [float(20 + 37 * n % 83) for n in range(60)]
    half = lines_of(degrees, every_s=7.0)
    other = lines_of(degrees[::-1], sensor="t2", every_s=11.0)
    both = sorted((half + other).splitlines(), key=lambda line: json.loads(line)["time"])
    for number, lines in enumerate((both[:70], both[70:])):
        (tmp_path / f"{number}.jsonl").write_text("\n".join(lines) + "\n")
        run = ("run", "plant.py", "--log", "plant.log", "--from", f"{number}.jsonl")
        assert headrace(*run, "--clock", "input").code == 0
    return tmp_path


def answers(folder: Path, python: str, env: dict[str, str]) -> tuple[Any, Any]:
    """What `replay` and `whatif` say in a process of *python*."""
    there = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1", **env}
    call = [python, "-c", "import sys; from headrace.cli import main; sys.exit(main())"]
    said = []
    for command, app, code in (("replay", "plant.py", 0), ("whatif", "changed.py", 3)):
        done = subprocess.run(
            [*call, command, app, "plant.log", "-o", "json"],
            check=False, cwd=folder, env=there, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        said.append(json.loads(done.stdout))
    return said[0], said[1]


@pytest.mark.slow
def test_a_log_says_the_same_to_every_process(asked: Path) -> None:
    """The digest of the whole state, the digest of all firings, and each difference."""
    replayed, supposed = answers(asked, sys.executable, {})
    assert replayed["firings"] > 30
    assert len({one["what"] for one in supposed["differences"]}) >= 3
    for way, env in WAYS.items():
        assert answers(asked, sys.executable, env) == (replayed, supposed), way


@pytest.mark.slow
def test_a_log_says_the_same_to_another_python(asked: Path) -> None:
    """A log from a server with one Python can be asked on a laptop with another."""
    python = other_python()
    if python is None:
        pytest.skip(f"no Python 3.13 with what headrace needs was found; {OTHER_PYTHON} names one")

    assert answers(asked, python, {}) == answers(asked, sys.executable, {})


def other_python() -> str | None:
    """Return a Python 3.13 that can import headrace."""
    named = os.environ.get(OTHER_PYTHON) or shutil.which("python3.13")
    if named is None:
        return None
    program = "import sys, headrace.cli.replaying; sys.exit(sys.version_info[:2] != (3, 13))"
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    tried = subprocess.run([named, "-c", program], check=False, env=env, capture_output=True)
    return named if tried.returncode == 0 else None
