"""eventsourcing on SQLite: events of aggregates, appended one by one; a follower filters."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from work import Way, main, samples

PACKAGES: Final = ("eventsourcing",)


def device_application(folder: Path) -> Any:
    """Return an application over a new database, and the class of its aggregates."""
    from eventsourcing.application import Application
    from eventsourcing.domain import Aggregate, event

    class Device(Aggregate):
        def __init__(self) -> None:
            self.temp = 0.0

        @event("Measured")
        def measure(self, temp: float) -> None:
            self.temp = temp

    path = folder / f"eventsourcing-{time.monotonic_ns()}.sqlite"
    environment = {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(path)}
    return Application(env=environment), Device


def w1(count: int, folder: Path) -> float:
    """Append each event to the aggregate of its device; then read all and update a dict."""
    application, device_type = device_application(folder)
    seen: dict[Any, float] = {}
    events = samples(count)
    start = time.perf_counter()
    devices: dict[str, Any] = {}
    for event in events:
        device = devices.get(event.device)
        if device is None:
            device = devices[event.device] = device_type()
        device.measure(event.temp)
        application.save(device)
    after = 0
    while notes := application.recorder.select_notifications(after + 1, 1000):
        for note in notes:
            measured = application.mapper.to_domain_event(note)
            temp = getattr(measured, "temp", 0.0)
            if temp > 90:
                seen[measured.originator_id] = temp
            after = note.id
    took = time.perf_counter() - start
    assert seen
    return count / took


WAYS: Final = {
    "W1, eventsourcing, SQLite": Way(w1, "SQLite in WAL mode; no tasks", 2000),
}

if __name__ == "__main__":
    main(WAYS)
