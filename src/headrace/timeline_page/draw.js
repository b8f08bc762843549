// Draws the lanes and the strip above them.  Nothing is drawn that is not on the screen, and of
// bars that share a pixel one.

const GUTTER = 170, STRIP = 40;
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
const INK = dark ? "#e3e8ee" : "#1f2630", QUIET = dark ? "#8a95a3" : "#6b7480";
const LINE = dark ? "#30363d" : "#e3e6ea", BACK = dark ? "#14171a" : "#ffffff";
const GAP = dark ? "#22282f" : "#eef0f3", HIT = "#ff9500", ARROW = dark ? "#c9a2ff" : "#7a3fd1";
const COLORS = {
  completed: "#3f9b62", dead: "#d63a34", failed: "#e0702c", cancelled: "#9a8f3c",
  active: "#3b82d0", retrying: "#b58bd8", waiting: "#8fa3b8", compensating: "#c2578f",
};
const PAUSED = dark ? "#ffffff55" : "#ffffffa8", BAD = "#8f1511";

let axis = new Axis(true);
let shownBegin, shownEnd, shownEvent; // of each run and event, in shown time
const view = { from: 0, to: axis.end, scroll: 0 };
const picked = { row: -1, event: -1, hits: null, hitEvents: null };
const canvas = document.getElementById("lanes"), heatCanvas = document.getElementById("heat");
let width = 0, height = 0;

function place() {
  shownBegin = begins.map((at) => axis.toShown(at));
  shownEnd = ends.map((at) => axis.toShown(at));
  shownEvent = Float64Array.from(E.at, (at) => axis.toShown(at));
}

const xOf = (shown) => GUTTER + ((shown - view.from) / (view.to - view.from)) * (width - GUTTER);
const shownAt = (x) => view.from + ((x - GUTTER) / (width - GUTTER)) * (view.to - view.from);
const xOfTime = (time) => xOf(axis.toShown(time));

function prepare(element) {
  const box = element.getBoundingClientRect(), scale = window.devicePixelRatio || 1;
  const w = Math.round(box.width * scale), h = Math.round(box.height * scale);
  if (element.width !== w || element.height !== h) { element.width = w; element.height = h; }
  const c = element.getContext("2d");
  c.setTransform(scale, 0, 0, scale, 0, 0);
  c.fillStyle = BACK;
  c.fillRect(0, 0, box.width, box.height);
  c.font = "11px system-ui, sans-serif";
  c.textBaseline = "middle";
  return [c, box.width, box.height];
}

const stats = { draws: 0, bars: 0, ms: 0, worst: 0 };

function draw() {
  const started = performance.now();
  const [c, w, h] = prepare(canvas);
  [width, height] = [w, h];
  view.scroll = Math.max(0, Math.min(view.scroll, lanes.height - (height - 20)));
  stats.bars = 0;
  drawGaps(c);
  for (const lane of lanes) {
    const top = lane.top - view.scroll;
    if (top + lane.height >= 0 && top < height) drawLane(c, lane, top);
  }
  drawMarks(c);
  drawArrows(c);
  drawGutter(c);
  drawAxis(c);
  drawHeat();
  stats.draws++;
  stats.ms = performance.now() - started;
  stats.worst = Math.max(stats.worst, stats.ms);
}

function drawGaps(c) {
  c.fillStyle = GAP;
  for (const [from, to] of axis.gaps) {
    const x0 = Math.max(GUTTER, xOfTime(from)), x1 = Math.min(width, xOfTime(to));
    if (x1 > x0) c.fillRect(x0, 0, x1 - x0, height);
  }
}

function drawMarks(c) {
  c.fillStyle = QUIET;
  let last = -9;
  D.marks.at.forEach((at) => {
    const x = xOfTime(at);
    if (x < GUTTER || x > width || x - last < 1) return;
    last = x;
    for (let y = 0; y < height; y += 6) c.fillRect(x, y, 1, 3);
  });
}

// The first of a line's bars that ends at or after a moment.
function firstAfter(line, shown) {
  let low = 0, high = line.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (shownEnd[line[middle]] < shown) low = middle + 1; else high = middle;
  }
  return low;
}

