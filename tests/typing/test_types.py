from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "tests" / "typing" / name for name in ("accepted.py", "refused.py")]

pytestmark = pytest.mark.slow


def test_mypy_infers_what_users_write_and_finds_their_mistakes() -> None:
    """What a condition sees, what a step returns, and that a decorated task stays what it is.

    In `refused.py` each ignored error must be there: strict mypy complains of one that is not.
    """
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", *FILES],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )

    assert (ran.stdout, ran.returncode) == ("", 0), ran.stdout + ran.stderr


def test_pyright_infers_what_users_write_and_finds_their_mistakes(tmp_path: Path) -> None:
    """The same for the checker of most editors; its list of errors in `refused.py` is complete."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pyright"]
    options |= {
        "include": [os.path.relpath(file, tmp_path) for file in FILES],
        "exclude": [],
        "extraPaths": [os.path.relpath(ROOT / "src", tmp_path)],
        "venvPath": str(Path(sys.prefix).parent),
        "venv": Path(sys.prefix).name,
        "enableTypeIgnoreComments": False,
    }
    project = tmp_path / "pyrightconfig.json"
    project.write_text(json.dumps(options))
    ran = subprocess.run(
        [sys.executable, "-m", "pyright", "--project", project, "--outputjson"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    found = json.loads(ran.stdout)["generalDiagnostics"]

    errors = [(Path(x["file"]).name, x["range"]["start"]["line"] + 1, x["message"]) for x in found]
    assert [error for error in errors if error[0] != "refused.py"] == []
    refused = FILES[1].read_text().splitlines()
    ignored = {n for n, line in enumerate(refused, 1) if "# type: ignore" in line}
    assert {line for _, line, _ in errors} == ignored
