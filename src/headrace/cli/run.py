"""``headrace run``: an app at work over a log, fed from files, until they or it end."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

import anyio
from anyio.abc import TaskGroup
from msgspec import Struct

from headrace.cli.diagnostics import LogFormat, configure, logger
from headrace.cli.errors import INTERRUPTED, OK, Usage
from headrace.cli.output import Output, write_document
from headrace.cli.progress import shown
from headrace.cli.summary import Counted, document_of, text_of
from headrace.cli.text import safe
from headrace.cli.watch import RulesWatch
from headrace.connectors.feeder import Feeder
from headrace.connectors.intake import count_new
from headrace.connectors.jsonl import STDIN, BadLine, JsonLines, SourceUnusable, feed
from headrace.engine.collector import seldom_collected
from headrace.engine.errors import HeadraceError, LogMismatch
from headrace.engine.log import FileLog

if TYPE_CHECKING:
    from headrace.app import App
    from headrace.config import Config
    from headrace.engine.engine import Engine
    from headrace.engine.log import Durability
    from headrace.engine.views import StateView

IDLE_THREAD_S: Final = 0.2


class RunOptions(Struct, frozen=True, kw_only=True):
    """How an app is run."""

    log: Path
    rules: Path | None
    """A rules file of the app, which is kept in force as it is."""
    paths: list[str]
    """Files of JSON lines; ``-`` is standard input."""
    clock: Literal["system", "input"]
    durability: Durability
    grace_s: float
    keep_bytes: int | None
    keep_s: float | None
    compress: bool
    snapshot_every: int
    output: Output
    log_format: LogFormat
    skip_bad_lines: bool


def log_of(log: Path | None, config: Config) -> Path:
    """Return the directory of the log: what the command says wins over the file.

    Raises:
        Usage: neither says it.
    """
    if log is not None:
        return log
    if config.log is None:
        where = f"log in the table [run] of {safe(config.path)}" if config.path else "--config"
        raise Usage(f"run: expected --log DIR, or {where}, found neither; name a directory")
    return Path(config.log)


def rules_of(rules: Path | None, config: Config) -> Path | None:
    """Return the rules file: what the command says wins over the file."""
    if rules is None and config.rules is not None:
        return Path(config.rules)
    return rules


def run(app: App, options: RunOptions) -> int:
    """Run *app* and print what it came to."""
    if options.paths.count(STDIN) > 1:
        raise Usage("--from -: expected standard input once, found it several times")
    if options.grace_s < 0:
        raise Usage(f"--grace {options.grace_s:g}: expected 0 or more seconds")
    configure(options.log_format)
    session = Session(app, options)
    uvloop = {"use_uvloop": True} if find_spec("uvloop") is not None else {}
    code = anyio.run(session.run, backend_options=uvloop)
    if session.counted is not None:
        document = document_of(session.counted)
        write_document(document, options.output, lambda: text_of(document))
    if session.failure is not None:
        raise session.failure
    return code


def leave_threads_behind(code: int) -> None:
    """End the process if a thread would keep it: a task that does not end, or a pipe.

    What they were doing is open in the log, for the next start.
    """
    workers = [thread for thread in threading.enumerate() if "AnyIO worker" in thread.name]
    for thread in workers:
        thread.join(IDLE_THREAD_S)  # those without work have been told to end
    if any(thread.is_alive() for thread in workers):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Session:
    """One run of the command."""

    def __init__(self, app: App, options: RunOptions) -> None:
        self._app = app
        self._options = options
        self._code = OK
        self._stopping = False
        self._working: anyio.CancelScope | None = None
        self._engine: Engine | None = None
        self._before: StateView | None = None
        self._logger = logger()
        self._duplicates = 0
        self._advance: Callable[[int], None] = lambda _: None
        on_bad = self._report if options.skip_bad_lines else None
        self._sources = [JsonLines(path, on_bad=on_bad) for path in options.paths]
        self.failure: HeadraceError | None = None
        """What ended it early; everything before it is stored."""
        self.counted: Counted | None = None

    async def run(self) -> int:
        """Run until the input has ended and nothing is left to do, or until a signal."""
        try:
            # First, so that a wrong name leaves no new log behind.
            for source in self._sources:
                source.open()
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._listen, signals)
                    await self._serve(group)
                    group.cancel_scope.cancel()
        except BaseExceptionGroup as several:
            # What ended the engine comes out of the task group in a group of one.
            first, *others = several.exceptions
            if others:
                raise
            raise first from None
        finally:
            for source in self._sources:
                source.close()
        return self._code

    async def _serve(self, group: TaskGroup) -> None:
        began = time.perf_counter()
        options = self._options
        log = FileLog(
            options.log,
            durability=options.durability,
            keep_bytes=options.keep_bytes,
            keep_s=options.keep_s,
            compress=options.compress,
        )
        engine = self._app.open(
            log,
            clock=options.clock,
            grace_s=options.grace_s,
            snapshot_every=options.snapshot_every,
        )
        try:
            async with engine:
                self._engine = engine
                self._before = engine.state()
                self._logger.info("started", app=self._app.name, **_facts(engine))
                if options.rules is not None:
                    watch = RulesWatch(self._app, engine, options.rules, self._logger)
                    group.start_soon(watch.run, name="headrace rules file")
                with seldom_collected():
                    await self._work(engine)
        except LogMismatch as error:
            raise LogMismatch(f"{options.log}: {error}") from error
        self.counted = self._counted(engine, time.perf_counter() - began)

    def _counted(self, engine: Engine, seconds: float) -> Counted:
        assert self._before is not None
        return Counted(
            str(self._options.log),
            self._before,
            engine.state(),
            lines=sum(source.lines for source in self._sources),
            duplicates=self._duplicates,
            sources=[one.status for one in engine.companions if isinstance(one, Feeder)],
            bad_lines=sum(source.bad_lines for source in self._sources),
            seconds=seconds,
        )

    async def _work(self, engine: Engine) -> None:
        """Feed the engine and wait for what follows; or wait for a signal."""
        new_by_input = self._options.clock == "input" and not engine.kernel.state.clock
        with anyio.CancelScope() as self._working:
            if self._stopping:
                self._working.cancel()
            try:
                for source in self._sources:
                    cursor = engine.cursor(source.name)
                    source.resume(cursor, wants_time=new_by_input)
                    if cursor:
                        self._logger.info("resumed", source=source.path, at_byte=cursor)
                feeders = [one for one in engine.companions if isinstance(one, Feeder)]
                if not self._sources and not feeders:
                    await anyio.sleep_forever()
                size = sum(source.size_bytes for source in self._sources)
                if not all(source.resumable for source in self._sources):
                    size = 0
                with shown("reading", size, in_bytes=True) as self._advance:
                    await self._feed(engine)
                    for feeder in feeders:
                        await feeder.ended.wait()
                    await engine.drain()
            except (BadLine, SourceUnusable) as error:
                self.failure = error

    async def _feed(self, engine: Engine) -> None:
        if self._options.clock == "input" or len(self._sources) < 2:
            await feed(engine, self._sources, on_stored=self._count)
            return
        # By the clock nobody waits for anybody: one of them may be a pipe that never ends.
        async with anyio.create_task_group() as group:
            for source in self._sources:
                group.start_soon(self._feed_one, engine, source, group.cancel_scope)
        if self.failure is not None:
            raise self.failure

    async def _feed_one(
        self, engine: Engine, source: JsonLines, all_of_them: anyio.CancelScope
    ) -> None:
        try:
            await feed(engine, [source], on_stored=self._count)
        except HeadraceError as error:
            self.failure = self.failure or error
            all_of_them.cancel()

    def _count(self, sequences: Sequence[int], before: int) -> None:
        self._duplicates += len(sequences) - count_new(sequences, before)
        self._advance(sum(source.position for source in self._sources))

    def _report(self, bad: BadLine) -> None:
        self._logger.warning(
            "bad_line_skipped",
            place=f"{bad.path}:{bad.line}",
            expected=bad.expected,
            found=bad.found,
        )

    async def _listen(self, signals: AsyncIterator[signal.Signals]) -> None:
        """First signal: stop in good order.  Second: at once."""
        async for number in signals:
            if self._stopping:
                _stop_at_once(number)
            self._stopping = True
            self._code = INTERRUPTED if number == signal.SIGINT else OK
            active = None if self._engine is None else self._engine.state().runs_active
            self._logger.info(
                "stopping", signal=number.name, active_runs=active, grace_s=self._options.grace_s
            )
            if self._working is not None:
                self._working.cancel()


def _facts(engine: Engine) -> dict[str, Any]:
    """Return what opening the log has found."""
    state = engine.state()
    facts: dict[str, Any] = {"sequence": state.sequence, "open_runs": state.runs_active}
    recovery = getattr(engine.log, "recovery", None)
    if recovery is not None and not recovery.created:
        facts["clean"] = recovery.clean
        if recovery.torn_bytes:
            facts["torn_bytes"] = recovery.torn_bytes
            facts["torn_path"] = recovery.torn_path
    return facts


def _stop_at_once(number: signal.Signals) -> NoReturn:
    """End like a process that was killed: what was acknowledged is in the log."""
    if sys.stderr.isatty():
        sys.stderr.write("\x1b[?25h")  # a progress bar has hidden the cursor
    sys.stderr.write("headrace: stopped at once; the next start goes on from here\n")
    sys.stderr.flush()
    os._exit(128 + number)
