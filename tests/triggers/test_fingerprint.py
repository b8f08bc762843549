from __future__ import annotations

import builtins
import enum
import functools
import linecache
import math
import operator
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.triggers.fingerprint import fingerprint, globals_read

LIMIT = 90


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Range(msgspec.Struct, frozen=True):
    low: float
    high: float
    test: Callable[[Any], bool] | None = None

    def __call__(self, event: Any) -> bool:
        return bool(self.low < event.data < self.high)


@dataclass
class Limits:
    low: float


def returns(value: Any) -> Callable[[Any], Any]:
    return lambda e: value


def digest_of(folder: Path, text: str, name: str = "f") -> str:
    """Digest what *name* is in a file of its own with the content *text*."""
    path = folder / "plant.py"
    path.write_text(text)
    linecache.clearcache()  # files of the same size are written within one tick here
    module: dict[str, Any] = {"__name__": "plant", "__builtins__": builtins}
    exec(compile(text, str(path), "exec"), module)
    return fingerprint(module[name])


SAME = [
    ("f = lambda e: e.data > 9", "f = lambda e: (\n    e.data  # hot\n    > 9\n)"),
    ("f = lambda e: e.data > 9", "\n\n# moved\nf=lambda   event:event.data>9"),
    ("f = lambda e: 'x' in e", 'f = lambda e: "x" in e'),
    ("def f(e): return e > 9", 'def f(event):\n    """Say why."""\n    return event > 9'),
    ("def f(e): return e > 9", "def f(e: int) -> bool: return e > 9"),
    ("def f(e):\n    x: int = 9\n    return e > x", "def f(e):\n    x = 9\n    return e > x"),
    ("def f(e): return e > 9", "def hot(e): return e > 9\nf = hot"),
    ("f = lambda e: [x for x in e]", "f = lambda d: [x for x in d]"),
    ("f = lambda e: (lambda e: e)(e)", "f = lambda a: (lambda a: a)(a)"),
    ("f = lambda e, *a, **k: (e, a, k)", "f = lambda e, *args, **kw: (e, args, kw)"),
]
DIFFERENT = [
    ("f = lambda e: e.data > 9", "f = lambda e: e.data > 10"),
    ("f = lambda e: e.data > 9", "f = lambda e: e.data > 9.0"),
    ("f = lambda e: e.data > 9", "f = lambda e: e.data >= 9"),
    ("f = lambda e: e.data > 9", "f = lambda e: e.time > 9"),
    ("f = lambda e: e == '1'", "f = lambda e: e == b'1'"),
    ("f = lambda e: True", "f = lambda e: None"),
    ("f = lambda a, b: a - b", "f = lambda a, b: b - a"),
    ("f = lambda e, n=1: n", "f = lambda e, n=2: n"),
    ("f = lambda e, *, n=1: n", "f = lambda e, *, n=2: n"),
    ("f = lambda e: g(e)", "f = lambda e: h(e)"),
    ("f = lambda e: e(e=1)", "f = lambda d: d(e=1)"),
    ("f = lambda e: locals()['e']", "f = lambda d: locals()['e']"),
    ("def f(e): return e", "async def f(e): return e"),
    ("def f(e):\n    'a'\n    return 'a'", "def f(e):\n    'a'\n    return 'b'"),
    (
        "def f(e):\n    def g(x): return x\n    return g(e)",
        "def f(e):\n    def g(x): return e\n    return g(e)",
    ),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_layout_and_names_of_parameters_do_not_count(tmp_path: Path, one: str, other: str) -> None:
    """A rule keeps its state when its code is only tidied up."""
    assert digest_of(tmp_path, one) == digest_of(tmp_path, other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_what_a_function_says_counts(tmp_path: Path, one: str, other: str) -> None:
    """A rule whose condition says something else does not go on with old state."""
    assert digest_of(tmp_path, one) != digest_of(tmp_path, other)


def test_lambdas_on_one_line_are_told_apart() -> None:
    """Rules are written as chains: several lambdas on one line are the usual case."""
    first, second, third = (lambda e: e > 1), (lambda e: e > 2), (lambda e: e > 1)

    assert fingerprint(first) != fingerprint(second)
    assert fingerprint(first) == fingerprint(third)


def test_a_lambda_in_a_lambda_is_told_apart() -> None:
    """The inner function is not taken for the outer one, nor the other way round."""
    outer: Callable[[Any], Callable[[Any], Any]] = lambda e: lambda d: e  # noqa: E731
    inner = outer(1)
    alone = lambda e: 1  # noqa: E731
    default = lambda e, g=(lambda e: 1): g(e)  # noqa: E731

    assert fingerprint(outer) != fingerprint(inner)
    assert default.__defaults__ is not None
    assert fingerprint(default.__defaults__[0]) == fingerprint(alone)
    assert fingerprint(default) != fingerprint(alone)


def test_a_lambda_in_a_decorators_argument_is_found() -> None:
    """`@app.rule(on(…).where(lambda e: …))` has its lambda above the function's own line."""
    kept: list[Callable[[Any], bool]] = []

    def keep(*functions: Callable[[Any], bool]) -> Callable[[Callable[..., Any]], Any]:
        kept.extend(functions)
        return lambda function: function

    @keep(
        lambda e: e > 1,
        lambda e: e > 2,
    )
    @keep(lambda e: e > 1)
    def f(e: int) -> bool:
        return e > 1

    def g(e: int) -> bool:
        return e > 1

    digests = [fingerprint(function) for function in kept]
    assert digests[0] == digests[2]
    assert digests[0] != digests[1]
    assert fingerprint(f) == fingerprint(g)


def test_a_nested_function_counts_with_what_it_closes_over() -> None:
    """`above(90)` and `above(95)` are two rules though they share one source."""

    def above(limit: float) -> Callable[[Any], bool]:
        def test(event: Any) -> bool:
            return bool(event.data > limit)

        return test

    def both(*tests: Callable[[Any], bool]) -> Callable[[Any], bool]:
        return lambda e: all(test(e) for test in tests)

    assert fingerprint(above(90)) == fingerprint(above(90))
    assert fingerprint(above(90)) != fingerprint(above(95))
    assert fingerprint(both(above(1), above(2))) == fingerprint(both(above(1), above(2)))
    assert fingerprint(both(above(1), above(2))) != fingerprint(both(above(1), above(3)))


def test_a_function_that_calls_itself_is_digested() -> None:
    """A recursive function holds itself in a cell."""

    def depth(limit: int) -> Callable[[Any], int]:
        def count(event: Any) -> int:
            return 0 if event is None else min(limit, 1 + count(event.parent))

        return count

    assert fingerprint(depth(1)) == fingerprint(depth(1))
    assert fingerprint(depth(1)) != fingerprint(depth(2))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        (1, True),
        (1, 1.0),
        ("1", b"1"),
        (None, 0),
        (2**70, 2**71),
        ([1, 2], [2, 1]),
        ({"a": 1}, {"a": 2}),
        ({1: "a"}, {"1": "a"}),
        ({1, 2}, {1, 3}),
        (Colour.RED, Colour.BLUE),
        (Range(1, 2), Range(1, 3)),
        (Limits(1), Limits(2)),
        (int, str),
        (math, operator),
        (math.sqrt, math.floor),
        ("a".startswith, "b".startswith),
        (str.startswith, str.endswith),
        (operator.itemgetter("a"), operator.itemgetter("b")),
        (operator.attrgetter("a"), operator.itemgetter("a")),
        (functools.partial(returns, 1), functools.partial(returns, 2)),
        (Range(1, 2).__call__, Range(1, 3).__call__),
        (Range(1, 2, lambda e: e > 1), Range(1, 2, lambda e: e > 2)),
        (msgspec.Raw(b"1"), msgspec.Raw(b"2")),
    ],
)
def test_values_count_wherever_they_stand(one: object, other: object) -> None:
    """Data counts alike as a parameter and in a closure, with its type."""
    assert fingerprint(one) == fingerprint(one)
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(returns(one)) == fingerprint(returns(one))
    assert fingerprint(returns(one)) != fingerprint(returns(other))


