"""Rules of the code base that a person would otherwise have to remember.

Each rule is a function from a parsed file to its faults, so that the rules themselves can
be tested (`tests/test_tidy_rules.py`); here they are applied to every file there is.
"""

from __future__ import annotations

import ast
import gc
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILE_LINES_MAX = 500
TEST_LINES_MAX = 700  # each test is read alone
FUNCTION_LINES_MAX = 60

MAY_IMPORT = {
    "engine": ("engine",),
    "triggers": ("triggers", "engine"),
    "connectors": ("connectors", "engine"),
}
"""The folders that each folder may import from.  The facade may import from all."""

CLOCKS_AND_CHANCE = {
    **dict.fromkeys(
        ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns"),
        ("time",),
    ),
    **dict.fromkeys(("process_time", "process_time_ns", "localtime", "gmtime"), ("time",)),
    **dict.fromkeys(("now", "utcnow", "today"), ("datetime", "date")),
    **dict.fromkeys(("uuid1", "uuid4"), ("uuid",)),
    **dict.fromkeys(("urandom", "getrandom"), ("os",)),
}
"""Functions that read a clock or draw lots, and what they are an attribute of."""

MAY_READ_CLOCK = {
    "engine/clock.py": "it is the clock",
    "engine/log/file.py": "a log's id is drawn once, when it is made, and stored",
    "engine/log/memory.py": "as engine/log/file.py",
    "src/headrace/cli/": "progress and rates on a screen are not replayed",
    "src/headrace/demo/": "the demo prints how long it took",
}
MAY_EXCEPT_BROADLY = {
    "connectors/payloads.py": "a user's parser that raises is a message that is no event",
    "connectors/registry.py": "importing what others have installed executes it: it is listed so",
    "engine/attempt.py": "the run boundary: whatever a user's task raises becomes a record",
    "engine/replay/code.py": "the run boundary, where code is replayed",
    "engine/process_worker.py": "the run boundary, in a worker process",
    "engine/process_errors.py": "what a user's exception is made of and says is user code too",
    "engine/stopwatch.py": "what a task's first step raises comes out where it is awaited",
    "engine/threads.py": "the run boundary, in a thread: it is raised in the loop",
    "engine/control.py": "others register commands: one that fails does not end the engine",
    "triggers/entry.py": "as triggers/stage.py, written out where most events end",
    "triggers/hit.py": "the text of a user's exception is user code too",
    "triggers/ruleset.py": "a type's __post_init__ that raises is a recorded RuleMismatch",
    "triggers/stage.py": "a user's condition or key function that raises is a recorded RuleError",
    "triggers/stages.py": "as triggers/stage.py, for what folds the events of a window",
    "src/headrace/cli/doctor_links.py": "what anybody's connector raises is what was found",
    "src/headrace/cli/apps.py": "importing an app executes it: whatever it raises becomes one line",
}
"""Files at the boundary to foreign code, and why an exception of any kind ends there."""

HEAVY = {"cyclopts", "httpx2", "nats", "rich", "starlette", "structlog", "tenacity", "uvloop"}
BANNED_IN_NAMES = ("manager", "helper", "util")


