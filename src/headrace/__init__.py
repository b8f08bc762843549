"""headrace: an event-driven, durable, replayable workflow engine.

Events come in, rules over them start tasks, tasks start further tasks; one log records it
all, and the engine's whole state is a fold of that log.

The names are loaded when they are first asked for (PEP 562): an app that is only imported
pays for what it declares with, not for the engine.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from headrace.version import __version__

if TYPE_CHECKING:
    from headrace.app import App
    from headrace.engine.children import Handle
    from headrace.engine.emission import Emission
    from headrace.engine.engine import Engine
    from headrace.engine.errors import (
        AppNotFound,
        CircuitOpen,
        ConcurrentSteps,
        Diverged,
        DurabilityLost,
        EngineClosed,
        EventRefused,
        HeadraceError,
        HistoryUnusable,
        LogClosed,
        LogCorrupt,
        LogError,
        LogFull,
        LogLocked,
        LogMismatch,
        LogUnusable,
        LogVersion,
        RedriveRefused,
        RemoteError,
        ResourceFailed,
        RuleNotFound,
        RulesFileError,
        RunEnded,
        RunNotFound,
        SegmentGone,
        SignalMismatch,
        SignalRefused,
        StepCancelled,
        StepFailed,
        StepLeft,
        TaskCancelled,
        TaskFailed,
        TypeChanged,
        WaitsForItself,
        WorkerDied,
        WorkerNotStarted,
    )
    from headrace.engine.event import Event, Firing
    from headrace.engine.failure import Failure
    from headrace.engine.limits import Breaker, Rate
    from headrace.engine.log import FileLog, MemoryLog
    from headrace.engine.projected import View
    from headrace.engine.resources import Resource
    from headrace.engine.retry import Retry
    from headrace.engine.run import Run
    from headrace.triggers.combine import absent, all_of, any_of, silent
    from headrace.triggers.condition import Condition
    from headrace.triggers.field import field
    from headrace.triggers.modes import fire_within, queue
    from headrace.triggers.pattern import Match, Pattern, on
    from headrace.triggers.sequences import sequence
    from headrace.triggers.steps import group, not_, step

__all__ = [
    "App",
    "AppNotFound",
    "Breaker",
    "CircuitOpen",
    "ConcurrentSteps",
    "Condition",
    "Diverged",
    "DurabilityLost",
    "Emission",
    "Engine",
    "EngineClosed",
    "Event",
    "EventRefused",
    "Failure",
    "FileLog",
    "Firing",
    "Handle",
    "HeadraceError",
    "HistoryUnusable",
    "LogClosed",
    "LogCorrupt",
    "LogError",
    "LogFull",
    "LogLocked",
    "LogMismatch",
    "LogUnusable",
    "LogVersion",
    "Match",
    "MemoryLog",
    "Pattern",
    "Rate",
    "RedriveRefused",
    "RemoteError",
    "Resource",
    "ResourceFailed",
    "Retry",
    "RuleNotFound",
    "RulesFileError",
    "Run",
    "RunEnded",
    "RunNotFound",
    "SegmentGone",
    "SignalMismatch",
    "SignalRefused",
    "StepCancelled",
    "StepFailed",
    "StepLeft",
    "TaskCancelled",
    "TaskFailed",
    "TypeChanged",
    "View",
    "WaitsForItself",
    "WorkerDied",
    "WorkerNotStarted",
    "__version__",
    "absent",
    "all_of",
    "any_of",
    "field",
    "fire_within",
    "group",
    "not_",
    "on",
    "queue",
    "sequence",
    "silent",
    "step",
]

_HOMES = {
    "App": "headrace.app",
    "AppNotFound": "headrace.engine.errors",
    "Breaker": "headrace.engine.limits",
    "CircuitOpen": "headrace.engine.errors",
    "ConcurrentSteps": "headrace.engine.errors",
    "Condition": "headrace.triggers.condition",
    "Diverged": "headrace.engine.errors",
    "DurabilityLost": "headrace.engine.errors",
    "Emission": "headrace.engine.emission",
    "Engine": "headrace.engine.engine",
    "EngineClosed": "headrace.engine.errors",
    "Event": "headrace.engine.event",
    "EventRefused": "headrace.engine.errors",
    "Failure": "headrace.engine.failure",
    "FileLog": "headrace.engine.log",
    "Firing": "headrace.engine.event",
    "Handle": "headrace.engine.children",
    "HeadraceError": "headrace.engine.errors",
    "HistoryUnusable": "headrace.engine.errors",
    "LogClosed": "headrace.engine.errors",
    "LogCorrupt": "headrace.engine.errors",
    "LogError": "headrace.engine.errors",
    "LogFull": "headrace.engine.errors",
    "LogLocked": "headrace.engine.errors",
    "LogMismatch": "headrace.engine.errors",
    "LogUnusable": "headrace.engine.errors",
    "LogVersion": "headrace.engine.errors",
    "Match": "headrace.triggers.pattern",
    "MemoryLog": "headrace.engine.log",
    "Pattern": "headrace.triggers.pattern",
    "Rate": "headrace.engine.limits",
    "RedriveRefused": "headrace.engine.errors",
    "RemoteError": "headrace.engine.errors",
    "Resource": "headrace.engine.resources",
    "ResourceFailed": "headrace.engine.errors",
    "Retry": "headrace.engine.retry",
    "RulesFileError": "headrace.engine.errors",
    "RuleNotFound": "headrace.engine.errors",
    "Run": "headrace.engine.run",
    "RunEnded": "headrace.engine.errors",
    "RunNotFound": "headrace.engine.errors",
    "SignalMismatch": "headrace.engine.errors",
    "SignalRefused": "headrace.engine.errors",
    "SegmentGone": "headrace.engine.errors",
    "StepCancelled": "headrace.engine.errors",
    "StepFailed": "headrace.engine.errors",
    "StepLeft": "headrace.engine.errors",
    "TaskCancelled": "headrace.engine.errors",
    "TaskFailed": "headrace.engine.errors",
    "TypeChanged": "headrace.engine.errors",
    "View": "headrace.engine.projected",
    "WaitsForItself": "headrace.engine.errors",
    "WorkerDied": "headrace.engine.errors",
    "WorkerNotStarted": "headrace.engine.errors",
    "absent": "headrace.triggers.combine",
    "all_of": "headrace.triggers.combine",
    "any_of": "headrace.triggers.combine",
    "field": "headrace.triggers.field",
    "fire_within": "headrace.triggers.modes",
    "group": "headrace.triggers.steps",
    "not_": "headrace.triggers.steps",
    "on": "headrace.triggers.pattern",
    "queue": "headrace.triggers.modes",
    "sequence": "headrace.triggers.sequences",
    "silent": "headrace.triggers.combine",
    "step": "headrace.triggers.steps",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'headrace' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
