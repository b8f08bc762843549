"""Help is complete, and costs as little as an answer may."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.command import HEADRACE, Call

from headrace.cli import ruling

HEAVY = {
    "anyio",
    "asyncio",
    "nats",
    "rich_rst",
    "structlog",
    "tenacity",
    "trio",
    "uvloop",
    "pygments",
    "markdown_it",
    "headrace.app",
    "headrace.engine.engine",
    "headrace.demo",
}
GROUPS = ("log", "events", "runs", "rules", "alarms")
HELP_RATIO_MAX = 2.5
"""A ratio, since the time itself depends on the machine: see benchmarks/import_cost.py."""
CALLS = 7

COMMANDS = [
    ["run"],
    ["check"],
    ["demo"],
    ["state"],
    ["diff"],
    ["why"],
    ["debug"],
    ["replay"],
    ["whatif"],
    ["bisect"],
    ["version"],
    ["log"],
    ["log", "info"],
    ["log", "cat"],
    ["log", "verify"],
    ["log", "salvage"],
    ["events"],
    ["events", "tail"],
    ["runs"],
    ["runs", "list"],
    ["runs", "show"],
    ["runs", "cancel"],
    ["runs", "redrive"],
    ["rules"],
    ["rules", "list"],
    ["rules", "pause"],
    ["rules", "resume"],
    ["rules", "reload"],
    ["alarms"],
    ["alarms", "list"],
    ["alarms", "ack"],
    ["emit"],
    ["log", "export"],
    ["log", "import"],
    ["trace"],
    ["timeline"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help(headrace: Call, command: list[str]) -> None:
    """What it does, what it takes, and how to get on from an error; no default is a riddle."""
    done = headrace(*command, "--help")

    assert done.code == 0
    assert f"Usage: headrace {' '.join(command)}" in done.out
    assert "Exit codes: 0 ok" in " ".join(done.out.split())
    assert "[default: None]" not in done.out
    assert "[default: []]" not in done.out


def test_every_option_says_what_it_is_for(headrace: Call) -> None:
    """An option without a word of help is one that nobody dares to use."""
    for app in (ruling.app, *(ruling.app[name] for name in GROUPS)):
        for name in app:
            if name.startswith("-") or app[name].default_command is None:
                continue
            for argument in app[name].assemble_argument_collection():
                assert argument.parameter.help, (name, argument.name)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["nix"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    """What a command needs is imported when it is called."""
    program = f"""
import json, sys
from headrace.cli import main
sys.stdout, out = open("/dev/null", "w"), sys.stdout
main({arguments!r})
json.dump(sorted(sys.modules), out)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded: set[str] = set(json.loads(ran.stdout))

    assert HEAVY & loaded == set()


def cpu_s(command: list[str | Path]) -> float:
    """Return the processor time that *command* takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.slow
def test_help_costs_little_beyond_its_libraries() -> None:
    """Tools whose help takes a second are not asked for help."""
    bare: list[str | Path] = [sys.executable, "-c", "import cyclopts, msgspec, rich.console"]
    costs = [(cpu_s([HEADRACE, "--help"]), cpu_s(bare)) for _ in range(CALLS)]

    whole, libraries = map(min, zip(*costs, strict=True))
    assert whole < HELP_RATIO_MAX * libraries, costs


def test_without_arguments_it_prints_its_help(headrace: Call) -> None:
    """The first thing that somebody types."""
    assert headrace().out == headrace("--help").out
