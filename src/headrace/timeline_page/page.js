// What the reader does: move, zoom, pick, search.

const $ = (id) => document.getElementById(id);
let wanted = false;

function redraw() {
  if (wanted) return;
  wanted = true;
  requestAnimationFrame(() => { wanted = false; draw(); });
}

function look(from, to) {
  const least = 4, length = Math.min(Math.max(to - from, least), axis.end * 1.02);
  const middle = (from + to) / 2, edge = axis.end * 0.01;
  const start = Math.max(-edge, Math.min(middle - length / 2, axis.end + edge - length));
  view.from = start;
  view.to = start + length;
  redraw();
}

const fit = () => look(-axis.end * 0.01, axis.end * 1.01);

function zoom(factor, x) {
  const at = shownAt(x);
  look(at - (at - view.from) * factor, at + (view.to - at) * factor);
}

function move(part) {
  const by = (view.to - view.from) * part;
  look(view.from + by, view.to + by);
}

// Brings a stretch of real time into sight, with room around it.
function show(from, to, at = from) {
  const a = axis.toShown(from), b = axis.toShown(to), middle = axis.toShown(at);
  const length = Math.max((b - a) * 3, 1000, Math.min(view.to - view.from, axis.end / 50));
  look(middle - length / 2, middle + length / 2);
}

function pickRow(row) {
  pick(row, -1);
  if (shownEnd[row] < view.from || shownBegin[row] > view.to || shownEnd[row] - shownBegin[row] < (view.to - view.from) / 500) show(begins[row], ends[row]);
  const top = topOf(row);
  if (top < view.scroll + 20 || top > view.scroll + height - 60) view.scroll = top - height / 2;
  redraw();
}

function pickEvent(event) {
  pick(-1, event);
  const at = axis.toShown(E.at[event]);
  if (at < view.from || at > view.to) show(E.at[event], E.at[event]);
  view.scroll = 0;
  redraw();
}

function pick(row, event) {
  picked.row = row;
  picked.event = event;
  describe();
  redraw();
}

// What is under a place of the lanes.
function under(x, y) {
  const nothing = { row: -1, event: -1, point: -1 }, down = y + view.scroll;
  if (x < GUTTER || y > height - 20) return nothing;
  const lane = lanes.find((one) => down >= one.top && down < one.top + one.height);
  if (!lane) return nothing;
  const near = (at) => Math.abs(xOfTime(at) - x);
  const nearest = (many, timeOf) => many.reduce((best, one) => (near(timeOf(one)) < (best < 0 ? 5 : near(timeOf(best))) ? one : best), -1);
  const line = Math.floor((down - lane.top - HEAD) / ROW);
  if (lane.title === "events") {
    const after = eventAfter(shownAt(x));
    return { ...nothing, event: nearest([after - 1, after].filter((one) => one in E.at), (one) => E.at[one]) };
  }
  if (line < 0) return { ...nothing, point: nearest(lane.points, (one) => D.points.at[one]) };
  const rows = lane.rows[line];
  if (!rows) return nothing;
  const slack = ((view.to - view.from) / (width - GUTTER)) * 3, at = shownAt(x);
  let best = -1, distance = Infinity;
  for (let i = firstAfter(rows, at - slack); i < rows.length && shownBegin[rows[i]] <= at + slack; i++) {
    const row = rows[i], off = Math.max(shownBegin[row] - at, at - shownEnd[row], 0) - (FAILED.has(statusOf(row)) ? slack / 4 : 0);
    if (off < distance) { best = row; distance = off; }
  }
  return { ...nothing, row: best };
}

// ---------------------------------------------------------------- the lanes

let dragging = null;

canvas.addEventListener("pointerdown", (e) => {
  dragging = { x: e.offsetX, y: e.offsetY, from: view.from, to: view.to, scroll: view.scroll, moved: false };
  canvas.setPointerCapture(e.pointerId);
});
canvas.addEventListener("pointermove", (e) => {
  if (!dragging) return hover(e);
  const dx = e.offsetX - dragging.x, dy = e.offsetY - dragging.y;
  if (Math.abs(dx) + Math.abs(dy) > 4) dragging.moved = true;
  if (!dragging.moved) return;
  const by = (dx / (width - GUTTER)) * (dragging.to - dragging.from);
  view.scroll = dragging.scroll - dy;
  look(dragging.from - by, dragging.to - by);
});
canvas.addEventListener("pointerup", (e) => {
  if (dragging && !dragging.moved) {
    const found = under(e.offsetX, e.offsetY);
    pick(found.row, found.event);
  }
  dragging = null;
});
canvas.addEventListener("dblclick", (e) => zoom(0.25, e.offsetX));
canvas.addEventListener("pointerleave", () => { $("tip").hidden = true; });
canvas.addEventListener("wheel", (e) => {
  e.preventDefault();
  if (e.ctrlKey || e.metaKey) zoom(Math.exp(e.deltaY / 300), e.offsetX);
  else if (e.shiftKey || Math.abs(e.deltaX) > Math.abs(e.deltaY)) move((e.deltaX || e.deltaY) / 1000);
  else { view.scroll += e.deltaY; redraw(); }
}, { passive: false });

function hover(e) {
  const said = tipOf(under(e.offsetX, e.offsetY)), tip = $("tip");
  tip.hidden = !said;
  if (!said) return;
  tip.textContent = said;
  tip.style.left = `${Math.min(e.clientX + 14, innerWidth - 430)}px`;
  tip.style.top = `${e.clientY + 16}px`;
}

