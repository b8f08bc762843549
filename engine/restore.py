"""From a log to the kernel that wrote it: what every start does first."""

from __future__ import annotations

from headrace.engine.decider import Decider
from headrace.engine.errors import LogMismatch
from headrace.engine.kernel import Kernel
from headrace.engine.log.protocol import EventLog
from headrace.engine.record import decode


def restore(log: EventLog, decider: Decider, *, clock: str | None) -> Kernel:
    """Return the kernel in the state that *log* records.  Takes as long as the log is.

    Raises:
        LogMismatch: the log goes by another clock than *clock*; with ``None`` any will do.
        LogCorrupt: damage was met.
    """
    kernel = Kernel(decider)
    for first, records in log.read():
        for sequence, raw in enumerate(records, first):
            kernel.fold(sequence, decode(raw))
    kernel.finish_fold()
    kernel.state.effects.clear()
    recorded = kernel.state.clock
    if recorded and clock is not None and recorded != clock:
        raise LogMismatch(
            f"the log goes by clock={recorded!r}, and it was opened with clock={clock!r}; open it "
            f"with clock={recorded!r}, or use another log"
        )
    return kernel
