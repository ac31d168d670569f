//! What a run measured. The JSON file is this, and the other two files are made of it.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::{clock::Measured, markdown, svg};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) provenance: Provenance,
    /// What was left out, and why.
    pub(crate) notes: Vec<String>,
    pub(crate) matrices: Vec<Matrix>,
    pub(crate) races: Vec<Race>,
    pub(crate) assigners: Vec<AssignerRow>,
    pub(crate) end_to_end: Vec<EndToEnd>,
    pub(crate) hard_cases: Vec<HardCase>,
}

/// Where the numbers come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Provenance {
    pub(crate) date: String,
    pub(crate) cpu: String,
    pub(crate) simd: String,
    pub(crate) threads: usize,
    pub(crate) commit: String,
    pub(crate) load: String,
    pub(crate) command: String,
    pub(crate) budget_seconds: f64,
    pub(crate) versions: BTreeMap<String, String>,
}

/// Our exact solver on a cost matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Matrix {
    pub(crate) data: String,
    pub(crate) dimension: usize,
    pub(crate) cost: String,
    pub(crate) batch: usize,
    pub(crate) ours: Measured,
    /// The certificate, in per cent of the gain over random pairing.
    pub(crate) gap_percent: Option<f64>,
}

/// A peer in turn with ours on one cost matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Race {
    pub(crate) data: String,
    pub(crate) cost: String,
    pub(crate) batch: usize,
    pub(crate) peer: String,
    pub(crate) timing: Measured,
    /// Median CPU time of our runs right before the peer's, in the same process; `None` if ours could not run there.
    pub(crate) ours_cpu_ms: Option<f64>,
    /// How far the peer's answer is above (or below) ours, in per cent of the gain over random pairing.
    pub(crate) gap_percent: Option<f64>,
}

/// A registered assigner by the cost −⟨x, n⟩.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AssignerRow {
    pub(crate) data: String,
    pub(crate) batch: usize,
    pub(crate) assigner: String,
    /// Of the cost matrix alone, by precision.
    pub(crate) cost_f32: Measured,
    pub(crate) cost_int8: Measured,
    /// Of the solution from that matrix.
    pub(crate) solve: Measured,
    /// Of both in one call, from images and noises.
    pub(crate) assign_f32: Measured,
    pub(crate) assign_int8: Measured,
    /// Of the mean distance ‖x − n‖.
    pub(crate) drop_percent: Option<f64>,
    /// To the best answer that any assigner found on that matrix, in per cent of the gain over random pairing.
    pub(crate) gap_percent: Option<f64>,
    /// As the assigner itself proves it.
    pub(crate) certified_gap_percent: Option<f64>,
    /// Of the solution from the matrix, with the matrix.
    pub(crate) peak_bytes: Option<u64>,
}

/// Images and noises in, permutation out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct EndToEnd {
    pub(crate) data: String,
    pub(crate) dimension: usize,
    pub(crate) batch: usize,
    pub(crate) precision: String,
    pub(crate) threads: usize,
    pub(crate) timing: Measured,
    /// What the precision costs, in per cent of the gain over random pairing.
    pub(crate) loss_percent: Option<f64>,
    /// Beyond images and noises.
    pub(crate) peak_bytes: Option<u64>,
}

/// A matrix made to be difficult.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct HardCase {
    pub(crate) case: String,
    pub(crate) batch: usize,
    pub(crate) timing: Measured,
    pub(crate) is_permutation: bool,
    pub(crate) gap_percent: Option<f64>,
}

impl Report {
    /// Writes `assignment-<date>.json`, `.md` and `.svg`.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let name = format!("assignment-{}", self.provenance.date);
        let write = |extension: &str, text: String| {
            let path = folder.join(format!("{name}.{extension}"));
            fs::write(&path, text).with_context(|| path.display().to_string())
        };
        write("json", serde_json::to_string_pretty(self)? + "\n")?;
        write("md", markdown::page(self))?;
        write("svg", svg::plot(self))
    }

    /// The data sets in the order of the run.
    pub(crate) fn data_sets(&self) -> Vec<&str> {
        distinct(self.matrices.iter().map(|matrix| matrix.data.as_str()))
    }

    /// The costs of the races in the order of the run.
    pub(crate) fn costs(&self) -> Vec<&str> {
        distinct(self.matrices.iter().map(|matrix| matrix.cost.as_str()))
    }

    /// CPU time of ours on a matrix: beside the peers in their process where it ran there, else alone.
    pub(crate) fn ours_cpu_ms(&self, data: &str, cost: &str, batch: usize) -> Option<f64> {
        let beside =
            self.races.iter().filter(|race| race.is_on(data, cost, batch) && race.peer.starts_with("SciPy"));
        let alone =
            self.matrices.iter().find(|m| (m.data.as_str(), m.cost.as_str(), m.batch) == (data, cost, batch));
        beside.filter_map(|race| race.ours_cpu_ms).next().or_else(|| alone?.ours.cpu_ms())
    }
}

impl Race {
    pub(crate) fn is_on(&self, data: &str, cost: &str, batch: usize) -> bool {
        (self.data.as_str(), self.cost.as_str(), self.batch) == (data, cost, batch)
    }
}

