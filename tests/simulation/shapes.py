"""An app of many shapes of workflow, the input that drives it, and what came of it.

What comes of it must not depend on where a crash cut it: log time comes from the input,
and waits have no chance in them.
"""

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress
from functools import cache
from random import Random
from typing import Any

import msgspec
from tests.simulation.folds import add_projections

from headrace import (
    App,
    Emission,
    Engine,
    Failure,
    Firing,
    MemoryLog,
    RedriveRefused,
    Retry,
    Run,
    RunNotFound,
    StepCancelled,
    StepFailed,
    any_of,
    on,
    silent,
)
from headrace.engine import record as r
from headrace.triggers.ruleset import Rule

STEADY = Retry(attempts=3, wait_first=2.0, jitter=0.0, wait_max=60.0)
START_S = 1_400_000_000.0


class Reading(msgspec.Struct):
    celsius: float


class Trail:
    """What the app's code did, beside the log: every execution by run, and the open engine."""

    def __init__(self) -> None:
        """Nothing has been executed."""
        self.executed: Counter[int] = Counter()
        self.engine: Engine | None = None

    def step(self, run: Run) -> None:
        """Note that the code of *run* is executed."""
        self.executed[run.id] += 1


class _Relay:
    """Hands on what the app's code does to the trail of the app that was made last."""

    to: Trail

    def step(self, run: Run) -> None:
        """See `Trail`."""
        self.to.step(run)

    @property
    def engine(self) -> Engine:
        """The open engine."""
        assert self.to.engine is not None
        return self.to.engine


class _Digested(Rule, frozen=True):
    """A rule whose fingerprint was computed before."""

    digest: str = ""

    def fingerprint(self) -> str:
        """See `Rule`."""
        return self.digest


_relay = _Relay()


def make_app(trail: Trail) -> App:
    """Return the app; its code leaves a trail until another one is made.

    Reading all the functions takes longer than most lives.  So it is done once; what has a
    state (the app itself, and the rule set that it makes for each start) is new each time.
    """
    _relay.to = trail
    declared = _declared()
    app = App(declared.name)
    app.tasks |= declared.tasks
    app.older |= declared.older
    app.rules |= declared.rules
    app.projections |= declared.projections
    return app


@cache
def _declared() -> App:
    app = App("shapes")
    for add in (
        _add_chains,
        _add_fans,
        _add_failures,
        _add_modes,
        _add_reactions,
        _add_launches,
        _add_followers,
        _add_completions,
        _add_sagas,
        _add_waits,
    ):
        add(app, _relay)
    add_projections(app)
    for name, rule in app.rules.items():
        fields = {field: getattr(rule, field) for field in rule.__struct_fields__}
        app.rules[name] = _Digested(**fields, digest=rule.fingerprint())
    return app


def _add_chains(app: App, trail: _Relay) -> None:
    @app.task
    async def double(run: Run, x: int) -> int:
        trail.step(run)
        return 2 * x

    @app.task
    def negate(run: Run, x: int) -> int:
        trail.step(run)
        return -x

    @app.task
    async def nap(run: Run, seconds: float) -> float:
        trail.step(run)
        await run.sleep(seconds)
        return run.now()

    @app.task
    async def late(run: Run, name: str) -> None:
        trail.step(run)
        await run.sleep(9)
        await run.emit(f"late.{name}", run.now())

    @app.rule(on("chain", int))
    async def chain(run: Run, firing: Firing[int]) -> int:
        trail.step(run)
        first = await run.call(double, firing.events[0].data)
        second = await run.call(negate, first)
        await run.emit("chained", second)
        third = await run.call(double, second)
        await run.launch(late, f"n{third}")
        return third

    @app.rule(on("sleeper"))
    async def sleeper(run: Run) -> float:
        trail.step(run)
        began = run.now()
        await run.sleep(7)
        woke = await run.call(nap, 5.0)
        await run.sleep(3)
        await run.emit("woken", [began, woke, run.now()])
        return run.now()


