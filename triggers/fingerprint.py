"""`fingerprint`: a digest of all that decides what a rule does (law L8).

Data counts by its value, a condition made with `field` too, and a function by what it
says: its syntax tree without layout, comments, docstrings, annotations and the names of its
parameters, the values of its defaults and those that it closes over.  Never bytecode, which
differs between versions of Python.  What a function reads from its module is not covered:
`globals_read` lists that.

What the digest is of must never change by accident: every rule of every log would look
changed.  `tests/triggers/test_fingerprint.py` holds some known digests.
"""

from __future__ import annotations

import builtins
import contextlib
import enum
import functools
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

import msgspec

from headrace.triggers.condition import Condition, FieldReader

DIGEST_BYTES: Final = 16

_PLAIN: Final = (type(None), bool, int, float, complex, str, bytes, type(...))
_BUILTIN: Final = (
    types.BuiltinFunctionType,
    types.ClassMethodDescriptorType,
    types.MethodDescriptorType,
    types.MethodWrapperType,
    types.WrapperDescriptorType,
)
_READS_GLOBAL: Final = ("LOAD_GLOBAL", "LOAD_NAME")
_encode = msgspec.msgpack.Encoder(order="deterministic").encode


def fingerprint(*parts: object, version: str | None = None) -> str:
    """Return a digest of *parts*: 32 hexadecimal digits, the same in every process.

    *version* stands for every function among them; then it alone says whether a function
    has changed.  The data counts in any case.

    Raises:
        TypeError: a part cannot be digested, and there is no *version* to stand for it.
    """
    import hashlib

    digested = [version, [_part(part, version) for part in parts]]
    return hashlib.blake2b(_encode(digested), digest_size=DIGEST_BYTES).hexdigest()


def globals_read(function: Callable[..., Any]) -> list[str]:
    """Return the names that *function* reads from its module, sorted.

    A change of what they name does not change the fingerprint.  Functions inside it and
    those that it closes over count; modules of the standard library do not.
    """
    names: set[str] = set()
    _add_globals(function, names, seen=set())
    return sorted(names)


def _part(part: object, version: str | None) -> object:
    if (
        version is not None
        and callable(part)
        and not isinstance(part, (type, Condition, FieldReader))
    ):
        return ["version"]
    try:
        return _value(part, ())
    except RecursionError:
        raise TypeError(f"{_name_of(part)}: it is nested too deeply to be digested") from None


def _value(value: object, inside: tuple[int, ...]) -> object:
    """Return *value* as lists and strings; *inside* are the ids of what it is part of."""
    kind = type(value)
    if kind in _PLAIN:
        return [kind.__name__, ascii(value)]
    if id(value) in inside:  # a function that calls itself, a list that holds itself
        return ["inside", inside[::-1].index(id(value))]
    inside = (*inside, id(value))
    if isinstance(value, enum.Enum):
        return ["enum", _title(kind), value.name, _value(value.value, inside)]
    if isinstance(value, type):
        return ["type", _title(value)]
    if isinstance(value, types.ModuleType):
        return ["module", value.__name__]
    if kind in (list, tuple):
        return [kind.__name__, *(_value(item, inside) for item in _items(value))]
    if kind in (set, frozenset):
        return ["set", *sorted((_value(item, inside) for item in _items(value)), key=_encode)]
    if isinstance(value, dict):
        pairs = [[_value(k, inside), _value(v, inside)] for k, v in value.items()]
        return [_title(kind), *sorted(pairs, key=_encode)]
    if isinstance(value, (Condition, FieldReader)):
        return ["condition", _value(value.structure, inside)]
    if callable(value):
        return _function(value, inside)
    return _data(value, inside)


def _items(value: object) -> Iterable[Any]:
    return cast("Iterable[Any]", value)


def _data(value: object, inside: tuple[int, ...]) -> object:
    kind = type(value)
    fields = _fields(value)
    if fields is not None:
        return [_title(kind), *([name, _value(field, inside)] for name, field in fields)]
    try:
        return [_title(kind), _encode(value).hex()]
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise _undigestible(value, f"{_title(kind)} is no data that msgspec encodes") from error


