"""What a test needs and a machine may lack: programs, such as servers.

A test that needs one is skipped where it is missing, with a message that says what to install.
On the machine that checks everything none may be missing: the environment variable
``HEADRACE_NEEDS`` names them (separated by commas), and such a test fails.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

NEEDED = "HEADRACE_NEEDS"
OUT_OF_THE_WAY = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
VERSIONED = ("/usr/lib/postgresql",)
"""Folders of servers that are not in everybody's PATH; Debian keeps some by version."""


def program(*names: str, package: str, need: str = "") -> Path:
    """Return where the first of *names* is that there is; without one the test is skipped.

    *package* is what to install on Debian, such as ``postgresql`` for ``initdb``.  *need* is
    how ``HEADRACE_NEEDS`` calls it, such as ``postgres``, by default the first name.
    """
    places = os.pathsep.join([os.environ.get("PATH", ""), *OUT_OF_THE_WAY, *_versions()])
    found = next((path for name in names if (path := shutil.which(name, path=places))), None)
    if found is None:
        missing(need or names[0], f"looked for {', '.join(names)}", package)
    return Path(found)


def _versions() -> list[str]:
    """Return the folders of programs that are kept by version, the newest first."""
    found = [path for folder in VERSIONED for path in Path(folder).glob("*/bin")]
    return [str(path) for path in sorted(found, key=_version, reverse=True)]


def _version(path: Path) -> float:
    try:
        return float(path.parent.name)
    except ValueError:
        return 0


def missing(need: str, looked: str, package: str) -> NoReturn:
    """Skip the test that runs, since *need* is not there, or fail it if it may not be missing."""
    reason = f"no {need} found ({looked}); on Debian: apt install {package}"
    if need in os.environ.get(NEEDED, "").replace(" ", "").split(","):
        pytest.fail(reason)
    pytest.skip(reason)
