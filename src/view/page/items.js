'use strict';

// Acts on the labels of the present micrograph.

/** A tenth of a pixel is finer than anyone can click, and keeps the files short. */
const tidy = (value) => Math.round(value * 10) / 10;

function inside(x, y) {
  const { meta } = present();
  return x >= -0.5 && y >= -0.5 && x <= meta.nx - 0.5 && y <= meta.ny - 0.5;
}

function addItem(item) {
  const document_ = present(), whole = { id: newId(), ...item };
  if (item.x !== undefined) {
    if (!inside(item.x, item.y)) return announce('this is outside the micrograph');
    whole.x = tidy(item.x);
    whole.y = tidy(item.y);
  }
  if (item.r !== undefined) whole.r = tidy(item.r);
  state.selected = whole.id;
  act(document_, [{ op: 'add', item: whole }], `${item.kind === 'nothing' ? 'nothing here' : item.kind} added`);
  if (POSITIVE.has(item.kind)) dismissCard();
}

/** Takes over the pick under a place as a label of the kind which is picked here. Says whether there was one. */
function acceptAt(x, y) {
  const { kind } = state.session;
  if (kind === 'fiber') {
    const path = pathAt(x, y);
    if (path) addItem({ kind, points: path.map((point) => point.map(tidy)) });
    return !!path;
  }
  const pick = pickAt(x, y);
  // The particle tool in a set of vesicles (and the other way) draws its own kind, not the model's.
  if (!pick || state.tool !== kind) return false;
  addItem(kind === 'vesicle' ? { kind, x: pick[0], y: pick[1], r: pick[2] } : { kind, x: pick[0], y: pick[1] });
  return true;
}

function markNothing(x, y) {
  const pick = state.session.kind === 'fiber' ? null : pickAt(x, y);
  addItem({ kind: 'nothing', x: pick ? pick[0] : x, y: pick ? pick[1] : y });
}

function removeItem(id) {
  const document_ = present(), item = document_?.items.get(id);
  if (item) act(document_, [{ op: 'remove', id }], `${item.kind} removed`);
}

function select(id) {
  state.selected = id;
  redrawMarks();
}

/** Walks through the labels with the keys, in the order of reading. */
function selectNext(by) {
  const items = [...(present()?.items.values() || [])].map((item) => [item, item.x === undefined ? item.points[0] : [item.x, item.y]]);
  if (!items.length) return announce('there are no labels here');
  items.sort((a, b) => a[1][1] - b[1][1] || a[1][0] - b[1][0]);
  const place = items.findIndex(([item]) => item.id === state.selected), next = place < 0 && by < 0 ? items.length - 1 : (place + by + items.length) % items.length;
  const [item, [x, y]] = items[next];
  select(item.id);
  Object.assign(cursor, { x, y, shown: true });
  moveCursor(0, 0);
  announce(`${item.kind}, ${next + 1} of ${items.length}`);
}

function setSwitch(op, value = !present()?.[op]) {
  const document_ = present();
  if (!document_?.fresh || document_[op] === value) return;
  act(document_, [{ op, value }], op === 'finished' ? (value ? 'everything is labelled here' : 'not everything is labelled here') : (value ? 'micrograph excluded' : 'micrograph included'));
}

function updateSwitches() {
  const document_ = present();
  for (const op of ['finished', 'excluded']) {
    $(op).checked = !!document_?.[op];
    $(op).disabled = !document_?.fresh;
  }
  updateButtons();
}
function updateButtons() {
  $('undo').disabled = !present()?.undo.length;
  $('redo').disabled = !present()?.redo.length;
}

const defaultTool = () => (TOOLS[state.session.kind] ? state.session.kind : 'particle');

async function setDiameter(body) {
  const session = await attempt(post('session', body));
  if (!session) return;
  state.session = { ...state.session, ...session };
  showDiameter();
  tell(`The diameter of particles is now ${diameterText()}.`);
  redrawMarks();
}
const diameterUnit = () => (state.session.diameter_angstrom || present()?.meta?.angpix ? 'Å' : 'pixels');
function diameterText() {
  const { diameter_angstrom: angstrom, diameter_px: pixels } = state.session;
  return angstrom ? `${+angstrom.toFixed(1)} Å` : pixels ? `${Math.round(pixels)} pixels` : 'not known';
}
function showDiameter() {
  const { diameter_angstrom: angstrom, diameter_px: pixels } = state.session, value = angstrom ? +angstrom.toFixed(1) : pixels ? Math.round(pixels) : '';
  for (const box of document.querySelectorAll('.diameter-input')) if (box !== document.activeElement) box.value = value;
  for (const unit of document.querySelectorAll('.diameter-unit')) unit.textContent = diameterUnit();
}
function enterDiameter(text) {
  const value = Number.parseFloat(text);
  if (!(value > 0)) return;
  setDiameter(diameterUnit() === 'Å' ? { diameter_angstrom: value } : { diameter_px: value });
}
