"""The proxy that tests of connectors use does to connections what it says."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from tests.connectors.tcp_proxy import TcpProxy


async def echo(stream: SocketStream) -> None:
    async with stream:
        try:
            async for data in stream:
                await stream.send(data)
        except anyio.BrokenResourceError:
            pass


@asynccontextmanager
async def proxied() -> AsyncGenerator[tuple[TcpProxy, SocketStream]]:
    """A connection through a proxy to a server that says what it hears."""
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, echo)
        async with (
            TcpProxy(listener.extra(SocketAttribute.local_port)) as proxy,
            await anyio.connect_tcp("127.0.0.1", proxy.port) as stream,
        ):
            await stream.send(b"hello")
            assert await stream.receive() == b"hello"
            yield proxy, stream
        group.cancel_scope.cancel()


async def test_what_is_sent_arrives_also_if_it_is_much() -> None:
    """It is a network when nothing else is asked for."""
    async with proxied() as (_, stream):
        data, heard = bytes(range(256)) * 4096, b""

        async def send() -> None:
            await stream.send(data)
            await stream.send_eof()

        async with anyio.create_task_group() as group:
            group.start_soon(send)
            async for part in stream:
                heard += part
        assert heard == data


async def test_delay_holds_each_piece_back() -> None:
    """There and back again is twice the delay."""
    async with proxied() as (proxy, stream):
        proxy.delay_s = 0.05
        before_s = anyio.current_time()
        await stream.send(b"x")
        await stream.receive()
        assert anyio.current_time() - before_s >= 0.1


async def test_reset_breaks_connections_and_not_new_ones() -> None:
    """A client sees an error, not an end."""
    async with proxied() as (proxy, stream):
        proxy.reset_all()
        with pytest.raises(anyio.BrokenResourceError):
            await stream.receive()
        async with await anyio.connect_tcp("127.0.0.1", proxy.port) as other:
            await other.send(b"x")
            assert await other.receive() == b"x"


async def test_frozen_is_silent_until_it_thaws() -> None:
    """Nothing is heard, nothing is lost."""
    async with proxied() as (proxy, stream):
        proxy.freeze()
        await stream.send(b"x")
        with anyio.move_on_after(0.05) as scope:
            await stream.receive()
        assert scope.cancelled_caught
        async with await anyio.connect_tcp("127.0.0.1", proxy.port) as other:
            await other.send(b"y")
            proxy.thaw()
            assert await stream.receive() == b"x"
            assert await other.receive() == b"y"


async def test_server_that_is_gone_resets_and_refusal_too() -> None:
    """As a host without a server does."""
    async with proxied() as (proxy, _):
        proxy.refuse = True
        async with await anyio.connect_tcp("127.0.0.1", proxy.port) as other:
            with pytest.raises(anyio.BrokenResourceError):
                await other.receive()
        proxy.refuse, proxy.target_port = False, 1
        async with await anyio.connect_tcp("127.0.0.1", proxy.port) as other:
            with pytest.raises(anyio.BrokenResourceError):
                await other.receive()
        assert proxy.connections == 3
