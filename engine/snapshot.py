"""`Snapshot`: the kernel's state at one sequence, written out piecemeal and loaded again.

Only ever a shortcut: what it holds is what a fold of the log up to its sequence gives, so a
start that loads it has to fold only what came after.

A snapshot is a list of parts, each a msgpack array ``[name, rule, stage, entries]``.  The
first is named ``header``.  Rules' state is loaded only where the rule is still the one that
it was written for (law L8).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from headrace.engine.errors import SnapshotUnusable
from headrace.engine.kernel import Kernel
from headrace.engine.record import RulesListed, thaw
from headrace.engine.rule_state import RuleStats
from headrace.engine.runs import RunView
from headrace.engine.state import EngineState
from headrace.engine.table import ENCODE, Writing

SCHEMA: Final = 1
"""Raised when the meaning of a part changes.  Fields may be appended without that."""


class Header(Struct):
    """What is small enough to be written in one go.  Fields are only ever appended."""

    schema: int
    sequence: int
    at_ns: int
    started_at_ns: int
    clock: str
    sources: list[str]
    cursors: dict[int, int]
    events: int
    rules: dict[str, str]
    automata: dict[str, int]
    """The rules whose state is in here, with how many of their events had no key."""
    stats: dict[str, RuleStats]
    timers_order: int
    ended: list[RunView]
    counts: dict[str, dict[str, int]]
    retries: int
    dedupe_window_ns: int
    dedupe_evicted: int
    owed: list[Any]
    offers: list[Any]
    """Offers are by sequence only; there are many for a moment after an import at most."""
    counters: dict[str, dict[str, int]] = {}
    """What each rule counted without recording it, where that is more than keyless events."""
    paused: list[str] = []
    history: str = ""
    history_from: int = 0
    lifecycle_stored: int = 0
    listed: RulesListed | None = None
    breakers: list[Any] | None = None
    crashes: list[int] | None = None
    versions: dict[str, str] = {}
    seen_from: dict[str, int] = {}


class Snapshot:
    """The state of a kernel at `sequence`, while it is written out.

    The kernel may go on; call `step` until it returns ``None``, then `settle` until it says
    that all is done.  Only then can the next snapshot begin.
    """

    def __init__(self, kernel: Kernel) -> None:
        """Begin, with the kernel between two units.

        Raises:
            SnapshotUnusable: the log has records of kinds that are not understood here.
        """
        if kernel.unknown:
            raise SnapshotUnusable(
                f"expected only known records, found {kernel.unknown} of a newer headrace; "
                "a snapshot without them would hide them from it"
            )
        state = kernel.state
        self.sequence = kernel.sequence
        self.entries = 0
        """Entries written so far."""
        self._oldest = state.offers.oldest or kernel.sequence + 1
        automata, stages = state.decider.write_out()
        self._writings: list[tuple[str, str, int, Writing]] = [
            ("timers", "", 0, state.timers.write_out()),
            ("runs", "", 0, state.runs.write_out()),
            ("dedupe", "", 0, state.dedupe.write_out()),
            ("alarms", "", 0, state.alarms.write_out()),
            ("launches", "", 0, state.launches.write_out()),
            ("dead", "", 0, state.dead.write_out()),
            *(("automata", rule, stage, part) for (rule, stage), part in stages.items()),
        ]
        self._header: bytes | None = ENCODE(["header", "", 0, [_header(kernel, automata)]])
        self._left = iter(self._writings)
        self._present = next(self._left, None)
        self._settling = iter(self._writings)
        self._to_settle = next(self._settling, None)

    @property
    def oldest_sequence(self) -> int:
        """The oldest record that this state refers to, or that which comes after it.

        To be asked after the last step.
        """
        return min(self._oldest, *(part.oldest or self._oldest for *_, part in self._writings))

    def step(self, count: int) -> bytes | None:
        """Return the next part, with at most *count* entries; ``None``: that was all."""
        if self._header is not None:
            header, self._header = self._header, None
            return header
        while self._present is not None:
            name, rule, stage, writing = self._present
            entries = writing.step(count)
            if entries:
                self.entries += len(entries)
                return ENCODE([name, rule, stage, entries])
            self._present = next(self._left, None)
        return None

    def give_up(self) -> None:
        """Write no more of it; it still has to settle."""
        self._present, self._header = None, None
        for *_, writing in self._writings:
            writing.stop()

    def settle(self, count: int) -> bool:
        """Tidy up about *count* entries after the last step; say whether all is done."""
        assert self._present is None, "first all steps"
        if self._to_settle is not None and self._to_settle[3].settle(count):
            self._to_settle = next(self._settling, None)
        return self._to_settle is None

    def parts(self, count: int = 1000) -> Iterator[bytes]:
        """Yield all parts and settle, for a kernel that nobody else uses meanwhile."""
        while (part := self.step(count)) is not None:
            yield part
        while not self.settle(count):
            pass


def check_rules(kernel: Kernel) -> None:
    """Check that *kernel* has the state of all rules that are in force in its log.

    A snapshot without it is of no use to the app that has them, and older ones make way for it.

    Raises:
        SnapshotUnusable: it has not.
    """
    state = kernel.state
    unlike = sorted(state.rules.keys() - state.active)
    if unlike:
        raise SnapshotUnusable(
            f"expected the rules that the log was last run with, found {unlike[0]!r} changed, "
            "removed or diverged, and so without its state; run the app once, which records "
            "that, or name the app that the log was run with"
        )


def _header(kernel: Kernel, automata: dict[str, dict[str, int]]) -> Header:
    state = kernel.state
    return Header(
        schema=SCHEMA,
        sequence=kernel.sequence,
        at_ns=state.at_ns,
        started_at_ns=state.started_at_ns,
        clock=state.clock,
        sources=state.sources,
        cursors=state.cursors,
        events=state.events,
        rules=state.rules,
        automata={rule: counters.get("unkeyed", 0) for rule, counters in automata.items()},
        stats=state.stats,
        timers_order=state.timers.order,
        ended=list(state.runs.ended),
        counts=state.runs.counts,
        retries=state.runs.retries,
        dedupe_window_ns=state.dedupe.window_ns,
        dedupe_evicted=state.dedupe.evicted,
        owed=state.lifecycle.dump(),
        offers=state.offers.dump(),
        counters={rule: counters for rule, counters in automata.items() if counters},
        paused=sorted(state.paused),
        history=state.history,
        history_from=state.history_from,
        lifecycle_stored=state.lifecycle.stored,
        listed=state.listed if state.listed.rules else None,
        breakers=state.breakers.dump(),
        crashes=state.crashes.dump(),
        versions=state.runs.versions,
        seen_from=state.seen_from,
    )


_UNREADABLE: Final = (
    msgspec.MsgspecError,
    UnicodeDecodeError,
    RecursionError,
    # Of parts that decode and are not what they should be: entries are plain data.
    TypeError,
    ValueError,
    LookupError,
)
_decode_part = msgspec.msgpack.Decoder(tuple[str, str, int, Raw]).decode
_decode_header = msgspec.msgpack.Decoder(tuple[Header]).decode
_decode_entries = msgspec.msgpack.Decoder(list[Any]).decode
_decode_raws = msgspec.msgpack.Decoder(list[Raw]).decode


def load(kernel: Kernel, parts: Iterable[bytes]) -> None:
    """Bring a new *kernel* to the state that *parts* hold.

    Raises:
        SnapshotUnusable: they lack the state of a rule as it is declared now, or are no
            snapshot.  The kernel is of no use any more.
    """
    header: Header | None = None
    try:
        for data in parts:
            name, rule, stage, entries = _decode_part(data)
            if header is None:
                (header,) = _decode_header(entries)
                _load_header(kernel, header)
            else:
                _load_entries(kernel.state, name, rule, stage, entries)
        if header is not None:
            kernel.state.runs.loaded()
            kernel.state.timers.loaded(header.timers_order)
            kernel.state.lifecycle.load(header.owed)
            kernel.state.offers.load(header.offers)
    except _UNREADABLE as error:
        raise SnapshotUnusable(
            f"expected a part of a snapshot, found {type(error).__name__}: {error}"
        ) from error
    if header is None:
        raise SnapshotUnusable("expected a header, found nothing")


def _load_header(kernel: Kernel, header: Header) -> None:
    if header.schema > SCHEMA:
        raise SnapshotUnusable(
            f"expected schema {SCHEMA} or lower, found {header.schema}: it was written by a newer "
            "headrace"
        )
    state = kernel.state
    for rule, fingerprint in header.rules.items():
        if state.declared.get(rule) == fingerprint and rule not in header.automata:
            raise SnapshotUnusable(
                f"expected the state of rule {rule!r}, found none: it was made with another "
                "version of the rule"
            )
    kernel.sequence = header.sequence
    state.at_ns = header.at_ns
    state.started_at_ns = header.started_at_ns
    state.decider.note_start(header.started_at_ns)
    state.clock = header.clock
    state.sources.extend(header.sources)
    state.cursors.update(header.cursors)
    state.events = header.events
    state.rules = header.rules
    state.stats = header.stats
    state.paused.update(header.paused)
    state.seen_from.update(header.seen_from)
    state.history = header.history
    state.history_from = header.history_from
    state.lifecycle.stored = header.lifecycle_stored
    if header.listed is not None:
        state.listed = header.listed
    if header.breakers is not None:
        state.breakers.load(header.breakers)
    if header.crashes is not None:
        state.crashes.load(header.crashes)
    runs = state.runs
    for view in header.ended:
        runs.ended.append(msgspec.structs.replace(view, key=thaw(view.key)))
    runs.counts = header.counts
    runs.retries = header.retries
    runs.versions = header.versions
    state.dedupe.window_ns = header.dedupe_window_ns
    state.dedupe.evicted = header.dedupe_evicted
    for rule, unkeyed in header.automata.items():
        if state.declared.get(rule) == header.rules[rule]:
            state.active.add(rule)
            of_before = {"unkeyed": unkeyed} if unkeyed else {}
            state.decider.resume(rule, header.counters.get(rule, of_before))


def _load_entries(state: EngineState, name: str, rule: str, stage: int, entries: Raw) -> None:
    if name == "runs":
        state.runs.load(_decode_raws(entries))
    elif name == "timers":
        timers = _decode_entries(entries)
        # A rule that has changed begins without any.
        state.timers.load([t for t in timers if not t[0] or t[0] in state.active])
    elif name == "dedupe":
        state.dedupe.load(_decode_entries(entries))
    elif name == "alarms":
        # Of all rules, also for who has none: the start that changes one ends its alarms.
        state.alarms.load(_decode_entries(entries))
    elif name == "launches":
        state.launches.load(_decode_raws(entries))
    elif name == "dead":
        state.dead.load(_decode_raws(entries))
    elif name == "automata":
        if rule in state.active:
            state.decider.load(rule, stage, _decode_entries(entries))
    else:
        raise SnapshotUnusable(f"expected a part of a known name, found {name!r}")
