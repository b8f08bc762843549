"""What calls of the command share: an app, its input, and what a call came to."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from headrace.engine.control_client import ControlClient
from headrace.engine.errors import EngineUnreachable
from headrace.engine.log import LogReader
from headrace.engine.record import Record, decode

HEADRACE = Path(sys.executable).with_name("headrace")
WAIT_S = 30

PLANT = """
from __future__ import annotations

import msgspec
from headrace import App, Firing, Retry, Run, on

app = App("plant")


class Reading(msgspec.Struct):
    degrees: float


@app.task(retry=Retry(attempts=2, wait_first=1, jitter=0, on=OSError))
async def check(run: Run, part: str) -> str:
    if run.attempt == 1 and part == "fan":
        raise OSError("the fan does not answer")
    return f"{part} in order"


@app.task
def page(sensor: str) -> str:
    raise LookupError(f"nobody is on call for {sensor}")


hot = (
    on("plant.*.temperature", Reading)
    .where(lambda e: e.data.degrees > 90)
    .key(lambda e: e.tokens[1])
    .count(3, within=60)
)


@app.rule(hot)
async def cool(run: Run, firing: Firing[Reading]) -> list[str]:
    found = await run.map(check, ["fan", "pump"])
    await run.sleep(5)
    await run.emit(f"fans.{firing.key}.start", {"speed": 1.0})
    await run.launch(page, firing.key)
    return found
"""


class Done:
    """What a call of the command came to."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def json(self) -> Any:
        """What was printed, as data."""
        return json.loads(self.out)

    @property
    def jsonl(self) -> list[Any]:
        """What was printed, a value each line."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def last_error(self) -> str:
        """The one line that says why it ended."""
        line = self.err.splitlines()[-1]
        assert line.startswith("headrace: "), self.err
        return line.removeprefix("headrace: ")


class Call(Protocol):
    """Calls the command with these arguments and waits for its end."""

    def __call__(self, *arguments: object, stdin: str | None = None) -> Done: ...


class MadeOnce(Protocol):
    """Has the log at this path, as this function makes it."""

    def __call__(self, path: Path, make: Callable[[Path], object], /) -> Path: ...


class Start(Protocol):
    """Starts the command with these arguments."""

    def __call__(
        self, *arguments: object, stdin: int = subprocess.DEVNULL
    ) -> subprocess.Popen[str]: ...


def lines_of(degrees: list[float], *, sensor: str = "t1", every_s: float = 10.0) -> str:
    """Readings of one sensor as JSON lines."""
    lines = [
        json.dumps(
            {
                "subject": f"plant.{sensor}.temperature",
                "data": {"degrees": value},
                "time": 1_700_000_000 + number * every_s,
            }
        )
        for number, value in enumerate(degrees)
    ]
    return "".join(line + "\n" for line in lines)


def records(log: Path) -> list[Record]:
    """All that is stored in a log."""
    with LogReader(log) as reader:
        return [decode(raw) for _, batch in reader.read() for raw in batch]


def await_engine(log: Path) -> None:
    """Wait until the engine of another process answers; what a dead one left does not count."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            return ControlClient(log).__exit__(None, None, None)
        except EngineUnreachable:
            assert time.monotonic() < deadline
            time.sleep(0.005)
