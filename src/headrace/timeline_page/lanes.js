// Where each run is drawn: a lane for each rule and task, and in it rows whose bars do not overlap.

const ROW = 14, HEAD = 18, PAD = 4;

class Heap { // of [number, value], the least number first
  constructor() { this.items = []; }
  get least() { return this.items[0]; }
  push(item) {
    const items = this.items;
    let at = items.push(item) - 1;
    while (at) {
      const above = (at - 1) >> 1;
      if (items[above][0] <= item[0]) break;
      items[at] = items[above];
      at = above;
    }
    items[at] = item;
  }
  pop() {
    const items = this.items, least = items[0], last = items.pop();
    if (items.length) {
      let at = 0;
      for (;;) {
        let below = 2 * at + 1;
        if (below >= items.length) break;
        if (below + 1 < items.length && items[below + 1][0] < items[below][0]) below++;
        if (items[below][0] >= last[0]) break;
        items[at] = items[below];
        at = below;
      }
      items[at] = last;
    }
    return least;
  }
}

function packed(rows) {
  const out = [], busy = new Heap(), free = new Heap();
  for (const row of rows.sort((a, b) => begins[a] - begins[b] || a - b)) {
    while (busy.least && busy.least[0] <= begins[row]) { const line = busy.pop()[1]; free.push([line, line]); }
    const line = free.least ? free.pop()[1] : out.push([]) - 1;
    out[line].push(row);
    lineOf[row] = line;
    busy.push([Math.max(ends[row], begins[row] + 1), line]); // what took no time still needs room
  }
  return out.map((line) => Int32Array.from(line));
}

const lineOf = new Int32Array(RUNS), laneOf = new Int32Array(RUNS);

function makeLanes() {
  const byName = new Map();
  for (let row = 0; row < RUNS; row++) {
    const title = `${text(R.kind[row]) === "rule" ? "rule" : "task"} ${text(R.name[row])}`;
    if (!byName.has(title)) byName.set(title, []);
    byName.get(title).push(row);
  }
  const points = new Map();
  D.points.at.forEach((_, place) => {
    const title = `rule ${text(D.points.name[place])}`;
    if (!points.has(title)) points.set(title, []);
    points.get(title).push(place);
    if (!byName.has(title)) byName.set(title, []);
  });
  const lanes = EVENTS ? [{ title: "events", rows: [], points: [], height: HEAD + ROW + PAD, runs: 0 }] : [];
  for (const [title, rows] of [...byName].sort((a, b) => order(a) - order(b))) {
    for (const row of rows) laneOf[row] = lanes.length;
    const lines = packed(rows);
    lanes.push({ title, rows: lines, points: points.get(title) ?? [], runs: rows.length, height: HEAD + lines.length * ROW + PAD });
  }
  let top = 0;
  for (const lane of lanes) { lane.top = top; top += lane.height; }
  lanes.height = top;
  return lanes;
}

// Rules first, then tasks, each by their first run.
const order = ([title, rows]) => (title.startsWith("rule ") ? 0 : 1e12) + (rows.length ? rows[0] : 1e9);

const lanes = makeLanes();
const topOf = (row) => lanes[laneOf[row]].top + HEAD + lineOf[row] * ROW;
