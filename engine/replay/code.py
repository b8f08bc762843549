"""`replay_runs`: execute the code of tasks once more, against what their runs have recorded.

Only of tasks that are declared ``replayable=True``: what their code does besides its calls
happens again.  Each call is answered with what is recorded of it, so nothing that it calls is
executed, and nothing is stored.  The code is driven without an event loop: every answer is
there at once, and code that waits for anything else is no code that can be replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, Final, NoReturn, cast

import msgspec
from msgspec import Struct

from headrace.engine import record as r
from headrace.engine.attempt import ERROR_CHARS_MAX, error_text
from headrace.engine.decider import Decider
from headrace.engine.errors import BlobUnusable, LogCorrupt
from headrace.engine.executor import Executor
from headrace.engine.firings import FiringLoader
from headrace.engine.kernel import Kernel
from headrace.engine.log.protocol import EventLog
from headrace.engine.replay.stretch import Stretch
from headrace.engine.run import Run
from headrace.engine.run_state import RunState
from headrace.engine.task import TaskSpec
from headrace.engine.versions import spec_for

SHOWN_MAX: Final = 1000
FROM_OUTSIDE: Final = ("TimeoutError", "ProcessDied", "StepLeft")
"""Errors that come to code from outside, and so do not come again."""
ADDED: Final = (" (and its retry policy raised ", " (not tried again: ")
"""How begins what the engine adds to what an error says when it records it."""
Ended = r.RunCompleted | r.RunFailed | r.AttemptFailed


class Strayed(Struct, frozen=True):
    """A run whose code does not do again what is recorded."""

    run: int
    task: str
    sequence: int
    """Of the record that ended its attempt."""
    what: str


class CodeReplayed(Struct, kw_only=True):
    """What the replay of code came to, in attempts."""

    same: int = 0
    """They did again what is recorded."""
    differ: int = 0
    skipped: int = 0
    """They are of tasks that are not declared ``replayable=True``, were ended from outside, or
    need a large result that is not there any more."""
    strayed: list[Strayed] = []
    """Those that differ; at most `SHOWN_MAX`."""
    damage: LogCorrupt | None = None
    """What ended it before the end of the log."""


class _Stray(BaseException):
    """The code asks for what is not recorded, and is not to go on.

    No `Exception`, so that it does not take that for a failure of what it calls.
    """


def replay_runs(stretch: Stretch, decider: Decider, specs: Mapping[str, TaskSpec]) -> CodeReplayed:
    """Execute the code of each attempt that has ended in *stretch*, and compare.

    *specs* are the declared tasks, by name, and by name and version.

    Raises:
        LogMismatch: records are missing that the state follows from.
    """
    kernel, problems = stretch.kernel(decider)
    replayed = CodeReplayed()
    executor = _Recorded(stretch.log, kernel, specs)
    load_firing = FiringLoader(decider, cast("EventLog", stretch.log))
    try:
        for first, batch in stretch.batches(kernel, problems):
            for sequence, raw in enumerate(batch, first):
                record = stretch.decode(sequence, raw)
                if isinstance(record, Ended):
                    run = kernel.state.runs.active.get(record.run)
                    if run is not None:
                        spec = spec_for(specs, run)
                        what = _checked(executor, spec, run, record, load_firing)
                        _note(replayed, run, sequence, what)
                kernel.fold(sequence, record)
            kernel.state.effects.clear()
            kernel.divergences.clear()
    except LogCorrupt as damage:
        replayed.damage = damage
    return replayed


def _note(replayed: CodeReplayed, run: RunState, sequence: int, what: str | None) -> None:
    if what is None:
        replayed.skipped += 1
    elif not what:
        replayed.same += 1
    else:
        replayed.differ += 1
        if len(replayed.strayed) < SHOWN_MAX:
            replayed.strayed.append(Strayed(run.id, run.task, sequence, what))


def _checked(
    executor: _Recorded,
    spec: TaskSpec | None,
    run: RunState,
    record: Ended,
    load_firing: Callable[[RunState], Any],
) -> str | None:
    """Return in what way the code strays; empty: in none; ``None``: it is not to be executed."""
    recorded = None if isinstance(record, r.RunCompleted) else record.error
    if (
        spec is None
        or not spec.replayable
        or run.failing is not None
        or run.status != "active"
        or (recorded is not None and recorded.partition(":")[0] in FROM_OUTSIDE)
    ):
        return None
    attempt = Run(cast("Executor", executor), run, executor.host)
    value: Any = None
    executor.begin()
    try:
        value = _called(executor, spec, attempt, run, load_firing)
        result = bytes(spec.encode_result(value))
    except BlobUnusable:
        return None  # an answer that was too large for the log, and is gone or damaged
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 (the run boundary)
        return executor.stray or _other_error(recorded, error_text(error))
    finally:
        attempt.is_over = True
    if executor.stray is not None:
        return executor.stray
    if recorded is not None:
        return f"recorded is {recorded}, and it returned {value!r:.120}"
    assert isinstance(record, r.RunCompleted)
    return _other_end(attempt, run, record, result)


def _other_error(recorded: str | None, raised: str) -> str:
    """Return in what way *raised* is another error than *recorded*; empty: in none."""
    if recorded is None:
        return f"recorded is that it completed, and it raised {raised}"
    said = recorded
    for added in ADDED:
        said = said.partition(added)[0]
    # What is added takes the place of the end of a text that is too long with it.
    is_cut = len(recorded) >= ERROR_CHARS_MAX and raised.startswith(said)
    if raised in (recorded, said) or is_cut:
        return ""
    return f"recorded is {recorded}, and it raised {raised}"


def _other_end(attempt: Run, run: RunState, record: r.RunCompleted, result: bytes) -> str:
    """Return in what way a run has ended otherwise than *record* says; empty: in none."""
    if record.blob is None and result != bytes(record.result):
        one, other = (msgspec.msgpack.decode(raw) for raw in (record.result, result))
        return f"recorded is the result {one!r:.120}, and it returned {other!r:.120}"
    last = max(run.steps, default=0)
    if run.attempt == 1 and attempt._ordinal < last:
        return f"recorded are {last} calls, and it made {attempt._ordinal}"
    return ""


def _called(
    executor: _Recorded,
    spec: TaskSpec,
    attempt: Run,
    run: RunState,
    load_firing: Callable[[RunState], Any],
) -> Any:
    """Call the function as an attempt does; return what it returns."""
    args, kwargs = ([], {}) if run.args is None else spec.decode_args(run.args)
    if spec.run_name is not None:
        kwargs[spec.run_name] = attempt
    if spec.firing_name is not None:
        kwargs[spec.firing_name] = load_firing(run)
    made = spec.bind(args, kwargs)()
    return _driven(executor, _joined(attempt, made)) if spec.is_async else made


async def _joined(attempt: Run, code: Any) -> Any:
    value = await code
    if attempt._handles is not None:
        await attempt._join()
    return value


def _driven(executor: _Recorded, code: Coroutine[Any, Any, Any]) -> Any:
    """Return what *code* returns, which has nothing to wait for."""
    try:
        code.send(None)
    except StopIteration as end:
        return end.value
    with suppress(RuntimeError):  # it goes on waiting while it is closed
        code.close()
    return executor.fail("it waits for something that is no call of its run")


class _Recorded:
    """The part of an `Executor` that code with recorded answers needs."""

    def __init__(self, log: Any, kernel: Kernel, specs: Mapping[str, TaskSpec]) -> None:
        self._specs = {id(spec.function): spec for spec in specs.values()}
        self.host = host = object()
        self.stray: str | None = None
        """How the code that is executed has strayed first."""
        self.rules = self.processes = self.stopwatch = self.observer = None
        self.pipeline = SimpleNamespace(
            backend=SimpleNamespace(current_task=lambda: host, waiter=self._wait),
            kernel=kernel,
            log=log,
            failure=None,
            waits=None,
            tick=lambda: kernel.state.at_ns,
            put=self._put,
            committed=self._committed,
            monotonic_ns=lambda: 0,
        )

    def begin(self) -> None:
        """Have no code strayed yet, before it is executed."""
        self.stray = None

    def fail(self, text: str) -> NoReturn:
        """Keep code from going on that strays, and note how, unless it has strayed before.

        It may take what it is given here for a failure, or make another call before it ends.
        """
        self.stray = self.stray or text
        raise _Stray(text)

    def _wait(self) -> NoReturn:
        self.fail("it waits for a call that is not recorded as ended")

    def _put(self, record: r.Input) -> NoReturn:
        name = ""
        if isinstance(record, (r.StepRequested, r.RunLaunched)):
            name = record.task
        elif isinstance(record, r.EventStored):
            name = record.subject
        elif isinstance(record, (r.WaitRequested, r.PatchMarked)):
            name = record.name
        kind = r.KIND_BY_TYPE[type(record)]
        ordinal = getattr(record, "ordinal", 0)
        place = f"as call {ordinal} " if ordinal else ""
        self.fail(f"{place}it asks for {f'{kind} {name}'.strip()}, and nothing is recorded there")

    async def _committed(self, _: int) -> None:
        """Return at once: what is recorded is committed."""

    def spec_of(self, task: Callable[..., Any]) -> TaskSpec:
        """See `Executor`."""
        spec = self._specs.get(id(task))
        if spec is None:
            raise TypeError(f"{task!r} is no task of the app")
        return spec

    def when_ended(self, _: int, call: Callable[[], None]) -> NoReturn:
        """See `Executor`: a child that has not ended has no answer."""
        self._wait()

    def may_begin(self, parent: object, spec: TaskSpec) -> bool:
        """See `Executor`: nothing begins that is not recorded."""
        return False

    async def finish(self, parent: object, run_id: int) -> None:
        """See `Executor`."""
        self._wait()

    def cancel_child(self, run_id: int, reason: str) -> None:
        """See `Executor`: all have ended."""

    def park(self, run: object, change: int) -> None:
        """See `Executor`."""

    def leave(self, run: object) -> None:
        """See `Executor`."""

    def check_wait(self, run_id: int) -> None:
        """See `Executor`."""

    def is_at_work(self, run: object) -> bool:
        """See `Executor`."""
        return True

    def logger_of(self, run_id: int) -> Any:
        """See `Executor`: what it says was said before."""
        return _Silent()


class _Silent:
    """A logger of which nobody hears."""

    def __getattr__(self, _: str) -> Callable[..., Any]:
        return lambda *_args, **_kwargs: self
