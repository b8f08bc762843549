"""``headrace``: from the arguments to a command, and from its end to an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from types import TracebackType

from headrace.cli.errors import BROKEN_PIPE, FAILURE, INTERRUPTED, OK, USAGE, code_of
from headrace.cli.text import safe
from headrace.engine.errors import HeadraceError

DEBUG = "--debug"


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command and return its exit code.

    Whatever goes wrong ends in one line on stderr: where, what was expected, what was
    found, what to do.
    """
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    debug = DEBUG in tokens
    if arguments is None and not debug:
        sys.excepthook = _say_bug
    try:
        code = _dispatch(_tokens(tokens))
        sys.stdout.flush()
    except HeadraceError as error:
        code = _fail(error, code_of(error), debug=debug)
    except BrokenPipeError:
        return _reader_has_gone()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except OSError as error:
        place = error.filename or "output"
        code = _fail(error, FAILURE, text=f"{place}: {error.strerror or error}", debug=debug)
    if arguments is None and "headrace.cli.run" in sys.modules:
        from headrace.cli.run import leave_threads_behind

        leave_threads_behind(code)
    return code


def _tokens(tokens: list[str]) -> list[str]:
    """Take out what cyclopts need not know: ``--debug``, and a value that is just ``-``."""
    plain: list[str] = []
    for token in tokens:
        if token == "-" and plain and plain[-1] in ("--from", "--jsonl"):
            plain[-1] += "=-"
        elif token != DEBUG:
            plain.append(token)
    return plain


def _dispatch(tokens: list[str]) -> int:
    from cyclopts import CycloptsError

    from headrace.cli import ruling

    try:
        result = ruling.app(tokens, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        command = " ".join(["headrace", *(error.command_chain or ())])
        return _fail(
            error,
            USAGE,
            text=f"{_usage(str(error))}; see `{command} --help`",
            debug=False,
        )
    return result if isinstance(result, int) else OK


def _fail(error: BaseException, code: int, *, text: str | None = None, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(error)
    for note in getattr(error, "__notes__", ()):
        sys.stderr.write(f"{note}\n")
    sys.stderr.write(f"headrace: {_one_line(text or str(error))}\n")
    return code


def _usage(text: str) -> str:
    """Return what cyclopts found wrong; the commands, of which it names a few, are in the help."""
    return _one_line(text).partition(" Available commands:")[0].rstrip(".")


def _one_line(text: str) -> str:
    return safe(" ".join(text.split("\n")).strip())


def _reader_has_gone() -> int:
    """Let the interpreter flush into nothing what nobody reads."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return BROKEN_PIPE


def _say_bug(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
    """Say an exception that nobody expected on one line; the exit code is 1."""
    name = kind.__name__
    text = f"{name}: {error}" if str(error) else name
    sys.stderr.write(
        f"headrace: internal error: {_one_line(text)}; please report it with what {DEBUG} shows\n"
    )
