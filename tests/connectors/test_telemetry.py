"""Traces of runs: which spans there are, where they belong, and that nothing else changes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode
from tests.connectors.traces import (
    CARRIED,
    PARENT,
    TRACE,
    Traces,
    above,
    carried,
    headers_of,
    id_of,
    linked_to,
    said,
)
from tests.engine.stand import (
    Gate,
    StepClock,
    borders,
    check_replay,
    of_kind,
    opened,
    quiet,
    records_of,
)

from headrace import App, Firing, MemoryLog, Retry, Run, on, sequence, step
from headrace.connectors import run_spans
from headrace.connectors.run_spans import RunSpans
from headrace.engine.headers import COUNT_MAX
from headrace.engine.record import EventStored, RunLaunched, encode

SECRET = "s3cr3t-of-the-mill"


@pytest.fixture
def traces() -> Traces:
    return Traces()


# ---------------------------------------------------------------- where spans belong


async def test_a_run_goes_on_with_the_trace_of_its_event(traces: Traces) -> None:
    """Event, run, attempt, and what the code does by itself: one trace, one below the other."""
    app = traces.app()

    @app.rule(on("a"), name="mill")
    async def mill(run: Run, firing: Firing[Any]) -> None:
        with traces.tracer.start_as_current_span("own"):
            trace.get_current_span().set_attribute("inner", 1)
        trace.get_current_span().set_attribute("outer", 2)

    log = MemoryLog()
    async with opened(app, log) as engine:
        await engine.emit("a", 1, headers=CARRIED)
        await engine.drain()

    assert traces.trace_ids() == {TRACE}
    assert traces.tree() == {"own": "attempt mill", "attempt mill": "run mill", "run mill": "?"}
    run, attempt = traces.one("run mill"), traces.one("attempt mill")
    assert above(run) == PARENT
    assert said(run) == {
        "headrace.task": "mill",
        "headrace.run.id": 3,
        "headrace.log.id": log.log_id.hex(),
        "headrace.run.state": "completed",
    }
    assert said(attempt) == {**said(run), "headrace.run.attempt": 1, "outer": 2}
    assert run.kind is SpanKind.INTERNAL


async def test_what_a_run_emits_and_launches_goes_on_with_its_trace(traces: Traces) -> None:
    """A chain of runs is one trace: by events, by steps, by launches, by what follows an end."""
    app, heard = traces.app(), list[Any]()

    @app.task
    async def bill(n: int) -> int:
        return n

    @app.task
    def grind(n: int) -> int:
        with traces.tracer.start_as_current_span("in thread"):
            return n

    @app.task
    async def told(n: int) -> None:
        pass

    @app.rule(on("a"), name="first")
    async def first(run: Run) -> None:
        with traces.tracer.start_as_current_span("own"):
            await run.emit("b", SECRET)
        await run.call(grind, 1)
        await run.launch(bill, 1)
        await run.keyed("k").launch(bill, 2)

    @app.rule(on("b"), name="second")
    async def second(run: Run, firing: Firing[Any]) -> None:
        heard.append(firing.events[-1].headers)

    app.then(bill, told)
    log = MemoryLog()
    async with opened(app, log) as engine:
        await engine.emit("a", SECRET, headers=CARRIED)
        await engine.drain()
        await quiet(engine)
        await engine.drain()

    assert traces.trace_ids() == {TRACE}
    assert len(traces.all("run bill")) == len(traces.all("run told")) == 2
    assert heard == [headers_of(traces.one("own")) | {"tracestate": "a=b"}]
    tree = traces.tree()
    assert tree["run second"] == "own"
    assert tree["run grind"] == "attempt first"
    assert tree["in thread"] == "attempt grind"
    # The one that has no headers of its own follows from where its run is.
    assert {tree["run bill"]} <= {"attempt first", "run first"}
    assert SECRET not in traces.text()
    check_replay(app, log)


async def test_what_is_launched_or_emitted_in_a_span_goes_on_with_it(traces: Traces) -> None:
    """Such as the span of a request that is answered by the program which has the engine."""
    app = traces.app()

    @app.task
    async def bill() -> None:
        pass

    @app.rule(on("a"))
    async def mill() -> None:
        pass

    log = MemoryLog()
    async with opened(app, log) as engine:
        await engine.emit("z", 0)
        with traces.tracer.start_as_current_span("request"):
            await engine.launch(bill)
            await engine.emit("a", 1)
            await engine.emit("a", 2, id="i", headers={"tenant": "mill"})
            await engine.emit_many([("a", 3)])
        await engine.drain()

    ours = headers_of(traces.one("request"))
    events = [event.headers for event in of_kind(log, EventStored)]
    assert events == [None, ours, {"tenant": "mill", **ours}, ours]
    assert [launched.headers for launched in of_kind(log, RunLaunched)] == [ours]
    assert traces.tree()["run bill"] == traces.tree()["run mill"] == "request"
    assert len(traces.trace_ids()) == 1


async def test_headers_that_a_program_gives_win(traces: Traces) -> None:
    """A context of theirs is not mixed with ours, and their bound is that of all."""
    app, full = traces.app(), {str(number): "" for number in range(COUNT_MAX)}

    @app.rule(on("a"), name="mill")
    async def mill(run: Run) -> None:
        for headers in (carried(7), full, {"tenant": "mill"}):
            await run.emit("b", headers=headers)

    log = MemoryLog()
    async with opened(app, log) as engine:
        with traces.tracer.start_as_current_span("request"):
            await engine.emit("a", headers=CARRIED)
            await engine.emit("z", headers=full)
        await engine.drain()

    ours = headers_of(traces.one("attempt mill")) | {"tracestate": "a=b"}
    events = [event.headers for event in of_kind(log, EventStored)]
    assert events == [CARRIED, full, carried(7), full, {"tenant": "mill", **ours}]


async def test_the_host_s_span_is_not_that_of_everything(traces: Traces) -> None:
    """An engine may be opened within a span: what has no context begins a trace of its own."""
    app = traces.app()

    @app.rule(on("a"), name="mill")
    async def mill() -> None:
        pass

    with traces.tracer.start_as_current_span("host"):
        manager = opened(app)
        engine = await manager.__aenter__()
    await engine.emit("a")
    await engine.drain()
    await manager.__aexit__(None, None, None)

    assert traces.one("run mill").parent is None
    assert len(traces.trace_ids()) == 2


async def test_a_run_of_several_events_has_links_to_all_but_the_last(traces: Traces) -> None:
    """It goes on with the trace of the event that has met the pattern."""
    app = traces.app()

    @app.rule(
        sequence(step("a", on("a")), step("b", on("b")), step("c", on("c")), within=60), name="mill"
    )
    async def mill() -> None:
        pass

    async with opened(app) as engine:
        await engine.emit("a", headers=carried(1))
        await engine.emit("b")
        await engine.emit("c", headers=carried(3))
        await engine.drain()

    run = traces.one("run mill")
    assert above(run) == f"{3:016x}"
    assert linked_to(run) == [f"{1:016x}"]


# ---------------------------------------------------------------- how they end


async def test_a_failed_attempt_has_its_error_and_the_next_is_another_span(traces: Traces) -> None:
    """Error, message and traceback are those of the record; the run of the first goes on below."""
    app = traces.app()

    @app.rule(on("a"), name="mill", retry=Retry(attempts=2, wait_first=1, on=OSError))
    async def mill(run: Run) -> None:
        raise OSError(f"no water in attempt {run.attempt}")

    clock = StepClock()
    async with opened(app, clock=clock) as engine:
        await engine.emit("a", headers=CARRIED)
        await clock.step(engine, 10)

    first, second = traces.all("attempt mill")
    run = traces.one("run mill")
    assert [said(span)["headrace.run.attempt"] for span in (first, second)] == [1, 2]
    assert [said(span)["headrace.run.state"] for span in (run, first, second)] == [
        "retrying",
        "retrying",
        "failed",
    ]
    assert above(first) == above(second) == id_of(run)
    for span, number in ((first, 1), (second, 2)):
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description == f"OSError: no water in attempt {number}"
        assert said(span)["error.type"] == "OSError"
        (event,) = span.events
        assert event.attributes is not None
        assert event.attributes["exception.type"] == "OSError"
        assert "in mill" in str(event.attributes["exception.stacktrace"])


async def test_a_run_that_sleeps_has_no_open_span(traces: Traces) -> None:
    """Its spans end when it waits, and another goes on; what the code holds is the same object."""
    app = traces.app()

    @app.rule(on("a"), name="mill")
    async def mill(run: Run) -> None:
        here = trace.get_current_span()
        await run.sleep(1000)
        assert trace.get_current_span() is here
        here.set_attribute("slept", True)
        with traces.tracer.start_as_current_span("after"):
            await run.receive("go")

    clock = StepClock()
    async with opened(app, clock=clock) as engine:
        await engine.emit("a", headers=CARRIED)
        await quiet(engine)
        first = traces.one("attempt mill")
        assert said(first)["headrace.run.state"] == "waiting"
        assert (
            said(traces.one("run mill"))
            == {**said(first), "headrace.run.attempt": None} | {"headrace.run.attempt": None}
            or said(traces.one("run mill"))["headrace.run.state"] == "waiting"
        )
        await clock.step(engine, 1000)
        await engine.signal(3, "go")
        await engine.drain()

    assert traces.trace_ids() == {TRACE}
    _, second, third = traces.all("attempt mill")
    assert linked_to(second) == [id_of(first)]
    assert linked_to(third) == [id_of(second)]
    assert said(second)["slept"] is True
    assert said(second)["headrace.attempt.continues"] is True
    assert above(traces.one("after")) == id_of(second)
    assert said(third)["headrace.run.state"] == "completed"
    assert above(first) == above(second) == above(third) == id_of(traces.one("run mill"))


async def test_what_code_does_with_its_span_reaches_the_one_that_is_open(traces: Traces) -> None:
    """All that a span takes; it neither ends by that, nor fails while none is open."""
    app, held = traces.app(), list[trace.Span]()
    other = traces.tracer.start_span("other").get_span_context()

    def use(span: trace.Span) -> None:
        span.set_attributes({"one": 1})
        span.set_attribute("two", 2)
        span.add_event("seen", {"three": 3})
        span.add_link(other)
        span.record_exception(OSError("no water"))
        span.set_status(StatusCode.ERROR, "dry")
        span.update_name("another name")
        span.end()
        with span as same:
            assert same is span

    @app.rule(on("a"), name="mill")
    async def mill(run: Run) -> None:
        held.append(trace.get_current_span())
        assert held[0].is_recording()
        use(held[0])
        await run.receive("go")

    async with opened(app) as engine:
        await engine.emit("a")
        await quiet(engine)
        assert not held[0].is_recording()
        use(held[0])
        await engine.signal(3, "go")
        await engine.drain()

    first, last = traces.one("another name"), traces.one("attempt mill")
    assert said(first) | {"one": 1, "two": 2} == said(first)
    assert [event.name for event in first.events] == ["seen", "exception"]
    assert linked_to(first) == [f"{other.span_id:016x}"]
    assert first.status.description == "dry"
    assert last.events == ()
    assert last.status.status_code is StatusCode.UNSET


async def test_a_run_that_waited_has_links_to_what_it_waited_for(traces: Traces) -> None:
    """What came may be of another trace; a wait that is recorded already says nothing again."""
    app, gate = traces.app(), Gate()

    @app.rule(on("ask"), name="mill")
    async def mill(run: Run) -> None:
        assert await run.wait(on("answer")) is not None
        await gate.wait()

    log = MemoryLog()
    async with opened(app, log) as engine:
        await engine.emit("ask", headers=CARRIED)
        await quiet(engine)
        await engine.emit("answer", headers=carried(7))
        await quiet(engine)
    first, second = traces.all("attempt mill")
    assert linked_to(second) == [id_of(first), f"{7:016x}"]
    assert said(second)["headrace.run.state"] == "interrupted"
    traces.exporter.clear()
    gate.open()
    async with opened(app, log) as engine:
        await engine.drain()

    assert linked_to(traces.one("attempt mill")) == []


async def test_the_wait_for_a_turn_is_a_part_of_the_run(traces: Traces) -> None:
    """As long as it was in log time, whatever the time of the log is; it ends now."""
    app, gate, clock = traces.app(), Gate(), StepClock()

    @app.rule(on("a"), name="mill")
    async def mill() -> None:
        await gate.wait()

    async with opened(app, clock=clock, concurrency=1) as engine:
        await engine.emit_many([("a", 1), ("a", 2)])
        await clock.step(engine, 30)
        gate.open()
        await engine.drain()

    waits_s = list[float]()
    for run, attempt in zip(traces.all("run mill"), traces.all("attempt mill"), strict=True):
        assert run.start_time is not None
        assert attempt.start_time is not None
        waits_s.append((attempt.start_time - run.start_time) / 1e9)
    assert waits_s == [pytest.approx(0, abs=1), pytest.approx(30, abs=1)]


async def test_what_is_kept_of_runs_is_bounded(
    traces: Traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of those that have ended but a few, no span of those that wait, few of all others."""
    monkeypatch.setattr(run_spans, "ENDED_MAX", 3)
    monkeypatch.setattr(run_spans, "OPEN_MAX", 2)
    app, gate = traces.app(), Gate()

    @app.task
    async def slow() -> None:
        await gate.wait()

    @app.rule(on("a"), name="mill")
    async def mill(run: Run) -> None:
        await run.call(slow)

    async with opened(app) as engine:
        await engine.emit_many([("a", n) for n in range(10)])
        await quiet(engine)
        observer = engine._settings.observer
        assert isinstance(observer, RunSpans)
        assert len(observer._open) == 2
        gate.open()
        await engine.drain()
        assert [len(of) for of in (observer._runs, observer._attempts, observer._open)] == [0, 0, 0]
        assert len(observer._ended) == 3

    assert len(traces.all("run mill")) == len(traces.all("run slow")) == 10
    ends = [said(span)["headrace.run.state"] for span in traces.all("attempt slow")]
    assert ends.count("completed") == 10


