"""Damage to every byte of an engine's directory: the state is what it was, or it is refused.

Beside the segments there are snapshots, index files and the lease of a reader that died:
shortcuts and notes, of which damage must never change what a start comes to.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from random import Random

import msgspec
import pytest
from tests.reference.shell import Shell, ns, rules
from tests.simulation.disk import SimulatedDisk
from tests.simulation.session import Session
from tests.simulation.test_log_damage import PATH, copy, files_of, log_on, segments_of

from headrace import on
from headrace.engine.errors import LogCorrupt, LogVersion
from headrace.engine.log import LogReader
from headrace.engine.restore import restore
from headrace.engine.snapshot import Snapshot
from headrace.triggers.ruleset import Rule

make_rules = rules(Rule("three", on("n").key(lambda e: e.data % 7).count(3, within=1e6), "single"))
EVENTS = 32
SHORTCUTS = ("HEAD", "LOCK", ".idx", ".hrs", ".lease")
"""How the names of files end that a start can do without."""


def written() -> SimulatedDisk:
    """Return the disk of an engine that was killed, with two snapshots and a dead reader."""
    disk = SimulatedDisk()
    session = Session(log_on(disk))
    shell = Shell(make_rules).start(ns(1))
    stored = 0
    for number in range(EVENTS):
        shell.emit(ns(2 + number), "n", number, id=f"e{number}")
        if number % 4 == 3:
            session.put(*shell.units[stored:])
            stored = len(shell.units)
        if number in (11, 23):
            save_snapshot(session, shell)
    with LogReader(PATH, files=disk) as reader:
        reading = reader.read()
        next(reading)
        left = copy(disk)
        list(reading)
    session.log.close()
    assert {name.rpartition(".")[2] for name in files_of(left)} >= {"hrl", "hrs", "idx", "lease"}
    assert len([name for name in files_of(left) if name.endswith(".hrs")]) == 2
    return left


def save_snapshot(session: Session, shell: Shell) -> None:
    snapshot = Snapshot(shell.kernel)
    file = session.log.snapshots.begin(snapshot.sequence)
    file.write(list(snapshot.parts()))
    record = session.log.fetch([snapshot.sequence])[snapshot.sequence]
    file.finish(oldest_sequence=snapshot.oldest_sequence, record=record)


def state_on(disk: SimulatedDisk) -> bytes | None:
    """Start from what is on *disk*; ``None`` if that is refused as damaged."""
    log = log_on(disk)
    try:
        log.open(lambda: None)
        return restore(log, make_rules(), clock=None).dump()
    except (LogCorrupt, LogVersion):
        return None
    finally:
        log.close()


@pytest.fixture(scope="module")
def disk() -> SimulatedDisk:
    """Give the disk; tests change copies of it."""
    return written()


@pytest.fixture(autouse=True)
def quiet() -> Generator[None]:
    """Say nothing of the thousands of snapshots that are of no use."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def check(
    disk: SimulatedDisk,
    change: Callable[[bytes, int], bytes],
    *,
    unnoticed: list[str],
    every: int,
) -> None:
    """Change bytes; in the files *unnoticed* a start need not come across it."""
    expected = state_on(copy(disk))
    assert expected is not None
    for name, data in files_of(disk).items():
        for offset in range(len(name) % every, len(data), every):
            found = state_on(copy(disk, **{name: change(data, offset)}))
            if name.endswith(SHORTCUTS):
                assert found == expected, f"{name} at {offset}"
            elif name in unnoticed:
                assert found in (None, expected), f"{name} at {offset}"
            else:
                assert found is None, f"{name} at {offset}"


EVERY = [
    pytest.param(3, id="every third byte"),
    pytest.param(1, id="every byte", marks=pytest.mark.soak),
]


@pytest.mark.parametrize("every", EVERY)
def test_any_file_cut_anywhere(disk: SimulatedDisk, every: int) -> None:
    """A cut segment or list is refused; without a shortcut the way is longer, and the same."""
    check(disk, lambda data, offset: data[:offset], unnoticed=[], every=every)


@pytest.mark.parametrize("every", EVERY)
def test_any_byte_with_a_flipped_bit(disk: SimulatedDisk, every: int) -> None:
    """So it is with one wrong bit, but in finished segments, which a snapshot passes over."""
    rng = Random(3)

    def flip(data: bytes, offset: int) -> bytes:
        return data[:offset] + bytes([data[offset] ^ 1 << rng.randrange(8)]) + data[offset + 1 :]

    *finished, _ = segments_of(disk)
    check(disk, flip, unnoticed=finished, every=every)


def test_no_snapshot_at_all(disk: SimulatedDisk) -> None:
    """All of them gone, the state is that of the whole log."""
    names = [name for name in files_of(disk) if name.endswith(".hrs")]
    found = state_on(copy(disk, **dict.fromkeys(names)))
    assert found == state_on(copy(disk))
    assert msgspec.msgpack.decode(found or b"", strict=False)["events"] == EVENTS
