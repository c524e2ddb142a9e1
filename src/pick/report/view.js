// The page itself: the grid of micrographs, the large view, the threshold, and what can be taken away.
let threshold = data.threshold ?? low, order = [];
const inRange = value => Math.min(high, Math.max(lowest, value));
const seen = new Set();
function drawCard(m) {
  const { canvas } = m, ratio = window.devicePixelRatio || 1, width = Math.round(Math.max(100, canvas.clientWidth) * ratio);
  const height = Math.max(1, Math.round(width * m.ny / m.nx));
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  paint(canvas, m, { x: 0, y: 0, width, unit: .7 * ratio * Math.max(1, width / ratio / 320) }, () => seen.has(m) && drawCard(m));
}
const watcher = new IntersectionObserver(entries => {
  for (const e of entries) {
    const m = data.micrographs[e.target.dataset.index];
    if (e.isIntersecting) { seen.add(m); drawCard(m); } else { seen.delete(m); m.canvas.width = m.canvas.width; }
  }
}, { rootMargin: "300px" });
// A name in two parts, of which the first is cut where there is no room.
function named(element, name) {
  const [head, tail] = ["head", "tail"].map(part => Object.assign(document.createElement("span"), { className: part }));
  const cut = Math.max(0, name.length - 12);
  head.textContent = name.slice(0, cut); tail.textContent = name.slice(cut);
  element.classList.add("name");
  element.title = name;
  element.replaceChildren(head, tail);
}
data.micrographs.forEach((m, i) => {
  m.card = Object.assign(document.createElement("button"), { type: "button", className: "card" });
  m.card.dataset.index = i;
  m.canvas = document.createElement("canvas");
  m.canvas.style.aspectRatio = `${m.nx} / ${m.ny}`;
  m.told = Object.assign(document.createElement("span"), { className: "told" });
  const name = document.createElement("span");
  named(name, m.name.split("/").pop());
  name.title = m.name;
  m.card.append(m.canvas, m.told, name);
  m.card.addEventListener("click", () => enlarge(m));
  watcher.observe(m.card);
});

// The large view: how often larger than the whole, and which place of the micrograph (shares) is in the middle.
const big = at("big"), view = { m: null, zoom: 1, x: .5, y: .5 };
const MOST_ZOOM = 40;
function layout() { // where the micrograph lies on the canvas, in its pixels
  const { m, zoom, x, y } = view, width = zoom * Math.min(big.width, big.height * m.nx / m.ny), height = width * m.ny / m.nx;
  return { width, height, x: big.width / 2 - x * width, y: big.height / 2 - y * height };
}
function drawLarge() {
  if (!at("large").open) return;
  const ratio = window.devicePixelRatio || 1, [width, height] = [big.clientWidth, big.clientHeight].map(extent => Math.max(1, Math.round(extent * ratio)));
  if (big.width !== width || big.height !== height) { big.width = width; big.height = height; }
  paint(big, view.m, { ...layout(), unit: ratio * Math.max(1, Math.min(width, height) / ratio / 900) }, drawLarge);
}
function look(zoom, x, y) {
  view.zoom = Math.min(MOST_ZOOM, Math.max(1, zoom));
  // The micrograph never leaves its middle, so that nobody loses it.
  [view.x, view.y] = view.zoom === 1 ? [.5, .5] : [x, y].map(share => Math.min(1, Math.max(0, share)));
  drawLarge();
}
// Zooms about a place of the canvas, which stays where it is.
function zoomAt(factor, px, py) {
  const before = layout(), share = [(px - before.x) / before.width, (py - before.y) / before.height];
  const zoom = Math.min(MOST_ZOOM, Math.max(1, view.zoom * factor)), grown = zoom / view.zoom;
  look(zoom, share[0] + (big.width / 2 - px) / (before.width * grown), share[1] + (big.height / 2 - py) / (before.height * grown));
}
const onCanvas = e => { const box = big.getBoundingClientRect(), ratio = big.width / box.width; return [(e.clientX - box.left) * ratio, (e.clientY - box.top) * ratio]; };
const middleOf = points => [0, 1].map(k => points.reduce((sum, point) => sum + point[k], 0) / points.length);
big.addEventListener("wheel", e => {
  e.preventDefault();
  // A pinch on a touchpad comes as a wheel with the control key, in small steps.
  zoomAt(Math.exp(-e.deltaY * (e.deltaMode ? .05 : e.ctrlKey ? .01 : .0015)), ...onCanvas(e));
}, { passive: false });
const fingers = new Map();
big.addEventListener("pointerdown", e => { big.setPointerCapture(e.pointerId); fingers.set(e.pointerId, onCanvas(e)); });
for (const end of ["pointerup", "pointercancel"]) big.addEventListener(end, e => fingers.delete(e.pointerId));
big.addEventListener("pointermove", e => {
  if (!fingers.has(e.pointerId)) return;
  const spread = points => points.length > 1 ? Math.hypot(points[0][0] - points[1][0], points[0][1] - points[1][1]) : 1;
  const before = [...fingers.values()];
  fingers.set(e.pointerId, onCanvas(e));
  const after = [...fingers.values()], [from, to] = [middleOf(before), middleOf(after)], { width, height } = layout();
  if (view.zoom > 1) look(view.zoom, view.x - (to[0] - from[0]) / width, view.y - (to[1] - from[1]) / height);
  if (after.length > 1) zoomAt(spread(after) / Math.max(1, spread(before)), ...to);
});
big.addEventListener("dblclick", () => look(1, .5, .5));
function enlarge(m) {
  if (view.m !== m) Object.assign(view, { m, zoom: 1, x: .5, y: .5 });
  const place = order.indexOf(m);
  named(at("caption"), m.name);
  at("place").textContent = `${place + 1} of ${order.length}`;
  at("previous").disabled = place <= 0;
  at("next").disabled = place >= order.length - 1;
  at("told").textContent = `${counted(m, threshold)} above ${+threshold.toFixed(4)}` + (data.truth ? ", " + told(judged(m, threshold)) : "");
  if (!at("large").open) { at("large").showModal(); big.focus(); }
  drawLarge();
}
function step(by) { const m = order[order.indexOf(view.m) + by]; if (m) enlarge(m); }
const zoomMiddle = factor => zoomAt(factor, big.width / 2, big.height / 2);
const KEYS = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), "+": () => zoomMiddle(1.4), "=": () => zoomMiddle(1.4), "-": () => zoomMiddle(1 / 1.4), 0: () => look(1, .5, .5) };
at("large").addEventListener("keydown", e => {
  const does = e.ctrlKey || e.metaKey || e.altKey ? null : KEYS[e.key];
  if (does) { e.preventDefault(); does(); }
});
for (const [id, key] of [["previous", "ArrowLeft"], ["next", "ArrowRight"], ["in", "+"], ["out", "-"], ["whole", 0]]) at(id).addEventListener("click", KEYS[key]);
at("close").addEventListener("click", () => at("large").close());
at("large").addEventListener("click", e => { if (e.target === at("large") && e.detail) {
  const box = at("large").getBoundingClientRect(); // beside the dialog, not on its rim
  if (e.clientX < box.left || e.clientX > box.right || e.clientY < box.top || e.clientY > box.bottom) at("large").close();
} });
at("large").addEventListener("close", () => { fingers.clear(); view.m.card.focus(); });

