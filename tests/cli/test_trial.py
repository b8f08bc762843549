"""What a hostile user did to the command line, and what has to come of it."""

from __future__ import annotations

from pathlib import Path

from tests.cli.command import Call

LIMITED = """
from headrace import App, on

LIMIT = 90
app = App("limited")


@app.rule(on("plant.>").where(lambda e: e.data["degrees"] > LIMIT))
async def hot() -> None: ...
"""


def test_log_verify_does_not_promise_to_cut_what_was_acknowledged(
    headrace: Call, log: Path
) -> None:
    """Of damage to stored records it says how to save the rest, not that a start cuts it."""
    (segment,) = log.glob("*.hrl")
    raw = bytearray(segment.read_bytes())
    raw[len(raw) // 2] ^= 0x40
    segment.write_bytes(raw)

    done = headrace("log", "verify", log)

    assert done.code == 6
    assert "since they were acknowledged" in done.out
    assert "salvage" in done.out
    assert "the next start cuts them" not in done.out


def test_log_cat_numbers_each_record_by_its_own_place(
    headrace: Call, readings: Path, tmp_path: Path
) -> None:
    """A record that names another one's sequence is not shown under that one's number."""
    app = tmp_path / "limited.py"
    app.write_text(LIMITED)
    call = ("run", "limited.py", "--log", "limited.log", "--from", readings, "--clock", "input")
    assert headrace(*call).code == 0
    app.write_text(LIMITED.replace("90", "96.5"))
    assert headrace(*call).code == 0

    rows = headrace("log", "cat", "limited.log", "-o", "jsonl").jsonl

    assert [row["sequence"] for row in rows] == list(range(1, len(rows) + 1))
    (diverged,) = [row for row in rows if row["kind"] == "rule.diverged"]
    assert rows[diverged["differs_at"] - 1]["kind"] == "rule.fired"
