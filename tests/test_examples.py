"""The examples are the first code that a user reads and copies, so they must work as they stand."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import anyio
import pytest
from starlette.testclient import TestClient
from tests.needs import program

from headrace import MemoryLog
from headrace.demo import plant
from headrace.testing import firings

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def load(name: str) -> ModuleType:
    """Import an example by its path, as ``headrace run examples/plant.py:app`` does."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# plant.py


def test_the_plant_to_copy_is_the_plant_of_the_demo() -> None:
    """What a user reads and changes is what ``headrace demo`` has shown."""
    shipped = ROOT / "src" / "headrace" / "demo" / "plant.py"

    assert shipped.read_bytes() == (EXAMPLES / "plant.py").read_bytes()


def test_a_task_is_an_ordinary_function() -> None:
    """User code is tested without an engine."""
    diagnosis = plant.diagnose("machine", "cold", [49.0, 31.5, 40.0])

    assert diagnosis == plant.Diagnosis("machine is cold: 31.5 degrees", ["power", "coolant"])
    with pytest.raises(plant.PagerRefused, match="nobody is on call for 'machine'"):
        anyio.run(plant.page, "machine", "silent")


async def test_the_plant_works_on_a_few_readings_of_ones_own() -> None:
    """Copied and fed by hand it does what its first lines promise."""
    app = load("plant").app
    async with app.open(MemoryLog(), clock="input") as engine:
        for minute, degrees in enumerate([80.0, 40.0, 41.0, 39.0, 38.0]):
            await engine.emit(
                "plant.machine.temperature", {"degrees": degrees}, time=1e9 + 60.0 * minute
            )
        await engine.drain()

        by_task = [(run.task, run.status) for run in engine.runs() if run.rule]
    assert ("cold", "completed") in by_task
    assert [task for task, _ in by_task].count("cold") == 1


# door.py


async def test_the_house_tells_of_each_thing_of_the_night_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What the example promises in its first lines is what it prints, at the events' times."""
    await load("door").main()

    assert capsys.readouterr().out.splitlines() == [
        "22:00:40  card ada is at two doors: front and garage",
        "22:30:30  the garage door is open",
        "22:41:00  the kitchen is cold: 10.5 °C",
        "22:50:00    alarm: freezing kitchen",
        "23:00:00  the kitchen had 13.7 °C, of 3 readings",
        "23:05:00  the kitchen is warm again: 12.5 °C",
    ]


def test_a_rule_of_the_house_is_tested_without_an_engine() -> None:
    """A reader sees how to try a rule of one's own: a timeline in, firings out."""
    house = load("door")
    swipes = [
        (0, "cards.front", house.Swipe("ada")),
        (5, "cards.front", house.Swipe("ada")),
        (9, "cards.garage", house.Swipe("bob")),
        (60, "cards.garage", house.Swipe("ada")),
    ]

    (fired,) = firings(house.app.rules["two_places"].pattern, swipes)
    assert (fired.at, fired.key, [event.t for event in fired.events]) == (60, "ada", [5, 60])


# embedded.py


@pytest.fixture
def client() -> Iterator[TestClient]:
    """The web service with its engine running."""
    with TestClient(load("embedded").service(MemoryLog())) as client:
        yield client


def test_a_post_stores_an_event_and_starts_its_runs(client: TestClient) -> None:
    """An engine lives in a service's own loop, from its start to its end."""
    small = client.post("/events/orders.placed", json={"order": 1, "euros": 10})
    large = client.post("/events/orders.placed", json={"order": 2, "euros": 5000})

    assert (small.status_code, large.status_code) == (201, 201)
    assert small.json()["sequence"] < large.json()["sequence"]
    runs = client.get("/runs").json()
    assert {run["task"] for run in runs} <= {"large_order", "ask_for_approval"}
    assert len([run for run in runs if run["rule"] == "large_order"]) == 1


@pytest.mark.parametrize(
    ("subject", "body", "said"),
    [
        ("orders.placed", b"{order: 1}", "expected a body of JSON"),
        ("orders.placed", b"\xff", "expected a body of JSON"),
        ("orders.placed", b"[" * 5000, "expected a body of JSON"),
        ("orders.*", b"{}", "orders.*"),
        ("orders..placed", b"{}", "orders..placed"),
        ("run.completed.x", b"{}", "run.completed.x"),
    ],
)
def test_what_is_no_event_is_refused_in_one_line(
    client: TestClient, subject: str, body: bytes, said: str
) -> None:
    """A wrong request gets 400 and a reason, the service goes on, and nothing is stored."""
    answer = client.post(f"/events/{subject}", content=body)

    assert answer.status_code == 400
    reason = answer.json()["error"]
    assert said in reason
    assert "\n" not in reason
    assert client.post("/events/orders.placed", json={"order": 1, "euros": 1}).status_code == 201


def test_restarting_the_service_goes_on_with_its_log(tmp_path: Path) -> None:
    """The service keeps what it acknowledged, in a directory of its own."""
    service, log = load("embedded").service, str(tmp_path / "orders.log")
    with TestClient(service(log)) as first:
        stored = first.post("/events/orders.placed", json={"order": 1, "euros": 5000}).json()
    with TestClient(service(log)) as second:
        after = second.post("/events/orders.placed", json={"order": 2, "euros": 1}).json()

    assert after["sequence"] > stored["sequence"]


# redis_postgres.py


@pytest.mark.slow
def test_orders_go_from_redis_to_postgres_once(tmp_path: Path) -> None:
    """One command shows it, with a server that is killed; nothing is left behind."""
    program("redis-server", package="redis-server", need="redis")
    program("initdb", package="postgresql", need="postgres")
    done = subprocess.run(
        [sys.executable, EXAMPLES / "redis_postgres.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    *_, counts, verdict = done.stdout.splitlines()
    assert counts.startswith("60 events in the log, ")
    assert counts.endswith(" 60 shipments")
    assert verdict == "each order was shipped once"
    assert list(tmp_path.iterdir()) == []


# jetstream_postgres.py


@pytest.mark.slow
def test_orders_go_from_jetstream_to_postgres_once(tmp_path: Path) -> None:
    """One command shows it, with an engine that is killed half-way; nothing is left behind."""
    if not Path(sys.executable).with_name("nats-server").exists():
        program("nats-server", package="nats-server")
    program("initdb", package="postgresql", need="postgres")
    done = subprocess.run(
        [sys.executable, EXAMPLES / "jetstream_postgres.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    killed, placed, counts, verdict = done.stdout.splitlines()
    found = re.fullmatch(r"30 orders placed; the engine killed after (\d+)", killed)
    assert found is not None
    assert 0 < int(found[1]) < 30, "it was killed before or behind its work"
    assert placed == "30 more placed, and 10 of the others once more; another engine goes on"
    assert counts == "60 events in the log, 60 shipments"
    assert verdict == "each order was shipped once"
    assert list(tmp_path.iterdir()) == []


def test_example_without_its_server_says_what_to_install() -> None:
    """In one line."""
    with pytest.raises(SystemExit, match="skipped: expected no-such-server, found none; on Debian"):
        load("servers").program("no-such-server", "no-such-package")