function sort() {
  const missed = m => m.wanted - judged(m, threshold).found, thing = m => things(m, threshold);
  const by = { worst: (a, b) => worth(a, threshold) - worth(b, threshold), missed: (a, b) => missed(b) - missed(a),
    wrong: (a, b) => judged(b, threshold).wrong - judged(a, threshold).wrong, fewest: (a, b) => thing(a) - thing(b),
    most: (a, b) => thing(b) - thing(a), name: (a, b) => a.name < b.name ? -1 : 1 }[at("order").value];
  order = [...data.micrographs].sort(by);
  at("grid").replaceChildren(...order.map(m => m.card));
}
function refresh() {
  let total = 0, empty = 0, points = false;
  for (const m of data.micrographs) {
    const number = things(m, threshold);
    total += number; empty += number === 0; points ||= data.fibers && fibers(m, threshold) === null;
    m.told.textContent = (data.truth ? `F1 ${worth(m, threshold).toFixed(2)}, ` : "") + counted(m, threshold);
  }
  const micrographs = count(data.micrographs.length, "micrograph"), thing = data.fibers && !points ? "fiber" : points ? "point" : "pick";
  at("total").textContent = data.truth ? told(pooled(threshold)) + (data.fibers ? `, ${count(total, "fiber")}` : "") : `${count(total, thing)} on ${micrographs}, ${empty} without`;
  const written = data.micrographs.find(m => m.traces !== undefined)?.traced_at;
  at("retraced").textContent = !points || data.truth || written === undefined ? ""
    : `Traces are those of the written threshold ${+written.toFixed(4)}; at another one you see the points that fibers would be traced through.`;
  at("threshold").value = threshold; at("number").value = +threshold.toFixed(4);
  at("command").textContent = `${data.command} ${+threshold.toFixed(4)}`;
  drawCharts();
  for (const m of seen) drawCard(m);
  if (at("large").open) enlarge(view.m);
}
function drawCharts() {
  drawScores(); drawCounts();
  if (data.truth) drawCurves();
}
const set = value => { threshold = inRange(+value || 0); refresh(); };
const settle = () => { if (at("order").value !== "name") { sort(); refresh(); } };
at("threshold").addEventListener("input", e => set(e.target.value));
at("number").addEventListener("change", e => { set(e.target.value); settle(); });
at("order").addEventListener("change", () => { sort(); refresh(); });
at("threshold").addEventListener("change", settle);
window.addEventListener("resize", () => { drawCharts(); for (const m of seen) drawCard(m); drawLarge(); });

