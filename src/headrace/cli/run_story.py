"""``headrace runs show``: all that the log says about one run and the steps below it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from headrace.cli import run_waits
from headrace.cli.errors import OK
from headrace.cli.logs import decoded, opened, plain_raw, records
from headrace.cli.output import Output, write_document
from headrace.cli.run_causes import cause_lines, causes_of
from headrace.cli.text import duration, rfc3339, safe, safe_lines, to_json
from headrace.engine import record as r
from headrace.engine.errors import RunNotFound

if TYPE_CHECKING:
    from headrace.engine.log import LogReader

INDENT = "   "


class Story(Struct):
    """A run as the log tells of it."""

    run: int
    task: str
    kind: str
    """``rule``, or how its parent asked for it: ``call``, ``spawn``, ``launch``."""
    status: str
    created_ns: int
    ended_ns: int = 0
    key: Any = None
    parent: int = 0
    ordinal: int = 0
    """Which call of its parent, from 1."""
    input: Any = None
    """Its arguments; for a rule's run the events."""
    attempt: int = 1
    began_ns: int = 0
    """When its last attempt began."""
    failures: list[dict[str, Any]] = []
    """Attempts that failed."""
    redriven: list[dict[str, Any]] = []
    """When it was given up and went on nevertheless."""
    result: Any = None
    blob: str | None = None
    """Digest of a result that is too large for the log: the name of its file."""
    error: str | None = None
    steps: dict[int, Any] = {}
    """By ordinal: the story of a task, or what else was asked for."""
    signals: list[r.SignalSent] = []
    """Those that it has not received."""
    forgotten: list[int] = []
    """Of a dead letter: the steps that a redrive executes again."""


def show(log: Path, run: int, output: Output) -> int:
    """Print run *run* with its steps."""
    with opened(log) as reader:
        story = _read(reader, run)
        document = _document(story)
        if story.kind == "rule":
            document["input"] = _events(reader, story.input)
        document["causes"] = causes = causes_of(reader, run)

    def text() -> str:
        first, *rest = _lines(document, "")
        listed = {e["sequence"] for e in document["input"]} if story.kind == "rule" else set()
        more = cause_lines([cause for cause in causes if cause["sequence"] not in listed])
        return "\n".join([first, *(INDENT + line for line in more), *rest])

    write_document(document, output, text)
    return OK


def _read(reader: LogReader, run: int) -> Story:
    last = reader.refresh()
    if not reader.first_sequence <= run <= last:
        raise RunNotFound(
            f"{reader.path}: expected run {run}, found records {reader.first_sequence} to {last}; "
            f"`headrace runs list` has the runs"
        )
    teller = _Teller(run)
    # From the record before, for the time of the input that a firing belongs to.
    for sequence, record in records(reader, after=_input_before(reader, run) - 1):
        teller.take(sequence, record)
        if sequence == run and run not in teller.stories:
            raise RunNotFound(
                f"{reader.path}: expected run {run}, found {_no_run(record)} at that sequence; "
                f"`headrace runs list` has the runs"
            )
    return teller.stories[run]


def _no_run(record: r.Record) -> str:
    kind = r.KIND_BY_TYPE[type(record)]
    return "a firing that was dropped" if isinstance(record, r.RuleFired) else f"{kind!r}"


def _input_before(reader: LogReader, run: int) -> int:
    """Return the sequence of the input that *run*'s record belongs to."""
    sequence = run
    while sequence > reader.first_sequence:
        raw = reader.fetch([sequence]).get(sequence)
        if raw is None or not r.is_decision(decoded(reader, sequence, raw)):
            break
        sequence -= 1
    return sequence


