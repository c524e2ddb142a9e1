//! Curves as SVG: text that a browser shows, a screen reader reads aloud, and a script can take apart.

use super::report::Report;
use std::fmt::Write;
use std::path::Path;

/// One line of a chart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Points (x, y).
    pub points: Vec<[f64; 2]>,
    /// Around the line: x, and the least and the greatest y that are plausible there. Empty where nobody knows them.
    pub band: Vec<[f64; 3]>,
    /// Points of the line that mean something, each with its words.
    pub marks: Vec<([f64; 2], String)>,
}

/// One axis of a chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// Words beside it.
    pub label: String,
    /// Its ends.
    pub range: [f64; 2],
    /// It counts things, so no number between two whole ones stands on it.
    pub whole: bool,
}

/// A chart of lines.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// Above the chart.
    pub title: String,
    /// Across the chart.
    pub x: Axis,
    /// Up the chart.
    pub y: Axis,
    /// The lines.
    pub series: Vec<Series>,
    /// Where something happens to all lines: x, and its words.
    pub rules: Vec<(f64, String)>,
}

const WIDTH: f64 = 720.0;
/// Height without the legend.
const HEIGHT: f64 = 440.0;
/// A row of the legend.
const ROW: f64 = 20.0;
/// Left, top, right and bottom margin.
const MARGINS: [f64; 4] = [64.0, 40.0, 24.0, 52.0];
/// About so many numbers stand at an axis.
const TICKS: f64 = 6.0;
/// Lines differ in dashes besides colours, so that they can be told apart without colours.
const DASHES: [&str; 4] = ["none", "8 4", "2 3", "10 3 2 3"];
/// Colours of lines on white and on black. Each has a contrast of 4.5 or more to its ground, and any two are a CIEDE2000 of 12
/// or more apart, also for eyes that lack one kind of cones (Machado et al. 2009, doi:10.1109/TVCG.2009.113).
const COLOURS: [[&str; 2]; 4] = [["#0072b2", "#56b4e9"], ["#a63d00", "#f2a65a"], ["#007a5a", "#3fcf9f"], ["#8a2f6b", "#ffd0ea"]];

/// Round numbers within a range, about six, each with its text: multiples of 1, 2 or 5 times a power of ten.
pub fn ticks([low, high]: [f64; 2], whole: bool) -> Vec<(f64, String)> {
    let rough = (high - low) / TICKS;
    if !(rough.is_finite() && rough > 0.0) {
        return vec![(low, format!("{low}"))];
    }
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= 0.999 * rough);
    let step = step.unwrap_or(power).max(if whole { 1.0 } else { 0.0 });
    let digits = (-step.log10() - 1e-9).ceil().max(0.0) as usize;
    let [first, last] = [(low / step - 1e-9).ceil() as i64, (high / step + 1e-9).floor() as i64];
    (first..=last).map(|i| i as f64 * step).map(|value| (value, format!("{value:.digits$}"))).collect()
}

impl Axis {
    /// An axis from 0 to 1.
    pub fn of_shares(label: &str) -> Axis {
        Axis { label: label.to_owned(), range: [0.0, 1.0], whole: false }
    }

    /// An axis from 0 to the first round number that no value exceeds.
    pub fn from_zero(label: &str, values: impl Iterator<Item = f64>) -> Axis {
        let highest = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
        let highest = if highest > 0.0 { highest } else { 1.0 };
        let step = match ticks([0.0, highest], false).as_slice() {
            [_, (step, _), ..] => *step,
            _ => highest,
        };
        Axis { label: label.to_owned(), range: [0.0, (highest / step - 1e-9).ceil() * step], whole: false }
    }

    /// An axis over the values of something that is counted; from 0 to 1 if there is no value.
    pub fn of_counts(label: &str, values: impl Iterator<Item = f64>) -> Axis {
        let values = values.filter(|value| value.is_finite());
        let [low, high] = values.fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], value| [low.min(value), high.max(value)]);
        let range = match low <= high {
            false => [0.0, 1.0],
            true if low == high => [low - 1.0, low + 1.0],
            true => [low, high],
        };
        Axis { label: label.to_owned(), range, whole: true }
    }

    fn share(&self, value: f64) -> f64 {
        ((value - self.range[0]) / (self.range[1] - self.range[0])).clamp(0.0, 1.0)
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        ticks(self.range, self.whole)
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A `text` element.
fn put(out: &mut String, [x, y]: [f64; 2], more: &str, text: &str) {
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" {more}>{}</text>", escaped(text));
}

impl Chart {
    /// Whether the lines need a legend: one line without a band says all by its axis.
    fn has_legend(&self) -> bool {
        self.series.iter().any(|one| !one.band.is_empty() || one.name != self.y.label)
    }

    fn top(&self) -> f64 {
        MARGINS[1] + if self.has_legend() { ROW * self.series.len() as f64 + 8.0 } else { 0.0 }
    }

