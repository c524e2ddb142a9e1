'use strict';

// Picks per micrograph against time or defocus. The points are two paths of dots, since 5000 elements would make the slider slow;
// the one next to the pointer, or chosen by the keys, is marked and named.

let chartPoints = []; // {id, left, top}, from left to right
let chartAt = -1;

const TIME_STEPS = [60, 300, 600, 1800, 3600, 7200, 14400, 28800, 43200, 86400, 172800, 604800, 2592000, 7776000, 31536000];

/** What the horizontal axis shows: its numbers, ticks, and how they are written. */
function chartAxis(rows) {
  const against = $('chart-against').value;
  if (against === 'defocus') return { of: (row) => row.defocus / 10000, text: (value) => +value.toFixed(2), name: 'defocus, µm' };
  const times = rows.map((row) => row.time), low = Math.min(...times), high = Math.max(...times);
  if (!(high - low > 60)) return { of: (row) => row.id + 1, text: String, name: 'place in the list' };
  const zone = new Date(low * 1000).getTimezoneOffset() * 60, long = high - low > 1.5 * 86400;
  const text = (value) => new Date((value + zone) * 1000).toLocaleString('en-GB', long ? { day: 'numeric', month: 'short' } : { hour: '2-digit', minute: '2-digit' });
  return { of: (row) => row.time - zone, text, name: long ? 'date' : 'time of day', steps: TIME_STEPS };
}

const drawChart = perFrame(() => {
  const svg = $('chart'), width = svg.clientWidth, height = svg.clientHeight, em = textSize();
  const rows = state.rows.filter((row) => picksOf(row) !== null && !row.error && ($('chart-against').value !== 'defocus' || row.defocus !== null));
  if (!width) return;
  svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  chartPoints = [];
  if (!rows.length) return svg.replaceChildren(makeSvg('text', { x: width / 2, y: height / 2, 'text-anchor': 'middle' }, 'nothing is picked yet'));
  const axis = chartAxis(rows), values = rows.map(axis.of), counts = rows.map(picksOf);
  let low = Math.min(...values), high = Math.max(...values);
  if (low === high) { low -= 1; high += 1; }
  const ceiling = Math.max(4, ...counts) * 1.05, yTicks = roundTicks(0, ceiling, 4).filter(Number.isInteger);
  const box = { left: 10 + 0.5 * em * Math.max(...yTicks.map((tick) => String(tick).length)), right: width - 10, top: 8, bottom: height - 2.4 * em };
  const x = (value) => box.left + 4 + (value - low) / (high - low) * (box.right - box.left - 8), y = (count) => box.bottom - count / ceiling * (box.bottom - box.top);
  const children = [];
  for (const tick of yTicks) children.push(makeSvg('path', { class: 'grid', d: `M${box.left} ${Math.round(y(tick)) + 0.5}H${box.right}` }), makeSvg('text', { x: box.left - 5, y: y(tick) + 0.28 * em, 'text-anchor': 'end' }, tick));
  for (const tick of roundTicks(low, high, Math.max(2, Math.floor(width / (4.3 * em))), axis.steps)) {
    children.push(makeSvg('path', { class: 'axis', d: `M${Math.round(x(tick)) + 0.5} ${box.bottom}v4` }), makeSvg('text', { x: x(tick), y: box.bottom + 1.1 * em, 'text-anchor': 'middle' }, axis.text(tick)));
  }
  children.push(makeSvg('text', { x: (box.left + box.right) / 2, y: height - 3, 'text-anchor': 'middle', class: 'axis-name' }, axis.name));
  const dots = { plain: '', excluded: '' };
  rows.forEach((row, i) => {
    const point = { id: row.id, left: x(values[i]), top: y(counts[i]) };
    chartPoints.push(point);
    dots[row.excluded ? 'excluded' : 'plain'] += `M${point.left.toFixed(1)} ${point.top.toFixed(1)}h0`;
  });
  chartPoints.sort((a, b) => a.left - b.left);
  children.push(makeSvg('path', { class: 'dots excluded', d: dots.excluded }), makeSvg('path', { class: 'dots', d: dots.plain }));
  const open = chartPoints.find((point) => point.id === state.open);
  if (open) children.push(makeSvg('circle', { class: 'open', cx: open.left, cy: open.top, r: 5 }));
  children.push(makeSvg('circle', { class: 'chosen', r: 6, cx: -20, cy: -20 }));
  svg.replaceChildren(...children);
  nameChartPoint(-1);
});

const drawChartSoon = debounce(drawChart, 80);

function nameChartPoint(place) {
  chartAt = place;
  const point = chartPoints[place], mark = $('chart').querySelector('.chosen');
  mark?.setAttribute('cx', point ? point.left : -20);
  mark?.setAttribute('cy', point ? point.top : -20);
  // Where no point is chosen, the name is that of the open micrograph, which has a ring in the chart.
  const row = state.rows[point ? point.id : state.open], picks = row && picksOf(row);
  if (row) putName($('chart-name'), `${row.name}: ${picks === null ? 'not picked' : picks}${row.excluded ? ', excluded' : ''}`);
}

function chartPlaceAt(event) {
  const box = $('chart').getBoundingClientRect(), left = event.clientX - box.left, top = event.clientY - box.top;
  let best = -1, nearest = 18;
  chartPoints.forEach((point, i) => {
    const distance = Math.hypot(point.left - left, point.top - top);
    if (distance < nearest) { nearest = distance; best = i; }
  });
  return best;
}

function startChart() {
  const svg = $('chart');
  $('chart-against').value = 'time';
  $('chart-against').hidden = !state.session.has_ctf;
  $('chart-against').addEventListener('change', drawChart);
  svg.addEventListener('pointermove', (event) => nameChartPoint(chartPlaceAt(event)));
  svg.addEventListener('pointerleave', () => nameChartPoint(-1));
  svg.addEventListener('blur', () => nameChartPoint(-1));
  svg.addEventListener('focus', () => { if (svg.matches(':focus-visible')) nameChartPoint(Math.max(0, chartPoints.findIndex((point) => point.id === state.open))); });
  svg.addEventListener('click', (event) => { const point = chartPoints[chartPlaceAt(event)]; if (point) openMicrograph(point.id); });
  svg.addEventListener('keydown', (event) => {
    const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowUp: 10, ArrowDown: -10 };
    if (event.key in moves) {
      nameChartPoint(clamp(chartAt + moves[event.key], 0, chartPoints.length - 1));
      announce($('chart-name').textContent);
    }
    else if ((event.key === 'Enter' || event.key === ' ') && chartPoints[chartAt]) openMicrograph(chartPoints[chartAt].id);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
}
