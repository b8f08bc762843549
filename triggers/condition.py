"""`field`: conditions that can be printed, compared and explained.

``field("celsius") > 90`` is a `Condition`: a value that compiles to a closure when it is
written.  Its logic has three values (Kleene): a field that is missing, or of a kind that
cannot be compared, makes it neither true nor false but unknown, and so is its negation.
Only what is true matches.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isinf, isnan
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from msgspec import UNSET, Struct

from headrace.engine.event import Event
from headrace.triggers.comparison import SYMBOLS, Test, compiled, read

DEPTH_MAX: Final = 100
"""Levels of ``&``, ``|`` and ``~`` in each other; ``a & b & c`` is one."""
SHOWN_CHARS_MAX: Final = 80

_KIND_NAMES: Final = {int: "a number", float: "a number", str: "text", bytes: "bytes"}


class Clause(Struct, frozen=True):
    """One comparison and what it made of an event."""

    field: str
    """The path; ``data`` for the data itself."""
    test: str
    """What was asked of it, such as ``> 90``."""
    verdict: Literal["yes", "no", "missing", "mismatch"]
    value: Any = UNSET
    """What the event holds there; `msgspec.UNSET` if nothing."""
    expected: str = ""
    """For a mismatch: the kind that can be compared."""

    def __str__(self) -> str:
        """Return one line, such as ``celsius = 71.5 > 90: no``."""
        seen = "" if self.value is UNSET else f" = {_shown(self.value)}"
        why = ""
        if self.verdict == "mismatch":
            why = f" (expected {self.expected}, found {_kind_of(self.value)})"
        return f"{self.field}{seen} {self.test}: {self.verdict}{why}"


class Explanation(Struct, frozen=True):
    """What a condition made of an event, clause by clause."""

    condition: str
    verdict: Literal["yes", "no", "unknown"]
    clauses: list[Clause]
    """In the order in which they are written; all of them, also those that decided nothing."""

    def __str__(self) -> str:
        """Return the line of a single clause, or the condition and a line for each clause."""
        if self.condition.startswith("field(") and len(self.clauses) == 1:
            return str(self.clauses[0])
        lines = [f"{self.condition}: {self.verdict}", *(f"  {clause}" for clause in self.clauses)]
        return "\n".join(lines)


class Condition:
    """Something that an event fulfils, does not fulfil, or leaves open.  Never changed.

    Made by `field`; combined with ``&``, ``|`` and ``~``.  Two are equal if they say the
    same in the same words.
    """

    __slots__ = ("depth", "structure", "test")
    is_call = True
    """Whether ``&``, ``|`` and ``~`` can stand next to it without parentheses."""

    def __init__(self, structure: tuple[Any, ...], test: Test, depth: int) -> None:
        """Take what `field` made; users start there."""
        if depth > DEPTH_MAX:
            raise ValueError(f"a condition nested more than {DEPTH_MAX} levels deep")
        self.structure = structure
        """All that it says, as data: what its fingerprint is made of."""
        self.test = test
        """Say of an event ``True``, ``False``, or ``None`` for unknown."""
        self.depth = depth

    def __call__(self, event: Event[Any]) -> bool:
        """Say whether *event* fulfils it; ``False`` also if that is unknown."""
        return self.test(event) is True

    def explain(self, event: Event[Any]) -> Explanation:
        """Say what each clause saw in *event* and made of it."""
        verdict = self.test(event)
        word: Literal["yes", "no", "unknown"] = "unknown"
        if verdict is not None:
            word = "yes" if verdict else "no"
        return Explanation(str(self), word, [leaf.clause(event) for leaf in self.leaves()])

    def __and__(self, other: Condition) -> Condition:
        return _Joined("&", self, other)

    def __or__(self, other: Condition) -> Condition:
        return _Joined("|", self, other)

    def __invert__(self) -> Condition:
        return _Negated(self)

    def __bool__(self) -> bool:
        raise TypeError(
            f"({self}) is true or false only of an event: write & | ~ for and, or, not; "
            f".between(a, b) for a <= x <= b; .is_in([…]) for in"
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Condition) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def leaves(self) -> list[Leaf]:
        """Return its clauses in the order in which they are written."""
        raise NotImplementedError

    def __repr__(self) -> str:
        """Return the expression that makes it, in terms of `field`."""
        raise NotImplementedError

    if not TYPE_CHECKING:  # to a checker these are mistakes without our help

        def __rand__(self, other: object) -> Condition:
            return _Joined("&", cast("Condition", other), self)

        def __ror__(self, other: object) -> Condition:
            return _Joined("|", cast("Condition", other), self)


class Leaf(Condition):
    """What one field is asked."""

    __slots__ = ("_name", "_operands", "_path", "is_call")

    def __init__(self, path: tuple[str, ...], name: str, *operands: Any) -> None:
        self._path = path
        self._name = name
        self._operands = operands
        self.is_call = name not in SYMBOLS
        structure = (name, path, *operands)
        super().__init__(structure, compiled(path, name, operands), depth=1)

    def clause(self, event: Event[Any]) -> Clause:
        """Say what it made of *event*."""
        value, verdict = read(self._path, event.data), self.test(event)
        place, asked = ".".join(self._path) or "data", self._asked()
        if verdict is not None:
            return Clause(place, asked, "yes" if verdict else "no", value)
        if value is UNSET:
            return Clause(place, asked, "missing")
        return Clause(place, asked, "mismatch", value, _KIND_NAMES[type(self._operands[0])])

    def leaves(self) -> list[Leaf]:
        """See `Condition`."""
        return [self]

    def _asked(self) -> str:
        words = list(map(_literal, self._operands))
        if self._name == "between":
            return f"between {words[0]} and {words[1]}"
        if self._name == "is_in":
            return f"is in [{', '.join(words)}]"
        return " ".join([self._name, *words])

    def __repr__(self) -> str:
        subject, words = text_of_field(self._path), ", ".join(map(_literal, self._operands))
        if self._name in SYMBOLS:
            return f"{subject} {self._name} {words}"
        return f"{subject}.{self._name}({f'[{words}]' if self._name == 'is_in' else words})"


class _Joined(Condition):
    """Several, with ``&`` or ``|`` between them."""

    __slots__ = ("parts", "symbol")
    is_call = False

    def __init__(self, symbol: Literal["&", "|"], *conditions: Condition) -> None:
        parts: list[Condition] = []
        for condition in conditions:
            if not isinstance(condition, Condition):
                hint = "; a function goes into a .where(…) of its own" * callable(condition)
                raise TypeError(f"{symbol} {condition!r}: expected a condition{hint}")
            is_same = isinstance(condition, _Joined) and condition.symbol == symbol
            parts += cast("_Joined", condition).parts if is_same else [condition]
        self.symbol: Literal["&", "|"] = symbol
        self.parts: list[Condition] = parts
        tests = tuple(part.test for part in parts)
        decisive = symbol == "|"

        def test(event: Any) -> bool | None:
            verdict: bool | None = not decisive
            for ask in tests:
                answer = ask(event)
                if answer is decisive:
                    return answer
                if answer is None:
                    verdict = None
            return verdict

        structure = (symbol, *(part.structure for part in parts))
        super().__init__(structure, test, 1 + max(part.depth for part in parts))

    def leaves(self) -> list[Leaf]:
        """See `Condition`."""
        return [leaf for part in self.parts for leaf in part.leaves()]

    def __repr__(self) -> str:
        return f" {self.symbol} ".join(map(_enclosed, self.parts))


class _Negated(Condition):
    """Another one with ``~`` before it."""

    __slots__ = ("part",)

    def __init__(self, part: Condition) -> None:
        self.part = part
        ask = part.test

        def test(event: Any) -> bool | None:
            answer = ask(event)
            return None if answer is None else not answer

        super().__init__(("~", part.structure), test, 1 + part.depth)

    def leaves(self) -> list[Leaf]:
        """See `Condition`."""
        return self.part.leaves()

    def __repr__(self) -> str:
        return f"~{_enclosed(self.part)}"


class FieldReader:
    """A function of an event that reads one field of its data: ``None`` if it is missing."""

    __slots__ = ("path", "structure")

    def __init__(self, path: tuple[str, ...]) -> None:
        """Made by `Field.reader`."""
        self.path = path
        self.structure = ("field", *path)
        """All that it says, as data: what its fingerprint is made of."""

    def __call__(self, event: Event[Any]) -> Any:
        """Return what *event* holds there."""
        value = read(self.path, event.data)
        return None if value is UNSET else value

    def __repr__(self) -> str:
        """Return the expression that makes it."""
        return text_of_field(self.path)


def test_of(condition: Callable[[Any], object]) -> Callable[[Any], object]:
    """Return what to ask: of a `Condition` its closure, which saves a call for each event."""
    return condition.test if isinstance(condition, Condition) else condition


def text_of_field(path: tuple[str, ...]) -> str:
    """Return the expression that makes a field."""
    return f"field({'.'.join(path)!r})" if path else "field()"


def _enclosed(condition: Condition) -> str:
    # A comparison binds less than & | ~ in Python, and a & b | c is too easily misread.
    return repr(condition) if condition.is_call else f"({condition})"


def _literal(constant: Any) -> str:
    is_infinite = type(constant) is float and isinf(constant)
    return f"float('{constant}')" if is_infinite else repr(constant)


def _kind_of(value: Any) -> str:
    if value is None:
        return "null"
    is_nan = isinstance(value, float) and isnan(value)
    return "NaN" if is_nan else type(value).__name__


def _shown(value: Any) -> str:
    import reprlib

    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = SHOWN_CHARS_MAX
    return short.repr(value)
