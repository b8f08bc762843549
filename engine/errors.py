"""Every error that headrace raises on purpose.

Wrong arguments are `ValueError` or `TypeError`, our own bugs are `assert`; what the world
does to us is a `HeadraceError`.  Each message says where, what was expected, what was
found and what to do; the parts are attributes.
"""

from __future__ import annotations

from collections.abc import Iterable
from signal import Signals
from typing import Literal

from msgspec import Struct


class HeadraceError(Exception):
    """Base of every error that headrace raises on purpose."""

    not_written: bool = False
    """Whether it is certain that nothing was stored: what was asked for can be asked again."""


class LogError(HeadraceError):
    """Base of the errors of an event log."""


class LogCorrupt(LogError):
    """Acknowledged records are damaged or missing.  Nothing was skipped and nothing was cut."""

    def __init__(
        self,
        path: str,
        offset_bytes: int,
        *,
        expected: str,
        found: str,
        first_sequence: int = 0,
        last_sequence: int = 0,
    ) -> None:
        """Describe the damage at *offset_bytes* of *path*; sequences 0 mean unknown."""
        lost = ""
        if first_sequence:
            lost = f" (records {first_sequence} to {last_sequence or 'the end'})"
        folder = path.rpartition("/")[0] or "."
        super().__init__(
            f"{path} byte {offset_bytes}{lost}: expected {expected}, found {found}; "
            f"restore a copy, or `headrace log salvage {folder} NEW` copies what is intact"
        )
        self.path = path
        self.offset_bytes = offset_bytes
        self.expected = expected
        self.found = found
        self.first_sequence = first_sequence
        self.last_sequence = last_sequence


class LogLocked(LogError):
    """Another process, or another engine of this one, holds the log.  Nothing was changed."""


class LogVersion(LogError):
    """The log was written by a newer headrace.  Nothing was changed."""


class LogMismatch(LogError):
    """The log cannot be used in the way that was asked for.  Nothing was changed."""


class LogUnusable(LogError):
    """The path is no event log, or cannot be made one.  Nothing was changed."""


class LogClosed(LogError):
    """The log or its engine was closed before the call; nothing was written."""


class SnapshotUnusable(LogError):
    """A snapshot cannot stand in for the log before it.  The log itself is whole."""


class SegmentGone(LogError):
    """Records that a reader needs were removed by retention.  Nothing was skipped."""

    def __init__(self, path: str, *, wanted: int, first_sequence: int) -> None:
        """Say that *wanted* is needed of the log at *path*, which begins at *first_sequence*."""
        super().__init__(
            f"{path}: expected record {wanted}, found that retention has removed everything "
            f"before record {first_sequence}; go on after {first_sequence - 1}, without what is "
            "between, or read an older copy"
        )
        self.path = path
        self.wanted = wanted
        self.first_sequence = first_sequence


class LogFull(LogError):
    """The disk or the quota is full, and nothing was written: `not_written` is true.

    The log goes on once there is room.  What was not written then is gone, so that emitting
    it again stores it once.
    """

    def __init__(self, message: str, *, stored: Iterable[int] = ()) -> None:
        """Say where; *stored* is for `Engine.emit_many`, whose first events may have fitted."""
        super().__init__(message)
        self.stored = list(stored)
        """The sequences of the first events of the call, which are stored and durable."""
        self.not_written = not self.stored


class DurabilityLost(LogError):
    """A write could not be made durable.  What was acknowledged is safe, nothing after it is.

    The log is failed for good: after an fsync error the kernel may have dropped the dirty
    pages, so trying again could succeed without the data.  Open the log again to go on.
    """


class EngineClosed(HeadraceError):
    """The engine is stopping or has stopped; the event was not written."""


class EventRefused(HeadraceError):
    """The event cannot be stored as given; nothing was written."""


class AppNotFound(HeadraceError):
    """The application that was named does not exist or cannot be imported."""


class StepFailed(HeadraceError):
    """A step (a task called from a run) ended without success, after its last attempt."""

    def __init__(self, task: str, run_id: int, error: str) -> None:
        """Say that run *run_id* of *task* ended with *error* (``Type: message``)."""
        super().__init__(f"step {task!r} (run {run_id}) failed: {error}")
        self.task = task
        self.run_id = run_id
        self.error = error


class StepCancelled(StepFailed):
    """A step was cancelled before it ended."""


class TaskFailed(HeadraceError):
    """A run whose result was asked for was given up: it is a dead letter."""

    def __init__(self, task: str, run_id: int, error: str) -> None:
        """Say that run *run_id* of *task* ended with *error* (``Type: message``)."""
        super().__init__(f"run {run_id} of {task!r} ended without a result: {error}")
        self.task = task
        self.run_id = run_id
        self.error = error


class TaskCancelled(TaskFailed):
    """A run whose result was asked for was cancelled."""


class ProcessDied(HeadraceError):
    """The process has died too often while a run executed, which is given up for that."""


class WorkerDied(HeadraceError):
    """The process that executed a task ended in the middle of it.  The attempt has failed."""

    def __init__(self, task: str, code: int) -> None:
        """Say that the process of *task* ended with *code*, or less a signal's number."""
        if code < 0:
            try:
                how = f"signal {Signals(-code).name}"
            except ValueError:
                how = f"signal {-code}"
        else:
            how = f"exit code {code}"
        super().__init__(
            f"task {task!r}: expected an answer of its worker process, found that it ended with "
            f"{how}; its memory, its C code, or whoever killed it will tell why"
        )
        self.task = task
        self.code = code


