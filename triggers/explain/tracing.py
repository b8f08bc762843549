"""`TracedRules`: rules at work whose every operator is watched, for explaining a log.

They give the answers of `RuleSet`, which knows nothing of them: stages get their methods
wrapped once they are built, so that an engine pays nothing for it.  What was seen is kept by
key, as it is; `headrace.triggers.explain.why` puts it into words.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence, Set
from typing import Any, Final, cast

from headrace.engine.decider import Verdict
from headrace.engine.event import Event
from headrace.engine.projected import is_projection
from headrace.engine.record import EventStored, RuleEvicted
from headrace.triggers import nodes as n
from headrace.triggers.automaton import Automaton
from headrace.triggers.entry import KEY, Entry
from headrace.triggers.explain.deaths import Death, deaths_of
from headrace.triggers.explain.notes import Note, TracedStep
from headrace.triggers.explain.operators import behind, stages_of
from headrace.triggers.explain.states import frozen
from headrace.triggers.hit import Hit
from headrace.triggers.joins import AnyOf, Join
from headrace.triggers.ruleset import Rule, RuleSet
from headrace.triggers.sequence import SequenceStage
from headrace.triggers.sequence_plain import PlainSequence
from headrace.triggers.stage import Stage, key_of
from headrace.triggers.stages import Aggregate, Key, Where

KEYS_MAX: Final = 1_000
"""Keys of which steps are kept: those that something happened to last."""
STEPS_MAX: Final = 20
"""Steps that are kept of each key: the last."""
DEATHS_MAX: Final = 10
"""Partial matches that have ended without a firing, of each key: the last."""
NOTHING: Final[frozenset[Any]] = frozenset()
"""The keys of a trace that notes nothing at all."""


class Trace:
    """What was seen of one rule."""

    def __init__(self) -> None:
        self.step: TracedStep | None = None
        """The present one."""
        self.only: Set[Any] | None = None
        """The keys of which anything is noted; ``None``: all."""
        self.newest: TracedStep | None = None
        self.last = 0
        """Sequence of the last event that came in, also of a key of which nothing is noted."""
        self.by_key: OrderedDict[Any, deque[TracedStep]] = OrderedDict()
        self.deaths: dict[Any, deque[Death]] = {}
        self._claimed: set[int] = set()

    def begin(self, step: TracedStep) -> None:
        """Note what follows as made of one input."""
        self.step = step
        self._claimed.clear()

    def end(self, verdicts: Sequence[Verdict]) -> None:
        """Keep the present step by its keys."""
        step, self.step = self.step, None
        if step is None:
            return
        step.verdicts = list(verdicts)
        if not step.entries and not step.notes and step.timer is None and not verdicts:
            return
        self.newest = step
        for key in step.keys:
            steps = self.by_key.get(key)
            if steps is None:
                steps = self.by_key[key] = deque(maxlen=STEPS_MAX)
                if len(self.by_key) > KEYS_MAX:
                    gone, _ = self.by_key.popitem(last=False)
                    self.deaths.pop(gone, None)
            else:
                self.by_key.move_to_end(key)
            steps.append(step)

    def note_evicted(self, note: Note, out: list[Verdict]) -> None:
        """Take what *note*, of a key that is not noted, has cost another key."""
        self._claim(note, out)
        for death in deaths_of(note, 0 if self.step is None else self.step.sequence):
            if self.only is None or death.key in self.only:
                self.deaths.setdefault(death.key, deque(maxlen=DEATHS_MAX)).append(death)

    def _claim(self, note: Note, out: list[Verdict]) -> None:
        for verdict in out:
            # Those behind have noted theirs already.
            if type(verdict) is RuleEvicted and id(verdict) not in self._claimed:
                self._claimed.add(id(verdict))
                note.evicted.append(verdict)

    def note(self, note: Note, out: list[Verdict]) -> None:
        """Take what an operator did; *out* is what it and those behind have said."""
        self._claim(note, out)
        if self.step is not None:
            self.step.notes.append(note)
            for death in deaths_of(note, self.step.sequence):
                self.deaths.setdefault(death.key, deque(maxlen=DEATHS_MAX)).append(death)


class TracedRules(RuleSet):
    """Rules of which all that happens in their automata is noted."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        """Take *rules*; nothing else uses them."""
        super().__init__(rules)
        self.traces: dict[str, Trace] = {}
        self.sequence = 0
        """Of the record that is about to be applied; whoever walks the log says so."""
        self.on_step: Callable[[str, TracedStep], None] | None = None
        """Whom to tell of each step of each rule that had any effect."""

    def _build(self, rule: Rule) -> None:
        super()._build(rule)
        if is_projection(rule.name):
            return
        automaton = self._automata[rule.name]
        trace = self.traces.setdefault(rule.name, Trace())
        _watch(automaton, rule.pattern.node, trace)

    def on_event(self, sequence: int, event: EventStored) -> Sequence[Verdict]:
        """See `Decider`."""
        entries = self._index.lookup(event.subject)
        if not entries:
            return ()
        names = dict.fromkeys(entry.owner.name for entry in entries)
        traces = self.traces  # of all but projections
        concerned = [rule for rule in names if rule in traces and traces[rule].only != NOTHING]
        for rule in concerned:
            self.traces[rule].begin(TracedStep(sequence, event.at_ns, event, None, [], [], []))
        verdicts = super().on_event(sequence, event)
        for rule in concerned:
            self._end(rule, self.traces[rule], [one for one in verdicts if one.rule == rule])
        return verdicts

    def on_timer(
        self, rule: str, slot: int, key: Any, *, due_ns: int, missed: int
    ) -> Sequence[Verdict]:
        """See `Decider`."""
        trace = self.traces[rule]
        if trace.only == NOTHING:
            return super().on_timer(rule, slot, key, due_ns=due_ns, missed=missed)
        trace.begin(TracedStep(self.sequence, due_ns, None, (slot, key, due_ns), [], [], []))
        verdicts = super().on_timer(rule, slot, key, due_ns=due_ns, missed=missed)
        self._end(rule, trace, verdicts)
        return verdicts

    def _end(self, rule: str, trace: Trace, verdicts: Sequence[Verdict]) -> None:
        step = trace.step
        trace.end(verdicts)
        if self.on_step is not None and step is not None and trace.newest is step:
            self.on_step(rule, step)


def traced(rules: RuleSet, *names: str) -> TracedRules:
    """Return those of *rules* that are named, traced; without names all of them."""
    wanted = names or tuple(rules._rules)
    return TracedRules([rules._rules[name] for name in wanted])


# ------------------------------------------------------------ watching


class TracedEntry(Entry):
    """An entry that notes which events come in, with the key that they have there."""

    __slots__ = ()

    def push(self, event: Event[Any], record: EventStored, out: list[Verdict]) -> None:
        """See `Entry`."""
        trace: Trace = cast("Any", self.owner).trace
        trace.last = event.sequence
        if trace.step is not None:
            key = None
            for what, function in self.head:
                if what == KEY:
                    key = key_of(self.owner.name, function, event, [])
            if trace.only is None or key in trace.only:
                trace.step.entries.append((self, event, key))
        super().push(event, record, out)


class _Probe:
    """Stands before the next stage, and notes what comes through."""

    def __init__(self, then: Stage) -> None:
        self.then = then
        self.need = then.need
        self.hits: list[Hit] = []

    def push(self, hit: Hit, out: list[Verdict]) -> None:
        self.hits.append(hit)
        self.then.push(hit, out)

    def miss(self, hit: Hit, out: list[Verdict]) -> None:
        cast("Any", self.then).miss(hit, out)


def _watch(automaton: Automaton, node: n.Node, trace: Trace) -> None:
    """Wrap all that happens in *automaton*, which was made of *node*."""
    cast("Any", automaton).trace = trace
    for inner, stage in stages_of(automaton, node):
        _watch_stage(stage, inner, trace)
    for entry in automaton.entries:
        entry.__class__ = TracedEntry
        entry.take = entry.filter = None  # they would go past what is watched
    chains = behind(node)
    for (_, stage), (_, after) in zip(stages_of(automaton, node), chains.stateful, strict=True):
        _watch_behind(cast("Any", stage)._then, after, trace)
    joins = [join for join in automaton.joins if isinstance(join, AnyOf)]
    for join, (_, after) in zip(joins, chains.any_of, strict=True):
        _watch_behind(join._then, after, trace)
    gates = [] if automaton._clock is None else automaton._clock._gates
    for gate, (_, after) in zip(gates, chains.event_time, strict=True):
        _watch_behind(gate.then, after, trace)


def _watch_behind(then: Any, after: Sequence[n.Node], trace: Trace) -> None:
    """Watch the conditions, keys and aggregates that begin with *then*, made of *after*."""
    for node in after:
        if isinstance(then, _Probe):
            then = then.then
        assert isinstance(then, (Where, Key, Aggregate)), (then, node)
        then = _watch_plain(then, node, trace)


def _watch_stage(stage: Any, node: n.Node, trace: Trace) -> None:
    probe = stage._then = _Probe(stage._then)
    watch = _Watch(stage, node, trace, probe)
    if isinstance(stage, SequenceStage):
        stage._take = watch.sequence(stage._take)  # type: ignore[method-assign]
    elif isinstance(stage, PlainSequence):
        stage._take = watch.plain(stage._take)  # type: ignore[method-assign]
    elif isinstance(stage, Join):
        stage.step = watch.join(stage.step)  # type: ignore[method-assign]
    else:
        stage.push = watch.push(stage.push)
        if hasattr(stage, "miss"):
            stage.miss = watch.push(stage.miss, is_miss=True)
    timed: Any = stage
    if hasattr(timed, "fire"):
        timed.fire = watch.fire(timed.fire)


class _Watch:
    """Makes the wrappers of one stage's methods."""

    def __init__(self, stage: Any, node: n.Node, trace: Trace, probe: _Probe) -> None:
        self._stage = stage
        self._node = node
        self._trace = trace
        self._probe = probe

    def _noted(
        self,
        call: Callable[[], Any],
        key: Any,
        at_ns: int,
        hit: Hit | None,
        out: list[Verdict],
        *,
        met: tuple[int, ...] = (),
        is_miss: bool = False,
    ) -> Any:
        stage, hits, trace = self._stage, self._probe.hits, self._trace
        first, said = len(hits), len(out)
        if trace.only is not None and key not in trace.only:
            answer = call()
            del hits[first:]
            if len(out) > said:
                trace.note_evicted(Note(self._node, stage, key, at_ns, hit), out[said:])
            return answer
        before = frozen(stage, key, hit)
        answer = call()
        passed = hits[first:]
        del hits[first:]
        after = frozen(stage, key, hit)
        note = Note(
            self._node,
            stage,
            key,
            at_ns,
            hit,
            met=met,
            is_miss=is_miss,
            before=before,
            after=after,
            passed=passed,
        )
        trace.note(note, out[said:])
        return answer

    def push(self, push: Any, *, is_miss: bool = False) -> Any:
        def watched(hit: Hit, out: list[Verdict]) -> None:
            self._noted(lambda: push(hit, out), hit.key, hit.at_ns, hit, out, is_miss=is_miss)

        return watched

    def join(self, step: Any) -> Any:
        def watched(key: Any, met: list[tuple[int, Hit]], out: list[Verdict]) -> None:
            branches = tuple(branch for branch, _ in met)
            hit = met[0][1]
            self._noted(lambda: step(key, met, out), key, hit.at_ns, hit, out, met=branches)

        return watched

    def sequence(self, take: Any) -> Any:
        def watched(key: Any, bits: int, hits: Any, hit: Hit, out: list[Verdict]) -> None:
            self._noted(
                lambda: take(key, bits, hits, hit, out),
                key,
                hit.at_ns,
                hit,
                out,
                met=tuple(sorted(hits)),
            )

        return watched

    def plain(self, take: Any) -> Any:
        def watched(key: Any, branch: int, hit: Hit, out: list[Verdict]) -> Any:
            return self._noted(
                lambda: take(key, branch, hit, out), key, hit.at_ns, hit, out, met=(branch,)
            )

        return watched

    def fire(self, fire: Any) -> Any:
        def watched(key: Any, *, due_ns: int, missed: int, out: list[Verdict]) -> None:
            self._noted(
                lambda: fire(key, due_ns=due_ns, missed=missed, out=out), key, due_ns, None, out
            )

        return watched


def _watch_plain(stage: Any, node: n.Node, trace: Trace) -> Any:
    """Watch a stage without state: what it handed on is all there is to say; return the next."""
    name = "_then" if isinstance(stage, Aggregate) else "then"
    then = getattr(stage, name)
    probe = _Probe(then)
    setattr(stage, name, probe)
    push = stage.push

    def watched(hit: Hit, out: list[Verdict]) -> None:
        first, said = len(probe.hits), len(out)
        push(hit, out)
        passed = probe.hits[first:]
        del probe.hits[first:]
        note = Note(node, stage, hit.key, hit.at_ns, hit, passed=passed)
        trace.note(note, out[said:])

    stage.push = watched
    return then