async def test_a_run_that_is_cancelled_says_so(traces: Traces) -> None:
    """It is no error, and no span stays open."""
    app, gate = traces.app(), Gate()

    @app.task
    async def mill() -> None:
        await gate.wait()

    async with opened(app) as engine:
        run_id = await engine.launch(mill)
        await quiet(engine)
        await engine.cancel(run_id)
        await engine.drain()

    for span in (traces.one("run mill"), traces.one("attempt mill")):
        assert said(span)["headrace.run.state"] == "cancelled"
        assert span.status.status_code is StatusCode.UNSET


# ---------------------------------------------------------------- over a crash


async def test_a_trace_goes_on_after_a_crash_at_every_place(traces: Traces) -> None:
    """What is executed after it is below what the log says, and what is recorded makes no span."""
    app, executed = traces.app(), list[str]()

    @app.task
    async def one() -> None:
        executed.append("one")

    @app.rule(on("a"), name="mill")
    async def mill(run: Run) -> None:
        await run.call(one)
        await run.sleep(5)
        await run.emit("b")

    @app.rule(on("b"), name="other")
    async def other(run: Run) -> None:
        executed.append("other")

    clock, log = StepClock(), MemoryLog()
    async with opened(app, log, clock) as engine:
        await engine.emit("a", headers=CARRIED)
        await clock.step(engine, 10)
        await engine.drain()
    emitted = 0
    for border in borders(log)[2:-1]:
        traces.exporter.clear()
        executed.clear()
        clock, left = StepClock(), log.copy(border)
        async with opened(app, left, clock) as engine:
            await clock.step(engine, 10)
            await engine.drain()
        if of_kind(left, EventStored) and executed:
            assert traces.trace_ids() == {TRACE}
        assert len(traces.all("attempt one")) == executed.count("one")
        assert len(traces.all("run other")) == executed.count("other")
        emitted += len(executed)
    assert emitted > 3