class _Teller:
    """Collects what concerns one run and everything below it."""

    def __init__(self, run: int) -> None:
        self._run = run
        self._at_ns = 0
        self.stories: dict[int, Story] = {}

    def take(self, sequence: int, record: r.Record) -> None:
        """Take the next record."""
        self._at_ns = getattr(record, "at_ns", self._at_ns)
        if isinstance(record, r.RuleFired):
            if sequence == self._run and record.outcome != "dropped":
                status = "waiting" if record.outcome == "waiting" else "active"
                self.stories[sequence] = Story(
                    sequence, record.rule, "rule", status, self._at_ns, 0, record.key,
                    input=record.events,
                )  # fmt: skip
        elif isinstance(record, r.StepRequested):
            self._take_step(sequence, record)
        elif isinstance(record, r.RunLaunched):
            self._take_launch(sequence, record)
        elif isinstance(record, r.TimerFired):
            if not record.owner and (story := self.stories.get(record.slot)) is not None:
                self._wake(story, record.key)
        elif isinstance(record, r.EventStored):
            if record.ordinal and (story := self.stories.get(record.run)) is not None:
                story.steps[record.ordinal] = {
                    "kind": "emit",
                    "subject": record.subject,
                    "data": plain_raw(record.data),
                    "sequence": sequence,
                }
        elif (story := self.stories.get(getattr(record, "run", 0))) is not None:
            self._change(story, record)

    def _take_step(self, sequence: int, asked: r.StepRequested) -> None:
        parent = self.stories.get(asked.parent)
        if asked.kind == "compensate":
            if parent is not None:
                parent.steps[asked.ordinal] = {
                    "kind": "compensate",
                    "task": asked.task,
                    "input": plain_raw(asked.args),
                    "sequence": sequence,
                }
            return
        if parent is None and sequence != self._run:
            return
        story = self.stories[sequence] = Story(
            sequence,
            asked.task,
            "undo" if asked.ordinal < 0 else asked.kind,
            "active",
            self._at_ns,
            key=parent.key if parent is not None else None,
            parent=asked.parent,
            ordinal=asked.ordinal,
            input=plain_raw(asked.args),
        )
        if parent is not None:
            parent.steps[asked.ordinal] = story

    def _take_launch(self, sequence: int, asked: r.RunLaunched) -> None:
        if sequence == self._run:
            self.stories[sequence] = Story(
                sequence,
                asked.task,
                "launch",
                "active",
                self._at_ns,
                key=asked.key,
                parent=asked.run,
                ordinal=asked.ordinal,
                input=plain_raw(asked.args),
            )
        if (parent := self.stories.get(asked.run)) is not None:
            parent.steps[asked.ordinal] = {
                "kind": "launch",
                "task": asked.task,
                "key": asked.key,
                "sequence": sequence,
            }

    def _wake(self, story: Story, ordinal: int) -> None:
        if ordinal:
            step = story.steps.get(ordinal)
            if isinstance(step, dict):
                step["status"] = "done"
        else:
            story.attempt += 1
            story.status = "active"
            story.began_ns = self._at_ns

    def _redrive(self, story: Story, asked: r.RunRedriven) -> None:
        story.redriven.append({"at": rfc3339(asked.at_ns), "from_start": asked.from_start})
        story.attempt += 1
        story.status, story.ended_ns, story.began_ns = "active", 0, asked.at_ns
        story.error = None
        if asked.from_start:
            story.steps.clear()
        for ordinal in story.forgotten:
            story.steps.pop(ordinal, None)

    def _change(self, story: Story, record: r.Record) -> None:
        if isinstance(record, r.RunCompleted):
            self._end(story, "completed")
            story.result = plain_raw(record.result)
            story.blob = None if record.blob is None else record.blob.hex()
        elif isinstance(record, (r.RunFailed, r.AttemptFailed)):
            failure = {
                "attempt": record.attempt,
                "began_at": rfc3339(story.began_ns or story.created_ns),
                "at": rfc3339(record.at_ns),
                "error": record.error,
                "traceback": record.traceback,
            }
            story.failures.append(failure)
            story.error = record.error
            if isinstance(record, r.RunFailed):
                self._end(story, "failed" if story.parent and story.kind != "launch" else "dead")
                story.forgotten = record.forget or []
            else:
                failure["retry_at"] = rfc3339(record.retry_at_ns)
                story.status = "retrying"
                for ordinal in record.forget:
                    story.steps.pop(ordinal, None)
        elif isinstance(record, r.RunCancelled):
            self._end(story, "cancelled")
            story.error = record.reason
        elif isinstance(record, r.RunFailing):
            story.status, story.error = "compensating", record.error
        elif isinstance(record, r.RunReplaced):
            self._end(story, "cancelled")
            story.error = "a newer firing replaced it"
        elif isinstance(record, r.RunReleased):
            story.status = "active"
            story.began_ns = self._at_ns
        elif isinstance(record, r.RunRedriven):
            self._redrive(story, record)
        elif isinstance(record, r.SleepRequested):
            until = rfc3339(record.due_ns)
            story.steps[record.ordinal] = {"kind": "sleep", "until": until, "status": "pending"}
        elif isinstance(record, (r.WaitRequested, r.WaitEnded, r.SignalSent)):
            run_waits.take(story.steps, story.signals, record)

    def _end(self, story: Story, status: str) -> None:
        story.status, story.ended_ns = status, self._at_ns
        for step in story.steps.values():
            # Children end with their parent, also those of which no record says so.
            if isinstance(step, Story) and step.kind != "launch" and not step.ended_ns:
                self._end(step, "cancelled")


