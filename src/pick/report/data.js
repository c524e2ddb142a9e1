// What the page holds, counted at any threshold.
const data = JSON.parse(document.getElementById("data").textContent);
const at = id => document.getElementById(id);
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
const [low, high] = data.range;
const part = score => (score - low) / (high - low), score = part => low + part * (high - low);
const numbers = text => { const raw = bytes(text); return new Uint16Array(raw.buffer, 0, raw.length / 2); };
const count = (number, one, many) => `${number.toLocaleString("en")} ${number === 1 ? one : many ?? one + "s"}`;
// Points of each fiber in the order of its path: their places in `along`, which has a fiber and a place on it for each point.
function paths(along) {
  const all = new Map();
  for (let i = 0; i < along.length; i += 2) {
    if (!all.has(along[i])) all.set(along[i], []);
    all.get(along[i]).push(i / 2);
  }
  for (const path of all.values()) path.sort((a, b) => along[2 * a + 1] - along[2 * b + 1]);
  return [...all.values()];
}
for (const m of data.micrographs) {
  m.values = numbers(m.picks); // x y radius score, best first
  m.length = m.values.length / 4;
  if (m.traces !== undefined) { // of each fiber: how many points, its score, and their x y
    const all = numbers(m.traces);
    m.traces = [];
    for (let i = 0; i + 1 < all.length; i += 2 + 2 * all[i]) m.traces.push({ score: all[i + 1], points: all.subarray(i + 2, i + 2 + 2 * all[i]) });
  }
  if (!data.truth) continue;
  m.fates = bytes(m.fates); // by pick: 0 wrong, 1 right, 2 at the border
  m.labels = numbers(m.labels); // x y radius, score that found it, 1 found + 2 at the border
  m.wanted = 0; // labels that count
  m.finds = []; // scores of those that were found, best first
  for (let i = 4; i < m.labels.length; i += 5) if (m.labels[i] < 2) { m.wanted++; if (m.labels[i]) m.finds.push(m.labels[i - 1]); }
  m.finds.sort((a, b) => b - a);
  m.hits = new Uint32Array(m.length + 1); // right and wrong among the best picks
  m.misses = new Uint32Array(m.length + 1);
  for (let i = 0; i < m.length; i++) {
    m.hits[i + 1] = m.hits[i] + (m.fates[i] === 1);
    m.misses[i + 1] = m.misses[i] + (m.fates[i] === 0);
  }
  if (m.along === undefined) continue;
  m.paths = paths(numbers(m.along));
  m.label_paths = paths(numbers(m.label_along));
  // The score of a fiber is that of its best point.
  m.fibers = m.paths.map(path => Math.max(...path.map(i => m.values[4 * i + 3])));
}
// Scores fall along the list, so the picks above a threshold are its first ones.
function above(m, threshold) {
  const limit = part(threshold) * 65535;
  let from = 0, to = m.length;
  while (from < to) { const middle = (from + to) >> 1; if (m.values[4 * middle + 3] > limit) from = middle + 1; else to = middle; }
  return from;
}
// Right and wrong picks, labels found and labels, above a threshold.
function judged(m, threshold) {
  const count = above(m, threshold), limit = part(threshold) * 65535;
  let from = 0, to = m.finds.length;
  while (from < to) { const middle = (from + to) >> 1; if (m.finds[middle] > limit) from = middle + 1; else to = middle; }
  return { right: m.hits[count], wrong: m.misses[count], found: from, wanted: m.wanted };
}
function rates(j) {
  const precision = j.right / Math.max(1, j.right + j.wrong), recall = j.found / Math.max(1, j.wanted);
  return { precision, recall, f1: precision + recall ? 2 * precision * recall / (precision + recall) : 0 };
}
function pooled(threshold) {
  const sum = { right: 0, wrong: 0, found: 0, wanted: 0 };
  for (const m of data.micrographs) { const j = judged(m, threshold); for (const key in sum) sum[key] += j[key]; }
  return sum;
}
// Fibers were traced at the written threshold only; another one would link other points.
const isTraced = (m, threshold) => m.traces !== undefined && Math.abs(threshold - m.traced_at) < 1e-6;
// Fibers of a micrograph, where they are known at this threshold; their points say nothing about their number.
function fibers(m, threshold) {
  if (m.fibers) { const limit = part(threshold) * 65535; return m.fibers.filter(score => score > limit).length; }
  return isTraced(m, threshold) ? m.traces.length : null;
}
// What is counted on a micrograph: fibers where they are known, else points or picks.
const things = (m, threshold) => fibers(m, threshold) ?? above(m, threshold);
function counted(m, threshold) {
  const traced = fibers(m, threshold);
  return traced !== null ? count(traced, "fiber") : count(above(m, threshold), data.fibers ? "point" : "pick");
}
// How bad: the mean score of the picks, and below all others those without any.
function meanScore(m, threshold) {
  const count = above(m, threshold);
  let sum = 0;
  for (let i = 0; i < count; i++) sum += m.values[4 * i + 3];
  return count ? score(sum / count / 65535) : null;
}
const worth = (m, threshold) => data.truth ? rates(judged(m, threshold)).f1 : meanScore(m, threshold) ?? low - 1;
function told(j) {
  const r = rates(j), share = x => x.toFixed(3), rest = [[j.right, "right"], [j.wrong, "false"], [j.wanted - j.found, "missed"]];
  return `F1 ${share(r.f1)}, precision ${share(r.precision)}, recall ${share(r.recall)}`
    + (data.fibers ? " by length" : ` (${rest.map(([n, word]) => `${n.toLocaleString("en")} ${word}`).join(", ")})`);
}
// Lists to save. A name may hold anything, so what would end a field is quoted, or replaced where there are no quotes.
function table(rows, separator) {
  const quoted = cell => /[",\r\n]/.test(cell) ? `"${cell.replace(/"/g, '""')}"` : cell;
  const cell = value => { const text = String(value ?? ""); return separator === "," ? quoted(text) : text.replace(/[\t\r\n]+/g, " "); };
  return rows.map(row => row.map(cell).join(separator)).join("\n") + "\n";
}
function countRows(micrographs, threshold) {
  const share = value => value === null ? "" : +value.toFixed(5);
  if (data.truth) return [["micrograph", ...data.fibers ? ["fibers"] : [], "f1", "precision", "recall", "right", "false", "missed"], ...micrographs.map(m => {
    const j = judged(m, threshold), r = rates(j);
    return [m.name, ...data.fibers ? [fibers(m, threshold)] : [], share(r.f1), share(r.precision), share(r.recall), j.right, j.wrong, j.wanted - j.found];
  })];
  return [["micrograph", ...data.fibers ? ["fibers", "points"] : ["picks"], "mean_score"], ...micrographs.map(m =>
    [m.name, ...data.fibers ? [fibers(m, threshold)] : [], above(m, threshold), share(meanScore(m, threshold))])];
}
// Positions in pixels of the micrograph, as exact as the page holds them.
function pickRows(micrographs, threshold) {
  const pixel = (m, share, extent) => +(share / 65535 * extent).toFixed(1), rows = [["micrograph", "x", "y", "score", ...data.truth ? ["fate"] : []]];
  for (const m of micrographs) for (let i = 0; i < above(m, threshold); i++) {
    const [x, y, , s] = m.values.subarray(4 * i, 4 * i + 4);
    rows.push([m.name, pixel(m, x, m.nx), pixel(m, y, m.ny), +score(s / 65535).toFixed(5), ...data.truth ? [["false", "right", "border"][m.fates[i]]] : []]);
  }
  return rows;
}
