"""`field`: three-valued conditions against a plain evaluator, and what they say of themselves."""

from __future__ import annotations

import enum
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.shell import Shell, ns, rules

from headrace import App, Condition, Event, MemoryLog, field, on
from headrace.engine import record as r
from headrace.testing import firings
from headrace.triggers.fingerprint import fingerprint
from headrace.triggers.ruleset import Rule


class Place(msgspec.Struct):
    name: str
    floors: list[int] = []


class Reading(msgspec.Struct):
    celsius: float
    place: Place | None = None
    note: str | msgspec.UnsetType = msgspec.UNSET

    def fahrenheit(self) -> float:
        return self.celsius * 1.8 + 32


class Mode(enum.Enum):
    AUTO = "auto"
    OFF = 0


class Pair(NamedTuple):
    low: int
    high: int


@dataclass
class Door:
    is_open: bool


def event(data: Any) -> Event[Any]:
    return Event(1, "a", data, 0)


def again(condition: Condition) -> Condition:
    """What the text of *condition* makes."""
    made: Condition = eval(str(condition), {"field": field})
    return made


# ---------------------------------------------------------------- a plain evaluator

NAMES = ("a", "b", "items", "0", "class")
constants = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([-0.0, 0.5, 1.0, 2.5, math.inf, -math.inf]),
    st.sampled_from(["", "a", "ab", "1", "é'\"\n"]),
    st.sampled_from([b"", b"a"]),
    st.booleans(),
    st.none(),
)
values = st.one_of(constants, st.just(math.nan), st.just([1]), st.just({"a": 1}))
numbers = st.one_of(st.integers(-3, 3), st.sampled_from([0.5, 1.0, math.inf]))
texts = st.sampled_from(["", "a", "ab", "b"])
ordered = st.one_of(numbers, texts, st.sampled_from([b"", b"a"]))
datas = st.one_of(
    st.dictionaries(st.sampled_from(NAMES), st.one_of(values, st.just({"b": 2}))),
    st.lists(values, max_size=2),
    values,
)
paths = st.sampled_from(["a", "b", "items", "0", "class", "a.b", "a.0", "items.a", "-1", "."])

Said = tuple[Any, ...]
"""``(operator, path, operand …)`` or ``(operator, said …)``."""

leaves: st.SearchStrategy[Said] = st.one_of(
    st.tuples(st.sampled_from([">", ">=", "<", "<="]), paths, ordered),
    st.tuples(st.sampled_from(["==", "!="]), paths, constants),
    st.tuples(st.just("is_in"), paths, st.lists(constants, min_size=1, max_size=4)),
    st.tuples(st.just("matches"), paths, st.sampled_from(["a", "^b", "b$", ""])),
    st.tuples(st.just("exists"), paths),
    st.tuples(st.just("between"), paths, numbers, numbers).filter(lambda s: s[2] <= s[3]),
    st.tuples(st.just("between"), paths, texts, texts).filter(lambda s: s[2] <= s[3]),
)
sayings: st.SearchStrategy[Said] = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.tuples(st.just("~"), inner),
        st.tuples(st.sampled_from("&|"), inner, inner),
        st.tuples(st.sampled_from("&|"), inner, inner, inner),
    ),
    max_leaves=6,
)


def made(said: Said) -> Condition:
    """The condition that *said* describes, written with operators."""
    name, first, *rest = said
    if name == "~":
        return ~made(first)
    if name in "&|":
        condition = made(first)
        for other in rest:
            condition = condition & made(other) if name == "&" else condition | made(other)
        return condition
    place = field() if first == "." else field(first)
    if name in (">", ">=", "<", "<=", "==", "!="):
        written: Condition = eval(f"place {name} operand", {"place": place, "operand": rest[0]})
        return written
    asked: Condition = getattr(place, name)(*rest)
    return asked


GONE = object()


def found(data: Any, path: str) -> Any:
    for token in path.split(".") if path != "." else []:
        if isinstance(data, dict) and token in data:
            data = data[token]
        elif isinstance(data, list) and token == "0" and data:
            data = data[0]
        elif isinstance(data, list) and token == "-1" and data:
            data = data[-1]
        else:
            return GONE
    return data


def kind(value: Any) -> str:
    if value is None or isinstance(value, (bool, str, bytes, list, dict)):
        return type(value).__name__
    return "NaN" if math.isnan(value) else "number"


