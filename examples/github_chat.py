"""Webhooks of GitHub become messages in a chat: signed, stored before they are answered, sent once.

    python examples/github_chat.py

plays it on this machine: a chat that is down at first, and four webhooks as GitHub sends them, one
of them twice and one that somebody else has signed.  In earnest it takes two settings, and an
address that GitHub reaches::

    export GITHUB_SECRET=…                  # the secret of the webhook at GitHub
    export CHAT_URL=slack://…               # or discord://…, as Apprise writes it
    headrace run examples/github_chat.py:app --log chat.log

Needs ``pip install 'headrace[http,notify]'``.  The webhooks are from octokit/webhooks (MIT): see
github_webhooks.NOTICE.
"""

from __future__ import annotations

import gzip
import hmac
import json
import os
import secrets
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import httpx2

from headrace import App, Firing, MemoryLog, Run, on
from headrace.connecting import sink_retry
from headrace.connectors.http_in import Webhook
from headrace.connectors.notify import Notification, NotifySink

WEBHOOKS = Path(__file__).with_name("github_webhooks.jsonl.gz")


def news_of(kind: str, data: dict[str, Any]) -> str | None:
    """Return what is worth a line in the chat."""
    who, action = data["sender"]["login"], data.get("action")
    if kind == "issues" and action == "opened":
        return f"{who} opened issue {data['issue']['number']}: {data['issue']['title']}"
    if kind == "pull_request" and action == "closed":
        request = data["pull_request"]
        how = "merged" if request["merged"] else "closed"
        return f"{who} {how} pull request {request['number']}: {request['title']}"
    if kind == "release" and action == "published":
        return f"{who} released {data['release']['tag_name']}"
    return None


def chat(secret: str, chat_url: str, listen: str = "127.0.0.1:8080") -> App:
    """Return the app: where webhooks come in, and where news goes."""
    app = App("chat")
    hook = {"subject": "github.{event}", "scheme": "github", "secrets": [secret]}
    app.source(Webhook({"/github": hook}, listen=listen))
    people = app.sink(NotifySink(chat_url, name="people"), retry=sink_retry(wait_first=0.2))

    @app.rule(on("github.*"))
    async def tell(run: Run, firing: Firing[dict[str, Any]]) -> None:
        event = firing.events[-1]
        news = news_of(event.subject.removeprefix("github."), event.data)
        if news is not None:
            repository = event.data["repository"]["full_name"]
            await run.call(people.send, Notification(news, repository))

    return app


if "GITHUB_SECRET" in os.environ:
    app = chat(os.environ["GITHUB_SECRET"], os.environ.get("CHAT_URL", ""))


# ---------------------------------------------------------------- played on this machine


@contextmanager
def a_chat() -> Generator[tuple[str, list[str]]]:
    """Give the address of a chat that takes nothing at first, and what it was told."""
    told: list[str] = []
    calls: list[object] = []

    class Room(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            is_down = not calls
            calls.append(said)
            told.append("chat is down" if is_down else f"{said['title']}: {said['message']}")
            self.send_response(503 if is_down else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Room) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"json://127.0.0.1:{server.server_address[1]}", told
        finally:
            server.shutdown()
            thread.join()


async def deliver(url: str, secret: str, kind: str, delivery: str, payload: Any) -> int:
    """Send a webhook as GitHub does; return the status of the answer."""
    body = json.dumps(payload).encode()
    headers = {
        "Content-Type": "application/json",
        "X-GitHub-Event": kind,
        "X-GitHub-Delivery": delivery,
        "X-Hub-Signature-256": "sha256=" + hmac.digest(secret.encode(), body, "sha256").hex(),
    }
    async with httpx2.AsyncClient() as client:
        return (await client.post(url, content=body, headers=headers)).status_code


async def play() -> None:
    """Deliver four webhooks, one of them twice, and one with another secret."""
    secret = secrets.token_hex()
    sent = [json.loads(line) for line in gzip.decompress(WEBHOOKS.read_bytes()).splitlines()]
    with a_chat() as (chat_url, told):
        app = chat(secret, chat_url, "127.0.0.1:0")
        hook = app.sources["webhook"]
        assert isinstance(hook, Webhook)
        async with app.open(MemoryLog()) as engine:
            while hook.address is None:  # noqa: ASYNC110 (once, at the start)
                await anyio.sleep(0.01)
            url = f"http://127.0.0.1:{hook.address[1]}/github"
            for number, one in enumerate([*sent, sent[0]]):
                delivery = f"delivery-{number % len(sent)}"
                status = await deliver(url, secret, one["event"], delivery, one["payload"])
                print(f"{one['event']}: {status}")
                await engine.drain()
                while told:
                    print(f"  {told.pop(0)}")
            status = await deliver(url, "guessed", "issues", "delivery-9", sent[0]["payload"])
            print(f"issues, signed by somebody else: {status}")


if __name__ == "__main__":
    anyio.run(play)
