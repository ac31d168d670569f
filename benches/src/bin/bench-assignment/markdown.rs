//! The report as a page.

pub(crate) mod numbers;
mod ours;
mod peers;

use self::numbers::{ms, thousands};
use crate::{
    clock::Measured,
    report::{Report, distinct},
};

pub(crate) fn page(report: &Report) -> String {
    let parts = [
        head(report),
        peers::headline(report),
        peers::peers(report),
        ours::assigners(report),
        peers::growth_exponents(report),
        ours::end_to_end(report),
        ours::hard_cases(report),
        left_out(report),
        provenance(report),
    ];
    parts.join("\n")
}

fn head(report: &Report) -> String {
    let p = &report.provenance;
    format!(
        "# Assignment, {}\n\n\
         {}, {} thread{}. Milliseconds are CPU time of the process, the mean over batches of the median of each. Every \
         peer alternates with ours on the same matrix in the same process: ours, peer, ours, next peer, and then on the \
         matrix of another batch: seven up to 1,024, three at 2,048, one beyond. A ratio is the peer's time over that of \
         our runs right before its own. Copies into a solver's own type are made before its clock starts; in Python each \
         solver's matrix, ours too, is read once right before, as one that was just made.\n\n\
         ![Time against batch size](assignment-{}.svg)\n",
        p.date,
        p.cpu,
        p.threads,
        if p.threads == 1 { "" } else { "s" },
        p.date
    )
}

/// Everything that has no time, with the reason.
fn left_out(report: &Report) -> String {
    let mut lines = report.notes.clone();
    let races = report.races.iter().filter_map(|race| match &race.timing {
        Measured::Skipped(why) => {
            Some(format!("{}, {}, {}, {}: {why}", race.peer, race.data, race.cost, thousands(race.batch)))
        }
        Measured::Timed(_) => None,
    });
    lines.extend(races);
    for row in &report.assigners {
        for (what, timing) in
            [("solve", &row.solve), ("assign f32", &row.assign_f32), ("assign int8", &row.assign_int8)]
        {
            if let Measured::Skipped(why) = timing {
                lines.push(format!(
                    "{}, {what}, {}, {}: {why}",
                    row.assigner,
                    row.data,
                    thousands(row.batch)
                ));
            }
        }
    }
    if lines.is_empty() {
        lines.push("nothing".into());
    }
    format!("## Left out\n\n- {}\n", lines.join("\n- "))
}

fn provenance(report: &Report) -> String {
    let p = &report.provenance;
    let versions: Vec<String> =
        p.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    format!(
        "## Provenance\n\n\
         | | |\n|---|---|\n| date | {} |\n| CPU | {} |\n| SIMD | {} |\n| threads | {} |\n| commit | {} |\n\
         | load average at the start | {} |\n| longest expected run that is not left out | {} s |\n| versions | {} |\n\
         | command | `{}` |\n\n\
         The .json file has the repetitions of every number; a solver that took 10 s or its budget in all has fewer, but \
         at least one. The Python and the folders of data are left out of the command.\n",
        p.date,
        p.cpu,
        p.simd,
        p.threads,
        p.commit,
        p.load,
        p.budget_seconds,
        versions.join(", "),
        p.command
    )
}

fn batches(report: &Report, data: &str) -> Vec<usize> {
    distinct(report.matrices.iter().filter(|matrix| matrix.data == data).map(|matrix| matrix.batch))
}

fn measured(timing: &Measured) -> String {
    timing.cpu_ms().map_or_else(|| "\\*".into(), ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    #[test]
    fn the_rows_hold_the_numbers() {
        let page = page(&example());
        for row in [
            "| squared_l2 | 1,024 | **2.00** | lapjv (PyPI) | 50.0 | 25× | 300 | 150× | 60.0 | 30× |",
            "| squared_l2 | 8,192 | **128** | lapjv (PyPI) | 10,240 | 80× | \\* | – | – | – |",
            "| SciPy | 300 (150×) | \\* | 0 |",
            "| exact | 1,024 | 45.0 | 13.0 | 2.00 | 47.0 | 15.0 | 1.91 | 0 | 1e-6 | 4.4 | 1.10 |",
            "| photos | squared_l2 | ours | 1,024 | 8,192 | 2.00 |",
            "| photos | squared_l2 | lapjv (PyPI) | 1,024 | 8,192 | 2.56 |",
            "| photos | 3,072 | 1,024 | 47.0 (47.0) | 24.5 (49.0) | 15.0 (15.0) | 8.00 (16.0) | 0.012 | 4.0 | 4.0 |",
            "| constant | 1,024 | 14.0 | yes | 0 |",
            "- SciPy, photos, squared_l2, 8,192: about 154 s expected, the budget is 60 s",
            "- photos has 9,000 images: 16,384 left out",
            "| versions | scipy 1.17.1 |",
        ] {
            assert!(page.contains(row), "no line {row}\n{page}");
        }
    }

    #[test]
    fn every_row_of_a_table_has_the_columns_of_its_head() {
        let page = page(&example());
        let mut columns = None;
        for line in page.lines() {
            // An escaped bar would be part of a cell; there is none.
            let found = line.starts_with('|').then(|| line.matches('|').count());
            assert!(columns.is_none() || found.is_none() || columns == found, "{line}");
            columns = found;
        }
    }

    #[test]
    fn a_ratio_without_our_wheel_is_marked() {
        let mut report = example();
        report.races.iter_mut().for_each(|race| race.ours_cpu_ms = None);
        assert!(page(&report).contains("| 300 (120×†) |"));
    }
}
