"""Applications for building permits in a town: who has waited too long for an answer?

    headrace run examples/permits.py --log permits.log --from examples/permits.jsonl --clock input

Six of its cases, from their receipt to their end: see recorded.NOTICE.  What can be asked of the
log afterwards is in docs/questions.md.
"""

from __future__ import annotations

from typing import Any

import msgspec

from headrace import App, Event, Firing, Run, absent, not_, on, sequence

app = App("permits")

DAY = 86_400.0


class Step(msgspec.Struct):
    """What was done, and by whom."""

    what: str
    by: str


def case(event: Event[Any]) -> str:
    """Return which application it is about."""
    return event.tokens[1]


def done(code: str) -> Any:
    """Return the pattern of a step of any case."""
    return on(f"permits.*.{code}", Step).key(case)


@app.task
def write_to(case: str, clerk: str) -> str:
    """Remind somebody: here it is only said who."""
    return f"{clerk} is reminded of {case}"


@app.rule(absent(done("T05"), after=done("received"), within=DAY))
async def unanswered(run: Run, firing: Firing[Step]) -> None:
    """No confirmation was sent within a day: remind who has it, once more after a week."""
    number, clerk = str(firing.key), firing.events[0].data.by
    await run.call(write_to, number, clerk)
    sent = done("T05").where(lambda e: e.tokens[1] == number)
    if await run.wait(sent, timeout=7 * DAY) is None:
        await run.call(write_to, number, clerk)


@app.rule(sequence(done("T02"), not_(done("T03")), done("T04"), within=DAY))
def waved_through() -> None:
    """What was checked was decided on within a day, without anything to be put right."""