def _add_fans(app: App, trail: _Relay) -> None:
    @app.task
    async def leaf(run: Run, n: int) -> int:
        trail.step(run)
        if n % 3 == 0:
            await run.sleep(n)
        return n * n

    @app.task
    async def tree(run: Run, depth: int) -> int:
        trail.step(run)
        if depth == 0:
            return 1
        left, right = run.spawn(tree, depth - 1), run.spawn(tree, depth - 1)
        return await left + await right

    @app.task
    async def picky(run: Run, n: int) -> int:
        trail.step(run)
        await run.sleep(n)
        if n == 2:
            raise ValueError("number two")
        return n

    @app.rule(on("fan", int))
    async def fan(run: Run, firing: Firing[int]) -> list[int]:
        trail.step(run)
        squares = await run.map(leaf, range(firing.events[0].data), max_concurrency=2)
        await run.emit("fanned", squares)
        return squares

    @app.rule(on("trees"))
    async def grow(run: Run) -> int:
        trail.step(run)
        return await run.call(tree, 2)

    @app.rule(on("picky"))
    async def pick(run: Run) -> str:
        trail.step(run)
        try:
            await run.map(picky, [1, 2, 3, 4, 5], max_concurrency=4)
        except StepFailed as error:
            await run.emit("picked", error.error)
            return error.error
        return "all"

    @app.rule(on("race"))
    async def first_of_two(run: Run) -> list[Any]:
        trail.step(run)
        fast, slow = run.spawn(leaf, 3), run.spawn(leaf, 300)
        got = await fast
        slow.cancel()
        try:
            await slow
        except StepCancelled as error:
            return [got, error.error]
        return [got, "not cancelled"]


def _add_failures(app: App, trail: _Relay) -> None:
    @app.task(retry=STEADY)
    async def flaky(run: Run, until: int) -> int:
        trail.step(run)
        if run.attempt < until:
            raise OSError(f"attempt {run.attempt}")
        return run.attempt

    @app.task
    async def steady(run: Run, x: int) -> int:
        trail.step(run)
        return x + 1

    @app.rule(on("flaky"))
    async def call_flaky(run: Run) -> list[Any]:
        trail.step(run)
        tried = await run.call(flaky, 3)
        try:
            await run.call(flaky, 9)
        except StepFailed as error:
            return [tried, error.error]
        return [tried]

    @app.rule(on("again"), retry=STEADY)
    async def again(run: Run) -> int:
        trail.step(run)
        kept = await run.call(steady, 1)
        await run.emit("tried", run.attempt)
        if run.attempt < 3:
            try:
                await run.call(flaky, 9)
            except StepFailed:
                await run.call(steady, 10)
                raise
        return await run.call(steady, kept)

    @app.rule(on("doomed"))
    async def doomed(run: Run) -> None:
        trail.step(run)
        _ = run.spawn(steady, 5)
        raise RuntimeError("as it had to come")


def _add_modes(app: App, trail: _Relay) -> None:
    def keyed(subject: str) -> Any:
        return on(subject).key(lambda e: e.tokens[1])

    @app.rule(keyed("newest.*"), mode="restart")
    async def newest(run: Run, firing: Firing[Any]) -> Any:
        trail.step(run)
        await run.sleep(20)
        await run.emit("newest", firing.events[0].data)
        return firing.events[0].data

    @app.rule(keyed("oldest.*"), mode="single")
    async def oldest(run: Run, firing: Firing[Any]) -> Any:
        trail.step(run)
        await run.sleep(20)
        return firing.events[0].data

    @app.rule(keyed("long.*"))
    async def long(run: Run) -> None:
        trail.step(run)
        await run.sleep(1000)

    @app.rule(keyed("stop.*"))
    async def stop(run: Run, firing: Firing[Any]) -> None:
        trail.step(run)
        engine = trail.engine
        for other in engine.runs("active"):
            if other.task == "long" and other.key == run.key:
                try:
                    await engine.cancel(other.id, "a rule asked for it")
                except RunNotFound:  # the other one was faster
                    continue


def _add_reactions(app: App, trail: _Relay) -> None:
    hot = on("heat.*", Reading).where(lambda e: e.data.celsius > 90)

    @app.rule(hot.key(lambda e: e.tokens[1]).count(2, within=30))
    async def overheated(run: Run, firing: Firing[Reading]) -> list[float]:
        trail.step(run)
        await run.emit(f"alarm.{run.key}", firing.sequences != [])
        return [event.data.celsius for event in firing.events]

    @app.rule(silent(on("beat"), for_=15))
    async def too_quiet(run: Run, firing: Firing[Any]) -> float:
        trail.step(run)
        return firing.at

    @app.rule(any_of(on("chained"), on("alarm.*"), on("late.*")))
    async def notice(run: Run, firing: Firing[Any]) -> Any:
        trail.step(run)
        return [firing.branches, firing.events[0].subject]

    @app.rule(any_of(on("run.failed.>"), on("run.cancelled.>"), on("run.completed.fan")))
    async def audit(run: Run, firing: Firing[dict[str, Any]]) -> None:
        trail.step(run)
        await run.emit("audited", [firing.events[0].subject, firing.events[0].data["attempt"]])

    @app.every(40)
    async def tick(run: Run, firing: Firing[Any]) -> float:
        trail.step(run)
        return firing.at


