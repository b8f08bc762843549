"""The pages on HTTP, notifications and streams: their programs work, on this machine."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import httpx2
import pytest
from tests.connectors.asking import SECRET, github
from tests.connectors.test_http_out import serving

from headrace import App, MemoryLog

DOCS = Path(__file__).parents[2] / "docs" / "connectors"
FILE = re.compile(r"<!-- file: (\S+) -->\n```python\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Uvicorn works on asyncio."""
    return "asyncio"


def program(page: str, name: str, changes: dict[str, str] | None = None) -> Any:
    """Return what a program of a page defines; *changes* are for its addresses."""
    code = dict(FILE.findall((DOCS / f"{page}.md").read_text()))[name]
    for old, new in (changes or {}).items():
        assert old in code
        code = code.replace(old, new)
    found: dict[str, Any] = {"__name__": name}
    exec(compile(code, name, "exec"), found)
    return SimpleNamespace(**found)


async def test_webhooks_come_in_and_requests_go_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first example, with addresses that are free."""
    monkeypatch.setenv("GITHUB_SECRET", SECRET)
    json_type = {"content-type": "application/json"}
    async with serving() as server:
        changes = {"127.0.0.1:9090": f"127.0.0.1:{server.port}", "127.0.0.1:8080": "127.0.0.1:0"}
        app: App = program("http", "hooks.py", changes).app
        hook: Any = app.sources["webhook"]
        async with app.open(MemoryLog()) as engine:
            while hook.address is None:
                await anyio.sleep(0.001)
            async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{hook.address[1]}") as client:
                answer = await client.post(
                    "/orders", json={"order": 7}, headers={"idempotency-key": "order-7"}
                )
                signed = await client.post(
                    "/github", content=b"{}", headers=github(b"{}") | json_type
                )
                await engine.drain()
        assert set(answer.json()) == {"sequence"}
        assert signed.status_code == 202
        assert b'{"order":7,"parcel":"parcel of 7"}' in server.requests[0]


async def test_webhooks_come_in_where_they_are_mounted() -> None:
    """In an application of Starlette, below a path."""
    service = program("http", "mounted.py").service
    transport = httpx2.ASGITransport(service)
    async with httpx2.AsyncClient(transport=transport, base_url="http://a") as client:
        before = await client.post("/hooks/orders", json=1)
        async with service.router.lifespan_context(service):
            with anyio.fail_after(5):
                while (await client.get("/hooks/readyz")).status_code != 200:
                    await anyio.sleep(0.001)
            during = await client.post("/hooks/orders", json=1)
        after = await client.post("/hooks/orders", json=1)

    assert [before.status_code, during.status_code, after.status_code] == [503, 202, 503]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_people_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the page on notifications has it."""
    async with serving() as server:
        monkeypatch.setenv("ALERT_URL", f"json://127.0.0.1:{server.port}")
        app: App = program("notify", "notify.py").app
        async with app.open(MemoryLog()) as engine:
            await engine.emit("alert.t1", {"degrees": 93, "at": "hall"})
            await engine.drain()
    assert b"93 \\u00b0C at hall" in server.requests[0]


async def test_streams_come_in() -> None:
    """As the page on streams has it: server-sent events, and messages behind a subscription."""
    from websockets.asyncio.server import serve

    async def talk(connection: Any) -> None:
        assert await connection.recv() == '{"subscribe": "trades"}'
        await connection.send('{"price": 7}')
        await connection.wait_closed()

    stream = b"content-type: text/event-stream\r\n\r\nevent: edit\nid: 1\ndata: 3\n\n"
    async with serving() as server, serve(talk, "127.0.0.1", 0) as websocket:
        server.answers = [b"HTTP/1.1 200 OK\r\n" + stream]
        port = websocket.sockets[0].getsockname()[1]
        changes = {":8001/": f":{server.port}/", ":8002/": f":{port}/"}
        app: App = program("streams", "streams.py", changes).app
        async with app.open(MemoryLog()) as engine:
            with anyio.fail_after(10):
                while engine.state().events < 2:
                    await anyio.sleep(0.005)
            await engine.drain()
            assert [run.status for run in engine.runs() if run.rule] == ["completed"]
