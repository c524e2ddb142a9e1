'use strict';

// The tools. Pointer and keyboard both come down to press, drag and release at a place of the micrograph, so that whatever a mouse can
// do, the keys can do as well: Space presses at the cross-hair, arrow keys drag, Space releases.

const TOOLS = {
  select: 'select: click on a label, drag to move it; drag elsewhere to pan',
  particle: 'particle: click to add, drag to move, click on a pick to take it over',
  vesicle: 'vesicle: press at the centre and drag to the rim',
  fiber: 'fiber: click along it, end with Enter or a double click',
  region: 'region: click around carbon or ice, end with Enter or a double click',
  brush: 'brush: paint over carbon or ice to leave it out',
  nothing: 'nothing here: click where there is no particle, or on a wrong pick',
  measure: 'measure: drag across one particle to tell its diameter',
};
const DRAWN_BY_CLICKS = { fiber: 2, region: 3 }; // and how many points are needed

let gesture = null; // what is going on between press and release

function chooseTool(tool) {
  cancelDraft();
  state.tool = tool;
  for (const button of document.querySelectorAll('[data-tool]')) button.setAttribute('aria-pressed', button.dataset.tool === tool);
  $('hint').textContent = TOOLS[tool];
  $('brush-box').hidden = tool !== 'brush';
  if (state.cardWaits && tool !== 'measure') { state.cardWaits = false; showCard(); }
  $('stage').dataset.tool = tool;
  redrawMarks();
}

const brushRadius = () => particleRadius() * 2 * state.brush;

function press(x, y, { alt = false } = {}) {
  const document_ = present(), hit = draft ? null : itemAt(x, y);
  if (!document_?.fresh) return;
  if (alt && hit) { gesture = { click: () => removeItem(hit.item.id) }; return; }
  if (state.tool === 'measure') { draft = { kind: 'measure', points: [[x, y], [x, y]] }; gesture = { drag: (...to) => { draft.points[1] = to; }, end: endMeasure }; return; }
  if (state.tool === 'brush') { startStroke(x, y); return; }
  if (draft) { gesture = { click: () => addVertex(x, y) }; return; }
  // A rim or a vertex is taken hold of by any tool that could have drawn it; a body only where the tool does not draw there itself.
  if (hit && (state.tool === 'select' || hit.item.kind === state.tool)) { takeHold(hit, x, y); return; }
  if (state.tool === 'select') {
    gesture = { pan: true, click: () => select(null) };
  } else if (state.tool === 'particle') {
    gesture = { click: () => acceptAt(x, y) || addItem({ kind: 'particle', x, y }) };
  } else if (state.tool === 'nothing') {
    gesture = { click: () => markNothing(x, y) };
  } else if (state.tool === 'vesicle') {
    draft = { kind: 'vesicle', x, y, r: 0 };
    gesture = { drag: (tx, ty) => { draft.r = Math.hypot(tx - x, ty - y); }, end: endVesicle };
  } else {
    gesture = { click: () => (state.tool === 'fiber' && acceptAt(x, y)) || startLine(x, y) };
  }
}

function takeHold({ item, part, index }, x, y) {
  select(item.id);
  const document_ = present(), before = item;
  let moved = false;
  gesture = {
    drag(tx, ty) {
      // A trembling hand should not move a label which was only to be selected.
      if (!moved && Math.hypot(tx - x, ty - y) * view.scale < 3) return;
      moved = true;
      document_.items.set(item.id, changed(before, part, index, x, y, tx, ty));
    },
    end() {
      const after = document_.items.get(item.id);
      if (!moved || !after) return;
      document_.items.set(item.id, before);
      act(document_, [{ op: 'change', item: after }], part === 'rim' ? `radius ${Math.round(after.r)} pixels` : `${item.kind} moved`);
    },
    cancel() { if (document_.items.has(item.id)) document_.items.set(item.id, before); },
  };
}

function changed(item, part, index, x, y, tx, ty) {
  if (part === 'rim') return { ...item, r: tidy(Math.max(2, Math.hypot(tx - item.x, ty - item.y))) };
  const move = ([px, py]) => [tidy(px + tx - x), tidy(py + ty - y)];
  if (part === 'vertex') return { ...item, points: item.points.map((point, i) => (i === index ? move(point) : point)) };
  if (item.points) return { ...item, points: item.points.map(move) };
  return { ...item, x: tidy(item.x + tx - x), y: tidy(item.y + ty - y) };
}

