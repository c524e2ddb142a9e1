'use strict';

// Learning from the labels, what comes out of it, and the walk through the places which the model is least sure of.

const BUSY = new Set(['preparing', 'training', 'picking']);
let newPicksTold = false; // so that one event does not bring two messages
const PHASES = { preparing: 'preparing', training: 'training', picking: 'picking' };

const drawLearn = perFrame(() => {
  if (!state.session) return;
  const { learn, score } = state, busy = BUSY.has(learn.phase), lacking = state.session.labels_needed - state.labels;
  $('label-count').replaceChildren(make('strong', { textContent: many(state.labels, 'label') }), lacking > 0 ? `, ${lacking} more needed to learn` : ', enough to learn');
  $('learn').disabled = busy || lacking > 0;
  $('pick-all').disabled = busy;
  $('learn-stop').hidden = !busy;
  $('progress').hidden = !busy;
  if (busy) {
    const left = learn.seconds_left === null ? '' : `, ${learn.seconds_left < 90 ? `${Math.round(learn.seconds_left)} s` : `${Math.round(learn.seconds_left / 60)} min`} left`;
    $('progress-bar').value = learn.share;
    $('progress-text').textContent = `${PHASES[learn.phase]}${left}\n${learn.line || ''}`;
  }
  $('learn-error').hidden = learn.phase !== 'failed';
  $('learn-error').textContent = learn.error || '';
  $('learn-score').hidden = !score;
  $('learn-score').textContent = score?.text || '';
});

async function startLearning() {
  if (BUSY.has(state.learn.phase)) return;
  const needed = state.session.labels_needed;
  if (state.labels < needed) return tell(`Learning needs at least ${needed} labels; there are ${state.labels}.`);
  const answer = await attempt(post('learn', {}));
  if (!answer) return;
  state.learn = { phase: answer.phase, share: 0, seconds_left: null, line: '' };
  drawLearn();
  announce('learning has begun');
}
async function pickAll() {
  if (await attempt(post('pick', {}))) announce('picking has begun');
}
const stopLearning = () => attempt(post('learn/stop', {}));

/** Takes in what the server tells each second about learning. */
function noteLearning(learn, score) {
  const before = state.learn.phase;
  Object.assign(state, { learn, score });
  drawLearn();
  if (!BUSY.has(before)) return;
  if (learn.phase === 'done') { newPicksTold = true; tell(learn.line); loadModels().catch(() => {}); }
  if (learn.phase === 'failed') tell(`Learning failed: ${learn.error}`, 'error');
}

async function loadModels(answer = null) {
  const { present: used, models } = answer || await get('models');
  const row = (name, text) => {
    const button = make('button', { type: 'button', className: 'small', textContent: name === used ? 'in use' : 'use', disabled: name === used });
    button.setAttribute('aria-label', `use ${name}`);
    button.addEventListener('click', async () => { const next = await attempt(post('models', { use: name })); if (next) { newPicksTold = true; loadModels(next); tell(`${name} is in use now.`); } });
    return make('li', {}, make('span', {}, make('strong', { textContent: name }), make('br'), make('span', { className: 'soft', textContent: text })), button);
  };
  const about = ({ when, labels, text }) => when
    ? `${many(labels, 'label')}, ${new Date(when * 1000).toLocaleString('en-GB', { dateStyle: 'medium', timeStyle: 'short' })}: ${text}` : text;
  const rows = models.map((model) => row(model.name, about(model))).reverse();
  $('model-list').replaceChildren(...rows);
}

// The walk.

const walk = { places: [], at: -1, get place() { return this.places[this.at] || null; } };

async function startWalk() {
  const answer = await attempt(get('unsure?count=10'));
  if (!answer) return;
  if (!answer.places.length) return tell('There is no place left which the model is unsure of.');
  walk.places = answer.places;
  walk.at = -1;
  nextPlace();
}

async function nextPlace() {
  walk.at++;
  if (!walk.place) { endWalk(); return tell(`That was the last of these places. Learn again, or press U for more.`); }
  const { micrograph, x, y, radius, score } = walk.place;
  $('walk').hidden = false;
  $('walk-question').textContent = `is this a ${state.session.kind}?`;
  $('walk-yes-word').textContent = state.session.kind;
  $('walk-place').textContent = `place ${walk.at + 1} of ${walk.places.length}, score ${score.toFixed(2)}`;
  announce(`${$('walk-question').textContent} ${$('walk-place').textContent}`);
  await openMicrograph(micrograph, { x, y, scale: clamp(Math.min(view.width, view.height) / (radius * 12), 0.02, 8) });
  redraw();
}

function endWalk() {
  walk.places = [];
  walk.at = -1;
  $('walk').hidden = true;
  redrawMarks();
}

function answerWalk(yes) {
  const { place } = walk, { kind } = state.session;
  if (!place || state.open !== place.micrograph || !present().fresh) return;
  if (!yes) addItem({ kind: 'nothing', x: place.x, y: place.y });
  else if (kind === 'particle') addItem({ kind, x: place.x, y: place.y });
  else if (kind === 'vesicle') addItem({ kind, x: place.x, y: place.y, r: place.radius });
  else if (!acceptAt(place.x, place.y)) return tell('Draw the fiber here with the fiber tool (F), then skip to the next place (S).');
  nextPlace();
}

function startLearnPanel() {
  $('learn').addEventListener('click', startLearning);
  $('learn-stop').addEventListener('click', stopLearning);
  $('unsure').addEventListener('click', startWalk);
  $('pick-all').addEventListener('click', pickAll);
  $('walk-yes').addEventListener('click', () => answerWalk(true));
  $('walk-no').addEventListener('click', () => answerWalk(false));
  $('walk-skip').addEventListener('click', nextPlace);
  $('walk-end').addEventListener('click', endWalk);
}
