"""A server that is away for half a minute is found again within five seconds of its return."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import pytest
from tests.conformance import test_write_your_own as example
from tests.connectors import test_postgres, test_redis_stream
from tests.connectors.postgres_server import PostgresServer
from tests.connectors.redis_server import RedisServer

from headrace.connectors.postgres import PostgresOutbox
from headrace.testing.source_contract import SourceContract, SourceHarness

page = example.page
GONE_S = 30.0


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Some of the libraries are made for asyncio."""
    return "asyncio"


def redis(folder: Path) -> Generator[SourceHarness]:
    server = RedisServer(folder)
    try:
        server.start()
        yield test_redis_stream.RedisHarness(server)
    finally:
        server.kill()


def postgres(_: Path) -> Generator[SourceHarness]:
    server = PostgresServer()
    try:
        server.make()
        server.sql(PostgresOutbox(server.url).schema())
        yield test_postgres.OutboxHarness(server)
    finally:
        server.remove()


def lines(_: Path) -> Generator[SourceHarness]:
    harness = sys.modules["test_lines"].LinesHarness()
    try:
        harness.queue.start()
        yield harness
    finally:
        harness.queue.kill()


@pytest.fixture(params=[redis, postgres, lines], ids=lambda make: make.__name__)
def harness(
    request: pytest.FixtureRequest, tmp_path: Path, page: object
) -> Generator[SourceHarness]:
    with closing(request.param(tmp_path)) as made:
        yield next(made)


@pytest.mark.soak
async def test_server_that_is_gone_for_long(harness: SourceHarness) -> None:
    """However long it was away, the waits between tries have not grown with it."""
    harness.gone_s = GONE_S
    await SourceContract().test_server_that_is_gone_and_comes_back(harness)