// Browsers keep the clipboard from pages that come from a file or over plain http, so there the older way is gone.
async function copied(text) {
  try { await navigator.clipboard.writeText(text); return true; } catch { /* not allowed here */ }
  const area = Object.assign(document.createElement("textarea"), { value: text, readOnly: true });
  area.style.cssText = "position:fixed;opacity:0";
  document.body.append(area);
  area.select();
  try { return document.execCommand("copy"); } catch { return false; } finally { area.remove(); at("copy").focus(); }
}
let asBefore = 0;
at("copy").addEventListener("click", async () => {
  const done = await copied(at("command").textContent);
  if (!done) getSelection().selectAllChildren(at("command"));
  at("copy").textContent = done ? "Copied" : "Selected: press Ctrl+C";
  clearTimeout(asBefore);
  asBefore = setTimeout(() => { at("copy").textContent = "Copy"; }, 2000);
});
at("save").addEventListener("click", () => {
  const [what, ending] = at("list").value.split(".");
  const rows = (what === "counts" ? countRows : pickRows)(order, threshold);
  const address = URL.createObjectURL(new Blob([table(rows, ending === "csv" ? "," : "\t")], { type: ending === "csv" ? "text/csv" : "text/tab-separated-values" }));
  Object.assign(document.createElement("a"), { href: address, download: `${what}_above_${+threshold.toFixed(4)}.${ending}` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
});

at("copy").setAttribute("aria-live", "polite");
at("about").textContent = data.about;
at("note").textContent = data.note;
at("line").hidden = !data.command;
for (const id of ["threshold", "number"]) { at(id).min = lowest; at(id).max = high; at(id).step = (high - low) / 200; }
at("number").step = "any";
at("ramp").style.background = `linear-gradient(to right, ${data.viridis.map(colour => `rgb(${colour})`).join(", ")})`;
const thing = data.fibers ? "fibers" : "picks";
const orders = data.truth ? [["worst", "lowest F1 first"], ["missed", "most missed first"], ["wrong", "most false picks first"], ["name", "by name"]]
  : [["worst", "lowest mean score first"], ["fewest", `fewest ${thing} first`], ["most", `most ${thing} first`], ["name", "by name"]];
at("order").append(...orders.map(([value, text]) => new Option(text, value)));
for (const [what, text] of [["counts", data.truth ? "scores of micrographs" : `${thing} per micrograph`], ["picks", data.fibers ? "points with x, y, score" : "picks with x, y, score"]])
  for (const ending of ["csv", "tsv"]) at("list").append(new Option(`${text} (${ending.toUpperCase()})`, `${what}.${ending}`));
at("scores_are").textContent = data.truth ? "Scores of right picks (up) and false ones (down); those right of the line are picked"
  : `Scores of all peaks; those right of the line are ${data.fibers ? "points of fibers" : "picks"}`;
if (data.truth) {
  document.title = at("title").textContent = "epicker report: picks and truth";
  at("scale").hidden = true;
  at("charts").className = "four";
  at("curves_figure").hidden = at("pr_figure").hidden = at("legend").hidden = false;
  if (data.band.length) at("pr_is").textContent += "; shaded: 95 % of resamplings of the micrographs";
  for (const [kind, { colour, name, dash, width }] of Object.entries(KINDS)) {
    const inside = data.fibers ? `<path d="M1 8h14" stroke-width="${1.6 * width}" stroke-dasharray="${dash.join(" ") || "none"}"/>` : { right: '<circle cx="8" cy="8" r="5"/>', wrong: '<rect x="3" y="3" width="10" height="10"/>',
      missed: '<path d="M8 2L14 8L8 14L2 8Z" stroke-dasharray="3 2"/>', border: '<circle cx="8" cy="8" r="5" stroke-dasharray="1 3"/>' }[kind];
    const label = document.createElement("label");
    label.innerHTML = `<input type="checkbox" id="show_${kind}" checked><svg viewBox="0 0 16 16" fill="none" stroke="${colour}" stroke-width="1.6" aria-hidden="true">${inside}</svg>${name}`;
    label.addEventListener("change", () => refresh());
    label.hidden = data.fibers && kind === "border"; // a fiber has no border of its own
    at("legend").append(label);
  }
}
// The threshold to go back to: the written one, or the best where the truth is known.
const best = curve.reduce((best, point) => point.f1 > best.f1 ? point : best, { f1: -1, threshold: lowest }).threshold;
const home = data.truth ? best : data.threshold ?? lowest;
at("back").textContent = data.truth ? "Best F1" : "Written";
at("back").title = `Threshold ${+home.toFixed(4)}`;
at("back").addEventListener("click", () => { set(home); sort(); refresh(); });
threshold = inRange(data.threshold ?? home);
sort(); refresh();