def _document(story: Story) -> dict[str, Any]:
    steps: list[dict[str, Any]] = []
    # What undoes others comes behind them, and has negative ordinals.
    for ordinal, step in sorted(story.steps.items(), key=lambda item: (item[0] < 0, item[0])):
        told = _document(step) if isinstance(step, Story) else step
        steps.append({"ordinal": ordinal, **told})
    return {
        "kind": story.kind,
        "run": story.run,
        "task": story.task,
        "key": story.key,
        "status": story.status,
        "parent": story.parent or None,
        "attempt": story.attempt,
        "created_at": rfc3339(story.created_ns),
        "ended_at": rfc3339(story.ended_ns),
        "took": duration(story.ended_ns - story.created_ns) if story.ended_ns else None,
        "input": story.input,
        "result": story.result,
        **({} if story.blob is None else {"blob": f"blobs/{story.blob[:2]}/{story.blob}"}),
        "error": story.error,
        "failures": story.failures,
        "redriven": story.redriven,
        "steps": steps,
    }


def _events(reader: LogReader, sequences: list[int]) -> list[dict[str, Any]]:
    """Return the events that met the pattern."""
    rows: list[dict[str, Any]] = []
    for sequence, raw in sorted(reader.fetch(sequences).items()):
        event = decoded(reader, sequence, raw)
        if isinstance(event, r.EventStored):
            rows.append(
                {
                    "sequence": sequence,
                    "recorded_at": rfc3339(event.at_ns),
                    "subject": event.subject,
                    "data": plain_raw(event.data),
                }
            )
    return rows


# As text: one line for each run, and below it, further in, what it was given and did.


def _lines(story: dict[str, Any], indent: str) -> list[str]:
    key = "" if story["key"] is None else f" [{_short(story['key'])}]"
    ended = f", took {story['took']}" if story["took"] else ""
    asked = "rule" if story["kind"] == "rule" else story["kind"]
    attempts = f", attempt {story['attempt']}" if story["attempt"] > 1 else ""
    about = f"{asked} {safe(story['task'])}{key}  run {story['run']}  {story['status']}{attempts}"
    lines = [f"{indent}{about}  {story['created_at']}{ended}"]
    inner = indent + INDENT
    if story["kind"] == "rule":
        lines += [f"{inner}{_event_line(event)}" for event in story["input"]]
    elif story["input"]:
        lines.append(f"{inner}input {to_json(story['input'])}")
    for failure in story["failures"]:
        lines += _failure_lines(failure, inner)
    for redriven in story["redriven"]:
        how = " from the start" if redriven["from_start"] else ""
        lines.append(f"{inner}redriven{how} at {redriven['at']}")
    for step in story["steps"]:
        if "run" in step:
            lines += _lines(step, inner)
        elif step["kind"] == "emit":
            subject, data = safe(step["subject"]), to_json(step["data"])
            lines.append(f"{inner}emit {subject} {data}  event {step['sequence']}")
        elif step["kind"] == "launch":
            key = safe(step["key"] or "")
            lines.append(f"{inner}launch {safe(step['task'])} [{key}]  record {step['sequence']}")
        elif step["kind"] == "compensate":
            undo = f"{safe(step['task'])} {to_json(step['input'])}"
            lines.append(f"{inner}to undo: {undo}  record {step['sequence']}")
        elif step["kind"] in ("receive", "wait"):
            lines.append(inner + run_waits.line(step))
        else:
            lines.append(f"{inner}sleep until {step['until']}  {step['status']}")
    if "blob" in story:
        lines.append(f"{inner}result in {story['blob']}")
    elif story["result"] is not None:
        lines.append(f"{inner}result {to_json(story['result'])}")
    elif story["error"] and not story["failures"]:
        lines.append(f"{inner}{story['status']}: {safe(story['error'])}")
    return lines


def _event_line(event: dict[str, Any]) -> str:
    subject, data = safe(event["subject"]), to_json(event["data"])
    return f"event {event['sequence']}  {event['recorded_at']}  {subject} {data}"


def _failure_lines(failure: dict[str, Any], indent: str) -> list[str]:
    then = f"tried again from {failure['retry_at']}" if "retry_at" in failure else "given up"
    trace = safe_lines(failure["traceback"]).split("\n")
    what = f"attempt {failure['attempt']} failed at {failure['at']}, {then}"
    return [
        f"{indent}{what}: {safe(failure['error'])}",
        *(f"{indent}{INDENT}{line}" for line in trace if line),
    ]


def _short(value: Any) -> str:
    return safe(value) if isinstance(value, str) else to_json(value)