function dragTo(x, y) {
  if (draft?.points && DRAWN_BY_CLICKS[draft.kind]) draft.pointer = [x, y];
  gesture?.drag?.(x, y);
  if (gesture || draft) redrawMarks();
}

function release() {
  const done = gesture;
  gesture = null;
  (done?.end || done?.click)?.();
  redrawMarks();
}

function cancelGesture() {
  gesture?.cancel?.();
  if (gesture?.end) draft = null;
  gesture = null;
  redrawMarks();
}

function cancelDraft() {
  cancelGesture();
  draft = null;
  redrawMarks();
}

function startLine(x, y) {
  select(null);
  draft = { kind: state.tool, points: [[x, y]] };
  announce(`${state.tool}: first point`);
}
function addVertex(x, y) {
  const near = ([px, py]) => Math.hypot(px - x, py - y) * view.scale < 5, { points } = draft;
  // The second click of a double click falls upon the last point; a region is also closed at its first.
  if (near(points.at(-1)) || (draft.kind === 'region' && points.length > 2 && near(points[0]))) return endLine();
  points.push([x, y]);
  announce(many(points.length, 'point'));
}
function endLine() {
  const { kind, points } = draft;
  if (points.length < DRAWN_BY_CLICKS[kind]) return announce(`a ${kind} needs ${DRAWN_BY_CLICKS[kind]} points`);
  draft = null;
  addItem({ kind, points: points.map((point) => point.map(tidy)) });
}
/** Escape drops the last point, and with it the line when it was the only one. */
function dropVertex() {
  draft.points.pop();
  if (!draft.points.length) draft = null;
  announce('the last point is dropped');
  redrawMarks();
}

function startStroke(x, y) {
  const r = tidy(brushRadius());
  draft = { kind: 'brush', r, points: [[x, y]] };
  gesture = {
    drag(tx, ty) {
      const [lx, ly] = draft.points.at(-1);
      if (Math.hypot(tx - lx, ty - ly) > r / 4) draft.points.push([tx, ty]);
    },
    end() {
      const points = draft.points.map((point) => point.map(tidy));
      draft = null;
      addItem({ kind: 'brush', r, points });
    },
  };
}

function endVesicle() {
  const { x, y, r } = draft;
  draft = null;
  if (r * view.scale >= 4) return addItem({ kind: 'vesicle', x, y, r });
  if (!acceptAt(x, y)) { select(null); announce('press at the centre of a vesicle and drag to its rim'); }
}

function endMeasure() {
  const [[ax, ay], [bx, by]] = draft.points, pixels = Math.hypot(bx - ax, by - ay), { angpix } = present().meta;
  draft = null;
  if (pixels * view.scale < 6) return announce('drag from one side of a particle to the other');
  // The tool changes after the diameter is known, since the card which then comes back asks for it otherwise.
  setDiameter(angpix ? { diameter_angstrom: +(pixels * angpix).toPrecision(3) } : { diameter_px: Math.round(pixels) }).then(() => chooseTool(defaultTool()));
}

// Pointers.

const pointers = new Map();
let spaceHeld = false, spaceUsed = false, pinch = null;

const placeOf = (event) => { const box = $('stage').getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };

function pointerDown(event) {
  if (!present()?.meta) return;
  // Capturing can fail for a pointer which is already gone, and is not essential.
  try { $('marks').setPointerCapture(event.pointerId); } catch { /* see above */ }
  const [left, top] = placeOf(event);
  pointers.set(event.pointerId, { left, top, startLeft: left, startTop: top, panning: false });
  cursor.shown = false;
  if (event.pointerType === 'touch' && pointers.size === 2) { cancelGesture(); pinch = spread(); return; }
  if (pointers.size > 1) return;
  const pointer = pointers.get(event.pointerId);
  if (event.button === 1 || event.button === 2 || spaceHeld) {
    pointer.panning = true;
    spaceUsed = true;
    event.preventDefault();
    return;
  }
  if (event.button === 0) press(...toMicrograph(left, top), { alt: event.altKey });
}

function spread() {
  const [a, b] = pointers.values();
  return { left: (a.left + b.left) / 2, top: (a.top + b.top) / 2, distance: Math.hypot(a.left - b.left, a.top - b.top) || 1 };
}

