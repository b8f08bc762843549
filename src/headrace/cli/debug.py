"""``headrace debug``: goes through a log step by step and shows what changes.

Commands are lines: typed at a prompt, or piped in.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Set
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from headrace.cli.breakpoints import FAILURES, Breakpoint, breakpoint_of, runs_of, words_of
from headrace.cli.diff import change_lines
from headrace.cli.errors import OK, RecordNotFound, Usage
from headrace.cli.log import _what
from headrace.cli.logs import decoded, opened
from headrace.cli.output import write
from headrace.cli.places import keys_named, sequence_of
from headrace.cli.records import View
from headrace.cli.state import document_of, state_text
from headrace.cli.state_parts import Wanted, check_rule, check_run
from headrace.cli.state_things import run_fields
from headrace.cli.text import safe, to_json
from headrace.cli.times import number_of
from headrace.engine import record as r
from headrace.engine.errors import HeadraceError

if TYPE_CHECKING:
    from headrace.app import App
    from headrace.engine.inspect.differ import Things
    from headrace.engine.inspect.stepper import Stepper
    from headrace.engine.log import LogReader
    from headrace.triggers.explain.notes import TracedStep
    from headrace.triggers.explain.tracing import TracedRules

HELP: Final = """\
n [COUNT]       the next record, or so many
f               on to the next firing
x               on to the next failure: of an attempt, a run, a rule
b               on to the next breakpoint, or to the end
b rule=… key=…  add a breakpoint; also kind=, subject=, run=
p [FILTER]      print the state here; FILTER is rule=…, key=… or run=…
why [RULE]      why a rule fired on this record, or did not; without RULE each concerned
back [COUNT]    back by one record, or so many
goto PLACE      to a sequence or a time, forwards or backwards
quit            end; so does the end of the input
An empty line repeats the last move."""
LIMIT: Final = 20
MOVES: Final = ("n", "f", "x", "b", "back")


def debug(app: App, log: Path, *, at: str | None, breaks: list[str]) -> int:
    """Take commands from standard input until they end.

    Raises:
        Usage, RuleNotFound, RecordNotFound: a breakpoint or the place cannot be.
        LogCorrupt, LogMismatch: there is no state to begin at.
    """
    fingerprints = app.decider().fingerprints()
    points = [breakpoint_of(text, fingerprints) for text in breaks]
    with opened(log) as reader:
        start = 0 if at is None else sequence_of(reader, at)
        session = Session(app, reader, points, start)
        try:
            session.run(sys.stdin)
        finally:
            session.close()
    return OK


class Session:
    """Where the user is, and what each command does."""

    def __init__(self, app: App, reader: LogReader, breaks: list[Breakpoint], start: int) -> None:
        from headrace.engine.inspect.stepper import Stepper

        self._app = app
        self._reader = reader
        self._breaks = breaks
        self._view = View(reader)
        self._rules: TracedRules
        self._steps: list[tuple[str, TracedStep]] = []
        self._runs: Things = {}
        self._record: r.Record | None = None
        decode = partial(decoded, reader)
        self._stepper: Stepper = Stepper(reader, self._new_rules, decode, at=start)
        self._stepper.before = self._before
        self._commands: dict[str, Callable[[str], None]] = {
            "n": self._next,
            "f": lambda _: self._move(self._is_firing, "firing"),
            "x": lambda _: self._move(self._is_failure, "failure"),
            "b": self._break,
            "p": self._print,
            "why": self._why,
            "back": self._back,
            "goto": self._goto,
            "help": lambda _: write(HELP),
        }

    def _new_rules(self) -> TracedRules:
        from headrace.triggers.explain.tracing import traced

        self._rules = traced(self._app.decider())
        self._rules.on_step = lambda rule, step: self._steps.append((rule, step))
        return self._rules

    def run(self, lines: Iterable[str]) -> None:
        """Obey *lines* until they end or say ``quit``."""
        is_typed = sys.stdin.isatty()
        if is_typed:
            write("n next, f firing, x failure, b breakpoint, p state, back, goto, why, help, quit")
        last = ""
        self._prompt(is_typed)
        for line in lines:
            word, _, rest = line.strip().partition(" ")
            if not word:
                word, _, rest = last.partition(" ")
            if word in ("q", "quit", "exit"):
                return
            if word:
                self._obey(word, rest.strip())
                if word in MOVES:
                    last = f"{word} {rest}".strip()
            sys.stdout.flush()
            self._prompt(is_typed)

    def close(self) -> None:
        """Let go of the log."""
        self._stepper.close()

    def _prompt(self, is_typed: bool) -> None:  # noqa: FBT001 (one caller)
        if is_typed:
            sys.stdout.write(f"({self._stepper.sequence}) ")
            sys.stdout.flush()

    def _obey(self, word: str, rest: str) -> None:
        command = self._commands.get({"h": "help", "?": "help"}.get(word, word))
        if command is None:
            write(f"{safe(word)!r}: expected {', '.join(self._commands)} or quit; see help")
            return
        try:
            command(rest)
        except HeadraceError as error:  # it ends this command, and not the session
            write(f"error: {safe(str(error))}")

    # ------------------------------------------------------------ moves

    def _before(self, sequence: int, record: r.Record) -> None:
        """Note what is about to change."""
        self._rules.sequence = sequence
        self._steps.clear()
        self._runs = self._runs_of(sequence, record)

    def _runs_of(self, sequence: int, record: r.Record) -> Things:
        """Return the runs that *record* is about, as they are now."""
        active = self._stepper.kernel.state.runs.active
        state = self._stepper.kernel.state
        return {
            f"run {number} of {active[number].task}": run_fields(state, active[number])
            for number in runs_of(sequence, record)
            if number in active
        }

    def _next(self, rest: str) -> None:
        for _ in range(_count(rest, "n")):
            if not self._forward():
                return

    def _forward(self) -> bool:
        """Go on by one record and show it; say whether there was one."""
        found = self._stepper.forward()
        if found is None:
            write(f"the end: record {self._stepper.sequence} is the last")
            return False
        self._show(*found)
        return True

    def _move(self, stops: Callable[[int, r.Record], bool], what: str) -> None:
        """Go on to the next record that *stops*.

        On the way only what a breakpoint asks about is noted: noting all costs the more.
        """
        points = self._breaks if what == "breakpoint" else []
        for rule, trace in self._rules.traces.items():
            trace.only = _noted_of(rule, points)
        try:
            while (found := self._stepper.forward()) is not None:
                if stops(*found):
                    self._show(*found)
                    return
        finally:
            for trace in self._rules.traces.values():
                trace.only = None
        write(f"no {what} any more: record {self._stepper.sequence} is the last")

    @staticmethod
    def _is_firing(_: int, record: r.Record) -> bool:
        return isinstance(record, r.RuleFired)

    @staticmethod
    def _is_failure(_: int, record: r.Record) -> bool:
        return isinstance(record, FAILURES)

    def _break(self, rest: str) -> None:
        if rest:
            self._breaks.append(breakpoint_of(rest, self._rules.fingerprints()))
            write(f"breakpoint {len(self._breaks)}: {safe(rest)}")
        elif self._breaks:
            self._move(self._is_break, "breakpoint")
        else:
            write("there is no breakpoint: b rule=… key=… makes one")

    def _is_break(self, sequence: int, record: r.Record) -> bool:
        return any(one.stops(sequence, record, self._steps) for one in self._breaks)

    def _back(self, rest: str) -> None:
        self._go_to(max(self._first - 1, self._stepper.sequence - _count(rest, "back")))

    def _goto(self, rest: str) -> None:
        if not rest:
            raise Usage("goto: expected a sequence or a time, found nothing")
        self._go_to(sequence_of(self._reader, rest, "goto"))

    @property
    def _first(self) -> int:
        return max(1, self._reader.first_sequence)

    def _go_to(self, sequence: int) -> None:
        """Stand after *sequence*, with what that record has changed."""
        if sequence < self._first:
            self._stepper.go_to(sequence)
            write("the beginning")
            return
        self._stepper.go_to(sequence - 1)
        if self._stepper.sequence != sequence - 1:
            raise RecordNotFound(
                f"goto {sequence}: found no state before that, record "
                f"{self._stepper.sequence} is the nearest"
            )
        self._forward()

    # ------------------------------------------------------------ what is shown

    def _show(self, sequence: int, record: r.Record) -> None:
        self._record = record
        row = self._view.row_of(sequence, record, self._stepper.kernel.state.at_ns)
        write(f"{sequence}  {row['recorded_at']}  {row['kind']}  {_what(row)}")
        for line in self._changed(sequence, record):
            write(f"    {line}")

    def _changed(self, sequence: int, record: r.Record) -> Iterator[str]:
        """Yield what the record has changed: in automata, and of the runs that it is about."""
        from headrace.engine.inspect.differ import changes
        from headrace.triggers.explain.why import step_lines

        for rule, step in self._steps:
            for key, line in step_lines(rule, self._rules, step):
                of_key = "" if key is None else f" key {to_json(key)}"
                yield safe(f"{rule}{of_key}: {line}")
        for change in changes(self._runs, self._runs_of(sequence, record)):
            fields = {name: {"a": a, "b": b} for name, (a, b) in change.fields.items()}
            yield from change_lines(
                {"what": change.what, "change": change.change, "fields": fields}
            )

    def _print(self, rest: str) -> None:
        said: dict[str, str] = {}
        for word in words_of(rest, ("rule", "key", "run")):
            name, equals, value = word.partition("=")
            if not equals or name not in ("rule", "key", "run"):
                raise Usage(f"p: expected rule=…, key=… or run=…, found {safe(word)!r}")
            said[name] = value
        run = said.get("run")
        number = None if run is None else number_of(run)
        if run is not None and number is None:
            raise Usage(f"p: expected a run's number, found {safe(run)!r}")
        wanted = Wanted(said.get("rule"), keys_named(said.get("key")), number)
        kernel = self._stepper.kernel
        check_rule(wanted.rule, self._rules)
        check_run(wanted.run, kernel)
        document = document_of(kernel, self._rules, wanted, LIMIT)
        write(state_text(document, is_whole=wanted == Wanted()))

    def _why(self, rest: str) -> None:
        from headrace.cli.why import explanation, why_text
        from headrace.engine.tracing.links import input_before

        check_rule(rest or None, self._rules)
        if not self._stepper.sequence:
            raise Usage("why: expected a record, found the beginning; n goes to the first")
        decode = partial(decoded, self._reader)
        sequence = input_before(self._reader, self._stepper.sequence, decode)
        concerned = [rest] if rest else self._concerned(sequence)
        if not concerned:
            write("no rule is concerned by this record; why RULE asks about one all the same")
        for rule in concerned:
            document, _ = explanation(self._app, self._reader, rule, sequence, None)
            write("\n".join(why_text(document)))

    def _concerned(self, sequence: int) -> list[str]:
        """Return the rules that the record at *sequence* is for."""
        raw = self._reader.fetch([sequence]).get(sequence)
        record = None if raw is None else decoded(self._reader, sequence, raw)
        if isinstance(record, r.EventStored):
            entries = self._rules._index.lookup(record.subject)
            names = dict.fromkeys(entry.owner.name for entry in entries)
            return [name for name in names if name in self._rules.traces]
        owner = record.owner if isinstance(record, r.TimerFired) else ""
        return [owner] if owner in self._rules.fingerprints() else []


def _noted_of(rule: str, points: list[Breakpoint]) -> Set[Any] | None:
    """Return the keys of which steps of *rule* are to be noted for *points*; ``None``: all."""
    keys: set[Any] = set()
    for point in points:
        if point.rule == rule or (point.rule is None and point.keys):
            if not point.keys:
                return None
            keys |= {None, *point.keys}
    return keys


def _count(text: str, command: str) -> int:
    if not text:
        return 1
    count = number_of(text)
    if not count:
        raise Usage(f"{command}: expected how many records, from 1, found {safe(text)!r}")
    return count
