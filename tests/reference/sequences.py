"""What a plain `sequence` makes of one key's history: no loops, groups, optional steps.

Every start has one fate, which is looked up in the whole history: the first later event that
matches takes the next step.  Only then do firings let other starts fall.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from tests.reference.happened import Happened, Place, Seen, Stage, Step, Unsettled, ns
from tests.reference.spec import Part, Sequence


class Entry(NamedTuple):
    """One event or timer of a key's history."""

    step: Step
    """By the number of the part."""
    is_input: bool
    """Whether it is in the input stream: what strict contiguity asks about."""


class Fate(NamedTuple):
    """What becomes of one start."""

    start: int
    """Index of the entry at which it began."""
    taken: tuple[int, ...]
    """Indices of the entries that took its steps."""
    end: Literal["complete", "timeout", "never"]
    place: Place = ()
    """Of the end, if there is one."""


class History:
    """One key's history and the sequence that is looked for in it."""

    def __init__(
        self, entries: list[Entry], spec: Sequence, stage: Stage, timeline_seen: list[Seen]
    ) -> None:
        self.entries = entries
        self.spec = spec
        self.stage = stage
        self.seen = timeline_seen
        self.within = None if spec.within is None else ns(spec.within)
        self.steps = [number for number, part in enumerate(spec.parts) if not part.is_not]

    def name(self, number: int) -> str:
        return self.spec.parts[number].name or f"s{number + 1}"

    def matches(self, index: int, number: int, taken: tuple[int, ...]) -> bool:
        """Whether an entry meets a part, after the steps that were taken."""
        part, hit = self.spec.parts[number], self.entries[index].step.hits.get(number)
        if hit is None:
            return False
        if part.condition is None:
            return True
        match = {name: [self.seen[event] for event in events] for name, events in self.named(taken)}
        return part.condition(self.stage.show(hit), match)

    def named(self, taken: tuple[int, ...]) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Return the events that the steps have taken."""
        return tuple(
            (self.name(number), self.entries[index].step.hits[number].events)
            for number, index in zip(self.steps, taken, strict=False)
        )

    def nots_after(self, number: int) -> list[int]:
        """Return the negations that follow part *number*."""
        following = []
        for later in range(number + 1, len(self.spec.parts)):
            if not self.spec.parts[later].is_not:
                break
            following.append(later)
        return following

    def is_next(self, index: int, before: int) -> bool:
        """Whether *index* is the very next of the input stream after *before*."""
        return not any(entry.is_input for entry in self.entries[before + 1 : index])

    def kills(self, index: int, part: Part, number: int, taken: tuple[int, ...]) -> bool:
        """Whether a negation forbids the entry."""
        if part.contiguity == "strict" and not self.is_next(index, taken[-1]):
            return False
        return self.matches(index, number, taken)

    # ------------------------------------------------------------ one start

    def fate(self, start: int) -> Fate:
        """Follow one start through the history."""
        begun = self.entries[start].step
        due = None if self.within is None else begun.at + self.within
        expiry = () if due is None else self.stage.timer(due, self.first_at(begun.at))
        taken: tuple[int, ...] = (start,)
        for number in self.steps[1:]:
            found = self.taker(number, taken, due)
            if found == "dead":
                return Fate(start, taken, "never")
            if found == "none":
                return Fate(start, taken, "never" if due is None else "timeout", expiry)
            taken = (*taken, found)
        trailing = self.nots_after(self.steps[-1])
        if not trailing:
            return Fate(start, taken, "complete", self.entries[taken[-1]].step.place)
        assert due is not None, "a negation at the end needs a time at which it is over"
        for index in self.within_reach(taken[-1], due):
            if any(self.kills(index, self.spec.parts[n], n, taken) for n in trailing):
                return Fate(start, taken, "never")
        return Fate(start, taken, "complete", expiry)

    def first_at(self, at: int) -> Step:
        """Return what armed the expiry of all that started at one time: they share a timer."""
        return next(
            entry.step
            for index, entry in enumerate(self.entries)
            if entry.step.at == at and self.matches(index, self.steps[0], ())
        )

    def within_reach(self, after: int, due: int | None) -> list[int]:
        """Return the entries after one of them, and before the time is over."""
        later = range(after + 1, len(self.entries))
        return [index for index in later if due is None or self.entries[index].step.at < due]

    def taker(
        self, number: int, taken: tuple[int, ...], due: int | None
    ) -> int | Literal["dead", "none"]:
        """Return the entry that takes step *number*, if the partial does not die before."""
        nots = self.nots_after(self.steps[len(taken) - 1])
        for index in self.within_reach(taken[-1], due):
            takes = self.matches(index, number, taken)
            killed = any(self.kills(index, self.spec.parts[n], n, taken) for n in nots)
            if takes and killed:
                raise Unsettled("one event is both the next step and what must not be there")
            if killed:
                return "dead"
            if takes:
                return index
            if self.spec.contiguity == "strict" and self.entries[index].is_input:
                return "dead"
        return "none"

    # ------------------------------------------------------------ all of them

    def firings(self) -> list[Happened]:
        """What the starts come to, and which of them fall because another has fired."""
        count = len(self.entries)
        starts = [index for index in range(count) if self.matches(index, self.steps[0], ())]
        fates = [self.fate(start) for start in starts]
        if self.spec.anchor == "last":
            fates = [fate for fate in fates if not self.is_replaced(fate, starts)]
        # What a timer ends, it ends at once: matches first, then those that ran out of time.
        ended = sorted(
            (fate for fate in fates if fate.end != "never"),
            key=lambda fate: (fate.place, fate.end == "timeout", fate.start),
        )
        gone: dict[int, int] = {}
        made: list[Happened] = []
        for fate in ended:
            dropped_at = gone.get(fate.start)
            if dropped_at is not None and (fate.end == "complete" or dropped_at < fate.place[0]):
                continue
            if fate.end == "complete":
                made.append(self.fired(fate, None))
                if self.spec.anchor != "every":
                    dropped = [start for start in starts if start <= fate.taken[-1]]
                    gone = {**dict.fromkeys(dropped, fate.place[0]), **gone}
            elif self.spec.on_timeout:
                made.append(self.fired(fate, "timeout"))
        return made

    def is_replaced(self, fate: Fate, starts: list[int]) -> bool:
        """Whether a new start came while this one had no more than its start."""
        for other in starts:
            had_only_its_start = len(fate.taken) == 1 or other < fate.taken[1]
            had_ended = fate.place != () and fate.place[0] <= self.entries[other].step.at
            if other > fate.start and had_only_its_start and not had_ended:
                return True
        return False

    def fired(self, fate: Fate, reason: str | None) -> Happened:
        """Return the firing of one match."""
        steps = self.named(fate.taken)
        events = tuple(sorted({event for _, events in steps for event in events}))
        last = self.entries[fate.taken[-1]].step.hits[self.steps[len(fate.taken) - 1]]
        return Happened(
            fate.place[0],
            fate.place,
            last.key,
            events,
            last.last,
            reason=reason,
            steps=steps,
            value=last.value,
        )
