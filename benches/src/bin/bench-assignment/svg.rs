//! The plot: time against batch size on logarithmic axes, a panel for each data set, a line for each solver.

use std::fmt::Write;

use crate::{
    markdown::numbers::thousands,
    report::{Report, distinct},
};

const PANEL: (f64, f64) = (620.0, 430.0);
/// Space around the axes of a panel; solvers have their names on the right.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 176.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 48.0;
/// Above all panels.
const HEAD: f64 = 74.0;
/// Between the lines of names.
const LINE: f64 = 15.5;
const OURS: (&str, &str) = ("immiscible", "#e03131");
/// Dark enough on white to be read as text too.
const COLOURS: [&str; 12] = [
    "#1971c2", "#3b8fd9", "#2f9e44", "#e67700", "#9c36b5", "#0c8599", "#5f3dc4", "#846358", "#a61e4d",
    "#495057", "#6c757d", "#5c940d",
];

/// A solver's times in a panel.
struct Line<'a> {
    name: &'a str,
    colour: &'a str,
    /// (batch, ms), ascending.
    points: Vec<(usize, f64)>,
}

/// What the axes of all panels reach over, so that panels compare.
#[derive(Clone, Copy)]
struct Ranges {
    /// Logarithms to the base 2.
    batches: (f64, f64),
    /// Powers of ten.
    decades: (i32, i32),
}

/// The axes of a panel, and where they lie on the page.
struct Axes {
    ranges: Ranges,
    left: f64,
    top: f64,
}

