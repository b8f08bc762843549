"""docs/connectors/write-your-own.md tells the truth: the example is a source whose tests pass."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conformance import line_queue

from headrace.testing.source_contract import SourceContract, SourceHarness

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "connectors" / "write-your-own.md"
FILE = re.compile(r"<!-- file: (\S+)\.py -->\n```python\n(.*?)```", re.DOTALL)
LINES_MAX = 40


def files() -> dict[str, str]:
    return dict(FILE.findall(PAGE.read_text()))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The files of the page, imported in their order."""
    folder = tmp_path_factory.mktemp("page")
    sys.modules["line_queue"] = line_queue
    made: dict[str, Any] = {}
    for name, text in files().items():
        (folder / f"{name}.py").write_text(text)
        spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        made[name] = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(made[name])
    yield made
    for name in ("line_queue", *made):
        del sys.modules[name]


class TestTheExample(SourceContract):
    @pytest.fixture
    def harness(self, page: dict[str, Any]) -> Iterator[SourceHarness]:
        yield from page["test_lines"].TestLines.harness.__wrapped__(self)


def test_the_example_is_short() -> None:
    """A connector is something to write in an afternoon."""
    lines = [line for line in files()["lines"].splitlines() if line.strip()]
    assert len(lines) <= LINES_MAX
