"""What `any_of`, `all_of`, `absent` and `silent` make of what their branches make."""

from __future__ import annotations

from typing import Any

from tests.reference.happened import Branches, Happened, Place, Stage, Step, ns, remembered
from tests.reference.spec import Absent, AllOf, Silent


def merged(branches: Branches) -> list[Happened]:
    """One event counts once for each key, even when several branches match."""
    made = []
    everything = [(number, x) for number, branch in branches.items() for x in branch]
    for place, key in dict.fromkeys((x.place, x.key) for _, x in everything):
        met = [(number, x) for number, x in everything if (x.place, x.key) == (place, key)]
        events = sorted({event for _, x in met for event in x.events})
        numbers = tuple(sorted({number for number, _ in met}))
        first = met[0][1]
        one = first.events if len(met) == 1 else tuple(events)
        made.append(first._replace(events=one, last=met[-1][1].last, branches=numbers))
    return made


def all_present(steps: list[Step], spec: AllOf, stage: Stage) -> list[Happened]:
    """All that came since the last firing and is younger than W, if each branch has some."""
    made: list[Happened] = []
    since = 0
    within = None if spec.within is None else ns(spec.within)
    for index, step in enumerate(steps):
        recent = [x for x in steps[since : index + 1] if within is None or step.at - x.at < within]
        stored = [
            [x.hits[number] for x in recent if number in x.hits]
            for number in range(len(spec.branches))
        ]
        if not all(stored):
            continue
        since = index + 1
        if spec.keep == "latest":
            stored = [hits[-1:] for hits in stored]
        elif spec.keep == "first":
            stored = [hits[:1] for hits in stored]
        named = [
            (f"s{number}", tuple(event for hit in hits for event in hit.events))
            for number, hits in enumerate(stored, 1)
        ]
        events = tuple(sorted({event for _, events in named for event in events}))
        completing = list(step.hits.values())[-1]
        made.append(
            completing._replace(events=events, branches=None, reason=None, steps=tuple(named))
        )
    return made


def absences(steps: list[Step], spec: Absent, stage: Stage) -> list[Happened]:
    """An `a` after which no `b` came; one event that is both disarms first."""
    made: list[Happened] = []
    armed: tuple[Happened, Place] | None = None
    following: list[Step | None] = [*steps, None]
    for step in following:
        if armed is not None and (step is None or armed[1] < step.place):
            hit, place = armed
            made.append(remembered(hit, place))
            armed = None
        if step is None:
            break
        if 0 in step.hits:
            armed = None
        if 1 in step.hits and (armed is None or spec.rearm == "restart"):
            armed = step.hits[1], stage.timer(step.at + ns(spec.within), step)
    return made


def silences(
    hits: list[Happened], key: Any, spec: Silent, stage: Stage, activation: Place | None
) -> list[Happened]:
    """Each hit re-arms; at the end of the wait, before anything else, the watchdog fires.

    *activation*: where the key, being expected, is armed before it is heard of.
    """
    made: list[Happened] = []
    wait = ns(spec.wait)
    arming = [(hit, stage.timer(hit.at + wait, hit)) for hit in hits]
    if activation is not None:
        nobody = Happened(activation[0], activation, key, (), None)
        due = activation[0] + wait
        arming.insert(0, (nobody, (due, 0, activation, stage.number, 0)))
    for number, (heard, first) in enumerate(arming):
        following = arming[number + 1][0].place if number + 1 < len(arming) else None
        place = first
        while place[0] <= stage.until and (following is None or place < following):
            made.append(remembered(heard, place))
            if spec.repeat == "once":
                break
            place = stage.next_timer(place[0] + wait, place)
    return made
