"""``headrace rules reload``: let a running engine read its rules files again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headrace.cli.apps import unusable
from headrace.cli.errors import OK
from headrace.cli.logs import check_there
from headrace.cli.output import Output, facts, some_of, write_document

TIMEOUT_S = 3600.0
"""Rules that do not begin empty see the whole log first."""


def reload(log: Path, output: Output) -> int:
    """Have the rules files of the engine over *log* read again, and print what has changed.

    Raises:
        EngineUnreachable: none runs, or it does not answer.
        CommandRefused: its app has no rules file.
        Usage: something is wrong in one; its rules are as they were.
    """
    from headrace.engine.control_client import ControlClient
    from headrace.engine.errors import EngineUnreachable

    check_there(log)
    try:
        client = ControlClient(log, timeout_s=TIMEOUT_S)
    except EngineUnreachable as unreachable:
        raise EngineUnreachable(
            f"no engine answers, and the next start reads the rules by itself: {unreachable}"
        ) from unreachable
    with client:
        files: list[dict[str, Any]] = client.ask("reload")["files"]
    document = {"log": str(log), "files": files}
    write_document(document, output, lambda: "\n\n".join(map(_text, files)))
    if any(file["problems"] for file in files):
        raise unusable(
            ", ".join(file["path"] for file in files if file["problems"]),
            [line for file in files for line in file["problems"]],
            count=sum(file["counts"]["problems"] for file in files),
            what_to_do="correct them; what is in force stays",
        )
    return OK


def _text(file: dict[str, Any]) -> str:
    counts: dict[str, int] = file["counts"]
    if counts["problems"]:
        return facts([("file", file["path"]), ("problems", counts["problems"])])
    changed = [
        (kind.replace("_", " "), some_of(file[kind], counts[kind]))
        for kind in ("added", "changed", "other_action", "removed")
        if counts[kind]
    ]
    unchanged = counts["same"] - counts["other_action"]
    return facts([("file", file["path"]), *changed, ("unchanged", unchanged)])
