'use strict';

// Where the micrograph lies on the screen, and its picture. `scale` is screen (CSS) pixels per micrograph pixel; `x`, `y` is the
// micrograph pixel in the middle of the viewer; `pen` makes lines thicker where the text is larger. A pixel's centre has whole numbers, so that pixel 0 reaches from -0.5 to 0.5.

const view = { x: 0, y: 0, scale: 1, width: 1, height: 1, ratio: 1, pen: 1 };
let queryBefore = null, queryNow = null;

const toScreen = (x, y) => [(x - view.x) * view.scale + view.width / 2, (y - view.y) * view.scale + view.height / 2];
const toMicrograph = (left, top) => [(left - view.width / 2) / view.scale + view.x, (top - view.height / 2) / view.scale + view.y];

function fitScale(meta) { return Math.min((view.width - 24) / meta.nx, (view.height - 24) / meta.ny); }
function fit() {
  const meta = present()?.meta;
  if (!meta) return;
  Object.assign(view, { x: (meta.nx - 1) / 2, y: (meta.ny - 1) / 2, scale: fitScale(meta) });
  redraw();
}

/** Zooms so that the micrograph stays put below the given place on the screen. */
function zoomAbout(factor, left = view.width / 2, top = view.height / 2) {
  const meta = present()?.meta;
  if (!meta) return;
  const [x, y] = toMicrograph(left, top);
  view.scale = clamp(view.scale * factor, fitScale(meta) / 2, 32);
  view.x = x - (left - view.width / 2) / view.scale;
  view.y = y - (top - view.height / 2) / view.scale;
  keepInSight(meta);
  redraw();
}
/** One to one means one micrograph pixel on one pixel of the screen's hardware. */
function zoomToOne() {
  zoomAbout(1 / view.ratio / view.scale, ...cursorPlace());
  view.scale = 1 / view.ratio; // exactly, whatever the rounding
}
function panBy(left, top) {
  view.x -= left / view.scale;
  view.y -= top / view.scale;
  if (present()?.meta) keepInSight(present().meta);
  redraw();
}
function lookAt(x, y, scale) {
  Object.assign(view, { x, y, scale: scale || view.scale });
  redraw();
}
function keepInSight(meta) {
  view.x = clamp(view.x, 0, meta.nx - 1);
  view.y = clamp(view.y, 0, meta.ny - 1);
}

function resizeViewer() {
  const box = $('stage').getBoundingClientRect(), wasFitted = present()?.meta && Math.abs(view.scale / fitScale(present().meta) - 1) < 0.01;
  Object.assign(view, { width: box.width, height: box.height, ratio: devicePixelRatio || 1, pen: clamp(textSize() / 14, 1, 1.6) });
  for (const canvas of [$('ground'), $('marks')]) {
    canvas.width = Math.max(1, Math.round(box.width * view.ratio));
    canvas.height = Math.max(1, Math.round(box.height * view.ratio));
  }
  if (wasFitted) fit();
  redraw();
}

/** Goes through the tiles of a level which are in sight; those in the middle come first. */
function tilesInSight(meta, level) {
  const size = meta.tile * 2 ** level, [left, top] = toMicrograph(0, 0), [right, bottom] = toMicrograph(view.width, view.height);
  const last = (n) => Math.ceil(Math.ceil(n / 2 ** level) / meta.tile) - 1, out = [];
  const [middleX, middleY] = [view.x / size - 0.5, view.y / size - 0.5];
  for (let row = Math.max(0, Math.floor((top + 0.5) / size)); row <= Math.min(last(meta.ny), Math.floor((bottom + 0.5) / size)); row++) {
    for (let column = Math.max(0, Math.floor((left + 0.5) / size)); column <= Math.min(last(meta.nx), Math.floor((right + 0.5) / size)); column++) out.push([column, row]);
  }
  return out.sort((a, b) => Math.hypot(a[0] - middleX, a[1] - middleY) - Math.hypot(b[0] - middleX, b[1] - middleY));
}

function wantedLevel(meta) {
  return clamp(Math.floor(Math.log2(1 / (view.scale * view.ratio)) + 0.3), 0, meta.levels - 1);
}

/** The best that is there for a tile: itself, itself as it was before the last change of contrast, or a part of a coarser one. */
function bestTile(id, meta, level, column, row) {
  const queries = queryBefore === null ? [queryNow] : [queryNow, queryBefore];
  for (const query of queries) {
    const bitmap = tileAt(`${id}/${level}/${column}/${row}${query}`);
    if (bitmap) return { bitmap, up: 0, exact: query === queryNow };
  }
  for (const query of queries) {
    for (let up = 1; level + up < meta.levels; up++) {
      const bitmap = tileAt(`${id}/${level + up}/${column >> up}/${row >> up}${query}`);
      if (bitmap) return { bitmap, up, exact: false };
    }
  }
  return null;
}

