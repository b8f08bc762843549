// What is said beside the lanes of the run or event that was picked, and below the pointer.

function element(tag, content, name) {
  const made = document.createElement(tag);
  made.textContent = content; // never as HTML: it may be what an event said
  if (name) made.className = name;
  return made;
}

function rowsOfFacts(into, pairs) {
  const list = document.createElement("dl");
  for (const [name, value] of pairs) if (value !== "" && value !== undefined) list.append(element("dt", name), element("dd", value));
  into.append(list);
}

function link(into, label, action, name) {
  const button = element("button", label, `link ${name ?? ""}`);
  button.onclick = action;
  into.append(button);
}

const SHOWN_MAX = 50;

function links(into, title, items, label, action, name) {
  if (!items.length) return;
  into.append(element("h2", `${title} (${items.length})`));
  for (const item of items.slice(0, SHOWN_MAX)) link(into, label(item), () => action(item), name?.(item));
  if (items.length > SHOWN_MAX) into.append(element("p", `and ${items.length - SHOWN_MAX} more`));
}

const runLabel = (row) => `${text(R.kind[row])} ${text(R.name[row])}, run ${R.run[row]}, ${statusOf(row)}`;
const eventLabel = (event) => `event ${E.sequence[event]}  ${text(E.subject[event])}`;
const isBad = (row) => (FAILED.has(statusOf(row)) ? "failed" : "");

// A path as a shell takes it for one word.
const forShell = (path) => (/^[\w.,:@%+=\/][\w.,:@%+=\/-]*$/.test(path) ? path : `'${path.replaceAll("'", `'\\''`)}'`);

function describe() {
  const into = document.getElementById("details");
  into.replaceChildren();
  if (picked.row >= 0) describeRun(into, picked.row);
  else if (picked.event >= 0) describeEvent(into, picked.event);
  else into.append(element("p", "Click a bar or an event to see what led to it and what came of it."));
}

function describeRun(into, row) {
  into.append(element("h2", runLabel(row), isBad(row)));
  const parent = rowOf.get(R.parent[row]);
  rowsOfFacts(into, [
    ["key", text(R.key[row])],
    ["began", when(begins[row], 6)],
    ["took", R.end[row] < 0 ? "has not ended" : span(ends[row] - begins[row])],
    ["attempt", R.attempt[row] > 1 ? String(R.attempt[row]) : ""],
    ["input", text(R.args[row])],
    ["error", text(R.error[row])],
  ]);
  const segments = [];
  for (let s = segmentFrom[row]; s < segmentFrom[row + 1]; s++) segments.push(s);
  links(into, "attempts and waits", segments, segmentLabel, (s) => show(begins[row], ends[row], G.begin[s]), (s) => (text(G.kind[s]) === "failed" ? "failed" : ""));
  const events = (eventsOf.get(R.run[row]) ?? []).map((one) => eventOf.get(one)).filter((one) => one !== undefined);
  links(into, "because of", events, eventLabel, pickEvent);
  if (parent !== undefined) links(into, "asked for by", [parent], runLabel, pickRow, isBad);
  links(into, "steps", childrenOf.get(R.run[row]) ?? [], runLabel, pickRow, isBad);
  links(into, "emitted", emittedBy.get(R.run[row]) ?? [], eventLabel, pickEvent);
  const hint = element("p", "all of it: ");
  hint.append(element("code", `headrace trace ${forShell(D.log)} --run ${R.run[row]}`));
  into.append(hint);
}

function segmentLabel(s) {
  const length = span((G.end[s] < 0 ? END : G.end[s]) - G.begin[s]);
  const kind = text(G.kind[s]);
  return kind === "failed" ? `failed after ${length}: ${text(G.text[s])}` : `${text(G.text[s])} ${length}${G.end[s] < 0 ? ", still waits" : ""}`;
}

function describeEvent(into, event) {
  into.append(element("h2", eventLabel(event)));
  rowsOfFacts(into, [["at", when(E.at[event], 6)], ["data", text(E.data[event])]]);
  const by = rowOf.get(E.run[event]);
  if (by !== undefined) links(into, "emitted by", [by], runLabel, pickRow, isBad);
  const met = (metBy.get(E.sequence[event]) ?? []).map((run) => rowOf.get(run)).filter((row) => row !== undefined);
  links(into, "led to", met, runLabel, pickRow, isBad);
}

function tipOf(thing) {
  if (thing.row >= 0) {
    const row = thing.row, error = text(R.error[row]);
    const took = R.end[row] < 0 ? "has not ended" : `took ${span(ends[row] - begins[row])}`;
    return `${runLabel(row)}\n${text(R.key[row])} ${text(R.args[row])}\n${when(begins[row])}, ${took}${error ? `\n${error}` : ""}`;
  }
  if (thing.event >= 0) return `${eventLabel(thing.event)}\n${text(E.data[thing.event])}\n${when(E.at[thing.event])}`;
  if (thing.point >= 0) {
    const P = D.points;
    return `${text(P.kind[thing.point])}: ${text(P.name[thing.point])}, record ${P.sequence[thing.point]}\n${text(P.text[thing.point])}\n${when(P.at[thing.point])}`;
  }
  return "";
}
