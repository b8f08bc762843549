"""Conditions and fields that are written as text: ``celsius > 90 and unit == 'C'``.

The text is read as Python by `ast`, of whose nodes only comparisons, ``and``, ``or``,
``not`` and the methods of a field are known here.  Nothing is ever executed.  What a
`Condition` prints is such a text too, and is read as an equal condition.
"""

from __future__ import annotations

import ast
import operator
import re
import unicodedata
import warnings
from collections.abc import Callable
from functools import lru_cache, reduce
from typing import Any, Final, NoReturn, cast

from msgspec import UNSET

from headrace.triggers.condition import Condition
from headrace.triggers.expression_error import (
    EXPECTED,
    SHOWN_CHARS_MAX,
    ExpressionError,
    place_of,
    syntax_error,
)
from headrace.triggers.field import Field, field

TEXT_CHARS_MAX: Final = 2000
NESTING_MAX: Final = 100
"""Levels of parentheses, ``not`` and the like in each other."""

Compare = Callable[[Any, Any], Any]

_TOO_DEEP: Final = f"expected at most {NESTING_MAX} levels, found a deeper nesting"
_COMPARISONS: Final[dict[type[ast.cmpop], Compare]] = {
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_TURNED: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Gt: ast.Lt,
    ast.GtE: ast.LtE,
    ast.Lt: ast.Gt,
    ast.LtE: ast.GtE,
}
"""What ``90 < x`` says with the field first."""
_METHODS: Final = {"between": 2, "is_in": 1, "matches": 1, "exists": 0}
"""The methods that make a condition of a field, and how many arguments each takes."""
_WORDS: Final[dict[str, bool | None]] = {"true": True, "false": False, "null": None}
_PLAIN_PATH: Final = re.compile(r"[^\s.\[\]()'\"]+(\.[^\s.\[\]()'\"]+)*")


@lru_cache(maxsize=1024)
def parse_condition(text: str) -> Condition:
    """Return the condition that *text* says.

    Names are fields of the event's data: ``place.name``, ``readings[0].celsius``,
    ``data["odd-name"]``; ``data`` is the data itself.

    Raises:
        ExpressionError: it says none.
    """
    return _Reader(text).condition()


def parse_field(text: str) -> Field:
    """Return the field that *text* names: ``device.id``, ``readings.0.celsius``, ``data``.

    Raises:
        ExpressionError: it names none.
    """
    if "[" in text or text.startswith("field("):
        return _Reader(text).lone_field()
    first, *more = text.split(".")
    if len(text) > TEXT_CHARS_MAX or not _PLAIN_PATH.fullmatch(text) or first == "subject":
        expected = "expected the path of a field such as device.id or data.subject"
        raise ExpressionError(text, 1, 1, f"{expected}, found {text[:SHOWN_CHARS_MAX]!r}")
    return Field(tuple(more if first == "data" else (first, *more)))


