"""`FileLog`: an event log in a directory."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Final

from headrace.engine.clock import Clock, SystemClock
from headrace.engine.errors import DurabilityLost, LogClosed, LogError, LogFull, LogUnusable
from headrace.engine.log.background import Background
from headrace.engine.log.blobs import FileBlobs
from headrace.engine.log.catalog import Catalog
from headrace.engine.log.files import Files, SystemFiles
from headrace.engine.log.folder import prepare, refuse_network
from headrace.engine.log.frame import RECORD_BYTES_MAX
from headrace.engine.log.group import Group
from headrace.engine.log.live import LiveReading
from headrace.engine.log.lock import Lock
from headrace.engine.log.memory import check_sizes
from headrace.engine.log.protocol import Durability
from headrace.engine.log.recovery import Opened, Recovery, recover
from headrace.engine.log.retention import (
    Need,
    Policy,
    Retention,
    closed_log,
    extent_of,
    hold,
    release,
    retain,
)
from headrace.engine.log.snapshots import FileSnapshots
from headrace.engine.log.store import Store
from headrace.engine.log.writer import Writer

SEGMENT_BYTES_MAX: Final = 64 * 1024 * 1024
SEGMENT_AGE_MAX_S: Final = 3600.0
SYNC_INTERVAL_S: Final = 0.05
RESERVE_BYTES: Final = 1024 * 1024


def draw_id() -> bytes:
    """Return the id of a new log."""
    return os.urandom(16)


def _check_least(least: float, **limits: float) -> None:
    for name, value in limits.items():
        if not least <= value < float("inf"):
            raise ValueError(f"{name} must be at least {least} and finite, not {value}")


class FileLog:
    """An `EventLog` in a directory: segments of checksummed frames, written by one thread.

    *durability* is the level at which a record counts as committed:

    - ``fsynced``: it survives the end of the process and power loss.
    - ``flushed``: it survives the end of the process.  Power loss takes at most the last
      *sync_interval_s* seconds, always the newest records.
    - ``memory``: at once; a crash takes what the writer had not come to write.
    """

    _lock: Lock | None = None
    _store: Store | None = None
    _writer: Writer | None = None
    _live: LiveReading | None = None
    _background: Background | None = None

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Durability = "fsynced",
        sync_interval_s: float = SYNC_INTERVAL_S,
        segment_bytes_max: int = SEGMENT_BYTES_MAX,
        segment_age_max_s: float = SEGMENT_AGE_MAX_S,
        keep_bytes: int | None = None,
        keep_s: float | None = None,
        reserve_bytes: int = RESERVE_BYTES,
        compress: bool = False,
        strict: bool = False,
        allow_network_fs: bool = False,
        files: Files | None = None,
        clock: Clock | None = None,
        new_id: Callable[[], bytes] | None = None,
    ) -> None:
        """Name the log at *path*; nothing is touched before `open`.

        A segment ends at the first write after it has *segment_bytes_max* or is older than
        *segment_age_max_s*.  `retain` may remove what is beyond the newest segments that have
        *keep_bytes* together, or older than *keep_s*; without either everything is kept.

        With *compress* finished segments are replaced, in the background, by compressed ones.

        *strict* refuses a log whose last writer did not finish, instead of cutting the torn
        end.  *reserve_bytes* are kept aside and freed when the disk is full, so that the log can
        still be closed.  *allow_network_fs* trusts a file server's locks and syncs.  *files*,
        *clock* and *new_id* are for tests.
        """
        if durability not in ("memory", "flushed", "fsynced"):
            raise ValueError(f"durability must be memory, flushed or fsynced, not {durability!r}")
        _check_least(1, segment_bytes_max=segment_bytes_max)
        _check_least(0, segment_age_max_s=segment_age_max_s, sync_interval_s=sync_interval_s)
        self.path: str = os.path.abspath(path)  # noqa: PTH100  resolve() asks the disk
        self._durability: Durability = durability
        self._sync_interval_s = sync_interval_s
        self._segment_bytes_max = segment_bytes_max
        self._segment_age_max_s = segment_age_max_s
        self._policy = Policy(keep_bytes, keep_s)
        self._upkeep = threading.Lock()
        self._reserve_bytes = reserve_bytes
        self._compress = compress
        self._strict = strict
        self._allow_network_fs = allow_network_fs
        self._files = files or SystemFiles()
        self._clock = clock or SystemClock()
        self._new_id = new_id or draw_id
        self._pid, self._log_id = 0, b""
        self._next = 1
        self._appended_bytes = self._committed_bytes = self._written_bytes = 0
        self._records: list[bytes] = []
        self._ends: list[int] = []
        self._last_failure: LogError | None = None
        self.snapshots = FileSnapshots(self._files, self.path)
        """See `EventLog`."""
        self.blobs = FileBlobs(self._files, self.path)
        self.recovery: Recovery | None = None
        """What the last `open` found."""

    @property
    def folder(self) -> str | None:
        """Its directory, if that is on a disk of this machine and not a simulated one."""
        return self.path if isinstance(self._files, SystemFiles) else None

    def disk_room(self) -> tuple[int, int]:
        """See `EventLog`."""
        return self._files.room(self.path)

    @property
    def durability(self) -> Durability:
        """The level at which a record counts as committed."""
        return self._durability

    @property
    def log_id(self) -> bytes:
        """See `EventLog`.  Empty before the first `open`."""
        return self._log_id

    @property
    def next_sequence(self) -> int:
        """See `EventLog`."""
        return self._next

    @property
    def committed_sequence(self) -> int:
        """See `EventLog`."""
        if self._store is None:
            return 0
        if self._durability == "fsynced":
            return self._store.durable_sequence
        if self._durability == "flushed":
            return self._store.written_sequence
        return self._next - 1 - len(self._records)

    @property
    def durable_sequence(self) -> int:
        """See `EventLog`."""
        return self._store.durable_sequence if self._store is not None else 0

    @property
    def pending_bytes(self) -> int:
        """See `EventLog`.  At level ``memory`` too: what is not in the file yet."""
        if self._writer is not None:
            self._written_bytes = self._writer.written_bytes
        return self._appended_bytes - self._written_bytes

    @property
    def failure(self) -> LogError | None:
        """See `EventLog`."""
        return self._writer.failure if self._writer is not None else self._last_failure

    def open(self, notify: Callable[[], None]) -> None:
        """See `EventLog`.  Makes the directory if there is none."""
        files = self._files
        try:
            with contextlib.ExitStack() as undo:
                if not self._allow_network_fs:
                    refuse_network(files, self.path)
                prepare(files, self.path)
                lock = Lock(files, self.path)
                undo.callback(lock.release)
                opened = recover(
                    files,
                    self.path,
                    strict=self._strict,
                    now_ns=self._clock.wall_ns(),
                    new_id=self._new_id,
                    config={"durability": self._durability, **self._policy.limits()},
                )
                store = Store(
                    files,
                    self.path,
                    opened,
                    segment_bytes_max=self._segment_bytes_max,
                    segment_age_max_s=self._segment_age_max_s,
                    reserve_bytes=self._reserve_bytes,
                    clock=self._clock,
                )
                undo.pop_all()
        except OSError as error:
            raise LogUnusable(
                f"{self.path}: expected a directory that can be read and written, found: "
                f"{error}; check its owner and its mode, or choose another path"
            ) from error
        self._store = store
        self._take(lock, opened, store, notify)

    def _take(self, lock: Lock, opened: Opened, store: Store, notify: Callable[[], None]) -> None:
        self._lock = lock
        self._pid = os.getpid()
        self._log_id = opened.manifest.log_id
        self._last_failure = None
        self.recovery = opened.recovery
        if not opened.recovery.clean:
            self.blobs.remove_temporaries()
        store.reserve()
        self._begin(store, notify)
        if self._compress or len(store.manifest.segments) > 1:
            self._background = Background(
                self._files,
                self.path,
                store.catalog,
                compresses=self._compress,
                healthy=lambda: self.failure is None,
                clock=self._clock,
            )

    def _begin(self, store: Store, notify: Callable[[], None]) -> None:
        """Take records after the last one that *store* has written."""
        if self._live is not None:
            self._live.close()
        self._next = store.written_sequence + 1
        self._appended_bytes = self._committed_bytes = self._written_bytes = 0
        self._records, self._ends = [], []
        self._writer = Writer(
            store,
            durability=self._durability,
            sync_interval_s=self._sync_interval_s,
            clock=self._clock,
            notify=notify,
        )
        self._live = LiveReading(self._files, self.path, store, self._writer.queue)

    def append(self, unit: Sequence[bytes]) -> None:
        """See `EventLog`."""
        writer = self._writer
        if writer is None:
            raise self._closed()
        if writer.failure is not None:
            raise writer.failure
        count = len(unit)
        # The usual case, at the pace of hundreds of thousands per second.
        if count == 1 and (size_bytes := len(unit[0])) <= RECORD_BYTES_MAX:
            self._appended_bytes += size_bytes
        else:
            self._appended_bytes += check_sizes(unit)
        records = self._records
        records += unit
        self._ends.append(len(records))
        self._next += count

    def append_each(self, records: Sequence[bytes]) -> None:
        """See `EventLog`."""
        writer = self._writer
        if writer is None:
            raise self._closed()
        if writer.failure is not None:
            raise writer.failure
        if records:
            self._appended_bytes += check_sizes(records)
            before = len(self._records)
            self._records += records
            self._ends.extend(range(before + 1, len(self._records) + 1))
            self._next += len(records)

    def _closed(self) -> LogClosed:
        return LogClosed(f"{self.path}: expected an open log; open it first")

    def commit(self) -> None:
        """See `EventLog`."""
        writer = self._writer
        if writer is None:
            raise self._closed()
        records = self._records
        if not records:
            return
        self._check_ours()
        size_bytes = self._appended_bytes - self._committed_bytes
        self._committed_bytes = self._appended_bytes
        writer.submit(Group(self._next - len(records), records, self._ends, size_bytes))
        self._records, self._ends = [], []
        if self._durability == "memory":
            writer.notify()

    def sync(self, sequence: int) -> None:
        """See `EventLog`."""
        writer = self._writer
        if writer is None:
            raise self._closed()
        if self.durable_sequence < sequence:
            writer.sync(sequence)

    def _check_ours(self) -> None:
        if self._pid != os.getpid():
            raise LogClosed(
                f"{self.path}: expected to be in process {self._pid}, found {os.getpid()}: the "
                "log belongs to the process that opened it, not to a forked child"
            )

    def read(self, *, after: int = 0) -> Iterator[tuple[int, list[bytes]]]:
        """See `EventLog`.  Reads up to what is committed when the first batch is asked for."""
        if self._live is None:
            raise self._closed()
        yield from self._live.read(after=after, upto=self.committed_sequence)

    def fetch(self, sequences: Iterable[int]) -> dict[int, bytes]:
        """See `EventLog`."""
        if self._live is None:
            raise self._closed()
        return self._live.fetch(sequences, upto=self.committed_sequence)

    def retain(self, from_sequence: int) -> Retention:
        """Remove the oldest segments that *keep_bytes* and *keep_s* give up.

        Nothing goes that *from_sequence* or a later record belongs to, a hold, a reader's lease
        or a snapshot needs; whole segments go, and never the one that is being written.  Of a
        closed log too.  Blocks: for a worker thread, while the log goes on.

        Raises:
            LogUnusable: the disk failed; every record is still there.
            LogLocked: the log is not open here, and somebody else writes it.
            DurabilityLost: the log has failed for good.
        """
        with self._listing() as catalog:
            open_store = self._store if self._writer is not None else None
            active = open_store.active if open_store is not None else None
            return retain(
                self._files,
                self.path,
                catalog,
                self._policy,
                upto=[Need(from_sequence, "what the engine refers to")],
                extent=extent_of(self._files, self.path, catalog, active),
            )

    def hold(self, name: str, sequence: int) -> None:
        """Keep the records from *sequence* on, whatever the policy is, until `release`.

        It is durable when this returns.  A hold of the same *name* is replaced.

        Raises:
            SegmentGone: *sequence* has been removed already; nothing was changed.
            As `retain`.
        """
        with self._listing() as catalog:
            hold(catalog, self.path, name, sequence)

    def release(self, name: str) -> bool:
        """Give up the hold *name*; say whether there was one.

        Raises:
            As `retain`.
        """
        with self._listing() as catalog:
            return release(catalog, self.path, name)

    @contextlib.contextmanager
    def _listing(self) -> Generator[Catalog]:
        """Have the list of segments to change it: of this log, open or closed."""
        with self._upkeep:
            store, writer = self._store, self._writer
            if store is None or writer is None:
                with closed_log(self._files, self.path) as catalog:
                    yield catalog
                return
            self._check_ours()
            if isinstance(writer.failure, DurabilityLost):
                raise writer.failure
            yield store.catalog

    def resume(self) -> bool:
        """See `EventLog`.  It takes twice the reserve to go on: once kept, once to write to."""
        writer, store = self._writer, self._store
        if writer is None or store is None:
            raise self._closed()
        if writer.failure is None:
            return True
        if not isinstance(writer.failure, LogFull):
            raise writer.failure
        if not store.reserve(room=True):
            return False
        writer.stop()
        self._begin(store, writer.notify)
        return True

    def close(self) -> None:
        """See `EventLog`."""
        if self._pid != os.getpid():
            # A forked child: the files and the lock are the parent's.
            self._writer = self._lock = self._live = None
            return
        if self._background is not None:
            self._background.stop()
            self._background = None
        # Once the lock is given back, another writer's list of segments counts.
        with self._upkeep:
            self._close()

    def _close(self) -> None:
        store, writer, lock, live = self._store, self._writer, self._lock, self._live
        if store is None or writer is None or lock is None or live is None:
            return
        try:
            if writer.failure is None:
                self.commit()
            writer.stop()
            if not isinstance(writer.failure, DurabilityLost):
                store.finish()
        except DurabilityLost as error:
            writer.failure = error
        finally:
            self._last_failure = writer.failure
            self._written_bytes = writer.written_bytes
            self._writer = self._lock = self._live = None
            # What matters is synced, so that an error here means nothing any more.
            for give_back in (live.close, store.close, lock.release):
                with contextlib.suppress(OSError):
                    give_back()
        if self._last_failure is not None and self.durable_sequence < self._next - 1:
            raise self._last_failure
