"""headrace inside a web service: no server of its own, no extra process.

Needs ``pip install 'headrace[http]'``; start it and talk to it::

    uvicorn examples.embedded:service --factory

    curl -X POST localhost:8000/events/orders.placed -d '{"order": 7, "euros": 1200}'
    curl localhost:8000/runs

A POST is answered once the event is on disk, so what was answered with 201 leads to its
runs, also if the power goes out in the next moment.  Without authentication: put it behind
something that has some.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from headrace import App, Engine, EventRefused, FileLog, Firing, MemoryLog, Retry, Run, on

app = App("orders")


class Order(msgspec.Struct):
    """What a shop says when somebody has bought something."""

    order: int
    euros: float


@app.task(retry=Retry(attempts=5, wait_first=0.5, on=OSError))
async def ask_for_approval(order: int) -> str:
    """Stands for a call to another service."""
    return f"approval of order {order} asked for"


@app.rule(on("orders.placed", Order).where(lambda e: e.data.euros > 1000))
async def large_order(run: Run, firing: Firing[Order]) -> str:
    """Orders above 1000 euros need somebody's approval."""
    return await run.call(ask_for_approval, firing.events[0].data.order)


async def post_event(request: Request) -> Response:
    """Store the JSON body as an event; say its sequence once it is durable."""
    engine = cast("Engine", request.state.engine)
    try:
        data = msgspec.json.decode(await request.body())
        sequence = await engine.emit(request.path_params["subject"], data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return JSONResponse({"error": f"expected a body of JSON: {error}"}, status_code=400)
    except (EventRefused, ValueError) as error:
        return JSONResponse({"error": str(error)}, status_code=400)
    return JSONResponse({"sequence": sequence}, status_code=201)


async def get_runs(request: Request) -> Response:
    """List runs; ``?status=dead`` only those."""
    engine = cast("Engine", request.state.engine)
    runs = engine.runs(cast("Any", request.query_params.get("status")))
    return Response(msgspec.json.encode(runs), media_type="application/json")


def service(log: str | FileLog | MemoryLog = "orders.log") -> Starlette:
    """Return the web service; its engine lives as long as it does."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[dict[str, Engine], None]:
        async with app.open(log) as engine:
            yield {"engine": engine}

    return Starlette(
        routes=[
            Route("/events/{subject}", post_event, methods=["POST"]),
            Route("/runs", get_runs, methods=["GET"]),
        ],
        lifespan=lifespan,
    )
