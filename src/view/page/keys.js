'use strict';

// All keys, in one list: it dispatches them, and it is the table behind `?`. The first entry whose `when` holds is taken.

const onMicrograph = () => document.activeElement === $('marks') || document.activeElement === document.body;
const tool = (key, name) => ({ keys: [key], group: 'tools', text: TOOLS[name], run: () => chooseTool(name) });
const toggle = (id) => () => $(id).click();

const KEYS = [
  { keys: ['y'], group: 'least sure', text: 'yes, it is one', when: () => walk.place, run: () => answerWalk(true) },
  { keys: ['n'], group: 'least sure', text: 'nothing here', when: () => walk.place, run: () => answerWalk(false) },
  { keys: ['s'], group: 'least sure', text: 'skip this place', when: () => walk.place, run: nextPlace },
  tool('v', 'select'), tool('p', 'particle'), tool('o', 'vesicle'), tool('f', 'fiber'), tool('x', 'nothing'), tool('r', 'region'), tool('b', 'brush'), tool('m', 'measure'),
  { keys: ['ArrowLeft', 'ArrowRight', 'ArrowUp', 'ArrowDown'], group: 'cross-hair', text: 'move the cross-hair (Shift: larger steps)', when: onMicrograph, run: (key) => moveCursor(...ARROWS[key]) },
  { keys: ['Shift+ArrowLeft', 'Shift+ArrowRight', 'Shift+ArrowUp', 'Shift+ArrowDown'], when: onMicrograph, run: (key) => moveCursor(...ARROWS[key.slice(6)], true) },
  { keys: ['Enter'], group: 'cross-hair', text: 'act at the cross-hair; end a fiber or region', when: () => onMicrograph() && (cursor.shown || draft), run: actOrEnd },
  { keys: ['Space'], group: 'cross-hair', text: 'act at the cross-hair: add, take hold, let go (held with a drag: pan)', when: onMicrograph, run: () => {} },
  { keys: ['n', 'Shift+n'], group: 'labels', text: 'select the next label (Shift: the one before)', run: (key) => selectNext(key === 'n' ? 1 : -1) },
  { keys: ['Delete', 'Backspace'], group: 'labels', text: 'remove the selected label (also: Alt and click)', run: () => state.selected && removeItem(state.selected) },
  { keys: ['Escape'], group: 'labels', text: 'drop the last point, stop what was begun, deselect', run: escape },
  { keys: ['Ctrl+z'], group: 'labels', text: 'undo (or drop the last point)', run: undoOrDrop },
  { keys: ['Ctrl+y', 'Ctrl+Shift+z'], group: 'labels', text: 'redo', run: redo },
  { keys: ['<', '>'], group: 'labels', text: 'narrower or wider brush', run: (key) => setBrush(state.brush * (key === '<' ? 1 / 1.25 : 1.25)) },
  { keys: ['d'], group: 'micrographs', text: 'everything is labelled here', run: () => setSwitch('finished') },
  { keys: ['e'], group: 'micrographs', text: 'exclude this micrograph', run: () => setSwitch('excluded') },
  { keys: [']', 'PageDown'], group: 'micrographs', text: 'next micrograph', run: () => goNeighbour(1) },
  { keys: ['[', 'PageUp'], group: 'micrographs', text: 'previous micrograph', run: () => goNeighbour(-1) },
  { keys: ['/'], group: 'micrographs', text: 'filter the list', run: () => $('filter').focus() },
  { keys: ['+', '='], group: 'view', text: 'zoom in', run: () => zoomAbout(1.25, ...cursorPlace()) },
  { keys: ['-'], group: 'view', text: 'zoom out', run: () => zoomAbout(0.8, ...cursorPlace()) },
  { keys: ['0'], group: 'view', text: 'fit the whole micrograph', run: fit },
  { keys: ['1'], group: 'view', text: 'one pixel on one pixel', run: zoomToOne },
  { keys: ['h'], group: 'view', text: 'hide or show all marks', run: toggle('show-marks') },
  { keys: ['g'], group: 'view', text: 'flatten the ground', run: toggle('flat') },
  { keys: ['i'], group: 'view', text: 'invert', run: toggle('invert') },
  { keys: ['l'], group: 'learning and threshold', text: 'learn', run: startLearning },
  { keys: ['u'], group: 'learning and threshold', text: 'show what the model is least sure of', run: startWalk },
  { keys: [',', '.'], group: 'learning and threshold', text: 'lower or raise the threshold', run: (key) => setThreshold(state.threshold + (key === ',' ? -0.01 : 0.01)) },
  { keys: ['a'], group: 'learning and threshold', text: 'take the automatic threshold', run: takeAutomatic },
  { keys: ['?'], group: 'learning and threshold', text: 'this table', run: openHelp },
];
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const cursorPlace = () => (cursor.shown ? toScreen(cursor.x, cursor.y) : []);

