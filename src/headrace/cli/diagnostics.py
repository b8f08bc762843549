"""The logger of a command: lines for people on a terminal, JSON for programs; to stderr.

A library never configures the host's logging; this is the host.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, Literal

from headrace.cli.text import safe, safe_lines

LogFormat = Literal["auto", "human", "json"]

SECRETS: Final = frozenset(
    [
        "api_key",
        "authorization",
        "cookie",
        "password",
        "secret",
        "set-cookie",
        "signature",
        "token",
        "x-api-key",
    ]
)
"""Names under which a value is never shown."""


def configure(log_format: LogFormat) -> None:
    """Send the engine's diagnostics, and those of ``run.logger``, to stderr."""
    import structlog

    on_terminal = sys.stderr.isatty()
    human = log_format == "human" or (log_format == "auto" and on_terminal)
    renderer: Any = (
        structlog.dev.ConsoleRenderer(
            colors=on_terminal and not _no_color(),
            exception_formatter=structlog.dev.plain_traceback,
        )
        if human
        else structlog.processors.JSONRenderer(sort_keys=False)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact,
            escape,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=structlog.WriteLoggerFactory(file=_Stderr()),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )


def logger() -> Any:
    """Return the logger of the command itself."""
    import structlog

    return structlog.get_logger("headrace")


def redact(_logger: object, _name: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Hide what is named like a secret."""
    for key in event:
        if key.lower() in SECRETS:
            event[key] = "***"
    return event


def escape(_logger: object, _name: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Let no value move the cursor or fake a line."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = safe_lines(value) if key == "exception" else safe(value)
    return event


def _no_color() -> bool:
    import os

    return bool(os.environ.get("NO_COLOR"))


class _Stderr:
    """Whatever ``sys.stderr`` is at the time: a progress bar puts itself in front of it."""

    def write(self, text: str) -> int:
        """Write *text*."""
        return sys.stderr.write(text)

    def flush(self) -> None:
        """Flush."""
        sys.stderr.flush()
