"""`TaskSpec`: a user's function as the engine sees it.

What it takes (a run, a firing, arguments with types), what it gives, how often and how
long it is tried.  Arguments and results are stored, so their types are checked when the
task is declared, not when a crash has made them needed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from opcode import opmap
from types import CodeType
from typing import Any, Final, get_type_hints

import msgspec
from msgspec import Raw

from headrace.engine.event import Firing
from headrace.engine.limits import Limits
from headrace.engine.payload import RESULT_BYTES_MAX, encode_stable
from headrace.engine.process_wire import FunctionPath, path_of
from headrace.engine.resources import Resource
from headrace.engine.retry import check_policy


class TaskSpec:
    """One task or one rule's action."""

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        *,
        run_type: type,
        retry: Any = None,
        timeout_s: float | None = None,
        version: str | None = None,
        limits: Limits | None = None,
        is_action: bool = False,
        resources: Mapping[str, Resource[Any]] | None = None,
        process: bool = False,
        replayable: bool = False,
    ) -> None:
        """Look at *function*; *run_type* is the class that marks the parameter for a run.

        Raises:
            TypeError: an argument or the result is of a type that msgspec cannot store, or
                an action takes something else than a run and a firing.
        """
        if retry is not None:
            check_policy(f"task {name!r}", retry)
        self.name = name
        self.function = function
        self.retry = retry
        self.timeout_s = timeout_s
        self.version = version
        self.is_action = is_action
        self.limits = limits
        """What it declares beyond retries and its time-out; ``None``: nothing, as most."""
        self.replayable = replayable
        """Whether a replay may execute its code; see `headrace.engine.replay.code`."""
        self.is_async = _is_async(function)
        self.place = _place_of(function)
        hints = _hints_of(name, function)
        self._read_parameters(hints, run_type, resources or {})
        self.process_path: FunctionPath | None = path_of(name, function) if process else None
        """Where a worker process finds the function, if it is for one."""
        knows_no_run = self._knows_no_run()
        self.is_light = knows_no_run and not is_action
        """Whether it may begin, as a step, before anybody knows of its run."""
        self.never_waits = knows_no_run and not _may_wait(function)
        """Whether its code is over as soon as it has begun: nothing can cancel it."""
        if process:
            self._check_process()
        if replayable and (process or self.resources):
            found = "process=True" if process else f"the resource {next(iter(self.resources))!r}"
            raise TypeError(
                f"task {name!r}: replayable=True: expected code that a replay can execute by "
                f"itself, found {found}; leave it out"
            )
        if is_action:
            self._check_action()
        elif self.firing_name is not None:
            raise TypeError(f"task {name!r} takes a Firing; only a rule's action gets one")
        self._args_type = self._make_args_type(hints)
        self._decode_args = _decoder(name, "its arguments", self._args_type).decode
        self._decode_result = _decoder(name, "its result", hints.get("return", Any)).decode

    def _read_parameters(
        self, hints: dict[str, Any], run_type: type, resources: Mapping[str, Resource[Any]]
    ) -> None:
        name, function = self.name, self.function
        parameters = list(inspect.signature(function).parameters.values())
        self.resources = _resources_of(name, function, parameters, resources)
        """Which resource each of the parameters takes that are no arguments."""
        self.run_name = _name_of_type(parameters, hints, run_type)
        self.firing_name = _name_of_type(parameters, hints, Firing)
        self.parameters = [
            parameter
            for parameter in parameters
            if parameter.name not in (self.run_name, self.firing_name, *self.resources)
        ]
        self._run_is_first = bool(parameters) and parameters[0].name == self.run_name
        self._signature = inspect.Signature(self.parameters)
        self._names = tuple(
            parameter.name
            for parameter in self.parameters
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        )
        self._is_variadic = any(p.kind is p.VAR_POSITIONAL for p in self.parameters)
        self._is_plain = len(self._names) == len(self.parameters)
        self._stored_as = [(parameter, parameter.name) for parameter in self.parameters]
        self._by_name = {
            p.name
            for p in self.parameters
            if p.kind is p.KEYWORD_ONLY
            or (p.kind is p.POSITIONAL_OR_KEYWORD and not self._is_variadic)
        }
        """Those that the function takes by name."""
        if self.run_name is not None and not self._run_is_first and self._is_variadic:
            raise TypeError(f"task {name!r} takes *args; it must take its Run first")

    def _knows_no_run(self) -> bool:
        """Say whether an attempt is nothing but its code, which knows nothing of its run.

        And whether to call the function is nothing but to make a coroutine: what is called may
        be more than that, such as a decorator's code, and its errors are the attempt's.
        """
        code: CodeType | None = getattr(self.function, "__code__", None)
        return (
            code is not None
            and bool(code.co_flags & inspect.CO_COROUTINE)
            and not self.resources
            and self.run_name is None
            and self.timeout_s is None
            and self.limits is None
        )

    def _check_process(self) -> None:
        found = (
            "an async function"
            if self.is_async
            else f"a {'Run' if self.run_name else 'Firing'}"
            if self.run_name or self.firing_name
            else "a resource"
            if self.resources
            else "a heartbeat, which needs a Run"
            if self.limits is not None and self.limits.heartbeat_ns is not None
            else None
        )
        if found is not None:
            raise TypeError(
                f"task {self.name!r}: process=True: expected a plain function of its arguments, "
                f"since nothing else can be had in another process, found {found}"
            )

    def _check_action(self) -> None:
        needed = [p for p in self.parameters if p.default is p.empty and p.kind not in _VARIADIC]
        if needed:
            raise TypeError(
                f"rule {self.name!r}: its action takes {needed[0].name!r}; expected "
                f"`run: Run`, `firing: Firing[...]`, both or neither, by annotation"
            )

    def _make_args_type(self, hints: dict[str, Any]) -> type:
        fields: list[tuple[str, Any, Any]] = []
        for parameter in self.parameters:
            kind = hints.get(parameter.name, Any)
            if parameter.kind is parameter.VAR_POSITIONAL:
                kind = list[kind]  # type: ignore[valid-type]
            elif parameter.kind is parameter.VAR_KEYWORD:
                kind = dict[str, kind]  # type: ignore[valid-type]
            fields.append((parameter.name, kind, msgspec.field(default=msgspec.UNSET)))
        return msgspec.defstruct(f"{self.name}_args", fields, forbid_unknown_fields=True)

    def encode_args(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Raw:
        """Bind and encode a call, as a map by parameter name in deterministic order.

        Raises:
            TypeError: the call does not fit the signature.
            EventRefused: the arguments cannot be stored.
        """
        if self._is_plain and not kwargs and len(args) == len(self._names):
            bound: dict[str, Any] = dict(zip(self._names, args, strict=True))
        else:
            try:
                arguments = self._signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"task {self.name!r}: {error}") from None
            arguments.apply_defaults()
            bound = dict(arguments.arguments)
        return encode_stable(bound, f"task {self.name!r}, arguments")

    def decode_args(self, raw: bytes | Raw) -> tuple[list[Any], dict[str, Any]]:
        """Return the positional and keyword arguments that *raw* holds.

        Raises:
            msgspec.ValidationError: they do not fit the parameters.
        """
        stored = self._decode_args(raw)
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for parameter, name in self._stored_as:
            value = getattr(stored, name)
            if value is msgspec.UNSET:  # it was declared without this one
                value = _default_of(parameter)
            if name in self._by_name:
                kwargs[name] = value
                continue
            if parameter.kind is parameter.VAR_POSITIONAL:
                args.extend(value)
            elif parameter.kind is parameter.VAR_KEYWORD:
                kwargs.update(value)
            else:
                args.append(value)
        return args, kwargs

    def bind(self, args: list[Any], kwargs: dict[str, Any]) -> Callable[[], Any]:
        """Return the call of the function with stored arguments, the run and the firing.

        The run goes first where the function takes other arguments by position.
        """
        if args and self.run_name is not None:
            return partial(self.function, kwargs.pop(self.run_name), *args, **kwargs)
        return partial(self.function, *args, **kwargs)

    def encode_result(self, value: Any) -> Raw:
        """Encode what the function returned.

        Raises:
            EventRefused: it cannot be stored.
        """
        return encode_stable(value, f"task {self.name!r}, result", bytes_max=RESULT_BYTES_MAX)

    def decode_result(self, raw: bytes | Raw) -> Any:
        """Return a stored result, as the type of the annotation.

        Raises:
            msgspec.ValidationError: it does not fit the annotation.
        """
        return self._decode_result(raw)