document.addEventListener("keydown", (e) => {
  if (e.target === $("search")) return e.key === "Escape" ? $("search").blur() : undefined;
  const x = (GUTTER + width) / 2;
  const action = {
    ArrowLeft: () => move(-0.2), ArrowRight: () => move(0.2),
    ArrowUp: () => { view.scroll -= 60; redraw(); }, ArrowDown: () => { view.scroll += 60; redraw(); },
    "+": () => zoom(0.5, x), "=": () => zoom(0.5, x), "-": () => zoom(2, x), 0: fit,
    "/": () => $("search").focus(), n: () => step(1), N: () => step(-1), Escape: () => pick(-1, -1),
  }[e.key];
  if (!action || e.ctrlKey || e.metaKey || e.altKey) return;
  e.preventDefault();
  action();
});

// ---------------------------------------------------------------- the strip above

const stripShown = (x) => ((x - GUTTER) / (heatCanvas.clientWidth - GUTTER)) * axis.end;
let brushed = null;
heatCanvas.addEventListener("pointerdown", (e) => { brushed = stripShown(e.offsetX); heatCanvas.setPointerCapture(e.pointerId); });
heatCanvas.addEventListener("pointermove", (e) => {
  if (brushed === null) return;
  const at = stripShown(e.offsetX);
  if (Math.abs(at - brushed) > axis.end / 300) look(Math.min(at, brushed), Math.max(at, brushed));
});
heatCanvas.addEventListener("pointerup", (e) => {
  const at = stripShown(e.offsetX), length = view.to - view.from;
  if (brushed !== null && Math.abs(at - brushed) <= axis.end / 300) look(at - length / 2, at + length / 2);
  brushed = null;
});

// ---------------------------------------------------------------- search

let results = [], current = -1;

function search() {
  const query = $("search").value.trim().toLowerCase();
  results = [];
  current = -1;
  picked.hits = picked.hitEvents = null;
  if (query) {
    const said = new Set();
    S.forEach((one, number) => { if (one.toLowerCase().includes(query)) said.add(number); });
    const hits = new Set(), hitEvents = new Set();
    for (let row = 0; row < RUNS; row++)
      if (String(R.run[row]) === query || [R.name, R.key, R.status, R.error, R.args].some((column) => said.has(column[row]))) hits.add(row);
    for (let s = 0; s < G.row.length; s++) if (said.has(G.text[s])) hits.add(G.row[s]);
    for (let i = 0; i < EVENTS; i++)
      if (String(E.sequence[i]) === query || said.has(E.subject[i]) || said.has(E.data[i])) hitEvents.add(i);
    picked.hits = hits;
    picked.hitEvents = hitEvents;
    results = [...[...hits].map((row) => [begins[row], row, -1]), ...[...hitEvents].map((event) => [E.at[event], -1, event])];
    results.sort((a, b) => a[0] - b[0]);
  }
  tell(query);
  redraw();
}

function tell(query) {
  $("found").textContent = !query ? "" : results.length ? (current < 0 ? `${results.length} found` : `${current + 1} of ${results.length}`) : "nothing found";
}

function step(by) {
  if (!results.length) return;
  current = (current + by + (current < 0 && by < 0 ? 1 : 0) + results.length) % results.length;
  const [, row, event] = results[current];
  if (row >= 0) pickRow(row); else pickEvent(event);
  tell("said");
}

let typing;
$("search").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(search, RUNS > 20000 ? 150 : 0); });
$("search").addEventListener("keydown", (e) => {
  if (e.key !== "Enter") return;
  clearTimeout(typing);
  if (picked.hits === null || current < 0) search();
  step(e.shiftKey ? -1 : 1);
});
$("next").onclick = () => step(1);
$("previous").onclick = () => step(-1);

// ---------------------------------------------------------------- the beginning

$("fit").onclick = fit;
$("arrows").onchange = redraw;
$("gaps").onchange = () => {
  const from = axis.toReal(view.from), to = axis.toReal(view.to), whole = view.to - view.from >= axis.end;
  axis = new Axis($("gaps").checked);
  place();
  if (whole) fit(); else look(axis.toShown(from), axis.toShown(to));
};
new ResizeObserver(redraw).observe(canvas);

document.title = `${D.log} · timeline`;
$("title").textContent = D.log;
$("summary").textContent = `records ${D.first} to ${D.last} · ${D.events_total} events · ${D.firings} firings · ${D.runs_total} runs · ${D.failures} failed attempts · ${span(END)}, UTC`;
const notes = [D.thinned, D.damage && `the log is damaged, and this ends before that: ${D.damage}`].filter(Boolean);
$("note").textContent = notes.join("; ");
$("note").hidden = !notes.length;
const statuses = new Set(R.status.map(text));
for (const [status, color] of Object.entries(COLORS)) {
  if (!statuses.has(status)) continue;
  const entry = element("span", status), dot = document.createElement("i");
  dot.style.background = color;
  entry.prepend(dot);
  $("legend").append(entry);
}

place();
describe();
look(-axis.end * 0.01, axis.end * 1.01);
draw();

// For tests: where a run is on the screen, and how long drawing takes.
window.timeline = {
  stats, view, picked, lanes,
  gaps: () => axis.gaps.length,
  results: () => results.length,
  placeOf(run) {
    const row = rowOf.get(run), box = canvas.getBoundingClientRect();
    return [box.left + (xOf(shownBegin[row]) + xOf(shownEnd[row])) / 2, box.top + middleOf(row)];
  },
};
