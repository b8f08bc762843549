"""The plugin in real pytest runs: what users write, on asyncio and on trio."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.slow

APP = """
import time
import pytest
from headrace import App, Retry, Run, on

app = App("mill")
gates = []

@app.task(retry=Retry(attempts=3, wait_first=3600, wait_max=9999, jitter=0, on=OSError))
def close_gate(gate: str) -> str:
    time.sleep(600)
    if len(gates) < 2:
        gates.append(gate)
        raise OSError("it is stuck")
    return gate

@app.rule(on("water.high").count(2, within=60))
async def flood(run: Run) -> str:
    await run.sleep(1800)
    return await run.call(close_gate, "north")
"""

CONFTEST = """
import pytest
import mill

@pytest.fixture
def headrace_app():
    mill.gates.clear()
    return mill.app
"""

TESTS = """
import anyio
import pytest
from headrace.testing import Timeline, assert_fires
import mill

async def test_engine(engine, virtual_time, timeline):
    timeline.at(50, "water.high").at(0, "water.high").at(3600, "water.high")
    await timeline.play(engine, virtual_time)
    assert virtual_time.now == 3600
    await engine.drain()
    assert {run.status for run in engine.runs()} == {"completed"}
    assert virtual_time.now == 50 + 1800 + 600 + 3600 + 600 + 7200 + 600

def test_rule(timeline):
    timeline.every(30, "water.high", [1, 2, 3, 4])
    assert_fires(mill.app.rules["flood"], timeline, at=[30, 90])

async def test_sleep(virtual_time, anyio_backend_name):
    await anyio.sleep(86400)
    assert virtual_time.now == 86400
    print("backend", anyio_backend_name)
"""


@pytest.fixture
def ran(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project whose tests use the plugin, and no other plugins than it needs."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makepyfile(mill=APP, conftest=CONFTEST)
    return pytester


def run(pytester: pytest.Pytester, *options: str) -> pytest.RunResult:
    """Run pytest in a process of its own, with the plugin."""
    return pytester.runpytest_subprocess(
        "-p", "anyio", "-p", "headrace.pytest_plugin", "-W", "error", "-rA", *options, timeout=60
    )


def test_the_fixtures_work_on_both_backends(ran: pytest.Pytester) -> None:
    """An async test that asks for `engine` needs no mark, and lives in virtual time."""
    ran.makepyfile(test_mill=TESTS)
    result = run(ran)

    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(["*backend asyncio*"])
    result.stdout.fnmatch_lines(["*backend trio*"])


def test_the_users_choice_of_backend_holds(ran: pytest.Pytester) -> None:
    """Whoever has only asyncio in production tests with that."""
    ran.makepyfile(
        test_mill="import pytest\n"
        "@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n" + TESTS
    )
    result = run(ran, "-p", "no:cacheprovider")

    result.assert_outcomes(passed=3)
    assert "backend trio" not in result.stdout.str()


def test_tests_beside_them_live_in_real_time(ran: pytest.Pytester) -> None:
    """Only those that ask for it are in virtual time, also in one file."""
    ran.makepyfile(
        test_mixed="""
        import time
        import anyio
        import pytest

        pytestmark = pytest.mark.anyio

        async def test_virtual(virtual_time):
            began = time.monotonic()
            await anyio.sleep(3600)
            assert time.monotonic() - began == 3600

        async def test_real():
            began = time.perf_counter()
            await anyio.sleep(0.05)
            assert 0.04 < time.perf_counter() - began < 30
            assert time.time() > 1_750_000_000
        """
    )

    run(ran).assert_outcomes(passed=4)


def test_the_log_can_be_another(ran: pytest.Pytester) -> None:
    """A test that is about the disk brings its own."""
    ran.makepyfile(
        test_log="""
        import pytest
        from headrace import FileLog

        @pytest.fixture
        def headrace_log(tmp_path):
            return FileLog(tmp_path / "mill.log")

        async def test_log(engine, virtual_time, tmp_path):
            await engine.emit("water.high")
            await engine.emit("water.high")
            await engine.drain()
            assert (tmp_path / "mill.log").is_dir()
            assert virtual_time.now > 3600
        """
    )

    run(ran).assert_outcomes(passed=2)


def test_a_failing_assertion_shows_the_story(ran: pytest.Pytester) -> None:
    """What the rule made of the timeline is in the report, and nothing of the tool's own code."""
    ran.makepyfile(
        test_rule="""
        from headrace.testing import assert_fires
        import mill

        def test_rule(timeline):
            timeline.at(0, "water.high").at(60, "water.high")
            assert_fires(mill.app.rules["flood"], timeline, at=[60])
        """
    )
    result = run(ran)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["E * rule 'flood': expected at [[]60[]], found []", "E *  0  water.high  None"]
    )
    assert "wrong.append" not in result.stdout.str()


@pytest.mark.parametrize(
    ("conftest", "line"),
    [
        ("", "*engine: expected a fixture `headrace_app` that returns your headrace.App, found*"),
        (
            "import pytest\n@pytest.fixture\ndef headrace_app():\n    return 'mill'",
            "*engine: expected a fixture `headrace_app` that returns a headrace.App, found 'mill'*",
        ),
    ],
    ids=["none", "something else"],
)  # fmt: skip
def test_an_engine_without_an_app_says_what_to_do(
    ran: pytest.Pytester, conftest: str, line: str
) -> None:
    """Whoever forgets the fixture, or returns something else, learns its name."""
    ran.makepyfile(conftest=conftest, test_mill="async def test_engine(engine):\n    pass")
    result = run(ran)

    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines([line])


def test_it_costs_nothing_when_it_is_not_used(ran: pytest.Pytester) -> None:
    """A test run without its fixtures loads nothing of headrace but the plugin."""
    ran.makepyfile(
        conftest="",
        test_other="""
        import sys

        def test_other():
            loaded = {name for name in sys.modules if name.split(".")[0] == "headrace"}
            assert loaded == {"headrace", "headrace.version", "headrace.pytest_plugin"}
            assert not {"msgspec", "tenacity", "structlog"} & set(sys.modules)
        """,
    )
    result = pytest_without_anyio(ran.path)

    assert result.returncode == 0, result.stdout
    assert "1 passed" in result.stdout


def pytest_without_anyio(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "headrace.pytest_plugin", "-q"],
        cwd=folder,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_pytest_finds_it_by_itself() -> None:
    """Whoever installs headrace has the fixtures: the entry point names the plugin."""
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())

    assert project["project"]["entry-points"]["pytest11"] == {"headrace": "headrace.pytest_plugin"}
