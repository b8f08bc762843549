"""A person decides: a run asks, and waits for as long as that takes, also over restarts.

Try it::

    headrace run examples/approval.py:app --log approval.log
    headrace emit approval.log expense '{"who": "ada", "euros": 900}'      # in another terminal
    headrace runs list approval.log --status active
    headrace runs signal approval.log RUN decision '{"approved": true, "by": "grace"}'

Nobody answers within two days: then the head of the department is asked, who has a day.
"""

from __future__ import annotations

import msgspec

from headrace import App, Firing, Run, SignalMismatch, on

app = App("approval")

DAY_S = 24 * 60 * 60


class Expense(msgspec.Struct):
    """What somebody wants to spend."""

    who: str
    euros: float


class Decision(msgspec.Struct):
    """What a person says to it."""

    approved: bool
    by: str


@app.task
async def ask(person: str, run_id: int, expense: Expense) -> None:
    """Stands for a mail with the command that answers it."""
    print(f"{person}: may {expense.who} spend {expense.euros:g} euros? answer run {run_id}")


async def decision_of(run: Run, person: str, expense: Expense, days: float) -> Decision | None:
    """Ask *person* and return what was decided, or ``None`` if nobody answers in time."""
    await run.call(ask, person, run.id, expense)
    deadline = run.now() + days * DAY_S
    while True:
        try:
            return await run.receive("decision", Decision, timeout=max(0.0, deadline - run.now()))
        except SignalMismatch as error:  # somebody mistyped it: it was no decision
            await run.emit("decision.unreadable", str(error))


@app.rule(on("expense", Expense).where(lambda e: e.data.euros > 500))
async def large_expense(run: Run, firing: Firing[Expense]) -> str:
    """Have a large expense decided, by the head of the department if need be."""
    expense = firing.events[0].data
    decision = await decision_of(run, "team lead", expense, days=2)
    if decision is None:
        await run.emit("approval.escalated", run.id)
        decision = await decision_of(run, "head of department", expense, days=1)
    if decision is None:
        decision = Decision(approved=False, by="nobody")
    outcome = "approved" if decision.approved else "refused"
    await run.emit(f"expense.{outcome}", decision)
    return f"{outcome} by {decision.by}"