function actOrEnd() {
  if (draft && DRAWN_BY_CLICKS[draft.kind]) return endLine();
  actAtCursor('Enter');
}
function undoOrDrop() {
  if (draft && DRAWN_BY_CLICKS[draft.kind]) dropVertex();
  else if (!gesture) undo();
}
function escape() {
  if (gesture) cancelDraft();
  else if (draft && DRAWN_BY_CLICKS[draft.kind]) dropVertex();
  else if (walk.place) endWalk();
  else if (state.tool === 'measure') chooseTool(defaultTool());
  else if (state.selected) select(null);
  else { cursor.shown = false; redrawMarks(); }
}

/** `Ctrl+Shift+z`, `n`, `?`: Shift is only named where the character does not tell it already. */
function nameOfKey(event) {
  const letter = /^[a-z]$/i.test(event.key), long = event.key.length > 1;
  const key = event.key === ' ' ? 'Space' : letter ? event.key.toLowerCase() : event.key;
  return `${event.ctrlKey || event.metaKey ? 'Ctrl+' : ''}${event.altKey ? 'Alt+' : ''}${event.shiftKey && (letter || long) ? 'Shift+' : ''}${key}`;
}

const takesText = (element) => element.matches('select, textarea, input:not([type=checkbox], [type=range])');

function keyDown(event) {
  if (event.isComposing || event.defaultPrevented || $('help').open) return;
  const name = nameOfKey(event), element = document.activeElement || document.body;
  if (takesText(element)) {
    // Escape leads out of a box back to the micrograph; all else is text.
    if (event.key === 'Escape') { event.preventDefault(); $('marks').focus(); }
    return;
  }
  // Keys which an element needs for itself.
  if (element.matches('input[type=range]') && /Arrow|Home|End|Page/.test(name)) return;
  if ((name === 'Space' || name === 'Enter') && !onMicrograph()) return;
  if (!state.letterKeys && event.key.length === 1 && name !== 'Space' && name !== '?' && !name.startsWith('Ctrl+')) return;
  const entry = KEYS.find((one) => one.keys.includes(name) && (!one.when || one.when()));
  if (!entry) return;
  event.preventDefault();
  if (name === 'Space') { if (!event.repeat) { spaceHeld = true; spaceUsed = false; $('stage').classList.add('panning'); } return; }
  entry.run(name);
}

function keyUp(event) {
  if (event.key !== ' ' || !spaceHeld) return;
  spaceHeld = false;
  $('stage').classList.remove('panning');
  // Space alone acts at the cross-hair; when it was held to pan it has done its work.
  if (!spaceUsed && onMicrograph()) actAtCursor('Space');
}

const KEY_NAMES = { ArrowLeft: '←', ArrowRight: '→', ArrowUp: '↑', ArrowDown: '↓', Escape: 'Esc' };
function openHelp() {
  const groups = new Map();
  for (const entry of KEYS) {
    if (!entry.group) continue;
    if (!groups.has(entry.group)) groups.set(entry.group, []);
    groups.get(entry.group).push(entry);
  }
  const show = (key) => make('kbd', { textContent: key.split('+').map((part) => KEY_NAMES[part] || (part.length === 1 ? part.toUpperCase() : part)).join('+') || '+' });
  const tables = [...groups].map(([group, entries]) => {
    const rows = entries.map(({ keys, text }) => make('tr', {}, make('td', {}, ...keys.flatMap((key) => [key === '+' ? make('kbd', { textContent: '+' }) : show(key), ' '])), make('td', { textContent: text })));
    return make('table', {}, make('caption', { textContent: group }), make('tbody', {}, ...rows));
  });
  $('help-body').replaceChildren(...tables);
  $('help').showModal();
}

function setBrush(value) {
  state.brush = clamp(value, 0.2, 4);
  $('brush').value = state.brush;
  remember('brush', state.brush);
}
