"""How a worker process finds the function of a task: it imports the module, and is told where."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from contextvars import ContextVar
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from headrace.engine.process_wire import SCRIPT, FunctionPath
from headrace.engine.run import Run
from headrace.engine.task import TaskSpec

_IMPORTING: Final[ContextVar[str]] = ContextVar("importing", default="")
"""The file that a worker is importing, or nothing."""


def refuse_in_import() -> None:
    """Let no engine be opened by a module that a worker imports to find a function.

    It would start workers of its own, which import that module in turn, and so on for ever.

    Raises:
        RuntimeError: says what to do.
    """
    file = _IMPORTING.get()
    if file:
        raise RuntimeError(
            f"app.open: expected the main program, found a worker process that imports {file} to "
            'find a task; put what the program does below `if __name__ == "__main__":`'
        )


class Functions:
    """The functions that were asked for so far."""

    def __init__(self) -> None:
        """None yet."""
        self._specs: dict[tuple[str, FunctionPath], TaskSpec] = {}
        self._modules: dict[str, ModuleType] = {}

    def find(self, task: str, path: FunctionPath) -> TaskSpec:
        """Return the function at *path*, as the task that it is declared as.

        Raises:
            ImportError: it is not there.
            Exception: what its module raises when it is imported.
        """
        spec = self._specs.get((task, path))
        if spec is None:
            spec = self._specs[task, path] = self._load(task, path)
        return spec

    def _load(self, task: str, path: FunctionPath) -> TaskSpec:
        module = self._modules.get(path.module)
        if module is None:
            token = _IMPORTING.set(path.file or path.module)
            try:
                module = self._modules[path.module] = _imported(path)
            finally:
                _IMPORTING.reset(token)
        try:
            function: Any = reduce(getattr, path.qualname.split("."), module)
        except AttributeError:
            raise ImportError(
                f"task {task!r}: expected {path.qualname!r} in {path.module} ({path.file}), found "
                f"no such name; has the file changed since the engine was started?"
            ) from None
        return TaskSpec(task, function, run_type=Run)


def _imported(path: FunctionPath) -> ModuleType:
    if path.module == "__main__":
        return _loaded(path, SCRIPT)
    module = _by_name(path)
    root = None if module is not None else _root_of(path)
    if root is not None and root not in sys.path:
        # As pytest does it: for a module that is imported by its name, and is on no path.
        sys.path.append(root)
        importlib.invalidate_caches()
        module = _by_name(path)
    return _loaded(path, path.module) if module is None else module


def _by_name(path: FunctionPath) -> ModuleType | None:
    """Import the module as everybody does; ``None`` if that leads nowhere, or elsewhere."""
    try:
        spec = importlib.util.find_spec(path.module)
    except ModuleNotFoundError as error:  # of a package that it is in
        if not f"{path.module}.".startswith(f"{error.name}."):
            raise
        return None
    if spec is None or not _is_same(spec.origin, path.file):
        return None
    return importlib.import_module(path.module)


def _is_same(found: str | None, wanted: str | None) -> bool:
    if found is None or wanted is None:
        return True  # it has no file, as a module that is built in
    try:
        return Path(found).samefile(wanted)
    except OSError:  # it is in an archive
        return found == wanted


def _root_of(path: FunctionPath) -> str | None:
    """Return the folder from which the module's name leads to its file, if there is one."""
    if path.file is None:
        return None
    names = path.module.split(".")
    file = Path(path.file)
    place = file.parent if file.stem == "__init__" else file.with_suffix("")
    return str(place.parents[len(names) - 1]) if place.parts[-len(names) :] == (*names,) else None


def _loaded(path: FunctionPath, name: str) -> ModuleType:
    """Load the module from its file, under *name*.

    A script is not called ``__main__``, so that what it does when it is run is not done here.
    """
    if path.file is None:
        raise ModuleNotFoundError(f"no module {path.module!r}, and no file to load it from")
    spec = importlib.util.spec_from_file_location(name, path.file)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"{path.file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
