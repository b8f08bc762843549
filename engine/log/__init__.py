"""Event logs: where records are kept, in memory or in a directory."""

from __future__ import annotations

from headrace.engine.log.file import FileLog
from headrace.engine.log.memory import MemoryLog
from headrace.engine.log.protocol import Durability, EventLog
from headrace.engine.log.reader import LogReader
from headrace.engine.log.recovery import Recovery

__all__ = ["Durability", "EventLog", "FileLog", "LogReader", "MemoryLog", "Recovery"]
