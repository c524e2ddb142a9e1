'use strict';

// The list of micrographs. It may have 5000 rows, so only those in sight exist as elements.

let listOrder = [];   // the IDs which pass the filter, sorted
let activeRow = -1;   // the place in the list which the keyboard is at
const SORTS = {
  name: (a, b) => collator.compare(a.name, b.name),
  labels: (a, b) => b.labels + b.nothing - a.labels - a.nothing,
  picks: (a, b) => (picksOf(b) ?? -1) - (picksOf(a) ?? -1),
  score: (a, b) => meanScore(b.id) - meanScore(a.id),
  time: (a, b) => a.time - b.time,
};
const collator = new Intl.Collator('en', { numeric: true });

async function loadMicrographs() {
  const answer = await get('micrographs');
  state.rows = answer.rows.map((values, id) => ({ id, ...Object.fromEntries(answer.columns.map((column, i) => [column, values[i]])) }));
  for (const document_ of documents.values()) if (document_.fresh && queue.some((entry) => entry.id === document_.id)) afterChange(document_);
  arrangeList();
}

function arrangeList() {
  const words = $('filter').value.trim().toLowerCase().split(/\s+/).filter(Boolean);
  const rows = state.rows.filter((row) => words.every((word) => row.name.toLowerCase().includes(word)));
  rows.sort((a, b) => SORTS[$('sort').value](a, b) || a.id - b.id);
  listOrder = rows.map((row) => row.id);
  activeRow = listOrder.indexOf(state.open);
  drawList();
  updatePosition();
}

/** The micrograph `by` places further on in the list as it is shown, or null at its ends. */
function neighbour(by) {
  const place = listOrder.indexOf(state.open);
  return place < 0 ? (listOrder[0] ?? null) : (listOrder[place + by] ?? null);
}
function goNeighbour(by) {
  const id = neighbour(by);
  if (id === null) return announce(by > 0 ? 'this is the last micrograph' : 'this is the first micrograph');
  openMicrograph(id);
}

/** A name which is too long is cut in its middle: the tail has the number by which micrographs differ. */
function putName(element, name) {
  const cut = Math.max(0, name.length - 17);
  element.replaceChildren(make('span', { className: 'head', textContent: name.slice(0, cut) }), make('span', { className: 'tail', textContent: name.slice(cut) }));
  element.title = name;
}

function makeRow(place, height) {
  const row = state.rows[listOrder[place]], picks = picksOf(row);
  const name = make('span', { className: 'tailed' }), facts = make('span', { className: 'facts' });
  putName(name, row.name);
  if (row.error) facts.append(make('span', { className: 'badge wrong', textContent: 'unreadable' }));
  else facts.append(make('span', { className: row.labels ? 'has-labels' : '', textContent: many(row.labels, 'label') }), make('span', { textContent: picks === null ? 'not picked' : many(picks, 'pick') }));
  if (row.finished) facts.append(make('span', { className: 'badge good', textContent: '✓ finished' }));
  if (row.excluded) facts.append(make('span', { className: 'badge warn', textContent: 'excluded' }));
  const element = make('div', { id: `row-${row.id}`, className: 'item', role: 'option' }, name, facts);
  element.setAttribute('aria-selected', row.id === state.open);
  element.setAttribute('aria-posinset', place + 1);
  element.setAttribute('aria-setsize', listOrder.length);
  if (place === activeRow) element.classList.add('active');
  if (row.excluded) element.classList.add('excluded');
  if (row.error) element.title = row.error;
  element.dataset.place = place;
  element.style.top = `${place * height}px`;
  return element;
}

const rowHeight = () => Math.round(3.2 * textSize());
const drawList = perFrame(() => {
  const list = $('list'), height = rowHeight(), first = Math.max(0, Math.floor(list.scrollTop / height) - 3);
  const last = Math.min(listOrder.length, first + Math.ceil(list.clientHeight / height) + 7), rows = [];
  for (let place = first; place < last; place++) rows.push(makeRow(place, height));
  $('list-inner').style.height = `${listOrder.length * height}px`;
  $('list-inner').replaceChildren(...rows);
  const active = activeRow >= 0 ? `row-${listOrder[activeRow]}` : '';
  if (active && $(active)) list.setAttribute('aria-activedescendant', active); else list.removeAttribute('aria-activedescendant');
  const finished = state.rows.reduce((sum, row) => sum + (row.finished ? 1 : 0), 0), all = state.rows.length;
  $('list-foot').textContent = `${listOrder.length < all ? `${listOrder.length.toLocaleString('en')} of ${many(all, 'micrograph')}` : many(all, 'micrograph')}, ${finished} finished`;
});

function showRow(place) {
  const list = $('list'), height = rowHeight(), top = place * height;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + height > list.scrollTop + list.clientHeight) list.scrollTop = top + height - list.clientHeight;
  drawList();
}

function listKey(event) {
  const page = Math.max(1, Math.floor($('list').clientHeight / rowHeight()) - 1);
  const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key in moves) {
    activeRow = clamp((activeRow < 0 ? 0 : activeRow) + moves[event.key], 0, listOrder.length - 1);
    showRow(activeRow);
  } else if ((event.key === 'Enter' || event.key === ' ') && activeRow >= 0) openMicrograph(listOrder[activeRow]);
  else return;
  event.preventDefault();
  event.stopPropagation();
}

function startList() {
  $('sort').value = recall('sort', 'name');
  $('filter').addEventListener('input', arrangeList);
  $('filter').addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' && event.key !== 'ArrowDown') return;
    event.preventDefault();
    $('list').focus();
    if (activeRow < 0) activeRow = 0;
    if (event.key === 'Enter' && listOrder.length) openMicrograph(listOrder[activeRow]);
    showRow(activeRow);
  });
  $('sort').addEventListener('change', () => { remember('sort', $('sort').value); arrangeList(); });
  $('list').addEventListener('scroll', drawList, { passive: true });
  $('list').addEventListener('keydown', listKey);
  $('list').addEventListener('click', (event) => {
    const row = event.target.closest('.item');
    if (row) openMicrograph(listOrder[row.dataset.place]);
  });
  new ResizeObserver(drawList).observe($('list'));
}