function pointerMove(event) {
  const [left, top] = placeOf(event), pointer = pointers.get(event.pointerId);
  if (event.pointerType === 'mouse' && cursor.shown && (event.movementX || event.movementY)) { cursor.shown = false; redrawMarks(); }
  if (!pointer) {
    if (!pointers.size) { readOut(left, top); if (draft) dragTo(...toMicrograph(left, top)); }
    return;
  }
  const [dx, dy] = [left - pointer.left, top - pointer.top];
  Object.assign(pointer, { left, top });
  if (pinch && pointers.size >= 2) {
    const now = spread();
    panBy(now.left - pinch.left, now.top - pinch.top);
    zoomAbout(now.distance / pinch.distance, now.left, now.top);
    pinch = now;
  } else if (pinch) {
    // One finger is left over from a pinch: it should not start to draw.
  } else if (pointer.panning || gesture?.pan) {
    if (gesture && Math.hypot(left - pointer.startLeft, top - pointer.startTop) > 3) gesture.click = null;
    panBy(dx, dy);
  } else {
    dragTo(...toMicrograph(left, top));
    readOut(left, top);
  }
}

function pointerUp(event) {
  const pointer = pointers.get(event.pointerId);
  pointers.delete(event.pointerId);
  if (pinch) { if (!pointers.size) pinch = null; return; }
  if (!pointer || pointer.panning) return;
  if (event.type === 'pointercancel') return cancelGesture();
  dragTo(...toMicrograph(...placeOf(event)));
  release();
}

function readOut(left, top) {
  const document_ = present(), [x, y] = toMicrograph(left, top), meta = document_?.meta;
  const inside = meta && x > -0.5 && y > -0.5 && x < meta.nx - 0.5 && y < meta.ny - 0.5;
  const pick = inside && pickAt(x, y);
  $('readout').textContent = inside ? `x ${Math.round(x)}  y ${Math.round(y)}` : '';
  $('score').textContent = pick ? `score ${pick[3].toFixed(2)}` : '';
}

function wheel(event) {
  event.preventDefault();
  // A pinch on a trackpad comes as a wheel with Ctrl, in much smaller steps.
  const lines = event.deltaMode === 1 ? 16 : 1;
  zoomAbout(Math.exp(-clamp(event.deltaY * lines, -240, 240) * (event.ctrlKey ? 0.01 : 0.0018)), ...placeOf(event));
}

// The cross-hair.

function moveCursor(dx, dy, far) {
  const { meta } = present() ?? {};
  if (!meta) return;
  if (!cursor.shown) {
    const [left, top] = toMicrograph(view.width * 0.05, view.height * 0.05), [right, bottom] = toMicrograph(view.width * 0.95, view.height * 0.95);
    // It starts where it was, if that place can be seen, and else in the middle.
    if (!(cursor.x > left && cursor.x < right && cursor.y > top && cursor.y < bottom) || (!cursor.x && !cursor.y)) Object.assign(cursor, { x: view.x, y: view.y });
    cursor.shown = true;
  }
  const stride = (far ? 60 : 6) / view.scale;
  cursor.x = clamp(cursor.x + dx * stride, 0, meta.nx - 1);
  cursor.y = clamp(cursor.y + dy * stride, 0, meta.ny - 1);
  const [left, top] = toScreen(cursor.x, cursor.y), edge = 40;
  panBy(clamp(left, edge, view.width - edge) - left, clamp(top, edge, view.height - edge) - top);
  readOut(...toScreen(cursor.x, cursor.y));
  dragTo(cursor.x, cursor.y);
  announceCursor();
}
const announceCursor = debounce(() => {
  announce(`x ${Math.round(cursor.x)}, y ${Math.round(cursor.y)}${$('score').textContent ? ', pick with ' + $('score').textContent : ''}`);
}, 400);

function actAtCursor(key) {
  if (!cursor.shown) return moveCursor(0, 0);
  if (key === 'Enter' && draft && DRAWN_BY_CLICKS[draft.kind]) return endLine();
  if (gesture) return release();
  press(cursor.x, cursor.y);
  // A click is over at once; a drag waits for the arrow keys and the next Space.
  if (!gesture?.drag) release();
  else announce(`${state.tool === 'select' || !draft ? 'taken hold of' : 'started'}; move with the arrow keys, Space ends`);
}
