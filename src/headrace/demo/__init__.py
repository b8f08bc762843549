"""``headrace demo``: real readings through real rules and tasks, and a crash on the way.

`headrace.demo.plant` is the app, the same file as ``examples/plant.py``; the rest of this
package feeds it, reads the log that it leaves, and kills it.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["demo"]


def demo(log: Path | None, *, crash: bool, output: str) -> int:
    """Run the demo, print what it came to, and return the exit code.

    Without *crash* it runs undisturbed into *log* (or a new ``headrace-demo-N`` here), and
    then once more into a log that is thrown away, killed half-way.  With *crash* it is the
    run in *log* that is killed.  *output* is ``table``, ``json`` or ``jsonl``.
    """
    from headrace.demo.session import run_session

    return run_session(log, crash=crash, output=output)
