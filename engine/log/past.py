"""Older snapshots that are kept for looking back, and for nothing else.

A start needs the two newest (`headrace.engine.log.snapshots`).  What would make way for them
is set aside here under another name, so that the state at any place of a long log is not far
from a snapshot.  No start uses these and they keep no records from being removed: they are
thinned out evenly, and go with their records.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Final

from headrace.engine.log import segment as segments
from headrace.engine.log.files import Files, opened

PREFIX: Final = "past-"
SUFFIX: Final = ".hrs"
PAST_MAX: Final = 16
"""How many are kept: with them no place is further from one than a sixteenth of the log or so."""
PAST_BYTES_MAX: Final = 256 * 1024 * 1024
"""Of all of them together; a state that is large has fewer."""


def past_name_of(sequence: int) -> str:
    """Return the name of the snapshot at *sequence* once it is set aside."""
    return f"{PREFIX}{sequence:020}{SUFFIX}"


def past_in(names: Iterable[str]) -> list[int]:
    """Return the sequences of those among *names*, newest first."""
    found: list[int] = []
    for name in names:
        digits = name.removeprefix(PREFIX).removesuffix(SUFFIX)
        if digits.isascii() and digits.isdigit() and name == past_name_of(int(digits)):
            found.append(int(digits))
    return sorted(found, reverse=True)


def set_aside(files: Files, folder: str, name: str, sequence: int) -> None:
    """Keep the snapshot at *sequence*, of *name*, for looking back: a start needs it no more.

    Raises:
        OSError: the disk failed; it is there under the one name or the other.
    """
    files.rename(f"{folder}/{name}", f"{folder}/{past_name_of(sequence)}")
    names = files.listdir(folder)
    bases = [segments.base_of(name) or segments.packed_base_of(name) or 0 for name in names]
    first = min((base for base in bases if base), default=1)
    listed = past_in(names)
    kept = [one for one in listed if one >= first]
    sizes = {one: _size_bytes(files, f"{folder}/{past_name_of(one)}") for one in kept}
    while len(kept) > PAST_MAX or sum(sizes[one] for one in kept) > PAST_BYTES_MAX:
        kept.remove(_least_missed(kept))
    for one in listed:
        if one not in kept:
            files.unlink(f"{folder}/{past_name_of(one)}")


def _size_bytes(files: Files, path: str) -> int:
    with opened(files, path, os.O_RDONLY) as fd:
        return files.size(fd)


def _least_missed(kept: Sequence[int]) -> int:
    """Return which of *kept*, newest first, leaves the shortest way from the one before it.

    The newest stays, since the next one that is set aside is measured by it.
    """
    older = [*kept[1:], 0]
    newer = [kept[0], *kept]
    spans = {
        one: after - before
        for one, before, after in zip(kept, older, newer, strict=False)
        if one != kept[0]
    }
    return min(spans, key=lambda one: (spans[one], one), default=kept[0])
