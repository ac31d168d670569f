//! The plot of `immiscible coupling bench`: what a coupling reaches against what it costs.

use super::report::{Report, Row};
use std::fmt::Write;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 76.0;
const BOTTOM: f64 = 56.0;
/// Those whose noise stays standard normal, and the others.
const COLOURS: [&str; 2] = ["#1971c2", "#e67700"];

/// What the plot shows of a report.
pub(crate) fn title(report: &Report) -> &'static str {
    match report.full {
        Some(_) => "Share of the full alignment against the time for an image",
        None => "Alignment against the time for an image",
    }
}

/// A point for each coupling that aligns, at its time and its share of the full alignment; of the largest without prices.
pub(crate) fn plot(report: &Report) -> String {
    let largest = report.couplings.iter().map(|row| row.alignment).fold(f64::MIN_POSITIVE, f64::max);
    let whole = report.full.as_ref().map_or(largest, |full| full.alignment[0]);
    let share = |row: &Row| 100.0 * row.alignment / whole;
    let aligned: Vec<_> = report.couplings.iter().filter(|row| share(row) > 1.0).collect();
    let times = || aligned.iter().map(|row| row.microseconds.max(1e-3).log10());
    let low = times().fold(f64::INFINITY, f64::min).min(3.0).floor();
    let high = times().fold(f64::NEG_INFINITY, f64::max).max(low).ceil().max(low + 1.0);
    let x = |us: f64| LEFT + (us.max(1e-3).log10() - low) / (high - low) * (WIDTH - LEFT - RIGHT);
    let y = |percent: f64| TOP + (100.0 - percent) / 100.0 * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         font-family=\"system-ui, 'DejaVu Sans', Helvetica, Arial, sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"8\" fill=\"#ffffff\"/>\n\
         <text x=\"24\" y=\"32\" font-size=\"17\" font-weight=\"600\" fill=\"#212529\">{}</text>\n\
         <text x=\"24\" y=\"52\" fill=\"#495057\">{}</text>\n",
        title(report),
        escape(&report.data)
    );
    for percent in [0, 20, 40, 60, 80, 100] {
        let at = y(f64::from(percent));
        let name = match report.full {
            Some(_) => format!("{percent} %"),
            None => format!("{:.1}", f64::from(percent) / 100.0 * whole),
        };
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {at:.1}H{:.1}\" stroke=\"#dee2e6\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" \
             fill=\"#495057\">{name}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0
        );
    }
    for decade in low as i32..=high as i32 {
        let us = 10f64.powi(decade);
        let _ = writeln!(
            svg,
            "<path d=\"M{0:.1} {TOP}V{1:.1}\" stroke=\"#f1f3f5\"/><text x=\"{0:.1}\" y=\"{2:.1}\" text-anchor=\"middle\" \
             fill=\"#495057\">{us} µs</text>",
            x(us),
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 18.0
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#868e96\">wall clock for an image</text>",
        LEFT + (WIDTH - LEFT - RIGHT) / 2.0,
        HEIGHT - BOTTOM + 38.0
    );
    for (i, (name, colour)) in
        ["mean and energy of normal noise", "mean or energy is off"].into_iter().zip(COLOURS).enumerate()
    {
        let at = WIDTH - RIGHT - 222.0;
        let line = HEIGHT - BOTTOM - 30.0 + 16.0 * i as f64;
        let _ = writeln!(
            svg,
            "<circle cx=\"{at:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{line:.1}\" \
             fill=\"#495057\">{name}</text>",
            line - 4.0,
            at + 10.0
        );
    }
    let points: Vec<_> =
        aligned.iter().map(|row| (x(row.microseconds), y(share(row).clamp(0.0, 100.0)), *row)).collect();
    let mut taken: Vec<Area> = points.iter().map(|&(x, y, _)| Area::around(x, y)).collect();
    for (x, y, row) in points {
        let (name, area) = Area::of_name(x, y, &row.coupling, &taken);
        taken.push(area);
        let colour = COLOURS[usize::from(!row.normal)];
        let _ = writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\" \
             stroke=\"#ffffff\" stroke-width=\"3\" paint-order=\"stroke\">{}</text>",
            name[0],
            name[1],
            escape(&row.coupling)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// What a point or its name covers: left, top, right, bottom.
struct Area([f64; 4]);

impl Area {
    fn around(x: f64, y: f64) -> Self {
        Self([x - 6.0, y - 6.0, x + 6.0, y + 6.0])
    }

    /// Where the name of a point begins, and what it covers there: beside, above or below it, where it covers least of the others.
    fn of_name(x: f64, y: f64, name: &str, taken: &[Self]) -> ([f64; 2], Self) {
        /// Of a letter, on average.
        const LETTER: f64 = 6.9;
        let width = LETTER * name.chars().count() as f64;
        let (right, left, middle) = (x + 8.0, x - 8.0 - width, x - width / 2.0);
        let places = [
            (right, 4.0),
            (left, 4.0),
            (middle, -8.0),
            (middle, 17.0),
            (right, -8.0),
            (right, 16.0),
            (left, -8.0),
            (left, 16.0),
        ];
        let places = places.map(|(begin, below)| {
            let line = y + below;
            ([begin, line], Self([begin, line - 11.0, begin + width, line + 3.0]))
        });
        let covered = |area: &Self| taken.iter().map(|other| area.shares_with(other)).sum::<f64>();
        let frame = Self([LEFT, TOP, WIDTH, HEIGHT - BOTTOM]);
        let outside = |area: &Self| width * 14.0 - area.shares_with(&frame);
        let least = places.into_iter().map(|place| (covered(&place.1) + outside(&place.1), place));
        // The first of those that are as good.
        let (_, place) = least
            .reduce(|best, next| if next.0 < best.0 - 1.0 { next } else { best })
            .expect("there are places");
        place
    }

    fn shares_with(&self, Self(other): &Self) -> f64 {
        let Self(own) = self;
        let side = |from: usize, to: usize| (own[to].min(other[to]) - own[from].max(other[from])).max(0.0);
        side(0, 2) * side(1, 3)
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