json_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.slow
@given(json_data, json_data)
def test_data_is_the_same_exactly_if_it_reads_the_same(one: object, other: object) -> None:
    """Parameters of any shape are told apart, and the order of a dict does not count."""

    def ordered(data: Any) -> Any:
        if isinstance(data, dict):
            return {key: ordered(data[key]) for key in sorted(data)}
        return [ordered(item) for item in data] if isinstance(data, list) else data

    same = ascii(ordered(one)) == ascii(ordered(other))
    assert (fingerprint(one) == fingerprint(other)) == same
    assert fingerprint(one) == fingerprint(ordered(one))


def test_parts_are_kept_apart() -> None:
    """What stands in one part cannot pass for what stands in two."""
    assert fingerprint("a", "b") != fingerprint("ab")
    assert fingerprint("a", "b") != fingerprint("b", "a")
    assert fingerprint(["a"], "b") != fingerprint("a", ["b"])
    assert fingerprint() != fingerprint(None)


def no_source() -> Callable[[Any], Any]:
    module: dict[str, Any] = {}
    exec("f = lambda e: e", module)
    function: Callable[[Any], Any] = module["f"]
    return function


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (no_source(), "no source file, only <string>"),
        (returns(object()), "object is no data"),
        (returns(no_source()), "no source file"),
        (returns(sys.stdout), "is no data"),
    ],
)
def test_what_cannot_be_digested_needs_a_version(
    function: Callable[[Any], Any], reason: str
) -> None:
    """Nobody learns from lost state that a rule could not be compared; it is said at once."""
    with pytest.raises(TypeError, match='give the rule version="1"') as caught:
        fingerprint("on", function)

    assert reason in str(caught.value)
    assert fingerprint("on", function, version="1") == fingerprint("on", function, version="1")


