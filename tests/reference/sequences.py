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
    """What becomes of one start, if no other has a say in it."""

    start: int
    """Index of the entry at which it began."""
    taken: tuple[int, ...]
    """Indices of the entries that took its steps."""
    due: int | None
    """When its time is over."""
    end: Literal["complete", "dead", "time"]
    by: int | None = None
    """Index of the entry that ends it; none if time does, or nothing."""


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
        taken: tuple[int, ...] = (start,)
        for number in self.steps[1:]:
            index, is_taken = self.taker(number, taken, due)
            if index is None:
                return Fate(start, taken, due, "time")
            if not is_taken:
                return Fate(start, taken, due, "dead", index)
            taken = (*taken, index)
        trailing = self.nots_after(self.steps[-1])
        if not trailing:
            return Fate(start, taken, due, "complete", taken[-1])
        assert due is not None, "a negation at the end needs a time at which it is over"
        for index in self.within_reach(taken[-1], due):
            if any(self.kills(index, self.spec.parts[n], n, taken) for n in trailing):
                return Fate(start, taken, due, "dead", index)
        return Fate(start, taken, due, "complete")

    def within_reach(self, after: int, due: int | None) -> list[int]:
        """Return the entries after one of them, and before the time is over."""
        later = range(after + 1, len(self.entries))
        return [index for index in later if due is None or self.entries[index].step.at < due]

    def taker(
        self, number: int, taken: tuple[int, ...], due: int | None
    ) -> tuple[int | None, bool]:
        """Return the entry that takes step *number*, or kills the partial before."""
        nots = self.nots_after(self.steps[len(taken) - 1])
        for index in self.within_reach(taken[-1], due):
            takes = self.matches(index, number, taken)
            killed = any(self.kills(index, self.spec.parts[n], n, taken) for n in nots)
            if takes and killed:
                raise Unsettled("one event is both the next step and what must not be there")
            is_input = self.entries[index].is_input
            if takes or killed or (self.spec.contiguity == "strict" and is_input):
                return index, takes
        return None, False

    # ------------------------------------------------------------ all of them

    def firings(self) -> list[Happened]:
        """What the starts come to, where a firing lets others fall.

        One timer is set to the earliest end of those that are open, and anew when that changes.
        """
        made: list[Happened] = []
        partials: dict[int, Fate] = {}
        timer: Place = ()
        indices: list[int | None] = [*range(len(self.entries)), None]
        for index in indices:
            while timer and (index is None or timer < self.entries[index].step.place):
                over = [fate for fate in partials.values() if fate.due == timer[0]]
                made += self.ended(over, timer, partials)
                due = earliest(partials)
                timer = () if due is None else self.stage.next_timer(due, timer)
            if index is None:
                break
            step = self.entries[index].step
            if timer and timer[0] <= step.at:
                # A timer of the same moment that was armed earlier: what is over ends with it.
                over = [fate for fate in partials.values() if fate.due == timer[0]]
                made += self.ended(over, step.place, partials)
                timer = ()
            if self.matches(index, self.steps[0], ()):
                self.begin(index, partials)
            ending = [fate for fate in partials.values() if fate.by == index]
            made += self.ended(ending, step.place, partials)
            due = earliest(partials)
            if due is None:
                timer = ()
            elif not timer or due != timer[0]:
                timer = self.stage.timer(due, step)
        return made

    def begin(self, index: int, partials: dict[int, Fate]) -> None:
        """Let a start join the *partials*; it may replace those that have no more than theirs."""
        for start, fate in list(partials.items()):
            had_only_its_start = len(fate.taken) == 1 or index < fate.taken[1]
            is_over = fate.due is not None and fate.due <= self.entries[index].step.at
            if self.spec.anchor == "last" and had_only_its_start and not is_over:
                del partials[start]
        partials[index] = self.fate(index)

    def ended(self, ending: list[Fate], place: Place, partials: dict[int, Fate]) -> list[Happened]:
        """What ends at one place: matches first, then those that have run out of time."""
        made: list[Happened] = []
        for fate in sorted(ending, key=lambda fate: (fate.end != "complete", fate.start)):
            was_open = partials.pop(fate.start, None) is not None
            if fate.end == "complete" and was_open:
                made.append(self.fired(fate, place, None))
                for start, other in list(partials.items()):
                    has_run_out = (
                        other.end == "time" and other.due is not None and other.due <= place[0]
                    )
                    is_before = self.spec.anchor != "every" and start <= fate.taken[-1]
                    if is_before and not has_run_out:
                        del partials[start]
            elif fate.end == "time" and self.spec.on_timeout:
                made.append(self.fired(fate, place, "timeout"))
        return made

    def fired(self, fate: Fate, place: Place, reason: str | None) -> Happened:
        """Return the firing of one match."""
        steps = self.named(fate.taken)
        events = tuple(sorted({event for _, events in steps for event in events}))
        last = self.entries[fate.taken[-1]].step.hits[self.steps[len(fate.taken) - 1]]
        return Happened(
            place[0],
            place,
            last.key,
            events,
            last.last,
            reason=reason,
            steps=steps,
            value=last.value,
        )


def earliest(partials: dict[int, Fate]) -> int | None:
    """Return when the first of them runs out of time."""
    return min((fate.due for fate in partials.values() if fate.due is not None), default=None)
