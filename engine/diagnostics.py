"""The logger of the engine's own diagnostics.  ("Log" always means the event log.)

structlog is loaded when there is something to say.  A library does not configure it: where
the host did, its configuration holds; where it did not, lines go to the standard library's
logger ``headrace``, which by default shows warnings on stderr.
"""

from __future__ import annotations

from typing import Any


def logger() -> Any:
    """Return the engine's structlog logger."""
    import structlog

    if structlog.is_configured():
        return structlog.get_logger("headrace")
    import logging

    return structlog.wrap_logger(
        logging.getLogger("headrace"),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
