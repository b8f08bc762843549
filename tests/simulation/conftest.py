"""Fixtures of the simulations."""

from __future__ import annotations

import pytest
from tests.simulation.unthreaded import NoBackground

from headrace.engine.log import file


@pytest.fixture(autouse=True)
def nothing_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start no background of a log: it would look for work after five seconds.

    No simulated life is that long, and there are tens of thousands of them: the threads alone
    took a quarter of the time.
    """
    monkeypatch.setattr(file, "Background", NoBackground)
