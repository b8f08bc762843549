"""The configurations on the pages on connectors can be used as they stand."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest
from tests.connectors import package

from headrace.config import read_config
from headrace.connectors.registry import connector

DOCS = Path(__file__).parents[2] / "docs" / "connectors"
README = DOCS.parents[1] / "README.md"
TOML = re.compile(r"```toml\n(.*?)```", re.DOTALL)
VARIABLE = re.compile(r"\$\{(\w+)\}")
VALUES = {
    "REDIS_URL": "redis://localhost",
    "MQTT_URL": "mqtt://localhost",
    "NATS_URL": "nats://localhost",
    "POSTGRES_URL": "postgresql://localhost/db",
    "DATABASE_URL": "postgresql://localhost/db",
}
OWN = "write-your-own"
ROW = re.compile(r"^\| `([a-z-]+)` \| (`[a-z_]+\.[A-Z].*) \|$", re.MULTILINE)


def configurations() -> list[tuple[str, str]]:
    """Return each block of a page that is a configuration, with the page's name."""
    return [
        (page.stem, text)
        for page in [README, *sorted(DOCS.glob("*.md"))]
        for text in TOML.findall(page.read_text())
        if {"sources", "sinks"} & tomllib.loads(text).keys()
    ]


@pytest.mark.parametrize(("page", "text"), configurations(), ids=lambda value: value[:12])
def test_each_configuration_can_be_used(
    page: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Types, settings and values are what the connectors take."""
    if page == OWN:
        points = tomllib.loads(TOML.findall((DOCS / f"{OWN}.md").read_text())[0])
        own = points["project"]["entry-points"]["headrace.connectors"]
        code = re.findall(r"```python\n(.*?)```", (DOCS / f"{OWN}.md").read_text(), re.DOTALL)[0]
        package.install(tmp_path, own, code)
        (tmp_path / "lines.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "lines", raising=False)
    file = tmp_path / "headrace.toml"
    file.write_text(text)
    environ = {name: VALUES.get(name, "a-value") for name in VARIABLE.findall(text)}

    config = read_config(file, environ)

    said = tomllib.loads(text)
    assert list(config.sources) == list(said.get("sources", {}))
    assert list(config.sinks) == list(said.get("sinks", {}))
    assert len(config.forwards) == len(said.get("forward", []))


def test_pages_have_configurations() -> None:
    """What finds them finds them."""
    assert {"config", OWN} <= {page for page, _ in configurations()}


@pytest.mark.slow
def test_the_list_of_connectors_is_whole() -> None:
    """Each that is announced is a row, with its class and what it promises."""
    announced = tomllib.loads((DOCS.parents[1] / "pyproject.toml").read_text())["project"]
    points: dict[str, str] = announced["entry-points"]["headrace.connectors"]
    rows = dict(ROW.findall((DOCS / "README.md").read_text()))

    assert list(rows) == sorted(points, key=lambda name: (name.endswith("-sink"), name))
    for name, place in points.items():
        module, _, own = place.removeprefix("headrace.connectors.").partition(":")
        assert f"`{module}.{own}`" in rows[name]
        promise = getattr(connector(name), "promise", None)
        assert not isinstance(promise, str) or promise in rows[name]


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_links_lead_to_pages(page: Path) -> None:
    """Also from one folder of pages to another."""
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