function drawLane(c, lane, top) {
  c.fillStyle = LINE;
  c.fillRect(0, top + lane.height - 1, width, 1);
  if (lane.title === "events") drawEvents(c, top + HEAD);
  drawPoints(c, lane, top);
  const first = Math.max(0, Math.floor((-top - HEAD) / ROW));
  const last = Math.min(lane.rows.length, Math.ceil((height - top - HEAD) / ROW));
  for (let line = first; line < last; line++) drawLine(c, lane.rows[line], top + HEAD + line * ROW);
}

function drawLine(c, line, y) {
  let lastX = -1, lastBad = false;
  for (let i = firstAfter(line, view.from); i < line.length; i++) {
    const row = line[i];
    if (shownBegin[row] > view.to) break;
    const x0 = Math.max(GUTTER, xOf(shownBegin[row]));
    const x1 = Math.max(Math.min(width, xOf(shownEnd[row])), x0 + 1.5);
    const status = statusOf(row), bad = FAILED.has(status), hit = picked.hits?.has(row);
    // Of what shares a pixel one bar is drawn, and rather one that failed or was searched.
    if (x1 <= lastX + 0.5 && !hit && (lastBad || !bad)) continue;
    stats.bars++;
    c.globalAlpha = picked.hits && !hit ? 0.22 : 1;
    c.fillStyle = COLORS[status] ?? QUIET;
    c.fillRect(x0, y + 1, x1 - x0, ROW - 3);
    lastX = x1;
    lastBad = bad;
    if (x1 - x0 > 5) drawInside(c, row, x0, x1, y);
    if (hit) outline(c, HIT, x0, x1, y, 2);
    if (row === picked.row) outline(c, INK, x0, x1, y, 2);
    c.globalAlpha = 1;
  }
}

function outline(c, color, x0, x1, y, thick) {
  c.strokeStyle = color;
  c.lineWidth = thick;
  c.strokeRect(x0 - 0.5, y + 0.5, x1 - x0 + 1, ROW - 2);
}

function drawInside(c, row, x0, x1, y) {
  for (let s = segmentFrom[row]; s < segmentFrom[row + 1]; s++) {
    const end = G.end[s] < 0 ? END : G.end[s];
    const a = Math.max(x0, xOfTime(G.begin[s])), b = Math.min(x1, xOfTime(end));
    if (b < x0 || a > x1) continue;
    if (text(G.kind[s]) === "failed") {
      c.fillStyle = BAD;
      c.fillRect(a, y + ROW - 5, Math.max(b - a, 2), 3); // which attempt failed, and until when
      c.fillRect(Math.max(a, b - 2), y + 1, 2, ROW - 3);
    } else if (b - a > 0.5) {
      c.fillStyle = PAUSED;
      c.fillRect(a, y + 3, b - a, ROW - 7);
    }
  }
  if (x1 - x0 > 46) {
    const key = text(R.key[row]);
    c.save();
    c.beginPath();
    c.rect(x0, y, x1 - x0, ROW);
    c.clip();
    c.fillStyle = "#10151b";
    c.fillText(`${R.run[row]}${key ? ` ${key}` : ""} ${text(R.args[row])}`, x0 + 4, y + ROW / 2);
    c.restore();
  }
}

// The first event at or after a moment: they are in the order of the log, and so of time.
function eventAfter(shown) {
  let low = 0, high = EVENTS;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (shownEvent[middle] < shown) low = middle + 1; else high = middle;
  }
  return low;
}

function drawEvents(c, y) {
  let last = -9;
  for (let i = eventAfter(shownAt(GUTTER - 4)); i < EVENTS && shownEvent[i] <= view.to; i++) {
    const x = xOf(shownEvent[i]), hit = picked.hitEvents?.has(i) || i === picked.event;
    if (x - last < 1 && !hit) continue;
    last = x;
    c.fillStyle = i === picked.event ? INK : hit ? HIT : E.run[i] ? ARROW : COLORS.active;
    c.beginPath();
    c.moveTo(x, y + 1); c.lineTo(x + 4, y + 6); c.lineTo(x, y + 11); c.lineTo(x - 4, y + 6);
    c.fill();
  }
}

