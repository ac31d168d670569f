use crate::{Assignment, Coupling, CouplingError, Independent, Knn, Window};
use immiscible_assign::{Cost, Precision};
use serde::{Deserialize, Serialize};

/// The `[coupling]` table of a config. Options that the chosen kind does not read are without effect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CouplingConfig {
    /// A name in [`COUPLINGS`].
    pub kind: String,
    /// Solver of `assignment` and `window`: a name from the registry of `immiscible-assign`.
    pub assigner: String,
    /// Cost of `assignment` and `window`: `dot`, `squared_l2` or `l2`.
    pub cost: Cost,
    /// Whether `assignment` and `window` pair inside each label only; needs labelled data.
    pub class_wise: bool,
    /// Precision of the distances of `assignment` and `window`: `f32`, or `int8`, which is faster and loses 0.01 to 0.03 % of
    /// the gain. If absent, large windows have `int8`, and so no matrix of distances, and all others `f32`.
    pub precision: Option<Precision>,
    /// Rows that `window` pairs together: a multiple of the batch size.
    pub window: usize,
    /// Candidates per image of `knn`, at least 1.
    pub k: usize,
}

impl Default for CouplingConfig {
    fn default() -> Self {
        Self {
            kind: "assignment".into(),
            assigner: "exact".into(),
            cost: Cost::Dot,
            class_wise: false,
            precision: None,
            window: 8192,
            k: 4,
        }
    }
}

type Build = fn(&CouplingConfig) -> Result<Box<dyn Coupling>, CouplingError>;

/// Every coupling by name, sorted.
pub const COUPLINGS: &[(&str, Build)] = &[
    ("assignment", |config| Ok(Box::new(config.assignment(Precision::F32)?))),
    ("independent", |_| Ok(Box::new(Independent))),
    ("knn", |config| match config.k {
        0 => Err(CouplingError::Option { option: "k", value: "0".into(), remedy: "write at least 1" }),
        k => Ok(Box::new(Knn { k })),
    }),
    ("window", |config| match config.window {
        0 => Err(CouplingError::Option {
            option: "window",
            value: "0".into(),
            remedy: "write a multiple of the batch size, such as 8192",
        }),
        rows => {
            let precision = if rows < LARGE { Precision::F32 } else { Precision::Int8 };
            Ok(Box::new(Window { assignment: config.assignment(precision)?, rows }))
        }
    }),
];

/// Rows of a window from which on a matrix of its distances would be large.
const LARGE: usize = 4096;

impl CouplingConfig {
    fn assignment(&self, precision: Precision) -> Result<Assignment, CouplingError> {
        let assigner = immiscible_assign::by_name(&self.assigner)?;
        if !assigner.shares_noise() {
            return Err(CouplingError::Option {
                option: "assigner",
                value: self.assigner.clone(),
                remedy: "write one that pairs a batch, such as exact, or set coupling.kind = \"knn\"",
            });
        }
        let precision = self.precision.unwrap_or(precision);
        Ok(Assignment { assigner, cost: self.cost, class_wise: self.class_wise, precision })
    }

    /// Builds the coupling that the config names.
    ///
    /// # Errors
    /// When the kind, the assigner or an option's value is not known.
    pub fn build(&self) -> Result<Box<dyn Coupling>, CouplingError> {
        match COUPLINGS.iter().find(|(name, _)| *name == self.kind) {
            Some((_, build)) => build(self),
            None => Err(CouplingError::Unknown {
                name: self.kind.clone(),
                known: COUPLINGS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "),
            }),
        }
    }
}
