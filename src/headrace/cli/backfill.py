"""``headrace backfill``: fold events of the past into an app's rules, before it goes live."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from headrace.cli.errors import OK
from headrace.cli.output import Output, facts, write_document
from headrace.cli.text import rfc3339

if TYPE_CHECKING:
    from headrace.app import App


def backfill(
    app: App, history: Path, log: Path, output: Output, *, clock: Literal["system", "input"]
) -> int:
    """Store the events of *history*, a file or an older log, and print what it came to."""
    done = app.backfill(log, history, clock=clock)
    document: dict[str, Any] = {
        "log": str(log),
        "events": done.events,
        "stored_before": done.before,
        "known_by_id": done.known,
        "firings_without_effect": done.firings,
        "live_from": rfc3339(done.at_ns),
    }
    write_document(document, output, lambda: facts(list(document.items())))
    return OK
