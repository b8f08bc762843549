"""What can never work is refused when it is written, with the place and the reason."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from headrace import App, Firing, Run, absent, all_of, any_of, field, on, silent, step
from headrace.triggers.checks import PARTIALS_MAX
from headrace.triggers.keys import plain_key
from headrace.triggers.pattern import Pattern

a = on("a")


async def never(event: Any) -> bool:
    raise AssertionError("it is not called")


def size(event: Any) -> int:
    raise AssertionError("it is not called")


class AsyncCallable:
    async def __call__(self, event: Any) -> bool:
        raise AssertionError("it is not called")


class Unrelated: ...


def loose(function: Any) -> Any:
    """Return *function* without its types: users may not run a type checker."""
    return function


REFUSED: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "within=0": (lambda: a.count(2, within=0), ValueError, r"count\(within=0\).*more than 0"),
    "within<0": (lambda: a.count(2, within=-1.5), ValueError, r"count\(within=-1.5\)"),
    "within=nan": (lambda: a.count(2, within=float("nan")), ValueError, r"within=nan"),
    "within=inf": (lambda: a.count(2, within=float("inf")), ValueError, r"within=inf.*1e9"),
    "within=1e9": (lambda: a.count(2, within=1e9), ValueError, r"less than 1e9 seconds"),
    "within=text": (lambda: loose(a).count(2, within="60"), TypeError, r"within='60'.*timedelta"),
    "within=True": (lambda: a.count(2, within=True), TypeError, r"within=True"),
    "within=Decimal": (lambda: loose(a).count(2, within=Decimal(6)), TypeError, r"within=Decimal"),
    "within=0 delta": (lambda: a.count(2, within=timedelta()), ValueError, r"within="),
    "no within": (lambda: loose(a).count(2), TypeError, r"within"),
    "n=0": (lambda: a.count(0, within=1), ValueError, r"count\(0\).*at least 1"),
    "n<0": (lambda: a.count(-3, within=1), ValueError, r"count\(-3\)"),
    "n=1.0": (lambda: loose(a).count(1.0, within=1), ValueError, r"count\(1.0\).*whole number"),
    "n=True": (lambda: a.count(True, within=1), ValueError, r"count\(True\)"),
    "n=text": (lambda: loose(a).count("3", within=1), ValueError, r"count\('3'\)"),
    "n too large": (
        lambda: a.count(PARTIALS_MAX + 1, within=1),
        ValueError,
        rf"count\({PARTIALS_MAX + 1}\): at most {PARTIALS_MAX}",
    ),
    "mode": (
        lambda: loose(a).count(2, within=1, mode="first"),
        ValueError,
        r"mode='first'.*'reset', 'edge' or 'every'",
    ),
    "edge for ever": (
        lambda: a.count(2, within=None, mode="edge"),
        ValueError,
        r"within=None, mode='edge'.*give within=",
    ),
    "async where": (lambda: a.where(never), TypeError, r"\.where\(never\).*async"),
    "async key": (lambda: loose(a).key(never), TypeError, r"\.key\(never\).*async"),
    "async callable": (lambda: a.where(AsyncCallable()), TypeError, r"\.where\(.*async"),
    "where=None": (lambda: loose(a).where(None), TypeError, r"\.where\(None\).*function"),
    "where=True": (lambda: loose(a).where(True), TypeError, r"\.where\(True\).*function"),
    "key=text": (lambda: loose(a).key("sensor"), TypeError, r"\.key\('sensor'\).*function"),
    "subject empty": (lambda: on(""), ValueError, r"pattern ''.*character 1"),
    "subject a..b": (lambda: on("a..b"), ValueError, r"pattern 'a\.\.b', character 3"),
    "subject .a": (lambda: on(".a"), ValueError, r"character 1"),
    "subject a.": (lambda: on("a."), ValueError, r"found the end"),
    "subject space": (lambda: on("a b"), ValueError, r"character 2.*white space"),
    "subject >.a": (lambda: on(">.a"), ValueError, r"'>' before the end"),
    "subject number": (lambda: loose(on)(5), TypeError, r"on\(5\).*subject"),
    "subject None": (lambda: loose(on)(None), TypeError, r"on\(None\).*subject"),
    "type": (lambda: loose(on)("a", int | Unrelated), TypeError, r"on\('a'.*msgspec cannot"),
    "type text": (lambda: loose(on)("a", "Reading"), TypeError, r"on\('a', 'Reading'\)"),
    "any_of()": (any_of, ValueError, r"any_of\(\) needs at least one"),
    "any_of text": (lambda: loose(any_of)("a"), TypeError, r"any_of\('a'\).*on\('a\.b'\)"),
    "any_of list": (lambda: loose(any_of)([a]), TypeError, r"any_of\(.*pattern"),
    "silent text": (lambda: loose(silent)("a", for_=5), TypeError, r"silent\('a'\).*pattern"),
    "for_=0": (lambda: silent(a, for_=0), ValueError, r"silent\(for_=0\)"),
    "for_<0": (lambda: silent(a, for_=timedelta(-1)), ValueError, r"silent\(for_="),
    "for_=text": (lambda: loose(silent)(a, for_="5s"), TypeError, r"for_='5s'"),
    "no for_": (lambda: loose(silent)(a), TypeError, r"for_"),
    "repeat": (
        lambda: loose(silent)(a, for_=5, repeat="twice"),
        ValueError,
        r"repeat='twice'.*'once' or 'every'",
    ),
    "expect text": (lambda: silent(a, for_=5, expect="s1"), TypeError, r"expect='s1'.*list"),
    "expect list": (lambda: loose(silent)(a, for_=5, expect=[[]]), TypeError, r"\[\] cannot be"),
    "expect None": (
        lambda: silent(a.key(lambda e: e.data), for_=5, expect=[None]),
        TypeError,
        r"None cannot be",
    ),
    "expect nan": (lambda: silent(a, for_=5, expect=[float("nan")]), TypeError, r"nan cannot be"),
    "expect half": (lambda: silent(a, for_=5, expect=["\udcff"]), TypeError, r"cannot be a key"),
    "keys_max=0": (lambda: a.key(size, keys_max=0), ValueError, r"key\(keys_max=0\).*at least 1"),
    "crosses nothing": (lambda: a.crosses(size), ValueError, r"expected one of the two"),
    "crosses both": (lambda: a.crosses(size, above=1, below=2), ValueError, r"above=1, below=2"),
    "crosses text": (lambda: loose(a).crosses(size, above="9"), ValueError, r"above='9'.*finite"),
    "crosses nan": (lambda: a.crosses(size, below=float("nan")), ValueError, r"below=nan.*finite"),
    "hysteresis<0": (lambda: a.crosses(size, above=1, hysteresis=-1), ValueError, r"=-1.*least 0"),
    "initial": (
        lambda: loose(a).crosses(size, above=1, initial=1),
        TypeError,
        r"initial=1.*True",
    ),
    "crosses value": (
        lambda: loose(a).crosses("x", above=1),
        TypeError,
        r"crosses\(.x.\).*field",
    ),
    "hold for_=0": (lambda: a.where(bool).hold(for_=0), ValueError, r"hold\(for_=0\)"),
    "hold without where": (lambda: a.hold(for_=5), ValueError, r"on\('a'\)\.hold.*put \.where"),
    "hold of a filter": (
        lambda: a.where(bool).count(2, within=5).key(size).hold(for_=5),
        ValueError,
        r"\.hold\(…\).*condition that can be true for a while",
    ),
    "quiet=0": (lambda: a.debounce(0), ValueError, r"debounce\(quiet=0\)"),
    "max_wait=0": (lambda: a.debounce(1, 0), ValueError, r"debounce\(max_wait=0\)"),
    "edge": (lambda: loose(a).debounce(1, edge="end"), ValueError, r"edge='end'.*'leading'"),
    "period<0": (lambda: a.throttle(-1), ValueError, r"throttle\(period=-1\)"),
    "throttle edge": (lambda: loose(a).throttle(1, "no"), ValueError, r"throttle\(edge='no'\)"),
    "rate 0": (lambda: a.rate_limit(0, 5), ValueError, r"rate_limit\(0\).*at least 1"),
    "rate per": (lambda: a.rate_limit(1, 0), ValueError, r"rate_limit\(per=0\)"),
    "burst=0": (lambda: a.rate_limit(1, 5, burst=0), ValueError, r"rate_limit\(burst=0\)"),
    "overflow": (
        lambda: loose(a).rate_limit(1, 5, overflow="wait"),
        ValueError,
        r"overflow='wait'.*'queue', 'drop' or 'latest'",
    ),
    "ttl=0": (lambda: a.dedupe(None, 0), ValueError, r"dedupe\(ttl=0\)"),
    "dedupe key": (lambda: loose(a).dedupe("id", 5), TypeError, r"\.dedupe\('id'\).*field"),
    "batch()": (a.batch, ValueError, r"batch\(\): expected a number, within= or bytes_max="),
    "batch 0": (lambda: a.batch(0), ValueError, r"batch\(0\)"),
    "bytes_max": (lambda: loose(a).batch(bytes_max=1.5), ValueError, r"batch\(bytes_max=1.5\)"),
    "size=0": (lambda: a.tumbling(0), ValueError, r"tumbling\(size=0\)"),
    "every=0": (lambda: a.hopping(5, 0), ValueError, r"hopping\(every=0\)"),
    "too many windows": (lambda: a.hopping(1e6, 1), ValueError, r"over 10000 windows"),
    "tz of minutes": (lambda: a.tumbling(60, tz="Europe/Berlin"), ValueError, r"whole days"),
    "tz unknown": (lambda: a.tumbling(86400, tz="Berlin"), ValueError, r"tumbling\(tz='Berlin'\)"),
    "tz number": (lambda: loose(a).tumbling(86400, tz=1), TypeError, r"name of a time zone"),
    "emit_empty": (lambda: loose(a).tumbling(5, emit_empty=1), TypeError, r"emit_empty=1"),
    "gap=0": (lambda: a.session(0), ValueError, r"session\(gap=0\)"),
    "session max": (lambda: a.session(1, 0), ValueError, r"session\(max=0\)"),
    "aggregate of one": (
        lambda: a.key(size).aggregate(size),
        ValueError,
        r"aggregate.*one at a time",
    ),
    "aggregate text": (
        lambda: loose(a).batch(2).aggregate("sum"),
        TypeError,
        r"\(.sum.\)",
    ),
    "lateness<0": (lambda: a.event_time(size, lateness=-1), ValueError, r"lateness=-1"),
    "idle=0": (lambda: a.event_time(size, idle=0), ValueError, r"idle=0"),
    "late": (lambda: loose(a).event_time(size, late="keep"), ValueError, r"late='keep'"),
    "event time late": (
        lambda: a.count(2, within=5).event_time(size),
        ValueError,
        r"\.event_time\(…\): expected it on each on\(…\)",
    ),
    "all_of one": (lambda: all_of(a, within=5), ValueError, r"at least two patterns, found 1"),
    "all_of without": (lambda: loose(all_of)(a, a), TypeError, r"within"),
    "all_of within=0": (lambda: all_of(a, a, within=0), ValueError, r"all_of\(within=0\)"),
    "keep": (lambda: loose(all_of)(a, a, within=5, keep="last"), ValueError, r"keep='last'"),
    "all_of text": (lambda: loose(all_of)("a", a, within=5), TypeError, r"all_of\('a'\).*pattern"),
    "absent within": (lambda: absent(a, after=a, within=0), ValueError, r"absent\(within=0\)"),
    "absent after": (lambda: loose(absent)(a, after="b", within=5), TypeError, r"absent\('b'\)"),
    "rearm": (
        lambda: loose(absent)(a, after=a, within=5, rearm="yes"),
        ValueError,
        r"rearm='yes'.*'ignore' or 'restart'",
    ),
    "two arguments": (
        lambda: any_of(a.where(lambda e, m: True), a),
        ValueError,
        r"any_of: \.where\(…\) takes two arguments",
    ),
    "a step that is never met": (
        lambda: step("hot", a.where(field() > 5).key(size).where(field() < 3)),
        ValueError,
        r"step\('hot'\): it can never be met.*field\(\) > 5 and field\(\) < 3",
    ),
    "where behind silent": (
        lambda: silent(a, for_=5, expect=[1]).where(lambda e: True),
        ValueError,
        r"silent\(on\('a'\), for_=5, expect=\[1\]\)\.where.*no event.*pattern inside",
    ),
    "key behind silent": (
        lambda: silent(a, for_=5, expect=[1]).key(lambda e: 1),
        ValueError,
        r"\.key.*pattern inside",
    ),
    "where behind a count of silences": (
        lambda: silent(a, for_=5, expect=[1]).count(2, within=9).where(lambda e: True),
        ValueError,
        r"pattern inside",
    ),
    "where behind any_of a silence": (
        lambda: any_of(a, any_of(a, silent(a, for_=5, expect=[1]))).where(lambda e: True),
        ValueError,
        r"pattern inside",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_definition_is_refused_where_it_is_written(name: str) -> None:
    """The message names the operator, what it was given and what is expected."""
    define, kind, message = REFUSED[name]

    with pytest.raises(kind, match=message):
        define()


def app() -> App:
    made = App("plant")

    @made.task
    async def taken() -> None: ...

    return made


async def wants_more(run: Run, firing: Firing[Any], limit: int) -> None: ...


async def wants_a_socket(address: Unrelated | int) -> None: ...


async def gives_a_socket() -> Unrelated | int:
    raise AssertionError


async def wants_a_firing(firing: Firing[Any]) -> None: ...


async def action() -> None: ...


async def taken() -> None: ...


async def has_ended() -> None: ...


REFUSED_BY_AN_APP: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "app name": (lambda: App("a b"), ValueError, r"App name 'a b'.*letters"),
    "no name": (lambda: App(""), ValueError, r"App name ''"),
    "rule text": (lambda: loose(app()).rule("a"), TypeError, r"rule\('a'\).*on\('a\.b'\)"),
    "rule bare": (lambda: loose(app()).rule(action), TypeError, r"rule\(.*pattern"),
    "rule mode": (
        lambda: loose(app()).rule(a, mode="twice"),
        ValueError,
        r"mode='twice'.*parallel, single, restart",
    ),
    "rule name": (lambda: app().rule(a, name="a.b")(action), ValueError, r"name 'a\.b'.*letters"),
    "rule lambda": (lambda: app().rule(a)(lambda: None), TypeError, r"no name of its own"),
    "rule twice": (lambda: app().rule(a)(taken), ValueError, r"'taken' is declared twice"),
    "rule arguments": (
        lambda: app().rule(a)(wants_more),
        TypeError,
        r"'wants_more'.*takes 'limit'.*run: Run",
    ),
    "rule timeout": (lambda: app().rule(a, timeout=0)(action), ValueError, r"action\(timeout=0\)"),
    "rule retry": (lambda: app().rule(a, retry=3)(action), TypeError, r"retry=3.*Retry"),
    "clear of a moment": (
        lambda: app().rule(a.count(2, within=5), on_clear=has_ended),
        ValueError,
        r"on_clear=….*condition ends",
    ),
    "time-out of no sequence": (
        lambda: app().rule(a, on_timeout=has_ended),
        ValueError,
        r"on_timeout=….*sequence",
    ),
    "event time for some": (
        lambda: app().rule(any_of(a, a.event_time(lambda e: e.time)))(action),
        ValueError,
        r"\.event_time\(…\) with the same lateness, idle and late on each on",
    ),
    "two arguments": (
        lambda: app().rule(a.where(lambda e, m: True)),
        ValueError,
        r"rule: \.where\(…\) takes two arguments",
    ),
    "every=0": (lambda: app().every(0), ValueError, r"every\(period=0\)"),
    "every=text": (lambda: loose(app()).every("1m"), TypeError, r"every\(period='1m'\)"),
    "task twice": (lambda: app().task(taken), ValueError, r"'taken' is declared twice, at .*\.py"),
    "task argument": (
        lambda: app().task(wants_a_socket),
        TypeError,
        r"'wants_a_socket'.*cannot be stored.*msgspec",
    ),
    "task result": (lambda: app().task(gives_a_socket), TypeError, r"its result cannot be"),
    "task firing": (lambda: app().task(wants_a_firing), TypeError, r"only a rule's action"),
}


@pytest.mark.parametrize("name", REFUSED_BY_AN_APP)
def test_a_bad_declaration_is_refused_where_it_is_written(name: str) -> None:
    """A mistake shows when the app is imported, not when the first event comes."""
    declare, kind, message = REFUSED_BY_AN_APP[name]

    with pytest.raises(kind, match=message):
        declare()


def test_what_is_refused_leaves_no_trace() -> None:
    """After a refused declaration the app is as it was."""
    made = app()
    for pattern in (a, on("b")):
        with pytest.raises(ValueError, match="twice"):
            made.rule(pattern)(taken)

    assert (list(made.tasks), list(made.rules)) == (["taken"], [])


ACCEPTED: dict[str, Callable[[], Pattern[Any]]] = {
    "wildcards": lambda: on("*.a.>"),
    "literal wildcards": lambda: on("a*.b>c"),
    "unicode": lambda: on("größe.温度"),
    "reserved": lambda: on("run.failed.*"),
    "union": lambda: on("a", loose(int | str)),
    "delta": lambda: a.count(2, within=timedelta(minutes=1)),
    "shortest": lambda: a.count(2, within=1e-9),
    "under a nanosecond": lambda: a.count(2, within=1e-300),
    "longest": lambda: a.count(PARTIALS_MAX, within=999_999_999.999),
    "where behind count": lambda: a.count(2, within=1).where(lambda e: True),
    "key behind any_of": lambda: any_of(a, on("b").count(2, within=1)).key(lambda e: e.subject),
    "silent of silent": lambda: silent(silent(a, for_=1), for_=2),
    "expected keys": lambda: silent(a, for_=1, expect=["s", 1, b"x", ("s", 1)]),
    "expected generator": lambda: silent(a, for_=1, expect=(f"s{n}" for n in range(3))),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_good_definition_is_accepted(name: str) -> None:
    """What the semantics allow can be written, and says what it is."""
    pattern = ACCEPTED[name]()

    assert repr(pattern).startswith(("on(", "any_of(", "silent("))


def test_a_pattern_says_what_the_user_wrote() -> None:
    """Whoever asks why a rule did not fire sees the pattern as it stands in the code."""
    hot = on("sensors.*", int).where(never_true).key(lambda e: e.data)

    assert repr(hot.count(3, within=60)) == (
        "on('sensors.*', int).where(never_true).key(…).count(3, within=60)"
    )
    assert repr(any_of(a, silent(on("b"), for_=1.5, repeat="every"))) == (
        "any_of(on('a'), silent(on('b'), for_=1.5, repeat='every'))"
    )
    assert repr(a.count(2, within=None)) == "on('a').count(2, within=None)"
    assert repr(silent(a, for_=5, expect=["s"])) == "silent(on('a'), for_=5, expect=['s'])"


def never_true(event: Any) -> bool:
    return False


def test_operators_do_not_change_what_they_are_applied_to() -> None:
    """A pattern is a value: two rules may start from the same one."""
    base = on("a", int)
    base.where(never_true)
    base.count(2, within=1)

    assert repr(base) == "on('a', int)"


@pytest.mark.parametrize(
    ("key", "plain"),
    [
        (True, 1),
        (1.0, 1),
        (-0.0, 0),
        (2.5, 2.5),
        (float("inf"), float("inf")),
        (1e300, 1e300),
        ("1", "1"),
        (b"1", b"1"),
        ((False, 2.0, "x"), (0, 2, "x")),
    ],
)
def test_equal_keys_have_one_form(key: Any, plain: Any) -> None:
    """Whichever came first: a dict keeps the key that it had, and a restart would not."""
    found = plain_key(key)
    assert found == plain
    assert repr(found) == repr(plain)
