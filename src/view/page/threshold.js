'use strict';

// The threshold: everything is counted from the scores the page has, so that the slider answers at once; the server is told afterwards.

let rowScores = new Map(); // ID -> how many picks have a score in this bin or above, 101 numbers
let scoresTimer = 0;

/** Fetches the scores; with `follow` also the threshold is taken over, since new picks may come with a new one. */
async function loadScores(follow = false) {
  clearTimeout(scoresTimer);
  const answer = await get('scores');
  rowScores = new Map(answer.rows.map(([id, counts]) => {
    const above = new Uint32Array(answer.bins + 1);
    for (let bin = answer.bins - 1; bin >= 0; bin--) above[bin] = above[bin + 1] + counts[bin];
    return [id, above];
  }));
  state.scores = answer;
  if ((follow || state.session.threshold === null) && answer.threshold !== null) state.threshold = state.session.threshold = answer.threshold;
  if (answer.loaded < answer.all) scoresTimer = setTimeout(() => loadScores().catch(() => {}), 1000);
  drawThreshold(); drawChart(); drawList();
}

const bin = () => clamp(Math.round(state.threshold * 100), 0, 100);

/** How many picks a micrograph has above the present threshold; null where nothing is picked or nothing is known. */
function picksOf(row) {
  if (row.picks === null) return null;
  const above = rowScores.get(row.id);
  return above ? above[bin()] : row.picks;
}

function meanScore(id) {
  const above = rowScores.get(id), from = bin();
  if (!above?.[from]) return -1;
  let sum = 0;
  for (let i = from; i < 100; i++) sum += (above[i] - above[i + 1]) * (i + 0.5);
  return sum / above[from];
}

function setThreshold(value) {
  state.threshold = clamp(Math.round(value * 100) / 100, 0, 1);
  $('threshold-line').hidden = true;
  redrawMarks(); drawThreshold(); drawList();
  // Drawing thousands of points takes longer than a step of the slider may.
  (state.rows.length > 800 ? drawChartSoon : drawChart)();
  tellThreshold();
}
const tellThreshold = debounce(async () => {
  const answer = await attempt(post('threshold', { threshold: state.threshold, write: false }));
  // Fibers are traced by the server, at the threshold which it has just been told.
  if (answer && state.session.kind === 'fiber' && present()) attempt(loadPicks(present()));
  if ($('sort').value === 'picks' || $('sort').value === 'score') arrangeList();
}, 300);

async function applyThreshold() {
  $('apply').disabled = true;
  const answer = await attempt(post('threshold', { threshold: state.threshold, write: true }));
  $('apply').disabled = false;
  if (!answer) return;
  $('threshold-line').hidden = false;
  $('threshold-line').textContent = answer.line;
  announce(answer.line);
}

const drawThreshold = perFrame(() => {
  if (!state.session) return;
  listGroups();
  const document_ = present(), here = document_?.picks ? document_.picks.reduce((sum, pick) => sum + (pick[3] >= state.threshold ? 1 : 0), 0) : null;
  let all = 0, micrographs = 0, excluded = 0;
  for (const row of state.rows) {
    if (row.excluded) { excluded++; continue; }
    const picks = picksOf(row);
    if (picks !== null) { all += picks; micrographs++; }
  }
  if (document.activeElement !== $('threshold') || +$('threshold').value !== state.threshold) $('threshold').value = state.threshold;
  $('threshold').setAttribute('aria-valuetext', `${state.threshold.toFixed(2)}, ${many(all, 'pick')}`);
  $('threshold-value').textContent = state.threshold.toFixed(2);
  $('auto').disabled = !state.scores || state.scores.auto === null;
  const loading = state.scores && state.scores.loaded < state.scores.all ? ` (scores of ${state.scores.loaded} read so far)` : '';
  $('threshold-counts').replaceChildren(make('strong', { textContent: many(all, 'pick') }), ` in ${many(micrographs, 'micrograph')}${excluded ? `, ${excluded} excluded` : ''}${loading}`, make('br'), make('strong', { textContent: here === null ? 'not picked' : many(here, 'pick') }), ' on this one');
  const row = state.rows[state.open];
  $('here').textContent = row ? (row.error ? `It cannot be read: ${row.error}.` : `${many(row.labels, 'label')}, ${row.nothing} nothing, ${here === null ? 'not picked' : many(here, 'pick')}`) : '';
  drawHistogram(document_);
});

