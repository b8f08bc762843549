"""An alarm when a task keeps failing: lifecycle records are events, so an alert is a rule.

Needs ``pip install 'headrace[notify]'``; ALERT_URL says whom to tell, as Apprise writes it::

    export ALERT_URL=ntfys://my-topic         # or mailto://…, slack://…, json://host:port/path
    headrace run examples/alert.py:app --log alert.log

Each run of `upload` that is given up is an event ``run.failed.upload``.  Three within ten
minutes send one message; it is a task, so it is tried again, also after a crash.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated, Any

import apprise

from headrace import App, Firing, Retry, Run, on

app = App("alert")


@contextmanager
def open_notifier() -> Generator[apprise.Apprise]:
    """Whom to tell, opened with the engine."""
    notifier = apprise.Apprise()
    url = os.environ.get("ALERT_URL", "")
    if not notifier.add(url):
        raise ValueError(f"ALERT_URL={url!r}: expected a URL that Apprise knows")
    yield notifier


to_people = app.resource("notifier", open_notifier)


class NotSent(Exception):
    """Nobody has taken the message."""


@app.task
async def upload(path: str) -> None:
    """Stands for work that fails for as long as another service is away."""
    raise ConnectionError(f"{path}: the store does not answer")


@app.task(retry=Retry(attempts=5, wait_first=1.0, on=NotSent), timeout=30)
def notify(
    title: str, body: str, *, notifier: Annotated[apprise.Apprise, to_people] = to_people.injected
) -> None:
    """Send a message; in a worker thread, since Apprise waits for its answer."""
    if not notifier.notify(title=title, body=body):
        raise NotSent(title)


@app.rule(on("file.arrived", str))
async def arrived(run: Run, firing: Firing[str]) -> None:
    """Upload each file."""
    await run.launch(upload, firing.events[0].data)


@app.rule(on("run.failed.upload").count(3, within=600), mode="single")
async def keeps_failing(run: Run, firing: Firing[Any]) -> None:
    """Tell people, once for three failures."""
    errors = "\n".join(f"run {e.data['run']}: {e.data['error']}" for e in firing.events)
    await run.call(notify, "upload has failed three times in ten minutes", errors)