def _add_launches(app: App, trail: _Relay) -> None:
    @app.task
    async def bill(run: Run, what: str) -> str:
        trail.step(run)
        await run.sleep(2)
        return what

    @app.rule(on("order"))
    async def order(run: Run) -> None:
        trail.step(run)
        await run.keyed("of the day", window=20).launch(bill, "coal")

    @app.task
    async def bulk(run: Run, letter: str) -> str:
        trail.step(run)
        return letter * 70_000

    @app.rule(on("bulky"))
    async def bulky(run: Run) -> list[int]:
        trail.step(run)
        first = await run.call(bulk, "a")
        await run.sleep(3)
        second, third = await run.map(bulk, ["b", "a"])
        return [len(first), len(second), int(first == third)]

    @app.task
    async def whole(run: Run) -> int:
        trail.step(run)
        return 1

    @app.task
    async def broken(run: Run, attempt: int) -> int:
        trail.step(run)
        if attempt == 1:
            raise ValueError("broken")
        return 2

    @app.rule(on("break"))
    async def breaks(run: Run) -> list[int]:
        trail.step(run)
        first = await run.call(whole)
        await run.sleep(1)
        return [first, await run.call(broken, run.attempt)]

    @app.rule(on("run.failed.breaks"))
    async def mend(run: Run, firing: Firing[dict[str, Any]]) -> None:
        trail.step(run)
        with suppress(RunNotFound, RedriveRefused):  # it was done before the crash
            await trail.engine.redrive(firing.events[0].data["run"])


def _add_followers(app: App, trail: _Relay) -> None:
    @app.task
    async def mourn(run: Run, failure: Failure) -> str:
        trail.step(run)
        return f"{failure.task} with {failure.input}: {failure.error}"

    @app.task(on_failure=mourn, retry=Retry(attempts=2, wait_first=2, jitter=0))
    async def judge(run: Run, n: int) -> None:
        trail.step(run)
        await run.sleep(1)
        raise ValueError(n)

    @app.task(then=judge)
    async def count(run: Run, letters: str) -> int:
        trail.step(run)
        return len(letters)

    @app.task(then=count)
    async def repeat(run: Run, times: int) -> str:
        trail.step(run)
        return "x" * times

    @app.rule(on("follow", int))
    async def follow(run: Run, firing: Firing[int]) -> None:
        trail.step(run)
        await run.call(repeat, firing.events[0].data)


def _add_waits(app: App, trail: _Relay) -> None:
    @app.rule(on("ask"))
    async def asker(run: Run) -> list[Any]:
        trail.step(run)
        first = await run.receive("first", int)
        await run.sleep(4)
        second = await run.receive("second", int, timeout=30)
        third = await run.receive("third", timeout=5)
        return [first, second, third, run.now()]

    @app.rule(on("tell", tuple[str, int]))
    async def teller(run: Run, firing: Firing[tuple[str, int]]) -> None:
        trail.step(run)
        name, number = firing.events[0].data
        for view in trail.engine.runs("active"):
            if view.task == "asker":
                with suppress(RunNotFound):  # the crash may let it be told twice
                    await trail.engine.signal(view.id, name, number)

    @app.rule(on("start"))
    async def starter(run: Run) -> list[Any]:
        trail.step(run)
        asked = await run.emit("starting")
        early = await run.wait(on("started", float), since=asked)
        high = on("level", int).where(lambda e: e.data > 5)
        held = await run.wait(high.hold(for_=3))
        pair = on("level", int).count(2, within=20)
        two = await run.wait(pair, timeout=40, lookback=False)
        each = [(await run.wait(on("level", int))).events[0].data for _ in range(2)]
        beat = await run.wait(on("level"), since=run.cause, timeout=5)
        none = await run.wait(on("never"), timeout=6)
        if run.attempt == 1:
            await run.emit("went", [early.events[0].data, held.at])
        numbers = None if two is None else [event.data for event in two.events]
        return [early.events[0].data, held.at, numbers, each, beat is None, none, run.now()]

    @app.rule(on("starting"))
    async def answer(run: Run) -> None:
        trail.step(run)
        await run.emit("started", run.now())


