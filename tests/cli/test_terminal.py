"""On a terminal: a bar, colours and words for people.  Anywhere else: none of it."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
import structlog
from tests.cli.command import HEADRACE, WAIT_S, Call, lines_of

from headrace.cli.diagnostics import configure

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(*arguments: object, cwd: Path, **environment: str) -> tuple[str, str]:
    """Call the command with a terminal as stdout and another as stderr; return what they show."""
    shown: list[str] = []
    (out, out_end), (err, err_end) = pty.openpty(), pty.openpty()
    process = subprocess.Popen(
        [HEADRACE, *map(str, arguments)],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=out_end,
        stderr=err_end,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **environment},
    )
    os.close(out_end)
    os.close(err_end)
    for end in (err, out):
        text = b""
        while True:
            try:
                block = os.read(end, 65536)
            except OSError:  # the other end was closed
                break
            if not block:
                break
            text += block
        os.close(end)
        shown.append(text.decode())
    assert process.wait(WAIT_S) == 0, shown
    return shown[1], shown[0]


@pytest.mark.slow
def test_a_terminal_gets_a_bar_and_words(plant: Path, tmp_path: Path) -> None:
    """Who waits sees how far it is, in bytes of the input, and what the engine says, readably."""
    (tmp_path / "many.jsonl").write_text(lines_of([20.0] * 20_000))
    out, err = on_terminal("run", plant, "--log", "l", "--from", "many.jsonl", cwd=tmp_path)

    assert "reading" in err
    assert "MB" in err
    assert "started" in err
    assert '"event"' not in err, "not JSON"
    assert "events        20000" in out
    assert "reading" not in out


@pytest.mark.slow
def test_colour_is_for_terminals_that_want_it(log: Path, tmp_path: Path) -> None:
    """Red for dead letters; nothing with NO_COLOR (https://no-color.org)."""
    colourful, _ = on_terminal("runs", "list", log, cwd=tmp_path)
    plain, _ = on_terminal("runs", "list", log, cwd=tmp_path, NO_COLOR="1")

    assert "\x1b[31mdead" in colourful
    assert "\x1b[31m" not in plain
    assert "\x1b[32m" not in plain
    assert "dead" in ESCAPE.sub("", plain)


@pytest.mark.slow
def test_a_pipe_gets_json_diagnostics_and_no_bar(shell: Call, plant: Path, readings: Path) -> None:
    """What a service writes to stderr is for a collector; ``--log-format human`` is for people."""
    run = ("run", plant, "--from", readings, "--clock", "input")
    as_json = shell(*run, "--log", "a")
    human = shell(*run, "--log", "b", "--log-format", "human")

    assert all(line.startswith("{") for line in as_json.err.splitlines())
    assert '"event": "started"' in as_json.err
    assert "started" in human.err
    assert "{" not in human.err
    assert "\x1b" not in as_json.err + human.err
    assert "reading" not in as_json.err


@pytest.mark.parametrize("log_format", ["json", "human"])
def test_diagnostics_neither_leak_secrets_nor_act_on_the_terminal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, log_format: str
) -> None:
    """A user's task may log what came from outside, and may be careless with a header."""
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    configure("json" if log_format == "json" else "human")
    try:
        (tmp_path / "\x1b[2Jevil\nheadrace: fake").read_text()
    except FileNotFoundError:
        structlog.get_logger().exception(
            "said\x1b[2J\nheadrace: fake", Authorization="Bearer abc", value="\x9b31m"
        )
    finally:
        structlog.reset_defaults()
    text = stderr.getvalue()

    assert "abc" not in text
    assert "***" in text
    assert text.replace("\n", "").isprintable()
    assert "Traceback" in text
    assert not any(line.startswith("headrace: fake") for line in text.splitlines()[:1])


@pytest.mark.slow
def test_the_engine_is_quiet_about_structlog_until_a_command_runs(shell: Call) -> None:
    """A library does not configure its host's logging: only ``run`` does, in its own process."""
    program = "import headrace, headrace.cli, structlog; print(structlog.is_configured())"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout == "False\n"
