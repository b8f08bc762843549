"""headrace: an event-driven, durable, replayable workflow engine.

Events come in, rules over them start tasks, tasks start further tasks; one log records it
all, and the engine's whole state is a fold of that log.
"""

from headrace.app import App
from headrace.engine.engine import Emission, Engine
from headrace.engine.errors import (
    AppNotFound,
    ConcurrentSteps,
    Diverged,
    DurabilityLost,
    EngineClosed,
    EventRefused,
    HeadraceError,
    LogClosed,
    LogCorrupt,
    LogError,
    LogFull,
    LogLocked,
    LogMismatch,
    LogUnusable,
    LogVersion,
    RunNotFound,
    StepCancelled,
    StepFailed,
)
from headrace.engine.event import Event, Firing
from headrace.engine.log import FileLog, MemoryLog
from headrace.engine.retry import Retry
from headrace.engine.run import Handle, Run
from headrace.triggers.pattern import Pattern, any_of, on, silent
from headrace.version import __version__

__all__ = [
    "App",
    "AppNotFound",
    "ConcurrentSteps",
    "Diverged",
    "DurabilityLost",
    "Emission",
    "Engine",
    "EngineClosed",
    "Event",
    "EventRefused",
    "FileLog",
    "Firing",
    "Handle",
    "HeadraceError",
    "LogClosed",
    "LogCorrupt",
    "LogError",
    "LogFull",
    "LogLocked",
    "LogMismatch",
    "LogUnusable",
    "LogVersion",
    "MemoryLog",
    "Pattern",
    "Retry",
    "Run",
    "RunNotFound",
    "StepCancelled",
    "StepFailed",
    "__version__",
    "any_of",
    "on",
    "silent",
]