def verdict(said: Said, data: Any) -> bool | None:
    """What semantics says, in the plainest words: ``None`` is unknown."""
    name, first, *rest = said
    if name == "~":
        inner = verdict(first, data)
        return None if inner is None else not inner
    if name in "&|":
        inners = [verdict(said, data) for said in (first, *rest)]
        decisive: bool = name == "|"
        if decisive in inners:
            return decisive
        return None if None in inners else not decisive
    value = found(data, first)
    if name == "exists":
        return value is not GONE
    return None if value is GONE else compared(name, value, rest)


def compared(name: str, value: Any, rest: list[Any]) -> bool | None:
    if name in ("==", "!=", "is_in"):
        listed = rest[0] if name == "is_in" else rest
        equal = any(kind(value) == kind(other) and value == other for other in listed)
        return equal is not (name == "!=")
    if kind(value) != kind(rest[0]):
        return None
    if name == "matches":
        return re.search(rest[0], value) is not None
    if name == "between":
        return bool(rest[0] <= value <= rest[1])
    order: int = (value > rest[0]) - (value < rest[0])
    return {">": order > 0, ">=": order >= 0, "<": order < 0, "<=": order <= 0}[name]


@pytest.mark.slow
@settings(max_examples=500)
@given(sayings, datas)
def test_a_condition_is_what_a_plain_evaluator_makes_of_it(said: Said, data: Any) -> None:
    """Closures, quick paths and mixed kinds change no verdict, and nothing ever raises."""
    condition = made(said)

    assert condition.test(event(data)) is verdict(said, data)
    assert condition(event(data)) is (verdict(said, data) is True)


class Bag(msgspec.Struct):
    a: Any = msgspec.UNSET
    b: Any = msgspec.UNSET
    items: Any = msgspec.UNSET


@pytest.mark.slow
@settings(max_examples=500)
@given(sayings.filter(lambda said: "'.'" not in repr(said)), st.data())
def test_a_struct_is_read_as_the_dict_with_the_same_entries(
    said: Said, drawn: st.DataObject
) -> None:
    """Giving a rule's data a type changes no verdict."""
    entries = drawn.draw(st.dictionaries(st.sampled_from(["a", "b", "items"]), values))
    condition = made(said)

    assert condition.test(event(Bag(**entries))) is condition.test(event(entries))


@pytest.mark.slow
@settings(max_examples=500)
@given(sayings, datas)
def test_a_condition_prints_as_the_expression_that_makes_it(said: Said, data: Any) -> None:
    """What `check` prints can be pasted: it is the same condition with the same fingerprint."""
    condition = made(said)
    copy = again(condition)

    assert str(copy) == str(condition)
    assert copy == condition
    assert hash(copy) == hash(condition)
    assert fingerprint(copy) == fingerprint(condition)
    assert copy.test(event(data)) is condition.test(event(data))


@pytest.mark.slow
@settings(max_examples=500)
@given(sayings, sayings, datas)
def test_two_conditions_have_one_fingerprint_only_if_they_are_equal(
    one: Said, other: Said, data: Any
) -> None:
    """A rule keeps its state exactly if its condition still says the same."""
    first, second = made(one), made(other)

    assert (first == second) is (fingerprint(first) == fingerprint(second))


@pytest.mark.slow
@settings(max_examples=500)
@given(sayings, sayings, sayings, datas)
def test_the_laws_of_three_valued_logic_hold(x: Said, y: Said, z: Said, data: Any) -> None:
    """Conditions can be rewritten as in school, with missing fields too (Kleene)."""
    a, b, c, seen = made(x), made(y), made(z), event(data)

    def same(one: Condition, other: Condition) -> bool:
        return one.test(seen) is other.test(seen)

    assert same(~~a, a)
    assert same(a & b, b & a)
    assert same(a | b, b | a)
    assert same(a & (b & c), (a & b) & c)
    assert same(a | (b | c), (a | b) | c)
    assert same(~(a & b), ~a | ~b)
    assert same(~(a | b), ~a & ~b)
    assert same(a & (b | c), (a & b) | (a & c))
    assert same(a | (b & c), (a | b) & (a | c))
    assert same(a & a, a)
    assert same(a | a, a)
    assert same(a | (a & b), a)
    assert not (a(seen) and (~a)(seen))


