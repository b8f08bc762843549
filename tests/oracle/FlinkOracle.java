import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Collections;
import java.util.Deque;
import java.util.HashMap;
import java.util.IdentityHashMap;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import org.apache.flink.api.common.state.AggregatingState;
import org.apache.flink.api.common.state.AggregatingStateDescriptor;
import org.apache.flink.api.common.state.KeyedStateStore;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.state.MapState;
import org.apache.flink.api.common.state.MapStateDescriptor;
import org.apache.flink.api.common.state.ReducingState;
import org.apache.flink.api.common.state.ReducingStateDescriptor;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeutils.TypeSerializer;
import org.apache.flink.api.common.typeutils.base.IntSerializer;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.cep.nfa.ComputationState;
import org.apache.flink.cep.nfa.NFA;
import org.apache.flink.cep.nfa.NFAState;
import org.apache.flink.cep.nfa.State;
import org.apache.flink.cep.nfa.StateTransition;
import org.apache.flink.cep.nfa.StateTransitionAction;
import org.apache.flink.cep.nfa.aftermatch.AfterMatchSkipStrategy;
import org.apache.flink.cep.nfa.compiler.NFACompiler;
import org.apache.flink.cep.nfa.sharedbuffer.SharedBuffer;
import org.apache.flink.cep.nfa.sharedbuffer.SharedBufferAccessor;
import org.apache.flink.cep.pattern.MalformedPatternException;
import org.apache.flink.cep.pattern.Pattern;
import org.apache.flink.cep.pattern.WithinType;
import org.apache.flink.cep.pattern.conditions.IterativeCondition;
import org.apache.flink.cep.time.TimerService;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.node.ArrayNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.node.ObjectNode;

/**
 * What Apache Flink CEP says to patterns: reads one case a line (JSON) from standard input and prints one
 * answer a line. tests/oracle/flink.py compiles and runs it, and says what a case and an answer look like.
 *
 * <p>The automaton is Flink's own. It is driven as Flink's CepOperator drives it for one key in event time
 * when a watermark follows each timestamp: advance the time to the timestamp, process its events in the order
 * in which they came, advance the time once more, and start afresh when nothing is left but the start.
 */
public final class FlinkOracle {
  private static final ObjectMapper JSON = new ObjectMapper();
  private static final int PARTIALS_MAX = 2000;

  private FlinkOracle() {}