let groundIsComplete = false;
function drawGround() {
  const canvas = $('ground'), context = canvas.getContext('2d'), document_ = present(), meta = document_?.meta;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  groundIsComplete = false;
  if (!meta) return wantTiles([], 0);
  const query = imageQuery();
  if (query !== queryNow) { queryBefore = queryNow; queryNow = query; }

  const level = wantedLevel(meta), inSight = tilesInSight(meta, level), missing = [];
  const device = (value, shift, half) => Math.round(((value - 0.5 - shift) * view.scale + half) * view.ratio);
  context.imageSmoothingEnabled = view.scale * view.ratio < 3;
  context.imageSmoothingQuality = 'medium';
  let anything = false;
  for (const [column, row] of inSight) {
    const best = bestTile(document_.id, meta, level, column, row);
    if (!best?.exact) missing.push(`${document_.id}/${level}/${column}/${row}${queryNow}`);
    if (!best) continue;
    anything = true;
    const size = meta.tile * 2 ** level;
    const x0 = column * size, y0 = row * size, x1 = Math.min(meta.nx, x0 + size), y1 = Math.min(meta.ny, y0 + size);
    const left = device(x0, view.x, view.width / 2), top = device(y0, view.y, view.height / 2);
    const width = device(x1, view.x, view.width / 2) - left, height = device(y1, view.y, view.height / 2) - top;
    // The part of the (perhaps coarser) bitmap which this tile covers.
    const coarse = 2 ** (level + best.up), coarseSize = meta.tile * coarse;
    const sx = (x0 % coarseSize) / coarse, sy = (y0 % coarseSize) / coarse;
    const sw = Math.min(best.bitmap.width - sx, (x1 - x0) / coarse), sh = Math.min(best.bitmap.height - sy, (y1 - y0) / coarse);
    if (sw > 0 && sh > 0) context.drawImage(best.bitmap, sx, sy, sw, sh, left, top, width, height);
  }
  if (state.image.invert && anything) {
    const left = device(0, view.x, view.width / 2), top = device(0, view.y, view.height / 2);
    context.globalCompositeOperation = 'difference';
    context.fillStyle = '#fff';
    context.fillRect(left, top, device(meta.nx, view.x, view.width / 2) - left, device(meta.ny, view.y, view.height / 2) - top);
    context.globalCompositeOperation = 'source-over';
  }
  $('loading').hidden = anything || !!document_.error;
  groundIsComplete = !missing.length;

  // The coarsest tile comes first, so that there is something to see at once; the neighbours' come last, when there is time.
  const top = `${document_.id}/${meta.levels - 1}/0/0${queryNow}`;
  wantTiles([...(tiles.has(top) ? [] : [top]), ...missing, ...neighbourTiles()], inSight.length);
}

function neighbourTiles() {
  const out = [];
  for (const id of [neighbour(1), neighbour(-1)]) {
    const meta = id === null ? null : documentOf(id).meta;
    if (!meta) continue;
    for (let level = meta.levels - 1; level >= Math.max(0, meta.levels - 3); level--) {
      const columns = Math.ceil(meta.nx / 2 ** level / meta.tile), rows = Math.ceil(meta.ny / 2 ** level / meta.tile);
      for (let row = 0; row < rows; row++) for (let column = 0; column < columns; column++) out.push(`${id}/${level}/${column}/${row}${queryNow}`);
    }
  }
  return out.filter((address) => !tiles.has(address));
}

const redrawGround = perFrame(drawGround);
function redraw() { redrawGround(); redrawMarks(); updateScaleBar(); }

function updateScaleBar() {
  const meta = present()?.meta;
  $('scale').hidden = !meta;
  if (!meta) return;
  const unit = meta.angpix || 1, longest = 140 / view.scale * unit, power = 10 ** Math.floor(Math.log10(longest));
  const length = [5, 2, 1].map((factor) => factor * power).find((value) => value <= longest);
  $('scale-bar').style.width = `${length / unit * view.scale}px`;
  $('scale-text').textContent = !meta.angpix ? `${length} pixels` : length >= 100 ? `${length / 10} nm` : `${length} Å`;
  $('zoom').textContent = `${(view.scale * view.ratio * 100).toPrecision(view.scale * view.ratio >= 0.995 ? 3 : 2)} %`;
}