function drawPoints(c, lane, top) {
  let last = -9;
  for (const point of lane.points) {
    const x = xOfTime(D.points.at[point]);
    if (x < GUTTER || x > width || x - last < 1) continue;
    last = x;
    c.fillStyle = text(D.points.kind[point]).startsWith("rule.") ? COLORS.dead : QUIET;
    c.fillRect(x - 1, top + 5, 2, HEAD - 8);
  }
}

const middleOf = (row) => topOf(row) + ROW / 2 - view.scroll;
const eventY = () => lanes[0].top + HEAD + 6 - view.scroll;

function curve(c, x0, y0, x1, y1) {
  if (Math.max(x0, x1) < GUTTER || Math.min(x0, x1) > width) return;
  const bend = Math.min(60, Math.abs(x1 - x0) / 2 + 14);
  c.beginPath();
  c.moveTo(x0, y0);
  c.bezierCurveTo(x0 + bend, y0, x1 - bend, y1, x1, y1);
  c.stroke();
  c.beginPath();
  c.moveTo(x1, y1); c.lineTo(x1 - 6, y1 - 3); c.lineTo(x1 - 6, y1 + 3);
  c.fill();
}

// From what led to a run, and to what it led to.
function arrowsOf(c, row, events) {
  const x = xOf(shownBegin[row]), y = middleOf(row);
  for (const sequence of eventsOf.get(R.run[row]) ?? []) {
    const event = eventOf.get(sequence);
    if (event !== undefined) curve(c, xOfTime(E.at[event]), eventY(), x, y);
  }
  for (const child of childrenOf.get(R.run[row]) ?? []) curve(c, x, y, xOf(shownBegin[child]), middleOf(child));
  if (events) for (const event of emittedBy.get(R.run[row]) ?? []) curve(c, x, y, xOfTime(E.at[event]), eventY());
}

const ARROWS_MAX = 250;

function drawArrows(c) {
  if (!document.getElementById("arrows").checked) return;
  c.save();
  c.beginPath();
  c.rect(GUTTER, 0, width - GUTTER, height);
  c.clip();
  c.strokeStyle = c.fillStyle = ARROW;
  c.lineWidth = 1;
  if (stats.bars <= ARROWS_MAX) {
    c.globalAlpha = picked.row < 0 ? 0.55 : 0.18;
    for (const row of visibleRows(ARROWS_MAX)) arrowsOf(c, row, true);
  }
  c.globalAlpha = 1;
  c.lineWidth = 1.5;
  for (const row of family(picked.row)) arrowsOf(c, row, true);
  c.restore();
}

function* visibleRows(most) {
  for (const lane of lanes) {
    const top = lane.top - view.scroll + HEAD;
    for (let line = 0; line < lane.rows.length; line++) {
      const y = top + line * ROW;
      if (y < -ROW || y > height) continue;
      const rows = lane.rows[line];
      for (let i = firstAfter(rows, view.from); i < rows.length && shownBegin[rows[i]] <= view.to; i++) {
        if (most-- <= 0) return;
        yield rows[i];
      }
    }
  }
}

// A run, what is above it, and what is below it.
function family(row) {
  const rows = new Set();
  if (row < 0) return rows;
  for (let above = row; above !== undefined && !rows.has(above); above = rowOf.get(R.parent[above])) rows.add(above);
  const below = [row];
  while (below.length && rows.size < 2000)
    for (const child of childrenOf.get(R.run[below.pop()]) ?? []) { rows.add(child); below.push(child); }
  return rows;
}

function drawGutter(c) {
  c.fillStyle = BACK;
  c.fillRect(0, 0, GUTTER - 2, height);
  c.fillStyle = LINE;
  c.fillRect(GUTTER - 2, 0, 1, height);
  for (const lane of lanes) {
    const top = lane.top - view.scroll;
    if (top + lane.height < 0 || top > height) continue;
    c.save();
    c.beginPath();
    c.rect(0, Math.max(0, top), GUTTER - 6, lane.height);
    c.clip();
    c.fillStyle = INK;
    // The title stays in sight for as long as anything of its lane does.
    const y = Math.max(0, Math.min(top + lane.height - HEAD, Math.max(top, 0))) + HEAD / 2 + 1;
    c.fillText(lane.title, 8, y);
    if (lane.height > 2 * HEAD) {
      c.fillStyle = QUIET;
      c.fillText(lane.title === "events" ? `${EVENTS} of ${D.events_total} shown` : `${lane.runs} run${lane.runs === 1 ? "" : "s"}`, 8, y + 14);
    }
    c.restore();
  }
}

