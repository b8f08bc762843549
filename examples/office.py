"""An office in the afternoon: air that is used up, and a lamp that nobody switches off.

    headrace run examples/office.py --log office.log --from examples/office.jsonl --clock input

The readings were taken each minute on 2 February 2015: see recorded.NOTICE.  What can be asked
of the log afterwards is in docs/questions.md.
"""

from __future__ import annotations

import msgspec

from headrace import App, Run, field, on

app = App("office")


class Air(msgspec.Struct):
    """What one sensor says each minute."""

    celsius: float
    light: float
    """Lux."""
    co2: float
    """Parts in a million."""


air = on("rooms.*.air", Air).key(lambda e: e.tokens[1])


@app.rule(air.crosses(field("co2"), above=1000, hysteresis=50), mode="single")
async def stuffy(run: Run) -> None:
    """Open the window for half an hour."""
    await run.emit(f"rooms.{run.key}.window", {"open": True})
    await run.sleep(1800)
    await run.emit(f"rooms.{run.key}.window", {"open": False})


@app.rule(air.where(field("light") > 300).hold(for_=3 * 3600))
def lamp() -> None:
    """The light has been on for three hours."""