    fn height(&self) -> f64 {
        HEIGHT - MARGINS[1] + self.top()
    }

    fn place(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let [left, _, right, bottom] = MARGINS;
        let (top, height) = (self.top(), self.height());
        [left + self.x.share(x) * (WIDTH - left - right), height - bottom - self.y.share(y) * (height - top - bottom)]
    }

    /// The chart as SVG.
    pub fn svg(&self) -> String {
        let height = self.height();
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-labelledby=\"title desc\" \
             font-family=\"system-ui, sans-serif\" font-size=\"13\">\n<title id=\"title\">{}</title>\n<desc id=\"desc\">{}</desc>\n{}\
             <rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\"/>\n",
            escaped(&self.title),
            escaped(&self.told()),
            style(),
        );
        self.draw_axes(&mut out);
        self.draw_rules(&mut out);
        self.draw_lines(&mut out);
        self.draw_marks(&mut out);
        out.push_str("</svg>\n");
        out
    }

    /// What the chart shows, for those who do not see it.
    fn told(&self) -> String {
        let mut out = format!("{} over {}.", self.y.label, self.x.label);
        for series in &self.series {
            let mut known = series.points.iter().filter(|point| point.iter().all(|value| value.is_finite()));
            if let Some(first) = known.next() {
                let ([x, y], [last_x, last_y]) = (first, known.next_back().unwrap_or(first));
                let _ = write!(out, " {}: from {y:.3} at {x:.3} to {last_y:.3} at {last_x:.3}.", series.name);
            }
            for ([x, y], words) in &series.marks {
                let _ = write!(out, " {words}: {y:.3} at {x:.3}.");
            }
            if !series.band.is_empty() {
                out.push_str(" Shaded: 95 % of resamplings of the micrographs.");
            }
        }
        for (x, words) in &self.rules {
            let _ = write!(out, " {words} at {x:.1}.");
        }
        out
    }

    fn draw_axes(&self, out: &mut String) {
        let [left, _, right, bottom] = MARGINS;
        let (top, height) = (self.top(), self.height());
        let middle = [(left + WIDTH - right) / 2.0, (top + height - bottom) / 2.0];
        put(out, [left, 25.0], "font-size=\"16\" font-weight=\"600\"", &self.title);
        put(out, [middle[0], height - 12.0], "text-anchor=\"middle\"", &self.x.label);
        let turned = format!("text-anchor=\"middle\" transform=\"rotate(-90 18 {:.1})\"", middle[1]);
        put(out, [18.0, middle[1]], &turned, &self.y.label);
        let mut line = |from: [f64; 2], to: [f64; 2]| {
            let _ = writeln!(out, "<path class=\"grid\" d=\"M{:.1} {:.1}L{:.1} {:.1}\"/>", from[0], from[1], to[0], to[1]);
        };
        let (xs, ys) = (self.x.ticks(), self.y.ticks());
        xs.iter().for_each(|(x, _)| line(self.place([*x, self.y.range[0]]), self.place([*x, self.y.range[1]])));
        ys.iter().for_each(|(y, _)| line(self.place([self.x.range[0], *y]), self.place([self.x.range[1], *y])));
        for (value, label) in xs {
            put(out, [self.place([value, 0.0])[0], height - bottom + 18.0], "text-anchor=\"middle\"", &label);
        }
        for (value, label) in ys {
            put(out, [left - 8.0, self.place([0.0, value])[1] + 4.5], "text-anchor=\"end\"", &label);
        }
    }

    fn draw_rules(&self, out: &mut String) {
        let (top, bottom) = (self.top(), self.height() - MARGINS[3]);
        for (i, (x, words)) in self.rules.iter().enumerate() {
            let x = self.place([*x, 0.0])[0];
            let _ = writeln!(out, "<path class=\"rule\" d=\"M{x:.1} {top:.1}L{x:.1} {bottom:.1}\"/>");
            let (anchor, aside) = if x > WIDTH * 0.7 { ("end", -5.0) } else { ("start", 5.0) };
            // Neighbours stand in two rows, so that close ones do not cover each other's words.
            let row = top + 14.0 + if i % 2 == 1 { 16.0 } else { 0.0 };
            put(out, [x + aside, row], &format!("text-anchor=\"{anchor}\" class=\"aside\""), words);
        }
    }

    fn draw_lines(&self, out: &mut String) {
        for (i, series) in self.series.iter().enumerate() {
            let colour = i % COLOURS.len();
            let band: Vec<[f64; 3]> = series.band.iter().copied().filter(|edge| edge.iter().all(|value| value.is_finite())).collect();
            if band.len() > 1 {
                let over = band.iter().map(|[x, _, high]| [*x, *high]);
                let edge: Vec<[f64; 2]> = over.chain(band.iter().rev().map(|[x, low, _]| [*x, *low])).collect();
                let _ = writeln!(out, "<polygon class=\"band c{colour}\" points=\"{}\"/>", self.drawn(&edge));
            }
            let dash = DASHES[i % DASHES.len()];
            let shape = format!("class=\"line c{colour}\" stroke-dasharray=\"{dash}\"");
            let _ = writeln!(out, "<polyline {shape} points=\"{}\"/>", self.drawn(&series.points));
            if self.has_legend() {
                let [left, y] = [MARGINS[0], MARGINS[1] + ROW * (i as f64 + 0.5)];
                let _ = writeln!(out, "<path {shape} d=\"M{left} {y}h34\"/>");
                put(out, [left + 42.0, y + 4.5], "", &series.name);
            }
        }
    }

    fn draw_marks(&self, out: &mut String) {
        for (i, series) in self.series.iter().enumerate() {
            for (at, words) in &series.marks {
                let [x, y] = self.place(*at);
                let _ = writeln!(out, "<circle class=\"mark c{}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"/>", i % COLOURS.len());
                let (anchor, aside) = if x > WIDTH / 2.0 { ("end", -9.0) } else { ("start", 9.0) };
                // Below the point, where there is room, because curves of precision fall to the right.
                let down = if y > self.height() - MARGINS[3] - 30.0 { -9.0 } else { 19.0 };
                put(out, [x + aside, y + down], &format!("text-anchor=\"{anchor}\" class=\"aside\""), words);
            }
        }
    }

    /// Points as SVG takes them. Of points that fall on the same tenth of a pixel only the first is kept.
    fn drawn(&self, points: &[[f64; 2]]) -> String {
        let finite = points.iter().filter(|point| point.iter().all(|value| value.is_finite()));
        let mut words: Vec<String> = finite.map(|point| self.place(*point)).map(|[x, y]| format!("{x:.1},{y:.1}")).collect();
        words.dedup();
        words.join(" ")
    }
}

