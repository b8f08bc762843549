"""The MQTT plant runs by one command, and ends by itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.needs import program

EXAMPLE = Path(__file__).parents[1] / "examples" / "mqtt_plant.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, EXAMPLE, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.slow
def test_hot_machines_get_their_fans_switched_on() -> None:
    """Readings start runs, whose commands come back by the server; the saw stays cool."""
    program("mosquitto", package="mosquitto")
    ran = run()

    assert (ran.returncode, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    assert lines[0].startswith("server   mosquitto on port ")
    assert {line for line in lines if line.startswith("fan")} == {
        "fan      oven: on",
        "fan      press: on",
    }
    assert lines[-1] == "done     2 fans were switched on"


@pytest.mark.slow
def test_wrong_address_is_one_line() -> None:
    """Not a traceback."""
    ran = run("--url", "http://localhost")

    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    assert "expected an address such as mqtt://localhost" in line