def _fields(value: object) -> list[tuple[str, Any]] | None:
    """Return the fields of a struct or dataclass by name; ``None`` for anything else."""
    names: Iterable[str] | None
    if isinstance(value, msgspec.Struct):
        names = value.__struct_fields__
    else:
        names = getattr(value, "__dataclass_fields__", None)
    return None if names is None else [(name, getattr(value, name)) for name in names]


def _function(function: Callable[..., Any], inside: tuple[int, ...]) -> object:
    if isinstance(function, types.FunctionType):
        return _written(function, inside)
    if isinstance(function, types.MethodType):
        return ["method", _value(function.__func__, inside), _value(function.__self__, inside)]
    if isinstance(function, functools.partial):
        arguments = [_value(function.args, inside), _value(function.keywords, inside)]
        return ["partial", _value(function.func, inside), *arguments]
    if isinstance(function, _BUILTIN):
        return _builtin(function, inside)
    if type(function).__module__ == "operator":  # itemgetter, attrgetter, methodcaller
        return [_title(type(function)), _value(function.__reduce__()[1], inside)]
    if _fields(function) is not None:
        # An object that can be called: what it holds, and what calling it does.
        call = type(function).__call__
        return ["callable", _data(function, inside), _value(call, inside)]
    raise _undigestible(function, f"{_title(type(function))} has no source to digest")


def _builtin(function: Any, inside: tuple[int, ...]) -> object:
    owner = getattr(function, "__self__", None)
    if owner is None or isinstance(owner, types.ModuleType):
        module = getattr(function, "__module__", None) or getattr(owner, "__name__", "")
        return ["builtin", f"{module}.{function.__qualname__}"]
    return ["builtin", function.__qualname__, _value(owner, inside)]


def _written(function: types.FunctionType, inside: tuple[int, ...]) -> object:
    from headrace.triggers.source import SourceUnknown, syntax_of

    try:
        syntax = syntax_of(function)
    except SourceUnknown as error:
        raise _undigestible(function, str(error)) from error
    cells = [
        [name, _cell(cell, inside)]
        for name, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        )
    ]
    return [
        "function",
        syntax,
        _value(function.__defaults__, inside),
        _value(function.__kwdefaults__, inside),
        cells,
    ]


def _cell(cell: types.CellType, inside: tuple[int, ...]) -> object:
    try:
        content = cell.cell_contents
    except ValueError:
        return ["unbound"]
    return _value(content, inside)


def _undigestible(value: object, reason: str) -> TypeError:
    return TypeError(
        f'{_name_of(value)}: {reason}; give the rule version="1" and another one whenever '
        f"what it does changes"
    )


def _name_of(value: object) -> str:
    if isinstance(value, types.FunctionType):
        code = value.__code__
        return f"{value.__qualname__} ({code.co_filename}:{code.co_firstlineno})"
    return repr(value)


def _title(kind: type) -> str:
    # Without its module, which is `__main__` when the app is run as a script.
    return kind.__qualname__


def _add_globals(function: object, names: set[str], *, seen: set[int]) -> None:
    if id(function) in seen:
        return
    seen.add(id(function))
    if isinstance(function, types.MethodType):
        _add_globals(function.__func__, names, seen=seen)
    elif isinstance(function, functools.partial):
        _add_globals(function.func, names, seen=seen)
    elif isinstance(function, types.FunctionType):
        module = function.__globals__
        for name in _global_names(function.__code__):
            if name in module:
                is_ours = not _is_standard(module[name])
            else:
                is_ours = name not in dir(builtins)
            if is_ours:
                names.add(name)
        for cell in function.__closure__ or ():
            with contextlib.suppress(ValueError):  # not bound yet
                _add_globals(cell.cell_contents, names, seen=seen)


def _global_names(code: types.CodeType) -> set[str]:
    import dis

    names = {i.argval for i in dis.get_instructions(code) if i.opname in _READS_GLOBAL}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _global_names(constant)
    return names


def _is_standard(value: object) -> bool:
    if not isinstance(value, types.ModuleType):
        return False
    return value.__name__.partition(".")[0] in sys.stdlib_module_names
