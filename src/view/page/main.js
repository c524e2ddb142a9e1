'use strict';

// Starts the page, opens micrographs, and asks the server each second what is new.

async function openMicrograph(id, place = null) {
  const before = present();
  if (before && before.id !== id) {
    cancelDraft();
    before.view = { x: view.x, y: view.y, scale: view.scale };
    if (walk.place && walk.place.micrograph !== id) endWalk();
  }
  const document_ = documentOf(id);
  state.open = id;
  state.selected = null;
  document_.error = null;
  Object.assign(cursor, { x: 0, y: 0, shown: false });
  $('readout').textContent = $('score').textContent = '';
  $('loading').textContent = 'reading the micrograph';
  activeRow = listOrder.indexOf(id);
  if (activeRow >= 0) showRow(activeRow);
  updatePosition();
  updateSwitches();
  forgetPicks();
  if (document_.meta && place) lookAt(place.x, place.y, place.scale);
  else if (document_.meta && before !== document_) showWhole(document_);
  redraw(); drawThreshold(); drawChart();

  const picksAreOld = !document_.picks || document_.picksRev !== state.picksRev;
  const others = Promise.all([document_.fresh ? null : attempt(loadLabels(document_)), picksAreOld && !state.rows[id]?.error ? attempt(loadPicks(document_)) : null]);
  try {
    const known = document_.meta;
    await loadMeta(document_);
    if (state.open !== id) return;
    if (!known) { if (place) lookAt(place.x, place.y, place.scale); else showWhole(document_); }
  } catch (error) {
    document_.error = error.message;
    if (state.open === id) { $('loading').hidden = false; $('loading').textContent = `This micrograph cannot be read: ${error.message}.`; }
  }
  await others;
  if (state.open !== id) return;
  showDiameter(); showLow(); updateSwitches();
  redraw();
  fetchAhead(id);
}

/** A micrograph which was seen before is shown as it was left. */
function showWhole(document_) {
  if (document_.view) lookAt(document_.view.x, document_.view.y, document_.view.scale); else fit();
}

/** Reads what the neighbours need, so that going on is instant. Their tiles follow from drawGround. */
async function fetchAhead(id) {
  for (const next of [neighbour(1), neighbour(-1)]) {
    if (next === null || state.open !== id || state.rows[next]?.error) continue;
    try { await loadMeta(documentOf(next)); } catch { /* it is told when the micrograph is opened */ }
  }
  redrawGround();
}

/** Picks of many micrographs would fill the memory; labels are few and stay. */
function forgetPicks() {
  const full = [...documents.values()].filter((document_) => document_.picks && document_.id !== state.open);
  for (const document_ of full.slice(0, Math.max(0, full.length - 30))) document_.picks = null;
}

function updatePosition() {
  const row = state.rows[state.open], place = listOrder.indexOf(state.open);
  if (!row) return;
  putName($('title'), row.name);
  document.title = `${row.name}, epicker workbench`;
  $('position').textContent = place < 0 ? 'not in the list' : `${(place + 1).toLocaleString('en')} of ${listOrder.length.toLocaleString('en')}`;
  $('previous').disabled = neighbour(-1) === null;
  $('next').disabled = neighbour(1) === null;
}

const reloadRows = debounce(() => loadMicrographs().then(drawThreshold, () => {}), 300);
let away = false;
const noticesTold = new Set();

async function poll() {
  try {
    const answer = await get(`state?since=${state.rev}&window=${windowName}`);
    if (away) { away = false; tell('The server answers again.'); }
    state.rev = answer.rev;
    if (!queue.length) state.labels = answer.labels;
    $('windows').hidden = answer.windows < 2;
    $('windows').textContent = `open in ${answer.windows} windows`;
    noteLearning(answer.learn, answer.score);
    for (const notice of answer.notices) if (!noticesTold.has(notice)) { noticesTold.add(notice); tell(notice); }
    if (answer.changed.length) { othersChanged(answer.changed); reloadRows(); }
    if (answer.picks_rev !== state.picksRev) await picksChanged(answer.picks_rev);
  } catch (error) {
    if (!away) { away = true; tell(error.message === 'the server does not answer' ? 'The server does not answer. The page tries again.' : error.message, 'error'); }
  }
  setTimeout(poll, 1000);
}

async function picksChanged(rev) {
  const first = state.picksRev === null;
  state.picksRev = rev;
  if (first) return;
  if (!newPicksTold) tell('There are new picks.');
  newPicksTold = false;
  await Promise.all([loadMicrographs(), loadScores(true), present() ? loadPicks(present()) : null]);
  drawThreshold(); drawChart();
}

// How the micrograph is shown.

function showLow() {
  const { low } = state.image, unit = present()?.meta && !present().meta.angpix ? 'px' : 'Å';
  $('low-text').textContent = low ? `${low} ${unit}` : 'off';
}

function startImageControls() {
  const { image } = state;
  const changed = debounce(() => { remember('image', image); redrawGround(); }, 90);
  for (const id of ['low', 'lo', 'hi']) {
    $(id).value = image[id];
    $(id).addEventListener('input', () => {
      const value = $(id).valueAsNumber;
      if (!Number.isFinite(value) || value < +$(id).min || value > +$(id).max) return;
      image[id] = value;
      showLow(); changed();
    });
  }
  for (const id of ['flat', 'invert']) {
    $(id).checked = image[id];
    $(id).addEventListener('change', () => { image[id] = $(id).checked; changed(); });
  }
  $('show-marks').addEventListener('change', () => { state.marksHidden = !$('show-marks').checked; redrawMarks(); });
  setBrush(state.brush);
  showLow();
  $('brush').addEventListener('input', () => setBrush(+$('brush').value));
}

