//! Curves as pictures: SVG for people, PNG for where SVG is not shown.

use super::report::Report;
use anyhow::{Context, Result};
use std::fmt::Write;
use std::path::Path;

/// One line of a chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Name in the legend. The SVG shows every letter of it, the PNG only plain letters and digits.
    pub name: String,
    /// Points (x, y).
    pub points: Vec<[f64; 2]>,
}

/// A chart of lines.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// Above the chart.
    pub title: String,
    /// Below the x axis.
    pub x_label: String,
    /// Beside the y axis.
    pub y_label: String,
    /// Ends of the x axis.
    pub x: [f64; 2],
    /// Ends of the y axis.
    pub y: [f64; 2],
    /// The lines.
    pub series: Vec<Series>,
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 480.0;
/// Left, top, right and bottom margin.
const MARGINS: [f64; 4] = [64.0, 36.0, 20.0, 52.0];
const TICKS: u32 = 5;
/// Colours that tell lines apart. Source: Okabe and Ito 2008, Color Universal Design.
const COLOURS: [[u8; 3]; 6] = [[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [230, 159, 0], [86, 180, 233]];

impl Chart {
    /// The least and the greatest value of all series along one axis (0 is x, 1 is y); 0 and 1 if there is no point.
    pub fn range_of(series: &[Series], axis: usize) -> [f64; 2] {
        let values = series.iter().flat_map(|one| one.points.iter().map(|point| point[axis])).filter(|value| value.is_finite());
        let [low, high] = values.fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], value| [low.min(value), high.max(value)]);
        match low <= high {
            false => [0.0, 1.0],
            true if low == high => [low - 0.5, high + 0.5],
            true => [low, high],
        }
    }

    fn place(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let [left, top, right, bottom] = MARGINS;
        let share = |value: f64, [low, high]: [f64; 2]| ((value - low) / (high - low)).clamp(0.0, 1.0);
        [left + share(x, self.x) * (WIDTH - left - right), HEIGHT - bottom - share(y, self.y) * (HEIGHT - top - bottom)]
    }

    fn ticks([low, high]: [f64; 2]) -> impl Iterator<Item = (f64, String)> {
        (0..=TICKS).map(move |i| {
            let value = low + (high - low) * f64::from(i) / f64::from(TICKS);
            let digits = if high - low >= 50.0 {
                0
            } else if high - low >= 0.5 {
                2
            } else {
                4
            };
            (value, format!("{value:.digits$}"))
        })
    }

    /// The chart as SVG.
    pub fn svg(&self) -> String {
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
        );
        let mut text = |x: f64, y: f64, anchor: &str, more: &str, text: &str| {
            let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\"{more}>{text}</text>");
        };
        let [left, top, right, bottom] = MARGINS;
        let middle = [(left + WIDTH - right) / 2.0, (top + HEIGHT - bottom) / 2.0];
        text(middle[0], 22.0, "middle", " font-size=\"15\"", &self.title);
        text(middle[0], HEIGHT - 12.0, "middle", "", &self.x_label);
        text(16.0, middle[1], "middle", &format!(" transform=\"rotate(-90 16 {:.1})\"", middle[1]), &self.y_label);
        for (value, label) in Chart::ticks(self.x) {
            text(self.place([value, self.y[0]])[0], HEIGHT - bottom + 18.0, "middle", "", &label);
        }
        for (value, label) in Chart::ticks(self.y) {
            text(left - 6.0, self.place([self.x[0], value])[1] + 4.0, "end", "", &label);
        }
        for (i, series) in self.series.iter().enumerate() {
            let [r, g, b] = COLOURS[i % COLOURS.len()];
            text(WIDTH - right - 8.0, top + 18.0 + 16.0 * i as f64, "end", &format!(" fill=\"rgb({r},{g},{b})\""), &series.name);
        }
        for [from, to] in self.grid() {
            let _ = writeln!(out, "<path d=\"M{:.1} {:.1}L{:.1} {:.1}\" stroke=\"#ddd\" fill=\"none\"/>", from[0], from[1], to[0], to[1]);
        }
        for (i, series) in self.series.iter().enumerate() {
            let [r, g, b] = COLOURS[i % COLOURS.len()];
            let points: Vec<String> = self.drawn(series).iter().map(|[x, y]| format!("{x:.1},{y:.1}")).collect();
            let _ =
                writeln!(out, "<polyline points=\"{}\" fill=\"none\" stroke=\"rgb({r},{g},{b})\" stroke-width=\"1.8\"/>", points.join(" "));
        }
        out.push_str("</svg>\n");
        out
    }

    fn grid(&self) -> Vec<[[f64; 2]; 2]> {
        let upright = Chart::ticks(self.x).map(|(value, _)| [self.place([value, self.y[0]]), self.place([value, self.y[1]])]);
        let level = Chart::ticks(self.y).map(|(value, _)| [self.place([self.x[0], value]), self.place([self.x[1], value])]);
        upright.chain(level).collect()
    }

    /// The points in pixels of the picture. Of points that fall on the same tenth of a pixel only the first is kept.
    fn drawn(&self, series: &Series) -> Vec<[f64; 2]> {
        let finite = series.points.iter().filter(|point| point.iter().all(|value| value.is_finite()));
        let mut points: Vec<[f64; 2]> = finite.map(|point| self.place(*point).map(|value| (10.0 * value).round() / 10.0)).collect();
        points.dedup();
        points
    }

    /// The chart as PNG.
    ///
    /// Errors: the picture cannot be encoded.
    pub fn png(&self) -> Result<Vec<u8>> {
        let mut canvas = Canvas { pixels: vec![255; (WIDTH * HEIGHT) as usize * 3] };
        for [from, to] in self.grid() {
            canvas.line(from, to, [221; 3], 0);
        }
        for (i, series) in self.series.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            self.drawn(series).windows(2).for_each(|ends| canvas.line(ends[0], ends[1], colour, 1));
            let width = canvas.text_width(&series.name);
            canvas.text([WIDTH - MARGINS[2] - 8.0 - width, MARGINS[1] + 8.0 + 16.0 * i as f64], &series.name, colour);
        }
        let [left, top, right, bottom] = MARGINS;
        let middle = (left + WIDTH - right) / 2.0;
        for (text, y) in [(&self.title, 12.0), (&self.x_label, HEIGHT - 22.0)] {
            canvas.text([middle - canvas.text_width(text) / 2.0, y], text, [0; 3]);
        }
        canvas.text([8.0, top - 14.0], &self.y_label, [0; 3]);
        for (value, label) in Chart::ticks(self.x) {
            let x = self.place([value, self.y[0]])[0] - canvas.text_width(&label) / 2.0;
            canvas.text([x, HEIGHT - bottom + 8.0], &label, [0; 3]);
        }
        for (value, label) in Chart::ticks(self.y) {
            let y = self.place([self.x[0], value])[1] - 5.0;
            canvas.text([left - 6.0 - canvas.text_width(&label), y], &label, [0; 3]);
        }
        canvas.into_png()
    }
}