/// Colours by class, for light and for dark surroundings.
fn style() -> String {
    let sheet = |which: usize, [paper, ink, aside, grid]: [&str; 4]| {
        let mut out = format!(
            ".paper{{fill:{paper}}}text{{fill:{ink}}}.aside{{fill:{aside};stroke:{paper};stroke-width:3px;paint-order:stroke}}\
             .grid{{stroke:{grid}}}.rule{{stroke:{aside}}}.mark{{stroke:{paper}}}"
        );
        for (i, colours) in COLOURS.iter().enumerate() {
            let colour = colours[which];
            let _ = write!(out, ".line.c{i}{{stroke:{colour}}}.band.c{i},.mark.c{i}{{fill:{colour}}}");
        }
        out
    };
    format!(
        "<style>{}.line,.grid,.rule{{fill:none}}.line{{stroke-width:2}}.rule{{stroke-dasharray:4 3}}.band{{fill-opacity:.22}}.mark{{\
         stroke-width:2}}@media(prefers-color-scheme:dark){{{}}}</style>\n",
        sheet(0, LIGHT),
        sheet(1, DARK)
    )
}

/// Ground, words, words within the chart, and grid.
const LIGHT: [&str; 4] = ["#ffffff", "#1b1f24", "#4d555f", "#dde1e6"];
const DARK: [&str; 4] = ["#14171b", "#e8ebee", "#aeb6c0", "#333a42"];

/// Precision over recall, with the point of the threshold that each report was shipped with.
pub fn pr_chart<'a>(now: impl Iterator<Item = (&'a str, &'a Report)>, before: Option<&[Report]>) -> Chart {
    let mut series: Vec<Series> = Vec::new();
    let line = |name: &str, report: &Report, more: &str| {
        let interval = report.intervals.as_ref().map_or(String::new(), |all| format!(" [{:.3}, {:.3}]", all.ap[0], all.ap[1]));
        let (threshold, point) = report.shipped;
        // Without a threshold of their own, all picks are shipped.
        let is_all = report.curve.last().is_some_and(|last| last.picks <= point.picks);
        let words = if is_all { "all picks".to_owned() } else { format!("threshold {threshold}") };
        let mark = ([point.recall, point.precision], words);
        Series {
            name: format!("{name}{more}: AP {:.3}{interval}", report.main_number()),
            points: report.curve.iter().map(|point| [point.recall, point.precision]).collect(),
            band: report.intervals.as_ref().map_or(Vec::new(), |all| all.precision.clone()),
            marks: if point.picks > 0.0 { vec![mark] } else { Vec::new() },
        }
    };
    for (i, (name, report)) in now.enumerate() {
        let name = Path::new(name).file_name().map_or(name.to_owned(), |name| name.to_string_lossy().into_owned());
        series.push(line(&name, report, ""));
        series.extend(before.and_then(|before| before.get(i)).map(|before| line(&name, before, " before")));
    }
    Chart {
        title: "Precision and recall".to_owned(),
        x: Axis::of_shares("recall"),
        y: Axis::of_shares("precision"),
        series,
        rules: Vec::new(),
    }
}
