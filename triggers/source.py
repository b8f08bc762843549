"""The syntax of a function, as data: what it says without how it is laid out.

Finds the function's own node in its file, also that of a lambda among others on one line,
and writes the node as lists and strings that are the same in every version of Python.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Final, cast

_FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_Span = tuple[tuple[int, int], tuple[int, int]]

# Not part of what a function does, or not in every version of Python.
_LEFT_OUT: Final = frozenset(
    ("annotation", "ctx", "kind", "returns", "simple", "type_comment", "type_params")
)
_SEES_NAMES: Final = frozenset(("dir", "eval", "exec", "locals", "vars"))


class SourceUnknown(Exception):
    """The function's own source cannot be found; the message says why."""


def syntax_of(function: FunctionType) -> object:
    """Return what *function* says, as lists and strings.

    Left out are layout, comments, docstrings, annotations, its own name, its decorators
    and its defaults (they are values, not text).  Its parameters go by their place.

    Raises:
        SourceUnknown: there is no source, or not one function of it fits.
    """
    code = function.__code__
    node = _node_of(code, _text_of(function))
    arguments = node.args
    names = [argument.arg for argument in _arguments(arguments)]
    body = [node.body] if isinstance(node, ast.Lambda) else _without_docstring(node.body)
    renamed = {name: f"${place}" for place, name in enumerate(names)}
    if not _can_rename(body, renamed):
        renamed = {}
    return [
        type(node).__name__,
        _plain([arguments.posonlyargs, arguments.args], renamed),
        # These are known by name to whoever calls, or take what is left.
        [argument.arg for argument in arguments.kwonlyargs],
        [arguments.vararg is not None, arguments.kwarg is not None],
        _plain(body, renamed),
    ]


def _arguments(arguments: ast.arguments) -> Iterator[ast.arg]:
    yield from arguments.posonlyargs
    yield from arguments.args
    if arguments.vararg is not None:
        yield arguments.vararg
    yield from arguments.kwonlyargs
    if arguments.kwarg is not None:
        yield arguments.kwarg


def _text_of(function: FunctionType) -> str:
    import linecache

    name = function.__code__.co_filename
    # Some consoles keep what was typed, under such a name, but not for the next process.
    if name.startswith("<"):
        raise SourceUnknown(f"it has no source file, only {name}")
    linecache.checkcache(name)
    lines = linecache.getlines(name, function.__globals__)
    if not lines:
        raise SourceUnknown(f"its source {name} cannot be read")
    return "".join(lines)


@lru_cache(maxsize=1)  # the rules of an app are mostly in one file, and asked for in turn
def _function_nodes(text: str) -> dict[int, list[_FunctionNode]]:
    """Return the functions in *text* by the line at which Python says that they begin."""
    nodes: dict[int, list[_FunctionNode]] = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Lambda):
            nodes.setdefault(node.lineno, []).append(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            nodes.setdefault(first, []).append(node)
    return nodes


def _node_of(code: CodeType, text: str) -> _FunctionNode:
    place = f"{code.co_filename}:{code.co_firstlineno}"
    try:
        nodes = _function_nodes(text).get(code.co_firstlineno, [])
    except SyntaxError as error:
        raise SourceUnknown(f"its source {place} is not Python: {error.msg}") from error
    count = code.co_argcount + code.co_kwonlyargcount
    fitting = [
        node
        for node in nodes
        if getattr(node, "name", "<lambda>") == code.co_name
        and _positional_and_keyword(node.args) == code.co_varnames[:count]
    ]
    if len(fitting) > 1:
        fitting = _closest(fitting, code)
    if not fitting:
        raise SourceUnknown(f"the source at {place} is no longer that of the function")
    if len({ast.dump(node) for node in fitting}) > 1:
        raise SourceUnknown(f"there are several functions at {place}, and no telling which it is")
    return fitting[0]


def _positional_and_keyword(arguments: ast.arguments) -> tuple[str, ...]:
    taken = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return tuple(argument.arg for argument in taken)


def _closest(nodes: list[_FunctionNode], code: CodeType) -> list[_FunctionNode]:
    """Return those of *nodes* that hold all of *code* and no more than need be."""
    spots = list(_spots(code))
    if not spots:  # python -X no_debug_ranges
        return nodes
    holding = [(span, node) for node in nodes if _holds(span := _span(node), spots)]
    # One lambda inside another: the inner one begins last.
    last = max((span for span, _ in holding), default=None)
    return [node for span, node in holding if span == last]


def _spots(code: CodeType) -> Iterator[_Span]:
    for line, line_end, column, column_end in code.co_positions():
        if line is None or line_end is None or column is None or column_end is None:
            continue
        if (line, column) != (line_end, column_end):  # else made up by the compiler
            yield (line, column), (line_end, column_end)


def _span(node: _FunctionNode) -> _Span:
    first, last = (node.body, node.body) if isinstance(node, ast.Lambda) else (node, node)
    return (
        (first.lineno, first.col_offset),
        (last.end_lineno or last.lineno, last.end_col_offset or 0),
    )


def _holds(span: _Span, spots: list[_Span]) -> bool:
    return all(span[0] <= begin and end <= span[1] for begin, end in spots)


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    match body:
        case [ast.Expr(value=ast.Constant(value=str())), *rest]:
            return rest
        case _:
            return body


def _can_rename(body: list[ast.stmt] | list[ast.expr], renamed: dict[str, str]) -> bool:
    """Say whether the parameters are only ever seen as plain names.

    Then their names are nobody else's business.  A keyword of the same name, ``except …
    as``, ``global``, ``locals()`` and the like make renaming them more than a few lines.
    """
    for part in body:
        for node in ast.walk(part):
            if isinstance(node, ast.Name):
                if node.id in _SEES_NAMES:
                    return False
            elif not isinstance(node, ast.arg | ast.Attribute | ast.Constant):
                for _, value in ast.iter_fields(node):
                    values = cast("list[object]", value if isinstance(value, list) else [value])
                    if any(isinstance(item, str) and item in renamed for item in values):
                        return False
    return True


def _plain(part: object, renamed: dict[str, str]) -> object:
    """Return a piece of syntax as lists and strings."""
    if isinstance(part, list):
        return [_plain(item, renamed) for item in cast("list[object]", part)]
    if isinstance(part, ast.Constant):
        return ["Constant", type(part.value).__name__, ascii(part.value)]
    if isinstance(part, ast.Name):
        return ["Name", renamed.get(part.id, part.id)]
    if isinstance(part, ast.arg):
        return ["arg", renamed.get(part.arg, part.arg)]
    if isinstance(part, ast.AnnAssign) and part.value is not None:
        part = ast.Assign(targets=[part.target], value=part.value)
    if not isinstance(part, ast.AST):
        return part if part is None or isinstance(part, str) else ascii(part)
    fields: list[object] = [type(part).__name__]
    for name, value in ast.iter_fields(part):
        if name in _LEFT_OUT or value is None or value == []:
            continue
        if name == "body" and isinstance(
            part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        ):
            value = _without_docstring(value)  # noqa: PLW2901
        elif isinstance(part, ast.JoinedStr):
            # Python 3.12.0 to 3.12.2 end a format with an empty text.
            value = [v for v in value if getattr(v, "value", None) != ""]  # noqa: PLW2901
        fields.append([name, _plain(value, renamed)])
    return fields
