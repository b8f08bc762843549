"""Fixtures that tests of several folders share.

Async tests need no mark: anyio's plugin runs each on asyncio and on trio.
"""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from hypothesis import settings

from headrace.engine.log.background import Background
from headrace.engine.log.writer import Writer

# No deadline per example: a machine that is busy with something else is not a failure.
settings.register_profile("headrace", deadline=None)
settings.load_profile("headrace")

NATS_START_S_MAX = 30.0


@pytest.fixture(scope="module", params=["asyncio", pytest.param("trio", marks=pytest.mark.slow)])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run each async test on both; `make quick` on the one that is tuned."""
    return request.param


CONTRACTS = {"test_files", "test_mqtt_contract", "test_stdio", "test_stream_contracts"}
"""Files in which connectors live through whole suites of lives: on trio those are for the nights,
but for the cancellations."""


def _is_for_the_nights(name: str) -> bool:
    return "[trio" in name and not name.startswith("test_cancellation")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all simulations as slow, since each lives many lives; those on trio are for the nights.

    But not the cancellations: those are what trio does in its own way.  Simulations come first,
    as the longest files should: with ``--dist loadfile`` a worker might wait for the last one.
    """
    items.sort(key=lambda item: "simulation" not in item.path.parts)
    for item in items:
        if "simulation" in item.path.parts:
            item.add_marker(pytest.mark.slow)
            parameters = getattr(getattr(item, "callspec", None), "params", {})
            is_on_trio = parameters.get("anyio_backend") == "trio"
            if is_on_trio and item.path.stem != "test_cancellation":
                item.add_marker(pytest.mark.soak)
        elif item.path.stem in CONTRACTS and _is_for_the_nights(item.name):
            item.add_marker(pytest.mark.soak)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage while tests are made, nor among them later: it was 15 % of all time.

    And compile nothing for later from here on, in this process and in those that tests start: a
    module that a test writes twice within a second would be taken for the one before.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        sys.dont_write_bytecode = True
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


@pytest.fixture(autouse=True)
def no_log_stays_at_work() -> Iterator[None]:
    """End the threads of logs that a test has left as a crash does: without closing them.

    Each wakes now and then for as long as the process lives.  Hundreds of them that wait for
    the interpreter at the same time leave no time for anything else.
    """
    yield
    for thread in threading.enumerate():
        owner = getattr(getattr(thread, "_target", None), "__self__", None)
        if isinstance(owner, Writer):
            owner._stopping = True
            owner._wake.put(None)
        elif isinstance(owner, Background):
            owner._stopping.set()


@pytest.fixture(scope="session")
def nats_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Host and port of a nats-server with JetStream that lives as long as the tests.

    The server takes a free loopback port by itself and says which: nobody can take it
    between the choice and the use.
    """
    program = Path(sys.executable).with_name("nats-server")
    store = tmp_path_factory.mktemp("nats")
    server = subprocess.Popen(
        [program, "-a", "127.0.0.1", "-p", "-1", "-js", "-sd", store],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr is not None
    said: SimpleQueue[tuple[str, int] | None] = SimpleQueue()
    # Reading goes on to the end: a server whose pipe is full would stop.
    reader = threading.Thread(target=_listen, args=(server.stderr, said), daemon=True)
    reader.start()
    try:
        address = said.get(timeout=NATS_START_S_MAX)
        assert address is not None, f"{program} ended with {server.wait()}"
        yield address
    finally:
        server.terminate()
        server.wait(timeout=NATS_START_S_MAX)
        reader.join(timeout=NATS_START_S_MAX)
        server.stderr.close()


def _listen(lines: Iterator[str], said: SimpleQueue[tuple[str, int] | None]) -> None:
    address: tuple[str, int] | None = None
    for line in lines:
        found = re.search(r"client connections on ([\d.]+):(\d+)", line)
        if found:
            address = found[1], int(found[2])
        elif "Server is ready" in line:
            said.put(address)
    said.put(None)
