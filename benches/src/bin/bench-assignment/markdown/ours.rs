//! Tables of our own assigners.

use std::fmt::Write;

use super::{
    measured,
    numbers::{gap, mebibytes, ms, thousands},
};
use crate::{
    clock::Measured,
    report::{AssignerRow, EndToEnd, Report, distinct},
};

pub(super) fn assigners(report: &Report) -> String {
    let mut text = String::from(
        "## Registered assigners\n\n\
         By the cost −⟨x, n⟩. `assign` is cost and solution in one call. The drop is that of the mean distance ‖x − n‖. \
         The gap is to the best answer of the column, certified is what the assigner itself proves, both in per cent of \
         the gain over random pairing. Peak memory is the growth of the largest resident set (VmHWM) of a child process \
         that does nothing but read the matrix and solve it; the matrix counts, and is 4B² bytes. Of less than 64 MiB it is the \
         median of five processes, as Linux counts to some 0.25 MiB.\n",
    );
    for data in report.data_sets() {
        let _ = write!(
            text,
            "\n{data}:\n\n\
             | assigner | batch | cost f32, ms | cost int8, ms | solve, ms | assign f32, ms | assign int8, ms | drop, % | gap, % | certified, % \
             | peak, MiB | / 4B² |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n"
        );
        let mut rows: Vec<&AssignerRow> = report.assigners.iter().filter(|row| row.data == data).collect();
        rows.sort_by_key(|row| (row.assigner.as_str(), row.batch));
        for row in rows {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                row.assigner,
                thousands(row.batch),
                measured(&row.cost_f32),
                measured(&row.cost_int8),
                measured(&row.solve),
                measured(&row.assign_f32),
                measured(&row.assign_int8),
                row.drop_percent.map_or_else(|| "–".into(), |drop| format!("{drop:.2}")),
                row.gap_percent.map_or_else(|| "–".into(), gap),
                row.certified_gap_percent.map_or_else(|| "–".into(), gap),
                row.peak_bytes.map_or_else(|| "–".into(), mebibytes),
                // Below, what any process needs is no small part of it.
                row.peak_bytes.filter(|_| row.batch >= 1_024).map_or_else(
                    || "–".into(),
                    |peak| format!("{:.2}", peak as f64 / (4 * row.batch.pow(2)) as f64)
                ),
            );
        }
    }
    text
}

pub(super) fn end_to_end(report: &Report) -> String {
    let columns = distinct(report.end_to_end.iter().map(|row| (row.precision.as_str(), row.threads)));
    let mut text = String::from(
        "## Images and noises in, permutation out\n\n\
         The exact assigner by the cost −⟨x, n⟩: wall time in ms, CPU time in brackets. The loss is what eight bits cost, \
         in per cent of the gain over random pairing. Memory is the growth of the largest resident set of a child \
         process beyond images and noises, with one thread.\n\n| data | D | batch |",
    );
    for (precision, threads) in &columns {
        let _ = write!(text, " {precision}, {threads} thread{} |", if *threads == 1 { "" } else { "s" });
    }
    text.push_str(" loss int8, % | f32, MiB | int8, MiB |\n|---|---:|---:|");
    text.push_str(&"---:|".repeat(columns.len() + 3));
    text.push('\n');
    for (data, dimension, batch) in
        distinct(report.end_to_end.iter().map(|row| (row.data.as_str(), row.dimension, row.batch)))
    {
        let find = |precision: &str, threads: usize| -> Option<&EndToEnd> {
            let is = |row: &&EndToEnd| {
                row.data == data && row.batch == batch && row.precision == precision && row.threads == threads
            };
            report.end_to_end.iter().find(is)
        };
        let _ = write!(text, "| {data} | {} | {} |", thousands(dimension), thousands(batch));
        for (precision, threads) in &columns {
            let cell = find(precision, *threads).map_or_else(|| "–".into(), |row| wall(&row.timing));
            let _ = write!(text, " {cell} |");
        }
        let loss = find("int8", 1).and_then(|row| row.loss_percent).map_or_else(|| "–".into(), gap);
        let peak = |precision| {
            find(precision, 1).and_then(|row| row.peak_bytes).map_or_else(|| "–".into(), mebibytes)
        };
        let _ = writeln!(text, " {loss} | {} | {} |", peak("f32"), peak("int8"));
    }
    text
}

pub(super) fn hard_cases(report: &Report) -> String {
    let mut text = String::from(
        "## Hard cases\n\n\
         Matrices that make solvers slow down, hang or answer with nonsense; the images are the smooth fields, the cost \
         −⟨x, n⟩ where none is named.\n\n\
         | case | n | exact, ms | permutation | certified gap, % |\n|---|---:|---:|---|---:|\n",
    );
    for case in &report.hard_cases {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            case.case,
            thousands(case.batch),
            measured(&case.timing),
            if case.is_permutation { "yes" } else { "NO" },
            case.gap_percent.map_or_else(|| "–".into(), gap)
        );
    }
    text
}

fn wall(timing: &Measured) -> String {
    timing.timing().map_or_else(|| "\\*".into(), |t| format!("{} ({})", ms(t.wall_ms), ms(t.cpu_ms)))
}
