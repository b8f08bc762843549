"""The child of ``demo --crash``: ``python -m headrace.demo LOG [HALF]`` until done or killed.

It writes the position that is durable, a line each; and ``busy`` once, when a run is under way
after reading HALF: its parent kills it then.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from headrace.demo.crash import BUSY
from headrace.demo.run import run_demo


def _say(word: int | str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


async def _run(log: Path, half: int | None) -> None:
    busy = None if half is None else lambda: _say(BUSY)
    await run_demo(log, progress=_say, busy_from=half, busy=busy)


if __name__ == "__main__":
    anyio.run(_run, Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
