"""The garbage collector, in a process that does nothing but run an app.

Records, runs and their tasks are freed by their reference counts; what the collector is there for
are the few cycles that user code and event loops make.  With Python's own threshold it looks at
what is under way each 700 objects that have come to be, and seldom finds anything.
"""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

THRESHOLDS: Final = (100_000, 20, 50)
"""Objects that come to be between two looks at the youngest, and how often the others are seen."""


@contextmanager
def seldom_collected() -> Generator[None]:
    """Let the collector leave alone what is there now, and look less often at what comes.

    For who owns the process: a library would change this for its host.
    """
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        if not frozen:  # else somebody else has wished it, and would not get that back
            gc.unfreeze()
