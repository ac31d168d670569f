//! Curves over the steps, as SVG.

use super::page::escape;
use std::fmt::Write;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 44.0;
/// A line has no more points than it has pixels to show them.
const BUCKETS: usize = 400;
/// The axis of positive values is logarithmic from this ratio on, where it may be.
const WIDE: f64 = 50.0;
/// What lies further from 0 is no number to draw.
const MOST: f64 = 1e100;

/// A line.
pub(crate) struct Series<'a> {
    /// What it is, for a reader that points at it.
    pub(crate) name: &'a str,
    /// Which colour and dashes.
    pub(crate) look: usize,
    /// Whether it only stands behind another.
    pub(crate) faint: bool,
    /// Steps, rising, and values.
    pub(crate) points: Vec<(u64, f64)>,
}

/// How many colours there are; dashes tell further lines apart.
pub(crate) const COLOURS: usize = 8;

/// The attributes of a line that looks so.
pub(crate) fn stroke(look: usize) -> String {
    let dashes = ["", "6 3", "2 3", "8 3 2 3"][(look / COLOURS) % 4];
    let dashes = if dashes.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{dashes}\"") };
    format!("class=\"c{}\"{dashes}", look % COLOURS)
}

/// The chart of `series`; empty if there is nothing to draw. `may_be_log`: whether ratios say more of it than differences.
pub(crate) fn chart(title: &str, series: &[Series<'_>], may_be_log: bool) -> String {
    let series: Vec<_> = series
        .iter()
        .map(|line| (line, thinned(&line.points)))
        .filter(|(_, points)| !points.is_empty())
        .collect();
    let points = || series.iter().flat_map(|(_, points)| points);
    let Some(last) = points().map(|(step, _)| *step).max() else { return String::new() };
    let low = points().map(|(_, value)| *value).fold(f64::INFINITY, f64::min);
    let high = points().map(|(_, value)| *value).fold(f64::NEG_INFINITY, f64::max);
    let across = Axis::linear(0.0, last.max(1) as f64, 8.0, true);
    let up = if may_be_log && low > 1.0 / MOST && high / low > WIDE {
        Axis::logarithmic(low, high)
    } else {
        Axis::linear(low, high, 5.0, false)
    };
    let x = |step: f64| LEFT + across.place(step) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| TOP + (1.0 - up.place(value)) * (HEIGHT - TOP - BOTTOM);

    let scale = if up.log { ", logarithmic" } else { "" };
    let title = escape(title);
    let mut svg = format!(
        "<figure><figcaption>{title}{scale}</figcaption>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title} \
         over the steps\">\n"
    );
    for tick in &up.ticks {
        let at = y(*tick);
        let _ = writeln!(
            svg,
            "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 7.0,
            at + 4.0,
            up.label(*tick)
        );
    }
    let floor = HEIGHT - BOTTOM;
    for tick in &across.ticks {
        let at = x(*tick);
        let _ = writeln!(
            svg,
            "<path class=\"axis\" d=\"M{at:.1} {floor}v5\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            floor + 19.0,
            thousands(*tick)
        );
    }
    let _ = writeln!(
        svg,
        "<path class=\"axis\" d=\"M{LEFT} {TOP}V{floor}H{:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">step</text>",
        WIDTH - RIGHT,
        LEFT + (WIDTH - LEFT - RIGHT) / 2.0,
        HEIGHT - 5.0
    );
    for (line, points) in &series {
        let faint = if line.faint { " opacity=\".3\"" } else { "" };
        let (look, name) = (stroke(line.look), escape(line.name));
        match points[..] {
            [(step, value)] => {
                let _ = writeln!(
                    svg,
                    "<g {look}{faint}><circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2\"/><title>{name}</title></g>",
                    x(step as f64),
                    y(value)
                );
            }
            _ => {
                let mut path = String::new();
                for (i, (step, value)) in points.iter().enumerate() {
                    let command = if i == 0 { 'M' } else { 'L' };
                    let _ = write!(path, "{command}{:.1} {:.1}", x(*step as f64), y(*value));
                }
                let _ = writeln!(svg, "<path {look}{faint} d=\"{path}\"><title>{name}</title></path>");
            }
        }
    }
    svg.push_str("</svg></figure>\n");
    svg
}

/// At most two points for each bucket of the line, its lowest and its highest, so that what sticks out is still seen.
fn thinned(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let points: Vec<_> = points.iter().copied().filter(|(_, value)| value.abs() < MOST).collect();
    if points.len() <= 2 * BUCKETS {
        return points;
    }
    points
        .chunks(points.len().div_ceil(BUCKETS))
        .flat_map(|bucket| {
            let by_value = |a: &&(u64, f64), b: &&(u64, f64)| a.1.total_cmp(&b.1);
            let low = *bucket.iter().min_by(by_value).expect("chunks are not empty");
            let high = *bucket.iter().max_by(by_value).expect("chunks are not empty");
            let (first, second) = if low.0 < high.0 { (low, high) } else { (high, low) };
            if first == second { vec![first] } else { vec![first, second] }
        })
        .collect()
}

/// The mean of every value and its neighbours, a sixtieth of the line to either side, so that it does not lag behind. At the beginning
/// there are as many to the right as to the left.
pub(crate) fn smoothed(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let reach = (points.len() / 60).max(2);
    let mut sums = vec![0.0];
    for (_, value) in points {
        sums.push(sums[sums.len() - 1] + value);
    }
    let mean = |i: usize| {
        let left = i.min(reach);
        let (first, end) = (i - left, (i + left + 1).min(points.len()));
        (sums[end] - sums[first]) / (end - first) as f64
    };
    points.iter().enumerate().map(|(i, (step, _))| (*step, mean(i))).collect()
}

/// From where to where, and what is written at it.
struct Axis {
    low: f64,
    high: f64,
    ticks: Vec<f64>,
    log: bool,
    decimals: usize,
}

impl Axis {
    /// About `wanted` ticks at multiples of 1, 2 or 5. Zero belongs to it where it is near. Where values need not end at a tick,
    /// `open`, the axis ends with them.
    fn linear(mut low: f64, mut high: f64, wanted: f64, open: bool) -> Self {
        if low > 0.0 && low < 0.6 * high || low == high {
            low = low.min(0.0);
        }
        if high < 0.0 && high > 0.6 * low || low == high {
            high = if low == 0.0 { 1.0 } else { 0.0 };
        }
        let rough = (high - low) / wanted;
        let decade = 10f64.powf(rough.log10().floor());
        let round = [1.0, 2.0, 5.0, 10.0].into_iter().find(|round| round * decade >= 0.999 * rough);
        let step = round.unwrap_or(10.0) * decade;
        // There are no half steps.
        let step = if open { step.max(1.0) } else { step };
        if !open {
            (low, high) = ((low / step + 1e-9).floor() * step, (high / step - 1e-9).ceil() * step);
        }
        let first = (low / step - 1e-9).ceil();
        let count = ((high / step + 1e-9).floor() - first).clamp(0.0, 50.0) as usize;
        let ticks = (0..=count).map(|i| (first + i as f64) * step).collect();
        Self { low, high, ticks, log: false, decimals: (-step.log10().floor()).clamp(0.0, 12.0) as usize }
    }

    /// Ticks at powers of ten, and at 2 and 5 times them where these are few.
    fn logarithmic(low: f64, high: f64) -> Self {
        let decades = low.log10().floor() as i32..=high.log10().floor() as i32 + 1;
        let marks: Vec<f64> =
            decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|mark| mark * 10f64.powi(decade))).collect();
        let first = marks.iter().rposition(|mark| *mark <= low).unwrap_or(0);
        let last = marks.iter().position(|mark| *mark >= high).unwrap_or(marks.len() - 1);
        let few = last - first <= 8;
        let mut ticks: Vec<f64> = (first..=last).filter(|i| few || i % 3 == 0).map(|i| marks[i]).collect();
        // Dozens of decades are labelled now and then.
        let every = ticks.len().div_ceil(8).max(1);
        ticks = ticks.into_iter().step_by(every).collect();
        Self { low: marks[first], high: marks[last], ticks, log: true, decimals: 12 }
    }

    /// 0 at the low end, 1 at the high one.
    fn place(&self, value: f64) -> f64 {
        let (low, high, value) = if self.log {
            (self.low.log10(), self.high.log10(), value.log10())
        } else {
            (self.low, self.high, value)
        };
        ((value - low) / (high - low)).clamp(0.0, 1.0)
    }

    fn label(&self, tick: f64) -> String {
        let most = self.low.abs().max(self.high.abs());
        if tick == 0.0 {
            "0".into()
        } else if self.log && (tick.abs() < 1e-3 || tick.abs() >= 1e5) || !(1e-2..1e6).contains(&most) {
            // Without what rounding left of 3 · 0.1.
            let digits = format!("{:e}", format!("{tick:.3e}").parse::<f64>().unwrap_or(tick));
            digits.replace('-', "−")
        } else if self.log {
            format!("{}", format!("{tick:.3e}").parse::<f64>().unwrap_or(tick))
        } else {
            format!("{tick:.*}", self.decimals).replace('-', "−")
        }
    }
}

