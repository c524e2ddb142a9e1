'use strict';

// Draws picks, labels and what is being drawn over the micrograph, and finds what lies under a place.

const cursor = { x: 0, y: 0, shown: false };
let draft = null; // the fiber, region, stroke, circle or measured line which is being drawn

/** The radius of particles, in pixels of the present micrograph. */
function particleRadius() {
  const { diameter_angstrom: angstrom, diameter_px: pixels } = state.session, { meta, picks } = present() ?? {};
  if (angstrom && meta?.angpix) return angstrom / meta.angpix / 2;
  if (pixels) return pixels / 2;
  return picks?.[0]?.[2] || (meta ? Math.max(meta.nx, meta.ny) / 100 : 40);
}

function radiusOf(item) {
  if (item.kind === 'vesicle' || item.kind === 'brush') return item.r;
  return item.kind === 'nothing' ? particleRadius() * 0.45 : particleRadius();
}

/** Picks above the threshold on which nobody has decided yet: a label or a cross nearby takes the place of its pick. */
function openPicks(document_) {
  if (!document_.picks || state.marksHidden) return [];
  const decided = [...document_.items.values()].filter((item) => item.kind === 'particle' || item.kind === 'vesicle' || item.kind === 'nothing');
  const out = [];
  for (const pick of document_.picks) {
    if (pick[3] < state.threshold) break;
    const near = pick[2] * 0.6;
    if (!decided.some((item) => Math.abs(item.x - pick[0]) < near && Math.abs(item.y - pick[1]) < near)) out.push(pick);
  }
  return out;
}

/** Picks which are not hidden by labels, kept until labels, picks or threshold change, since they are asked for at each move of the pointer. */
let shownPicks = [];

function pickAt(x, y) {
  let best = null, nearest = Infinity;
  for (const pick of shownPicks) {
    const distance = Math.hypot(pick[0] - x, pick[1] - y);
    if (distance < nearest && distance < Math.max(pick[2] * 0.8, 9 / view.scale)) { best = pick; nearest = distance; }
  }
  return best;
}

function distanceToLine(points, x, y) {
  let nearest = Infinity;
  for (let i = 0; i < points.length; i++) {
    const [ax, ay] = points[i], [bx, by] = points[Math.min(i + 1, points.length - 1)];
    const length = (bx - ax) ** 2 + (by - ay) ** 2, along = length ? clamp(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length, 0, 1) : 0;
    nearest = Math.min(nearest, Math.hypot(ax + along * (bx - ax) - x, ay + along * (by - ay) - y));
  }
  return nearest;
}

function pathAt(x, y) {
  if (state.marksHidden) return null;
  return openPaths(present()).find((path) => distanceToLine(path, x, y) < 9 / view.scale) || null;
}

/** Traced fibers which have no label lying on them. */
function openPaths(document_) {
  if (state.session.kind !== 'fiber' || !document_.paths.length) return [];
  const fibers = [...document_.items.values()].filter((item) => item.kind === 'fiber');
  return document_.paths.filter((path) => {
    const [x, y] = path[path.length >> 1];
    return !fibers.some((item) => distanceToLine(item.points, x, y) < particleRadius() * 0.7);
  });
}

function insidePolygon(points, x, y) {
  let inside = false;
  for (let i = 0, j = points.length - 1; i < points.length; j = i++) {
    const [ax, ay] = points[i], [bx, by] = points[j];
    if ((ay > y) !== (by > y) && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) inside = !inside;
  }
  return inside;
}