@given(paths, ordered, constants, datas)
def test_a_comparison_is_the_negation_of_its_opposite(
    path: str, limit: Any, constant: Any, data: Any
) -> None:
    """`~(x > 90)` is `x <= 90`, also for what cannot be compared, NaN included."""
    place, seen = field() if path == "." else field(path), event(data)

    assert (~(place > limit)).test(seen) is (place <= limit).test(seen)
    assert (~(place < limit)).test(seen) is (place >= limit).test(seen)
    assert (~(place == constant)).test(seen) is (place != constant).test(seen)
    assert (place == constant).test(seen) is place.is_in([constant]).test(seen)


@pytest.mark.slow
@settings(max_examples=500)
@given(sayings, datas)
def test_an_explanation_agrees_with_the_verdict(said: Said, data: Any) -> None:
    """Each clause is as its own condition would be, and all together as the whole."""
    condition = made(said)
    told = condition.explain(event(data))

    words = {True: "yes", False: "no", None: "unknown"}
    assert told.verdict == words[condition.test(event(data))]
    single = [condition] if said[0] not in "&|~" else condition.leaves()
    assert len(told.clauses) == len(single)
    for clause, leaf in zip(told.clauses, single, strict=True):
        unknown = "missing" if clause.value is msgspec.UNSET else "mismatch"
        expected = leaf.test(event(data))
        assert clause.verdict == (unknown if expected is None else words[expected])
        assert str(clause) in str(told)


# ---------------------------------------------------------------- what it says

HOT = field("celsius") > 90
EXPLAINED: list[tuple[Condition, Any, str]] = [
    (HOT, {"celsius": 71.5}, "celsius = 71.5 > 90: no"),
    (HOT, Reading(93.5), "celsius = 93.5 > 90: yes"),
    (HOT, {}, "celsius > 90: missing"),
    (HOT, {"celsius": "hot"}, "celsius = 'hot' > 90: mismatch (expected a number, found str)"),
    (HOT, {"celsius": None}, "celsius = None > 90: mismatch (expected a number, found null)"),
    (HOT, {"celsius": True}, "celsius = True > 90: mismatch (expected a number, found bool)"),
    (HOT, {"celsius": math.nan}, "celsius = nan > 90: mismatch (expected a number, found NaN)"),
    (field("a.0").between(1, 2.5), {"a": [2]}, "a.0 = 2 between 1 and 2.5: yes"),
    (field("a").matches("^x"), {"a": 5}, "a = 5 matches '^x': mismatch (expected text, found int)"),
    (field("a").is_in(["x", 1]), {"a": "y"}, "a = 'y' is in ['x', 1]: no"),
    (field("a").exists(), {}, "a exists: no"),
    (field() >= 5, 6, "data = 6 >= 5: yes"),
    (
        ~HOT & (field("site") == "north"),
        {"site": "north"},
        """~(field('celsius') > 90) & (field('site') == 'north'): unknown
  celsius > 90: missing
  site = 'north' == 'north': yes""",
    ),
    (
        ~HOT,
        {"celsius": 90},
        "~(field('celsius') > 90): yes\n  celsius = 90 > 90: no",
    ),
]


@pytest.mark.parametrize(("condition", "data", "text"), EXPLAINED)
def test_an_explanation_names_the_value_and_the_verdict(
    condition: Condition, data: Any, text: str
) -> None:
    """One sees at once which clause it was, and why."""
    assert str(condition.explain(event(data))) == text


def test_an_explanation_of_a_huge_value_is_short() -> None:
    """One odd event does not fill the screen."""
    told = str((field("a") == "x").explain(event({"a": "y" * 1_000_000})))

    assert len(told) < 200


PRINTED = [
    (90 < field("a.b"), "field('a.b') > 90"),  # noqa: SIM300 (it is turned round)
    (HOT & (field("x").exists() | HOT), None),
    (
        HOT & HOT & HOT,
        "(field('celsius') > 90) & (field('celsius') > 90) & (field('celsius') > 90)",
    ),
    (~field("x").exists(), "~field('x').exists()"),
    (~~HOT, "~~(field('celsius') > 90)"),
    (~(HOT | HOT), "~((field('celsius') > 90) | (field('celsius') > 90))"),
    (field("x") < math.inf, "field('x') < float('inf')"),
    (field("x").is_in({"b", "a", "c"}), "field('x').is_in(['a', 'b', 'c'])"),
    (field("x") == Mode.AUTO, "field('x') == 'auto'"),
    (field(".") == 1, "field() == 1"),
]