/// 1500 as 1.5k.
fn thousands(steps: f64) -> String {
    match steps {
        0.0..1e4 => format!("{}", (steps * 1e6).round() / 1e6),
        1e4..1e6 => format!("{}k", (steps / 1e3 * 1e3).round() / 1e3),
        1e6..1e15 => format!("{}M", (steps / 1e6 * 1e3).round() / 1e3),
        _ => format!("{steps:.1e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<String> {
        axis.ticks.iter().map(|tick| axis.label(*tick)).collect()
    }

    #[test]
    fn ticks_are_round_numbers_that_hold_every_value() {
        for (low, high, expected) in [
            (0.41, 1.52, &["0", "0.5", "1.0", "1.5", "2.0"][..]),
            (0.0532, 0.0547, &["0.0530", "0.0535", "0.0540", "0.0545", "0.0550"]),
            (8.9, 9.3, &["8.9", "9.0", "9.1", "9.2", "9.3"]),
            (3e-4, 3e-4, &["0", "1e−4", "2e−4", "3e−4"]),
            (0.0, 0.0, &["0", "0.5", "1.0"]),
            (-5.0, -1.0, &["−6", "−4", "−2", "0"]),
            (-2.0, 3.0, &["−2", "0", "2", "4"]),
            (1.2e7, 3.9e7, &["0", "1e7", "2e7", "3e7", "4e7"]),
        ] {
            let axis = Axis::linear(low, high, 4.0, false);
            assert_eq!(labels(&axis), expected, "{low} {high}");
            assert!(axis.low <= low && high <= axis.high, "{low} {high}: {} {}", axis.low, axis.high);
        }
        for (low, high) in [(0.02, 70.0), (1e-9, 1.0), (3.0, 400.0), (1e-99, 1e99)] {
            let axis = Axis::logarithmic(low, high);
            assert!(
                axis.low <= low && high <= axis.high && (2..10).contains(&axis.ticks.len()),
                "{low} {high}"
            );
        }
        assert_eq!(
            labels(&Axis::logarithmic(0.03, 4.0)),
            ["0.02", "0.05", "0.1", "0.2", "0.5", "1", "2", "5"]
        );
        assert_eq!([0.0, 2_500.0, 1.5e4, 2e6].map(thousands), ["0", "2500", "15k", "2M"]);
    }

    #[test]
    fn a_thinned_line_keeps_what_sticks_out() {
        let mut points: Vec<(u64, f64)> = (0..100_000).map(|step| (step, (step as f64).sin())).collect();
        points[31_415].1 = 99.0;
        points[27_182].1 = f64::NAN;
        points[16_180].1 = f64::INFINITY;
        let thin = thinned(&points);
        assert!(thin.len() <= 2 * BUCKETS && thin.is_sorted_by_key(|(step, _)| *step));
        assert!(thin.contains(&(31_415, 99.0)) && thin.iter().all(|(_, value)| value.is_finite()));
    }

    #[test]
    fn a_smoothed_line_has_the_noise_taken_off_and_nothing_else() {
        let line = |step: u64| 3.0 + 0.01 * step as f64;
        let noisy: Vec<_> =
            (0..1_200).map(|step| (step, line(step) + if step % 2 == 0 { 0.5 } else { -0.5 })).collect();
        for (i, (step, value)) in smoothed(&noisy).into_iter().enumerate().skip(20).take(1_150) {
            assert!(i as u64 == step && (value - line(step)).abs() < 0.02, "{step}: {value}");
        }
        assert_eq!(smoothed(&noisy)[0], noisy[0]);
        assert!(smoothed(&[]).is_empty());
    }

    #[test]
    fn odd_lines_are_drawn_without_a_fault() {
        let chart = |points: Vec<(u64, f64)>| {
            chart("<t>", &[Series { name: "a & b", look: 9, faint: false, points }], true)
        };
        assert_eq!(chart(vec![]), "");
        assert_eq!(chart(vec![(1, f64::NAN)]), "");
        for points in [
            vec![(0, 0.0)],
            vec![(u64::MAX, 1.0)],
            vec![(1, 1e99), (2, -1e99)],
            vec![(1, 1e-99), (2, 1e99)],
            vec![(1, 5e-324), (2, 1.0)],
        ] {
            let svg = chart(points.clone());
            assert!(svg.contains("a &amp; b") && svg.contains("&lt;t&gt;"), "{svg}");
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{points:?}: {svg}");
        }
    }
}
