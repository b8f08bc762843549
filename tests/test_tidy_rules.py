"""The rules of `test_tidy.py` find what they are there to find."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def load_tidy() -> ModuleType:
    # Tests are not a package: the file next to this one is loaded by its path.
    spec = importlib.util.spec_from_file_location("tidy", Path(__file__).with_name("test_tidy.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tidy = load_tidy()


def faults(path: str, text: str) -> list[str]:
    source = tidy.Source(path, text)
    return [fault for rule in tidy.RULES for fault in rule(source)]


HEAD = "from __future__ import annotations\n"


@pytest.mark.parametrize(
    ("path", "text", "fault"),
    [
        ("engine/a.py", "import headrace.triggers.rule", "engine must not import headrace.trigg"),
        ("engine/a.py", "from headrace import App", "engine must not import headrace; invert"),
        ("engine/a.py", "def f():\n    from headrace.triggers import x", "engine must not import"),
        ("triggers/a.py", "from headrace.connectors import x", "triggers must not import"),
        ("connectors/a.py", "from headrace.triggers import x", "connectors must not import"),
        ("engine/a.py", "import time\ntime.monotonic()", "time.monotonic breaks replay"),
        ("engine/a.py", "from time import time_ns", "from time import time_ns breaks replay"),
        ("engine/a.py", "import datetime\ndatetime.datetime.now()", "datetime.now breaks replay"),
        ("triggers/a.py", "import random\nrandom.random()", "random.random breaks replay"),
        ("triggers/a.py", "import random\nrandom.choice([1])", "random.choice breaks replay"),
        ("triggers/a.py", "from random import randint", "from random import randint breaks"),
        ("triggers/a.py", "import uuid\nuuid.uuid4()", "uuid.uuid4 breaks replay"),
        ("engine/a.py", "try:\n    f()\nexcept Exception:\n    g()", "except Exception hides"),
        ("engine/a.py", "try:\n    f()\nexcept:\n    g()", "except everything hides"),
        ("engine/a.py", "try:\n    f()\nexcept (A, BaseException):\n    g()", "except BaseExcep"),
        ("engine/a.py", "x = 1\n" * 501, "lines, at most 500"),
        ("engine/a.py", "def f():\n" + "    x = 1\n" * 60, "f: 61 lines, at most 60"),
        ("tests/a.py", "def test_x():\n    f()", "test_x has no docstring"),
        ("engine/a.py", "class RunManager:\n    pass", "RunManager says nothing"),
    ],
)
def test_a_fault_is_found(path: str, text: str, fault: str) -> None:
    """A rule that never complains would be no rule."""
    (found,) = faults(path, HEAD + text)

    assert fault in found
    assert found.startswith(f"{path}:")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("engine/a.py", "from headrace.engine.event import Event"),
        ("triggers/a.py", "from headrace.engine.event import Event"),
        ("src/headrace/app.py", "from headrace.triggers import x\nfrom headrace.engine import y"),
        ("tests/a.py", "import time\ntime.monotonic()"),
        ("engine/clock.py", "import time\ntime.monotonic()"),
        ("engine/a.py", "import random\nr = random.Random(7)\nr.random()"),
        ("engine/a.py", "try:\n    f()\nexcept BaseException:\n    g()\n    raise"),
        ("engine/a.py", "try:\n    f()\nexcept (OSError, msgspec.DecodeError):\n    g()"),
        ("engine/a.py", "def f():\n" + "    x = 1\n" * 59),
    ],
)
def test_good_code_passes(path: str, text: str) -> None:
    """A rule that complains of what is right would be switched off."""
    assert faults(path, HEAD + text) == []


def test_annotations_must_be_lazy() -> None:
    """A file that does something says how its annotations are meant."""
    assert faults("engine/a.py", '"""Only a docstring."""\n') == []
    assert faults("engine/a.py", "from x import y\n") == []
    assert "annotations is missing" in faults("engine/a.py", "x: int = 1\n")[0]


def test_a_cycle_is_found_and_named() -> None:
    """The message shows the way round, not only that there is one."""
    assert tidy.cycle_in({"a": {"b"}, "b": {"c", "d"}, "d": {"b"}}) == ["b", "d", "b"]
    assert tidy.cycle_in({"a": {"b", "c"}, "b": {"c"}}) == []
