"""The pages about rules tell the truth: their code runs, and prints and fires what they show.

A ``text`` block behind a ``python`` block is what that prints.  A table of patterns says when
each fires, in the words of the page's own ``fires``.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import pytest

import headrace
from headrace import App, Engine, Firing, MemoryLog, Run, on
from headrace.testing import VirtualClock, firings
from headrace.triggers.pattern import Pattern
from headrace.triggers.steps import Group, Step

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("rules.md", "patterns.md", "sequences.md", "changing-rules.md")
BLOCK = re.compile(
    r"(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL
)
ROW = re.compile(r"^\| `(?P<pattern>[^`|\n]+)` \| (?P<played>[^`|\n]+) \| (?P<fires>[^`|\n]+) \|$")
FUNCTIONS = (
    *("on", "any_of", "all_of", "absent", "silent", "sequence", "step", "not_", "group"),
    *("field", "queue", "fire_within"),
)
HEADS = ("| pattern | timeline | fires |", "| pattern | names | fires |")
LINK = re.compile(r"\]\((?P<file>[^)#:\s]*)(?:#(?P<anchor>[^)\s]+))?\)")


@cache
def text_of(page: str) -> str:
    return (DOCS / page).read_text()


def tables(text: str) -> Iterator[list[str]]:
    """The tables of *text*, each as its lines."""
    for part in text.split("\n\n"):
        lines = part.strip().splitlines()
        if lines and all(line.startswith("|") for line in lines):
            yield lines


class Reader:
    """Somebody who types a page along, from its beginning to its end."""

    def __init__(self, folder: Path) -> None:
        self.names: dict[str, Any] = {}
        self.blocks = 0
        self._folder = folder

    def type_in(self, code: str) -> str:
        """Execute *code*, with a file that its functions can be found in; return what it prints."""
        self.blocks += 1
        path = self._folder / f"typed_{self.blocks}.py"
        path.write_text(code)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, path, "exec"), self.names)
        return printed.getvalue()

    def fires(self, pattern: str, played: str) -> str:
        """What the page's own function says of a row of a table."""
        said: str = self.names["fires"](eval(pattern, self.names), played)
        return said or "–"


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """A reader with a folder for the files that a page lets one write."""
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Reader(tmp_path)
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def read_along(reader: Reader, page: str, folder: Path) -> int:
    """Type in all blocks of *page*, compare what they print; return how many printed."""
    shown = 0
    printed: str | None = None
    for block in BLOCK.finditer(text_of(page)):
        if block["file"]:
            (folder / block["file"]).write_text(block["text"])
        elif block["kind"] == "python":
            assert not printed, f"{page}: nothing is shown of what is printed: {printed}"
            printed = reader.type_in(block["text"])
        elif block["kind"] == "text":
            assert block["text"] == printed, page
            printed = None
            shown += 1
    assert not printed, f"{page}: nothing is shown of what is printed: {printed}"
    return shown


@pytest.mark.parametrize(
    ("page", "shown_min"),
    [("rules.md", 2), ("patterns.md", 10), ("sequences.md", 4), ("changing-rules.md", 4)],
    ids=PAGES,
)
def test_a_page_can_be_typed_along(
    reader: Reader, tmp_path: Path, page: str, shown_min: int
) -> None:
    """Each example works where it stands, and prints what is shown behind it."""
    assert read_along(reader, page, tmp_path) >= shown_min


@pytest.mark.parametrize(
    ("page", "rows_min"), [("patterns.md", 40), ("sequences.md", 30)], ids=PAGES[1:3]
)
def test_a_table_says_when_patterns_fire(
    reader: Reader, tmp_path: Path, page: str, rows_min: int
) -> None:
    """Whoever looks something up at night looks into a table."""
    read_along(reader, page, tmp_path)
    rows = 0
    for head, _, *lines in tables(text_of(page)):
        if head not in HEADS:
            continue
        for line in lines:
            row = ROW.fullmatch(line)
            assert row, f"{page}: {line}"
            assert reader.fires(row["pattern"], row["played"]) == row["fires"], line
            rows += 1
    assert rows >= rows_min


