"""examples/approval.py: a person answers a run, in time, too late, or wrongly."""

from __future__ import annotations

import pytest
from tests.engine.stand import StepClock, opened, quiet
from tests.test_examples import load

from headrace import Engine, MemoryLog

DAY_S = 24 * 60 * 60


async def spend(engine: Engine, euros: float) -> int:
    """Report an expense and return the run that has it decided."""
    await engine.emit("expense", {"who": "ada", "euros": euros})
    await quiet(engine)
    return next(run.id for run in engine.runs("active") if run.task == "large_expense")


async def test_the_team_lead_decides(capsys: pytest.CaptureFixture[str]) -> None:
    """The first answer counts; one that cannot be read does not."""
    app, log, clock = load("approval").app, MemoryLog(), StepClock()
    async with opened(app, log, clock=clock) as engine:
        run = await spend(engine, 900)
        await clock.step(engine, DAY_S)
    async with opened(app, log, clock=clock) as engine:
        await engine.signal(run, "decision", {"approved": "maybe"})
        await engine.signal(run, "decision", {"approved": True, "by": "grace"})
        await quiet(engine)
        assert [view.status for view in engine.runs() if view.id == run] == ["completed"]
        assert not engine.runs("active")

    stored = b"".join(record for _, batch in log.read() for record in batch)
    assert b"expense.approved" in stored
    assert b"decision.unreadable" in stored
    asked = capsys.readouterr().out.splitlines()
    assert asked == [f"team lead: may ada spend 900 euros? answer run {run}"]


@pytest.mark.parametrize("approved", [True, False, None])
async def test_without_an_answer_the_head_of_department_is_asked(
    approved: bool | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """After two days; and without an answer of theirs it is refused a day later."""
    app, log, clock = load("approval").app, MemoryLog(), StepClock()
    async with opened(app, log, clock=clock) as engine:
        run = await spend(engine, 1200)
        await clock.step(engine, 2 * DAY_S - 1)
        assert "head" not in capsys.readouterr().out
        await clock.step(engine, 1)
        assert "head of department: may ada" in capsys.readouterr().out
        if approved is not None:
            await engine.signal(run, "decision", {"approved": approved, "by": "hal"})
        await clock.step(engine, DAY_S)
        assert not engine.runs("active")

    stored = b"".join(record for _, batch in log.read() for record in batch)
    assert b"approval.escalated" in stored
    outcome = b"expense.approved" if approved else b"expense.refused"
    assert outcome in stored
    assert (b"nobody" in stored) == (approved is None)


async def test_small_expenses_need_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    """They start no run."""
    async with opened(load("approval").app, clock=StepClock()) as engine:
        await engine.emit("expense", {"who": "ada", "euros": 20})
        await quiet(engine)
        assert engine.runs() == []
    assert capsys.readouterr().out == ""
