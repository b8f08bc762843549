// Time on the screen: with idle gaps collapsed, real and shown time differ.

const GAPS_MAX = 500;
const STEP = 8; // gaps stand out if the next shorter pause is so many times shorter
const GAP_WIDTH = 60; // of the time that is left, the part that a gap is shown as, or less

class Axis {
  // Pieces [from, to) of real time and where they are shown; those that are idle are short.
  constructor(collapsed) {
    this.gaps = collapsed ? idleGaps() : [];
    const busy = Math.max(1, this.gaps.reduce((left, [from, to]) => left - (to - from), END));
    const width = busy / Math.max(GAP_WIDTH, 4 * this.gaps.length);
    this.real = [0];
    this.shown = [0];
    let real = 0, shown = 0;
    for (const [from, to] of this.gaps) {
      shown += from - real;
      this.real.push(from, to);
      this.shown.push(shown, shown + width);
      shown += width;
      real = to;
    }
    this.end = Math.max(1, shown + (END - real));
    this.real.push(END);
    this.shown.push(this.end);
  }

  toShown(time) { return between(this.real, this.shown, time); }
  toReal(shown) { return between(this.shown, this.real, shown); }
}

function between(from, to, value) {
  let low = 0, high = from.length - 2;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (from[middle] <= value) low = middle; else high = middle - 1;
  }
  const length = from[low + 1] - from[low];
  if (length <= 0) return to[low];
  return to[low] + ((value - from[low]) * (to[low + 1] - to[low])) / length;
}

// Nothing happens between two moments of this list.
function moments() {
  const many = [0, END];
  for (const column of [R.begin, R.end, G.begin, G.end, E.at, D.points.at, D.marks.at])
    for (const at of column) if (at >= 0) many.push(at);
  for (const at of D.heat.at) many.push(Math.min(END, Math.max(0, at)));
  return Float64Array.from(many).sort();
}

// The pauses that stand out: far longer than all others, and together most of the time.
function idleGaps() {
  const at = moments(), pauses = [];
  for (let i = 1; i < at.length; i++) if (at[i] > at[i - 1]) pauses.push([at[i - 1], at[i]]);
  const length = ([from, to]) => to - from;
  pauses.sort((a, b) => length(b) - length(a));
  let taken = 0, busy = END, idle = 0;
  for (let i = 0; i + 1 < pauses.length && i < GAPS_MAX; i++) {
    idle += length(pauses[i]);
    if (length(pauses[i]) < STEP * length(pauses[i + 1])) continue;
    // Of a log that is all short work and long pauses, the second step takes those away too.
    if (idle < busy * (taken ? 0.95 : 0.5)) break;
    taken = i + 1;
    busy -= idle;
    idle = 0;
  }
  return pauses.slice(0, taken).sort((a, b) => a[0] - b[0]);
}
