"""`RoomWatch`: warns before the disk is full, while there is still something to be done."""

from __future__ import annotations

from typing import Final

import anyio

from headrace.engine.diagnostics import logger
from headrace.engine.log.protocol import EventLog

INTERVAL_S: Final = 30.0
LOW_BYTES: Final = 512 * 1024 * 1024
LOW_SHARE: Final = 0.05
"""Less than this share of the disk is little, unless it is more than `LOW_BYTES`."""


class RoomWatch:
    """Looks now and then how much room a log has left, and says so when it gets little."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.is_low = False

    async def run(self) -> None:
        """Look for as long as it is not cancelled."""
        while True:
            self.look()
            await anyio.sleep(INTERVAL_S)

    def look(self) -> None:
        """Look once; warn when there is little room and there was more before."""
        try:
            room = self._log.disk_room()
        except OSError:
            return  # the log's writer meets whatever this is, and says it
        was_low = self.is_low
        self.is_low = room is not None and room[0] < min(LOW_BYTES, LOW_SHARE * room[1])
        if room is not None and self.is_low and not was_low:
            logger().warning("disk_low", free_bytes=room[0], total_bytes=room[1])
