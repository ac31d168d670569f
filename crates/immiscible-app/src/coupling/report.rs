//! The table of `immiscible coupling bench`.

use serde::Serialize;
use std::fmt::{self, Display, Write};

/// What was measured, on what.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) data: String,
    /// What the user said about the measurement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
    pub(crate) dimensions: usize,
    pub(crate) threads: usize,
    /// What the alignment of no coupling with standard normal noise exceeds, and its standard error.
    pub(crate) full_alignment: [f64; 2],
    /// χ² of the prices that say so, and its standard error.
    pub(crate) chi_squared: [f64; 2],
    /// Which images those prices are for.
    pub(crate) full_of: String,
    pub(crate) couplings: Vec<Row>,
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

impl Report {
    /// The share of the full alignment that a coupling reaches, in per cent.
    pub(crate) fn share_percent(&self, row: &Row) -> f64 {
        100.0 * row.alignment / self.full_alignment[0]
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let threads = if self.threads == 1 { "1 thread".into() } else { format!("{} threads", self.threads) };
        writeln!(f, "{}; {threads}.", self.data)?;
        if let Some(note) = &self.note {
            writeln!(f, "{note}")?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "Full alignment, which no coupling with standard normal noise exceeds: {:.3} ± {:.3}, by semidiscrete prices for {} \
             (χ² {:.4} ± {:.4}).\n",
            self.full_alignment[0],
            self.full_alignment[1],
            self.full_of,
            self.chi_squared[0],
            self.chi_squared[1]
        )?;
        let mut table = String::from(
            "| coupling | pool | alignment | % of full | drop, % | energy | mean shift | variance, PC 1–8 | label probe, % | µs an \
             image | memory, MiB |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        );
        for row in &self.couplings {
            let probe = row.probe.map_or("–".into(), |[accuracy, chance, error]| {
                format!("{:.1} ({:.1} ± {:.1})", 100.0 * accuracy, 100.0 * chance, 100.0 * error)
            });
            let memory = row
                .peak_bytes
                .map_or("–".into(), |bytes| format!("{:.0}", bytes as f64 / f64::from(1 << 20)));
            writeln!(
                table,
                "| {} | {} | {:.2} ± {:.2} | {:.1} | {:.2} | {:.4} | {:.2} | {:.3} | {probe} | {:.1} | {memory} |",
                row.coupling,
                row.pool,
                row.alignment,
                row.alignment_error,
                self.share_percent(row),
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
