'use strict';

// What is known of each micrograph: its items, switches, picks, and what can be undone; and the queue which saves each act by itself.

const documents = new Map();
const POSITIVE = new Set(['particle', 'vesicle', 'fiber']);

function documentOf(id) {
  if (!documents.has(id)) documents.set(id, { id, meta: null, items: new Map(), finished: false, excluded: false, rev: 0, fresh: false, picks: null, paths: [], picksRev: null, undo: [], redo: [] });
  return documents.get(id);
}
const present = () => (state.open < 0 ? null : documentOf(state.open));

async function loadMeta(document_) {
  document_.meta ??= await get('micrograph/' + document_.id);
  return document_.meta;
}

async function loadLabels(document_) {
  const answer = await get('labels/' + document_.id);
  // An act was saved while this was under way, so the answer may not have it yet.
  if (answer.rev < document_.rev) return loadLabels(document_);
  document_.items = new Map(answer.items.map((item) => [item.id, item]));
  Object.assign(document_, { finished: answer.finished, excluded: answer.excluded, rev: answer.rev, fresh: true });
  // What is not yet sent is newer than what the server has told.
  for (const entry of queue) if (entry.id === document_.id) applyOp(document_, entry.op);
  afterChange(document_);
}

async function loadPicks(document_) {
  const answer = await get('picks/' + document_.id).catch((error) => {
    if (error.status !== 404) throw error;
    return { picks: [], rev: state.picksRev }; // not picked yet
  });
  Object.assign(document_, { picks: answer.picks, paths: answer.paths || [], picksRev: answer.rev });
  if (document_ === present()) { redrawMarks(); drawThreshold(); }
}

/** Applies an op here and gives the op which takes it back; null where it has nothing to act on (another window removed the item). */
function applyOp(document_, op) {
  if (op.op === 'finished' || op.op === 'excluded') {
    const inverse = { op: op.op, value: document_[op.op] };
    document_[op.op] = op.value;
    return inverse;
  }
  const id = op.op === 'remove' ? op.id : op.item.id, before = document_.items.get(id);
  if (op.op === 'add') {
    document_.items.set(id, op.item);
    return { op: 'remove', id };
  }
  if (!before) return null;
  if (op.op === 'remove') {
    document_.items.delete(id);
    if (state.selected === id) state.selected = null;
    return { op: 'add', item: before };
  }
  document_.items.set(id, op.item);
  return { op: 'change', item: before };
}

/** Does ops as one act of the user: applied at once, queued for the server, and kept for undo. */
function act(document_, ops, say) {
  const inverse = commit(document_, ops);
  if (!inverse.length) return;
  document_.undo.push(inverse);
  if (document_.undo.length > 500) document_.undo.shift();
  document_.redo = [];
  updateButtons();
  if (say) announce(say);
}

function commit(document_, ops) {
  const inverse = [];
  for (const op of ops) {
    const back = applyOp(document_, op);
    if (!back) continue;
    inverse.unshift(back);
    queue.push({ id: document_.id, op });
  }
  afterChange(document_);
  sendSoon();
  return inverse;
}

function step(from, to, word) {
  const document_ = present(), ops = document_?.[from].pop();
  if (!ops) return announce(`nothing to ${word}`);
  const inverse = commit(document_, ops);
  if (inverse.length) document_[to].push(inverse);
  updateButtons();
  announce(word === 'undo' ? 'undone' : 'done again');
}
const undo = () => step('undo', 'redo', 'undo');
const redo = () => step('redo', 'undo', 'redo');

function afterChange(document_) {
  const row = state.rows[document_.id];
  if (row && document_.fresh) {
    let labels = 0, nothing = 0;
    for (const item of document_.items.values()) { if (POSITIVE.has(item.kind)) labels++; else if (item.kind === 'nothing') nothing++; }
    state.labels += labels - row.labels;
    Object.assign(row, { labels, nothing, finished: document_.finished, excluded: document_.excluded });
  }
  drawList();
  if (document_ === present()) { redrawMarks(); updateSwitches(); }
  drawLearn();
  drawThreshold();
}

// The queue. Ops leave in the order in which they were made; those of one micrograph travel together.

const queue = [];
let sending = false, retryWait = 0, retryTimer = 0, saveError = null;

function sendSoon() {
  updateSaved();
  if (!sending && !retryTimer) send();
}

async function send() {
  sending = true;
  while (queue.length) {
    const id = queue[0].id, document_ = documentOf(id);
    let count = 0;
    while (count < queue.length && count < 200 && queue[count].id === id) count++;
    const ops = queue.slice(0, count).map((entry) => entry.op);
    updateSaved();
    try {
      const answer = await post('labels/' + id, { window: windowName, seen: document_.rev, ops });
      queue.splice(0, count);
      retryWait = 0; saveError = null;
      document_.rev = answer.rev;
      if (answer.others) othersChanged([id]);
    } catch (error) {
      saveError = error.message;
      if ([400, 404, 413, 422].includes(error.status)) {
        // The server understood and refuses: sending it again cannot help, and would hold up all later acts.
        queue.splice(0, count);
        tell(`This was not saved: ${error.message}`, 'error');
        othersChanged([id], true);
        saveError = null;
        continue;
      }
      retryWait = Math.min(8000, retryWait ? retryWait * 2 : 500);
      retryTimer = setTimeout(() => { retryTimer = 0; send(); }, retryWait);
      break;
    }
  }
  sending = false;
  updateSaved();
}

function updateSaved() {
  const kind = saveError ? 'failed' : queue.length ? 'saving' : 'saved';
  const text = saveError ? `cannot save: ${saveError}` : queue.length ? 'saving' : 'saved';
  // The same text is not set twice, since screen readers would read it twice.
  if ($('saved').textContent !== text) $('saved').textContent = text;
  $('saved').className = kind;
}

async function othersChanged(ids, quiet = false) {
  for (const id of ids) {
    const document_ = documents.get(id);
    if (!document_) continue;
    if (id !== state.open) { document_.fresh = false; continue; }
    await attempt(loadLabels(document_));
    if (state.selected && !document_.items.has(state.selected)) state.selected = null;
    if (!quiet) tell('Another window changed this micrograph; the labels were fetched anew.');
  }
}

addEventListener('beforeunload', (event) => { if (queue.length) event.preventDefault(); });