/// The plot of the first cost.
pub(crate) fn plot(report: &Report) -> String {
    let data = report.data_sets();
    let cost = report.costs().first().copied().unwrap_or_default();
    let columns = data.len().clamp(1, 2);
    let rows = data.len().div_ceil(columns).max(1);
    let (width, height) = (columns as f64 * PANEL.0, HEAD + rows as f64 * PANEL.1);
    let p = &report.provenance;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"system-ui, 'DejaVu Sans', Helvetica, Arial, sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" rx=\"8\" fill=\"#ffffff\"/>\n\
         <text x=\"24\" y=\"36\" font-size=\"19\" font-weight=\"600\" fill=\"#212529\">Exact assignment: CPU time \
         against batch size</text>\n\
         <text x=\"24\" y=\"58\" fill=\"#495057\">{}</text>\n",
        escape(&format!(
            "{} matrices, {} thread{}, {}, {}",
            cost_name(cost),
            p.threads,
            plural(p.threads),
            p.cpu,
            p.date
        ))
    );
    let peers = distinct(report.races.iter().map(|race| race.peer.as_str()));
    let panels: Vec<_> = data.iter().map(|data| lines(report, data, cost, &peers)).collect();
    if let Some(ranges) = Ranges::around(&panels) {
        for (number, (title, lines)) in data.into_iter().zip(&panels).enumerate() {
            let (column, row) = ((number % columns) as f64, (number / columns) as f64);
            let axes = Axes { ranges, left: column * PANEL.0 + LEFT, top: HEAD + row * PANEL.1 + TOP };
            axes.panel(&mut svg, title, lines);
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// Ours last, so that it lies on top.
fn lines<'a>(report: &'a Report, data: &str, cost: &str, peers: &[&'a str]) -> Vec<Line<'a>> {
    let mut lines = Vec::new();
    for (&peer, &colour) in peers.iter().zip(COLOURS.iter().cycle()) {
        let races =
            report.races.iter().filter(|race| (race.data.as_str(), race.cost.as_str()) == (data, cost));
        let points = races
            .filter(|race| race.peer == peer)
            .filter_map(|race| Some((race.batch, race.timing.cpu_ms()?)));
        lines.push(Line { name: peer, colour, points: points.collect() });
    }
    let batches =
        distinct(report.matrices.iter().filter(|matrix| matrix.data == data).map(|matrix| matrix.batch));
    let ours = batches.into_iter().filter_map(|batch| Some((batch, report.ours_cpu_ms(data, cost, batch)?)));
    lines.push(Line { name: OURS.0, colour: OURS.1, points: ours.collect() });
    lines.retain(|line| line.points.iter().any(|(_, ms)| *ms > 0.0));
    lines
}

impl Ranges {
    /// Ranges that hold all points of all panels, `None` without points.
    fn around(panels: &[Vec<Line>]) -> Option<Self> {
        let points = || panels.iter().flatten().flat_map(|line| line.points.iter());
        let batches = points().map(|(batch, _)| (*batch as f64).log2());
        let ms = points().map(|(_, ms)| ms.log10());
        let (low, high) = (ms.clone().min_by(f64::total_cmp)?, ms.max_by(f64::total_cmp)?);
        Some(Self {
            batches: (batches.clone().min_by(f64::total_cmp)?, batches.max_by(f64::total_cmp)?),
            decades: (low.floor() as i32, (high.ceil() as i32).max(low.floor() as i32 + 1)),
        })
    }
}

impl Axes {
    fn panel(&self, svg: &mut String, title: &str, lines: &[Line]) {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"14\" font-weight=\"600\" fill=\"#212529\">{}</text>",
            self.left,
            self.top - 16.0,
            escape(title)
        );
        self.draw(svg, &distinct(lines.iter().flat_map(|line| line.points.iter().map(|(batch, _)| *batch))));
        for line in lines {
            self.line(svg, line);
        }
        self.names(svg, lines);
    }

    fn width(&self) -> f64 {
        PANEL.0 - LEFT - RIGHT
    }

    fn height(&self) -> f64 {
        PANEL.1 - TOP - BOTTOM
    }

    fn x(&self, batch: usize) -> f64 {
        let (first, last) = self.ranges.batches;
        let part = if last > first { ((batch as f64).log2() - first) / (last - first) } else { 0.5 };
        self.left + part * self.width()
    }

    fn y(&self, ms: f64) -> f64 {
        let (low, high) = self.ranges.decades;
        self.top + (f64::from(high) - ms.log10()) / f64::from(high - low) * self.height()
    }

    fn draw(&self, svg: &mut String, batches: &[usize]) {
        let (right, bottom) = (self.left + self.width(), self.top + self.height());
        for decade in self.ranges.decades.0..=self.ranges.decades.1 {
            let y = self.y(10f64.powi(decade));
            let _ = writeln!(
                svg,
                "<path d=\"M{:.1} {y:.1}H{right:.1}\" stroke=\"#dee2e6\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#495057\">{}</text>",
                self.left,
                self.left - 8.0,
                y + 4.0,
                duration(decade)
            );
        }
        for &batch in batches {
            let x = self.x(batch);
            let _ = writeln!(
                svg,
                "<path d=\"M{x:.1} {:.1}V{bottom:.1}\" stroke=\"#f1f3f5\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#495057\">{}</text>",
                self.top,
                bottom + 18.0,
                thousands(batch)
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#868e96\">batch size</text>",
            self.left + self.width() / 2.0,
            bottom + 36.0
        );
    }

    fn line(&self, svg: &mut String, line: &Line) {
        let (width, radius) = if line.name == OURS.0 { (3.2, 4.0) } else { (1.6, 2.4) };
        let dash = if line.name.contains("preconditioned") { " stroke-dasharray=\"5 4\"" } else { "" };
        let points: Vec<_> = line.points.iter().map(|&(batch, ms)| (self.x(batch), self.y(ms))).collect();
        let path: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let colour = line.colour;
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" \
             stroke-linejoin=\"round\"{dash}/>",
            path.join(" ")
        );
        for (x, y) in points {
            let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{colour}\"/>");
        }
    }

    /// The names beside the ends of the lines, moved apart where they would cover each other.
    fn names(&self, svg: &mut String, lines: &[Line]) {
        let mut ends: Vec<_> = lines
            .iter()
            .filter_map(|line| line.points.last().map(|&(batch, ms)| (line, self.x(batch), self.y(ms))))
            .collect();
        ends.sort_by(|a, b| a.2.total_cmp(&b.2));
        let places =
            apart(&ends.iter().map(|end| end.2).collect::<Vec<_>>(), self.top, self.top + self.height());
        let x = self.left + self.width() + 26.0;
        for ((line, from, y), place) in ends.into_iter().zip(places) {
            let weight = if line.name == OURS.0 { " font-weight=\"700\"" } else { "" };
            let _ = writeln!(
                svg,
                "<path d=\"M{:.1} {y:.1}L{:.1} {place:.1}\" stroke=\"{}\" stroke-width=\"0.8\" opacity=\"0.55\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" fill=\"{}\"{weight}>{}</text>",
                from + 5.0,
                x - 4.0,
                line.colour,
                place + 4.0,
                line.colour,
                escape(line.name)
            );
        }
    }
}

/// Places at least [`LINE`] apart in the order of `wanted` (ascending), each run of neighbours around the middle of where
/// they would be, within `top` and `bottom`.
fn apart(wanted: &[f64], top: f64, bottom: f64) -> Vec<f64> {
    // (first place, number of names) of each run.
    let mut runs: Vec<(f64, usize)> = Vec::new();
    for &place in wanted {
        runs.push((place, 1));
        while let [.., (above, m), (below, n)] = runs[..]
            && above + m as f64 * LINE > below
        {
            // The mean of the first places that either run asks for, by its number of names.
            let first = (m as f64 * above + n as f64 * (below - m as f64 * LINE)) / (m + n) as f64;
            runs.truncate(runs.len() - 2);
            runs.push((first.min(bottom - (m + n - 1) as f64 * LINE).max(top), m + n));
        }
    }
    runs.iter().flat_map(|&(first, n)| (0..n).map(move |i| first + i as f64 * LINE)).collect()
}

/// 10ᵈ milliseconds.
fn duration(decade: i32) -> String {
    let (unit, power) = match decade {
        ..0 => ("µs", decade + 3),
        0..3 => ("ms", decade),
        _ => ("s", decade - 3),
    };
    format!("{} {unit}", 10f64.powi(power))
}

fn cost_name(cost: &str) -> &str {
    match cost {
        "dot" => "−⟨x, n⟩",
        "squared_l2" => "‖x − n‖²",
        "l2" => "‖x − n‖",
        other => other,
    }
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    #[test]
    fn a_line_and_a_name_for_every_solver() {
        let svg = plot(&example());
        assert_eq!(svg.matches("<polyline").count(), 4);
        assert_eq!(svg.matches("<circle").count(), 6, "SciPy at 8,192 was left out");
        for text in [">immiscible<", ">SciPy, preconditioned<", ">photos<", ">8,192<", ">10 ms<", ">100 s<"] {
            assert!(svg.contains(text), "{text}");
        }
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn logarithmic_axes() {
        let line = Line { name: "x", colour: "red", points: vec![(64, 0.1), (1_024, 100.0)] };
        let axes = Axes { ranges: Ranges::around(&[vec![line]]).expect("two points"), left: 0.0, top: 0.0 };
        assert_eq!(axes.ranges.decades, (-1, 2));
        assert!((axes.x(256) - (axes.x(64) + axes.x(1_024)) / 2.0).abs() < 1e-9);
        assert!((axes.y(1.0) - axes.y(10.0) - axes.height() / 3.0).abs() < 1e-9);
        assert!(axes.y(100.0) < axes.y(0.1), "upwards");
    }

    #[test]
    fn names_do_not_cover_each_other() {
        assert_eq!(apart(&[10.0, 60.0], 0.0, 100.0), [10.0, 60.0]);
        assert_eq!(apart(&[50.0, 50.0], 0.0, 100.0), [50.0 - LINE / 2.0, 50.0 + LINE / 2.0]);
        for wanted in [[0.0, 1.0, 2.0, 60.0, 61.0], [0.0, 95.0, 98.0, 99.0, 100.0]] {
            let places = apart(&wanted, 0.0, 100.0);
            assert!(places.windows(2).all(|pair| pair[1] - pair[0] > LINE - 1e-9), "{places:?}");
            assert!(places[0] >= 0.0 && places[4] <= 100.0, "{places:?}");
        }
    }

    #[test]
    fn decades_have_units() {
        assert_eq!([-2, -1, 0, 2, 3, 5].map(duration), ["10 µs", "100 µs", "1 ms", "100 ms", "1 s", "100 s"]);
    }

    #[test]
    fn nothing_measured_is_still_a_picture() {
        let mut report = example();
        report.matrices.clear();
        report.races.clear();
        assert!(plot(&report).ends_with("</svg>\n"));
    }
}