_YIELD: Final = opmap["YIELD_VALUE"]
"""What each ``await`` comes to."""
_VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _place_of(function: Callable[..., Any]) -> str:
    """Return where a function is, for people."""
    code: CodeType | None = getattr(function, "__code__", None)
    return repr(function) if code is None else f"{code.co_filename}:{code.co_firstlineno}"


def _may_wait(function: Callable[..., Any]) -> bool:
    """Say whether an async function has any place at which it lets others go on."""
    code: CodeType = function.__code__
    return _YIELD in code.co_code[::2]  # an instruction is two bytes


def _default_of(parameter: inspect.Parameter) -> Any:
    """Return what a parameter is if the stored call says nothing of it."""
    if parameter.kind is parameter.VAR_POSITIONAL:
        return []
    if parameter.kind is parameter.VAR_KEYWORD:
        return {}
    if parameter.default is parameter.empty:
        raise msgspec.ValidationError(f"Object missing required field `{parameter.name}`")
    return parameter.default


def _is_async(function: Callable[..., Any]) -> bool:
    call = getattr(function, "__call__", None)  # noqa: B004 (an object with async __call__)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def _hints_of(
    name: str, function: Callable[..., Any], *, with_marks: bool = False
) -> dict[str, Any]:
    written: Any = function
    while isinstance(written, partial):
        written = written.func
    if not isinstance(written, type) and not hasattr(written, "__name__"):
        written = type(written).__call__  # an object that can be called
    try:
        return get_type_hints(written, include_extras=with_marks)
    except NameError as error:
        raise TypeError(
            f"task {name!r}: an annotation cannot be resolved: {error}; "
            f"import its type at module level, not under TYPE_CHECKING"
        ) from error


