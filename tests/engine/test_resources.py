"""Resources: opened before any run, given to tasks by annotation, closed after the last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from tests.engine.stand import of_kind, opened, until

from headrace import App, EventRefused, Firing, MemoryLog, ResourceFailed, Run, TaskFailed, on
from headrace.engine import resources as resources_module
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


async def test_a_factory_that_awaits_what_was_cancelled_has_failed() -> None:
    """Nobody has cancelled the engine: it says so, and does not wait for ever."""
    one, log, closed = App("t"), MemoryLog(), list[int]()

    @asynccontextmanager
    async def first() -> AsyncGenerator[int]:
        yield 1
        closed.append(1)

    @asynccontextmanager
    async def odd() -> AsyncGenerator[int]:
        raise asyncio.CancelledError("the connection")
        yield 1

    one.resource("first", first)
    one.resource("odd", odd)
    with pytest.raises(ResourceFailed, match="'odd': expected to open it, found CancelledError"):
        async with opened(one, log):
            pytest.fail("it is open")
    assert closed == [1]
    assert log.committed_sequence == 0


async def test_a_cancellation_in_closing_is_told(
    anyio_backend_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """On asyncio it looks as if nothing had happened."""
    if anyio_backend_name != "asyncio":
        pytest.skip("asyncio")
    one = App("t")

    @asynccontextmanager
    async def odd() -> AsyncGenerator[int]:
        yield 1
        raise asyncio.CancelledError("the connection")

    one.resource("odd", odd)
    async with opened(one):
        pass
    assert "resource_not_closed" in caplog.text
    assert "CancelledError: the connection" in caplog.text


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


# ---------------------------------------------------------------- closing, whatever comes


def hold(made: App, name: str, gate: anyio.Event | None = None) -> None:
    """Declare a resource that holds a task group open and takes its time to close."""

    @asynccontextmanager
    async def held() -> AsyncGenerator[str]:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            try:
                yield name
            finally:
                story.append(f"closing {name}")
                if gate is not None:
                    await gate.wait()
                for _ in range(5):
                    await checkpoint()
                story.append(f"closed {name}")
                group.cancel_scope.cancel()

    made.resource(name, held)


def holding(*names: str, gate: anyio.Event | None = None) -> App:
    """Return an app of such resources."""
    made = App("t")
    for name in names:
        hold(made, name, gate)
    return made


CLOSED = ["closing two", "closed two", "closing one", "closed one"]


async def test_a_cancelled_host_waits_until_they_are_closed() -> None:
    """A time-out around an engine leaves no connection behind."""
    log, begun = MemoryLog(), anyio.Event()

    async def host() -> None:
        async with opened(holding("one", "two"), log):
            begun.set()
            await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        group.start_soon(host)
        await begun.wait()
        group.cancel_scope.cancel()
    assert story == CLOSED
    async with opened(App("t"), log):
        pass


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_host_that_asyncio_cancels_waits_until_they_are_closed() -> None:
    """As often as it is: a server that shuts down cancels its tasks, perhaps twice."""
    begun, gate = anyio.Event(), anyio.Event()

    async def host() -> None:
        async with opened(holding("one", "two", gate=gate)):
            begun.set()
            await anyio.sleep_forever()

    task = asyncio.create_task(host())
    await begun.wait()
    task.cancel()
    await until(lambda: story)
    task.cancel()
    await checkpoint()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert story == CLOSED


def opening(begun: anyio.Event, log: MemoryLog) -> Callable[[], Coroutine[Any, Any, None]]:
    """Return a host whose second resource never comes to be open."""
    made = holding("one")

    @asynccontextmanager
    async def never() -> AsyncGenerator[None]:
        begun.set()
        await anyio.sleep_forever()
        yield

    async def host() -> None:
        async with opened(made, log):
            pytest.fail("it is open")

    made.resource("never", never)
    return host


async def test_a_host_that_is_cancelled_in_opening_waits_until_they_are_closed() -> None:
    """Those that are open by then; what is not, need not come to be open."""
    log, begun = MemoryLog(), anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(opening(begun, log))
        await begun.wait()
        group.cancel_scope.cancel()
    assert story == ["closing one", "closed one"]
    async with opened(App("t"), log):
        pass


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_host_that_asyncio_cancels_in_opening_waits_until_they_are_closed() -> None:
    """Though that comes to the host's task alone."""
    log, begun = MemoryLog(), anyio.Event()
    task = asyncio.create_task(opening(begun, log)())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert story == ["closing one", "closed one"]
    async with opened(App("t"), log):
        pass


async def test_closing_does_not_take_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that hangs is given up, the others get their turn, and it is said."""
    monkeypatch.setattr(resources_module, "CLOSE_S_MAX", 0.01)
    made = holding("one", gate=anyio.Event())

    @contextmanager
    def plain() -> Generator[None]:
        try:
            yield
        finally:
            story.append("closed plain")

    made.resource("plain", plain)
    hold(made, "two", anyio.Event())
    async with opened(made):
        pass
    assert story == ["closing two", "closed plain", "closing one"]
    assert "resource_not_closed" in caplog.text


async def test_one_that_fails_at_work_ends_the_engine() -> None:
    """Its error is raised as it is, and the others are closed."""
    made, log, failing = holding("one"), MemoryLog(), anyio.Event()

    async def lose() -> None:
        await failing.wait()
        raise OSError("the connection is lost")

    @asynccontextmanager
    async def frail() -> AsyncGenerator[None]:
        async with anyio.create_task_group() as group:
            group.start_soon(lose)
            yield

    made.resource("frail", frail)
    with pytest.raises(OSError, match="the connection is lost"):
        async with opened(made, log):
            failing.set()
            await anyio.sleep_forever()
    assert story == ["closing one", "closed one"]
    await checkpoint()  # and nothing is cancelled any more
    async with opened(App("t"), log):
        pass


async def test_an_engine_that_cannot_start_closes_everything() -> None:
    """What it cannot record is said, and the log and the resources are free again."""
    made, log, before = holding("one", "two"), MemoryLog(), set(anyio.get_running_tasks())

    @made.task(version="v" * 2_000_000)
    async def work() -> None: ...

    with pytest.raises(EventRefused, match="a record: expected at most"):
        async with opened(made, log):
            pytest.fail("it is open")
    assert story == CLOSED
    assert set(anyio.get_running_tasks()) == before
    async with opened(App("t"), log) as engine:
        await engine.emit("a")
