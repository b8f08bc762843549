"""Large logs: opening 10 GiB, finding a record, memory, and what compression disturbs.

    python benchmarks/log_large.py [--repeat 3] [--seek 1] [--memory 10000000] [--path DIR]

Takes minutes and much of the disk, so it is no part of `make bench`; it prints lines.
"""

from __future__ import annotations

import argparse
import random
import resource
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import msgspec
from common import percentile

from headrace.engine import record as kinds
from headrace.engine.log import FileLog, LogReader
from headrace.engine.log import manifest as manifests
from headrace.engine.log import segment as segments
from headrace.engine.log.background import Background
from headrace.engine.log.files import SystemFiles
from headrace.engine.log.frame import (
    DATA,
    SEAL,
    encode_frame,
    encode_records,
    encode_segment_header,
)
from headrace.engine.log.index import SEALED_STEP_BYTES
from headrace.engine.log.manifest import Segment

START_NS = 1_700_000_000_000_000_000
SEGMENT_BYTES = 64 * 1024 * 1024
RECORDS_PER_SEGMENT = 1_800_000


# A hundred readings, in tenths of a degree: neither noise nor nothing for compression.
_CELSIUS = [struct.pack(">d", round(20 + n * 7 % 101 / 10, 1)) for n in range(1009)]


def small_event(number: int) -> bytes:
    """Return a typical reading of a sensor, encoded."""
    payload = msgspec.Raw(b"\x81\xa1c\xcb" + _CELSIUS[number % len(_CELSIUS)])
    return kinds.encode(kinds.EventStored(START_NS + number, "plant.7.t", payload))


def fill(path: Path, count: int, *, group: int = 100, first: int = 1) -> None:
    """Append *count* small events in groups, a megabyte ahead at most."""
    room = threading.Event()
    log = FileLog(path, durability="flushed")
    log.open(room.set)
    for start in range(first, first + count, group):
        log.append([small_event(n) for n in range(start, min(start + group, first + count))])
        log.commit()
        while log.pending_bytes > 1 << 20:
            room.clear()
            if log.pending_bytes > 1 << 20:
                room.wait(1.0)
    log.close()


def sparse(path: Path, count: int) -> None:
    """Put *count* finished segments before the log at *path*: sparse files for their bytes."""
    files, folder = SystemFiles(), str(path)
    path.mkdir()
    log_id, previous, entries = bytes(16), 0, list[Segment]()
    for place in range(count):
        base = 1 + place * RECORDS_PER_SEGMENT
        following = base + RECORDS_PER_SEGMENT
        header, chain = encode_segment_header(
            log_id=log_id, base=base, created_ns=START_NS, previous=previous
        )
        steps = range(SEALED_STEP_BYTES, SEGMENT_BYTES, SEALED_STEP_BYTES)
        index = [(base + 1000 + n, at, START_NS + base + n) for n, at in enumerate(steps)]
        seal = segments.Seal(RECORDS_PER_SEGMENT, START_NS, START_NS, index, bytes(16))
        data, last = encode_frame(
            segments.encode_body(seal),
            kind=SEAL,
            count=0,
            base=following,
            durable=following,
            chain=chain,
        )
        with (path / segments.name_of(base)).open("wb") as file:
            file.write(header)
            if not place:
                # `log info` reads this many, to find who made the log.
                body = encode_records([small_event(n) for n in range(1, 1001)])
                made = {"kind": DATA, "count": 1000, "base": base, "durable": base}
                file.write(encode_frame(body, chain=chain, **made)[0])
            file.truncate(SEGMENT_BYTES)
            file.seek(SEGMENT_BYTES)
            file.write(data)
        entries.append(
            Segment(
                base,
                log_id,
                sealed=True,
                size_bytes=SEGMENT_BYTES + len(data),
                seal_offset=SEGMENT_BYTES,
                next_sequence=following,
                chain=last,
                digest=bytes(16),
                first_at_ns=START_NS + base,
                last_at_ns=START_NS + following - 1,
            )
        )
        previous = last
    base = entries[-1].next_sequence
    segments.create(files, folder, log_id=log_id, base=base, created_ns=1, previous=previous)
    listed = manifests.Manifest(1, log_id, START_NS, 1, [*entries, Segment(base, log_id)])
    manifests.store(files, folder, listed)


def opening(folder: Path, repetitions: int) -> None:
    """Print what opening costs with 10 GiB of finished segments and 32 MiB after them."""
    path = folder / "sparse"
    sparse(path, 160)
    first = 1 + 160 * RECORDS_PER_SEGMENT
    fill(path, 900_000, first=first)
    took: dict[str, list[float]] = {"open": [], "LogReader": [], "log info": []}
    headrace = str(Path(sys.executable).with_name("headrace"))
    command = [headrace, "log", "info", str(path)]
    for _ in range(repetitions):
        log = FileLog(path)
        start = time.perf_counter()
        log.open(lambda: None)
        took["open"].append(time.perf_counter() - start)
        log.close()
        start = time.perf_counter()
        with LogReader(path, lease=False) as reader:
            reader.refresh()
        took["LogReader"].append(time.perf_counter() - start)
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        took["log info"].append(time.perf_counter() - start)
    for name, times in took.items():
        print(f"{f'{name}, 10 GiB finished':<40}{median(times) * 1e3:>10,.1f} ms")


