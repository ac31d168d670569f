//! The table of `immiscible coupling bench`.

use crate::provenance::Provenance;
use serde::Serialize;
use std::fmt::{self, Display, Write};

/// What was measured, on what.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) data: String,
    pub(crate) provenance: Provenance,
    /// What the user said about the measurement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
    pub(crate) dimensions: usize,
    pub(crate) threads: usize,
    /// None without prices.
    #[serde(flatten)]
    pub(crate) full: Option<Full>,
    pub(crate) couplings: Vec<Row>,
}

/// The full alignment, as semidiscrete prices tell it.
#[derive(Debug, Serialize)]
pub(crate) struct Full {
    /// What the alignment of no coupling with standard normal noise exceeds, and its standard error.
    #[serde(rename = "full_alignment")]
    pub(crate) alignment: [f64; 2],
    /// χ² of the prices that say so, and its standard error.
    pub(crate) chi_squared: [f64; 2],
    /// Which images those prices are for.
    #[serde(rename = "full_of")]
    pub(crate) of: String,
}

impl Full {
    /// The share of it that a coupling reaches, in per cent.
    pub(crate) fn share_percent(&self, row: &Row) -> f64 {
        100.0 * row.alignment / self.alignment[0]
    }
}

/// A coupling.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) coupling: String,
    /// Images that are paired together.
    pub(crate) pool: usize,
    /// Images that noise was drawn for, in whole pools.
    pub(crate) images: usize,
    /// E⟨ε, x − x̄⟩.
    pub(crate) alignment: f64,
    pub(crate) alignment_error: f64,
    /// By how much per cent the mean L2 distance fell.
    pub(crate) drop_percent: f64,
    pub(crate) energy: f64,
    pub(crate) mean_shift: f64,
    /// Variance along the first 8 principal components of the images.
    pub(crate) leading: f64,
    /// Whether energy and mean shift are those of normal noise: within 0.5 % and a factor of 1.5, and 4 standard errors.
    pub(crate) normal: bool,
    /// How often a linear probe tells the label from the noise, what chance gives, and its standard error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) probe: Option<[f64; 3]>,
    /// Wall clock for an image: noise, costs, choice.
    pub(crate) microseconds: f64,
    /// Growth of the largest resident set, where the system tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peak_bytes: Option<u64>,
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let threads = if self.threads == 1 { "1 thread".into() } else { format!("{} threads", self.threads) };
        writeln!(f, "{}; {threads}.\n\n{}.", self.data, self.provenance)?;
        if let Some(note) = &self.note {
            writeln!(f, "{note}")?;
        }
        writeln!(f)?;
        if let Some(Full { alignment, chi_squared, of }) = &self.full {
            writeln!(
                f,
                "Full alignment, which no coupling with standard normal noise exceeds: {:.3} ± {:.3}, by semidiscrete prices for \
                 {of} (χ² {:.4} ± {:.4}).\n",
                alignment[0], alignment[1], chi_squared[0], chi_squared[1]
            )?;
        }
        let (share, line) = if self.full.is_some() { (" % of full |", "---:|") } else { ("", "") };
        let mut table = format!(
            "| coupling | pool | images | alignment |{share} drop, % | energy | mean shift | variance, PC 1–8 | label probe, % | µs an image | \
             memory, MiB |\n|---|---:|---:|---:|{line}---:|---:|---:|---:|---:|---:|---:|\n"
        );
        for row in &self.couplings {
            let probe = row.probe.map_or("–".into(), |[accuracy, chance, error]| {
                format!("{:.1} ({:.1} ± {:.1})", 100.0 * accuracy, 100.0 * chance, 100.0 * error)
            });
            let memory = row
                .peak_bytes
                .map_or("–".into(), |bytes| format!("{:.0}", bytes as f64 / f64::from(1 << 20)));
            let share =
                self.full.as_ref().map_or(String::new(), |full| format!(" {:.1} |", full.share_percent(row)));
            writeln!(
                table,
                "| {} | {} | {} | {:.2} ± {:.2} |{share} {:.2} | {:.4} | {:.2} | {:.3} | {probe} | {:.1} | {memory} |",
                row.coupling,
                row.pool,
                row.images,
                row.alignment,
                row.alignment_error,
                row.drop_percent,
                row.energy,
                row.mean_shift,
                row.leading,
                row.microseconds,
            )?;
        }
        f.write_str(&table)
    }
}