/** Scores of the micrographs which are shown and not excluded. It is kept, since it is drawn at every step of the slider but changes seldom. */
function wholeHistogram() {
  const group = $('histogram-group').value, key = [group, ...state.rows.filter((row) => row.excluded).map((row) => row.id)].join();
  if (wholeHistogram.of !== rowScores || wholeHistogram.key !== key) {
    const counts = new Float64Array(100), isShown = (row) => row && !row.excluded && (!group || row.group === group);
    for (const [id, above] of rowScores) if (isShown(state.rows[id])) for (let i = 0; i < 100; i++) counts[i] += above[i] - above[i + 1];
    Object.assign(wholeHistogram, { of: rowScores, key, counts });
  }
  return wholeHistogram.counts;
}

/** Micrographs of several folders, such as grids or days, can be looked at one folder after the other. */
function listGroups() {
  const groups = [...new Set(state.rows.map((row) => row.group))].sort();
  if (listGroups.of === groups.join('\n')) return;
  listGroups.of = groups.join('\n');
  const option = (value, textContent) => make('option', { value, textContent });
  $('histogram-group').replaceChildren(option('', 'all micrographs'), ...groups.map((group) => option(group, group)));
  $('histogram-group').hidden = groups.length < 2;
}

function drawHistogram(document_) {
  const svg = $('histogram'), width = svg.clientWidth, height = svg.clientHeight, em = textSize(), foot = 1.15 * em, head = 0.95 * em, inset = 8;
  if (!width) return;
  const plot = { width: width - 2 * inset, height: height - foot - head }, whole = wholeHistogram(), own = new Float64Array(25);
  for (const pick of document_?.picks || []) own[clamp(Math.floor(pick[3] * 25), 0, 24)]++;
  const x = (score) => inset + score * plot.width;
  // The square root keeps the few good picks in sight beside the many of low score.
  const scaled = (counts) => { const top = Math.max(1, ...counts); return (count) => head + plot.height * (1 - Math.sqrt(count / top)); };
  const bars = (counts, from, to, y) => {
    let path = '';
    for (let i = from; i < to; i++) path += `${path ? 'L' : `M${x(from / 100)} ${height - foot}L`}${x(i / 100)} ${y(counts[i])}L${x((i + 1) / 100)} ${y(counts[i])}`;
    return path && path + `L${x(to / 100)} ${height - foot}Z`;
  };
  const yWhole = scaled(whole), yOwn = scaled(own), at = bin(), children = [];
  children.push(makeSvg('path', { class: 'below', d: bars(whole, 0, at, yWhole) }), makeSvg('path', { class: 'above', d: bars(whole, at, 100, yWhole) }));
  if (document_?.picks?.length) {
    let path = '';
    own.forEach((count, i) => { path += `${i ? 'L' : 'M'}${x(i / 25)} ${yOwn(count)}L${x((i + 1) / 25)} ${yOwn(count)}`; });
    children.push(makeSvg('path', { class: 'own', d: path }));
  }
  children.push(makeSvg('path', { class: 'axis', d: `M${inset} ${height - foot + 0.5}h${plot.width}` }));
  for (const tick of [0, 0.2, 0.4, 0.6, 0.8, 1]) children.push(makeSvg('text', { x: x(tick), y: height - 3, 'text-anchor': 'middle' }, tick.toString()));
  const auto = state.scores?.auto;
  if (auto !== null && auto !== undefined) {
    children.push(makeSvg('path', { class: 'auto', d: `M${x(auto)} ${head}V${height - foot}` }));
    children.push(makeSvg('text', { x: clamp(x(auto), 4 * em, width - 4 * em), y: 0.7 * em, 'text-anchor': 'middle' }, `automatic ${auto.toFixed(2)}`));
  }
  children.push(makeSvg('path', { class: 'now', d: `M${x(state.threshold)} ${head}V${height - foot}` }));
  svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  svg.replaceChildren(makeSvg('title', {}, 'Scores of the set (filled) and of this micrograph (line). Heights are square roots of counts.'), ...children);
}

function startThreshold() {
  $('threshold').addEventListener('input', () => setThreshold(+$('threshold').value));
  $('auto').addEventListener('click', takeAutomatic);
  $('histogram-group').addEventListener('change', drawThreshold);
  $('apply').addEventListener('click', applyThreshold);
  new ResizeObserver(() => { drawThreshold(); drawChart(); }).observe($('side'));
}
function takeAutomatic() {
  if (state.scores && state.scores.auto !== null) setThreshold(state.scores.auto);
}
