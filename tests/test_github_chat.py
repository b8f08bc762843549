"""examples/github_chat.py: webhooks of GitHub become messages, each once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_webhooks_become_messages_by_one_command() -> None:
    """What comes twice is told once, and what somebody else has signed is not told."""
    done = subprocess.run(
        [sys.executable, "examples/github_chat.py"],
        check=False, cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    said = done.stdout.splitlines()
    repository = "Codertocat/Hello-World: Codertocat"

    assert done.returncode == 0, done.stderr
    assert said == [
        "issues: 202",
        "  chat is down",
        f"  {repository} opened issue 1: Spelling error in the README file",
        "pull_request: 202",
        f"  {repository} closed pull request 2: Update the README with new information.",
        "release: 202",
        f"  {repository} released 0.0.1",
        "push: 202",
        "issues: 202",
        "issues, signed by somebody else: 401",
    ]


def test_what_is_shipped_says_whose_it_is() -> None:
    """The webhooks are others' work: their licence comes with them."""
    notice = (ROOT / "examples" / "github_webhooks.NOTICE").read_text()

    assert "octokit/webhooks" in notice
    assert "MIT License" in notice
    assert "Copyright" in notice