/// Every value once, in the order in which it comes first.
pub(crate) fn distinct<T: PartialEq>(values: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut seen = Vec::new();
    for value in values {
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    seen
}

/// How much worse `cost` is than `best`, in per cent of what `best` gains over `identity`. Without a gain, in per cent of
/// the size of the cost itself.
pub(crate) fn gap_percent(cost: f64, best: f64, identity: f64) -> f64 {
    let gain = identity - best;
    let unit = if gain > 0.0 { gain } else { best.abs() };
    if cost == best { 0.0 } else { 100.0 * (cost - best) / unit }
}

/// The exponent p of time ∝ Bᵖ between two batch sizes.
pub(crate) fn growth((small, before): (usize, f64), (large, after): (usize, f64)) -> f64 {
    (after / before).ln() / (large as f64 / small as f64).ln()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::clock::Timing;

    pub(crate) fn timed(cpu_ms: f64) -> Measured {
        Measured::Timed(Timing { cpu_ms, wall_ms: cpu_ms, repetitions: 9 })
    }

    /// Two batch sizes of one data set, with fixed numbers.
    pub(crate) fn example() -> Report {
        let batches = [(1_024, 1.0), (8_192, 64.0)];
        let race = |peer: &str, batch, timing| Race {
            data: "photos".into(),
            cost: "squared_l2".into(),
            batch,
            peer: peer.into(),
            timing,
            ours_cpu_ms: Some(2.0 * if batch == 1_024 { 1.0 } else { 64.0 }),
            gap_percent: Some(0.0),
        };
        Report {
            provenance: Provenance {
                date: "2026-01-02".into(),
                cpu: "A CPU".into(),
                simd: "avx2 fma".into(),
                threads: 1,
                commit: "abc1234".into(),
                load: "0.10".into(),
                command: "cargo xtask bench assignment".into(),
                budget_seconds: 60.0,
                versions: BTreeMap::from([("scipy".into(), "1.17.1".into())]),
            },
            notes: vec!["photos has 9,000 images: 16,384 left out".into()],
            matrices: batches
                .map(|(batch, ms)| Matrix {
                    data: "photos".into(),
                    dimension: 3_072,
                    cost: "squared_l2".into(),
                    batch,
                    ours: timed(2.5 * ms),
                    gap_percent: Some(1e-6),
                })
                .into(),
            races: vec![
                race("SciPy", 1_024, timed(300.0)),
                race("SciPy", 8_192, Measured::Skipped("about 154 s expected, the budget is 60 s".into())),
                race("SciPy, preconditioned", 1_024, timed(60.0)),
                race("lapjv (PyPI)", 1_024, timed(50.0)),
                race("lapjv (PyPI)", 8_192, timed(10_240.0)),
            ],
            assigners: batches
                .map(|(batch, ms)| AssignerRow {
                    data: "photos".into(),
                    batch,
                    assigner: "exact".into(),
                    cost_f32: timed(45.0 * ms),
                    cost_int8: timed(13.0 * ms),
                    solve: timed(2.0 * ms),
                    assign_f32: timed(47.0 * ms),
                    assign_int8: timed(15.0 * ms),
                    drop_percent: Some(1.912),
                    gap_percent: Some(0.0),
                    certified_gap_percent: Some(1e-6),
                    peak_bytes: Some(4 * batch as u64 * batch as u64 * 11 / 10),
                })
                .into(),
            end_to_end: [("f32", 1, 47.0), ("f32", 2, 49.0), ("int8", 1, 15.0), ("int8", 2, 16.0)]
                .map(|(precision, threads, ms)| EndToEnd {
                    data: "photos".into(),
                    dimension: 3_072,
                    batch: 1_024,
                    precision: precision.into(),
                    threads,
                    timing: Measured::Timed(Timing {
                        cpu_ms: ms,
                        wall_ms: ms / threads as f64,
                        repetitions: 9,
                    }),
                    loss_percent: Some(if precision == "int8" { 0.012 } else { 0.0 }),
                    peak_bytes: Some(1 << 22),
                })
                .into(),
            hard_cases: vec![HardCase {
                case: "constant".into(),
                batch: 1_024,
                timing: timed(14.0),
                is_permutation: true,
                gap_percent: Some(0.0),
            }],
        }
    }

    #[test]
    fn json_holds_everything() {
        let report = example();
        let json = serde_json::to_string(&report).expect("plain values");
        assert_eq!(serde_json::from_str::<Report>(&json).expect("the same form"), report);
    }

    #[test]
    fn gaps_and_growth() {
        assert_eq!(gap_percent(-90.0, -100.0, 0.0), 10.0);
        assert_eq!(gap_percent(7.0, 7.0, 7.0), 0.0);
        assert_eq!(gap_percent(8.0, 4.0, 4.0), 100.0);
        assert!((growth((1_024, 2.0), (8_192, 128.0)) - 2.0).abs() < 1e-12);
    }

    #[test]
    fn three_files() {
        let folder = tempfile::tempdir().expect("a folder");
        example().write(&folder.path().join("new")).expect("written");
        for extension in ["json", "md", "svg"] {
            let path = folder.path().join(format!("new/assignment-2026-01-02.{extension}"));
            assert!(path.is_file(), "{}", path.display());
        }
    }

    #[test]
    fn ours_is_what_ran_beside_the_peers() {
        let mut report = example();
        assert_eq!(report.ours_cpu_ms("photos", "squared_l2", 1_024), Some(2.0));
        report.races.clear();
        assert_eq!(report.ours_cpu_ms("photos", "squared_l2", 1_024), Some(2.5));
        assert_eq!(report.ours_cpu_ms("photos", "dot", 1_024), None);
    }
}