async def test_a_run_that_goes_on_in_another_process_is_below_its_event(traces: Traces) -> None:
    """Also a step of it, and one that is launched by it: the log leads back to the event."""
    app = traces.app()

    @app.task
    async def part(run: Run) -> None:
        await run.sleep(5)

    @app.task
    async def own(run: Run) -> None:
        await run.sleep(5)

    @app.rule(on("a"), name="mill")
    async def mill(run: Run) -> None:
        await run.launch(own)
        run.spawn(part)
        await run.sleep(1)

    clock, log = StepClock(), MemoryLog()
    async with opened(app, log, clock) as engine:
        await engine.emit("a", headers=CARRIED)
        await quiet(engine)
    traces.exporter.clear()
    async with opened(app, log, clock) as engine:
        await clock.step(engine, 10)
        await engine.drain()

    tree = traces.tree()
    assert above(traces.one("run mill")) == PARENT
    assert {tree["run own"], tree["run part"]} == {"attempt mill"}
    assert traces.trace_ids() == {TRACE}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # trio shuffles tasks that are ready
async def test_traces_change_nothing_but_headers(anyio_backend: str, traces: Traces) -> None:
    """The same records, at the same times, of steps, failures, waits and what is undone."""

    def told(app: App) -> App:
        @app.task
        async def undo() -> None:
            pass

        @app.task
        async def fine(n: int) -> int:
            return n

        @app.task(retry=Retry(attempts=2, wait_first=1, jitter=0, on=OSError))
        async def bad(run: Run) -> None:
            raise OSError("no water")

        @app.task
        async def slow(run: Run) -> None:
            await run.sleep(9)

        @app.rule(on("a"), name="mill")
        async def mill(run: Run) -> None:
            await run.compensate(undo)
            await run.call(fine, 1)
            run.spawn(slow)
            await run.emit("b", 1)
            await run.map(fine, [1, 2, 3])
            await run.sleep(2)
            await run.call(bad)

        return app

    logs = [MemoryLog(), MemoryLog()]
    for log, app in zip(logs, (told(App("t")), told(traces.app())), strict=True):
        clock = StepClock()
        async with opened(app, log, clock) as engine:
            await engine.emit("a", 1)
            await clock.step(engine, 20)
            await engine.drain()
    plain, traced = ([encode(without_headers(x)) for _, x in records_of(log)] for log in logs)

    assert plain == traced
    assert any(event.headers for event in of_kind(logs[1], EventStored))
    assert len(traces.all("attempt bad")) == 2
    assert len(traces.all("attempt undo")) == 1
    assert len(traces.trace_ids()) == 1


