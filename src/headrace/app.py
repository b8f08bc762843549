"""`App`: what a user declares: tasks, rules, schedules.  It does nothing by itself.

The same app is run live, tested in virtual time and replayed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from weakref import WeakKeyDictionary

from headrace.chaining import SUBJECTS, Link, action_of, check_follower, rule_name
from headrace.connecting import Connections
from headrace.engine.clock import Clock
from headrace.engine.decider import RunMode
from headrace.engine.declared import Declared
from headrace.engine.defaults import (
    CRASH_ATTEMPTS_MAX,
    DEDUPE_WINDOW_S,
    GRACE_S,
    PENDING_RUNS_MAX,
    PROBE_S,
    SNAPSHOT_EVERY,
)
from headrace.engine.log.protocol import Durability, EventLog
from headrace.engine.retry import seconds_of
from headrace.engine.task import TaskSpec
from headrace.projecting import Projections
from headrace.tasks import check_name, name_of, spec_of
from headrace.triggers.checks import Seconds, duration_ns
from headrace.triggers.modes import OnMissed
from headrace.triggers.nodes_clock import CatchUp, EveryNode
from headrace.triggers.pattern import Pattern, on
from headrace.triggers.rule_options import Action, Warm, options_of
from headrace.triggers.ruleset import Rule, RuleSet
from headrace.triggers.schedules import at_node, check_catch_up, cron_node
from headrace.version import __version__

if TYPE_CHECKING:
    from headrace.engine.backfill import Backfilled
    from headrace.engine.emission import Emission
    from headrace.engine.engine import Engine
    from headrace.file_rules import AppFiles
    from headrace.reloading import EngineFiles
    from headrace.triggers.rules_file import Changes, RuleText

F = TypeVar("F", bound=Callable[..., Any])


class App(Connections, Projections):
    """A set of declarations under a name."""

    def __init__(self, name: str) -> None:
        """Make an empty app.

        Raises:
            ValueError: *name* is not 1 to 64 letters, digits, ``_`` and ``-``.
        """
        check_name("App", name)
        Connections.__init__(self)
        Projections.__init__(self)
        self.name = name
        self.rules: dict[str, Rule] = {}
        """Rules by name, in the order of their declaration."""
        self._chained: set[str] = set()
        self._files: AppFiles | None = None
        self._opened: WeakKeyDictionary[Engine, EngineFiles] = WeakKeyDictionary()

    def __repr__(self) -> str:
        """Say what is in it."""
        return f"<App {self.name}: {len(self.rules)} rules, {len(self.tasks)} tasks>"

    # ------------------------------------------------------------ rules

    def rule(
        self,
        pattern: Pattern[Any],
        *,
        mode: RunMode | Literal["queue"] = "parallel",
        on_missed: OnMissed = "fire",
        on_clear: Action | None = None,
        on_timeout: Action | None = None,
        warm: Warm = None,
        name: str | None = None,
        retry: Any = None,
        timeout: Seconds | None = None,
        version: str | None = None,
        replayable: bool = False,
    ) -> Callable[[F], F]:
        """Let each firing of *pattern* start a run of the decorated function.

        The function takes ``run: Run``, ``firing: Firing[T]``, both or neither.  *mode*
        says what a firing does while a run of the same rule and key is active:
        ``parallel`` starts another, ``single`` drops the firing, ``restart`` cancels the
        run, awaits its end and starts anew, ``latest`` lets the run finish and then starts
        for the newest firing, ``queue(max=10)`` lets firings wait for their turn.
        *on_missed* says what becomes of a firing by a timer that was due while nothing ran:
        ``fire`` at the next start, ``skip``, or ``fire_within(seconds)``.

        *on_clear* is a second action, for when what the rule told of has ended: its pattern
        ends in ``.crosses``, ``.hold``, ``.count(mode="edge")`` or is a ``silent``.  Until
        then the firing is an alarm that stands; see `Engine.alarms`.  *on_timeout* is one
        for partial matches of a `sequence` that run out of time.  A rule that is new or
        changed begins empty, with ``warm="replay"`` as if it had been there before.
        *version* stands for the pattern's functions if they cannot be digested; *replayable*
        is as in `task`.

        Raises:
            TypeError, ValueError: it cannot work; says which part and why.
        """
        options = options_of(
            pattern,
            mode=mode,
            on_missed=on_missed,
            on_clear=on_clear,
            on_timeout=on_timeout,
            warm=warm,
            retry=retry,
            timeout=timeout,
            version=version,
            replayable=replayable,
        )

        def declare(function: F) -> F:
            made = options.declared(function, name or name_of(function), self._spec)
            self.tasks.update(made.specs)
            self.rules[made.name] = made.rule
            return function

        return declare

    def every(
        self,
        period: Seconds,
        *,
        catch_up: CatchUp = "last",
        mode: RunMode | Literal["queue"] = "parallel",
        name: str | None = None,
        retry: Any = None,
        timeout: Seconds | None = None,
    ) -> Callable[[F], F]:
        """Start a run of the decorated function each *period* seconds.

        The grid begins when the rule is first activated and is kept over restarts.  What
        fell into a downtime is fired at the next start: with *catch_up* ``last`` once, with
        ``missed`` the number of the others; with ``all`` one by one; with ``none`` not at all.

        Raises:
            TypeError, ValueError: it cannot work; says which part and why.
        """
        period_ns = duration_ns("every", "period", period)
        check_catch_up("every", catch_up)
        pattern: Pattern[Any] = Pattern(EveryNode(period_ns, catch_up))
        return self.rule(pattern, mode=mode, name=name, retry=retry, timeout=timeout)

    def cron(
        self,
        expression: str,
        *,
        tz: str = "UTC",
        catch_up: CatchUp = "last",
        mode: RunMode | Literal["queue"] = "parallel",
        name: str | None = None,
        retry: Any = None,
        timeout: Seconds | None = None,
    ) -> Callable[[F], F]:
        """Start a run of the decorated function at the times of a cron *expression*.

        Five fields: minute, hour, day of month, month, day of week; with six the first is
        seconds.  They are local times of *tz*, a name such as ``Europe/Berlin``.  *catch_up*
        is as in `every`.  A time of day that is there twice, when clocks are put back, fires
        once; one that is left out, when they are put forward, fires when they are.

        Raises:
            TypeError, ValueError: it cannot work; says which part and why.
        """
        pattern: Pattern[Any] = Pattern(cron_node(expression, tz, catch_up))
        return self.rule(pattern, mode=mode, name=name, retry=retry, timeout=timeout)

    def at(
        self,
        when: datetime | str,
        *,
        catch_up: CatchUp = "last",
        mode: RunMode | Literal["queue"] = "parallel",
        name: str | None = None,
        retry: Any = None,
        timeout: Seconds | None = None,
    ) -> Callable[[F], F]:
        """Start a run of the decorated function once, at a time.

        *when* is a datetime with a time zone, or a text such as ``2027-03-01T08:00:00Z``.  If
        nothing ran then, it happens at the next start, unless *catch_up* is ``none``.  A rule
        that is first used after its time fires only if *catch_up* is ``all``: at once.

        Raises:
            TypeError, ValueError: it cannot work; says which part and why.
        """
        pattern: Pattern[Any] = Pattern(at_node(when, catch_up))
        return self.rule(pattern, mode=mode, name=name, retry=retry, timeout=timeout)

    def then(self, first: Callable[..., Any], other: Callable[..., Any]) -> None:
        """Let a run of the task *other* follow each run of *first* that completes.

        Its only argument is the result.  It is an independent run, as one that was launched;
        neither a crash nor a restart loses it or makes two.  What makes it is a rule that is
        named ``<first>-then-<other>``, so it can be paused.  *first* may also be the action of
        a rule; several tasks may follow one.  It also follows runs that are steps of others.

        Raises:
            TypeError: one of them is no task of this app, or *other* cannot take the result.
        """
        self._chain(first, "then", other)

    def on_failure(self, first: Callable[..., Any], other: Callable[..., Any]) -> None:
        """Let a run of the task *other* follow each run of *first* that is given up.

        As `then`; its only argument is a `Failure`.  A run that is cancelled has not failed.

        Raises:
            TypeError: one of them is no task of this app, or *other* takes something else.
        """
        self._chain(first, "on_failure", other)

    def _chain(self, first: Callable[..., Any], link: Link, other: Callable[..., Any]) -> None:
        by_function = {spec.function: spec for spec in self.tasks.values()}
        specs = [by_function.get(function) for function in (first, other)]
        for function, spec in zip((first, other), specs, strict=True):
            if spec is None:
                found = getattr(function, "__qualname__", repr(function))
                raise TypeError(
                    f"{link}: expected tasks of this app, found {found}; declare it with @app.task "
                    f"before"
                )
        before, after = specs
        assert before is not None
        assert after is not None
        check_follower(link, after)
        name = rule_name(before.name, link, after.name)
        if name not in self._chained:  # as of another version of the same task
            self.rule(on(f"{SUBJECTS[link]}.{before.name}"), name=name)(action_of(link, other))
            self._chained.add(name)

    def load_rules(self, path: str | os.PathLike[str]) -> list[RuleText]:
        """Declare the rules of a TOML file that are enabled, in their order; return them all.

        Each starts a task, an action or another rule's action of this app, which it names.
        docs/rules-file.md says what can be written.

        Raises:
            RulesFileError: something is wrong in the file: says all that is, with its places.
                No rule was declared then.
        """
        return [rule.said for rule in self._files_loaded().load(path)]

    async def reload_rules(self, engine: Engine, path: str | os.PathLike[str]) -> Changes:
        """Read a rules file again and put what has changed into force; return what has.

        *engine* is open, and of this app.  Each rule that is new or another is a record with
        the file as its cause, and so is each that is gone; one that only starts another task
        goes on with that, unrecorded.  All others keep their state, and those in Python stay
        as they are.  The app declares them, too: what it opens from now on begins with these.

        Raises:
            RulesFileError: something is wrong in the file.  Nothing was changed.
            LogFull, DurabilityLost, EngineClosed: some may have changed, and some not; the
                next call does the rest.
            ValueError: another app has opened *engine*.
        """
        files = self._opened.get(engine)
        if files is None:
            raise ValueError(f"expected an engine that {self!r} has opened, found another")
        return await files.reload(engine, path)

    def _files_loaded(self) -> AppFiles:
        if self._files is None:
            from headrace.file_rules import AppFiles

            self._files = AppFiles(self.tasks, self.actions, self.rules)
        return self._files

    # ------------------------------------------------------------ running

    def decider(self) -> RuleSet:
        """Return rules and projections as an engine and a replay use them: with no state yet."""
        return RuleSet([*self.rules.values(), *self.projections.values()])

    def open(
        self,
        log: str | os.PathLike[str] | EventLog,
        *,
        durability: Durability = "fsynced",
        clock: Clock | Literal["system", "input"] = "system",
        grace_s: float = GRACE_S,
        dedupe_window: float | timedelta = DEDUPE_WINDOW_S,
        snapshot_every: int = SNAPSHOT_EVERY,
        control: bool = True,
        probe_s: float = PROBE_S,
        processes_max: int | None = None,
        concurrency: int | None = None,
        crash_attempts_max: int = CRASH_ATTEMPTS_MAX,
        pending_runs_max: int = PENDING_RUNS_MAX,
        resources: Mapping[str, Any] | None = None,
        sources: bool = True,
    ) -> Engine:
        """Return an engine to use with ``async with``.

        *log* is a directory or a log; *durability* holds for a directory.  With
        ``clock="input"`` log time comes from the events, for recorded data.  *grace_s* is
        how long active runs may go on when the engine is closed; what has not ended by then
        resumes at the next start.  Ids of events are remembered for *dedupe_window* seconds.
        After every *snapshot_every* records (0: never) the state is written to a snapshot, so
        that the next start has little to fold.
        With *control* the command line can ask the running engine, over a socket in the log's
        directory that only this user can open.
        A disk that is full is looked at again every *probe_s*.  Tasks with ``process=True``
        share *processes_max* worker processes (by default as many as there are processors),
        which are started when they are needed first.  While more than *pending_runs_max* runs
        are open that do not wait for a time, `Engine.emit` waits; `Run.emit` never does.
        At most *concurrency* attempts execute at once (by default 1000); those that wait for
        steps, sleeps or signals do not count, and go on without waiting for a turn.  A run
        that may have killed the process *crash_attempts_max* - 1 times, without getting
        anything done, is executed alone among such, and given up if it does so again (0: never).
        *resources* replace those that are declared, by name: each a value, or a function that
        returns one or a context manager.  Without *sources* those of the app bring nothing in.
        """
        if isinstance(log, (str, os.PathLike)):
            from headrace.engine.log import FileLog

            log = FileLog(log, durability=durability)
        return self._engine(
            log,
            resources,
            clock=clock,
            grace_s=grace_s,
            dedupe_window_s=seconds_of(dedupe_window),
            snapshot_every=snapshot_every,
            control=control,
            probe_s=probe_s,
            processes_max=processes_max,
            concurrency=concurrency,
            crash_attempts_max=crash_attempts_max,
            pending_runs_max=pending_runs_max,
            companions=self.feeders() if sources and self.sources else (),
            observer=None if self._telemetry is None else self._telemetry.observer(),
        )

    def _engine(self, log: EventLog, resources: Mapping[str, Any] | None, **options: Any) -> Engine:
        # Loaded only now: an app that is declared and not run does not pay for them.
        from headrace.engine import commands
        from headrace.engine.engine import Engine
        from headrace.engine.resources import OpenResources

        rules = [*self.rules.values(), *self.projections.values()]
        engine = Engine(
            lambda: RuleSet(rules),
            {**self.older, **self.tasks},
            log,
            version=__version__,
            declare=self._declared,
            resources=OpenResources(self.resources, resources),
            **options,
        )
        commands.register(engine.control, engine, version=__version__)
        self._let_files_reload(engine)
        return engine

    def _let_files_reload(self, engine: Engine) -> None:
        from headrace.reloading import EngineFiles

        files = self._opened[engine] = EngineFiles(self._files_loaded())
        engine.control.register("reload", lambda _: files.reload_all(engine))

    def backfill(
        self,
        log: str | os.PathLike[str] | EventLog,
        history: str | os.PathLike[str] | Iterable[Emission],
        *,
        name: str | None = None,
        clock: Literal["system", "input"] = "system",
        durability: Durability = "fsynced",
        dedupe_window: float | timedelta = DEDUPE_WINDOW_S,
    ) -> Backfilled:
        """Fold events of the past into the rules, without effects, before `open` goes live.

        *history* is an older log, a file of JSON lines, or events with times, oldest first.
        They are stored in *log* at their own times; rules see them and no firing starts a
        run.  What was interrupted, goes on with the same call; what is stored is not stored
        again, and a file that is fed to the engine afterwards goes on behind it.  Blocks.

        Raises:
            HistoryUnusable: an event has no time, or one that is not after the one before or
                after what the log has; what came before is stored.
            BadLine, SourceUnusable, LogUnusable, LogCorrupt: *history* cannot be read on.
            LogMismatch: the log goes by another clock, or another backfill is unfinished.
            LogLocked, LogFull, DurabilityLost: as when an engine opens and writes the log.
        """
        from headrace.history import fold_history

        return fold_history(
            self.decider(),
            log,
            history,
            name=name,
            clock=clock,
            durability=durability,
            dedupe_window=dedupe_window,
        )

    def _declared(
        self, pattern: Pattern[Any], action: Action, *, name: str | None = None, **options: Any
    ) -> Declared:
        """Return a rule for an engine that is open; the app itself stays as it is."""
        rule_name = name or name_of(action)
        replaced = self.rules.get(rule_name)
        own = set() if replaced is None else {rule_name, *replaced.tasks.values()}

        def spec(function: Action, task: str, **how: Any) -> TaskSpec:
            # In place of the rule's own code, but of nothing else.
            return (
                spec_of(function, task, resources=self.resources, **how)
                if task in own
                else self._spec(function, task, **how)
            )

        return options_of(pattern, **options).declared(action, rule_name, spec)
