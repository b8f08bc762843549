"""What ``headrace doctor`` looks at first: Python, libraries, clocks, limits."""

from __future__ import annotations

import platform
import re
import resource
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, version
from typing import Final

from headrace.cli.findings import Finding, fail, ok, warn

PYTHON_MIN: Final = (3, 11)
OPEN_FILES_MIN: Final = 1024
WATCHED_S: Final = 0.2
JUMP_S_MAX: Final = 0.05
YEAR_MIN_NS: Final = 1_735_689_600 * 10**9
"""2025: a clock that is before it was never set."""
ZONE: Final = "Europe/Berlin"

_REQUIREMENT: Final = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)(?:\[[^]]*\])?(?P<bounds>[^;]*)"
    r"(?:;.*extra == ['\"](?P<extra>[^'\"]+)['\"])?"
)
_LEAST: Final = re.compile(r">=\s*([0-9.]+)")
_BEFORE: Final = re.compile(r"<\s*([0-9.]+)")


def python() -> Finding:
    """Look at the interpreter."""
    found = f"{platform.python_implementation()} {platform.python_version()}"
    if sys.version_info < PYTHON_MIN:
        return fail("python", found, "install Python 3.11 or newer")
    return ok("python", found)


def libraries(of: str = "headrace") -> Iterator[Finding]:
    """Look at what *of* needs, and at what its extras need, as far as it is there."""
    try:
        requires = distribution(of).requires or []
    except PackageNotFoundError:
        yield warn("libraries", f"{of} is not installed, only imported", f"pip install {of}")
        return
    there: dict[str, list[str]] = {}
    missing: dict[str, list[str]] = {}
    for requirement in requires:
        found = _REQUIREMENT.match(requirement)
        if found is None or found["extra"] == "dev":
            continue
        extra = found["extra"] or ""
        try:
            has = version(found["name"])
        except PackageNotFoundError:
            missing.setdefault(extra, []).append(found["name"])
            continue
        there.setdefault(extra, []).append(f"{found['name']} {has}")
        yield from _fitting(found["name"], has, found["bounds"])
    if "" in missing:
        names = ", ".join(missing.pop(""))
        yield fail("libraries", f"missing: {names}", f"pip install {of}")
    else:
        yield ok("libraries", ", ".join(there.get("", ["none are needed"])))
    installed = [extra for extra in there if extra and extra not in missing]
    yield ok(
        "extras",
        f"{', '.join(sorted(installed)) or 'none'}; not there: "
        f"{', '.join(sorted(missing)) or 'none'}",
    )


def _fitting(name: str, has: str, bounds: str) -> Iterator[Finding]:
    """Look whether the version that is there is within *bounds*, such as ``<0.15,>=0.12``."""
    least, before = _LEAST.search(bounds), _BEFORE.search(bounds)
    if least is not None and _numbers(has) < _numbers(least[1]):
        mend = f"pip install --upgrade {name}" if before is None else _exactly(name, before[1])
        yield warn("libraries", f"expected {name} {least[1]} or newer, found {has}", mend)
    if before is not None and _numbers(has) >= _numbers(before[1]):
        text = f"expected {name} before {before[1]}, found {has}"
        yield warn("libraries", text, _exactly(name, before[1]))


def _exactly(name: str, before: str) -> str:
    return f"pip install --upgrade '{name}<{before}'"


def _numbers(text: str) -> list[int]:
    """Return the numbers of a version, which is all that is compared; 2.1rc1 counts as 2.1."""
    found = re.match(r"\d+(?:\.\d+)*", text)
    return [int(part) for part in found[0].split(".")] if found else []


def connectors() -> Iterator[Finding]:
    """Look at the connectors that are installed, also by others."""
    from headrace.connectors.registry import listed

    rows = listed()
    for row in rows:
        if row.kind is None:
            yield warn("connectors", f"{row.type}: {row.error}", "until then it cannot be used")
    names = [row.type for row in rows if row.kind is not None]
    yield ok("connectors", ", ".join(names) or "none are installed")


def clocks() -> Iterator[Finding]:
    """Look whether the clock is set, whether it jumps, and whether time zones are known."""
    wall, steady = time.time_ns(), time.monotonic_ns()
    time.sleep(WATCHED_S)
    jumped_s = ((time.time_ns() - wall) - (time.monotonic_ns() - steady)) / 10**9
    if wall < YEAR_MIN_NS:
        year = time.gmtime(wall // 10**9).tm_year
        yield fail("clock", f"it is the year {year}", "set the clock, and let it be kept by NTP")
    elif abs(jumped_s) > JUMP_S_MAX:
        yield warn(
            "clock",
            f"it was put on or back by {jumped_s:+.3f} s within {WATCHED_S:g} s",
            "let it be kept by one NTP service that slews",
        )
    else:
        yield ok("clock", f"steady to {abs(jumped_s) * 1000:.3f} ms within {WATCHED_S:g} s")
    yield _zones()


def _zones() -> Finding:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        ZoneInfo(ZONE)
    except (ZoneInfoNotFoundError, OSError, ValueError):
        return warn(
            "time zones",
            f"none called {ZONE}, so schedules with tz= do not work",
            "pip install tzdata, or install the system's tzdata",
        )
    return ok("time zones", f"there, e.g. {ZONE}")


def open_files() -> Finding:
    """Look at how many files and connections may be open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES_MIN:
        return warn(
            "open files",
            f"at most {soft}",
            f"ulimit -n {OPEN_FILES_MIN if hard == resource.RLIM_INFINITY else hard}, or "
            f"LimitNOFILE= in a systemd unit",
        )
    return ok("open files", "no limit" if soft == resource.RLIM_INFINITY else f"at most {soft}")
