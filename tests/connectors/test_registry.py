"""Connectors by name: ours, and those of packages that others have made."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from typing import Any

import pytest
from tests.connectors import package

from headrace.connectors import registry
from headrace.connectors.memory import Memory
from headrace.connectors.registry import ConnectorBroken, ConnectorUnknown, connector, listed

pytestmark = pytest.mark.slow

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
OWN: dict[str, str] = tomllib.loads(PYPROJECT.read_text())["project"]["entry-points"][
    "headrace.connectors"
]

Install = Callable[[dict[str, str], str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Give a function that installs a package: entry points, and the code of its module."""

    def installed(points: dict[str, str], code: str) -> None:
        package.install(tmp_path, points, code)
        monkeypatch.syspath_prepend(tmp_path)

    return installed


@pytest.mark.parametrize("name", OWN)
def test_each_of_ours_is_installed_and_resolves(name: str) -> None:
    """Its library need not be there: it is imported when the connector is used."""
    found = connector(name)

    module, _, attribute = OWN[name].partition(":")
    assert (found.__module__, found.__name__) == (module, attribute)
    assert registry.kind_of(found) == ("sink" if name.endswith("-sink") else "source")


def test_all_that_are_shipped_are_announced() -> None:
    """A class that is a source or a sink and has no name could not stand in a file."""
    folder = PYPROJECT.parent / "connectors"
    made: set[str] = set()
    for path in folder.glob("*.py"):
        module = __import__(f"headrace.connectors.{path.stem}", fromlist=["*"])
        made |= {
            f"{module.__name__}:{name}"
            for name, value in vars(module).items()
            if registry.kind_of(value) is not None
            and value.__module__ == module.__name__
            and hasattr(value, "promise" if hasattr(value, "run") else "message_of")
            and not getattr(value, "_is_protocol", False)
            and not name.startswith("_")
        }

    assert sorted(made - set(OWN.values())) == []


def test_all_packages_are_looked_at_once_to_list_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment has hundreds of packages: once for each connector took seconds."""
    looks: list[str] = []

    def counted(*, group: str) -> EntryPoints:
        looks.append(group)
        return entry_points(group=group)

    monkeypatch.setattr(registry, "entry_points", counted)
    rows = listed()

    assert {row.type for row in rows} >= set(OWN)
    assert looks == ["headrace.connectors"]


def test_connector_of_another_package_is_found_by_its_name(install: Install) -> None:
    """It is listed with its package, and what it is."""
    install(
        {"mill": "mill_connectors:Mill"},
        "class Mill:\n    promise = 'at most once'\n    async def run(self, intake): ...\n",
    )
    assert connector("mill").__name__ == "Mill"
    (row,) = [row for row in listed() if row.type == "mill"]
    assert (row.kind, row.package, row.promise) == ("source", "mill-connectors", "at most once")


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("raise RuntimeError('no mill here')", "found RuntimeError: no mill here"),
        ("import no_such_library", "found ModuleNotFoundError: No module named 'no_such_library'"),
        ("Mill = 1", "expected a class with `run` or `send`, found 1"),
        ("class Mill: ...", "expected a class with `run` or `send`, found <class"),
        ("", "found AttributeError"),
    ],
)
def test_broken_connector_is_listed_and_breaks_no_other(
    install: Install, code: str, found: str
) -> None:
    """What somebody has installed must not end what does not use it."""
    install({"mill": "mill_connectors:Mill"}, code)
    with pytest.raises(ConnectorBroken, match=found) as error:
        connector("mill")
    assert "mill-connectors" in str(error.value)
    rows = {row.type: row for row in listed()}
    assert rows["mill"].kind is None
    assert found in rows["mill"].error
    assert rows["memory"].kind == "source"


def test_name_that_nobody_has_is_refused_with_those_that_there_are() -> None:
    """A slip of the pen is shown as one."""
    with pytest.raises(ConnectorUnknown, match=r"memory-sink.*, found 'memry'; did you mean 'mem"):
        connector("memry")


def test_our_own_name_is_not_taken_by_another(install: Install) -> None:
    """What is installed beside does not change what a file means."""
    install({"memory": "mill_connectors:Mill"}, "class Mill:\n    async def run(self, _): ...\n")
    found: Any = connector("memory")
    assert found is Memory