@pytest.mark.parametrize(("condition", "text"), PRINTED)
def test_a_condition_prints_as_it_reads(condition: Condition, text: str | None) -> None:
    """With the parentheses that Python needs, and no others but for a mixture of & and |."""
    assert text is None or str(condition) == text
    assert again(condition) == condition


def test_check_and_repr_show_the_condition() -> None:
    """A pattern says which events it takes, which a lambda cannot."""
    assert repr(on("a").where(HOT).count(2, within=5)) == (
        "on('a').where(field('celsius') > 90).count(2, within=5)"
    )


# ---------------------------------------------------------------- where it looks

FOUND: list[tuple[str, Any, Any]] = [
    ("place.name", Reading(1, Place("hall")), "hall"),
    ("place.floors.-1", Reading(1, Place("hall", [1, 2])), 2),
    ("place", {"place": "dict"}, "dict"),
    ("keys", {"keys": "an entry"}, "an entry"),
    ("items.keys", {"items": {"keys": 1}}, 1),
    ("7", {7: "by number"}, "by number"),
    ("7", {"7": "by text", 7: "by number"}, "by text"),
    ("high", Pair(1, 2), 2),
    ("0", Pair(1, 2), 1),
    ("is_open", Door(is_open=True), True),
    ("at.hour", {"at": datetime(2026, 1, 1, 22, tzinfo=UTC)}, 22),
    ("a b-c", {"a b-c": 1}, 1),
    ("import", {"import": 1}, 1),
    ("é", {"é": 1}, 1),
    ("__type", {"__type": "x"}, "x"),
    ("m", {"m": Mode.AUTO}, "auto"),
    ("m", {"m": Mode.OFF}, 0),
    ("d", {"d": Decimal("1.5")}, 1.5),
]


@pytest.mark.parametrize(("path", "data", "value"), FOUND)
def test_a_path_goes_through_nested_data(path: str, data: Any, value: Any) -> None:
    """Entries, items, attributes and enums: typed or not, data is reached by the same path."""
    assert (field(path) == value).test(event(data)) is True
    assert (field(path) != value).test(event(data)) is False
    assert field(path).exists().test(event(data)) is True


ABSENT: list[tuple[str, Any]] = [
    ("keys", {}),
    ("celsius", None),
    ("real", 5),
    ("celsius.real", Reading(5)),
    ("fahrenheit", Reading(5)),
    ("note", Reading(5)),
    ("place.name", Reading(5)),
    ("2", [0, 1]),
    ("-3", [0, 1]),
    ("01", [0, 1]),
    ("x", [0, 1]),
    ("append", [0, 1]),
    ("__class__", Reading(5)),
    ("__struct_fields__", Reading(5)),
    ("a.b", {"a.b": 1}),
    ("²", [0, 1, 2]),
    ("9" * 5000, [0, 1]),
]


@pytest.mark.parametrize(("path", "data"), ABSENT)
def test_what_is_not_data_is_missing(path: str, data: Any) -> None:
    """Methods, built-in attributes, UNSET and what lies behind null: all the same unknown."""
    seen = event(data)

    assert field(path).exists().test(seen) is False
    for condition in (field(path) == 5, field(path) != 5, field(path) > 0, ~(field(path) > 0)):
        assert condition.test(seen) is None
        assert condition(seen) is False


def test_decimals_and_dates_are_compared_as_far_as_they_can_be() -> None:
    """What Python compares is compared; the rest is unknown, not an error."""
    assert HOT.test(event({"celsius": Decimal(91)})) is True
    for value in (Decimal("nan"), Decimal("snan"), datetime(2026, 1, 1, tzinfo=UTC), {1}, object()):
        assert HOT.test(event({"celsius": value})) is None
        assert (field("celsius") == 90).test(event({"celsius": value})) is False


