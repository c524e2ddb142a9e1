// Charts: SVG with text, round numbers at the axes, and words for those who do not see it.
const escaped = text => text.replace(/[&<>"]/g, c => `&#${c.charCodeAt(0)};`);
// Multiples of 1, 2 or 5 times a power of ten, about so many.
function ticks([from, to], wanted, whole) {
  const rough = (to - from) / wanted;
  if (!(rough > 0)) return [[from, String(from)]];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max([1, 2, 5, 10].map(factor => factor * power).find(step => step >= .999 * rough), whole ? 1 : 0);
  const digits = Math.max(0, Math.ceil(-Math.log10(step) - 1e-9)), all = [];
  for (let i = Math.ceil(from / step - 1e-9); i <= to / step + 1e-9; i++) {
    const value = i * step || 0; // a zero has no sign here
    all.push([value, digits === 0 ? value.toLocaleString("en") : value.toFixed(digits)]);
  }
  return all;
}
// On a root scale round numbers lie close together at the top, so from there down only those with enough room are taken.
function rootTicks(most, room) {
  const all = [[0, "0"]];
  let last = Infinity;
  for (let power = 10 ** Math.floor(Math.log10(most)); power >= 1; power /= 10) for (const factor of [5, 2, 1]) {
    const value = factor * power, place = Math.sqrt(value / most);
    if (value <= most && last - place >= room && place >= room) { all.push([value, value.toLocaleString("en")]); last = place; }
  }
  return all;
}
// A chart in element `id`: axes `x` and `y` ({ range, whole, ticks, label, scale }), and a body made with the places of both.
function plot(id, title, desc, x, y, body) {
  const element = at(id), em = parseFloat(getComputedStyle(document.documentElement).fontSize) * .75;
  const width = Math.max(280, element.clientWidth), height = 15 * em;
  const [left, top, right, bottom] = [5 * em, .8 * em, 1.2 * em, 3.2 * em];
  const share = (axis, value) => (axis.scale ?? (v => v))((value - axis.range[0]) / (axis.range[1] - axis.range[0]));
  const px = value => +(left + share(x, value) * (width - left - right)).toFixed(1);
  const py = value => +(height - bottom - share(y, value) * (height - top - bottom)).toFixed(1);
  let out = `<svg viewBox="0 0 ${width} ${height}" height="${height}" role="img" aria-labelledby="${id}_title ${id}_desc"><title id="${id}_title">${escaped(title)}</title><desc id="${id}_desc">${escaped(desc)}</desc>`;
  for (const [value, text] of x.ticks ?? ticks(x.range, Math.min(10, width / (5 * em)), x.whole)) {
    const place = px(value);
    out += `<path class="axis" d="M${place} ${top}V${height - bottom + .3 * em}"/><text x="${place}" y="${height - bottom + 1.4 * em}" text-anchor="middle">${text}</text>`;
  }
  for (const [value, text] of y.ticks ?? ticks(y.range, 4, y.whole)) {
    const place = py(value);
    out += `<path class="axis" d="M${left - .3 * em} ${place}H${width - right}"/><text x="${left - .6 * em}" y="${place + .35 * em}" text-anchor="end">${text}</text>`;
  }
  const middle = (height - bottom + top) / 2;
  out += `<text x="${(left + width - right) / 2}" y="${height - .4 * em}" text-anchor="middle">${escaped(x.label)}</text>`;
  out += `<text transform="translate(${em} ${middle}) rotate(-90)" text-anchor="middle">${escaped(y.label)}</text>`;
  element.innerHTML = out + body(px, py) + "</svg>";
}
const SHARES = { range: [0, 1], ticks: [0, .2, .4, .6, .8, 1].map(value => [value, value.toFixed(1)]) };
const SCORES = { range: [low, high], label: "score" };
const now = (px, py, y) => `<path class="now" d="M${px(threshold)} ${py(y.range[0])}V${py(y.range[1])}"/>`;
// Bars that touch each other, as one shape.
const bars = (edges, values, foot) => edges.slice(0, -1).map((edge, i) => values[i] === foot ? "" : `M${edge} ${foot}V${values[i]}H${edges[i + 1]}V${foot}Z`).join("");
const BINS = 100, edges = Array.from({ length: BINS + 1 }, (_, i) => score(i / BINS));
const histogram = counts => which => { // of all scores, or of those of one fate
  for (const m of data.micrographs) for (let i = 0; i < m.length; i++)
    if (which === null || m.fates[i] === which) counts[Math.min(BINS - 1, m.values[4 * i + 3] * BINS / 65536 | 0)]++;
  return counts;
};
const [all, right, wrong] = data.truth ? [null, histogram(new Uint32Array(BINS))(1), histogram(new Uint32Array(BINS))(0)] : [histogram(new Uint32Array(BINS))(null)];
const root = value => Math.sign(value) * Math.sqrt(Math.abs(value));
function drawScores() {
  const most = Math.max(1, ...data.truth ? [...right, ...wrong] : all), y = { label: "count, root scale" };
  const x = SCORES, desc = `Most in one bin of a hundredth: ${most}. The line is at the threshold ${threshold.toFixed(3)}.`;
  const numbers = rootTicks(most, data.truth ? .3 : .16);
  if (!data.truth) {
    Object.assign(y, { range: [0, most], scale: root, ticks: numbers });
    return plot("scores", "Scores of all peaks", desc, x, y, (px, py) =>
      Array.from(all, (value, i) => value && `<path fill="${shade((i + .5) * 65535 / BINS).colour}" stroke="var(--quiet)" stroke-width=".6" d="${bars([px(edges[i]), px(edges[i + 1])], [py(value)], py(0))}"/>`).join("") + now(px, py, y));
  }
  // Right picks go up and false ones down from the middle.
  Object.assign(y, { range: [-most, most], scale: share => (root(2 * share - 1) + 1) / 2, ticks: [...numbers, ...numbers.slice(1).map(([value, text]) => [-value, text])] });
  plot("scores", "Scores of right and false picks", desc, x, y, (px, py) => {
    const across = edges.map(px);
    return `<path class="fill right" d="${bars(across, Array.from(right, py), py(0))}"/><path class="fill wrong" d="${bars(across, Array.from(wrong, value => py(-value)), py(0))}"/>` + now(px, py, y);
  });
}
function drawCounts() {
  const values = order.map(m => data.truth ? worth(m, threshold) : things(m, threshold)), length = Math.max(1, values.length);
  const what = data.truth ? "F1" : data.fibers && data.micrographs.some(m => fibers(m, threshold) === null) ? "points" : data.fibers ? "fibers" : "picks";
  at("counts_are").textContent = `${what[0].toUpperCase()}${what.slice(1)} per micrograph`;
  const most = Math.max(1, ...values), step = ticks([0, most], 4, true)[1][0];
  const y = data.truth ? { ...SHARES, label: what } : { range: [0, Math.ceil(most / step) * step], whole: true, label: what };
  const x = { range: [.5, length + .5], whole: true, label: "micrograph, in the order below" };
  const middle = [...values].sort((a, b) => a - b)[length >> 1] ?? 0;
  plot("counts", `${what} of each micrograph`, `${length} micrographs: least ${Math.min(...values)}, median ${+middle.toFixed(3)}, most ${Math.max(...values)}.`, x, y, (px, py) => {
    const gap = Math.min(.1, 20 / length * .02);
    return `<path class="fill right" d="${values.map((value, i) => bars([px(i + .5 + gap), px(i + 1.5 - gap)], [py(value)], py(0))).join("")}"/>`;
  });
}
// Precision, recall and F1 at thresholds over the whole range.
const lowest = Math.max(low, data.lowest), STEPS = 400, curve = [];
if (data.truth) for (let i = 0; i <= STEPS; i++) {
  const threshold = lowest + (high - lowest) * i / STEPS, sum = pooled(threshold);
  if (sum.right + sum.wrong) curve.push({ threshold, ...rates(sum) });
}
function drawCurves() {
  const here = rates(pooled(threshold)), y = { ...SHARES, label: "share" };
  const line = (style, points) => points.length ? `<path class="line ${style}" d="M${points.map(point => point.join(" ")).join("L")}"/>` : "";
  const desc = `At the threshold ${threshold.toFixed(3)}: precision ${here.precision.toFixed(3)}, recall ${here.recall.toFixed(3)}, F1 ${here.f1.toFixed(3)}.`;
  plot("curves", "Precision, recall and F1 over the threshold", desc, { ...SCORES, label: "threshold" }, y, (px, py) =>
    [["precision", "wrong dashes"], ["recall", "right dots"], ["f1", "ink"]].map(([key, style]) => line(style, curve.map(point => [px(point.threshold), py(point[key])]))).join("") + now(px, py, y));
  plot("pr", "Precision over recall", desc, { ...SHARES, label: "recall" }, { ...SHARES, label: "precision" }, (px, py) => {
    const band = data.band.length ? `<path class="fill band" d="M${[...data.band.map(([x, , top]) => [px(x), py(top)]), ...data.band.map(([x, bottom]) => [px(x), py(bottom)]).reverse()].map(point => point.join(" ")).join("L")}Z"/>` : "";
    return band + line("right", curve.map(point => [px(point.recall), py(point.precision)])) + `<circle class="fill dot" cx="${px(here.recall)}" cy="${py(here.precision)}" r="6"/>`;
  });
}
