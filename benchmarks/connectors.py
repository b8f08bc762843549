"""The sources of the network, each beside the bare client or server that it is made with.

Each protocol has a script of its own, which can be run by itself too.

    python benchmarks/connectors.py [--repeat 3] [--quick] [--only TEXT] [--json PATH]
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from typing import Final

from figures import Figure, Row, script

SCRIPTS: Final = ("connectors_jetstream", "connectors_mqtt", "connectors_webhook")


def take(options: argparse.Namespace) -> list[Figure]:
    """Measure what is asked for, one protocol after the other."""
    lines: list[Figure] = []
    names: list[str] = []
    for script_name in SCRIPTS:
        module = import_module(script_name)
        rows: list[Row] = module.ROWS
        names += [row.name for row in rows]
        if any(options.only in row.name for row in rows):
            lines += module.take(options)
    if not lines:
        sys.stderr.write(
            f"--only: expected a part of one of {', '.join(names)}; found {options.only!r}\n"
        )
        sys.exit(2)
    return lines


if __name__ == "__main__":
    script(__doc__, "connectors", take)
