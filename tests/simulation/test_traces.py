"""Trees of causes and spans of runs say what the kernel says, on logs with every shape in them."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
import pytest
from tests.simulation.lives import undisturbed
from tests.simulation.shapes import INPUT, random_input

from headrace.engine import record as r
from headrace.engine.decider import NoRules
from headrace.engine.kernel import Kernel
from headrace.engine.log import MemoryLog
from headrace.engine.runs import RunView, view_of
from headrace.engine.tracing import links
from headrace.engine.tracing.families import Families
from headrace.engine.tracing.heat import BINS_MAX, Heat
from headrace.engine.tracing.report import Report
from headrace.engine.tracing.spans import Span, Spans, made_by
from headrace.engine.tracing.tree import _OUTSIDE_HEAD_MAX, Tree

Records = list[tuple[int, r.Record, int]]


def raws_of(log: MemoryLog) -> list[bytes]:
    return [raw for _, batch in log.read() for raw in batch]


def records_of(log: MemoryLog) -> Records:
    """All with their log time: a decision has that of its input."""
    found: Records = []
    at_ns = 0
    for sequence, raw in enumerate(raws_of(log), 1):
        record = r.decode(raw)
        at_ns = getattr(record, "at_ns", at_ns)
        found.append((sequence, record, at_ns))
    return found


def decode(_sequence: int, raw: bytes) -> r.Record:
    return r.decode(raw)


async def log_of(seed: int) -> MemoryLog:
    events = INPUT if not seed else random_input(Random(seed), 40)
    return (await undisturbed(events)).kept


def runs_by_the_kernel(records: Records) -> dict[int, RunView]:
    """Every run as it was in the end."""
    kernel = Kernel(NoRules())
    found: dict[int, RunView] = {}
    for sequence, record, _ in records:
        kernel.fold(sequence, record)
        for view in kernel.state.runs.ended:
            found[view.id] = view
        kernel.state.runs.ended.clear()
    return found | {run.id: view_of(run) for run in kernel.state.runs.active.values()}


def spans_of(records: Records) -> dict[int, Span]:
    spans = Spans()
    for sequence, record, at_ns in records:
        spans.take(sequence, record, at_ns)
        span = made_by(sequence, record, at_ns)
        if span is not None:
            spans.add(span)
    return spans.by_run


@pytest.mark.parametrize("seed", range(4))
async def test_spans_of_runs_are_those_of_the_kernel(seed: int) -> None:
    """When a run began, how it ended, when, and at which attempt: two ways to the same answer."""
    records = records_of(await log_of(seed))
    expected, found = runs_by_the_kernel(records), spans_of(records)
    # A launch whose key another run held makes no run, which only the kernel knows.
    never = {run for run in found if run not in expected}
    assert all(found[run].kind == "launch" and found[run].key is not None for run in never)

    def said(run: RunView) -> tuple[Any, ...]:
        return run.task, run.status, run.attempt, run.created_at_ns, run.ended_at_ns or 0

    assert {
        run: (span.name, span.status, span.attempt, span.created_ns, span.ended_ns)
        for run, span in found.items()
        if run not in never
    } == {run: said(view) for run, view in expected.items()}
    assert len(expected) > 20


@pytest.mark.parametrize("seed", range(3))
async def test_a_tree_has_just_what_leads_back_to_its_root(seed: int) -> None:
    """What is passed over without decoding is the effect of nothing in the tree."""
    log = await log_of(seed)
    records = records_of(log)
    raws = raws_of(log)
    input_at = 0
    led_by: dict[int, set[int]] = {}
    for sequence, record, _ in records:
        if not r.is_decision(record):
            input_at = sequence
        causes = {links.cause_of(record) or (input_at if r.is_decision(record) else 0)}
        if isinstance(record, (r.RuleFired, r.RuleLoop)):
            causes |= set(record.events)
        led_by[sequence] = {cause for cause in causes if 0 < cause < sequence}

    outside = [s for s, record, _ in records if type(record) is r.EventStored and not record.hops]
    assert len(outside) > 10
    for root in outside:
        tree = Tree()
        tree.begin(root, records[root - 1][1], records[root - 1][2])
        tree.grow([(root + 1, raws[root:])], decode)
        reached = {root}
        for sequence, causes in led_by.items():
            if causes & reached:
                reached.add(sequence)
        made = {s for s in reached if made_by(s, records[s - 1][1], 1) is not None}
        events = {s for s in reached if type(records[s - 1][1]) is r.EventStored}

        assert {s for s, node in tree.nodes.items() if node.span is not None} == made
        assert {s for s, node in tree.nodes.items() if node.kind == "event"} == events
        assert tree.nodes.keys() <= reached | {s for s, rec, _ in records if _is_release(rec)}


def _is_release(record: r.Record) -> bool:
    """Whether it may be an effect on a run of another story."""
    return isinstance(record, (r.RunReleased, r.RunReplaced, r.RunCancelling, r.WaitEnded))


@pytest.mark.parametrize("seed", range(3))
async def test_a_report_follows_the_same_runs(seed: int) -> None:
    """With room for all, a report has each run as it is, also when it begins in the middle."""
    log = await log_of(seed)
    records, raws = records_of(log), raws_of(log)
    expected = spans_of(records)
    whole = Report()
    whole.read([(1, raws)], decode, at_ns=0, begun_before=lambda _run: None)
    assert {
        run: (span.status, span.attempt, span.ended_ns)
        for run, span in whole.families.spans.by_run.items()
    } == {run: (span.status, span.attempt, span.ended_ns) for run, span in expected.items()}

    half = len(raws) // 2
    part = Report()
    part.read(
        [(half + 1, raws[half:])],
        decode,
        at_ns=records[half - 1][2],
        begun_before=lambda run: made_by(run, records[run - 1][1], records[run - 1][2]),
    )
    for run, span in part.families.spans.by_run.items():
        assert (span.ended_ns, span.created_ns) == (
            expected[run].ended_ns,
            expected[run].created_ns,
        )
    later = {run for run, span in expected.items() if run > half and not span.parent}
    assert later <= part.families.spans.by_run.keys()


async def test_the_run_of_a_record_is_read_without_decoding_it() -> None:
    """What is read from the bytes is what decoding would say, for numbers of every width."""
    records = records_of(await log_of(0))
    seen: set[int] = set()
    for run in (1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**40):
        for made in (
            r.RunCancelled(1_700_000_000_000_000_000, run, "x"),
            r.SleepRequested(1_700_000_000_000_000_000, run, 3, 4),
        ):
            assert links.run_named(r.encode(made)) == run
    for _, record, _ in records:
        raw = r.encode(record)
        if raw[1] in links.RUN_TAGS:
            seen.add(raw[1])
            field = "parent" if isinstance(record, r.StepRequested) else "run"
            assert links.run_named(raw) == getattr(record, field)
    assert len(seen) > 5
    # An early time is shorter: then it has to be decoded.
    assert links.run_named(r.encode(r.RunCancelled(5, 1, "x"))) == -1


def test_what_is_passed_over_by_its_first_bytes_is_what_it_is_taken_for() -> None:
    """A kind whose fields were others would be read wrongly, and silently so."""
    kinds = {kind.__struct_config__.tag: kind for kind in r.KIND_BY_TYPE}
    for tag in links.RUN_TAGS:
        first, second = kinds[tag].__struct_fields__[:2]
        assert (first, second) in (("at_ns", "run"), ("at_ns", "parent")), kinds[tag]

    at_ns, data = 1_700_000_000_000_000_000, msgspec.Raw(b"\xc0")
    outside = r.EventStored(at_ns, "a", data, 1, 2, "id", 3, "key")
    for event in (
        r.EventStored(at_ns, "a", data, run=7, ordinal=1, hops=1),
        r.EventStored(at_ns, "rule.fired.a", data, trace=7, hops=1),
        r.EventStored(at_ns, "a", data, offer=7),
    ):
        assert r.encode(event)[0] > _OUTSIDE_HEAD_MAX >= r.encode(outside)[0]


def test_a_family_without_end_leaves_room_for_others() -> None:
    """A run with very many steps does not push everything else out of the report."""
    families = Families(bars_max=1000)
    families.add(Span(1, "large", "rule", 1, 1))
    for run in range(2, 5000):
        families.add(Span(run, "step", "spawn", 1, 1, parent=1))
    families.add(Span(5000, "small", "rule", 1, 1))

    assert families.runs == 5000
    assert families.cut == 4999 - 500
    assert 5000 in families.spans.by_run
    assert families.bars <= 1000


def test_heat_keeps_its_counts_while_its_bins_grow() -> None:
    """However long the range, nothing that was counted is lost, and the bins stay few."""
    heat = Heat()
    for number in range(100_000):
        heat.add_event(1_700_000_000_000_000_000 + number * 10_000_000)
        if number % 10 == 0:
            heat.add_failure(1_700_000_000_000_000_000 + number * 10_000_000)

    assert sum(heat.events.values()) == 100_000
    assert sum(heat.failures.values()) == 10_000
    assert max(len(heat.events), len(heat.failures)) <= BINS_MAX
    assert len(heat.events) > BINS_MAX // 2
