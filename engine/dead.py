"""`DeadLetters`: the runs that were given up, as they were, so that they can be redriven.

Part of the kernel's state, so it changes by records only.  The newest are kept; the log has
them all.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from headrace.engine.fresh import is_unread
from headrace.engine.listing import ListWriting
from headrace.engine.run_state import RunState
from headrace.engine.run_writing import packed_run, unpacked_run
from headrace.engine.runs import RunView, view_of
from headrace.engine.table import ENCODE
from headrace.engine.waiting import give_back

DEAD_MAX: Final = 10_000
"""Dead letters that are kept: those that died last."""
DEAD_BYTES_MAX: Final = 64 * 1024 * 1024
"""Bytes of them together, as a snapshot has them; the last is kept however large it is."""


class DeadLetter(Struct, frozen=True):
    """A run that was given up."""

    run: RunState
    """What a redrive begins with: without the steps that it executes again."""
    ended_at_ns: int
    size_bytes: int
    """Of the run, as a snapshot has it: with all that it was given, received and did."""


class DeadLetters:
    """Runs that were given up, by id, in the order in which they were."""

    def __init__(self) -> None:
        self._letters: dict[int, DeadLetter] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._letters)

    def find(self, run_id: int) -> RunState | None:
        """Return a run that was given up, not to be changed; or ``None``."""
        letter = self._letters.get(run_id)
        return None if letter is None else letter.run

    def to_redrive(self, run_id: int) -> RunState | None:
        """As `find`, but for one that is unread: the log has what made it, if anything does."""
        run = self.find(run_id)
        return None if run is None or is_unread(run) else run

    def keep(self, run: RunState, forget: list[int] | None, *, at_ns: int) -> None:
        """Keep *run*, which nobody changes from now on, but for the steps to *forget*.

        ``None``: it is not known which; all that are not done.
        """
        if forget is None:
            forget = [n for n, step in run.steps.items() if step.status != "done"]
        gone = set(forget)
        steps = {n: step for n, step in run.steps.items() if n not in gone}
        give_back(run, (step for n, step in run.steps.items() if n in gone))
        run = msgspec.structs.replace(run, status="dead", steps=steps)
        self._store(DeadLetter(run, at_ns, _size_bytes(packed_run(run))))
        while (count := len(self._letters)) > DEAD_MAX or (
            self._bytes > DEAD_BYTES_MAX and count > 1
        ):
            self._remove(next(iter(self._letters)))

    def _store(self, letter: DeadLetter) -> None:
        self._letters[letter.run.id] = letter
        self._bytes += letter.size_bytes

    def _remove(self, run_id: int) -> DeadLetter | None:
        letter = self._letters.pop(run_id, None)
        self._bytes -= 0 if letter is None else letter.size_bytes
        return letter

    def take(self, run_id: int) -> RunState | None:
        """Return a run that was given up, to go on; it is no dead letter any more."""
        letter = self._remove(run_id)
        if letter is None or is_unread(letter.run):
            return None
        # A copy: the old one may be about to be written to a snapshot.
        steps = {n: msgspec.structs.replace(step) for n, step in letter.run.steps.items()}
        signals = {name: [*queue] for name, queue in (letter.run.signals or {}).items()} or None
        patches = dict(letter.run.patches)
        return msgspec.structs.replace(letter.run, steps=steps, signals=signals, patches=patches)

    def views(self) -> list[RunView]:
        """Return them as people see them, those that died last at the end."""
        return [
            view_of(letter.run, ended_at_ns=letter.ended_at_ns) for letter in self._letters.values()
        ]

    def runs(self) -> list[RunState]:
        """Return all, not to be changed."""
        return [letter.run for letter in self._letters.values()]

    def blobs(self) -> set[bytes]:
        """Return the digests of the results of steps that are in files of their own."""
        return {
            step.blob
            for letter in self._letters.values()
            for step in letter.run.steps.values()
            if step.blob is not None
        }

    def dump(self) -> list[Any]:
        """Return the whole state as data that msgspec encodes."""
        return [
            [letter.ended_at_ns, bytes(packed_run(letter.run))] for letter in self._letters.values()
        ]

    def write_out(self) -> ListWriting[DeadLetter]:
        """Begin to write all out.  They do not keep the log from being removed."""
        return ListWriting(
            self._letters.values(),
            lambda letter: Raw(ENCODE([letter.ended_at_ns, packed_run(letter.run)])),
        )

    def load(self, entries: list[Raw]) -> None:
        """Take in what was written out."""
        for raw in entries:
            ended_at_ns, packed = _decode(raw)
            self._store(DeadLetter(unpacked_run(packed), ended_at_ns, _size_bytes(packed)))


def _size_bytes(packed: Raw) -> int:
    return memoryview(packed).nbytes


_decode = msgspec.msgpack.Decoder(tuple[int, Raw]).decode