class WorkerNotStarted(HeadraceError):
    """No thread or process could be started for a task.  The attempt has failed.

    Its code was not called.  Whether there is another attempt is for the retry policy to say.
    """

    def __init__(self, task: str, kind: Literal["thread", "process"], why: Exception) -> None:
        """Say that no *kind* could be started for *task*, since the system raised *why*."""
        super().__init__(
            f"task {task!r}: expected a {kind} to execute it in, found that none can be started "
            f"({type(why).__name__}: {why}); see the system's limits of processes, threads, files "
            "and memory"
        )
        self.task = task
        self.kind = kind


class RemoteError(HeadraceError):
    """A task in a worker process raised an exception that cannot be made again here."""

    def __init__(self, task: str, error: str, *, kind: str = "") -> None:
        """Say that *task* raised *error* (``Type: message``), of the type *kind*."""
        super().__init__(error)
        self.task = task
        self.error = error
        self.kind = kind
        """The exception's type with its module, such as ``plant.driver.SensorGone``."""


class CircuitOpen(HeadraceError):
    """An attempt was not begun, since too many of its task have failed lately."""

    def __init__(self, task: str, failures: int, until_ns: int) -> None:
        """Say that *failures* attempts of *task* have failed, and that one is tried when."""
        super().__init__(
            f"task {task!r}: expected that its circuit is closed, found it open after {failures} "
            f"failed attempts; it is tried again at {until_ns / 1e9:.3f} (log time)"
        )
        self.task = task
        self.failures = failures
        self.until_ns = until_ns


class ConcurrentSteps(HeadraceError):
    """A step was requested from another task than the run's own."""


class StepLeft(HeadraceError):
    """A run's code was to leave a wait by a cancel scope of its own, such as a time-out.

    Its attempt fails, since it could go another way after a crash.
    """


class WaitsForItself(HeadraceError):
    """A run was to wait for its own end, or for that of a run that waits for it."""


class TypeChanged(HeadraceError):
    """What the log holds does not fit the types that the code declares by now.

    The run that meets it is given up, without another attempt.
    """


class RunEnded(HeadraceError):
    """A step was asked of a run whose code has returned.  Nothing was recorded."""


class Diverged(HeadraceError):
    """A resumed run asked for something else than what the log recorded at that place."""

    def __init__(self, run_id: int, ordinal: int, *, recorded: str, asked: str) -> None:
        """Name the call (*ordinal*, from 1), what the log holds and what the code asked."""
        super().__init__(
            f"run {run_id}, call {ordinal}: the log recorded {recorded}, the code asked for "
            f"{asked}; let old runs finish with the old code, or cancel the run"
        )
        self.run_id = run_id
        self.ordinal = ordinal
        self.recorded = recorded
        self.asked = asked


class EngineUnreachable(HeadraceError):
    """No engine answers for the log, or it stopped answering."""


class CommandRefused(HeadraceError):
    """A running engine did not carry out what it was asked for over its control socket."""


class RunNotFound(HeadraceError):
    """No active run has this id."""


class BlobUnusable(HeadraceError):
    """A large result that was stored in a file of its own is missing, or damaged.

    The run that asks for it is a dead letter; everything else goes on.
    """


class ResourceFailed(HeadraceError):
    """A resource could not be opened.  The engine has not started, and nothing was written."""


class SignalRefused(HeadraceError):
    """A run has too many signals that it has not received.  Nothing was stored."""


class SignalMismatch(HeadraceError):
    """A signal is not what its `receive` expects.  The signal is received, and recorded."""


class RedriveRefused(HeadraceError):
    """A run that was given up cannot go on as was asked.  Nothing was changed."""


class HistoryUnusable(HeadraceError):
    """Events of the past that cannot be folded: those before the place it names are stored."""


class RuleNotFound(HeadraceError):
    """No rule of this name is in force, or no alarm of it stands."""


class Problem(Struct, frozen=True):
    """One thing that is wrong in a file."""

    line: int
    """From 1; 0 if it is no matter of a line, as with a file that is not there."""
    column: int
    path: str
    """Of the key, such as ``rules.overheat.pattern.within``; empty for the file itself."""
    message: str
    """What was expected, what was found, what to do."""

    def __str__(self) -> str:
        """Return ``12:8: rules.overheat.pattern.within: expected …``."""
        place = f"{self.line}:{self.column}: " if self.line else ""
        return f"{place}{self.path}{': ' * bool(self.path)}{self.message}"


class FileProblems(HeadraceError):
    """A file that a person has written cannot be used."""

    def __init__(self, path: str, problems: Iterable[Problem]) -> None:
        """Say all *problems* of the file at *path*, in the order of their places."""
        self.path = path
        self.problems = sorted(problems, key=lambda problem: (problem.line, problem.column))
        super().__init__("\n".join(self.lines))

    @property
    def lines(self) -> list[str]:
        """One line for each problem: ``rules.toml:12:8: rules.overheat.key: expected …``."""
        return [f"{self.path}:{' ' * (not one.line)}{one}" for one in self.problems]


class RulesFileError(FileProblems):
    """A rules file cannot be used.  None of its rules was declared."""