KINDS: list[tuple[Condition, Any, bool | None]] = [
    (field() == 1, True, False),
    (field() != True, 1, True),  # noqa: E712
    (field().is_in([0, True]), 1, False),
    (field().is_in([0, True]), True, True),
    (field().is_in([1, False]), 0, False),
    (field().is_in([1, None]), None, True),
    (field("x").is_in([0, True]), {"x": 1}, False),
    (field("x").is_in([0, True]), {"x": 0.0}, True),
    (field("x").is_in([0, True]), {"x": False}, False),
    (field() > 0, True, None),
    (field() >= 0, Mode.OFF, True),
    (field().matches("^a"), Mode.AUTO, True),
    (field().matches("^a"), Mode.OFF, None),
    (field("x").between("a", "b"), {"x": Mode.AUTO}, True),
]


@pytest.mark.parametrize(("condition", "data", "verdict"), KINDS)
def test_a_bool_is_no_number_and_an_enum_is_what_is_stored_of_it(
    condition: Condition, data: Any, verdict: bool | None
) -> None:
    """Python has True equal to 1; in the data of a sensor they are not the same."""
    assert condition.test(event(data)) is verdict


# ---------------------------------------------------------------- mistakes

x, y = field("x"), field("y")
NAN = math.nan
MISTAKES: dict[str, tuple[Any, type[Exception], str]] = {
    "two fields": (lambda: x > y, TypeError, "field('x') > field('y'): two fields cannot"),  # type: ignore[operator]
    "and": (lambda: HOT and HOT, TypeError, "write & | ~ for and, or, not"),
    "not": (lambda: not HOT, TypeError, "write & | ~ for and, or, not"),
    "chained": (lambda: 60 < x < 90, TypeError, ".between(a, b) for a <= x <= b"),
    "in": (lambda: x in [1, 2], TypeError, ".is_in([…]) for in"),  # type: ignore[comparison-overlap, unused-ignore]
    "not a field": (lambda: not x, TypeError, "ask field('x').exists()"),
    "no parentheses": (lambda: x > 1 & y < 2, TypeError, "(field('y') > 1) & (field('y') < 5)"),  # type: ignore[operator]
    "bare fields": (lambda: x & y, TypeError, "field('x') is no condition"),  # type: ignore[operator]
    "bare field": (lambda: HOT & y, TypeError, "& field('y'): expected a condition"),  # type: ignore[operator]
    "inverted field": (lambda: ~x, TypeError, "field('x') is no condition"),  # type: ignore[operator]
    "function": (lambda: HOT | (lambda e: True), TypeError, "a .where(…) of its own"),  # type: ignore[operator]
    "function first": (lambda: (lambda e: True) & HOT, TypeError, "expected a condition"),  # type: ignore[operator]
    "where field": (lambda: on("a").where(x), TypeError, "such as field('celsius') > 90"),  # type: ignore[call-overload]
    "null": (lambda: x > None, TypeError, "field('x') > None: expected a number, text"),  # type: ignore[operator]
    "bool": (lambda: x >= True, TypeError, "field('x') >= True: expected a number, text"),
    "list": (lambda: x == [1], TypeError, "use a function of the event"),
    "NaN": (lambda: x < NAN, ValueError, "nothing can be compared with NaN"),
    "huge": (lambda: x < 10**5000, ValueError, "over 64 bits"),
    "between kinds": (lambda: x.between(1, "2"), TypeError, "expected two of one kind"),
    "between empty": (lambda: x.between(2, 1), ValueError, "expected the lower one first"),
    "no regex": (lambda: x.matches("("), ValueError, "field('x').matches('('): no regular"),
    "huge regex": (lambda: x.matches("a{99999999999}"), ValueError, "no regular expression"),
    "compiled": (lambda: x.matches(re.compile("a")), TypeError, "as in '(?i)warm'"),  # type: ignore[arg-type]
    "in text": (lambda: x.is_in("abc"), TypeError, "expected a list of constants"),
    "in number": (lambda: x.is_in(5), TypeError, "expected a list of constants"),  # type: ignore[arg-type]
    "in nothing": (lambda: x.is_in([]), ValueError, "nothing is in an empty list"),
    "no path": (lambda: field(5), TypeError, "expected a path such as"),  # type: ignore[arg-type]
    "empty path": (lambda: field(""), ValueError, "field() is the data itself"),
    "empty part": (lambda: field("a..b"), ValueError, "expected names with dots between"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_cannot_work_is_refused_when_it_is_written(name: str) -> None:
    """One line says where, what was expected and what to write instead."""
    mistake, error, text = MISTAKES[name]
    with pytest.raises(error, match=re.escape(text)) as raised:
        mistake()

    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_a_condition_may_be_long_but_not_endlessly_deep() -> None:
    """A thousand alternatives are one level; nesting is refused before Python gives up."""
    long = HOT
    for number in range(1000):
        long |= field("celsius") == number
    deep = HOT
    with pytest.raises(ValueError, match="more than 100 levels"):
        for _ in range(1000):
            deep = ~deep

    assert long(event({"celsius": 999})) is True
    assert again(deep) == deep
    assert len(fingerprint(deep)) == len(fingerprint(long)) == 32


# ---------------------------------------------------------------- in rules


def of(condition: Any, version: str | None = None) -> str:
    return Rule("r", on("a").where(condition), "parallel", version).fingerprint()


def test_a_condition_needs_no_source_and_no_version() -> None:
    """Its structure is digested; a version stands for functions, and does not hide it."""
    text = "(field('a') > 1) & ~field('b').is_in(['x'])"
    condition: Condition = eval(text, {"field": field})
    other: Condition = eval(text.replace("1", "1.0"), {"field": field})

    assert of(condition) == of((field("a") > 1) & ~field("b").is_in(["x"]))
    assert of(condition) != of(other)
    assert of(condition, "1") != of(other, "1")
    assert fingerprint(condition) == "ca57ff8973b0b600eb896402bf131473"


def test_a_condition_that_a_function_closes_over_counts() -> None:
    """It may be asked inside a function, and is a part of what that says."""

    def around(condition: Condition) -> Any:
        return lambda e: condition(e) and e.key is None

    assert of(around(field("a") > 1)) == of(around(field("a") > 1))
    assert of(around(field("a") > 1)) != of(around(field("a") > 2))


@pytest.mark.parametrize("behind", [False, True], ids=["at once", "behind a count"])
def test_what_is_unknown_is_neither_a_match_nor_an_error(behind: bool) -> None:
    """A missing field stops nothing and records nothing, negated or not."""
    pattern = on("a").count(1, within=1) if behind else on("a")
    shell = Shell(rules(pattern.where(HOT), pattern.where(~HOT))).start(ns(1))
    for data in ({"celsius": 91}, {"celsius": 90}, {}, {"celsius": "hot"}, None, [93]):
        shell.emit(ns(2), "a", data)

    assert [rule for rule, _, _ in shell.fired()] == ["r1", "r2"]
    assert shell.of_kind(r.RuleError) == []
    assert shell.refold().dump() == shell.kernel.dump()


def test_a_typed_pattern_takes_a_condition() -> None:
    """The first example of the documentation, with a condition for its lambda."""
    pattern = on("sensors.*", Reading).where(field("celsius") > 90).count(2, within=10)
    timeline = [(t, "sensors.t1", {"celsius": c}) for t, c in [(0, 91), (1, 90), (2, 92)]]

    assert [fired.at for fired in firings(pattern, timeline)] == [2]


async def test_state_is_kept_over_a_restart_exactly_if_the_condition_is_equal() -> None:
    """L8: written anew in other code it goes on; with another limit it starts empty."""

    async def emitted(log: MemoryLog, condition: Condition) -> int:
        app, met = App("plant"), list[int]()

        @app.rule(on("a").where(condition).count(2, within=3600), name="hot")
        async def hot() -> None:
            met.append(1)

        async with app.open(log) as engine:
            await engine.emit("a", {"celsius": 95})
            await engine.drain()
        return len(met)

    kept, changed = MemoryLog(), MemoryLog()
    assert await emitted(kept, HOT) == await emitted(changed, HOT) == 0
    assert await emitted(kept, again(HOT)) == 1
    assert await emitted(changed, field("celsius") > 90.0) == 0


# ---------------------------------------------------------------- documentation


def test_the_examples_of_the_documentation_run(capsys: pytest.CaptureFixture[str]) -> None:
    """What docs/rules.md shows of conditions is what they print."""
    text = (Path(__file__).parents[2] / "docs" / "rules.md").read_text()
    section = text.partition('## `field("path")`')[2].partition("\n## ")[0]
    blocks = re.findall(r"```(python|text)\n(.*?)```", section, re.DOTALL)
    exec("".join(block for kind, block in blocks if kind == "python"), {})

    assert [block for kind, block in blocks if kind == "text"] == [capsys.readouterr().out]