def _add_completions(app: App, trail: _Relay) -> None:
    @app.task(version="1")
    async def paced(run: Run, seconds: float) -> float:
        raise AssertionError("no run is of this version")

    @app.task(name="paced", version="2")
    async def pace(run: Run, seconds: float) -> float:
        trail.step(run)
        await run.sleep(seconds)
        if seconds == 2.5:
            raise ValueError("two and a half")
        return seconds

    @app.rule(on("sprint"))
    async def sprint(run: Run) -> list[Any]:
        trail.step(run)
        first = await run.race(*[run.spawn(pace, n) for n in (3.0, 1.0, 2.0)])
        try:
            await run.race(run.spawn(pace, 3.5), run.spawn(pace, 2.5))
        except StepFailed as error:
            return [first, error.error, run.patched("sprint")]
        return [first]

    @app.rule(on("stream"))
    async def stream(run: Run) -> list[Any]:
        trail.step(run)
        came = list[Any]()
        async for index, result in run.map_as_completed(pace, [4.0, 1.0, 3.0, 6.0, 1.5]):
            came.append([index, result])
            if index == 2:
                break
        try:
            async for index, result in run.map_as_completed(
                pace, [2.5, 0.5, 0.75, 9.0], max_concurrency=2
            ):
                came.append([index, result])
        except StepFailed as error:
            await run.emit("streamed", [*came, error.error])
        return came


def _add_sagas(app: App, trail: _Relay) -> None:
    @app.task(retry=STEADY)
    async def release(run: Run, what: str) -> None:
        trail.step(run)
        await run.sleep(1)
        if run.attempt == 1 or what == "train":
            raise OSError(f"{what} is not released")
        await run.emit(f"released.{what}", run.now())

    @app.task
    async def book(run: Run, what: str) -> str:
        trail.step(run)
        return what

    @app.rule(on("saga"), retry=STEADY)
    async def saga(run: Run) -> None:
        trail.step(run)
        for what in ("hotel", "train", "flight"):
            await run.call(book, what)
            await run.compensate(release, what)
        raise ValueError("no visa")

    @app.rule(on("tour"))
    async def tour(run: Run) -> None:
        trail.step(run)
        await run.compensate(release, "bus")
        await run.call(book, "guide")
        await run.compensate(release, "guide")
        await run.sleep(1000)

    @app.rule(on("cancel-tours"))
    async def cancel_tours(run: Run) -> None:
        trail.step(run)
        engine = trail.engine
        for other in engine.runs("active"):
            if other.task == "tour":
                with suppress(RunNotFound):  # it has ended
                    await engine.cancel(other.id, "rain")


Input = list[tuple[float, str, Any]]
"""Seconds since the start, subject, data."""

INPUT: Input = [
    (0, "chain", 3),
    (0, "beat", None),
    (1, "fan", 5),
    (2, "newest.a", 1),
    (3, "oldest.a", 1),
    (4, "flaky", None),
    (5, "newest.a", 2),
    (6, "oldest.a", 2),
    (6, "newest.b", 3),
    (7, "sleeper", None),
    (8, "heat.t1", Reading(95)),
    (9, "trees", None),
    (10, "again", None),
    (12, "long.x", None),
    (12, "long.y", None),
    (13, "picky", None),
    (14, "heat.t1", Reading(50)),
    (15, "heat.t1", Reading(97)),
    (16, "stop.x", None),
    (17, "race", None),
    (18, "doomed", None),
    (21, "beat", None),
    (24, "newest.a", 4),
    (30, "oldest.a", 3),
    (33, "heat.t2", "no reading"),
    (45, "stop.y", None),
    (46, "order", None),
    (47, "order", None),
    (47, "bulky", None),
    (48, "break", None),
    (49, "ask", None),
    (49, "start", None),
    (50, "tell", ("first", 1)),
    (51, "level", 7),
    (52, "tell", ("second", 2)),
    (55, "level", 8),
    (56, "level", 9),
    (50, "follow", 3),
    (51, "follow", 70_000),
    (52, "sprint", None),
    (52, "stream", None),
    (53, "saga", None),
    (54, "tour", None),
    (56, "cancel-tours", None),
    (60, "chain", 8),
    (60, "order", None),
    (70, "order", None),
]


