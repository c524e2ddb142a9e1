// Contrast of all text on all grounds of style.css in both schemes (WCAG 2), and how far apart the marks' colours are for people
// with protanopia and deuteranopia (Machado, Oliveira and Fernandes 2009, severity 1; CIE delta E 2000). node scripts/colours.mjs
import fs from 'node:fs';
import path from 'node:path';
const src = path.join(path.dirname(new URL(import.meta.url).pathname), '../src/view/page');
const css = fs.readFileSync(path.join(src, 'style.css'), 'utf8'), js = fs.readFileSync(path.join(src, 'base.js'), 'utf8');
let bad = 0;

const blocks = [...css.matchAll(/:root \{([^}]*)\}/g)].map((m) => Object.fromEntries([...m[1].matchAll(/--([\w-]+): (#[0-9a-f]{3,8})\b/g)].map((v) => [v[1], v[2]])));
const schemes = { light: blocks[0], dark: { ...blocks[0], ...blocks[1] } };
const rgb = (hex) => { const h = hex.length === 4 ? [...hex.slice(1)].map((c) => c + c).join('') : hex.slice(1); return [0, 2, 4].map((i) => parseInt(h.slice(i, i + 2), 16)); };
const linear = (v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
const luminance = (c) => { const [r, g, b] = c.map(linear); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const contrast = (a, b) => { const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };

// Every colour that the style sheet gives to text, and every ground that it paints below text. Accent as a ground carries only --on-accent.
const texts = new Set([...css.matchAll(/(?<![-\w])(?:color|fill): var\(--([\w-]+)\)/g)].map((m) => m[1]).filter((n) => !['bar', 'on-accent'].includes(n)));
const grounds = new Set([...css.matchAll(/background: var\(--([\w-]+)\)/g)].map((m) => m[1]).filter((n) => !['accent', 'good', 'warn', 'wrong', 'text', 'stage'].includes(n)));
const odd = [...css.matchAll(/(?<![-\w])color: (?!var|inherit|currentColor)([^;}]+)/g)].map((m) => m[1]);
if (odd.length) { console.log('colours without a name:', odd); bad++; }
console.log('contrast of text, at least 4.5'); console.log('text      ground   light   dark');
for (const [text, ground] of [...[...texts].flatMap((t) => [...grounds].map((g) => [t, g])), ['on-accent', 'accent']]) {
  const numbers = Object.values(schemes).map((s) => contrast(rgb(s[text]), rgb(s[ground])));
  if (Math.min(...numbers) < 4.5) bad++;
  console.log(text.padEnd(10) + ground.padEnd(8), ...numbers.map((n) => (n.toFixed(2) + (n < 4.5 ? '!' : '')).padStart(6)));
}
console.log('\ncontrast of controls and lines of charts, at least 3'); 
for (const [a, b] of [['edge', 'panel'], ['edge', 'well'], ['accent', 'panel'], ['accent', 'stage'], ['accent', 'bar'], ['warn', 'panel']]) {
  const numbers = Object.values(schemes).map((s) => contrast(rgb(s[a]), rgb(s[b])));
  if (Math.min(...numbers) < 3) bad++;
  console.log(a.padEnd(10) + b.padEnd(8), ...numbers.map((n) => (n.toFixed(2) + (n < 3 ? '!' : '')).padStart(6)));
}

const machado = {
  normal: [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
  protanopia: [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
  deuteranopia: [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
};
function lab(c, matrix) {
  const l = c.map(linear), [r, g, b] = matrix.map((row) => Math.min(1, Math.max(0, row[0] * l[0] + row[1] * l[1] + row[2] * l[2])));
  const f = (t) => (t > 216 / 24389 ? Math.cbrt(t) : (24389 / 27 * t + 16) / 116);
  const [x, y, z] = [f((0.4124564 * r + 0.3575761 * g + 0.1804375 * b) / 0.95047), f(0.2126729 * r + 0.7151522 * g + 0.072175 * b), f((0.0193339 * r + 0.119192 * g + 0.9503041 * b) / 1.08883)];
  return [116 * y - 16, 500 * (x - y), 200 * (y - z)];
}
function deltaE([L1, a1, b1], [L2, a2, b2]) {
  const rad = Math.PI / 180, C = (Math.hypot(a1, b1) + Math.hypot(a2, b2)) / 2, G = 0.5 * (1 - Math.sqrt(C ** 7 / (C ** 7 + 25 ** 7)));
  const A1 = a1 * (1 + G), A2 = a2 * (1 + G), C1 = Math.hypot(A1, b1), C2 = Math.hypot(A2, b2);
  const hue = (a, b) => (a || b ? (Math.atan2(b, a) / rad + 360) % 360 : 0), h1 = hue(A1, b1), h2 = hue(A2, b2);
  let dh = h2 - h1; if (C1 * C2 === 0) dh = 0; else if (dh > 180) dh -= 360; else if (dh < -180) dh += 360;
  const dL = L2 - L1, dC = C2 - C1, dH = 2 * Math.sqrt(C1 * C2) * Math.sin(dh / 2 * rad), Lm = (L1 + L2) / 2, Cm = (C1 + C2) / 2;
  let hm = h1 + h2; if (C1 * C2) hm = Math.abs(h1 - h2) <= 180 ? hm / 2 : hm < 360 ? (hm + 360) / 2 : (hm - 360) / 2;
  const T = 1 - 0.17 * Math.cos((hm - 30) * rad) + 0.24 * Math.cos(2 * hm * rad) + 0.32 * Math.cos((3 * hm + 6) * rad) - 0.2 * Math.cos((4 * hm - 63) * rad);
  const SL = 1 + 0.015 * (Lm - 50) ** 2 / Math.sqrt(20 + (Lm - 50) ** 2), SC = 1 + 0.045 * Cm, SH = 1 + 0.015 * Cm * T;
  const RT = -Math.sin(2 * 30 * Math.exp(-(((hm - 275) / 25) ** 2)) * rad) * 2 * Math.sqrt(Cm ** 7 / (Cm ** 7 + 25 ** 7));
  return Math.sqrt((dL / SL) ** 2 + (dC / SC) ** 2 + (dH / SH) ** 2 + RT * (dC / SC) * (dH / SH));
}
// The known pair 1 of Sharma, Wu and Dalal (2005) keeps the formula honest.
if (Math.abs(deltaE([50, 2.6772, -79.7751], [50, 0, -82.7485]) - 2.0425) > 1e-4) throw new Error('delta E 2000 is computed wrongly');

export function apart(MARKS, VIRIDIS) {
  // The picks are shown above the threshold; the whole scale is taken, in 33 steps.
  const ramp = Array.from({ length: 33 }, (_, k) => { const p = k / 32 * (VIRIDIS.length - 1), i = Math.min(VIRIDIS.length - 2, Math.floor(p)); return VIRIDIS[i].map((v, j) => v + (p - i) * (VIRIDIS[i + 1][j] - v)); });
  const marks = Object.entries(MARKS).filter(([n]) => n !== 'halo'), rows = [];
  for (const [i, [a, ca]] of marks.entries()) {
    for (const [b, cb] of marks.slice(i + 1)) rows.push([a, b, ...Object.values(machado).map((m) => deltaE(lab(rgb(ca), m), lab(rgb(cb), m)))]);
    rows.push([a, 'picks', ...Object.values(machado).map((m) => Math.min(...ramp.map((c) => deltaE(lab(rgb(ca), m), lab(c, m)))))]);
  }
  return rows;
}
const [MARKS, VIRIDIS] = new Function(js.match(/const MARKS = .*\n/)[0] + js.match(/const VIRIDIS = .*\n/)[0] + 'return [MARKS, VIRIDIS];')();
for (const [name, value] of Object.entries(schemes.light)) if (name.startsWith('mark-') && MARKS[name.slice(5)] !== value) { console.log(`--${name} is not the colour in base.js`); bad++; }
console.log('\nmarks: delta E 2000, at least 10 (picks: the nearest colour of the whole scale)'); console.log('                       ' + Object.keys(machado).map((n) => n.padStart(13)).join(''));
const rows = apart(MARKS, VIRIDIS);
for (const [a, b, ...numbers] of rows) { if (Math.min(...numbers) < 10) bad++; console.log(`${a} - ${b}`.padEnd(23) + numbers.map((n) => (n.toFixed(1) + (n < 10 ? '!' : '')).padStart(13)).join('')); }
console.log(`smallest: protanopia ${Math.min(...rows.map((r) => r[3])).toFixed(1)}, deuteranopia ${Math.min(...rows.map((r) => r[4])).toFixed(1)}`);
console.log(`every mark on its halo: contrast ${Object.entries(MARKS).filter(([n]) => n !== 'halo').map(([n, c]) => `${n} ${contrast(rgb(c), rgb(MARKS.halo)).toFixed(1)}`).join(', ')}, picks from score 0.35 ${contrast(VIRIDIS[3], rgb(MARKS.halo)).toFixed(1)} upwards`);

if (process.argv[2] === '--seek') {
  // Looks for colours of nothing, region and selected which are furthest apart in the worst case.
  let best = 0; const hex = (c) => '#' + c.map((v) => v.toString(16).padStart(2, '0')).join(''), steps = [0, 51, 102, 153, 204, 255], all = [];
  for (const r of steps) for (const g of steps) for (const b of steps) all.push(hex([r, g, b]));
  const clear = all.filter((c) => Math.min(...apart({ label: MARKS.label, x: c }, VIRIDIS).filter((r) => r[0] === 'x' || r[1] === 'x').flatMap((r) => r.slice(2))) >= 13 && contrast(rgb(c), rgb(MARKS.halo)) > 5);
  console.log(clear.length, 'colours are clear of picks and labels:', clear.join(' '));
  const found = [];
  for (let i = 0; i < clear.length; i++) for (let j = i + 1; j < clear.length; j++) for (let k = j + 1; k < clear.length; k++) {
    const worst = Math.min(...[[i, j], [i, k], [j, k]].flatMap(([p, q]) => Object.values(machado).map((m) => deltaE(lab(rgb(clear[p]), m), lab(rgb(clear[q]), m)))));
    found.push([worst, clear[i], clear[j], clear[k]]);
  }
  console.log(found.sort((a, b) => b[0] - a[0]).slice(0, 12).map((f) => f.join(' ')).join('\n'));
}
process.exit(bad ? 1 : 0);
