"""A causal tree as Chrome trace events, which Perfetto and ``chrome://tracing`` show.

Each run is a slice on a track, with its attempts and waits inside; arrows go from cause to
effect.  Slices of one track must not cross, so runs that overlap get tracks of their own.
"""

from __future__ import annotations

import heapq
from typing import Any, Final

from headrace.engine.tracing.links import plain
from headrace.engine.tracing.spans import Span
from headrace.engine.tracing.tree import Node, Tree

PID: Final = 1
_RECORDS_TID: Final = 1
_RUNS_TID_MIN: Final = 2
_US: Final = 1000


def trace_events(tree: Tree, *, log: str) -> dict[str, Any]:
    """Return *tree* as a document of the Trace Event Format; times are in µs from its root on."""
    nodes = list(tree.nodes.values())
    begin_ns = min(node.at_ns for node in nodes)
    # What has not ended goes on to the last time that is known.
    end_ns = max(_last_ns(node) for node in nodes)
    tracks = _tracks([node for node in nodes if node.span is not None], end_ns)
    events: list[dict[str, Any]] = [
        _named("process_name", 0, log),
        _named("thread_name", _RECORDS_TID, "events and other records"),
    ]
    tids = sorted(set(tracks.values()))
    events += [_named("thread_name", tid, f"runs {tid - _RUNS_TID_MIN + 1}") for tid in tids]
    for node in nodes:
        if node.span is None:
            events.append(_slice(node, node.at_ns, node.at_ns, begin_ns, _RECORDS_TID))
        else:
            events += _run_slices(node, node.span, begin_ns, end_ns, tracks[node.sequence])
    for node in nodes:
        if node.cause:
            events += _arrow(tree.nodes[node.cause], node, begin_ns, tracks)
    return {
        "displayTimeUnit": "ms",
        "otherData": {"log": log, "root": nodes[0].sequence, "began_ns": str(begin_ns)},
        "traceEvents": events,
    }


def _last_ns(node: Node) -> int:
    span = node.span
    if span is None:
        return node.at_ns
    times = [node.at_ns, span.ended_ns, *(wait.end_ns or wait.begin_ns for wait in span.waits)]
    return max(times + [failure.at_ns for failure in span.failures])


def _tracks(nodes: list[Node], end_ns: int) -> dict[int, int]:
    """Give each run a track that is free by then; return the track by run."""
    tracks: dict[int, int] = {}
    free: list[int] = []
    busy: list[tuple[int, int]] = []
    for node in sorted(nodes, key=lambda node: (node.at_ns, node.sequence)):
        while busy and busy[0][0] <= node.at_ns:
            heapq.heappush(free, heapq.heappop(busy)[1])
        track = heapq.heappop(free) if free else _RUNS_TID_MIN + len(busy)
        tracks[node.sequence] = track
        assert node.span is not None
        heapq.heappush(busy, (max(node.span.ended_ns or end_ns, node.at_ns + 1), track))
    return tracks


def _named(what: str, tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": PID, "tid": tid, "args": {"name": name}}


def _slice(node: Node, start_ns: int, end_ns: int, begin_ns: int, tid: int) -> dict[str, Any]:
    args: dict[str, Any] = {"sequence": node.sequence}
    for name in ("key", "data", "outcome", "reason", "also"):
        if (value := getattr(node, name)) not in (None, "", []):
            args[name] = value
    if node.span is not None:
        args |= {"status": node.span.status, "attempt": node.span.attempt}
        if node.span.error is not None:
            args["error"] = node.span.error
        if node.span.result is not None:
            args["result"] = plain(node.span.result)
    return {
        "ph": "X",
        "name": node.name or node.kind,
        "cat": node.span.kind if node.span is not None else node.kind,
        "ts": (start_ns - begin_ns) / _US,
        "dur": max(0, end_ns - start_ns) / _US,
        "pid": PID,
        "tid": tid,
        "args": args,
    }


def _run_slices(
    node: Node, span: Span, begin_ns: int, end_ns: int, tid: int
) -> list[dict[str, Any]]:
    found = [_slice(node, node.at_ns, span.ended_ns or end_ns, begin_ns, tid)]

    def inner(name: str, category: str, start_ns: int, stop_ns: int, **args: Any) -> None:
        found.append(
            {
                "ph": "X", "name": name, "cat": category, "ts": (start_ns - begin_ns) / _US,
                "dur": max(0, stop_ns - start_ns) / _US, "pid": PID, "tid": tid,
                "args": {"run": span.run, **args},
            }
        )  # fmt: skip

    for failure in span.failures:
        name = f"attempt {failure.attempt} failed"
        inner(name, "attempt", failure.began_ns, failure.at_ns, error=failure.error)
    if span.failures and span.status != "retrying" and span.began_ns > span.failures[-1].at_ns:
        inner(f"attempt {span.attempt}", "attempt", span.began_ns, span.ended_ns or end_ns)
    for wait in span.waits:
        stop_ns = wait.end_ns or end_ns
        inner(f"{wait.kind} {wait.name}".rstrip(), "wait", wait.begin_ns, stop_ns, how=wait.how)
    return found


def _arrow(
    cause: Node, effect: Node, begin_ns: int, tracks: dict[int, int]
) -> list[dict[str, Any]]:
    def end(node: Node, at_ns: int, **more: Any) -> dict[str, Any]:
        return {
            "name": "led to",
            "cat": "cause",
            "id": effect.sequence,
            "ts": (at_ns - begin_ns) / _US,
            "pid": PID,
            "tid": tracks.get(node.sequence, _RECORDS_TID),
            **more,
        }

    # An arrow starts within the slice of its cause: that may have ended before the effect.
    start_ns = cause.at_ns
    if cause.span is not None:
        start_ns = min(effect.at_ns, cause.span.ended_ns or effect.at_ns)
    return [end(cause, start_ns, ph="s"), end(effect, effect.at_ns, ph="f", bp="e")]
