"""`Pairing`: what rules derive from one input, against what the log holds for it.

Both sides carry on in one `World`: a firing that is in the log keeps its number, so that what
its run did is found by that; of any other firing's run nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from hashlib import blake2b
from typing import Any
from zlib import crc32

import msgspec
from msgspec.structs import replace

from headrace.engine import record as r
from headrace.engine.decider import Verdict
from headrace.engine.replay.here import (
    MAKES_RUN,
    OF_RULES,
    OF_RUNS,
    Here,
    RunDecision,
    makes_launch,
    near_to,
    take_known,
)
from headrace.engine.replay.pending import (
    Gone,
    Pending,
    Side,
    gives_same,
    identity,
    is_same,
    moment,
    with_plain_key,
)
from headrace.engine.replay.policies import Retrial
from headrace.engine.replay.replay import DIGEST_BYTES
from headrace.engine.replay.tally import Difference, Fate, Tally, What
from headrace.engine.replay.units import NO_DECISIONS, Unit
from headrace.engine.replay.world import World
from headrace.engine.run_state import RunState
from headrace.engine.verdicts import decide

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class Pairing:
    """See above.  Call `decide` for each input, and `finish` at the end."""

    def __init__(
        self,
        world: World,
        tally: Tally,
        *,
        blind: Collection[str] = (),
        on_fired: Callable[[r.RuleFired], None] | None = None,
    ) -> None:
        """*blind* are the rules and tasks whose code is given no firing."""
        self.world = world
        self.tally = tally
        self.kept: set[str] = set()
        """Rules that are not declared and are not gone either: what is recorded of them holds."""
        self.held_by: dict[int, Pending] = {}
        """What runs do that may come later, by run."""
        self.released: list[list[Unit]] = []
        """What was held and comes now, since the firing has come that it follows from."""
        self.digests: dict[str, int] = {}
        """What stands for the firings that were derived, by rule."""
        self._on_fired = on_fired
        self._blind = blind
        self._recorded, self._derived = Side(), Side()
        self.held_events: dict[int, Pending] = {}
        """What such runs have emitted: a wait that it has ended is held with it."""
        self._gone = Gone()
        self._digest = blake2b(digest_size=DIGEST_BYTES)

    # ------------------------------------------------------------ one input

    def decide(
        self,
        sequence: int,
        cause: r.Input,
        verdicts: Iterable[Verdict | r.Decision],
        decisions: Sequence[r.Record] = NO_DECISIONS,
        *,
        is_gone: bool = False,
    ) -> None:
        """Let what *verdicts* come to take effect, paired with the recorded *decisions*."""
        here = Here(sequence, cause)
        if decisions:
            self._note_recorded(here, decisions)
        for verdict in verdicts:
            self._derive(here, verdict)
        for decision in here.of_runs:
            self._only_recorded(decision, sequence)
        if here.unmatched or here.left:
            self._see_to_rest(here, is_gone=is_gone)

    def _see_to_rest(self, here: Here, *, is_gone: bool) -> None:
        """See to the firings that only one side has here."""
        for one in here.unmatched:
            near = near_to(one.fired, here.left)
            if near is None:
                self._derived.add(one)
            else:
                here.left.remove(near)
                self._differs("changed", *near, one.fired, is_other=True)
        for number, fired in here.left:
            self._end_of_recorded(here.cause.at_ns, number, fired, is_gone=is_gone)
        if self._derived.is_full:
            for one in self._derived.too_many():
                self._appeared(one)
        if self._recorded.is_full:
            for one in self._recorded.too_many():
                self._vanished(one)

    def _note_recorded(self, here: Here, decisions: Sequence[r.Record]) -> None:
        state, cause = self.world.state, here.cause
        for number, decision in enumerate(decisions, here.sequence + 1):
            if isinstance(decision, r.RuleFired):
                fired = with_plain_key(decision)
                if fired.rule in self.kept:
                    state.carry_out(number, fired, cause)
                else:
                    here.left.append((number, fired))
            elif isinstance(decision, OF_RUNS):
                here.of_runs.append(decision)
            elif isinstance(decision, OF_RULES):
                if decision.rule in self.kept:
                    state.carry_out(number, decision, cause)
                else:
                    kind = r.KIND_BY_TYPE[type(decision)]
                    self.tally.other(decision.rule, kind).recorded += 1

    def _derive(self, here: Here, verdict: Verdict | r.Decision) -> None:
        state = self.world.state
        cancelled: list[r.RunCancelling] = []
        for decision in decide(state, verdict):
            if isinstance(decision, r.RuleFired):
                self._fired(here, decision)
            elif isinstance(decision, OF_RUNS):
                known = take_known(decision, here.of_runs)
                if isinstance(decision, r.RunCancelling) and not known:
                    cancelled.append(decision)
                self._of_run(here.sequence, here.cause, decision, is_known=known)
            else:
                state.carry_out(here.sequence, decision, here.cause)
                kind = r.KIND_BY_TYPE[type(decision)]
                self.tally.other(decision.rule, kind).derived += 1
        for one in cancelled:  # once the firing waits that they make way for
            self._cancel(here.sequence, one)

    # ------------------------------------------------------------ firings

    def _fired(self, here: Here, derived: r.RuleFired) -> None:
        said = _encode((derived.key, derived.events, derived.due_ns, derived.outcome))
        if derived.details is not None or derived.branches:
            said += _encode((derived.details, derived.branches))
        self._digest.update(derived.rule.encode() + said)
        self.digests[derived.rule] = crc32(said, self.digests.get(derived.rule, 0))
        if self._on_fired is not None:
            self._on_fired(derived)
        for place, (number, recorded) in enumerate(here.left):
            if recorded.rule == derived.rule and is_same(recorded, derived):
                del here.left[place]
                self._carry_on(here, number, derived, recorded)
                if recorded.outcome == derived.outcome:
                    self.tally.same(derived.rule)
                else:
                    self._differs("changed", number, recorded, derived)
                return
        earlier = self._recorded.take(identity(derived))
        if earlier is not None:
            self._came_later(here, earlier, derived)
            return
        is_blind = self._is_blind(derived)
        near = near_to(derived, here.left) if is_blind else None
        if near is not None:
            here.left.remove(near)
            self._carry_on(here, near[0], derived, near[1])
            self._differs("changed", *near, derived)
            return
        at_ns = self.world.state.at_ns
        one = Pending(derived, here.sequence, at_ns, 0, here.missed, is_blind)
        if derived.outcome == "waiting":
            one.unrecorded = self.world.wait_unrecorded(derived, here.missed)
        self.world.state.note_fired(here.sequence, derived)
        here.unmatched.append(one)

    def _carry_on(
        self, here: Here, number: int, derived: r.RuleFired, recorded: r.RuleFired
    ) -> None:
        """Let a firing take effect whose run, if it had one, is the recorded one."""
        if recorded.outcome in MAKES_RUN or derived.outcome not in MAKES_RUN:
            self.world.state.carry_out(number, derived, here.cause)
            if derived.outcome == "waiting":
                self._wait_for_turn(number, recorded)
            return
        if derived.outcome == "waiting":
            self.world.wait_without_story(number, derived, here.missed)
        self.world.state.note_fired(number, derived)

    def _wait_for_turn(self, number: int, recorded: r.RuleFired) -> None:
        """Keep what a run did until it is its turn, which may be later than it was."""
        at_ns = self.world.state.at_ns
        self.held_by[number] = Pending(
            recorded, number, at_ns, is_turn=True, held=[], runs=[number]
        )

    def _end_wait(self, run_id: int) -> list[Unit]:
        """Return what was kept of a run that waits no more."""
        holder = self.held_by.get(run_id)
        if holder is None:
            return []
        self._forget_runs(holder)
        self._recorded.held -= len(holder.held)
        return holder.held

    def _came_later(self, here: Here, earlier: Pending, derived: r.RuleFired) -> None:
        """Let the run of a recorded firing follow now that it is derived."""
        recorded = earlier.fired
        self._forget_runs(earlier)
        is_unlike = not gives_same(recorded, derived) and not self._is_blind(derived)
        if is_unlike or derived.outcome not in MAKES_RUN:
            self.world.state.note_fired(earlier.sequence, derived)
            self._lose(earlier.held)
        else:
            self._carry_on(here, earlier.sequence, derived, recorded)
            self.released.append(earlier.held)
        self._differs(
            "moved", earlier.sequence, recorded, derived, at_ns=earlier.at_ns, is_other=is_unlike
        )

    def _is_blind(self, fired: r.RuleFired) -> bool:
        return (fired.task or fired.rule) in self._blind

    def _end_of_recorded(
        self, at_ns: int, number: int, recorded: r.RuleFired, *, is_gone: bool
    ) -> None:
        """Say what becomes of a recorded firing that was not derived."""
        declared = self.world.state.declared
        if not is_gone and recorded.rule in declared:
            before = self._derived.take(identity(recorded)) or self._derived.take(moment(recorded))
            if before is not None:
                self._came_earlier(before, number, recorded)
                return
            waits = Pending(recorded, number, at_ns, held=[], runs=[])
            if identity(recorded) is not None or moment(recorded) is not None:
                if recorded.outcome in MAKES_RUN:
                    waits.runs.append(number)
                    self.held_by[number] = waits
                self._recorded.add(waits)
                return
        self._vanished(Pending(recorded, number, at_ns, held=[], runs=[]))

    def _came_earlier(self, before: Pending, number: int, recorded: r.RuleFired) -> None:
        """Let the run of a firing that was derived before begin where the log has it."""
        derived = before.fired
        is_same_time = derived.due_ns == recorded.due_ns and derived.due_ns is not None
        is_unlike = not gives_same(recorded, derived) and not before.is_blind
        if not is_unlike and derived.outcome in MAKES_RUN and recorded.outcome in MAKES_RUN:
            self._begin(before, number)
        if is_same_time and is_same(recorded, derived) and recorded.outcome == derived.outcome:
            self.tally.same(derived.rule)  # only another part of its rule has armed the timer
        elif is_same_time or derived.events != recorded.events:
            self._differs("changed", number, recorded, derived, is_other=is_unlike)
        else:
            self._differs("moved", number, recorded, derived, is_other=is_unlike)

    def _begin(self, before: Pending, number: int) -> None:
        world, outcome = self.world, "run"
        waiting = world.runs.active.get(before.unrecorded)
        if waiting is not None:
            world.end_unknown(waiting)
            outcome = "waiting"
        fired = replace(before.fired, outcome=outcome)
        world.runs.make_from_firing(number, fired, at_ns=world.state.at_ns, missed=before.missed)
        if outcome == "waiting":
            self._wait_for_turn(number, before.fired)

    # ------------------------------------------------------------ runs

    def _of_run(
        self, sequence: int, cause: r.Input, decision: RunDecision, *, is_known: bool
    ) -> None:
        world = self.world
        run = world.runs.active[decision.run]
        world.state.carry_out(sequence, decision, cause)
        if type(decision) is r.RunReleased and run.id in world.without_story:
            after = world.end_unknown(run)
            if after is not None:
                self._of_run(sequence, cause, r.RunReleased(after), is_known=False)
        elif type(decision) is r.RunReleased:
            if held := self._end_wait(run.id):
                self.released.append(held)
        elif type(decision) is r.RunReplaced:
            self._lose(self._end_wait(run.id))
            if run.id in world.without_story:
                world.without_story.discard(run.id)
            elif not is_known:
                self.run_differs(run, sequence, "gone", "a newer firing would replace it")

    def _cancel(self, sequence: int, decision: r.RunCancelling) -> None:
        """End a run that would be cancelled, and was not: how long that takes is unknown."""
        world = self.world
        run = world.runs.active.get(decision.run)
        if run is None:
            return
        self.run_differs(run, sequence, "gone", f"it would be cancelled: {decision.reason}")
        record = r.RunCancelled(world.state.at_ns, run.id, decision.reason)
        self.decide(sequence, record, world.state.apply(sequence, record))

    def _only_recorded(self, decision: RunDecision, sequence: int) -> None:
        """See to a run to which less happens than was recorded."""
        run = self.world.runs.active.get(decision.run)
        if run is None:
            return
        if type(decision) is r.RunReplaced:
            if run.status == "waiting":
                self.world.without_story.add(run.id)
            else:
                self.end_unknown(run, sequence, "no newer firing would replace it")
        elif type(decision) is r.RunCancelling and run.cancelling is None:
            self.end_unknown(run, sequence, "no newer firing would cancel it")

    def end_unknown(self, run: RunState, sequence: int, why: str) -> None:
        """End *run*, of which nothing is known from here on, with those above it."""
        run = self.world.root_of(run)
        self.run_differs(run, sequence, "unknown", why)
        after = self.world.end_unknown(run)
        if after is not None:
            cause = r.RunCancelled(self.world.state.at_ns, run.id, why)
            self._of_run(sequence, cause, r.RunReleased(after), is_known=False)

    def retried_otherwise(self, run: RunState, sequence: int, verdict: Retrial) -> None:
        """See to a run whose failed attempt its task's policy of today sees otherwise."""
        if not verdict.is_over and not verdict.is_tried:
            self.run_differs(run, sequence, "recorded", verdict.why)
        elif verdict.is_tried or run.parent or run.undos:
            self.end_unknown(run, sequence, f"run {run.id}: {verdict.why}")
        else:
            self.run_differs(run, sequence, "gone", verdict.why)
            error, at_ns = run.error or verdict.why, self.world.state.at_ns
            record = r.RunFailed(at_ns, run.id, run.attempt, error, "", [])
            self.decide(sequence, record, self.world.state.apply(sequence, record))

    def run_differs(self, run: RunState, sequence: int, fate: Fate, why: str) -> None:
        """Say of a run that is there on both sides that it would end otherwise."""
        at_ns = self.world.state.at_ns
        rule = run.rule or run.task
        self.tally.differs(
            Difference("changed", rule, run.key, sequence, at_ns, None, None, fate, why, run.id)
        )

    # ------------------------------------------------------------ what is gone

    def gone(self, sequence: int) -> None:
        """Note that an event would not be."""
        self.tally.result.events_gone += 1
        self._gone.note(sequence)

    def end_if_unmet(self, run: RunState, sequence: int, ended: r.WaitEnded) -> None:
        """End *run* as unknown if what *ended* its wait would not be."""
        missing = None if ended.met is None else self._gone.first_of(ended.met.events)
        if missing is not None:
            why = f"it waited for event {missing}, which would not be there"
            self.end_unknown(run, sequence, why)

    def _lose(self, held: list[Unit]) -> None:
        """Note what the run of a firing did that is gone."""
        for sequence, record, decisions in held:
            if makes_launch(record):
                self.tally.result.runs_gone += 1
            elif type(record) is r.EventStored:
                self.gone(sequence)
                self.decide(sequence, record, (), decisions, is_gone=True)
            elif type(record) is r.WaitEnded and record.run in self.world.runs.active:
                self.end_if_unmet(self.world.runs.active[record.run], sequence, record)

    def holder_of(self, run_id: int, kind: type[Any]) -> Pending | None:
        """Return the firing that what the run *run_id* does has to wait for, if there is one."""
        holder = self.held_by.get(run_id)
        if holder is not None and holder.is_turn:
            if holder.sequence not in self.world.runs.active:
                self._lose(self._end_wait(holder.sequence))
                return None
            if kind is r.CancelRequested or kind is r.RunCancelled:
                return None  # that is done to it
        return holder

    def hold(self, holder: Pending, unit: Unit) -> None:
        """Keep what a run did until it is known whether it would be."""
        holder.held.append(unit)
        self._recorded.held += 1
        kind = type(unit[1])
        if kind is r.StepRequested or kind is r.RunLaunched:
            holder.runs.append(unit[0])
            self.held_by[unit[0]] = holder
        elif kind is r.EventStored:
            self.held_events[unit[0]] = holder
        elif type(unit[1]) is r.WaitEnded:
            holder.runs.append(unit[1].run)
            self.held_by[unit[1].run] = holder
        if self._recorded.is_full:
            for one in self._recorded.too_many():
                self._vanished(one)
            run = self.world.runs.active.get(holder.sequence) if holder.is_turn else None
            if run is not None and self._recorded.is_full:
                self._lose(self._end_wait(run.id))
                self.end_unknown(run, unit[0], "it waits for its turn longer than can be kept")

    def _forget_runs(self, one: Pending) -> None:
        for run in one.runs:
            self.held_by.pop(run, None)
        for sequence, _, _ in one.held:
            self.held_events.pop(sequence, None)

    def _vanished(self, one: Pending) -> None:
        self._forget_runs(one)
        missing = self._gone.first_of(one.fired.events)
        why = "" if missing is None else f"event {missing} would not be there"
        fate: Fate = "gone" if one.fired.outcome in MAKES_RUN else "none"
        self.tally.differs(
            Difference(
                "vanished",
                one.fired.rule,
                one.fired.key,
                one.sequence,
                one.at_ns,
                one.fired,
                None,
                fate,
                why,
                one.sequence if fate == "gone" else 0,
            )
        )
        self._lose(one.held)

    def _appeared(self, one: Pending) -> None:
        fired = one.fired
        fate: Fate = "unknown" if fired.outcome in MAKES_RUN else "none"
        if not self.tally.has_room:  # the most frequent case, if there are very many
            self.tally.count("appeared", fired.rule, fired.key, fate)
            return
        self.tally.differs(
            Difference(
                "appeared", fired.rule, fired.key, one.sequence, one.at_ns, None, fired, fate
            )
        )

    def _differs(
        self,
        what: What,
        number: int,
        recorded: r.RuleFired,
        derived: r.RuleFired,
        *,
        at_ns: int | None = None,
        is_other: bool = False,
    ) -> None:
        """Tell of a firing that is there on both sides, and not the same.

        With *is_other* its run would be given something else, so nothing is known of it.
        """
        was_run = recorded.outcome in MAKES_RUN
        fate: Fate = "none"
        if derived.outcome in MAKES_RUN:
            fate = "recorded" if was_run and not is_other else "unknown"
        elif was_run:
            fate = "gone"
        self.tally.differs(
            Difference(
                what,
                derived.rule,
                derived.key,
                number,
                self.world.state.at_ns if at_ns is None else at_ns,
                recorded,
                derived,
                fate,
                run_id=number if was_run else 0,
            )
        )

    @property
    def digest(self) -> str:
        """What stands for all firings that were derived by now, in their order."""
        return self._digest.hexdigest()

    def finish(self) -> None:
        """Say of what is left that it has appeared, or vanished."""
        while self._recorded:
            for one in self._recorded.all():
                self._vanished(one)
        for one in self._derived.all():
            self._appeared(one)
