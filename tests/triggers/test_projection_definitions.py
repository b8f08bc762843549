"""What is refused of a projection when it is declared, and what its fingerprint covers."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import pytest
from msgspec import Struct

from headrace import App, Event, any_of, field, on, silent
from headrace.triggers.fold import STATE_BYTES_MAX


class State(Struct):
    count: int = 0


class Plain:
    """Nothing that msgspec knows."""


def good(state: State, event: Event[Any]) -> State:
    """What all others are compared with."""
    state.count += 1
    return state


def no_type(state, event):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    return state


def returns_none(state: State, event: Event[Any]) -> None:
    pass


def unresolved(state: State, event: Event[Any]) -> Unknown:  # type: ignore[name-defined]  # noqa: F821
    pass


def custom(state: Plain, event: Event[Any]) -> Plain:
    return state


def takes_one(event: Event[Any]) -> State:
    return State()


async def waits(state: State, event: Event[Any]) -> State:
    return state


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (no_type, "expected the type of the state behind ->"),
        (returns_none, "expected the type of the state behind ->"),
        (unresolved, "an annotation cannot be resolved: name 'Unknown' is not defined"),
        (custom, "expected a state that msgspec encodes, found Plain; make it a msgspec.Struct"),
        (takes_one, "expected a function of a state and an event, found takes_one(event"),
        (waits, "expected an ordinary function, found an async one"),
        (3, "expected a function of a state and an event, found 3"),
        (max, "wrap it in a function of a state and an event"),
    ],
)
def test_a_function_that_cannot_fold_is_refused(function: Any, said: str) -> None:
    """By name, with what was expected and what was found."""
    app = App("t")
    with pytest.raises(TypeError) as refused:
        app.projection(on("a"), name="p")(function)
    assert str(refused.value).startswith("projection 'p': ")
    assert said in str(refused.value)
    assert app.projections == {}


@pytest.mark.parametrize(
    ("pattern", "options", "error", "said"),
    [
        ("a.b", {}, TypeError, "expected a pattern such as on('a.b'), found 'a.b'"),
        (on("a").count(3, within=5), {}, TypeError, "on('a').count(3, within=5): expected nothing"),
        (any_of(on("a"), silent(on("b"), for_=5)), {}, TypeError, "silent("),
        (on("a").event_time(lambda e: 1, lateness=1), {}, TypeError, "expected nothing but on(…)"),
        (on("a").where(lambda e, m: True), {}, ValueError, "takes two arguments"),
        (on("a").key(field("k")), {"key": field("k")}, ValueError, "found key= and .key(…)"),
        (on("a"), {"keys_max": 5}, ValueError, "keys_max=5: expected key=, too"),
        (on("a"), {"key": 3}, TypeError, "key(3)"),
        (on("a"), {"key": field("k"), "keys_max": 0}, ValueError, "keys_max=0"),
        (on("a"), {"initial": 3}, TypeError, "initial=3: expected State, which the function"),
        (on("a"), {"initial": State(Plain())}, TypeError, "expected State"),  # type: ignore[arg-type]
        (on("a"), {"name": "a.b"}, ValueError, "projection name 'a.b': expected 1 to 64 letters"),
    ],
)
def test_what_cannot_work_is_refused(
    pattern: Any, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    """When it is written, and in one line."""
    with pytest.raises(error) as refused:
        App("t").projection(pattern, **options)(good)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_initial_state_that_is_too_large_is_refused() -> None:
    """No event could be folded into it."""

    def text(state: str, event: Event[Any]) -> str:
        return state

    with pytest.raises(ValueError, match=f"at most {STATE_BYTES_MAX} bytes, found"):
        App("t").projection(on("a"), initial="x" * STATE_BYTES_MAX)(text)


def test_a_name_is_taken_once() -> None:
    """But a rule may have the same one."""
    app = App("t")
    app.projection(on("a"), initial=State())(good)
    app.rule(on("a"), name="good")(lambda: None)
    with pytest.raises(ValueError, match="projection 'good' is declared twice"):
        app.projection(on("b"), initial=State())(good)
    assert set(app.decider().fingerprints()) == {"good", "projection.good"}


def test_functions_of_all_kinds_fold() -> None:
    """Partial ones, objects that can be called, and those of any type of state."""

    def sized(size: int, state: dict[str, int], event: Event[Any]) -> dict[str, int]:
        return {**state, "n": size}

    class Adder:
        def __call__(self, state: int | str, event: Event[Any]) -> int | str:
            return 1

    app = App("t")
    app.projection(on("a"), initial=dict[str, int](), name="sized", version="1")(partial(sized, 3))
    zero = cast("int | str", 0)
    app.projection(on("a"), initial=zero, name="added", version="1")(Adder())
    kinds = {
        name: (rule.pattern.node.type, rule.pattern.node.forgets)  # type: ignore[attr-defined]
        for name, rule in app.projections.items()
    }
    assert kinds == {"sized": (dict[str, int], False), "added": (int | str, False)}


def fingerprint_of(function: Any = good, subject: str = "a", **options: Any) -> str:
    """The fingerprint of the only projection of an app."""
    app = App("t")
    options = {"initial": State(), "name": "p", **options}
    app.projection(on(subject), **options)(function)
    return app.projections["p"].fingerprint()


def changed(state: State, event: Event[Any]) -> State:
    """As `good`, but for what it does."""
    state.count += 2
    return state


def renamed(s: State, e: Event[Any]) -> State:
    """As `good`, but for names and comments."""
    s.count += 1  # as there
    return s


def test_the_fingerprint_is_of_all_that_it_does() -> None:
    """Layout and names are not in it (law L8)."""
    same = fingerprint_of()
    assert fingerprint_of(renamed) == same
    others = [
        fingerprint_of(changed),
        fingerprint_of(subject="b"),
        fingerprint_of(initial=State(1)),
        fingerprint_of(key=lambda e: e.key),
        fingerprint_of(key=lambda e: e.key, keys_max=7),
        fingerprint_of(version="1"),
        fingerprint_of(version="2"),
    ]
    assert len({same, *others}) == len(others) + 1
