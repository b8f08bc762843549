"""``headrace doctor``: what it finds, what it says to mend, and its exit codes."""

from __future__ import annotations

import json
import resource
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from tests.cli.command import Call
from tests.connectors import package

from headrace import App
from headrace.cli import doctor_disk, doctor_links, doctor_machine
from headrace.cli.findings import Finding
from headrace.connectors.intake import Intake
from headrace.connectors.promises import Promise

pytestmark = pytest.mark.slow

CONFIG = """
[run]
log = "mill.log"

[sources.line]
type = "mill"
url = "${MILL_URL}"

[sinks.notes]
type = "mill-sink"
path = "%s"
"""


@pytest.fixture
def address() -> Iterator[str]:
    """Where somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def nobody() -> str:
    """Where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def here(headrace: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Call the command in a folder with a configuration."""
    package.install(tmp_path / "packages")
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setenv("MILL_URL", "mill://here")
    (tmp_path / "headrace.toml").write_text(CONFIG % "notes.txt")
    return headrace


def checks(call: Call, *arguments: object) -> tuple[int, dict[str, dict[str, Any]]]:
    done = call("doctor", *arguments, "-o", "json")
    document = json.loads(done.out)
    rows: list[dict[str, Any]] = document["checks"]
    assert document["ok"] == (done.code == 0)
    assert done.err == ""
    return done.code, {row["check"]: row for row in rows}


@pytest.mark.slow
def test_machine_that_is_well(here: Call, tmp_path: Path) -> None:
    """Each thing that was looked at is a line; nothing is left behind on the disk."""
    (tmp_path / "mill.log").mkdir()
    code, found = checks(here, "--config", "headrace.toml")

    assert code == 0
    wanted = ["python", "libraries", "extras", "connectors", "clock", "time zones", "open files"]
    wanted += ["settings", "disk", "sync", "source line", "sink notes"]
    assert [name for name in wanted if name not in found] == []
    assert found["settings"]["found"] == "app headrace: 0 rules, 1 tasks, 1 sources, 1 sinks"
    assert found["source line"]["found"] == "a mill with 0 topics"
    assert found["sink notes"]["found"] == "it keeps no address that could be connected to"
    assert "mill, mill-sink" in found["connectors"]["found"]
    assert list((tmp_path / "mill.log").iterdir()) == []
    text = here("doctor", "--config", "headrace.toml").out
    assert "ok    source line   a mill with 0 topics\n" in text
    lines = here("doctor", "--config", "headrace.toml", "-o", "jsonl").out.splitlines()
    assert [json.loads(line)["check"] for line in lines] == list(found)


def test_server_that_does_not_answer_is_exit_code_5(
    here: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the connector itself says is what is to be mended."""
    monkeypatch.setenv("MILL_URL", "gone://here")
    code, found = checks(here, "--config", "headrace.toml")
    assert code == 5
    assert found["source line"]["found"] == "line: expected a mill, found none; build one"


def test_address_without_a_probe_is_connected_to(
    here: Call, tmp_path: Path, address: str, nobody: str
) -> None:
    """A connector need not know of this command; no password is shown."""
    (tmp_path / "headrace.toml").write_text(CONFIG % f"mqtt://me:geheim@{address}/x")
    code, found = checks(here, "--config", "headrace.toml")
    assert (code, found["sink notes"]["found"]) == (0, f"{address} can be connected to")
    (tmp_path / "headrace.toml").write_text(CONFIG % f"mqtt://me:geheim@{nobody}/x")
    done = here("doctor", "--config", "headrace.toml")
    assert done.code == 5
    assert (
        f"fail  sink notes    {nobody}: Connection refused; "
        "start the server, or correct its address\n"
    ) in done.out
    assert "geheim" not in done.out


def test_address_in_a_part_of_a_connector_is_found(
    here: Call, tmp_path: Path, address: str
) -> None:
    """As those that share a server's settings keep it."""
    keeps = "self.path, self.name, self.timeout = path, name, timeout"
    part = "self.name, self.part = name, __import__('types').SimpleNamespace(shown=path)"
    assert keeps in package.MILL
    (tmp_path / "packages" / "mill_connectors.py").write_text(package.MILL.replace(keeps, part))
    (tmp_path / "headrace.toml").write_text(CONFIG % f"mqtt://***@{address}/x")
    code, found = checks(here, "headrace.toml")
    assert (code, found["sink notes"]["found"]) == (0, f"{address} can be connected to")


def test_settings_that_are_wrong_do_not_hide_the_rest(
    here: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All problems of the file are lines of their own, and exit code 1 says that it is not well."""
    monkeypatch.delenv("MILL_URL")
    done = here("doctor", "--config", "headrace.toml")
    assert done.code == 1
    assert (
        "fail  settings      headrace.toml:7:7: sources.line.url: expected MILL_URL in" in done.out
    )
    assert "ok    open files" in done.out
    code, found = checks(here, "no.py")
    assert code == 1
    assert found["settings"]["found"].startswith("no.py: expected a Python file, found nothing")
    assert found["disk"]["found"] == "no log was named"
    code, found = checks(here, "--config", "headrace.toml")
    assert found["disk"]["found"].startswith("not looked at")
    assert found["disk"]["state"] == "warn"
    assert "--log DIR" in found["disk"]["mend"]


@pytest.mark.parametrize("field", ["url", "parts"])
def test_connector_without_a_dict_is_looked_at(field: str, address: str) -> None:
    """Somebody's source may be of slots, or a struct; what it keeps is found all the same."""

    class Part(msgspec.Struct):
        url: str

    class Slim:
        __slots__ = ("name", "parts", "url")
        name: str
        promise: Promise = "at most once"

        async def run(self, intake: Intake) -> None:
            """Bring nothing in."""

    slim = Slim()
    slim.name = "slim"
    setattr(slim, field, f"tcp://{address}" if field == "url" else [Part(f"tcp://{address}")])
    app = App("a")
    app.source(slim)
    (found,) = doctor_links.links(app)

    assert (found.state, found.found) == ("ok", f"{address} can be connected to")


def test_probe_that_hangs_or_raises_is_a_finding(
    here: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's code does not end the command."""
    monkeypatch.setattr(doctor_links, "PROBE_S", 0.05)
    code = package.MILL.replace(
        'if "gone" in self.url:', 'if "gone" in self.url: 1 / 0\n        if False:'
    )
    code = code.replace("    async def __aenter__", HANGS + "    async def __aenter__")
    (tmp_path / "packages" / "mill_connectors.py").write_text(code)
    monkeypatch.setenv("MILL_URL", "gone://here")
    exit_code, found = checks(here, "--config", "headrace.toml")
    assert exit_code == 5
    assert found["source line"]["found"] == "division by zero"
    assert found["sink notes"]["found"] == "expected an answer within 0.05 s, found none"


HANGS = """    async def probe(self) -> str:
        import anyio
        await anyio.sleep_forever()

"""


def only(found: Iterator[Finding], check: str) -> Finding:
    (one,) = [one for one in found if one.check == check]
    return one


def test_disk_that_cannot_be_written_or_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each says what is the matter with it."""
    usage = SimpleNamespace(free=10 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert only(doctor_disk.disk(tmp_path / "a" / "b"), "disk").state == "fail"
    usage.free = 500 << 20
    low = only(doctor_disk.disk(tmp_path), "disk")
    assert (low.state, low.found) == ("warn", f"{tmp_path} has 0.5 GiB free")
    usage.free = 1 << 40

    def refuse(**_: object) -> object:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "NamedTemporaryFile", refuse)
        *_, denied = doctor_disk.disk(tmp_path)
    assert (denied.state, denied.found) == ("fail", f"{tmp_path}: Permission denied")
    monkeypatch.setattr(doctor_disk, "SYNC_S_SLOW", 0)
    assert only(doctor_disk.disk(tmp_path), "sync").state == "warn"
    (tmp_path / "file").write_text("")
    (no_folder,) = doctor_disk.disk(tmp_path / "file")
    assert (no_folder.state, no_folder.found) == ("fail", f"{tmp_path / 'file'} is no folder")
    (too_long,) = doctor_disk.disk(tmp_path / ("a" * 300))
    assert (too_long.state, too_long.found.rpartition(": ")[2]) == ("fail", "File name too long")


@pytest.mark.parametrize(("kind", "said"), [("tmpfs", "in memory"), ("nfs4", "on a network")])
def test_disk_that_is_none(tmp_path: Path, kind: str, said: str) -> None:
    """What is in memory, or far away, does not keep what it has been given."""
    mounts = tmp_path / "mounts"
    mounts.write_text(f"a / ext4 rw 0 0\nb {tmp_path} {kind} rw 0 0\n")
    found = [one for one in doctor_disk.disk(tmp_path / "log", mounts) if one.state == "warn"]
    assert said in found[0].found
    # As the kernel writes a space; and names are bytes.
    mounts.write_bytes(
        f"a / ext4 rw 0 0\nb {tmp_path}/my\\040log {kind} rw 0 0\n".encode() + b"c /\xff x rw 0 0\n"
    )
    (tmp_path / "my log").mkdir()
    found = [one for one in doctor_disk.disk(tmp_path / "my log", mounts) if one.state == "warn"]
    assert said in found[0].found
    mounts.write_text(f"a / ext4 rw 0 0\nb {tmp_path}2 {kind} rw 0 0\n")
    assert all(said not in one.found for one in doctor_disk.disk(tmp_path / "log", mounts))


def test_clock_that_jumps_or_was_never_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log time goes by it."""
    walls = iter([10**18 * 2, 10**18 * 2 + 10**9])
    monkeypatch.setattr(time, "time_ns", lambda: next(walls))
    monkeypatch.setattr(time, "sleep", lambda _: None)
    jumped = only(doctor_machine.clocks(), "clock")
    assert jumped.state == "warn"
    assert jumped.found.startswith("it was put on or back by +1.00")
    walls = iter([0, 0])
    never = only(doctor_machine.clocks(), "clock")
    assert (never.state, never.found) == ("fail", "it is the year 1970")
    walls = iter([10**18 * 2, 10**18 * 2])
    monkeypatch.setattr(doctor_machine, "ZONE", "Middle/Earth")
    zones = only(doctor_machine.clocks(), "time zones")
    assert (zones.state, "tzdata" in zones.mend) == ("warn", True)


def test_limit_of_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each connection and each segment is one."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    found = doctor_machine.open_files()
    assert (found.state, found.found) == ("warn", "at most 256")
    assert found.mend.startswith("ulimit -n 4096")


NEEDS = [
    "cloth>=2.10",
    "rope",
    'pole>=1; extra == "mast"',
    # As builders write what has two bounds: the upper one first.
    'oar<0.15,>=0.12; extra == "oars"',
    'keel<0.15,>=0.12; extra == "keels"',
    'a; extra == "dev"',
]


def test_library_that_is_old_or_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the package says that it needs."""
    for name, version, needs in (
        ("sail", "1.0", NEEDS),
        ("cloth", "2.9", []),
        ("oar", "0.15.1", []),
        ("keel", "0.11", []),
    ):
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        requires = "".join(f"Requires-Dist: {need}\n" for need in needs)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}"
        )
    monkeypatch.syspath_prepend(tmp_path)
    old, new, other, missing, extras = doctor_machine.libraries("sail")
    assert (old.state, old.found) == ("warn", "expected cloth 2.10 or newer, found 2.9")
    assert old.mend == "pip install --upgrade cloth"
    assert (new.state, new.found) == ("warn", "expected oar before 0.15, found 0.15.1")
    assert new.mend == "pip install --upgrade 'oar<0.15'"
    assert (other.state, other.found) == ("warn", "expected keel 0.12 or newer, found 0.11")
    assert (missing.state, missing.found) == ("fail", "missing: rope")
    assert (extras.state, extras.found) == ("ok", "keels, oars; not there: mast")
    (gone,) = doctor_machine.libraries("no-such-package")
    assert gone.state == "warn"


def test_broken_connector_is_a_line(here: Call, tmp_path: Path) -> None:
    """Somebody's package that cannot be imported."""
    (tmp_path / "packages" / "mill_connectors.py").write_text("import no_such_library\n")
    done = here("doctor")
    assert done.code == 0
    assert (
        "warn  connectors    mill: mill_connectors:Mill: expected a class that can be" in done.out
    )
