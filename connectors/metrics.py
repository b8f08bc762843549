"""Figures of an engine for Prometheus, computed when they are asked for: nothing is counted before.

`metrics_of` is what ``/metrics`` of a `Webhook` answers; `EngineCollector` is for a registry that a
host has already: ``REGISTRY.register(EngineCollector(lambda: engine))``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from headrace.connectors.feeder import Feeder
from headrace.connectors.intake import SourceStatus
from headrace.connectors.protocol import ExtraMissing
from headrace.engine.clock import NS

if TYPE_CHECKING:
    from headrace.engine.engine import Engine
    from headrace.engine.views import StateView

CONTENT_TYPE: Final = "text/plain; version=1.0.0; charset=utf-8"
LABELS_MAX: Final = 1000
"""Rules, tasks and sources that have lines of their own; what is beyond is one, ``(others)``."""
OTHERS: Final = "(others)"
_STATES: Final = ("starting", "connected", "lost", "ended", "failed")

Values = dict[tuple[str, ...], float]
Family = tuple[str, str, tuple[str, ...], Values]
"""Name, meaning, labels, and a value for each choice of labels."""


def has_prometheus() -> bool:
    """Say whether prometheus-client is installed."""
    return find_spec("prometheus_client") is not None


def metrics_of(place: str, engine: Engine | None) -> bytes:
    """Return the figures of *engine* in the text format of Prometheus; ``None``: it is not open.

    Raises:
        ExtraMissing: prometheus-client is not installed; *place* says who needs it.
    """
    try:
        from prometheus_client import CollectorRegistry, generate_latest
    except ModuleNotFoundError as error:
        raise ExtraMissing(f"{place}, metrics", "prometheus", error.name) from None
    registry = CollectorRegistry(auto_describe=False)
    registry.register(EngineCollector(lambda: engine))
    return generate_latest(registry)


class EngineCollector:
    """What prometheus-client calls a collector.  Belongs to the loop of the engine."""

    def __init__(self, engine: Callable[[], Engine | None]) -> None:
        """Take what returns the engine that is open, if there is one."""
        self._engine = engine

    def describe(self) -> list[Any]:
        """Return nothing: what there is is known when it is asked for."""
        return []

    def collect(self) -> Iterator[Any]:
        """Return all figures."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        engine = self._engine()
        families: list[Family] = [
            ("headrace_up", "Whether an engine is open.", (), {(): float(engine is not None)})
        ]
        counters: list[Family] = []
        if engine is not None:
            state = engine.state()
            life = engine.opened()
            waiting = engine.kernel.sequence - life.pipeline.committed_sequence
            families.append(
                ("headrace_log_uncommitted", "Records on their way to disk.", (), {(): waiting})
            )
            statuses = [c.status for c in engine.companions if isinstance(c, Feeder)]
            families += [*_engine_gauges(state, life.runner.queued), *_source_gauges(statuses)]
            counters += [*_engine_counters(state), *_source_counters(statuses)]
            yield _commit_times(statuses)
        for kind, found in ((GaugeMetricFamily, families), (CounterMetricFamily, counters)):
            for name, text, labels, values in found:
                family = kind(name, text, labels=labels)
                for label_values, value in values.items():
                    family.add_metric(list(label_values), value)
                yield family


def _engine_gauges(state: StateView, queued: int) -> Iterator[Family]:
    yield "headrace_ready", "Whether events are taken.", (), {(): float(state.ready)}
    yield "headrace_log_sequence", "The last record.", (), {(): state.sequence}
    yield "headrace_log_time_seconds", "Time of the last record.", (), {(): state.at_ns / NS}
    yield "headrace_timers", "Timers that are set.", (), {(): state.timers}
    yield "headrace_alarms", "Alarms that stand.", (), {(): state.alarms}
    yield "headrace_offers", "Events offered by others, not stored yet.", (), {(): state.offers}
    yield (
        "headrace_runs",
        "Runs that are not at their end: queued for room, at work (active), or waiting.",
        ("state",),
        {
            ("queued",): queued,
            ("active",): max(0, state.runs_active - state.runs_waiting - queued),
            ("waiting",): state.runs_waiting,
        },
    )
    yield (
        "headrace_rule_keys",
        "Keys with state.",
        ("rule",),
        _bounded({(rule.name,): rule.keys for rule in state.rules}),
    )
    yield (
        "headrace_rule_paused",
        "Whether a rule is paused.",
        ("rule",),
        _bounded({(rule.name,): float(rule.paused) for rule in state.rules}),
    )


def _engine_counters(state: StateView) -> Iterator[Family]:
    yield "headrace_events", "Events in the log.", (), {(): state.events}
    yield "headrace_retries", "Attempts after the first.", (), {(): state.retries}
    yield (
        "headrace_runs_ended",
        "Runs that have ended, by how.",
        ("status",),
        {(status,): count for status, count in state.runs_ended.items()},
    )
    for name, text in (
        ("fired", "Firings"),
        ("dropped", "Firings that started no run"),
        ("errors", "Errors of conditions and key functions"),
        ("mismatched", "Events of another type than the rule's"),
        ("suppressed", "Firings held back by throttle, rate_limit or dedupe"),
    ):
        yield (
            f"headrace_rule_{name}",
            f"{text}.",
            ("rule",),
            _bounded({(rule.name,): getattr(rule, name) for rule in state.rules}),
        )


def _source_gauges(
    statuses: list[SourceStatus],
) -> Iterator[Family]:
    yield (
        "headrace_source_state",
        "1 for the state that a source is in.",
        ("source", "state"),
        {(s.name, state): float(s.state == state) for s in statuses for state in _STATES},
    )
    yield (
        "headrace_source_in_flight",
        "Events that are handed in and not durable yet.",
        ("source",),
        _bounded({(s.name,): s.in_flight for s in statuses}),
    )
    yield (
        "headrace_source_lag",
        "Messages that wait at the server, where it says so.",
        ("source",),
        _bounded({(s.name,): s.lag for s in statuses if s.lag is not None}),
    )
    yield (
        "headrace_source_last_time_seconds",
        "Log time of the last event that was durable.",
        ("source",),
        _bounded({(s.name,): s.last_at_ns / NS for s in statuses if s.last_at_ns is not None}),
    )


def _source_counters(
    statuses: list[SourceStatus],
) -> Iterator[Family]:
    for name, text in (
        ("stored", "Events stored, those that were refused included"),
        ("duplicates", "Events that came again and were not stored again"),
        ("refused", "Messages that were no events"),
        ("dropped", "Messages that came faster than they could be stored, and are lost"),
        ("connections", "Connections"),
    ):
        yield (
            f"headrace_source_{name}",
            f"{text}, since the engine was opened.",
            ("source",),
            _bounded({(s.name,): getattr(s, name) for s in statuses}),
        )


def _commit_times(statuses: list[SourceStatus]) -> Any:
    """Return how often and how long sources have waited for the log: its commit latency."""
    from prometheus_client.core import SummaryMetricFamily

    family = SummaryMetricFamily(
        "headrace_source_commit_seconds",
        "From when events are handed in to when they are durable, since the engine was opened.",
        labels=["source"],
    )
    for status in statuses[:LABELS_MAX]:
        family.add_metric([status.name], status.commits, status.commit_ns / NS)
    return family


def _bounded(values: Values) -> Values:
    """Return *values* with at most so many labels: a server keeps a series for each."""
    if len(values) <= LABELS_MAX:
        return values
    kept = dict(sorted(values.items(), key=lambda item: -item[1])[: LABELS_MAX - 1])
    kept[(OTHERS,)] = sum(values.values()) - sum(kept.values())
    return kept
