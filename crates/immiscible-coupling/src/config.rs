use crate::{Assignment, Coupling, CouplingError, Independent, Knn};
use immiscible_assign::Cost;
use serde::{Deserialize, Serialize};

/// The `[coupling]` table of a config. Options that the chosen kind does not read are without effect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CouplingConfig {
    /// `independent`, `assignment` or `knn`.
    pub kind: String,
    /// Solver of `assignment`: a name from the registry of `immiscible-assign`.
    pub assigner: String,
    /// Cost of `assignment`: `dot`, `squared_l2` or `l2`.
    pub cost: Cost,
    /// Whether `assignment` pairs inside each label only; needs labelled data.
    pub class_wise: bool,
    /// Candidates per image of `knn`, at least 1.
    pub k: usize,
}

impl Default for CouplingConfig {
    fn default() -> Self {
        Self { kind: "assignment".into(), assigner: "exact".into(), cost: Cost::Dot, class_wise: false, k: 4 }
    }
}

type Build = fn(&CouplingConfig) -> Result<Box<dyn Coupling>, CouplingError>;

/// Every coupling by name, sorted.
pub const COUPLINGS: &[(&str, Build)] = &[
    ("assignment", |config| {
        let assigner = immiscible_assign::by_name(&config.assigner)?;
        if !assigner.shares_noise() {
            return Err(CouplingError::Option {
                option: "assigner",
                value: config.assigner.clone(),
                remedy: "write one that pairs a batch, such as exact, or set coupling.kind = \"knn\"",
            });
        }
        Ok(Box::new(Assignment { assigner, cost: config.cost, class_wise: config.class_wise }))
    }),
    ("independent", |_| Ok(Box::new(Independent))),
    ("knn", |config| match config.k {
        0 => Err(CouplingError::Option { option: "k", value: "0".into(), remedy: "write at least 1" }),
        k => Ok(Box::new(Knn { k })),
    }),
];

impl CouplingConfig {
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