class _Reader:
    """One text, while it is read."""

    def __init__(self, text: str) -> None:
        self._text = text.replace("\r\n", "\n").replace("\r", "\n")
        if len(text) > TEXT_CHARS_MAX:
            self._refuse(
                1, 1, f"expected at most {TEXT_CHARS_MAX} characters, found {len(text)}; split it"
            )
        if "\0" in text:
            self._refuse(*place_of(self._text, text.index("\0")), "expected text, found a null")
        if not text.strip():
            self._refuse(1, 1, f"{EXPECTED}, found an empty text")
        # In parentheses, so that a text may have several lines; the newline ends a comment.
        self._source = f"({self._text}\n)"
        self._root = self._parsed()

    def condition(self) -> Condition:
        """Return the condition that it is."""
        try:
            return self._condition(self._root, 1)
        except RecursionError:
            self._refuse(1, 1, _TOO_DEEP)

    def lone_field(self) -> Field:
        """Return the field that it is."""
        return self._field(self._root)

    def _parsed(self) -> ast.expr:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # '\d' in a text is a warning, and here no fault
                root = ast.parse(self._source, mode="eval").body
        except SyntaxError as error:
            raise syntax_error(self._text, error) from None
        except UnicodeEncodeError as error:
            place = place_of(self._text, error.start - 1)
            self._refuse(*place, "expected text, found half a character")
        except (RecursionError, MemoryError):  # what Python makes of a thousand of ~
            self._refuse(1, 1, _TOO_DEEP)
        if (root.lineno, root.col_offset) == (1, 0) and not isinstance(
            root, (ast.Tuple, ast.GeneratorExp)
        ):
            # Our own parenthesis belongs to a part of it only: `a) or (b`.
            line, column = place_of(self._text, self._text.index(")"))
            self._refuse(line, column, "expected '(' before ')', found none")
        return root

    # ------------------------------------------------------------ conditions

    def _condition(self, node: ast.expr, depth: int) -> Condition:
        if depth > NESTING_MAX:
            self._fail(node, _TOO_DEEP)
        if isinstance(node, ast.BoolOp):
            join = operator.and_ if isinstance(node.op, ast.And) else operator.or_
            return self._joined(node, join, node.values, depth)
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.BitAnd, ast.BitOr)):
            join = operator.and_ if isinstance(node.op, ast.BitAnd) else operator.or_
            return self._joined(node, join, _operands(node), depth)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.Invert)):
            inner = self._condition(node.operand, depth + 1)
            return self._made(node, lambda: ~inner)
        if isinstance(node, ast.Compare):
            return self._compared(node)
        if isinstance(node, ast.Call):
            return self._called(node)
        if isinstance(node, (ast.Name, ast.Attribute, ast.Subscript)):
            found = self._words(node)
            self._fail(
                node,
                f"expected a comparison, found {found} alone; write {found} == True or "
                f"{found}.exists()",
            )
        also = "; write `and` between conditions" if isinstance(node, ast.Tuple) else ""
        return self._fail(node, f"{EXPECTED}, found {self._words(node)}{also}")

    def _joined(
        self, node: ast.expr, join: Callable[..., Condition], parts: list[ast.expr], depth: int
    ) -> Condition:
        conditions = [self._condition(part, depth + 1) for part in parts]
        return self._made(node, lambda: reduce(join, conditions))

    def _compared(self, node: ast.Compare) -> Condition:
        """Return what a comparison says: ``a < b``, or a chain of them such as ``1 <= x <= 5``."""
        sides = [node.left, *node.comparators]
        if len(node.ops) == 2:
            between = self._between(node, sides, type(node.ops[0]), type(node.ops[1]))
            if between is not None:
                return between
        pairs = zip(sides[:-1], node.ops, sides[1:], strict=True)
        conditions = [self._pair(left, sign, right) for left, sign, right in pairs]
        return self._made(node, lambda: reduce(operator.and_, conditions))

    def _between(
        self,
        node: ast.Compare,
        sides: list[ast.expr],
        first: type[ast.cmpop],
        second: type[ast.cmpop],
    ) -> Condition | None:
        """Return what ``low <= x <= high`` says; ``None`` if it has no such form."""
        low, high = self._constant(sides[0]), self._constant(sides[2])
        if low is UNSET or high is UNSET or self._constant(sides[1]) is not UNSET:
            return None
        if first in (ast.Gt, ast.GtE):
            low, high = high, low
        directions: dict[type[ast.cmpop], int] = {ast.Lt: 1, ast.LtE: 1, ast.Gt: -1, ast.GtE: -1}
        if not directions.get(first, 0) == directions.get(second, 0) != 0:
            return None
        place = self._field(sides[1])
        inside = self._made(node, lambda: place.between(low, high))
        if first is second and first in (ast.LtE, ast.GtE):
            return inside
        if low == high:
            self._fail(node, f"expected two bounds with room between them, found {low!r} twice")
        return None

    def _pair(self, left: ast.expr, sign: ast.cmpop, right: ast.expr) -> Condition:
        kind = type(sign)
        if isinstance(sign, (ast.In, ast.NotIn)):
            return self._contained(left, right, negated=isinstance(sign, ast.NotIn))
        if isinstance(sign, (ast.Is, ast.IsNot)):
            word = "==" if isinstance(sign, ast.Is) else "!="
            self._fail(right, f"expected a comparison, found `is`; write {word}")
        if self._constant(left) is not UNSET:
            left, right, kind = right, left, _TURNED.get(kind, kind)
        constant = self._constant(right)
        if constant is UNSET:
            self._refuse_side(left, right)
        if self._constant(left) is not UNSET:
            self._fail(left, "expected a field on one side, found two constants")
        place = self._field(left)
        return self._made(left, lambda: _COMPARISONS[kind](place, constant))

    def _refuse_side(self, left: ast.expr, right: ast.expr) -> NoReturn:
        """Say why *right*, to which *left* is compared, is no constant."""
        for side in (left, right):
            if isinstance(side, ast.BinOp) and isinstance(side.op, (ast.BitAnd, ast.BitOr)):
                self._fail(
                    side,
                    "expected a constant, found & or | between two comparisons without "
                    "parentheses; write `and` or `or`",
                )
        self._field(left)
        if isinstance(right, (ast.Name, ast.Attribute, ast.Subscript)):
            found = self._words(right)
            quotes = f"a text goes in quotes: '{found}'; " if isinstance(right, ast.Name) else ""
            self._fail(
                right,
                f"expected a constant, found {found}; {quotes}two fields can only be compared by "
                f"a function in Python",
            )
        self._fail(right, f"expected a constant, found {self._words(right)}")

    def _contained(self, left: ast.expr, right: ast.expr, *, negated: bool) -> Condition:
        if not isinstance(right, (ast.List, ast.Tuple, ast.Set)):
            also = ""
            if self._constant(left) is not UNSET:
                also = f"; write {self._words(right)}.matches(…) for a part of a text"
            self._fail(right, f"expected a list of constants, found {self._words(right)}{also}")
        place = self._field(left)
        constants = self._constants(right)
        inside = self._made(right, lambda: place.is_in(constants))
        return ~inside if negated else inside

    def _called(self, node: ast.Call) -> Condition:
        """Return what ``x.between(1, 5)`` and the like say."""
        called = node.func
        if not isinstance(called, ast.Attribute) or called.attr not in _METHODS:
            if self._is_field_call(node):
                found = self._words(node)
                self._fail(node, f"expected a comparison, found {found} alone; write {found} > 5")
            known = ", ".join(f"x.{name}(…)" for name in _METHODS)
            self._fail(node, f"expected {known}, found a call of {self._words(called)}")
        name = called.attr
        place = self._field(called.value)
        count = _METHODS[name]
        if node.keywords or len(node.args) != count:
            found = f"{len(node.args) + len(node.keywords)} arguments"
            found = "an argument with a name" if node.keywords else found
            self._fail(node, f"expected {name} with {count} arguments, found {found}")
        arguments: list[Any] = [self._argument(name, argument) for argument in node.args]
        if name == "matches" and "\b" in str(arguments[0]):
            self._fail(
                node.args[0],
                "expected a regular expression, found a backspace in it; write r'\\b' with an r "
                "before the quote",
            )
        return self._made(node, lambda: getattr(place, name)(*arguments))

    def _argument(self, name: str, node: ast.expr) -> Any:
        if name == "is_in":
            if not isinstance(node, (ast.List, ast.Tuple, ast.Set)):
                self._fail(node, f"expected a list of constants, found {self._words(node)}")
            return self._constants(node)
        constant = self._constant(node)
        if constant is UNSET:
            self._fail(node, f"expected a constant, found {self._words(node)}")
        return constant

    def _made(self, node: ast.expr, make: Callable[[], Any]) -> Condition:
        """Return what *make* makes; what it refuses is said to be at *node*."""
        try:
            return cast("Condition", make())
        except (TypeError, ValueError) as error:
            said = str(error)
            found = said if "expected" in said else f"expected what can be compared; {said}"
            self._fail(node, found)

    # ------------------------------------------------------------ constants

    def _constant(self, node: ast.expr) -> Any:
        """Return the constant that *node* is; `msgspec.UNSET` if it is none."""
        if isinstance(node, ast.Constant):
            is_known = node.value is None or isinstance(node.value, (bool, int, float, str, bytes))
            return node.value if is_known else UNSET
        if isinstance(node, ast.Name):
            return _WORDS.get(node.id, UNSET)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
            value = node.operand.value if isinstance(node.operand, ast.Constant) else None
            if type(value) in (int, float):
                number = cast("float", value)
                return -number if isinstance(node.op, ast.USub) else number
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "float"
            and len(node.args) == 1
            and not node.keywords
            and isinstance(argument := node.args[0], ast.Constant)
            and argument.value in ("inf", "-inf")
        ):
            return float(argument.value)
        return UNSET

    def _constants(self, node: ast.List | ast.Tuple | ast.Set) -> list[Any]:
        constants: list[Any] = []
        for item in node.elts:
            constant = self._constant(item)
            if constant is UNSET:
                self._fail(item, f"expected a constant, found {self._words(item)}")
            constants.append(constant)
        return constants

    # ------------------------------------------------------------ fields

    def _field(self, node: ast.expr) -> Field:
        """Return the field that *node* names."""
        tokens: list[str] = []
        inner = node
        while isinstance(inner, (ast.Attribute, ast.Subscript)):
            is_name = isinstance(inner, ast.Attribute)
            tokens.append(self._attribute(inner) if is_name else self._item(inner))
            inner = inner.value
        tokens.reverse()
        if isinstance(inner, ast.Name):
            name = self._written(inner, inner.id)
            if name in _WORDS:
                self._fail(inner, f"expected a field, found {name}")
            if name == "subject":
                self._fail(
                    inner,
                    "expected a field of the data, found subject, which a condition does not "
                    "see; choose events by the rule's subject, or write data.subject for a "
                    "field of that name",
                )
            return Field(tuple(tokens if name == "data" else [name, *tokens]))
        if isinstance(inner, ast.Call) and self._is_field_call(inner):
            return Field((*self._called_field(inner), *tokens))
        return self._fail(
            inner,
            f"expected a field such as place.name, found {self._words(inner)}; to calculate, "
            f"write a function in Python",
        )

    def _is_field_call(self, node: ast.Call) -> bool:
        return isinstance(node.func, ast.Name) and node.func.id == "field"

    def _called_field(self, node: ast.Call) -> tuple[str, ...]:
        """Return the path of ``field('place.name')``, as conditions print it."""
        arguments = [self._constant(argument) for argument in node.args]
        if node.keywords or len(arguments) > 1 or not all(type(a) is str for a in arguments):
            self._fail(node, f"expected field('place.name'), found {self._words(node)}")
        try:
            return field(*arguments)._path
        except ValueError as error:
            self._fail(node, str(error))

    def _attribute(self, node: ast.expr) -> str:
        assert isinstance(node, ast.Attribute)
        return self._written(node, node.attr)

    def _written(self, node: ast.expr, name: str) -> str:
        """Return *name* as it stands in the text: Python takes ``µg`` for another ``μg``."""
        if name.isascii():
            return name
        segment = ast.get_source_segment(self._source, node) or ""
        written = segment.rpartition(".")[2].strip()
        return written if unicodedata.normalize("NFKC", written) == name else name

    def _item(self, node: ast.expr) -> str:
        """Return the token of ``[0]``, ``[-1]`` or ``["odd-name"]``."""
        assert isinstance(node, ast.Subscript)
        index = self._constant(node.slice)
        if type(index) is int:
            return str(index)
        if type(index) is not str:
            self._fail(
                node.slice,
                f"expected the number of an item or a name in quotes, found "
                f"{self._words(node.slice)}",
            )
        if not index or "." in index:
            self._fail(
                node.slice,
                f"expected a name without dots, found {index!r}; what has such a name can only be "
                f"reached by a function in Python",
            )
        return index

    # ------------------------------------------------------------ refusals

    def _fail(self, node: ast.expr, problem: str) -> NoReturn:
        line = node.lineno
        before = self._source.split("\n")[line - 1].encode()[: node.col_offset]
        column = len(before.decode(errors="ignore")) + (line > 1)
        line = min(line, self._text.count("\n") + 1)
        self._refuse(line, max(column, 1), problem)

    def _refuse(self, line: int, column: int, problem: str) -> NoReturn:
        raise ExpressionError(self._text, line, column, problem) from None

    def _words(self, node: ast.expr) -> str:
        """Return *node* as it is written, shortened."""
        segment = ast.get_source_segment(self._source, node) or ""
        if (node.lineno, node.col_offset) == (1, 0):  # a tuple, which takes our parentheses
            segment = segment[1:-1]
        segment = " ".join(segment.split())
        return segment if len(segment) <= 40 else f"{segment[:39]}…"


def _operands(node: ast.BinOp) -> list[ast.expr]:
    """Return what ``a & b & c`` joins: the parser nests it to the left, however long it is."""
    found: list[ast.expr] = []
    left: ast.expr = node
    while isinstance(left, ast.BinOp) and type(left.op) is type(node.op):
        found.append(left.right)
        left = left.left
    return [left, *reversed(found)]