def without_headers(record: Any) -> Any:
    return replace(record, headers=None) if isinstance(record, EventStored) else record


# ---------------------------------------------------------------- off, and without an SDK


async def test_without_telemetry_events_have_no_headers(traces: Traces) -> None:
    """A span that is the current one does not get into the log by itself."""
    app = App("t")

    @app.rule(on("a"), name="mill")
    async def mill(run: Run) -> None:
        await run.emit("b")

    log = MemoryLog()
    async with opened(app, log) as engine:
        with traces.tracer.start_as_current_span("request"):
            await engine.emit("a")
        await engine.drain()

    assert [event.headers for event in of_kind(log, EventStored)] == [None, None]


@pytest.mark.slow
def test_without_telemetry_opentelemetry_is_not_imported(tmp_path: Path) -> None:
    """Who does not ask for traces pays nothing for them."""
    code = f"""
import anyio, sys
from headrace import App, on
from headrace.connectors.memory import Memory, MemorySink, Topic
app = App("t")
out = app.sink(MemorySink(Topic()))
app.source(Memory(Topic()))
app.rule(on("a"))(out.forward)
async def main():
    async with app.open({str(tmp_path / "log")!r}) as engine:
        await engine.emit("a", 1)
        await engine.drain()
anyio.run(main)
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


async def test_what_is_not_sampled_goes_on_as_such() -> None:
    """The sender's decision holds for all that follows; the log has its context all the same."""
    traces = Traces(sampler=ALWAYS_OFF)
    app, found = traces.app(), list[Any]()

    @app.rule(on("a"), name="mill")
    async def mill(run: Run) -> None:
        found.append(trace.get_current_span().get_span_context())
        await run.emit("b")

    log = MemoryLog()
    async with opened(app, log) as engine:
        await engine.emit("a", headers=CARRIED)
        await engine.drain()

    assert traces.spans == []
    assert [f"{place.trace_id:032x}" for place in found] == [TRACE]
    emitted = of_kind(log, EventStored)[-1].headers
    assert emitted is not None
    assert emitted["traceparent"].startswith(f"00-{TRACE}-")
    assert emitted["traceparent"].endswith("-00")
    assert emitted["tracestate"] == "a=b"


async def test_without_an_sdk_contexts_are_handed_on() -> None:
    """The API alone makes no spans; a trace that comes in goes out all the same."""
    app = App("t")
    app.telemetry()

    @app.rule(on("a"), name="mill")
    async def mill(run: Run) -> None:
        await run.emit("b")

    log = MemoryLog()
    async with opened(app, log) as engine:
        await engine.emit("a", headers=CARRIED)
        await engine.emit("a")
        await engine.drain()

    found = [event.headers for event in of_kind(log, EventStored) if event.subject == "b"]
    assert found == [CARRIED, None]


def test_what_is_no_provider_is_refused() -> None:
    """In one line that says what was expected and found."""
    wrong: Any = "otlp"
    with pytest.raises(TypeError, match=r"tracer_provider: expected a TracerProvider .* 'otlp'$"):
        App("t").telemetry(tracer_provider=wrong)