struct Canvas {
    pixels: Vec<u8>,
}

/// Letters are drawn with squares of this many pixels.
const DOT: f64 = 2.0;

impl Canvas {
    fn set(&mut self, x: i64, y: i64, colour: [u8; 3]) {
        if (0..WIDTH as i64).contains(&x) && (0..HEIGHT as i64).contains(&y) {
            let start = 3 * (y as usize * WIDTH as usize + x as usize);
            self.pixels[start..start + 3].copy_from_slice(&colour);
        }
    }

    fn line(&mut self, from: [f64; 2], to: [f64; 2], colour: [u8; 3], thicker: i64) {
        let steps = (2.0 * (to[0] - from[0]).hypot(to[1] - from[1])).ceil().max(1.0) as usize;
        for i in 0..=steps {
            let along = i as f64 / steps as f64;
            let [x, y] = [0, 1].map(|axis| (from[axis] + along * (to[axis] - from[axis])).floor() as i64);
            for dx in 0..=thicker {
                (0..=thicker).for_each(|dy| self.set(x + dx, y + dy, colour));
            }
        }
    }

    fn text_width(&self, text: &str) -> f64 {
        4.0 * DOT * text.chars().count() as f64
    }

    fn text(&mut self, [left, top]: [f64; 2], text: &str, colour: [u8; 3]) {
        for (place, letter) in text.chars().enumerate() {
            let rows = glyph(letter.to_ascii_uppercase());
            for (row, bits) in rows.iter().enumerate() {
                for column in (0..3).filter(|column| bits >> (2 - column) & 1 == 1) {
                    let x = (left + DOT * (4 * place + column) as f64) as i64;
                    let y = (top + DOT * row as f64) as i64;
                    for (dx, dy) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                        self.set(x + dx, y + dy, colour);
                    }
                }
            }
        }
    }

    fn into_png(self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, WIDTH as u32, HEIGHT as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().context("chart: cannot be encoded")?;
        writer.write_image_data(&self.pixels).context("chart: cannot be encoded")?;
        writer.finish().context("chart: cannot be encoded")?;
        Ok(bytes)
    }
}