class Source:
    """One file and its syntax tree."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.text = text
        self.tree = ast.parse(text, path)
        self.nodes = list(ast.walk(self.tree))
        self.folder = path.partition("/")[0]
        self.is_product = self.folder in ("engine", "triggers", "connectors", "src")
        parts = path.removeprefix("src/headrace/").removesuffix(".py").split("/")
        self.is_package = parts[-1] == "__init__"
        self.module = ".".join(["headrace", *(parts[:-1] if self.is_package else parts)])

    def at(self, node: ast.AST, fault: str) -> str:
        return f"{self.path}:{getattr(node, 'lineno', 1)}: {fault}"


def imports_of(source: Source) -> Iterator[tuple[ast.AST, str]]:
    """Everything of ours that *source* imports, wherever in the file it does so."""
    for node in source.nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "headrace":
                yield node, name


def wrong_directions(source: Source) -> Iterator[str]:
    """Facade → connectors, triggers → engine; never upwards, never sideways."""
    allowed = MAY_IMPORT.get(source.folder)
    if allowed is None:
        return
    for node, name in imports_of(source):
        parts = name.split(".")
        folder = parts[1] if len(parts) > 1 and parts[1] in MAY_IMPORT else "__init__"
        if folder not in allowed:
            target = "headrace" if folder == "__init__" else f"headrace.{folder}"
            yield source.at(
                node, f"{source.folder} must not import {target}; invert with a Protocol"
            )


def clock_reads(source: Source) -> Iterator[str]:
    """Time and chance come in through arguments: what reads them cannot be replayed."""
    if not source.is_product or source.path.startswith(tuple(MAY_READ_CLOCK)):
        return
    for node in source.nodes:
        if isinstance(node, ast.Attribute):
            owner = node.value
            name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            if name in CLOCKS_AND_CHANCE.get(node.attr, ()) or (
                name == "random" and node.attr not in ("Random", "random")
            ):
                yield source.at(node, f"{name}.{node.attr} breaks replay; take it from the clock")
            elif name == "secrets" or (name == "random" and node.attr == "random"):
                yield source.at(node, f"{name}.{node.attr} breaks replay; take a seeded Random")
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                owners = CLOCKS_AND_CHANCE.get(alias.name, ())
                if node.module in owners or (node.module == "random" and alias.name != "Random"):
                    yield source.at(node, f"from {node.module} import {alias.name} breaks replay")


def catches_all(source: Source) -> Iterator[tuple[ast.AST, str]]:
    """The handlers that end an exception of any kind."""
    for node in source.nodes:
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        names = {"everything" if c is None else ast.unparse(c) for c in caught}
        last = node.body[-1]
        passes_on = isinstance(last, ast.Raise) and last.exc is None
        for name in sorted(names & {"Exception", "BaseException", "everything"}):
            if not passes_on:
                yield node, name


def broad_excepts(source: Source) -> Iterator[str]:
    """Only a boundary to foreign code may end an exception of which it knows nothing."""
    if source.is_product and source.path not in MAY_EXCEPT_BROADLY:
        for node, name in catches_all(source):
            yield source.at(node, f"except {name} hides our own bugs; name what the world does")


def long_parts(source: Source) -> Iterator[str]:
    """A file is read in one go, a function is seen on one screen."""
    lines = source.text.count("\n")
    lines_max = TEST_LINES_MAX if source.path.startswith("tests/") else FILE_LINES_MAX
    if lines > lines_max:
        yield f"{source.path}:1: {lines} lines, at most {lines_max}; split it by subject"
    for node in source.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield source.at(node, f"{node.name}: {lines} lines, at most {FUNCTION_LINES_MAX}")


def claimless_tests(source: Source) -> Iterator[str]:
    """A test says in its docstring why somebody cares."""
    if source.folder != "tests":
        return
    for node in source.nodes:
        if (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and node.name.startswith("test_")
            and not ast.get_docstring(node)
        ):
            yield source.at(node, f"{node.name} has no docstring; say what it claims")


def vague_names(source: Source) -> Iterator[str]:
    """A name says what a thing is for."""
    for node in source.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            words = node.name.lower()
            if any(banned in words for banned in BANNED_IN_NAMES):
                yield source.at(node, f"{node.name} says nothing; name what it does")


def eager_annotations(source: Source) -> Iterator[str]:
    """Annotations cost nothing at import time and may name what comes later."""
    annotated = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.AnnAssign)
    needs_it = any(isinstance(node, annotated) for node in source.nodes)
    if needs_it and "from __future__ import annotations" not in source.text:
        yield f"{source.path}:1: from __future__ import annotations is missing"


RULES: list[Callable[[Source], Iterator[str]]] = [
    wrong_directions,
    clock_reads,
    broad_excepts,
    long_parts,
    claimless_tests,
    vague_names,
    eager_annotations,
]


@cache
def sources() -> list[Source]:
    """Every Python file of the project; the links in src/headrace are not followed."""
    folders = (*MAY_IMPORT, "src/headrace", "tests", "benchmarks", "examples")
    links = {ROOT / "src/headrace" / folder for folder in MAY_IMPORT}
    gc.disable()  # a million nodes, which stay: looking for cycles would take half of the time
    found = [
        Source(str(path.relative_to(ROOT)), path.read_text())
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
        if links.isdisjoint(path.parents) and "/." not in str(path.relative_to(ROOT))
    ]
    gc.freeze()
    gc.enable()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_file_keeps(rule: Callable[[Source], Iterator[str]]) -> None:
    """What CONTRIBUTING.md asks for holds in every file, not only in those reviewed."""
    faults = [fault for source in sources() for fault in rule(source)]

    assert faults == [], "\n" + "\n".join(faults)


@pytest.mark.slow
def test_exemptions_are_needed() -> None:
    """A file that no longer catches everything loses the right to."""
    catching = {source.path for source in sources() if any(catches_all(source))}

    assert [path for path in MAY_EXCEPT_BROADLY if path not in catching] == []


def cycle_in(edges: dict[str, set[str]]) -> list[str]:
    """The modules of one cycle in the order in which they import each other, or nothing."""
    finished: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in finished:
            return []
        for target in sorted(edges.get(module, ())):
            if found := visit(target, [*path, module]):
                return found
        finished.add(module)
        return []

    for module in sorted(edges):
        if found := visit(module, []):
            return found
    return []


@pytest.mark.slow
def test_there_are_no_import_cycles() -> None:
    """Each module can be read, and tested, after those that it imports.

    Imports inside functions and under TYPE_CHECKING count: a cycle is one of thought.
    """
    modules = {source.module for source in sources() if source.is_product}
    edges: dict[str, set[str]] = {}
    for source in sources():
        if source.is_product:
            for _, name in imports_of(source):
                target = name if name in modules else name.rpartition(".")[0]
                edges.setdefault(source.module, set()).add(target)

    assert cycle_in(edges) == []


@pytest.mark.slow
def test_every_folder_of_modules_is_a_package() -> None:
    """A folder without __init__.py would be left out of the wheel."""
    folders = {Path(source.path).parent for source in sources() if source.is_product}

    assert [f for f in sorted(folders) if not (ROOT / f / "__init__.py").is_file()] == []


def test_importing_headrace_loads_nothing_heavy() -> None:
    """A host pays for structlog, tenacity, nats and rich only if it uses them."""
    program = """
import asyncio, json, sys
import anyio, msgspec
before = set(sys.modules)
import headrace, headrace.engine, headrace.triggers
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT / "src",
    )
    loaded: list[str] = json.loads(ran.stdout)

    assert [name for name in loaded if name.partition(".")[0] in HEAVY] == []
