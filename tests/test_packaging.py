"""What is installed from the index is what was tested here.

The project is copied before it is built: setuptools writes next to its sources.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
INSTALLED_BYTES_MAX = 30 * 1000 * 1000

IMPORT_ALL = """
import importlib, importlib.resources, json, pkgutil, sys
import headrace
names = ["headrace"]
def refuse(name):
    raise
for module in pkgutil.walk_packages(headrace.__path__, "headrace.", refuse):
    if not module.name.endswith("__main__") and module.name != "headrace.pytest_plugin":
        names.append(module.name)
        importlib.import_module(module.name)
data = importlib.resources.files("headrace") / "demo_data"
print(json.dumps({
    "version": headrace.__version__,
    "names": names,
    "data": sorted(file.name for file in data.iterdir()),
    "places": sorted({str(module.__file__) for name, module in sys.modules.items()
                      if name.partition(".")[0] in ("headrace", "engine", "triggers")}),
}))
"""


def run(*command: str | Path, cwd: Path) -> str:
    """What *command* prints; its errors are shown if it fails."""
    # Not this environment's packages, options and hash seed: a stranger has none of them.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ran = subprocess.run(
        [*command], cwd=cwd, env=clean, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, f"{ran.args}\n{ran.stdout[-4000:]}\n{ran.stderr[-4000:]}"
    return ran.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("build")
    project = folder / "project"
    # Links stay links: that they survive the way into the sdist is what is tested.
    shutil.copytree(
        ROOT,
        project,
        symlinks=True,
        ignore=shutil.ignore_patterns(
            ".*", "build", "dist", "*.egg-info", "__pycache__", "plant.log", "demo.log", "tests"
        ),
    )
    run(sys.executable, "-m", "build", "--outdir", folder / "dist", cwd=project)
    return folder / "dist"


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of a clean environment in which only the wheel was installed."""
    folder = tmp_path_factory.mktemp("clean")
    python = folder / "bin/python"
    # With this environment's pip: to put one into the other takes longer than all the rest.
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    (wheel,) = built.glob("*.whl")
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    run(*pip, "install", wheel, cwd=folder)
    return python


def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    """A module named `engine` at the top of a wheel would shadow one of the host's."""
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()

    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"headrace"}
    assert {
        "headrace/py.typed",
        "headrace/engine/kernel.py",
        "headrace/triggers/pattern.py",
        "headrace/connectors/__init__.py",
        "headrace/demo_data/machine_temperature_system_failure.csv.gz",
        "headrace/demo_data/LICENSE-NAB.txt",
        "headrace/timeline_page/page.html",
        "headrace/timeline_page/page.js",
    } <= set(names)
    assert [name for name in names if name.endswith("/licenses/LICENSE")]
    assert [name for name in names if "__pycache__" in name] == []


def test_the_sdist_holds_what_the_wheel_holds(built: Path) -> None:
    """Whoever builds from the source package gets every file, and files instead of links."""
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        packed = {
            member.name.partition("/src/")[2]
            for member in archive.getmembers()
            if member.isfile() or member.islnk()
        }
    wanted = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}

    assert wanted - packed == set()


def test_every_module_imports_without_extras(installed: Path, tmp_path: Path) -> None:
    """No module needs at import time what only an extra installs."""
    found = json.loads(run(installed, "-c", IMPORT_ALL, cwd=tmp_path))

    sources = {
        "headrace." + ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for folder in ("engine", "triggers", "connectors")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {name.removesuffix(".__init__") for name in sources} <= set(found["names"])
    assert "machine_temperature_system_failure.csv.gz" in found["data"]
    assert all(str(installed.parent.parent) in place for place in found["places"])


def test_the_version_is_said_once(installed: Path, tmp_path: Path) -> None:
    """What `headrace.__version__` says is what pip installed."""
    program = (
        "import headrace, importlib.metadata as metadata;"
        "print(headrace.__version__, metadata.version('headrace'))"
    )
    said, recorded = run(installed, "-c", program, cwd=tmp_path).split()

    assert said == recorded


def test_the_command_line_starts(installed: Path, tmp_path: Path) -> None:
    """After `pip install headrace` there is a command that explains itself."""
    shown = run(installed.with_name("headrace"), "--help", cwd=tmp_path)

    assert "Usage" in shown
    assert "demo" in shown


def test_the_core_is_small(installed: Path) -> None:
    """The core with all that it needs, compiled, takes 30 MB at most beside Python."""
    (packages,) = installed.parents[1].glob("lib/python*/site-packages")
    bytes_by_package = {
        entry.name: sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())
        if entry.is_dir()
        else entry.stat().st_size
        for entry in packages.iterdir()
        # What every environment has.
        if entry.name.partition("-")[0] not in ("pip", "setuptools", "pkg_resources")
        and entry.name not in ("_distutils_hack", "distutils-precedence.pth")
    }
    largest = sorted(bytes_by_package.items(), key=lambda item: -item[1])
    total = sum(bytes_by_package.values())
    print(f"installed: {total / 1e6:.1f} MB", largest[:12])

    assert total <= INSTALLED_BYTES_MAX, largest
