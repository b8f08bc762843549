"""What a test needs: found, skipped by name, or a failure where all is checked."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import needs
from tests.browser import chromium

ROOT = Path(__file__).parents[1]


def test_a_missing_program_is_skipped_by_name_and_never_where_all_is_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A machine without a server runs the other tests; CI does not get by without."""
    monkeypatch.delenv(needs.NEEDED, raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"no mill found \(looked for no-such-mill\)"):
        needs.program("no-such-mill", package="mill-server", need="mill")
    monkeypatch.setenv(needs.NEEDED, "chromium, mill")
    with pytest.raises(pytest.fail.Exception, match="apt install mill-server"):
        needs.program("no-such-mill", package="mill-server", need="mill")


def test_the_first_program_that_is_there_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names in the order of preference, also where a version has a folder of its own."""
    (tmp_path / "mill").write_text("#!/bin/sh\n")
    (tmp_path / "mill").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert needs.program("no-such-mill", "mill", package="mill") == tmp_path / "mill"
    for version in ("9.6", "15", "x"):
        folder = tmp_path / "pg" / version / "bin"
        folder.mkdir(parents=True)
        (folder / "initdb-of-a-test").write_text("#!/bin/sh\n")
        (folder / "initdb-of-a-test").chmod(0o755)
    monkeypatch.setattr(needs, "VERSIONED", (str(tmp_path / "pg"),))
    found = needs.program("initdb-of-a-test", package="postgresql")
    assert found == tmp_path / "pg" / "15" / "bin" / "initdb-of-a-test"


def test_a_missing_browser_is_skipped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked for under all of its names."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv(needs.NEEDED, raising=False)
    with pytest.raises(pytest.skip.Exception, match="no chromium found"):
        chromium()


def test_nothing_may_be_missing_where_all_is_checked() -> None:
    """What installs the programs also says that the tests need them."""
    said = (ROOT / ".ci" / "run").read_text()
    assert "export HEADRACE_NEEDS=chromium,mosquitto,redis,postgres,nats-server\n" in said