def random_input(rng: Random, count: int = 15) -> Input:
    """Return the same kinds of events at other times, some at once or when a timer is due."""
    kinds = [(subject, data) for _, subject, data in INPUT]
    chosen = [rng.choice(kinds) for _ in range(count)]
    step_s = rng.choice([0.25, 4.0])
    times = sorted(step_s * rng.randrange(int(60 / step_s)) for _ in chosen)
    return [(at, subject, data) for at, (subject, data) in zip(times, chosen, strict=True)]


async def feed(engine: Engine, events: Input) -> None:
    """Put in what the log does not have yet; return when nothing is left to do."""
    done = engine.cursor("file")
    for position, (at, subject, data) in enumerate(events):
        if done is None or position > done:
            await engine.emit_many(
                [Emission(subject, data, source="file", position=position, time=START_S + at)]
            )
    await engine.drain()


# ---------------------------------------------------------------- what came of it

_IDS = re.compile(r"\brun(?:':)? \d+")
_NOT_SAID = ("run", "parent", "firing", "event")


class Outcome(msgspec.Struct):
    """All that a log says, without its sequences: each part counted, in no order."""

    events: Counter[str]
    firings: Counter[str]
    runs: Counter[str]

    def difference(self, other: Outcome) -> list[str]:
        """Return what is only in this (-) or only in *other* (+)."""
        said = []
        for name in self.__struct_fields__:
            mine, theirs = getattr(self, name), getattr(other, name)
            said += [f"- {name} {text}" for text in (mine - theirs).elements()]
            said += [f"+ {name} {text}" for text in (theirs - mine).elements()]
        return said


def records_of(log: MemoryLog) -> list[tuple[int, r.Record]]:
    """Return the records with their sequences."""
    return [
        (sequence, r.decode(raw))
        for first, batch in log.read()
        for sequence, raw in enumerate(batch, first)
    ]


def completed_runs(log: MemoryLog) -> set[int]:
    """Return the ids of the runs whose result is in the log."""
    return {record.run for _, record in records_of(log) if isinstance(record, r.RunCompleted)}


def outcome_of(log: MemoryLog) -> Outcome:
    """Return what the log says."""
    made = Outcome(Counter(), Counter(), Counter())
    names: dict[int, str] = {}  # of events and of runs, by sequence
    attempts: Counter[int] = Counter()
    for sequence, record in records_of(log):
        if isinstance(record, r.EventStored):
            names[sequence] = _event_text(record)
            made.events[names[sequence]] += 1
        elif isinstance(record, r.RuleFired):
            met = [names[event] for event in record.events]
            names[sequence] = f"{record.rule}[{record.key}] by {met}"
            made.firings[f"{names[sequence]} {record.outcome} {record.due_ns}"] += 1
        elif isinstance(record, r.StepRequested):
            args = msgspec.msgpack.decode(record.args)
            names[sequence] = f"{record.kind} {record.task}{args} of ({names[record.parent]})"
        elif isinstance(record, r.RunLaunched):
            args = msgspec.msgpack.decode(record.args)
            names[sequence] = f"launch {record.task}{args} [{record.key}]"
        elif isinstance(record, r.RunRedriven):
            made.runs[_IDS.sub("run N", f"{names[record.run]}: redriven at {record.at_ns}")] += 1
        elif isinstance(record, r.AttemptFailed):
            attempts[record.run] += 1
            text = f"{names[record.run]}: {record.error} again at {record.retry_at_ns}"
            made.runs[_IDS.sub("run N", text)] += 1
        elif isinstance(record, r.RunFailing):
            text = f"{names[record.run]}: undone at {record.at_ns} because of {record.error}"
            made.runs[_IDS.sub("run N", text)] += 1
        elif isinstance(record, (r.RunCompleted, r.RunFailed, r.RunCancelled)):
            text = f"{names[record.run]}: {_end_text(record)} at {record.at_ns}"
            made.runs[_IDS.sub("run N", text)] += 1
    return made


def _event_text(event: r.EventStored) -> str:
    data = msgspec.msgpack.decode(event.data)
    if isinstance(data, dict):
        data = {name: value for name, value in data.items() if name not in _NOT_SAID}
    return _IDS.sub("run N", f"{event.subject} {data} at {event.at_ns}")


def _end_text(record: r.RunCompleted | r.RunFailed | r.RunCancelled) -> str:
    if isinstance(record, r.RunCompleted):
        stored = "" if record.blob is None else f" in {record.blob.hex()}"
        return f"result {msgspec.msgpack.decode(record.result)}{stored}"
    if isinstance(record, r.RunFailed):
        return f"failed {record.error} in attempt {record.attempt}"
    return f"cancelled: {record.reason}"