# ---------------------------------------------------------------- run modes


def mode_rows() -> list[tuple[str, list[tuple[int, int]]]]:
    """Of docs/rules.md: which firings run to the end, and when."""
    (lines,) = (lines for lines in tables(text_of("rules.md")) if "run to the end" in lines[0])
    rows = []
    for line in lines[2:]:
        mode, ended = line.strip("| ").split(" | ")
        pairs = [pair.split(" at ") for pair in ended.split(", ")]
        rows.append((mode.strip("`"), [(int(which), int(when)) for which, when in pairs]))
    return rows


@pytest.mark.parametrize(("mode", "expected"), mode_rows(), ids=lambda given: str(given)[:8])
def test_the_table_of_run_modes(mode: str, expected: list[tuple[int, int]]) -> None:
    """Five firings a second apart, runs of ten seconds: which of them are carried out, and when."""
    app, ended = App("modes"), list[tuple[int, int]]()
    choice: Any = eval(mode, {"queue": headrace.queue}) if "(" in mode else mode

    @app.rule(on("a"), mode=choice)
    async def work(run: Run, firing: Firing[int]) -> None:
        await run.sleep(10)
        ended.append((firing.events[0].data, round(run.now())))

    async def play() -> None:
        clock = VirtualClock(wall_ns=0)
        async with app.open(MemoryLog(), clock=clock) as engine:
            for number in range(1, 6):
                await engine.emit("a", number)
                await clock.advance(1)
            await clock.advance(100)

    anyio.run(play)
    assert ended == expected


# ---------------------------------------------------------------- nothing is left out


def operators() -> dict[str, Callable[..., Any]]:
    """What users write patterns with, by name."""
    functions = {name: getattr(headrace, name) for name in FUNCTIONS}
    methods = {
        f"{kind.__name__}.{name}": function
        for kind in (Pattern, Step, Group)
        for name, function in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }
    ways = {
        f"App.{name}": getattr(App, name) for name in ("rule", "every", "cron", "at", "backfill")
    }
    ours = ("add_rule", "remove_rule", "pause", "resume", "alarms", "acknowledge")
    return {
        **functions,
        **methods,
        **ways,
        **{f"Engine.{name}": getattr(Engine, name) for name in ours},
        "firings": firings,
    }


@pytest.mark.parametrize("name", operators())
def test_everything_is_on_a_page(name: str) -> None:
    """An operator or an option that is not described might as well not be there."""
    words = set(re.findall(r"\w+", "".join(text_of(page) for page in PAGES)))
    plain = {"self", "function", "pattern", "patterns", "members", "steps", "name", "condition"}
    parameters = set(inspect.signature(operators()[name]).parameters) - plain

    assert name.rpartition(".")[2] in words
    assert parameters - words - {"type", "m", "fold"} == set()


def test_every_field_of_a_firing_is_in_the_table() -> None:
    """What a rule's function gets is looked up there."""
    table = text_of("rules.md").partition("## What the function gets")[2].partition("\n## ")[0]
    named = set(re.findall(r"`\.(\w+)`", table))
    properties = {name for name, _ in inspect.getmembers(Firing, lambda m: isinstance(m, property))}

    assert {*Firing.__struct_fields__, *properties} == named - {"aggregate"}


# ---------------------------------------------------------------- links


def anchors_of(text: str) -> set[str]:
    """The anchors that the headings of a page have where it is shown."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_the_links_of_a_page_lead_somewhere(page: str) -> None:
    """A reader who follows a link comes to the words that it promises."""
    for link in LINK.finditer(text_of(page)):
        target = DOCS / (link["file"] or page)
        assert target.exists(), link[0]
        if link["anchor"]:
            assert link["anchor"] in anchors_of(target.read_text()), link[0]
