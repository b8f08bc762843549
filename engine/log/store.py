"""The files of a log that is open for writing, and what is done when one of them fails."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Final

import msgspec

from headrace.engine.clock import Clock, seconds_to_ns
from headrace.engine.errors import DurabilityLost, LogFull
from headrace.engine.log import index_file
from headrace.engine.log.active import ActiveSegment
from headrace.engine.log.catalog import Catalog
from headrace.engine.log.files import NO_SPACE, Files, opened
from headrace.engine.log.frame import CLOSE
from headrace.engine.log.group import Group
from headrace.engine.log.head import HeadFile
from headrace.engine.log.manifest import Manifest, Segment
from headrace.engine.log.neighbours import next_segment
from headrace.engine.log.recovery import Opened
from headrace.engine.log.segment import Gap

RESERVE: Final = "RESERVE"


class Store:
    """The files of an open log, as its writer changes them.  One thread at a time."""

    def __init__(
        self,
        files: Files,
        folder: str,
        recovered: Opened,
        *,
        segment_bytes_max: int,
        segment_age_max_s: float | None = None,
        reserve_bytes: int,
        clock: Clock,
    ) -> None:
        """Go on with the log that recovery found."""
        self._files = files
        self._folder = folder
        self._segment_bytes_max = segment_bytes_max
        self._segment_age_max_ns = segment_age_max_s and seconds_to_ns(segment_age_max_s)
        self._reserve_bytes = reserve_bytes
        self._clock = clock
        self.catalog = Catalog(files, folder, recovered.manifest)
        self.active = recovered.active
        self.written_sequence = self.active.sequence - 1
        self.durable_sequence = self.written_sequence
        self._unindexed: ActiveSegment | None = None
        with contextlib.ExitStack() as undo:
            undo.callback(self.active.close)
            self._head = HeadFile(files, folder, recovered.manifest.log_id, recovered.generation)
            undo.callback(self._head.close)
            self._write_head()
            undo.pop_all()

    @property
    def manifest(self) -> Manifest:
        """The list of segments as it is on disk."""
        return self.catalog.manifest

    def _write_head(self) -> None:
        active = self.active
        self._head.write(
            next_sequence=active.sequence,
            base=active.base,
            offset=active.offset,
            chain=active.chain,
        )

    def write(self, groups: Sequence[Group]) -> None:
        """Write *groups* after the last record, all of them or none.

        Raises:
            LogFull: there is no room; nothing was written.
            DurabilityLost: it is not known what was written.
        """
        try:
            # A segment is named by its first record, so that one without any cannot be left.
            if self._is_full() and self.active.sequence > self.active.base:
                self._rotate()
            self.active.write_groups(groups, self.durable_sequence)
        except OSError as error:
            self._give_up(error)
        self.written_sequence = self.active.sequence - 1

    def _is_full(self) -> bool:
        active, age_max_ns = self.active, self._segment_age_max_ns
        # Sealed: it was full before, and the next one could not be made.
        if active.sealed or active.offset >= self._segment_bytes_max:
            return True
        return age_max_ns is not None and self._clock.wall_ns() - active.created_ns >= age_max_ns

    def write_gap(self, gap: Gap) -> None:
        """Note that the records of *gap* are missing; the next one comes after them.

        Raises:
            OSError: that failed.
        """
        self.active.write_gap(gap)
        self.written_sequence = self.active.sequence - 1

    def reserve(self, *, room: bool = False) -> bool:
        """Keep room aside for a clean end; say whether there is as much.

        With *room*, say so only if there is as much again: a log that goes on with nothing
        but its reserve would be full at once.
        """
        if not self._reserve_bytes:
            return True
        path = f"{self._folder}/{RESERVE}"
        try:
            with opened(self._files, path, os.O_WRONLY | os.O_CREAT) as fd:
                self._files.allocate(fd, self._reserve_bytes * (2 if room else 1))
                self._files.truncate(fd, self._reserve_bytes)
        except OSError:
            self._free_reserve()
            return False
        return True

    def _free_reserve(self) -> None:
        with contextlib.suppress(OSError):
            self._files.unlink(f"{self._folder}/{RESERVE}")

    def _give_up(self, error: OSError) -> None:
        where = self.active.path
        last = self.active.sequence - 1
        if error.errno in NO_SPACE:
            try:
                self.active.cut_back()
            except OSError as second:
                error = second
            else:
                self._free_reserve()
                # Or power loss could bring back what nobody was told is stored.
                self.sync()
                raise LogFull(
                    f"{where}: expected room for the next records, found none ({error.strerror}); "
                    f"nothing after record {last} was written; make room on the disk"
                ) from error
        raise DurabilityLost(
            f"{where}: expected to write after record {last}, found {error}; everything up to "
            f"record {self.durable_sequence} is safe; check the disk, then open the log again"
        ) from error

    def _rotate(self) -> None:
        """Finish the segment and begin the next one.  Can be repeated after an `OSError`."""
        self.sync()
        if not self.active.sealed:
            self.active.write_seal()
            self.active.sync()
            self._write_head()
        sealed = self.active.entry()
        following = next_segment(
            self._files,
            self._folder,
            self.manifest.log_id,
            self.active,
            now_ns=self._clock.wall_ns(),
        )
        with contextlib.ExitStack() as undo:
            undo.callback(following.close)
            # Listed before it is used: a segment that is listed and missing is a loss.
            self.catalog.change(lambda manifest: _grown(manifest, sealed, following.entry()))
            undo.pop_all()
        self._unindexed = self.active
        self.active.close()
        # In this order: who reads the log finds each segment in one of the two.
        self.active = following
        self._write_head()

    def write_index(self) -> None:
        """Write the fine index of a segment that was finished just now, if it can be done."""
        finished, self._unindexed = self._unindexed, None
        if finished is not None:
            with contextlib.suppress(OSError):
                index_file.store(
                    self._files,
                    self._folder,
                    finished.base,
                    finished.entry().digest,
                    finished.index,
                )

    def sync(self) -> None:
        """Make everything that was written durable.

        Raises:
            DurabilityLost: that failed, and must not be tried again.
        """
        try:
            self.active.sync()
            self.durable_sequence = self.written_sequence
            self._write_head()
        except OSError as error:
            raise DurabilityLost(
                f"{self.active.path}: expected to sync the records after "
                f"{self.durable_sequence}, found {error}; everything up to there is safe; check "
                "the disk, then open the log again"
            ) from error

    def finish(self) -> None:
        """Make everything durable and mark a clean end, if there is room for the mark.

        Raises:
            DurabilityLost: as `sync`.
        """
        self.sync()
        if self.active.last_kind == CLOSE or self.active.sealed:
            # Nothing may follow a SEAL: the new segment could not be made, for want of room.
            return
        try:
            self.active.write_close()
        except OSError as error:
            with contextlib.suppress(LogFull):
                self._give_up(error)
            return
        self.sync()
        with contextlib.suppress(OSError):
            self._head.sync()

    def close(self) -> None:
        """Give the files back.

        Raises:
            OSError: the system reported a late error of a write.
        """
        try:
            self._head.close()
        finally:
            self.active.close()


def _grown(manifest: Manifest, sealed: Segment, following: Segment) -> Manifest:
    """Return *manifest* with its last segment *sealed* and one more after it."""
    segments = [*manifest.segments[:-1], sealed, following]
    return msgspec.structs.replace(manifest, segments=segments)