// The card of the first visit.

function showCard() {
  const { kind, labels, diameter_angstrom: angstrom, diameter_px: pixels } = state.session;
  if (state.rows.some((row) => row.labels) || recall('card.' + labels, false)) return;
  $('card-kind').textContent = `${kind}s`;
  $('card-diameter').hidden = kind !== 'particle' || angstrom || pixels;
  $('card-label').textContent = { particle: 'Click on ten particles or more, in a few micrographs; mark wrong picks with the tool “nothing”.',
    vesicle: 'Draw ten vesicles or more, in a few micrographs: press at the centre and drag to the rim.', fiber: 'Trace ten fibers or more, in a few micrographs: click along each, and end with Enter.' }[kind];
  $('card').hidden = false;
}
/** The card makes room for the drag across a particle, and comes back after it. */
function measureForCard() {
  $('card').hidden = true;
  state.cardWaits = true;
  chooseTool('measure');
  $('marks').focus();
}
function dismissCard() {
  if ($('card').hidden && !state.cardWaits) return;
  state.cardWaits = false;
  if ($('card').contains(document.activeElement)) $('marks').focus();
  $('card').hidden = true;
  remember('card.' + state.session.labels, true);
}

// For tests: where a pixel is on the page, and when everything has come to rest.
window.workbench = {
  state, view, documents, queue, walk, tiles, requests, get document() { return present(); },
  toScreen(x, y) {
    const box = $('stage').getBoundingClientRect(), [left, top] = toScreen(x, y);
    return [left + box.left, top + box.top];
  },
  async idle() {
    const rest = () => !queue.length && !sending && present()?.fresh && (present().error || (present().meta && present().picks && groundIsComplete));
    for (let quiet = 0; quiet < 3; quiet = rest() ? quiet + 1 : 0) await new Promise((done) => setTimeout(done, 50));
  },
  open: openMicrograph, lookAt, fit, zoomAbout, chooseTool, setThreshold,
};

function listen() {
  const marks = $('marks');
  marks.addEventListener('pointerdown', pointerDown);
  marks.addEventListener('pointermove', pointerMove);
  marks.addEventListener('pointerup', pointerUp);
  marks.addEventListener('pointercancel', pointerUp);
  marks.addEventListener('pointerleave', () => { if (!pointers.size) readOut(-1e6, -1e6); });
  marks.addEventListener('contextmenu', (event) => event.preventDefault());
  marks.addEventListener('wheel', wheel, { passive: false });
  addEventListener('keydown', keyDown);
  addEventListener('keyup', keyUp);
  addEventListener('blur', () => { spaceHeld = false; $('stage').classList.remove('panning'); });
  for (const button of document.querySelectorAll('[data-tool]')) button.addEventListener('click', (event) => {
    chooseTool(button.dataset.tool);
    // After a click with the mouse Space and Enter are meant for the micrograph; who uses the keys stays in the toolbar.
    if (event.detail) marks.focus();
  });
  for (const [id, run] of Object.entries({ previous: () => goNeighbour(-1), next: () => goNeighbour(1), undo, redo, fit, one: zoomToOne, 'help-button': openHelp,
    'help-close': () => $('help').close(), 'card-close': dismissCard, 'card-measure': measureForCard })) $(id).addEventListener('click', () => run());
  for (const id of ['finished', 'excluded']) $(id).addEventListener('change', () => setSwitch(id, $(id).checked));
  for (const box of document.querySelectorAll('.diameter-input')) box.addEventListener('change', () => enterDiameter(box.value));
  $('letter-keys').checked = state.letterKeys;
  $('letter-keys').addEventListener('change', () => { state.letterKeys = $('letter-keys').checked; remember('letterKeys', state.letterKeys); });
  $('skip').addEventListener('click', (event) => { event.preventDefault(); marks.focus(); });
  new ResizeObserver(resizeViewer).observe($('stage'));
}

async function start() {
  try {
    state.session = await get('session');
    state.rev = state.session.rev;
    listen(); startList(); startThreshold(); startChart(); startLearnPanel(); startImageControls();
    $('kind').textContent = state.session.kind === 'particle' ? 'workbench' : `workbench, ${state.session.kind}s`;
    $('diameter-row').hidden = $('tool-measure').hidden = state.session.kind !== 'particle';
    $('apply').hidden = state.session.can_write === false;
    $('legend-scale').style.background = `linear-gradient(90deg, ${VIRIDIS.map((_, i) => viridis(i / (VIRIDIS.length - 1))).join(', ')})`;
    state.threshold = state.session.threshold ?? 0.5;
    chooseTool(defaultTool());
    showDiameter();
    resizeViewer();
    await loadMicrographs();
    state.labels = state.rows.reduce((sum, row) => sum + row.labels, 0);
    showCard();
    drawLearn(); drawThreshold();
    poll();
    loadScores().catch((error) => tell(error.message, 'error'));
    loadModels().catch(() => {});
    if (!listOrder.length) { $('loading').textContent = 'There are no micrographs here.'; return; }
    await openMicrograph(listOrder.find((id) => !state.rows[id].error) ?? listOrder[0]);
  } catch (error) {
    $('loading').hidden = false;
    $('loading').textContent = error.status === 401 || error.status === 403 ? 'The server does not know this page. Open the address which epicker view has printed.' : `The workbench cannot start: ${error.message}.`;
  }
}
start();
