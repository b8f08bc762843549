"""Requests to an ASGI application without a server, on any loop; and signed ones."""

from __future__ import annotations

import hmac
import json
from collections.abc import Sequence
from typing import Any

import anyio
from msgspec import Struct

from headrace.connectors.http_in import Webhook

SECRET = "s3cr3t-for-tests"


class Answer(Struct):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """What the body says."""
        return json.loads(self.body)


async def ask(
    webhook: Webhook,
    path: str,
    body: bytes | Sequence[bytes] = b"",
    headers: dict[str, str] | None = None,
    *,
    method: str = "POST",
    stalls: bool = False,
    **scope: Any,
) -> Answer:
    """Send a request, its body perhaps in parts; with *stalls* the last one never comes."""
    parts = [body] if isinstance(body, bytes) else list(body)
    given = {"content-type": "application/json"} | (headers or {})
    left = list(parts)

    async def receive() -> dict[str, Any]:
        if not left:
            await anyio.sleep_forever()
        part = left.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(left) or stalls}

    answer = Answer(0, {}, b"")

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {k.decode(): v.decode() for k, v in message.get("headers", [])}
        else:
            answer.body += message.get("body", b"")

    pairs = [(n.lower().encode(), v.encode()) for n, v in given.items() if v]
    await webhook.asgi(
        {
            "type": "http", "method": method, "path": path, "headers": pairs,
            "client": ("192.0.2.1", 5), **scope,
        },
        receive,
        send,
    )  # fmt: skip
    return answer


def github(body: bytes, delivery: str = "d-1", kind: str = "push") -> dict[str, str]:
    """Return the headers of a webhook of GitHub."""
    return {
        "X-Hub-Signature-256": "sha256=" + hmac.digest(SECRET.encode(), body, "sha256").hex(),
        "X-GitHub-Delivery": delivery,
        "X-GitHub-Event": kind,
    }