  public static void main(String[] arguments) throws Exception {
    PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
    BufferedReader in =
        new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = in.readLine(); line != null; line = in.readLine()) {
      out.println(answer(JSON.readTree(line)));
      out.flush();
    }
  }

  /** Matches and timeouts, or why there are none: "refused" by the compiler, or "failed" on the way. */
  private static ObjectNode answer(JsonNode example) throws Exception {
    ObjectNode node = JSON.createObjectNode();
    NFACompiler.NFAFactory<Event> factory;
    Pattern<Event, ?> pattern;
    try {
      pattern = new Definition(example.get("pattern")).pattern();
      factory = NFACompiler.compileFactory(pattern, true);
    } catch (MalformedPatternException
        | UnsupportedOperationException
        | IllegalArgumentException refusal) {
      return node.put("refused", String.valueOf(refusal.getMessage()));
    } catch (NullPointerException | StackOverflowError bug) {
      return node.put("failed", "while compiling: " + bug);
    }
    Run run = new Run(factory.createNFA(), pattern.getAfterMatchSkipStrategy());
    try {
      run.ensureItEnds();
      run.through(example);
    } catch (Exception bug) {
      return node.put("failed", String.valueOf(bug));
    } finally {
      run.close();
    }
    node.set("matches", run.matches);
    node.set("timeouts", run.timeouts);
    return node;
  }

  /** An event, with its place among the events of its case. */
  private record Event(int index, long t, String kind, int v) {
    static Event of(int index, JsonNode node) {
      return new Event(
          index, node.get("t").asLong(), node.get("k").asText(), node.get("v").asInt());
    }
  }

  /** Flink's pattern for the JSON of one. */
  private record Definition(JsonNode root) {
    Pattern<Event, Event> pattern() {
      Pattern<Event, Event> whole = chain(root.get("steps"), skip());
      if (root.hasNonNull("within")) {
        whole.within(Duration.ofMillis(root.get("within").asLong()));
      }
      return whole;
    }

    private AfterMatchSkipStrategy skip() {
      JsonNode skip = root.path("skip");
      if (skip.isArray()) {
        String name = skip.get(1).asText();
        return switch (skip.get(0).asText()) {
          case "to_first" -> AfterMatchSkipStrategy.skipToFirst(name);
          case "to_last" -> AfterMatchSkipStrategy.skipToLast(name);
          default -> throw new IllegalStateException("unknown skip: " + skip);
        };
      }
      return switch (skip.asText("none")) {
        case "none", "null" -> AfterMatchSkipStrategy.noSkip();
        case "to_next" -> AfterMatchSkipStrategy.skipToNext();
        case "past_last" -> AfterMatchSkipStrategy.skipPastLastEvent();
        default -> throw new IllegalStateException("unknown skip: " + skip);
      };
    }

    private Pattern<Event, Event> chain(JsonNode steps, AfterMatchSkipStrategy skip) {
      Pattern<Event, Event> last = null;
      for (JsonNode step : steps) {
        last = step.has("group") ? group(last, step, skip) : single(last, step, skip);
        quantify(last, step);
        if (root.hasNonNull("within_gap")) {
          // Flink has this limit for each step: neighbours are bounded by giving it to all.
          Duration gap = Duration.ofMillis(root.get("within_gap").asLong());
          last.within(gap, WithinType.PREVIOUS_AND_CURRENT);
        }
      }
      return last;
    }

    private Pattern<Event, Event> single(
        Pattern<Event, Event> before, JsonNode step, AfterMatchSkipStrategy skip) {
      String name = step.get("name").asText();
      boolean not = step.path("not").asBoolean();
      String contiguity = step.path("contiguity").asText("relaxed");
      Pattern<Event, Event> pattern;
      if (before == null) {
        if (not) {
          throw new MalformedPatternException("A pattern cannot begin with a negation.");
        }
        pattern = Pattern.begin(name, skip);
      } else if (not) {
        pattern =
            switch (contiguity) {
              case "strict" -> before.notNext(name);
              case "relaxed" -> before.notFollowedBy(name);
              default -> throw new MalformedPatternException("There is no notFollowedByAny.");
            };
      } else {
        pattern =
            switch (contiguity) {
              case "strict" -> before.next(name);
              case "relaxed" -> before.followedBy(name);
              default -> before.followedByAny(name);
            };
      }
      return pattern.where(new Condition(step.get("cond")));
    }

    private Pattern<Event, Event> group(
        Pattern<Event, Event> before, JsonNode step, AfterMatchSkipStrategy skip) {
      Pattern<Event, Event> inside = chain(step.get("group"), AfterMatchSkipStrategy.noSkip());
      if (before == null) {
        return Pattern.begin(inside, skip);
      }
      return switch (step.path("contiguity").asText("relaxed")) {
        case "strict" -> before.next(inside);
        case "relaxed" -> before.followedBy(inside);
        default -> before.followedByAny(inside);
      };
    }

    private static void quantify(Pattern<Event, Event> pattern, JsonNode step) {
      if (step.hasNonNull("times")) {
        int least = step.get("times").get(0).asInt();
        JsonNode most = step.get("times").get(1);
        if (most.isNull()) {
          pattern.timesOrMore(least);
        } else {
          pattern.times(least, most.asInt());
        }
      }
      switch (step.path("inner").asText("relaxed")) {
        case "strict" -> pattern.consecutive();
        case "any" -> pattern.allowCombinations();
        default -> {}
      }
      if (step.path("greedy").asBoolean()) {
        pattern.greedy();
      }
      if (step.hasNonNull("until")) {
        pattern.until(new Condition(step.get("until")));
      }
      if (step.path("optional").asBoolean()) {
        pattern.optional();
      }
    }
  }

  /** The condition of a step: the JSON is kept as text, as Flink wants conditions to be serialisable. */
  private static final class Condition extends IterativeCondition<Event> {
    private static final long serialVersionUID = 1L;
    private final String kinds;
    private final String above;
    private final String atLeast;
    private final String summed;
    private final long limit;
    private final int divisor;
    private final int rest;

    Condition(JsonNode node) {
      kinds = node.get("k").asText();
      above = node.path("gt_first").asText("");
      atLeast = node.path("ge_last").asText("");
      summed = node.path("sum_lt").path(0).asText("");
      limit = node.path("sum_lt").path(1).asLong();
      divisor = node.path("vmod").path(0).asInt();
      rest = node.path("vmod").path(1).asInt();
    }

    @Override
    public boolean filter(Event event, Context<Event> context) throws Exception {
      if (!kinds.contains(event.kind) || (divisor > 0 && Math.floorMod(event.v, divisor) != rest)) {
        return false;
      }
      if (!above.isEmpty()) {
        Iterator<Event> taken = context.getEventsForPattern(above).iterator();
        if (!taken.hasNext() || event.v <= taken.next().v) {
          return false;
        }
      }
      if (!atLeast.isEmpty()) {
        Integer last = null;
        for (Event taken : context.getEventsForPattern(atLeast)) {
          last = taken.v;
        }
        if (last != null && event.v < last) {
          return false;
        }
      }
      if (!summed.isEmpty()) {
        long sum = event.v;
        for (Event taken : context.getEventsForPattern(summed)) {
          sum += taken.v;
        }
        return sum < limit;
      }
      return true;
    }
  }

  /** One automaton on its way through the events of one case. */
  private static final class Run {
    final ArrayNode matches = JSON.createArrayNode();
    final ArrayNode timeouts = JSON.createArrayNode();
    private final NFA<Event> nfa;
    private final AfterMatchSkipStrategy skip;
    private final SharedBuffer<Event> buffer = new SharedBuffer<>(new Memory(), serializer());
    private final TimerService timers = () -> 0L;
    private NFAState state;

    Run(NFA<Event> nfa, AfterMatchSkipStrategy skip) {
      this.nfa = nfa;
      this.skip = skip;
      state = nfa.createInitialNFAState();
    }

    /**
     * Flink follows PROCEED edges without looking where it has been: an unbounded group of which each step is
     * optional would keep it busy for ever.
     */
    void ensureItEnds() {
      for (State<Event> from : nfa.getStates()) {
        Set<State<Event>> seen = Collections.newSetFromMap(new IdentityHashMap<>());
        Deque<State<Event>> open = new ArrayDeque<>(List.of(from));
        while (!open.isEmpty()) {
          for (StateTransition<Event> edge : open.pop().getStateTransitions()) {
            State<Event> to = edge.getTargetState();
            if (edge.getAction() != StateTransitionAction.PROCEED || to == null) {
              continue;
            }
            if (to == from) {
              throw new IllegalStateException("PROCEED edges lead back to " + from.getName());
            }
            if (seen.add(to)) {
              open.push(to);
            }
          }
        }
      }
    }

    void through(JsonNode example) throws Exception {
      TreeMap<Long, List<Event>> byTime = new TreeMap<>();
      for (JsonNode node : example.get("events")) {
        Event event = Event.of(byTime.values().stream().mapToInt(List::size).sum(), node);
        byTime.computeIfAbsent(event.t, t -> new ArrayList<>()).add(event);
      }
      long gap = example.get("pattern").path("within_gap").asLong();
      boolean exact = example.path("exact").asBoolean();
      for (Map.Entry<Long, List<Event>> entry : byTime.entrySet()) {
        advance(entry.getKey(), gap, exact);
        for (Event event : entry.getValue()) {
          process(event);
          if (state.getPartialMatches().size() > PARTIALS_MAX) {
            throw new IllegalStateException("more than " + PARTIALS_MAX + " partial matches");
          }
        }
        advance(entry.getKey(), gap, exact);
        if (state.getPartialMatches().size() == 1 && state.getCompletedMatches().isEmpty()) {
          state = nfa.createInitialNFAState();
        }
      }
      if (example.hasNonNull("until")) {
        advance(example.get("until").asLong(), gap, exact);
      }
    }

    /** To t at once, or with a stop at each time at which a partial match runs out. */
    private void advance(long t, long gap, boolean exact) throws Exception {
      long from = Long.MIN_VALUE;
      while (exact) {
        TreeSet<Long> due = new TreeSet<>();
        for (ComputationState partial : state.getPartialMatches()) {
          if (partial.getStartEventID() != null) {
            due.add(partial.getStartTimestamp() + nfa.getWindowTime());
            due.add(partial.getPreviousTimestamp() + gap);
          }
        }
        Long next = due.higher(from);
        if (next == null || next >= t) {
          break;
        }
        advance(next);
        from = next;
      }
      advance(t);
    }

    private void advance(long t) throws Exception {
      try (SharedBufferAccessor<Event> accessor = buffer.getAccessor()) {
        Tuple2<
                Collection<Map<String, List<Event>>>,
                Collection<Tuple2<Map<String, List<Event>>, Long>>>
            found = nfa.advanceTime(accessor, state, t, skip);
        for (Map<String, List<Event>> match : found.f0) {
          matches.addObject().put("at", "t:" + t).set("steps", steps(match));
        }
        for (Tuple2<Map<String, List<Event>>, Long> timeout : found.f1) {
          timeouts.addObject().put("t", timeout.f1.longValue()).set("steps", steps(timeout.f0));
        }
      }
    }

    private void process(Event event) throws Exception {
      try (SharedBufferAccessor<Event> accessor = buffer.getAccessor()) {
        for (Map<String, List<Event>> match :
            nfa.process(accessor, state, event, event.t, skip, timers)) {
          matches.addObject().put("at", event.index).set("steps", steps(match));
        }
      }
    }

    private static ObjectNode steps(Map<String, List<Event>> match) {
      ObjectNode steps = JSON.createObjectNode();
      for (Map.Entry<String, List<Event>> step : match.entrySet()) {
        ArrayNode indices = steps.putArray(step.getKey());
        step.getValue().forEach(event -> indices.add(event.index));
      }
      return steps;
    }

    void close() {
      buffer.releaseCacheStatisticsTimer();
    }

    /** Never used, as nothing is written out; Flink only wants to have one. */
    @SuppressWarnings("unchecked")
    private static TypeSerializer<Event> serializer() {
      return (TypeSerializer<Event>) (TypeSerializer<?>) IntSerializer.INSTANCE;
    }
  }

  /** The state of one key, in memory. The buffer of partial matches needs maps only. */
  private static final class Memory implements KeyedStateStore {
    private final Map<String, MapState<?, ?>> maps = new LinkedHashMap<>();

    @Override
    @SuppressWarnings("unchecked")
    public <K, V> MapState<K, V> getMapState(MapStateDescriptor<K, V> description) {
      return (MapState<K, V>) maps.computeIfAbsent(description.getName(), n -> new InMemoryMap<>());
    }

    @Override
    public <T> ValueState<T> getState(ValueStateDescriptor<T> description) {
      throw new UnsupportedOperationException();
    }

    @Override
    public <T> ListState<T> getListState(ListStateDescriptor<T> description) {
      throw new UnsupportedOperationException();
    }

    @Override
    public <T> ReducingState<T> getReducingState(ReducingStateDescriptor<T> description) {
      throw new UnsupportedOperationException();
    }

    @Override
    public <I, A, O> AggregatingState<I, O> getAggregatingState(
        AggregatingStateDescriptor<I, A, O> description) {
      throw new UnsupportedOperationException();
    }
  }

  private static final class InMemoryMap<K, V> implements MapState<K, V> {
    private final Map<K, V> values = new HashMap<>();

    @Override
    public V get(K key) {
      return values.get(key);
    }

    @Override
    public void put(K key, V value) {
      values.put(key, value);
    }

    @Override
    public void putAll(Map<K, V> more) {
      values.putAll(more);
    }

    @Override
    public void remove(K key) {
      values.remove(key);
    }

    @Override
    public boolean contains(K key) {
      return values.containsKey(key);
    }

    @Override
    public Iterable<Map.Entry<K, V>> entries() {
      return values.entrySet();
    }

    @Override
    public Iterable<K> keys() {
      return values.keySet();
    }

    @Override
    public Iterable<V> values() {
      return values.values();
    }

    @Override
    public Iterator<Map.Entry<K, V>> iterator() {
      return values.entrySet().iterator();
    }

    @Override
    public boolean isEmpty() {
      return values.isEmpty();
    }

    @Override
    public void clear() {
      values.clear();
    }
  }
}
