'use strict';

// The tiles of the micrographs: a bounded cache of decoded bitmaps, and a queue of requests that follows what is in sight.

const TILES_KEPT = 400, REQUESTS_AT_ONCE = 6;
const tiles = new Map();      // address -> bitmap; the one used longest ago is first
const failedTiles = new Map(); // address -> when it may be tried again
const requests = new Map();   // address -> AbortController
let wantedTiles = [], tilesKept = TILES_KEPT;

function imageQuery() {
  const { low, lo, hi, flat } = state.image;
  return `?low=${low}&lo=${lo}&hi=${hi}${flat ? '&flat=1' : ''}`;
}

function tileAt(address) {
  const bitmap = tiles.get(address);
  if (bitmap) { tiles.delete(address); tiles.set(address, bitmap); }
  return bitmap;
}

/** Tells which tiles are needed now, the most urgent first. Requests for all others are given up. */
function wantTiles(addresses, seen) {
  wantedTiles = addresses;
  tilesKept = Math.max(TILES_KEPT, Math.ceil(seen * 1.3));
  const wanted = new Set(addresses);
  for (const [address, controller] of requests) if (!wanted.has(address)) { controller.abort(); requests.delete(address); }
  requestTiles();
}

function requestTiles() {
  const now = performance.now();
  for (const address of wantedTiles) {
    if (requests.size >= REQUESTS_AT_ONCE) return;
    if (tiles.has(address) || requests.has(address) || failedTiles.get(address) > now) continue;
    requestTile(address);
  }
}

async function requestTile(address) {
  const controller = new AbortController();
  requests.set(address, controller);
  try {
    const response = await call('tile/' + address, { signal: controller.signal });
    const bitmap = await createImageBitmap(await response.blob());
    if (controller.signal.aborted) return bitmap.close();
    tiles.set(address, bitmap);
    failedTiles.delete(address);
    for (const [oldest, old] of tiles) {
      if (tiles.size <= tilesKept) break;
      tiles.delete(oldest);
      old.close();
    }
    redrawGround();
  } catch (error) {
    if (error.name === 'AbortError') return;
    failedTiles.set(address, performance.now() + 3000);
    setTimeout(redrawGround, 3050);
  } finally {
    if (requests.get(address) === controller) requests.delete(address);
    requestTiles();
  }
}
