"""Random cases for the oracle of `sequence`, drawn from a seeded generator.

They reach into every corner of the pattern language: each contiguity, loops of each kind, greedy
or not, optional, until, negations in the middle and at the end, groups with loops in them and
around them, conditions over earlier events, both windows, every skip strategy, ties in time.  The
events are drawn with the pattern in mind, so that most cases have a few matches.  Most patterns
are legal; a few break a rule on purpose.  `tests/oracle/flink.py` says what a case looks like.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

Case = dict[str, Any]
Step = dict[str, Any]

STEPS = (2, 4)
EVENTS = (4, 14)
SECOND = 1000
"""In milliseconds.  Times are whole seconds, so that ties and exact ends of windows are common."""

CARELESS = 0.04
"""How often a rule of the language is not asked, each time that there is one."""


def cases(seed: int) -> Iterator[Case]:
    """Endlessly many cases, the same for the same seed."""
    rng = random.Random(seed)
    while True:
        yield Drawing(rng).case()


class Drawing:
    """What one case is drawn with: its kinds of events, and the names given so far."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.kinds = "abcd"[: rng.randint(2, 4)]
        self.names: list[str] = []
        self.groups = 0
        self.windowed = self.often(0.45)
        self.conditions = self.often(0.35)

    def often(self, share: float) -> bool:
        """True in that share of all draws."""
        return self.rng.random() < share

    def case(self) -> Case:
        """Draw a pattern, and then events that suit it."""
        knotted = self.often(0.15)
        steps = self.knot() if knotted else self.chain(self.rng.randint(*STEPS), depth=0)
        within = self.rng.randint(2, 16) * SECOND if self.windowed else None
        gap = None
        if self.often(0.3 if knotted else 0.12):
            gap = self.rng.randint(1, 6) * SECOND
            if within is not None and gap > within and not self.often(CARELESS):
                gap = within
        if steps[-1].get("not") and within is None and gap is None and not self.often(CARELESS):
            within = self.rng.randint(2, 16) * SECOND
        pattern = {"steps": steps, "within": within, "within_gap": gap, "skip": self.skip(steps)}
        events = self.events(steps)
        until = None
        if self.often(0.75):
            until = events[-1]["t"] + self.rng.choice((0, 1, 3, 8, 20)) * SECOND
        return {"pattern": pattern, "events": events, "until": until}

    def skip(self, steps: list[Step]) -> Any:
        """Every strategy; names of steps within groups and of negations are rare."""
        kind = self.rng.choice(("none", "none", "to_next", "past_last", "to_first", "to_last"))
        if kind in {"none", "to_next", "past_last"}:
            return kind
        names = [step["name"] for step in steps if "group" not in step and not step["not"]]
        if not names or self.often(CARELESS):
            names = self.names
        return [kind, self.rng.choice(names)]

    def chain(self, length: int, depth: int) -> list[Step]:
        """Draw the steps of the pattern or of a group."""
        steps: list[Step] = []
        for place in range(length):
            before = steps[-1] if steps else None
            step = self.step(before, place, length, depth)
            if before is not None and "group" not in step and not step["not"] and self.often(0.12):
                # A loop's neighbour that takes the same events is where greed shows.
                step["cond"]["k"] = self.first_kinds(before)
            steps.append(step)
        return steps

    def knot(self) -> list[Step]:
        """Draw neighbours whose rules meet, which is too rare if left to chance."""
        self.conditions = self.conditions or self.often(0.6)
        first = self.plain(contiguity="relaxed")
        match self.rng.randrange(4):
            case 0:
                # What an optional step takes lifts the negation before it.
                optional = self.plain(
                    optional=True, times=self.rng.choice((None, [1, 2], [1, None]))
                )
                steps = [first, self.negation("relaxed"), optional, self.plain()]
            case 1:
                # A loop at the end of a group stands next to the negation behind the group.
                loop = self.plain(times=self.rng.choice(([1, 2], [1, None], [2, 3])))
                around: Step = {"name": "g1", "group": [first, loop], "optional": False}
                around = self.once() | around | {"times": self.rng.choice((None, None, [1, 2]))}
                del around["until"]
                steps = [around, self.negation("relaxed"), self.plain()]
            case 2:
                # A match may end before the negation, if that does not mind what was just taken.
                steps = [first, self.negation("strict"), self.plain(optional=True)]
            case _:
                # Greed forbids `optional` behind it, but not a loop that may be empty.
                first |= {"times": self.rng.choice(([1, 2], [1, None])), "greedy": True}
                steps = [first, self.plain(times=[0, self.rng.randint(1, 2)])]
                steps += [self.plain()] if self.often(0.3) else []
        return steps

    def plain(self, **fixed: Any) -> Step:
        """Draw a step of which something is given."""
        step: Step = {"name": self.name(), "cond": self.condition(), "not": False}
        return step | self.once() | fixed

    def step(self, before: Step | None, place: int, length: int, depth: int) -> Step:
        """Draw one step, a negation or a group, as the rules allow."""
        after_optional = before is not None and (
            before["optional"] or (before["times"] or [1])[0] == 0
        )
        may_be_not = (place > 0 and not after_optional) or self.often(CARELESS / 4)
        if may_be_not and self.often(0.2 if place < length - 1 or self.windowed else 0.05):
            return self.negation()
        if depth < 2 and self.often((0.16, 0.12)[depth]):
            return self.group(before, depth)
        return self.plain() | self.quantifier(before, grouped=False)

    def name(self) -> str:
        """Draw a new name; rarely an old one."""
        if self.names and self.often(CARELESS / 20):
            return self.rng.choice(self.names)
        self.names.append(f"s{len(self.names) + 1}")
        return self.names[-1]

    def contiguity(self) -> str:
        """Relaxed is what most patterns say."""
        return self.rng.choices(("relaxed", "strict", "any"), (5, 2, 3))[0]

    def negation(self, contiguity: str | None = None) -> Step:
        """Draw a step that must not be there."""
        step = self.plain(contiguity=contiguity or ("strict" if self.often(0.3) else "relaxed"))
        step["not"] = True
        if contiguity is not None:
            return step
        if self.often(CARELESS / 4):
            step |= {"optional": True} if self.often(0.5) else {"times": [1, 2]}
        elif self.often(CARELESS / 8):
            step["contiguity"] = "any"
        return step

    def once(self) -> Step:
        """A step without a quantifier."""
        return {
            "contiguity": self.contiguity(),
            "times": None,
            "inner": "relaxed",
            "greedy": False,
            "optional": False,
            "until": None,
        }

    def group(self, before: Step | None, depth: int) -> Step:
        """Draw a group of one to three steps."""
        self.groups += 1
        step: Step = {"name": f"g{self.groups}"}
        step["group"] = self.chain(self.rng.choices((1, 2, 3), (2, 5, 2))[0], depth + 1)
        step |= self.quantifier(before, grouped=True)
        del step["until"]
        return step

    def quantifier(self, before: Step | None, *, grouped: bool) -> Step:
        """Draw contiguity, loop and what goes with it."""
        step = self.once()
        if self.often(0.5 if grouped else 0.45):
            least = self.rng.choice((1, 1, 1, 2, 2, 3))
            kind = self.rng.choice(("range", "exactly", "open", "open"))
            most = {"range": least + self.rng.randint(1, 2), "exactly": least}.get(kind)
            if most is not None and most > least and self.often(0.1):
                least = 0
            step["times"] = [least, most]
            step["inner"] = self.rng.choice(("relaxed", "relaxed", "strict", "any"))
            may_be_greedy = not grouped and step["inner"] != "any"
            step["greedy"] = self.often(0.35) if may_be_greedy else self.often(CARELESS / 4)
            if not grouped and self.often(0.3 if most is None else CARELESS / 4):
                step["until"] = self.condition()
        elif self.often(CARELESS / 4):
            step |= {"greedy": True} if self.often(0.5) else {"inner": "strict"}
        twice = step["times"] is not None and step["times"][0] == 0
        after_greedy = before is not None and before["greedy"]
        if self.often(CARELESS / 4 if twice or after_greedy else 0.22):
            step["optional"] = True
        return step

    def condition(self) -> dict[str, Any]:
        """Draw a kind or two, and now and then what earlier events have to do with it."""
        many = 2 if self.often(0.15) else 1
        condition: dict[str, Any] = {"k": "".join(sorted(self.rng.sample(self.kinds, many)))}
        if self.conditions and self.names and self.often(0.5):
            name = self.rng.choice(self.names)
            match self.rng.choice(("gt_first", "ge_last", "sum_lt", "vmod")):
                case "sum_lt":
                    condition["sum_lt"] = [name, self.rng.randint(6, 20)]
                case "vmod":
                    condition["vmod"] = [2, self.rng.randint(0, 1)]
                case relation:
                    condition[relation] = name
        return condition

    def first_kinds(self, step: Step) -> str:
        """The kinds that a step, or the first of a group, takes."""
        while "group" in step:
            step = step["group"][0]
        return str(step["cond"]["k"])

    def script(self, steps: list[Step]) -> str:
        """Kinds of events that the steps would take, one after the other."""
        kinds = ""
        for step in steps:
            if step.get("not") or (step["optional"] and self.often(0.4)):
                continue
            least, most = step["times"] or (1, 1)
            times = self.rng.randint(max(1, least), least + 2 if most is None else max(1, most))
            for _ in range(times):
                if "group" in step:
                    kinds += self.script(step["group"])
                else:
                    kinds += self.rng.choice(step["cond"]["k"])
        return kinds

    def events(self, steps: list[Step]) -> list[dict[str, Any]]:
        """Draw events: the script again and again, with others in between, or any events."""
        length = self.rng.randint(*EVENTS)
        noise = self.rng.choice((0.1, 0.25, 0.5, 1.0))
        kinds = ""
        while len(kinds) < length:
            for kind in self.script(steps) or self.rng.choice(self.kinds):
                kinds += self.rng.choice(self.kinds) if self.often(noise) else kind
        pauses = self.rng.choice(((0, 1, 1, 2), (0, 0, 1), (1,), (1, 2, 3, 5)))
        events: list[dict[str, Any]] = []
        t = SECOND
        for kind in kinds[:length]:
            t += self.rng.choice(pauses) * SECOND
            events.append({"t": t, "k": kind, "v": self.rng.randint(0, 9)})
        return events