def seeking(folder: Path, gigabytes: float, count: int) -> None:
    """Print what it takes to find one record by its sequence and by its time."""
    path, per_gigabyte = folder / "seek", 28_000_000
    last = int(gigabytes * per_gigabyte)
    fill(path, last)
    size = sum(file.stat().st_size for file in path.glob("*.hrl")) / (1 << 30)
    log = FileLog(path)
    log.open(lambda: None)
    with LogReader(path, lease=False) as reader:
        start = time.perf_counter()
        reader.fetch([last])
        took_ms = (time.perf_counter() - start) * 1e3
        print(f"{'first look at the open segment':<40}{took_ms:>10,.1f} ms")
        open_base = reader.manifest.segments[-1].base
        rng = random.Random(1)
        ways: dict[str, Callable[[int], object]] = {
            "LogReader.fetch": lambda n: reader.fetch([n]),
            "LogReader.sequence_at": lambda n: reader.sequence_at(START_NS + n),
            "FileLog.fetch": lambda n: log.fetch([n]),
        }
        for name, way in ways.items():
            for where, low in (("anywhere", 1), ("open segment", open_base)):
                took: list[float] = []
                for _ in range(count):
                    sequence = rng.randint(low, last)
                    start = time.perf_counter()
                    way(sequence)
                    took.append((time.perf_counter() - start) * 1e3)
                label = f"{name}, {size:.1f} GiB, {where}"
                print(f"{label:<48}p50 {median(took):.3f}  p99 {percentile(took, 0.99):.3f} ms")
    log.close()


def memory(folder: Path, count: int) -> None:
    """Print the greatest resident size of a process that appends and reads *count* records."""
    for what in ("append", "read"):
        command = [sys.executable, __file__, what, str(folder / "memory"), str(count)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        print(f"{f'{what} {count:,} records':<40}{done.stdout.strip()}")


def _in_child(what: str, path: Path, count: int) -> None:
    start, before = time.perf_counter(), _resident_mb()
    if what == "append":
        fill(path, count)
    else:
        with LogReader(path, lease=False) as reader:
            found = sum(len(list(map(kinds.decode, batch))) for _, batch in reader.read())
        assert found == count
    took = time.perf_counter() - start
    print(f"{_resident_mb():>10.0f} MB resident at most ({before:.0f} before), {took:.1f} s")


def _resident_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compressing(folder: Path, seconds: float) -> None:
    """Print the latency of fsynced commits of 10 records with and without compression."""
    path = folder / "compress"
    fill(path, 12_000_000)
    for compress in (False, True, False):
        changed = threading.Event()
        log = FileLog(path)
        log.open(changed.set)
        assert log._store is not None
        stop = Background(
            log._files, log.path, log._store.catalog,
            compresses=compress, healthy=lambda: True, clock=log._clock,
        )  # fmt: skip
        worker = threading.Thread(target=stop.work)
        worker.start()
        took: list[float] = []
        end = time.perf_counter() + seconds
        while (start := time.perf_counter()) < end or (compress and worker.is_alive()):
            log.append([small_event(n) for n in range(10)])
            log.commit()
            while log.committed_sequence < log.next_sequence - 1:
                changed.wait(1.0)
                changed.clear()
            took.append((time.perf_counter() - start) * 1e3)
            time.sleep(0.001)
        stop.stop()
        worker.join()
        packed = [entry for entry in log._store.manifest.segments if entry.packed is not None]
        log.close()
        ratio = sum(e.size_bytes for e in packed) / (sum(e.file.size_bytes for e in packed) or 1)
        print(
            f"{'compressing' if compress else 'not compressing':<24}fsynced p50 {median(took):.2f}"
            f"  p99 {percentile(took, 0.99):.2f} ms"
            + (f"  {len(packed)} segments so far, ratio {ratio:.2f}" if compress else "")
        )


def main() -> None:
    """Measure and print what is asked for, or be the process that memory is measured of."""
    if len(sys.argv) == 4 and not sys.argv[1].startswith("-"):
        _in_child(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description="Large logs.")
    parser.add_argument("--repeat", type=int, default=3, help="runs, of which the median counts")
    parser.add_argument("--path", type=Path, help="directory to write in (default: a new one)")
    parser.add_argument("--seek", type=float, metavar="GIB", help="find records in so large a log")
    parser.add_argument("--memory", type=int, metavar="RECORDS", help="append and read so many")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.path) as name:
        folder = Path(name)
        if given.seek:
            seeking(folder, given.seek, 2000)
        elif given.memory:
            memory(folder, given.memory)
        else:
            opening(folder, given.repeat)
            compressing(folder, 6.0)


if __name__ == "__main__":
    main()
