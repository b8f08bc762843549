"""Resources: opened before any run, given to tasks by annotation, closed after the last."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any

import anyio
import pytest
from tests.engine.stand import of_kind, opened

from headrace import App, Firing, MemoryLog, ResourceFailed, Run, TaskFailed, on
from headrace.engine.record import EngineStarted, RunLaunched


class Pool:
    """What tasks are given."""

    def __init__(self, name: str = "pool") -> None:
        self.name = name
        self.asked: list[int] = []
        self.is_open = True

    def ask(self, order: int) -> str:
        assert self.is_open
        self.asked.append(order)
        return f"{self.name} {order}"


story: list[str] = []
app = App("t")


@asynccontextmanager
async def open_db() -> AsyncGenerator[Pool]:
    """Open it as a pool of connections is opened."""
    story.append("open db")
    pool = Pool()
    async with anyio.create_task_group() as group:  # it has scopes of its own
        yield pool
        group.cancel_scope.cancel()
    pool.is_open = False
    story.append("close db")


@contextmanager
def open_mail() -> Generator[str]:
    """A plain context manager does as well."""
    story.append("open mail")
    yield "mail"
    story.append("close mail")


db = app.resource("db", open_db)
mail = app.resource("mail", open_mail)


@app.task
async def pay(order: int, pool: Annotated[Pool, db] = db.injected) -> str:
    story.append("run")
    return pool.ask(order)


@app.task
def send(run: Run, *, by: Annotated[str, "mail"] = "none", to: str) -> str:
    return f"{by} to {to}"


@app.rule(on("order", int))
async def take(run: Run, firing: Firing[int], *, by: Annotated[str, mail]) -> list[str]:
    return [by, await run.call(pay, firing.events[0].data), await run.call(send, to="me")]


@pytest.fixture(autouse=True)
def _new_story() -> None:
    story.clear()


async def test_runs_are_given_what_is_open() -> None:
    """Actions and tasks, async and in threads; opened in order, closed in reverse."""
    log = MemoryLog()
    async with opened(app, log, grace_s=1) as engine:
        assert story == ["open db", "open mail"]
        await engine.emit("order", 5)
        await engine.drain()
        assert await engine.result(await engine.launch(pay, 6)) == "pool 6"
        (view,) = [run for run in engine.runs("completed") if run.rule]
        assert view.task == "take"

    assert story == ["open db", "open mail", "run", "run", "close mail", "close db"]
    (launched,) = of_kind(log, RunLaunched)
    assert bytes(launched.args) == b"\x81\xa5order\x06"  # and nothing of the pool


async def test_the_function_stays_an_ordinary_one() -> None:
    """A unit test calls it with whatever it likes."""
    assert await pay(1, Pool("fake")) == "fake 1"


async def test_resources_are_replaced_in_tests() -> None:
    """By a value, or by a function; what is replaced is not opened."""
    fake = Pool("fake")

    @contextmanager
    def fake_mail() -> Generator[str]:
        story.append("open fake")
        yield "fake mail"
        story.append("close fake")

    async with opened(app, resources={"db": fake, "mail": fake_mail}) as engine:
        assert await engine.result(await engine.launch(pay, 1)) == "fake 1"
        assert await engine.result(await engine.launch(send, to="you")) == "fake mail to you"
    async with opened(app, resources={"db": lambda: fake, "mail": "text"}) as engine:
        assert await engine.result(await engine.launch(send, to="you")) == "text to you"

    assert story == ["open fake", "run", "close fake"]
    assert fake.asked == [1]


async def test_a_name_that_is_not_declared_is_refused() -> None:
    """A slip of the pen would leave the real one in place."""
    with pytest.raises(ValueError, match=r"\(db, mail\), found 'bd'"):
        app.open(MemoryLog(), resources={"bd": Pool()})


async def test_an_engine_does_not_start_without_its_resources() -> None:
    """One clear line; what was opened is closed, and the log is as it was."""
    log = MemoryLog()

    @asynccontextmanager
    async def broken() -> AsyncGenerator[str]:
        raise OSError("no route to host")
        yield ""

    with pytest.raises(ResourceFailed, match=r"'mail'.*OSError: no route to host"):
        async with opened(app, log, resources={"mail": broken}):
            pytest.fail("it is open")
    assert story == ["open db", "close db"]
    assert of_kind(log, EngineStarted) == []
    async with opened(app, log) as engine:  # and it can be opened again
        assert await engine.result(await engine.launch(pay, 6)) == "pool 6"


async def test_a_plain_function_is_no_factory() -> None:
    """A plain function as a factory is a mistake that is easily made."""
    plain = App("t")
    plain.resource("db", Pool)  # type: ignore[arg-type]
    with pytest.raises(ResourceFailed, match="asynccontextmanager"):
        async with opened(plain):
            pytest.fail("it is open")


async def test_an_error_in_closing_is_raised_and_the_log_is_closed() -> None:
    """It is nobody's to swallow."""
    one, log = App("t"), MemoryLog()

    @asynccontextmanager
    async def odd() -> AsyncGenerator[int]:
        yield 1
        raise OSError("still in use")

    one.resource("odd", odd)
    with pytest.raises(OSError, match="still in use"):
        async with opened(one, log):
            pass
    async with opened(App("t"), log):
        pass


async def test_they_are_closed_when_the_body_fails() -> None:
    """An exception of the host goes on as it is."""
    with pytest.raises(KeyError, match="mine"):
        async with opened(app):
            raise KeyError("mine")
    assert story == ["open db", "open mail", "close mail", "close db"]


async def test_one_that_is_declared_too_late_is_a_failure_of_the_run() -> None:
    """The run is a dead letter that says so; everything else goes on."""
    one = App("t")
    async with opened(one) as engine:
        late = one.resource("late", open_mail)

        async def act(by: Annotated[str, late]) -> None:
            pytest.fail("it was called")

        act.__annotations__["by"] = Annotated[str, late]
        await engine.add_rule(on("a"), act)
        await engine.emit("a")
        await engine.drain()
        (dead,) = engine.runs("dead")
        assert "declared after" in (dead.error or "")


def test_wrong_declarations_are_refused_at_once() -> None:
    """Not when a run needs them."""
    one = App("t")
    with pytest.raises(ValueError, match="resource name 'a b'"):
        one.resource("a b", open_db)
    with pytest.raises(TypeError, match="'x': expected a function"):
        one.resource("x", 5)  # type: ignore[call-overload]
    one.resource("db", open_db)
    with pytest.raises(ValueError, match="'db' is declared twice"):
        one.resource("db", open_db)

    async def foreign(pool: Annotated[Pool, db]) -> None: ...

    with pytest.raises(TypeError, match="of another"):
        one.task(foreign)

    async def by_place(pool: Annotated[Any, "db"], *orders: int) -> None: ...

    with pytest.raises(TypeError, match=r"behind a \*"):
        one.task(by_place)


async def test_a_run_that_needs_one_fails_with_its_error() -> None:
    """What the resource raises in a task is the task's error."""
    fake = Pool()
    fake.is_open = False
    async with opened(app, resources={"db": fake}) as engine:
        with pytest.raises(TaskFailed, match="AssertionError"):
            await engine.result(await engine.launch(pay, 1))
