// Marks on a micrograph: scores in the colours of viridis, the truth in shapes, and a halo that shows on any grey.
const luminance = colour => {
  const linear = colour.map(value => value / 255).map(value => value <= .03928 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4);
  return .2126 * linear[0] + .7152 * linear[1] + .0722 * linear[2];
};
const viridis = Array.from({ length: 256 }, (_, i) => {
  const place = i / 255 * (data.viridis.length - 1), below = Math.min(Math.floor(place), data.viridis.length - 2);
  const colour = data.viridis[below].map((from, k) => Math.round(from + (place - below) * (data.viridis[below + 1][k] - from)));
  return { colour: `rgb(${colour})`, light: luminance(colour) <= .179 };
});
const shade = score => viridis[Math.min(255, score * 256 / 65536 | 0)];
const HALO = { true: "#fffb", false: "#000b" };
// Shapes as well as colours tell them apart. Source of the colours: Okabe and Ito 2008, Color Universal Design.
const circle = (g, x, y, r) => { g.moveTo(x + r, y); g.arc(x, y, r, 0, 7); };
const KINDS = {
  right: { colour: "#56b4e9", dash: [], width: 1, name: data.fibers ? "right (thin line)" : "right picks (circle)", path: circle },
  wrong: { colour: "#e69f00", dash: [], width: data.fibers ? 2.2 : 1, name: data.fibers ? "false (thick line)" : "false picks (square)",
    path: (g, x, y, r) => g.rect(x - .9 * r, y - .9 * r, 1.8 * r, 1.8 * r) },
  missed: { colour: "#f0e442", dash: [4, 3], width: 1, name: data.fibers ? "missed (dashes)" : "missed labels (diamond)", path: (g, x, y, r) => {
    g.moveTo(x, y - 1.2 * r); g.lineTo(x + 1.2 * r, y); g.lineTo(x, y + 1.2 * r); g.lineTo(x - 1.2 * r, y); g.closePath(); } },
  border: { colour: "#d0d0d0", dash: [1, 3], width: 1, name: "at the border, not counted (dots)", path: circle },
};
function picture(m) { // decoded once, when first seen
  if (!m.image) { m.image = new Image(); m.image.src = "data:image/png;base64," + m.thumbnail; }
  return m.image;
}
// Paints a micrograph whose left upper corner comes to lie at (x, y), `width` pixels wide; `unit` is the width of a line.
// If its picture is not decoded yet, `again` is called once it is.
function paint(canvas, m, { x, y, width, unit }, again) {
  const image = picture(m), g = canvas.getContext("2d"), height = width * m.ny / m.nx;
  if (!image.complete) { image.addEventListener("load", again, { once: true }); return; }
  g.clearRect(0, 0, canvas.width, canvas.height);
  g.imageSmoothingQuality = "high";
  g.drawImage(image, x, y, width, height);
  g.lineJoin = "round";
  const place = (values, i) => [x + values[i] / 65535 * width, y + values[i + 1] / 65535 * height];
  const radius = (values, i) => Math.max(1.5 * unit, values[i + 2] / 65535 * width);
  if (data.truth) paintTruth(g, m, place, radius, unit); else paintScores(g, m, place, radius, unit);
  g.setLineDash([]);
}
function paintScores(g, m, place, radius, unit) {
  const marks = []; // the best last, on top
  if (isTraced(m, threshold)) for (const trace of [...m.traces].reverse()) {
    const path = new Path2D();
    for (let i = 0; i < trace.points.length; i += 2) path.lineTo(...place(trace.points, i));
    marks.push({ path, score: trace.score, wide: 1.5 });
  }
  else for (let i = 4 * (above(m, threshold) - 1); i >= 0; i -= 4) {
    const path = new Path2D();
    circle(path, ...place(m.values, i), radius(m.values, i));
    marks.push({ path, score: m.values[i + 3], wide: 1 });
  }
  // All halos come first: none of them may cut through a neighbour's line.
  for (const { path, score, wide } of marks) { g.strokeStyle = HALO[shade(score).light]; g.lineWidth = (2.1 * wide + 1.9) * unit; g.stroke(path); }
  for (const { path, score, wide } of marks) { g.strokeStyle = shade(score).colour; g.lineWidth = 2.1 * wide * unit; g.stroke(path); }
}
function stroke(g, kind, path, unit) {
  const { colour, dash, width } = KINDS[kind];
  for (const [style, wide] of [["#000b", 1.8 * width + 1.8], [colour, 1.8 * width]]) {
    g.setLineDash(style === colour ? dash.map(length => length * unit) : []);
    g.strokeStyle = style; g.lineWidth = wide * unit;
    g.stroke(path);
  }
}
function paintTruth(g, m, place, radius, unit) {
  const limit = part(threshold) * 65535, count = above(m, threshold), paths = { right: new Path2D(), wrong: new Path2D(), missed: new Path2D(), border: new Path2D() };
  const fate = i => i < count ? ["wrong", "right", "border"][m.fates[i]] : null;
  const found = i => m.labels[5 * i + 4] > 1 ? "border" : m.labels[5 * i + 4] === 0 || m.labels[5 * i + 3] <= limit ? "missed" : null;
  const sides = [[m.values, 4, m.length, fate, m.paths], [m.labels, 5, m.labels.length / 5, found, m.label_paths]];
  for (const [values, step, length, kind, fibers] of sides) {
    if (!fibers) { for (let i = length - 1; i >= 0; i--) if (kind(i)) KINDS[kind(i)].path(paths[kind(i)], ...place(values, step * i), radius(values, step * i)); continue; }
    // A point of a fiber stands for half the way to either neighbour.
    for (const fiber of fibers) fiber.forEach((i, k) => {
      const way = kind(i) && paths[kind(i)], here = place(values, step * i);
      const half = j => { const there = place(values, step * j); return [(here[0] + there[0]) / 2, (here[1] + there[1]) / 2]; };
      if (!way) return;
      // One line as long as nothing changes, so that dashes run on.
      if (k === 0 || kind(fiber[k - 1]) !== kind(i)) way.moveTo(...k > 0 ? half(fiber[k - 1]) : here);
      way.lineTo(...here);
      if (k + 1 < fiber.length) way.lineTo(...half(fiber[k + 1]));
    });
  }
  for (const kind of ["border", "right", "wrong", "missed"]) if (at("show_" + kind).checked) stroke(g, kind, paths[kind], unit);
}