/** The item under a place, and which part of it: its body, its rim, or one of its vertices. */
function itemAt(x, y) {
  const document_ = present(), reach = 8 / view.scale;
  if (!document_ || state.marksHidden) return null;
  const chosen = document_.items.get(state.selected), items = [...document_.items.values()].reverse();
  for (const item of chosen ? [chosen, ...items] : items) {
    if ((item.kind === 'fiber' || item.kind === 'region') && (item === chosen || state.tool === item.kind)) {
      const index = item.points.findIndex((point) => Math.hypot(point[0] - x, point[1] - y) < reach);
      if (index >= 0) return { item, part: 'vertex', index };
    }
    if (item.kind === 'vesicle' && Math.abs(Math.hypot(item.x - x, item.y - y) - item.r) < reach * 0.9) return { item, part: 'rim' };
  }
  let best = null, nearest = Infinity;
  for (const item of items) {
    if (item.x === undefined) continue;
    const distance = Math.hypot(item.x - x, item.y - y), within = item.kind === 'vesicle' ? Math.max(reach, item.r * 0.35) : Math.max(radiusOf(item) * 0.7, reach);
    if (distance < nearest && distance < within) { best = item; nearest = distance; }
  }
  if (best) return { item: best, part: 'body' };
  for (const item of items) {
    if (item.kind === 'fiber' && distanceToLine(item.points, x, y) < reach) return { item, part: 'body' };
    if (item.kind === 'region' && (distanceToLine([...item.points, item.points[0]], x, y) < reach || (state.tool === 'select' && insidePolygon(item.points, x, y)))) return { item, part: 'body' };
    if (item.kind === 'brush' && state.tool !== 'brush' && distanceToLine(item.points, x, y) < Math.max(item.r, reach)) return { item, part: 'body' };
  }
  return null;
}

// Hatching keeps its spacing on the screen, so that it looks the same at any zoom.
let hatching = null;
function hatch(context) {
  const size = Math.round(9 * view.ratio);
  if (hatching?.size === size) return hatching.pattern;
  const cell = make('canvas', { width: size, height: size }), pen = cell.getContext('2d');
  for (const [colour, width] of [[MARKS.halo, 2.6], [MARKS.region, 1.3]]) {
    Object.assign(pen, { strokeStyle: colour, lineWidth: width * view.ratio, globalAlpha: colour === MARKS.halo ? 0.45 : 1 });
    pen.beginPath();
    for (const shift of [-size, 0, size]) { pen.moveTo(shift - 2, size + 2); pen.lineTo(shift + size + 2, -2); }
    pen.stroke();
  }
  hatching = { size, pattern: context.createPattern(cell, 'repeat') };
  return hatching.pattern;
}

/** Strokes what has been traced: a dark halo first, so that the colour is seen on bright ground and on dark. */
function strokeWithHalo(context, colour, width = 2, dash = []) {
  context.setLineDash(dash);
  Object.assign(context, { strokeStyle: MARKS.halo, lineWidth: (width + 2.6) * view.pen, globalAlpha: 0.75 });
  context.stroke();
  Object.assign(context, { strokeStyle: colour, lineWidth: width * view.pen, globalAlpha: 1 });
  context.stroke();
  context.setLineDash([]);
}

function trace(context, points, closed = false) {
  context.beginPath();
  points.forEach(([x, y], i) => { const place = toScreen(x, y); if (i) context.lineTo(...place); else context.moveTo(...place); });
  if (points.length === 1) context.lineTo(...toScreen(...points[0]));
  if (closed) context.closePath();
}
function traceCircle(context, x, y, r) {
  const [left, top] = toScreen(x, y);
  context.beginPath();
  context.arc(left, top, Math.max(2.5, r * view.scale), 0, 7);
}
function drawHandle(context, x, y, colour = MARKS.label) {
  const [left, top] = toScreen(x, y);
  context.fillStyle = MARKS.halo;
  context.fillRect(left - 5, top - 5, 10, 10);
  context.fillStyle = colour;
  context.fillRect(left - 3.5, top - 3.5, 7, 7);
}

function drawItem(context, item, chosen) {
  const colour = chosen ? MARKS.selected : MARKS.label;
  if (item.kind === 'particle' || item.kind === 'vesicle') {
    traceCircle(context, item.x, item.y, radiusOf(item));
    strokeWithHalo(context, colour, 2.2);
    if (item.kind === 'particle' && radiusOf(item) * view.scale > 7) { traceCircle(context, item.x, item.y, 0); context.fillStyle = colour; strokeWithHalo(context, colour, 1); context.fill(); }
    if (item.kind === 'vesicle' && chosen) for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) drawHandle(context, item.x + dx * item.r, item.y + dy * item.r);
  } else if (item.kind === 'nothing') {
    const [left, top] = toScreen(item.x, item.y), arm = clamp(radiusOf(item) * view.scale, 4, 11 * view.pen);
    context.beginPath();
    for (const side of [1, -1]) { context.moveTo(left - arm, top - arm * side); context.lineTo(left + arm, top + arm * side); }
    strokeWithHalo(context, chosen ? MARKS.selected : MARKS.nothing, 2.6);
  } else if (item.kind === 'fiber') {
    trace(context, item.points);
    strokeWithHalo(context, colour, 2.4);
    for (const point of item.points) if (chosen) drawHandle(context, ...point); else { traceCircle(context, ...point, 0); context.fillStyle = colour; context.fill(); }
  } else if (item.kind === 'region') {
    trace(context, item.points, item.points.length > 2);
    context.fillStyle = hatch(context);
    if (item.points.length > 2) context.fill('evenodd');
    strokeWithHalo(context, chosen ? MARKS.selected : MARKS.region, 2);
    if (chosen || item === draft) for (const point of item.points) drawHandle(context, ...point, MARKS.region);
  } else if (item.kind === 'brush') {
    trace(context, item.points);
    const width = Math.max(2, 2 * item.r * view.scale);
    Object.assign(context, { strokeStyle: chosen ? MARKS.selected : MARKS.region, lineWidth: width, globalAlpha: 0.3 });
    context.stroke();
    Object.assign(context, { strokeStyle: hatch(context), lineWidth: width, globalAlpha: 1 });
    context.stroke();
  }
}

