"""A loaded engine is killed with SIGKILL, again and again, and goes on each time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any, Self

import anyio
import msgspec
import pytest
from tests.simulation import victim

from headrace import MemoryLog
from headrace.engine import record as r
from headrace.engine.log import LogReader
from headrace.engine.log.fork import fork
from headrace.engine.log.verify import verify
from headrace.engine.restore import from_snapshot, restore

ROOT = Path(__file__).parents[2]
LIFE_S_MAX = 60.0

Records = list[tuple[int, r.Record]]


class Lives:
    """A log, the lives that were lived over it, and what they said."""

    def __init__(self, folder: Path, backend: str, *, keep_bytes: int = -1) -> None:
        """Begin with no log; *keep_bytes* of it are kept, all if that is negative."""
        self.keep_bytes = keep_bytes
        self.path = folder / "log"
        self.side = folder / "side"
        self.backend = backend
        self.count = 0
        self.acknowledged: dict[tuple[str, int], int] = {}
        """Sequence by source and number."""

    def __enter__(self) -> Self:
        """Start what the children are forked from."""
        command = [sys.executable, victim.__file__, self.backend, self.path, self.side]
        self._parent = subprocess.Popen(
            [*map(str, command), str(self.keep_bytes)],
            stdin=subprocess.PIPE,  # its end is the children's end
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        with self._parent as parent:
            parent.kill()

    def live(self, *, last: int, kill_after: int | None = None, delay_s: float = 0.0) -> bool:
        """Start a child; kill it *delay_s* after so many acknowledgements; say if it ended.

        With 0 acknowledgements the delay counts from the start of the process.
        """
        self.count += 1
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(f"{self.count} {last}\n")
        self._parent.stdin.flush()
        pid = int(self._parent.stdout.readline().removeprefix("pid "))
        watchdog = threading.Timer(LIFE_S_MAX, self._parent.kill)
        watchdog.start()
        killer = threading.Timer(delay_s, os.kill, [pid, signal.SIGKILL])
        ended, code = False, ""
        try:
            if kill_after == 0:
                killer.start()
            for number, line in enumerate(self._parent.stdout, 1):
                word, _, rest = line.partition(" ")
                if word == "over":
                    code = rest.strip()
                    break
                ended = word == "end\n" or self._take(line)
                if number == kill_after:
                    killer.start()
        finally:
            watchdog.cancel()
            killer.cancel()
        assert code == ("0" if ended else str(-signal.SIGKILL)), code
        return ended

    def _take(self, line: str) -> bool:
        source, number, sequence = line.split()
        self.acknowledged[source, int(number)] = int(sequence)
        return False

    def records(self) -> Records:
        """Read the log as it lies there, checking that sequences have no gap and no repeat."""
        found: Records = []
        if not self.path.exists() or not (self.path / "MANIFEST").exists():
            return found  # killed before there was a log
        for first, batch in LogReader(self.path).read():
            assert first == (found[-1][0] + 1 if found else first), "a gap or a repeat"
            found += [(s, r.decode(raw)) for s, raw in enumerate(batch, first)]
        assert not found or found[0][0] == 1 or self.keep_bytes >= 0
        return found


def check_acknowledged(lives: Lives, records: Records) -> None:
    """Nothing that was acknowledged is lost, and no job is stored twice."""
    stored: dict[tuple[str, int], int] = {}
    for sequence, record in records:
        if isinstance(record, r.EventStored) and record.subject.startswith("job."):
            job = msgspec.msgpack.decode(record.data, type=victim.Job)
            assert (job.source, job.number) not in stored, f"stored twice: {job}"
            stored[job.source, job.number] = sequence
    for name, sequence in lives.acknowledged.items():
        assert stored.get(name) == sequence, f"{name} was acknowledged as {sequence}"
    for source in victim.SOURCES:
        numbers = [number for origin, number in stored if origin == source]
        assert numbers == list(range(len(numbers))), f"{source} has gaps or another order"


def lives_of(records: Records) -> list[int]:
    """Return the number of the life that each start in the log belongs to, or a later one.

    A life says its number in an event.  One that was killed before it could is numbered as
    late as it can have been.
    """
    numbers: list[int] = []
    for _, record in records:
        if isinstance(record, r.EngineStarted):
            numbers.append(0)
        elif isinstance(record, r.EventStored) and record.subject == "life":
            numbers[-1] = msgspec.msgpack.decode(record.data, type=int)
    for n in range(len(numbers) - 2, -1, -1):
        numbers[n] = numbers[n] or numbers[n + 1] - 1
    return numbers


def check_executions(lives: Lives, records: Records) -> int:
    """What was recorded as ended in one life was not executed in a later one.

    Returns how many executions were repeated because their results were not recorded.
    """
    numbers = iter(lives_of(records))
    life = 0
    keys: dict[int, str] = {}
    attempts: Counter[int] = Counter()
    ended_in: dict[str, int] = {}
    for sequence, record in records:
        if isinstance(record, r.EngineStarted):
            life = next(numbers)
        elif isinstance(record, r.RuleFired):
            keys[sequence] = str(sequence)
        elif isinstance(record, r.StepRequested):
            attempt = attempts[record.parent] + 1
            keys[sequence] = f"{keys[record.parent]}/{attempt}.{record.ordinal}"
        elif isinstance(record, r.AttemptFailed):
            attempts[record.run] += 1
        elif isinstance(record, (r.RunCompleted, r.RunFailed)):
            ended_in[keys[record.run]] = life
    executed_in: dict[str, set[int]] = {}
    for line in lives.side.read_text().splitlines():
        number, key, _ = line.split()
        executed_in.setdefault(key.partition("/")[2], set()).add(int(number))
    # The same keys as in the log: no execution under a key that came to nothing, which
    # whoever was asked could not tell from another.
    assert set(executed_in) == set(ended_in)
    for key, executed in executed_in.items():
        assert max(executed) <= ended_in[key], f"run {key} was executed after its end"
    return sum(len(executed) - 1 for executed in executed_in.values())


def results_of(records: Records) -> Counter[str]:
    """Return what came of it, without sequences and times."""
    names: dict[int, str] = {}
    results: Counter[str] = Counter()
    for sequence, record in records:
        if isinstance(record, r.EventStored):
            if record.subject == "life":
                continue
            names[sequence] = f"{record.subject} {msgspec.msgpack.decode(record.data)}"
            results[names[sequence]] += 1
        elif isinstance(record, r.RuleFired):
            names[sequence] = f"{record.rule} by {[names[event] for event in record.events]}"
        elif isinstance(record, r.StepRequested):
            args = msgspec.msgpack.decode(record.args)
            names[sequence] = f"{record.task}{args} of ({names[record.parent]})"
        elif isinstance(record, r.RunCompleted):
            result: Any = msgspec.msgpack.decode(record.result)
            results[f"{names[record.run]}: {result}"] += 1
        elif isinstance(record, r.RunFailed):
            results[f"{names[record.run]}: {record.error} in attempt {record.attempt}"] += 1
    return results


async def undisturbed(last: int, backend: str) -> Counter[str]:
    """Return the results of the same jobs without any kill."""
    log = MemoryLog()
    async with victim.make_app(lambda _: None).open(log) as engine:
        for source in victim.SOURCES:
            await engine.emit_many(victim.jobs(source, 0, last))
        await engine.drain()
    return results_of(
        [
            (sequence, r.decode(raw))
            for first, batch in log.read()
            for sequence, raw in enumerate(batch, first)
        ]
    )


def kill_again_and_again(lives: Lives, rng: Random, kills: int) -> int:
    """Kill *kills* times, then let a life end; return the number of its last jobs."""
    for number in range(kills):
        if number % 5 == 3:  # in the middle of recovery, or before it
            ended = lives.live(last=10**6, kill_after=0, delay_s=rng.uniform(0.0, 0.1))
        else:
            ended = lives.live(
                last=10**6, kill_after=rng.randrange(1, 40), delay_s=rng.uniform(0.0, 0.05)
            )
        assert not ended
        check_acknowledged(lives, lives.records())
    last = max(number for _, number in lives.acknowledged) + 10
    assert lives.live(last=last)
    return last


def kill_and_compare(folder: Path, backend: str, *, seed: int, kills: int) -> str:
    """Kill *kills* times, let the last life end, check everything; return the figures."""
    rng = Random(seed)
    with Lives(folder, backend) as lives:
        last = kill_again_and_again(lives, rng, kills)
    records = lives.records()
    check_acknowledged(lives, records)
    assert len(lives.acknowledged) <= len(victim.SOURCES) * (last + 1)
    repeated = check_executions(lives, records)
    expected = anyio.run(undisturbed, last, backend, backend=backend)
    found = results_of(records)
    assert found == expected, [*(expected - found), "…", *(found - expected)][:20]
    return (
        f"{kills} kills, {len(lives.acknowledged)} events acknowledged, {len(records)} records, "
        f"{repeated} invocations repeated whose end was not recorded, 0 lost"
    )


@pytest.mark.parametrize(
    ("backend", "seed", "kills"),
    [("asyncio", 1, 25), ("asyncio", 2, 25), ("trio", 3, 20)],
)
def test_nothing_acknowledged_is_lost_by_kill_9(
    tmp_path: Path, backend: str, seed: int, kills: int
) -> None:
    """The result is that of a run that nobody killed, and no completed step ran again."""
    print(kill_and_compare(tmp_path, backend, seed=seed, kills=kills))


def kill_while_forgetting(folder: Path, *, seed: int, kills: int) -> None:
    """Kill an engine that removes old records, fork what it left, and check all of it."""
    rng = Random(seed)
    with Lives(folder, "asyncio", keep_bytes=6000) as lives:
        for number in range(kills):
            assert not lives.live(
                last=10**6, kill_after=rng.randrange(20, 90), delay_s=rng.uniform(0.0, 0.05)
            )
            check_what_is_kept(lives)
            fork_and_compare(lives, folder / f"fork{number}", rng)
        last = max(number for _, number in lives.acknowledged) + 10
        assert lives.live(last=last)
    records = check_what_is_kept(lives)
    assert records[0][0] > 1, "nothing was removed"
    assert len(list(lives.path.glob("snap-*.hrs"))) == 2
    with LogReader(lives.path) as reader:
        kernel = restore(reader, victim.make_app(lambda _: None).decider(), clock=None)
    assert kernel.divergences == []
    assert kernel.state.runs.active == {}
    # Every job was stored once and worked off, though most of that is not in the log any more.
    jobs = len(victim.SOURCES) * (last + 1)
    assert kernel.state.stats["work"].fired == kernel.state.stats["note"].fired == jobs
    assert kernel.state.runs.counts["work"] == {"completed": jobs}
    assert kernel.state.runs.counts["note"] == {"completed": jobs}
    assert set(kernel.state.cursors.values()) == {last}


def check_what_is_kept(lives: Lives) -> Records:
    """What was acknowledged is there, as far back as the log goes; return the records."""
    records = lives.records()
    stored = dict(records)
    for (source, number), sequence in lives.acknowledged.items():
        if sequence >= records[0][0]:
            record = stored[sequence]
            assert isinstance(record, r.EventStored)
            job = msgspec.msgpack.decode(record.data, type=victim.Job)
            assert (job.source, job.number) == (source, number)
    assert verify(lives.path).ok
    return records


def fork_and_compare(lives: Lives, target: Path, rng: Random) -> None:
    """A fork at any record from which a state can be had has that state."""
    with LogReader(lives.path) as reader:
        last = reader.refresh()
        decider = victim.make_app(lambda _: None).decider
        at = rng.randint(min([*reader.snapshots.sequences(), last]), last)
        done = fork(lives.path, at, target)
        kernel, _ = from_snapshot(reader, decider(), oldest=True)
        for start, batch in reader.read(after=kernel.sequence, upto=done.sequence):
            for sequence, raw in enumerate(batch, start):
                kernel.fold(sequence, r.decode(raw))
        kernel.finish_fold()
    with LogReader(target) as forked:
        assert restore(forked, decider(), clock=None).dump() == kernel.dump()
        assert forked.refresh() == done.sequence


@pytest.mark.parametrize("seed", [1, 2])
def test_kills_of_an_engine_that_forgets(tmp_path: Path, seed: int) -> None:
    """Snapshots, removal of old records and forks are safe against kills at any time."""
    kill_while_forgetting(tmp_path, seed=seed, kills=15)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3, 103))
def test_kills_of_an_engine_that_forgets_at_length(tmp_path: Path, seed: int) -> None:
    """As above, a hundred logs with ten kills each."""
    kill_while_forgetting(tmp_path, seed=seed, kills=10)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100))
def test_nothing_acknowledged_is_lost_by_1000_kills(tmp_path: Path, seed: int) -> None:
    """As above, a hundred logs with ten kills each."""
    print(kill_and_compare(tmp_path, "trio" if seed % 5 == 4 else "asyncio", seed=seed, kills=10))