/// A letter as five rows of three bits; blank for those without one.
fn glyph(letter: char) -> [u8; 5] {
    const DIGITS: [[u8; 5]; 10] = [
        [7, 5, 5, 5, 7],
        [2, 6, 2, 2, 7],
        [7, 1, 7, 4, 7],
        [7, 1, 7, 1, 7],
        [5, 5, 7, 1, 1],
        [7, 4, 7, 1, 7],
        [7, 4, 7, 5, 7],
        [7, 1, 2, 2, 2],
        [7, 5, 7, 5, 7],
        [7, 5, 7, 1, 7],
    ];
    const LETTERS: [[u8; 5]; 26] = [
        [2, 5, 7, 5, 5],
        [6, 5, 6, 5, 6],
        [3, 4, 4, 4, 3],
        [6, 5, 5, 5, 6],
        [7, 4, 6, 4, 7],
        [7, 4, 6, 4, 4],
        [3, 4, 5, 5, 3],
        [5, 5, 7, 5, 5],
        [7, 2, 2, 2, 7],
        [1, 1, 1, 5, 2],
        [5, 5, 6, 5, 5],
        [4, 4, 4, 4, 7],
        [5, 7, 7, 5, 5],
        [6, 5, 5, 5, 5],
        [2, 5, 5, 5, 2],
        [6, 5, 6, 4, 4],
        [2, 5, 5, 6, 3],
        [6, 5, 6, 5, 5],
        [3, 4, 2, 1, 6],
        [7, 2, 2, 2, 2],
        [5, 5, 5, 5, 7],
        [5, 5, 5, 5, 2],
        [5, 5, 7, 7, 5],
        [5, 5, 2, 5, 5],
        [5, 5, 2, 2, 2],
        [7, 1, 2, 4, 7],
    ];
    match letter {
        '0'..='9' => DIGITS[letter as usize - '0' as usize],
        'A'..='Z' => LETTERS[letter as usize - 'A' as usize],
        '.' => [0, 0, 0, 0, 2],
        ',' => [0, 0, 0, 2, 4],
        '-' => [0, 0, 7, 0, 0],
        '_' => [0, 0, 0, 0, 7],
        '=' => [0, 7, 0, 7, 0],
        '%' => [5, 1, 2, 4, 5],
        ':' => [0, 2, 0, 2, 0],
        '/' => [1, 1, 2, 4, 4],
        '(' => [1, 2, 2, 2, 1],
        ')' => [4, 2, 2, 2, 4],
        '+' => [0, 2, 7, 2, 0],
        _ => [0; 5],
    }
}

/// Precision over recall.
pub fn pr_chart<'a>(now: impl Iterator<Item = (&'a str, &'a Report)>, before: Option<&[Report]>) -> Chart {
    let points = |report: &Report| report.curve.iter().map(|point| [point.recall, point.precision]).collect();
    let mut series: Vec<Series> = Vec::new();
    for (i, (name, report)) in now.enumerate() {
        let name = Path::new(name).file_name().map_or(name.to_owned(), |name| name.to_string_lossy().into_owned());
        series.push(Series { name: format!("{name} AP {:.3}", report.main_number()), points: points(report) });
        if let Some(before) = before.and_then(|before| before.get(i)) {
            series.push(Series { name: format!("{name} before AP {:.3}", before.main_number()), points: points(before) });
        }
    }
    Chart {
        title: "Precision and recall".to_owned(),
        x_label: "recall".to_owned(),
        y_label: "precision".to_owned(),
        x: [0.0, 1.0],
        y: [0.0, 1.0],
        series,
    }
}
