//! What `immiscible assign` prints, as a table or as JSON.

use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

/// What an assignment brought and took.
#[derive(Default, Serialize)]
pub(super) struct Report {
    pub(super) images: usize,
    /// In the shared set, or for each image.
    pub(super) noises: usize,
    /// Whether each image has noises of its own.
    pub(super) per_image: bool,
    /// Values in an image; unknown where costs were given.
    pub(super) dimension: Option<usize>,
    pub(super) groups: Option<usize>,
    pub(super) solver: &'static str,
    pub(super) cost: Option<&'static str>,
    /// Of the costs.
    pub(super) precision: &'static str,
    pub(super) threads: usize,
    pub(super) distance_before: Option<f64>,
    pub(super) distance_after: Option<f64>,
    pub(super) distance_drop_percent: Option<f64>,
    pub(super) cost_before: f64,
    pub(super) cost_after: f64,
    /// Has a meaning where costs are distances, which are not negative.
    pub(super) cost_drop_percent: Option<f64>,
    /// What any assignment costs at least, if the solver proves something.
    pub(super) lower_bound: Option<f64>,
    /// The most that is left to gain, in % of the gain over the pairs before.
    pub(super) gap_percent: Option<f64>,
    pub(super) cost_ms: Option<f64>,
    pub(super) solve_ms: f64,
    pub(super) out: Option<PathBuf>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sizes     {} images, {} noises", self.images, self.noises)?;
        if self.per_image {
            write!(f, " for each")?;
        }
        if let Some(dimension) = self.dimension {
            write!(f, ", {dimension} values each")?;
        }
        if let Some(groups) = self.groups {
            write!(f, ", {groups} labels")?;
        }
        write!(f, "\nsolver    {}", self.solver)?;
        if let Some(cost) = self.cost {
            write!(f, ", cost {cost}")?;
        }
        writeln!(f, ", {}, {} threads", self.precision, self.threads)?;
        if let (Some(before), Some(after), Some(drop)) =
            (self.distance_before, self.distance_after, self.distance_drop_percent)
        {
            writeln!(f, "distance  mean {before:.4} before, {after:.4} after: {drop:.2} % less")?;
        }
        write!(f, "cost      {} before, {} after", number(self.cost_before), number(self.cost_after))?;
        if let Some(drop) = self.cost_drop_percent {
            write!(f, ": {drop:.2} % less")?;
        }
        match self.gap_percent {
            Some(gap) => {
                let costs = if self.precision == "int8" { " for the rounded costs" } else { "" };
                write!(f, "\ngap       at most {gap:.6} % of the gain over the pairs before, proven{costs}")?;
            }
            None => write!(f, "\ngap       not known, {} proves nothing", self.solver)?,
        }
        write!(f, "\ntime      ")?;
        if let Some(ms) = self.cost_ms {
            write!(f, "{ms:.2} ms cost, ")?;
        }
        writeln!(f, "{:.2} ms solve", self.solve_ms)?;
        match &self.out {
            Some(out) => writeln!(f, "noise_of  {}", out.display()),
            None => Ok(()),
        }
    }
}

/// Costs come in any unit.
fn number(x: f64) -> String {
    if x == 0.0 || (1e-2..1e9).contains(&x.abs()) { format!("{x:.4}") } else { format!("{x:.4e}") }
}
