"""The comparison with other engines: what cannot be measured is named, and nothing else suffers."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def peers() -> Iterator[Any]:
    """The module `run_peers` of the scripts, which are no package."""
    before, known = list(sys.path), set(sys.modules)
    sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "peers")]
    yield importlib.import_module("run_peers")
    sys.path[:] = before
    for name in set(sys.modules) - known:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_each_peer_says_what_it_needs_and_keeps(peers: Any) -> None:
    """Its file is read where none of its libraries are; a table without what is kept is unfair."""
    names: list[str] = []
    for module in peers.PEERS.values():
        found = importlib.import_module(module)
        assert found.PACKAGES
        for name, way in found.WAYS.items():
            names.append(name)
            assert name[:4] in ("W1, ", "W2, ", "W3, ")
            assert way.keeps
            assert way.count > 0
    assert len(names) == len(set(names))


@pytest.mark.slow
def test_a_peer_that_fails_is_named_with_its_reason(
    peers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its libraries may be gone from the index tomorrow; the others are compared all the same."""
    monkeypatch.chdir(tmp_path)
    found = peers.Comparison()
    found.keeps["W1, reactivex"] = "nothing"
    found.take("W1, headrace, fsynced", lambda: {"": 100.0})
    found.take(
        "W1, reactivex",
        lambda: peers.go(Path(sys.executable), "with_reactivex", "W1, reactivex", 10),
    )

    assert "No module named 'reactivex'" in found.failed["W1, reactivex"]
    assert [line.name for line in found.lines()] == ["W1, headrace, fsynced"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_peer_that_cannot_be_installed_is_named(
    peers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No package, no network, no disk: it is a line under the table."""
    monkeypatch.setattr(peers, "VENVS", tmp_path)
    with pytest.raises(peers.PeerFailed, match="not installed: ERROR"):
        peers.installed("none", (str(tmp_path / "no-such-wheel-1.0-py3-none-any.whl"),))

    assert not (tmp_path / "none" / "packages").exists()


def test_headrace_is_compared_with_the_best_that_keeps_anything(peers: Any) -> None:
    """The bar is about engines that are durable in some way, not about queues in memory."""
    found = peers.Comparison()
    found.keeps |= {"W1, a": "nothing", "W1, b": "a file", "W1, c": "a file"}
    for name, rate in {
        "W1, headrace, fsynced": 3000.0,
        "W1, a": 9000.0,
        "W1, b": 90.0,
        "W1, c": 101.0,
    }.items():
        found.take(name, lambda rate=rate: {"": rate})
    *lines, verdict = found.lines()

    assert {line.name: line.reference_value for line in lines if "headrace" not in line.name} == {
        "W1, a": 3000.0, "W1, b": 3000.0, "W1, c": 3000.0,
    }  # fmt: skip
    assert verdict.reference == "W1, c"
    assert verdict.met is False