def test_a_version_stands_for_the_functions_alone() -> None:
    """With a version the code may change freely, but a window of another length is seen."""
    one = fingerprint("count", 3, returns(1), version="1")

    assert one == fingerprint("count", 3, returns(2), version="1")
    assert one != fingerprint("count", 3, returns(1), version="2")
    assert one != fingerprint("count", 4, returns(1), version="1")
    assert one != fingerprint("count", 3, returns(1))


def test_a_file_that_changed_meanwhile_is_noticed(tmp_path: Path) -> None:
    """A file that was edited after the import does not lend its new text to the old code."""
    path = tmp_path / "plant.py"
    path.write_text("f = lambda event: event > 1\n")
    module: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), module)
    path.write_text("import plant_of_tomorrow\n\nf = lambda event: event > 1\n")

    with pytest.raises(TypeError, match="is no longer that of the function"):
        fingerprint(module["f"])
    path.unlink()
    with pytest.raises(TypeError, match="cannot be read"):
        fingerprint(module["f"])
    path.write_text("f = lambda event: (")
    with pytest.raises(TypeError, match="is not Python"):
        fingerprint(module["f"])


PROGRAM = """
from headrace.triggers.fingerprint import fingerprint
def above(limits):
    return lambda e: e.data in limits and e.subject != "x"
names = {"a", "b", "c", "dd", "ee", "ff"}
def everything(e, *a: int, k=3, **q) -> int:
    "What the grammar has to offer, some of it seen differently by some versions."
    x: int = f"{e.x!r:>{k}} and {e['y']}" 'z' "é"
    try:
        match e:
            case {"a": [1, *rest], **others} if rest: return (y := -1)
            case Foo(a=1) | None: pass
    except* (A, B) as ex:
        with a as b, c: del b[1:2, ...]
    async def inner(z, /, w): return [i async for i in z if await i]
    class K(Base, metaclass=M):
        "Inside."
        a: int
    return lambda *, m: {**m, "k": {1, 2}, 3: (yield)}
print(fingerprint("on", "a.*", {"x": 1, "y": [2]}, above(names), lambda e: {"q", "r", "s"}))
print(fingerprint(everything))
"""
# The same under Python 3.11, 3.12 and 3.13.
KNOWN = ["8630fd51ddb1d7e843c2f1bb3e2b3f78", "c4a9d07cdf911ae26c66fbb8af005b4a"]


@pytest.mark.parametrize("options", [(), ("-X", "no_debug_ranges"), ("-O",)])
@pytest.mark.parametrize("seed", ["0", "1", "random"])
def test_a_fingerprint_is_the_same_in_every_process(
    tmp_path: Path, seed: str, options: tuple[str, ...]
) -> None:
    """A digest that changed by itself would make every rule of every log look changed."""
    script = tmp_path / "plant.py"
    script.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    ran = subprocess.run(
        [sys.executable, *options, str(script)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )

    assert ran.stdout.split() == KNOWN


def test_lambdas_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    """Without columns in the code, two lambdas on one line may only be equal ones."""
    script = tmp_path / "plant.py"
    script.write_text(
        "from headrace.triggers.fingerprint import fingerprint\n"
        "f, g = (lambda e: e > 1), (lambda e: e > 1)\n"
        "assert fingerprint(f) == fingerprint(g)\n"
        "f, g = (lambda e: e > 1), (lambda e: e > 2)\n"
        "fingerprint(f)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-X", "no_debug_ranges", str(script)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 1
    assert "plant.py:4, and no telling which it is" in ran.stderr


def test_globals_that_are_read_are_listed() -> None:
    """`check` can warn of what the fingerprint does not cover, and of nothing else."""

    def inner(event: Any) -> bool:
        return bool(event.data > LIMIT)

    assert globals_read(inner) == ["LIMIT"]
    assert globals_read(lambda e: inner(e)) == ["LIMIT"]  # noqa: PLW0108
    assert globals_read(lambda e: [Colour.RED for _ in range(LIMIT)]) == ["Colour", "LIMIT"]
    assert globals_read(functools.partial(inner)) == ["LIMIT"]
    assert globals_read(Range(1, 2).__call__) == []
    assert globals_read(lambda e: math.sqrt(len(e))) == []
    assert globals_read(lambda e: msgspec.json.encode(e)) == ["msgspec"]  # noqa: PLW0108
    assert globals_read(len) == []


def test_importing_it_costs_no_syntax_tree() -> None:
    """A host that never opens an engine does not pay for ast and dis."""
    program = (
        "import sys, anyio, msgspec, headrace; before = set(sys.modules);"
        "import headrace.triggers.fingerprint;"
        "print(*sorted({'ast', 'dis', 'headrace.triggers.source'} & (set(sys.modules) - before)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert ran.stdout.split() == []