def _resources_of(
    name: str,
    function: Callable[..., Any],
    parameters: list[inspect.Parameter],
    declared: Mapping[str, Resource[Any]],
) -> dict[str, str]:
    """Return the resource that each parameter is annotated with.

    Raises:
        TypeError: it is of another app, or its parameter would be passed by position.
    """
    if not declared and not any("Annotated" in str(p.annotation) for p in parameters):
        return {}
    hints = _hints_of(name, function, with_marks=True)
    found: dict[str, str] = {}
    is_variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    for parameter in parameters:
        for mark in getattr(hints.get(parameter.name), "__metadata__", ()):
            resource = declared.get(mark) if isinstance(mark, str) else mark
            if not isinstance(resource, Resource):
                continue
            if declared.get(resource.name) is not resource:
                raise TypeError(
                    f"task {name!r}: expected a resource of this app for {parameter.name!r}, found "
                    f"{resource!r} of another"
                )
            by_position = is_variadic and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            if by_position or parameter.kind is parameter.POSITIONAL_ONLY:
                raise TypeError(
                    f"task {name!r}: {parameter.name!r} is a resource, and passed by position; "
                    f"let it stand behind a *"
                )
            found[parameter.name] = resource.name
    return found


def _name_of_type(
    parameters: list[inspect.Parameter], hints: dict[str, Any], wanted: type
) -> str | None:
    for parameter in parameters:
        hint = hints.get(parameter.name)
        if hint is wanted or getattr(hint, "__origin__", None) is wanted:
            return parameter.name
    return None


def _decoder(name: str, what: str, kind: Any) -> msgspec.msgpack.Decoder[Any]:
    try:
        return msgspec.msgpack.Decoder(kind)
    except TypeError as error:
        raise TypeError(
            f"task {name!r}: {what} cannot be stored: {error}; use types that msgspec decodes"
        ) from error
