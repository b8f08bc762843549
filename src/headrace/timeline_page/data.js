// What the report holds: columns of numbers, and the strings that they name.

const D = JSON.parse(document.getElementById("data").textContent);
const S = D.strings;
const R = D.runs, G = D.segments, E = D.events;
const RUNS = R.run.length, EVENTS = E.sequence.length;
const END = Math.max(D.end, 0);

const text = (number) => (number < 0 ? "" : S[number]);
const rowOf = new Map(R.run.map((run, row) => [run, row]));
const eventOf = new Map(E.sequence.map((sequence, place) => [sequence, place]));

// Times in µs from the beginning; what has not ended goes on to the end of the report.
const begins = Float64Array.from(R.begin);
const ends = Float64Array.from(R.end, (end, row) => Math.max(end < 0 ? END : end, R.begin[row]));

// Segments lie in the order of their runs: those of a row are from segmentFrom[row] on.
const segmentFrom = new Int32Array(RUNS + 1);
for (const row of G.row) segmentFrom[row + 1]++;
for (let row = 0; row < RUNS; row++) segmentFrom[row + 1] += segmentFrom[row];

function grouped(keys, values) {
  const groups = new Map();
  keys.forEach((key, place) => {
    if (!key) return;
    const group = groups.get(key);
    if (group) group.push(values[place]); else groups.set(key, [values[place]]);
  });
  return groups;
}
const childrenOf = grouped(R.parent, R.run.map((_, row) => row));
const emittedBy = grouped(E.run, E.sequence.map((_, place) => place));
const metBy = grouped(E.met, E.met_run);
const eventsOf = grouped(E.met_run, E.met);

const FAILED = new Set(["dead", "failed"]);
const statusOf = (row) => text(R.status[row]);

function when(us, digits = 3) {
  const ms = D.base_ms + us / 1000;
  const iso = new Date(ms).toISOString();
  const fraction = digits > 3 ? String(Math.floor(((us % 1000) + 1000) % 1000)).padStart(3, "0") : "";
  return iso.slice(0, 10) + " " + iso.slice(11, 19) + (digits ? iso.slice(19, 23) + fraction : "");
}

function span(us) {
  const s = us / 1e6, whole = Math.round(s), minutes = Math.round(s / 60), hours = Math.round(s / 3600);
  if (s < 0.001) return `${Math.round(us)} µs`;
  if (s < 1) return `${+(s * 1000).toPrecision(3)} ms`;
  if (s < 60) return `${+s.toPrecision(3)} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} m ${whole % 60} s`;
  if (minutes < 1440) return `${Math.floor(minutes / 60)} h ${minutes % 60} m`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}
