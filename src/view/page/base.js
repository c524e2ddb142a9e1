'use strict';

// What every other file uses: small helpers, the settings which are remembered, and the colours of the marks.

const $ = (id) => document.getElementById(id);
/** The size of the page's text in pixels: charts and marks grow with it, for large screens. */
const textSize = () => Number.parseFloat(getComputedStyle(document.documentElement).fontSize);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const many = (count, word) => `${count.toLocaleString('en')} ${word}${count === 1 ? '' : 's'}`;

/** Makes an element. Names of files come from outside, so text is only ever set as text, never as HTML. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) key in element ? (element[key] = value) : element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function makeSvg(tag, attributes = {}, text) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** Calls `act` once things have been quiet for `wait` milliseconds. */
function debounce(act, wait) {
  let timer = 0;
  return (...values) => { clearTimeout(timer); timer = setTimeout(() => act(...values), wait); };
}

/** Joins many calls within one frame of the screen into one. */
function perFrame(act) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; act(); });
  };
}

const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(10)), (byte) => (byte % 36).toString(36)).join('');

// Storage can be forbidden by the browser's settings; the page has to work without it.
function remember(key, value) { try { localStorage.setItem('epicker.' + key, JSON.stringify(value)); } catch { /* nothing is remembered then */ } }
function recall(key, otherwise) {
  try { return JSON.parse(localStorage.getItem('epicker.' + key)) ?? otherwise; } catch { return otherwise; }
}

/** All that more than one part of the page has to know. */
const state = {
  session: null, rows: [], open: -1, tool: 'select', selected: null,
  threshold: 0.5, scores: null, picksRev: null, rev: 0, labels: 0, learn: { phase: 'idle' },
  marksHidden: false, brush: recall('brush', 1), letterKeys: recall('letterKeys', true),
  image: { low: 20, lo: 0.5, hi: 99.5, flat: true, invert: false, ...recall('image', {}) },
};

// Chosen with contrast.mjs, so that they stay apart for people with protanopia and deuteranopia; shape tells them apart as well.
const MARKS = { label: '#ffffff', nothing: '#d4570a', region: '#cc66ff', selected: '#66e0ff', halo: '#0b0d10' };
const VIRIDIS = [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37]];

function viridis(share) {
  const place = clamp(share, 0, 1) * (VIRIDIS.length - 1), below = Math.min(VIRIDIS.length - 2, Math.floor(place)), part = place - below;
  return `rgb(${VIRIDIS[below].map((value, i) => Math.round(value + part * (VIRIDIS[below + 1][i] - value))).join(' ')})`;
}

/** Round numbers for an axis from `low` to `high`, about `count` of them. */
function roundTicks(low, high, count, steps = null) {
  const rough = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = (steps || [1, 2, 5, 10].map((factor) => factor * power)).find((size) => size >= rough) || 10 * power;
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-6; i++) ticks.push(+(i * step).toPrecision(12));
  return ticks;
}

/** A quiet message, seen in the corner and read out by screen readers. */
function tell(text, kind = 'plain') {
  const last = $('toasts').lastElementChild;
  if (last && last.textContent === text) return;
  const toast = make('div', { className: 'toast ' + kind, textContent: text });
  $('toasts').append(toast);
  setTimeout(() => toast.remove(), kind === 'error' ? 9000 : 4500);
}

/** Only for screen readers: what a sighted person sees happen on the micrograph. */
function announce(text) { $('announcer').textContent = text; }
