"""Records Flink's answers to random cases in `flink_cases.jsonl.gz`, and reads them again.

    .venv/bin/python -m tests.oracle.record

Needs Java and, the first time, PyPI (see `flink.py`).  The cases are those of `cases.py` for one
fixed seed, in their order; the answers are those of Apache Flink CEP of the version that
`flink.py` names (1.20.5), run by Java 17.  Recorded again with the same version, the file is the
same to the byte.  Cases that show little are left out: more of one sort than its share (see
SHARES), those with more than MATCHES_MAX matches, and those on which Flink itself fails (it follows
an unbounded group that can be skipped for ever, and a negation that the start of a pattern can
reach makes it raise).

Each line is a case with "matches" and "timeouts", or with "refused".
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

from tests.oracle.cases import Case, cases
from tests.oracle.flink import VERSION, Answer, answers

CORPUS = Path(__file__).with_name("flink_cases.jsonl.gz")
SEED = 20_240_801
CASES = 4000
MATCHES_MAX = 60
BATCH = 1000
SHARES = {"refused": 0.06, "empty": 0.12, "timeouts": 0.12, "matches": 1.0}
"""Of each sort of answer, at most: "empty" has neither matches nor timeouts."""


def recorded() -> list[dict[str, Any]]:
    """The recorded cases with their answers."""
    with gzip.open(CORPUS, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def record() -> Counter[str]:
    """Write the corpus; returns how many cases of each sort are in it."""
    kept: list[Case] = []
    sorts: Counter[str] = Counter()
    drawn = cases(SEED)
    while len(kept) < CASES:
        batch = list(islice(drawn, BATCH))
        for case, answer in zip(batch, answers(batch), strict=True):
            sort = sort_of(answer)
            share = SHARES.get(sort, 0.0)
            if len(kept) < CASES and sorts[sort] < share * (len(kept) + 1):
                sorts[sort] += 1
                kept.append(case | answer)
    text = "".join(json.dumps(case, separators=(",", ":")) + "\n" for case in kept)
    # Neither a time nor a name, so that the same cases make the same file.
    CORPUS.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))
    return sorts


def sort_of(answer: Answer) -> str:
    """What SHARES calls it; what has no share is not recorded."""
    if "matches" not in answer:
        return "failed" if "failed" in answer else "refused"
    if len(answer["matches"]) > MATCHES_MAX:
        return "too many"
    if answer["matches"]:
        return "matches"
    return "timeouts" if answer.get("timeouts") else "empty"


if __name__ == "__main__":
    found = record()
    print(f"Flink {VERSION}: {dict(found)}, {CORPUS.stat().st_size} bytes")
