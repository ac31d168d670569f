//! Tables of ours beside the peers.

use std::fmt::Write;

use super::{
    batches, measured,
    numbers::{gap, ms, significant, thousands},
};
use crate::report::{Race, Report, distinct, growth};

/// Solves the same matrix after our own preconditioning, so it is no peer in itself.
const PRECONDITIONED: &str = "SciPy, preconditioned";
const SCIPY: &str = "SciPy";

/// Ours, the best of the peers, and SciPy in its two forms.
pub(super) fn headline(report: &Report) -> String {
    let mut text = String::from(
        "## Exact solution of a cost matrix\n\n\
         The best peer is the fastest of Python and Rust at that size on the plain matrix. SciPy, preconditioned, gets the \
         matrix less the column means and 1.75 column deviations (a constant per column does not move the optimum); \
         making that matrix is not counted.\n",
    );
    for data in report.data_sets() {
        let dimension = report.matrices.iter().find(|m| m.data == data).map_or(0, |m| m.dimension);
        let _ = write!(
            text,
            "\n### {data} (D = {})\n\n\
             | cost | batch | ours, ms | best peer | ms | ratio | SciPy, ms | ratio | preconditioned, ms | ratio |\n\
             |---|---:|---:|---|---:|---:|---:|---:|---:|---:|\n",
            thousands(dimension)
        );
        for cost in report.costs() {
            for batch in batches(report, data) {
                let on: Vec<&Race> =
                    report.races.iter().filter(|race| race.is_on(data, cost, batch)).collect();
                let named = |name: &str| on.iter().find(|race| race.peer == name).copied();
                let best = on
                    .iter()
                    .filter(|race| race.peer != PRECONDITIONED && race.timing.cpu_ms().is_some())
                    .min_by(|a, b| {
                        a.timing.cpu_ms().partial_cmp(&b.timing.cpu_ms()).unwrap_or(std::cmp::Ordering::Equal)
                    });
                let ratio = |race: Option<&Race>| ratio(report, race);
                let cell =
                    |race: Option<&Race>| race.map_or_else(|| "–".into(), |race| measured(&race.timing));
                let _ = writeln!(
                    text,
                    "| {cost} | {} | **{}** | {} | {} | {} | {} | {} | {} | {} |",
                    thousands(batch),
                    report.ours_cpu_ms(data, cost, batch).map_or_else(|| "–".into(), ms),
                    best.map_or("–", |race| race.peer.as_str()),
                    cell(best.copied()),
                    ratio(best.copied()),
                    cell(named(SCIPY)),
                    ratio(named(SCIPY)),
                    cell(named(PRECONDITIONED)),
                    ratio(named(PRECONDITIONED)),
                );
            }
        }
    }
    text
}

/// How many times as long the peer takes as ours in the same alternation.
fn ratio(report: &Report, race: Option<&Race>) -> String {
    let Some(race) = race else { return "–".into() };
    // Without our wheel in that Python there is only our time alone.
    let (ours, mark) = match race.ours_cpu_ms {
        Some(ours) => (Some(ours), ""),
        None => (report.ours_cpu_ms(&race.data, &race.cost, race.batch), "†"),
    };
    match (race.timing.cpu_ms(), ours) {
        (Some(peer), Some(ours)) if ours > 0.0 => format!("{}×{mark}", significant(peer / ours)),
        _ => "–".into(),
    }
}

/// Every peer at every size, and whether its answers agree with ours.
pub(super) fn peers(report: &Report) -> String {
    let mut text = String::from(
        "## Every peer\n\n\
         Milliseconds by batch size, with the ratio to ours in the same alternation. The gap is the largest distance of \
         its total cost from ours, in per cent of the gain over random pairing. \\* left out, see the end; † ours was not \
         in that process, its time alone is used.\n",
    );
    for data in report.data_sets() {
        for cost in report.costs() {
            let sizes = batches(report, data);
            let _ = write!(text, "\n{data}, {cost}:\n\n| peer |");
            sizes.iter().for_each(|&batch| text.push_str(&format!(" {} |", thousands(batch))));
            let _ = write!(text, " gap, % |\n|---|{}---:|\n", "---:|".repeat(sizes.len()));
            let on = || report.races.iter().filter(move |race| race.data == data && race.cost == cost);
            for peer in distinct(on().map(|race| race.peer.as_str())) {
                let _ = write!(text, "| {peer} |");
                for &batch in &sizes {
                    let race = on().find(|race| race.peer == peer && race.batch == batch);
                    let cell = match race {
                        Some(race) if race.timing.cpu_ms().is_some() => {
                            format!("{} ({})", measured(&race.timing), ratio(report, Some(race)))
                        }
                        Some(_) => "\\*".into(),
                        None => "–".into(),
                    };
                    let _ = write!(text, " {cell} |");
                }
                let gaps = on().filter(|race| race.peer == peer).filter_map(|race| race.gap_percent);
                let _ = writeln!(
                    text,
                    " {} |",
                    gaps.max_by(|a, b| a.abs().total_cmp(&b.abs())).map_or_else(|| "–".into(), gap)
                );
            }
        }
    }
    text
}

/// Exponents from 1,024 (or the smallest size above) to the largest size, of every solver of a matrix.
pub(super) fn growth_exponents(report: &Report) -> String {
    let mut text = String::from(
        "## Growth\n\nThe exponent p of time ∝ Bᵖ of the solution, from batch 1,024 to the largest measured.\n\n\
         | data | cost | solver | from | to | exponent |\n|---|---|---|---:|---:|---:|\n",
    );
    for data in report.data_sets() {
        for cost in report.costs() {
            let on = || report.races.iter().filter(move |race| race.data == data && race.cost == cost);
            let ours = batches(report, data)
                .into_iter()
                .filter_map(|batch| Some((batch, report.ours_cpu_ms(data, cost, batch)?)))
                .collect();
            let mut lines: Vec<(&str, Vec<(usize, f64)>)> = vec![("ours", ours)];
            for peer in distinct(on().map(|race| race.peer.as_str())) {
                let times = on().filter(|race| race.peer == peer);
                lines.push((
                    peer,
                    times.filter_map(|race| Some((race.batch, race.timing.cpu_ms()?))).collect(),
                ));
            }
            for (solver, times) in lines {
                let from = times.iter().find(|(batch, _)| *batch >= 1_024);
                if let (Some(&from), Some(&to)) = (from, times.last())
                    && from.0 < to.0
                {
                    let exponent = growth(from, to);
                    let [from, to] = [from.0, to.0].map(thousands);
                    let _ = writeln!(text, "| {data} | {cost} | {solver} | {from} | {to} | {exponent:.2} |");
                }
            }
        }
    }
    text
}
