"""Asks the real Apache Flink CEP what it says to patterns: the oracle of `sequence`.

Nothing of Flink is in this repository.  The jars come from PyPI (`apache-flink-libraries`) when
they are first needed and stay in a cache outside of it: the folder that the environment variable
HEADRACE_FLINK_CACHE names, else `headrace-flink` in the user's cache.  `FlinkOracle.java`, which
drives Flink's automaton, is compiled there once.  Java 17 is needed: the order of matches of one
event hangs on `java.util.PriorityQueue`, whose `removeAll` has not always left the same order.

A *case* is `{"pattern": PATTERN, "events": [EVENT, …], "until": ms or None}`:

    EVENT    {"t": ms, "k": letter, "v": int}, in order of time
    PATTERN  {"steps": [STEP, …], "within": ms or None, "within_gap": ms or None, "skip": "none" |
             "to_next" | "past_last" | ["to_first", NAME] | ["to_last", NAME]}
    STEP     {"name", "cond": COND, "contiguity": "strict" | "relaxed" | "any", "not": bool,
             "times": None | [m, n] | [m, None], "inner": "relaxed" | "strict" | "any",
             "greedy": bool, "optional": bool, "until": COND | None}, or a group:
             "group": [STEP, …] in place of "cond", "not" and "until"
    COND     {"k": letters, "gt_first": NAME, "ge_last": NAME, "sum_lt": [NAME, limit],
             "vmod": [m, r]}, all but "k" optional: the kind is one of the letters, v is above that
             of the first event taken by NAME (of which there is one), at least that of the last
             (if there is one), the sum over all of NAME's and this v is below the limit, v % m == r

`within_gap` is given to every step, in groups too: Flink has it for each step alone.  An answer
has "matches" in the order of emission, each `{"at": index of the event that completed it, or
"t:MS" when time did, "steps": {NAME: [index, …]}}`, and "timeouts", `{"t": ms, "steps": …}`; or
"refused" with Flink's reason; or "failed" when Flink has a bug and raises on the way.

Time goes from one timestamp of the events to the next, and at the end to `until`: MS is where it
stood when the match was found.  With `"exact": true` in a case it also stops where each partial
match runs out, so that MS is when it did.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

VERSION = "1.20.5"
"""Of Flink.  The stored answers were recorded with it."""

JARS = (f"flink-cep-{VERSION}.jar", f"flink-dist-{VERSION}.jar")
SOURCE = Path(__file__).with_name("FlinkOracle.java")
DOWNLOAD_S_MAX = 600
RUN_S_MAX = 600


class Match(TypedDict):
    """A match, as Flink emitted it."""

    at: int | str
    steps: dict[str, list[int]]


class Timeout(TypedDict):
    """A partial match that ran out of time."""

    t: int
    steps: dict[str, list[int]]


class Answer(TypedDict, total=False):
    """What Flink says to a case: matches and timeouts, or one of the others alone."""

    matches: list[Match]
    timeouts: list[Timeout]
    refused: str
    failed: str


class FlinkUnavailable(RuntimeError):
    """Java or Flink's jars cannot be had here.  The message is one line and says what to do."""


def answers(cases: Iterable[Mapping[str, Any]]) -> list[Answer]:
    """Flink's answers to the cases, in their order, from one JVM.

    Raises:
        FlinkUnavailable: Java is missing or another version, or the jars cannot be downloaded.
        RuntimeError: the JVM ended before it had answered all, which is a bug of the oracle.
    """
    lines = [json.dumps(case) for case in cases]
    java = _java("java")
    folder = cache()
    command = [java, "-Xmx512m", "-XX:+UseSerialGC", "-cp", _class_path(folder)]
    done = subprocess.run(
        [*command, "FlinkOracle"],
        input="".join(line + "\n" for line in lines),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=RUN_S_MAX,
        check=False,
    )
    found: list[Answer] = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode or len(found) != len(lines):
        raise RuntimeError(
            f"the oracle answered {len(found)} of {len(lines)} cases: {done.stderr[-2000:]}"
        )
    return found


def cache() -> Path:
    """The folder that jars and classes are kept in; makes it and what it lacks."""
    folder = _cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    if not all((folder / jar).is_file() for jar in JARS):
        _download(folder)
    _compile(folder)
    return folder


def _cache_folder() -> Path:
    named = os.environ.get("HEADRACE_FLINK_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace-flink"


def _class_path(folder: Path) -> str:
    return os.pathsep.join(str(folder / part) for part in (_classes(), *JARS))


def _classes() -> str:
    """The name is that of the source: a changed source is compiled anew."""
    return f"classes-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}"


def _java(tool: str) -> str:
    home = os.environ.get("JAVA_HOME")
    found = shutil.which(tool, path=str(Path(home) / "bin") if home else None)
    if found is None:
        raise FlinkUnavailable(f"no {tool} found: install a JDK 17 (or point JAVA_HOME to one)")
    return found


def _download(folder: Path) -> None:
    """Brings the jars from PyPI: about 230 MB, of which 125 MB are kept."""
    wanted = f"apache-flink-libraries=={VERSION}"
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        try:
            subprocess.run(
                [*pip, "--disable-pip-version-check", "--dest", scratch, wanted],
                capture_output=True,
                text=True,
                timeout=DOWNLOAD_S_MAX,
                check=True,
            )
        except subprocess.SubprocessError as error:
            said = str(getattr(error, "stderr", None) or error).strip()
            raise FlinkUnavailable(
                f"cannot download {wanted} from PyPI: {said.splitlines()[-1] if said else error}; "
                f"put {' and '.join(JARS)} into {folder}"
            ) from error
        for archive in Path(scratch).glob("*.tar.gz"):
            _unpack(archive, folder)
    missing = [jar for jar in JARS if not (folder / jar).is_file()]
    if missing:
        raise FlinkUnavailable(f"{wanted} does not contain {', '.join(missing)}")


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        for member in tar:
            name = Path(member.name).name
            content = tar.extractfile(member) if name in JARS else None
            if content is not None:
                partly = folder / f"{name}.{os.getpid()}"
                with partly.open("wb") as out:
                    shutil.copyfileobj(content, out)
                partly.replace(folder / name)


def _compile(folder: Path) -> None:
    if (folder / _classes()).is_dir():
        return
    command = [_java("javac"), "-nowarn", "--release", "17", "-cp", _class_path(folder)]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        done = subprocess.run(
            [*command, "-d", f"{scratch}/classes", str(SOURCE)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines() or ["it says nothing"]
            raise FlinkUnavailable(f"javac (17 or newer is needed) fails: {said[0]}")
        try:
            Path(scratch, "classes").rename(folder / _classes())
        except OSError:
            # Another process has been faster.
            if not (folder / _classes()).is_dir():
                raise
