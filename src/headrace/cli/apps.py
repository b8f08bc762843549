"""From ``module:attribute`` or ``plant.py:app`` to the `App` itself."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Final

from headrace.cli.errors import AppBroken, Usage
from headrace.cli.text import safe, safe_lines
from headrace.engine.errors import AppNotFound, RulesFileError

if TYPE_CHECKING:
    from headrace.app import App
    from headrace.config import Config

OWN_APP: Final = "headrace"
"""The name of an app that is made of files only."""
_FORMS: Final = "module:attribute or plant.py:app"


def load(name: str, rules: Path | None = None) -> App:
    """Import the app that *name* names, to look back; it is run code, so only name what you trust.

    The attribute may be left out if there is exactly one `App`.  *name* may also be a
    configuration: then it is the app that this names, with the rules of what it forwards, and
    without sources.  The rules of the file *rules* are declared behind its own.

    Raises:
        AppNotFound: the file, the module or the attribute is not there, or is no app.
        AppBroken: it raised, and that is the cause of this.
        Usage: the name does not say which app, or a file cannot be used.
    """
    if _is_config(name):
        return _configured(Path(name), None, rules, connectors=False)[0]
    try:
        app = _load(name)
        if rules is not None:
            app.load_rules(rules)
    except RulesFileError as error:
        raise unusable(error.path, error.lines, count=len(error.lines)) from error
    return app


def load_with(
    command: str, name: str | None, rules: Path | None, config: Path | None
) -> tuple[App, Config]:
    """Import an app, to run it, and declare in it what the file *config* says, if there is one.

    Without *name* the file names the app, or the app is nothing but what the files say.  *rules*
    win over the rules file that it names.

    Raises:
        AppNotFound, AppBroken, Usage: see `load`.
    """
    from headrace.config import Config

    if name is not None and _is_config(name):
        if config is not None:
            raise Usage(
                f"{safe(name)}: expected an app beside --config, found another configuration; "
                f"name one of them"
            )
        config, name = Path(name), None
    if config is not None:
        return _configured(config, name, rules)
    if name is None:
        raise Usage(
            f"APP: expected {_FORMS}, found none; name one, or give --config; see "
            f"`headrace {command} --help`"
        )
    return load(name, rules), Config("")


def _is_config(name: str) -> bool:
    return name.endswith(".toml")


def _configured(
    config: Path, name: str | None, rules: Path | None, *, connectors: bool = True
) -> tuple[App, Config]:
    from headrace.app import App
    from headrace.config import ConfigError, read_config

    try:
        said = read_config(config, connectors=connectors)
        name = name or said.app
        app = App(OWN_APP) if name is None else _load(name)
        said.declare(app)
        if (chosen := rules or said.rules) is not None:
            app.load_rules(chosen)
    except ConfigError as error:
        raise unusable(
            error.path, error.lines, count=len(error.lines), what="a configuration"
        ) from error
    except RulesFileError as error:
        raise unusable(error.path, error.lines, count=len(error.lines)) from error
    return app, said


def unusable(
    path: str,
    lines: list[str],
    *,
    count: int,
    what: str = "rules",
    what_to_do: str = "correct them",
) -> Usage:
    """Say what is wrong with a file: a line for each problem, of *count*, and what to do."""
    if count == 1:
        return Usage(safe(lines[0]))
    usage = Usage(
        f"{safe(path)}: expected {what} that can be used, found {count} problems; {what_to_do}"
    )
    for line in lines:
        usage.add_note(safe(line))
    return usage


def _load(name: str) -> App:
    place, attribute = _split(name)
    is_file = place.endswith(".py") or os.sep in place
    path = Path(place)
    if is_file and not (path.is_file() and path.suffix == ".py"):
        found = (
            "a folder" if path.is_dir() else "another file" if path.exists() else "nothing there"
        )
        raise AppNotFound(
            f"{safe(place)}: expected a Python file, found {found}; name it as {_FORMS}"
        )
    own = str(path.resolve()) if is_file else ""
    try:
        module = _import_file(path) if is_file else _import_module(place)
    except RulesFileError:
        raise
    except (Exception, SystemExit) as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name
        if missing and not is_file and f"{place}.".startswith(f"{missing}."):
            raise AppNotFound(
                f"{safe(place)}: expected a module that can be imported, found no "
                f"{missing!r} here or among what is installed; name the app as {_FORMS}"
            ) from error
        raise _broken(place, own, error) from error
    return _app_in(module, place, attribute)


def _split(name: str) -> tuple[str, str]:
    place, colon, attribute = name.rpartition(":")
    if not colon:
        place, attribute = name, ""
    if colon and not all(part.isidentifier() for part in attribute.split(".")):
        raise Usage(
            f"APP {safe(name)!r}: expected {_FORMS}, found {safe(attribute)!r} after the colon; "
            f"give the name of a variable"
        )
    if not place:
        raise Usage(f"APP {safe(name)!r}: expected {_FORMS}, found no module and no file")
    is_file = place.endswith(".py") or os.sep in place
    if not is_file and not all(part.isidentifier() for part in place.split(".")):
        raise Usage(f"APP {safe(name)!r}: expected {_FORMS}, found a name that is neither")
    return place, attribute


def _import_module(name: str) -> ModuleType:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(name)


def _import_file(path: Path) -> ModuleType:
    """Import a file as its stem, as ``python file.py`` would find what lies beside it."""
    resolved = path.resolve()
    name = resolved.stem if resolved.stem not in sys.modules else f"headrace_app_{resolved.stem}"
    if str(resolved.parent) not in sys.path:
        sys.path.insert(0, str(resolved.parent))
    spec = importlib.util.spec_from_file_location(name, resolved)
    assert spec is not None, resolved
    assert spec.loader is not None, resolved
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # annotations of its classes are looked up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _app_in(module: ModuleType, place: str, attribute: str) -> App:
    from headrace.app import App

    apps = {key: value for key, value in vars(module).items() if isinstance(value, App)}
    if attribute:
        found: object = module
        for part in attribute.split("."):
            if not hasattr(found, part):
                in_it = (
                    f"the apps in it are: {', '.join(apps)}" if apps else "there is no app in it"
                )
                raise AppNotFound(
                    f"{safe(place)}: expected an App named {attribute!r}, found none; {in_it}"
                )
            found = getattr(found, part)
        if not isinstance(found, App):
            raise AppNotFound(
                f"{safe(place)}: expected {attribute!r} to be an App, found {_kind_of(found)}; "
                f"make one with headrace.App(name)"
            )
        return found
    names: dict[int, str] = {}  # one for each app that is there, however often it is named
    for key, app in apps.items():
        names.setdefault(id(app), key)
    if not names:
        raise AppNotFound(
            f"{safe(place)}: expected an App in it, found none; make one with headrace.App(name)"
        )
    first, *others = names.values()
    if others:
        raise Usage(
            f"{safe(place)}: expected one App, found {len(names)}: {', '.join(names.values())}; "
            f"say which, as in {safe(place)}:{first}"
        )
    return apps[first]


def _kind_of(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"{'an' if type(value).__name__[0] in 'aeiou' else 'a'} {type(value).__name__}"


def _broken(place: str, own: str, error: BaseException) -> AppBroken:
    """Say where the user's code raised, after the last lines of it that were executed."""
    what = traceback.format_exception_only(error)[-1].strip()
    if isinstance(error, SystemExit):
        what += " (put what is to run behind `if __name__ == '__main__'`)"
    where, lines = place, ""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        where = f"{_shortened(error.filename)}:{error.lineno}"
        source = (error.text or "").rstrip()
        lines = f"  {source.strip()}" if source.strip() else ""
    elif (frame := _last_frame(error.__traceback__, own)) is not None:
        where = f"{_shortened(frame.filename)}:{frame.lineno}"
        lines = f"  in {frame.name}: {frame.line}" if frame.line else ""
    broken = AppBroken(
        f"{safe(where)}: expected {safe(place)} to be importable, found {safe(what)}; "
        f"correct it (--debug shows the traceback)"
    )
    broken.add_note(safe_lines(lines))
    return broken


def _last_frame(trace: TracebackType | None, own: str) -> traceback.FrameSummary | None:
    """Return the innermost frame of the app's own code, not of what it calls."""
    here = str(Path(__file__).parents[1]) + os.sep
    frames = [
        frame
        for frame in traceback.extract_tb(trace)
        if not frame.filename.startswith((here, "<frozen", importlib.__file__ or "<"))
    ]
    mine = [frame for frame in frames if frame.filename == own]
    library = (str(Path(os.__file__).parent), str(Path(sys.prefix) / "lib"))
    frames = mine or [frame for frame in frames if not frame.filename.startswith(library)]
    return frames[-1] if frames else None


def _shortened(path: str) -> str:
    """Return *path* as seen from here, if it is below."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path
