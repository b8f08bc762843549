"""Defaults of an engine that its callers need to know without loading it."""

from __future__ import annotations

from typing import Final

GRACE_S: Final = 10.0
"""How long active runs may go on when an engine is closed."""
DEDUPE_WINDOW_S: Final = 600.0
"""How long the id of an event is remembered."""
SNAPSHOT_EVERY: Final = 100_000
"""After how many records the state is written to a snapshot."""
CRASH_ATTEMPTS_MAX: Final = 3
"""How often a run may kill the process before it is given up."""
PROBE_S: Final = 5.0
"""How often a full disk is looked at for room."""
PENDING_RUNS_MAX: Final = 50_000
"""While more runs than this are open that wait for no time, whoever emits from outside waits."""
