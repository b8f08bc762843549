"""``headrace check``: load an app and say what it declares."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from headrace.cli.errors import OK
from headrace.cli.output import Output, facts, table, write_document
from headrace.cli.text import rfc3339, safe

if TYPE_CHECKING:
    from headrace.app import App
    from headrace.engine.decider import RunMode
    from headrace.engine.task import TaskSpec
    from headrace.triggers.nodes import Node
    from headrace.triggers.nodes_clock import ScheduleNode
    from headrace.triggers.ruleset import Rule

RULE_COLUMNS: Final = ("rule", "mode", "pattern")
PROJECTION_COLUMNS: Final = ("projection", "pattern")
SCHEDULE_COLUMNS: Final = ("schedule", "next_due", "catch_up")
SOURCE_COLUMNS: Final = ("source", "type", "promise")
SINK_COLUMNS: Final = ("sink", "type", "retry")
TASK_COLUMNS: Final = ("task", "version", "runs_in", "retry", "timeout_s", "place")


def check(app: App, output: Output) -> int:
    """Print rules, projections, tasks and subjects of *app*; warn of what may not be meant.

    That is what fingerprints do not cover, and conditions that can never hold.
    """
    from headrace.triggers.contradiction import contradictions

    rules = [_rule(rule, app.tasks[rule.name]) for rule in app.rules.values()]
    projections = [_projection(name, rule) for name, rule in app.projections.items()]
    document: dict[str, Any] = {
        "app": app.name,
        "rules": rules,
        "projections": projections,
        "tasks": [_task(spec) for spec in _tasks(app)],
        "schedules": _schedules(app),
        "sources": [
            {"source": one.name, "type": type(one).__name__, "promise": one.promise}
            for one in app.sources.values()
        ],
        "sinks": [
            {
                "sink": name,
                "type": type(one.sink).__name__,
                "retry": _retry(app.tasks[name].retry),
            }
            for name, one in app.sinks.items()
        ],
        "tracer_provider": app.tracer_provider,
        "subjects": sorted({s for one in [*rules, *projections] for s in one["subjects"]}),
    }
    write_document(document, output, lambda: _text(document))
    for kind, rows in (("rule", rules), ("projection", projections)):
        for row in rows:
            if row["globals_read"]:
                names = ", ".join(row["globals_read"])
                sys.stderr.write(
                    f"headrace: {kind} {row[kind]!r} reads {safe(names)} from its module, and a "
                    f"changed value would not make it another {kind}; close over it, or give "
                    f"version=\n"
                )
    for declared in app.rules.values():
        for one, other in contradictions(declared.pattern.node):
            sys.stderr.write(
                f"headrace: rule {declared.name!r}: no event fulfils both {safe(str(one))} and "
                f"{safe(str(other))}; correct one of them, or write | (or) between them\n"
            )
    return OK


def _globals_read(rule: Rule, *, types_too: bool) -> list[str]:
    """Return what functions of *rule* read from their modules, if nothing else stands for them."""
    from headrace.triggers.fingerprint import globals_read

    if rule.version is not None:
        return []
    parts = rule.pattern.node.parts()
    functions = [part for part in parts if callable(part) and not isinstance(part, type)]
    return sorted(
        {
            name
            for function in functions
            for name in globals_read(function)
            if types_too or not isinstance(getattr(function, "__globals__", {}).get(name), type)
        }
    )


def _projection(name: str, rule: Rule) -> dict[str, Any]:
    node = rule.pattern.node
    return {
        "projection": name,
        "pattern": node.text(),
        "subjects": sorted(set(_subjects(node))),
        # A fold makes new states: their types are what it reads, and the state's is known.
        "globals_read": _globals_read(rule, types_too=False),
    }


def _rule(rule: Rule, action: TaskSpec) -> dict[str, Any]:
    node = rule.pattern.node
    return {
        "rule": rule.name,
        "mode": _mode(rule.mode),
        "pattern": node.text(),
        "subjects": sorted(set(_subjects(node))),
        "retry": _retry(action.retry),
        "timeout_s": action.timeout_s,
        "place": action.place,
        "globals_read": _globals_read(rule, types_too=True),
    }


def _schedules(app: App) -> list[dict[str, Any]]:
    from headrace.engine.clock import SystemClock
    from headrace.triggers.nodes_clock import ScheduleNode

    now_ns = SystemClock().wall_ns()
    return [
        {
            "schedule": rule.name,
            "next_due": rfc3339(_next_due_ns(node, now_ns)),
            "catch_up": node.catch_up,
        }
        for rule in app.rules.values()
        if isinstance(node := rule.pattern.node, ScheduleNode)
    ]


def _next_due_ns(node: ScheduleNode, now_ns: int) -> int | None:
    from headrace.triggers.nodes_clock import AtNode, CronNode

    if isinstance(node, CronNode):
        from headrace.triggers.cron import CronTimes

        return CronTimes(node.expression, node.tz).next_ns(now_ns)
    if isinstance(node, AtNode):
        return node.at_ns if node.at_ns > now_ns else None
    return None  # the grid of `every` begins when the rule does, which only a log can tell


def _subjects(node: Node) -> list[str]:
    from headrace.triggers.nodes import FilterNode

    if isinstance(node, FilterNode):
        return [node.subject]
    return [subject for source in node.sources for subject in _subjects(source)]


def _mode(mode: RunMode) -> str:
    return mode if isinstance(mode, str) else f"queue({mode.max}, {mode.overflow})"


def _tasks(app: App) -> list[TaskSpec]:
    """Return tasks and actions, each behind the older versions that finish their own runs."""
    found: list[TaskSpec] = []
    for name, spec in (app.tasks | app.actions).items():
        if name not in app.rules:
            found += [older for older in app.older.values() if older.name == name]
            found.append(spec)
    return found


def _task(spec: TaskSpec) -> dict[str, Any]:
    return {
        "task": spec.name,
        "runs_in": _place(spec),
        "retry": _retry(spec.retry),
        "timeout_s": spec.timeout_s,
        "version": spec.version,
        "place": spec.place,
    }


def _place(spec: TaskSpec) -> str:
    if spec.process_path is not None:
        return "process"
    return "event loop" if spec.is_async else "thread"


def _retry(policy: Any) -> str | None:
    from headrace.engine.retry import Retry

    if policy is None:
        return None
    if isinstance(policy, (list, tuple)):
        return "; ".join(str(_retry(part)) for part in policy)
    if not isinstance(policy, Retry):
        return type(policy).__name__
    kinds = policy.on if isinstance(policy.on, tuple) else (policy.on,)
    attempts = "1 attempt" if policy.attempts == 1 else f"{policy.attempts} attempts"
    return f"{attempts} on {', '.join(kind.__name__ for kind in kinds)}"


def _text(document: dict[str, Any]) -> str:
    provider = document["tracer_provider"]
    parts = [
        facts(
            [
                ("app", document["app"]),
                ("subjects", ", ".join(document["subjects"]) or "none"),
                *(() if provider is None else (("traces", f"OpenTelemetry, {provider}"),)),
            ]
        )
    ]
    if document["rules"]:
        parts.append(table(document["rules"], RULE_COLUMNS))
    if document["projections"]:
        parts.append(table(document["projections"], PROJECTION_COLUMNS))
    if document["schedules"]:
        parts.append(table(document["schedules"], SCHEDULE_COLUMNS))
    if document["sources"]:
        parts.append(table(document["sources"], SOURCE_COLUMNS))
    if document["sinks"]:
        parts.append(table(document["sinks"], SINK_COLUMNS))
    if document["tasks"]:
        has_versions = any(task["version"] for task in document["tasks"])
        columns = [name for name in TASK_COLUMNS if has_versions or name != "version"]
        parts.append(table(document["tasks"], columns))
    return "\n\n".join(parts)