function drawPicks(context, document_) {
  const shades = new Map(), halo = new Path2D(), fibers = state.session.kind === 'fiber';
  // Small circles get thin lines, or else little more than their halo would be seen.
  const core = view.pen * clamp((shownPicks[0]?.[2] || 0) * view.scale / 5, 1.3, 2);
  for (const [x, y, r, score] of shownPicks) {
    const [left, top] = toScreen(x, y), radius = fibers ? 2 : Math.max(2.5, r * view.scale);
    if (left < -radius || top < -radius || left > view.width + radius || top > view.height + radius) continue;
    const shade = Math.round(score * 50);
    if (!shades.has(shade)) shades.set(shade, new Path2D());
    for (const path of [halo, shades.get(shade)]) { path.moveTo(left + radius, top); path.arc(left, top, radius, 0, 7); }
  }
  Object.assign(context, { strokeStyle: MARKS.halo, lineWidth: core * 2.2, globalAlpha: 0.7 });
  context.stroke(halo);
  Object.assign(context, { lineWidth: core, globalAlpha: 1 });
  for (const [shade, path] of shades) { context.strokeStyle = viridis(shade / 50); context.stroke(path); }
  for (const path of openPaths(document_)) { trace(context, path); strokeWithHalo(context, viridis(0.75), 2.2, [9, 6]); }
}

function drawMarks() {
  const canvas = $('marks'), context = canvas.getContext('2d'), document_ = present();
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.setTransform(view.ratio, 0, 0, view.ratio, 0, 0);
  Object.assign(context, { lineCap: 'round', lineJoin: 'round' });
  if (!document_?.meta) { shownPicks = []; return; }
  shownPicks = openPicks(document_);
  if (!state.marksHidden) {
    const items = [...document_.items.values()];
    for (const item of items) if (item.kind === 'region' || item.kind === 'brush') drawItem(context, item, item.id === state.selected);
    drawPicks(context, document_);
    for (const item of items) if (item.kind !== 'region' && item.kind !== 'brush') drawItem(context, item, item.id === state.selected);
  }
  if (draft) drawDraft(context);
  if (walk.place) {
    const { x, y, radius } = walk.place;
    traceCircle(context, x, y, radius * 1.25);
    strokeWithHalo(context, MARKS.selected, 2, [6, 6]);
  }
  if (cursor.shown) drawCursor(context);
}

function drawDraft(context) {
  if (draft.kind === 'measure') {
    const [[ax, ay], [bx, by]] = draft.points;
    traceCircle(context, (ax + bx) / 2, (ay + by) / 2, Math.hypot(bx - ax, by - ay) / 2);
    strokeWithHalo(context, MARKS.selected, 2);
    trace(context, draft.points);
    return strokeWithHalo(context, MARKS.selected, 2, [5, 5]);
  }
  // A line to the pointer shows what the next click would make.
  const shown = draft.pointer ? { ...draft, points: [...draft.points, draft.pointer] } : draft;
  drawItem(context, shown, true);
}

function drawCursor(context) {
  const [left, top] = toScreen(cursor.x, cursor.y);
  context.beginPath();
  for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) { context.moveTo(left + dx * 5, top + dy * 5); context.lineTo(left + dx * 22, top + dy * 22); }
  strokeWithHalo(context, MARKS.selected, 2);
}

const redrawMarks = perFrame(drawMarks);