function drawAxis(c) {
  const y = height - 10;
  c.fillStyle = BACK;
  c.fillRect(0, height - 20, width, 20);
  c.fillStyle = LINE;
  c.fillRect(0, height - 20, width, 1);
  c.fillStyle = QUIET;
  const scale = (view.to - view.from) / (width - GUTTER);
  const digits = scale < 20 ? 6 : scale < 20000 ? 3 : 0;
  let day = "";
  for (let x = GUTTER; x < width - 90; x += x === GUTTER ? 200 : 150) {
    const said = when(axis.toReal(shownAt(x)), digits);
    c.fillRect(x, height - 20, 1, 4);
    // The day is said where it changes.
    c.fillText(x === GUTTER ? said : said.slice(said.slice(0, 10) === day ? 11 : 5), x + 3, y);
    day = said.slice(0, 10);
  }
  c.fillText("UTC", 8, y);
  let free = GUTTER;
  for (const [from, to] of axis.gaps) {
    const middle = (xOfTime(from) + xOfTime(to)) / 2, label = `idle ${span(to - from)}`;
    const wide = c.measureText(label).width, x = middle - wide / 2;
    if (x < free || x + wide > width) continue;
    c.fillText(label, x, height - 28);
    free = x + wide + 6;
  }
}

function drawHeat() {
  const [c, w] = prepare(heatCanvas);
  const cells = Math.max(1, Math.floor((w - GUTTER) / 2)), counts = new Float64Array(cells), bad = new Float64Array(cells);
  const heat = D.heat, most = () => counts.reduce((a, b) => Math.max(a, b), 1);
  const cellOf = (time) => Math.max(0, Math.min(cells - 1, Math.floor((axis.toShown(time) / axis.end) * cells)));
  for (let i = 0; i < heat.at.length; i++) {
    const from = cellOf(heat.at[i]), to = cellOf(Math.min(END, heat.at[i] + heat.width));
    for (let cell = from; cell <= to; cell++) counts[cell] += heat.events[i] / (to - from + 1);
    bad[from] += heat.failures[i];
  }
  const peak = Math.log1p(most());
  for (let cell = 0; cell < cells; cell++) {
    if (counts[cell]) {
      const part = Math.log1p(counts[cell]) / peak;
      c.fillStyle = `hsl(214 70% ${dark ? 26 + 40 * part : 84 - 46 * part}%)`;
      c.fillRect(GUTTER + cell * 2, 6 + (1 - part) * 18, 2, STRIP - 12 - (1 - part) * 18);
    }
    if (bad[cell]) { c.fillStyle = COLORS.dead; c.fillRect(GUTTER + cell * 2, STRIP - 4, 2, 8); }
  }
  c.fillStyle = GAP;
  for (const [from, to] of axis.gaps) {
    const x0 = GUTTER + (axis.toShown(from) / axis.end) * (w - GUTTER), x1 = GUTTER + (axis.toShown(to) / axis.end) * (w - GUTTER);
    c.fillRect(x0, 0, x1 - x0, STRIP + 6);
  }
  c.fillStyle = INK;
  c.fillText("events", 8, 16);
  c.fillStyle = COLORS.dead;
  c.fillText("failed attempts", 8, STRIP);
  c.fillStyle = QUIET;
  c.fillText(when(0, 0), GUTTER, 54);
  const last = when(END, 0);
  c.fillText(last, w - c.measureText(last).width - 6, 54);
  const x0 = GUTTER + (view.from / axis.end) * (w - GUTTER), x1 = GUTTER + (view.to / axis.end) * (w - GUTTER);
  c.strokeStyle = INK;
  c.lineWidth = 1.5;
  c.strokeRect(x0, 2, Math.max(2, x1 - x0 - 1), STRIP + 6);
  c.fillStyle = dark ? "#00000088" : "#ffffff99";
  c.fillRect(GUTTER, 2, x0 - GUTTER, STRIP + 6);
  c.fillRect(x1, 2, w - x1, STRIP + 6);
}
