"""A log that several processes share: the programs of its writer and of its readers.

``shared.py write LOG DURABILITY``: append, rotate and remove, from the line ``go`` on stdin to
the line ``stop``; then say how far it came and how many segments were removed.

``shared.py read LOG FD``: fork a reader for each two descriptors that come through the socket
FD, its stdin and its stdout, since starting Python takes longer than most of them live; answer
with its pid.  A pid that comes is answered with its exit code, once it has ended.

A reader follows from the oldest record on and checks each; it says the first that was seen,
and, once stdin has named the last one and it was seen, how many there were.

All end when their stdin (or socket) does: with whoever started them.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from queue import SimpleQueue

from tests.simulation.session import Session, record, records

from headrace.engine.log import Durability, FileLog, LogReader

SEGMENT_BYTES_MAX = 16 * 1024
GROUP = 10
RETAIN_EVERY = 30
"""How many groups are written between two removals."""
WAIT_S = 0.005


def lines() -> Iterator[str]:
    """Yield the lines of stdin that are there; an empty one if there is none just now."""
    pending = b""
    while True:
        while b"\n" in pending:
            line, _, pending = pending.partition(b"\n")
            yield line.decode()
        ready, _, _ = select.select([0], [], [], 0)
        if not ready:
            yield ""
            continue
        data = os.read(0, 4096)
        if not data:
            os._exit(3)
        pending += data


def write(path: str, durability: Durability) -> None:
    """Be the log's writer."""
    log = FileLog(path, durability=durability, segment_bytes_max=SEGMENT_BYTES_MAX, keep_bytes=0)
    session = Session(log)
    session.put([record(1)])
    print("ready", flush=True)
    assert sys.stdin.readline() == "go\n"
    removed = 0
    wanted: SimpleQueue[int] = SimpleQueue()

    def remove() -> None:
        nonlocal removed
        while upto := wanted.get():
            removed += log.retain(upto).segments

    remover = threading.Thread(target=remove)
    remover.start()
    groups = 0
    said = lines()
    while next(said) != "stop":
        first = log.next_sequence
        session.put(records(first, first), records(first + 1, first + GROUP - 1))
        groups += 1
        if groups % RETAIN_EVERY == 0:
            wanted.put(log.committed_sequence)
    wanted.put(0)
    remover.join()
    last = log.committed_sequence
    log.close()
    print(last, removed, flush=True)


def read(path: str) -> None:
    """Be one of the log's readers."""
    last = 0
    seen = count = 0
    said = lines()

    def wait() -> bool:
        nonlocal last
        line = next(said)
        if line:
            last = int(line)
        if last and seen >= last:
            return False
        select.select([0], [], [], WAIT_S)
        return True

    for first, batch in LogReader(path).follow(wait=wait):
        if not count:
            print(first, flush=True)
            seen = first - 1
        assert first == seen + 1, f"record {first} after {seen}"
        assert batch == records(first, first + len(batch) - 1), f"record {first} is another"
        seen += len(batch)
        count += len(batch)
    print(seen, count, flush=True)


def serve(path: str, asked: socket.socket) -> None:
    """Be the parent of the log's readers."""
    while True:
        said, fds, _, _ = socket.recv_fds(asked, 16, 2)
        if not said:
            return
        if not fds:
            _, status = os.waitpid(int(said), 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if answer == 0:
                asked.close()
                be_reader(path, *fds)
            for fd in fds:
                os.close(fd)
        asked.send(b"%d" % answer)


def be_reader(path: str, stdin: int, stdout: int) -> None:
    """Read with these descriptors, and end."""
    code = 1
    try:
        os.dup2(stdin, 0)
        os.dup2(stdout, 1)
        os.close(stdin)
        os.close(stdout)
        read(path)
        code = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(code)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2], "flushed" if sys.argv[3] == "flushed" else "fsynced")
    else:
        serve(sys.argv[2], socket.socket(fileno=int(sys.argv[3])))
