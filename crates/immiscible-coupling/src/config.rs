use crate::{
    After, Assignment, Control, Coupling, CouplingError, Independent, Knn, Mean, MeanShift, NormShrink,
    PricedKnn, Select, Sometimes, Window,
};
use immiscible_assign::{Assigner, Blocks, Cost, Precision};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The `[coupling]` table of a config. An option that the chosen kind does not have is refused, unless it has its default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CouplingConfig {
    /// A name in [`COUPLINGS`].
    pub kind: String,
    /// Solver of `assignment` and `window`: a name from the registry of `immiscible-assign`.
    pub assigner: String,
    /// Images of a block of the assigner `blocks`, at least 1.
    pub block: usize,
    /// Cost of `assignment` and `window`: `dot`, `squared_l2`, `l2` or `l1`.
    pub cost: Cost,
    /// Whether `assignment` and `window` pair inside each label only, or `priced_knn` has prices for each label; needs labelled
    /// data.
    pub class_wise: bool,
    /// Precision of the distances of `assignment` and `window`: `f32`; `int8`, which is faster and loses 0.01 to 0.04 % of
    /// the gain; or `f16` with the cost `l2`, as in the paper's code. If absent, batches and windows of 4,096 images or more have
    /// `int8`, and so no matrix of distances, and smaller ones `f32`. Of `knn` by `l2`: `f32`, or `f16` as in its code.
    pub precision: Option<Precision>,
    /// Which images of `assignment` exchange noise: those of a `batch`, or of a `micro_batch`, as in the papers' code.
    #[serde(skip_serializing_if = "Scope::is_batch")]
    pub scope: Scope,
    /// Images of a micro-batch, for that scope: the trainer's, and no key of this table.
    #[serde(skip)]
    pub micro_batch: Option<usize>,
    /// File of truth values, `[C, H, W]` or one such mask for each sample: the values that count when images and noises are compared.
    /// The trainer reads it, and hands it over in [`PairContext::mask`](crate::PairContext::mask).
    pub mask: Option<PathBuf>,
    /// Noises drawn for each image of `assignment`, at least 1. With more than 1 the marginal of the noise is no longer normal.
    pub pool: usize,
    /// Whether `assignment` and `window` compare images whose coordinates have mean 0 and variance 1 over the batch.
    pub standardize: bool,
    /// Images are compared with noises as if multiplied by this, above 0, where distances are `l2` or `l1`. What is trained on
    /// stays as it is.
    pub image_scale: f32,
    /// Rows that `window` pairs together: a multiple of the batch size, at most the data's. The command takes 8192, or what the data
    /// have.
    pub window: usize,
    /// Candidates per image of `knn` and `priced_knn`, or of the KNN that `norm_shrink` and `mean_shift` imitate; at least 1.
    pub k: usize,
    /// By what `knn` tells the nearest candidate: `l2` or `dot`.
    pub select: Select,
    /// Side of the grid of cells by whose means `knn` compares, in place of pixels; 8 is usual for large latents.
    pub coarse: Option<usize>,
    /// File in which `priced_knn` keeps what it learnt of the data set, and finds it again.
    pub state: Option<PathBuf>,
    /// Probability in [0, 1] that a step is coupled; the others have independent noise.
    pub probability: f64,
    /// Steps at the beginning that have independent noise.
    pub warmup: u64,
    /// Whether the noise changes its sign after it was chosen: the paper's control without optimal transport.
    pub flip: bool,
    /// Whether the noises of the batch change places at random after they were chosen: a control, without any coupling left.
    pub shuffled: bool,
}

/// Which images exchange noise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Those of a batch, whatever its gradient is computed in.
    #[default]
    Batch,
    /// Those whose gradient is computed at once.
    MicroBatch,
    /// Those of all processes. Reserved: it is refused.
    Global,
}

impl Scope {
    fn is_batch(&self) -> bool {
        *self == Self::Batch
    }
}

impl Default for CouplingConfig {
    fn default() -> Self {
        Self {
            kind: "assignment".into(),
            assigner: "exact".into(),
            block: Blocks::default().size,
            cost: Cost::Dot,
            class_wise: false,
            precision: None,
            scope: Scope::Batch,
            micro_batch: None,
            mask: None,
            pool: 1,
            standardize: false,
            image_scale: 1.0,
            window: 8192,
            k: 4,
            select: Select::L2,
            coarse: None,
            state: None,
            probability: 1.0,
            warmup: 0,
            flip: false,
            shuffled: false,
        }
    }
}

/// What the registry knows of a coupling.
pub struct Entry {
    /// The keys of the config that it reads, besides `kind`.
    pub options: &'static [&'static str],
    /// Builds it from them.
    build: fn(&CouplingConfig) -> Result<Box<dyn Coupling>, CouplingError>,
}

/// Every coupling by name, sorted.
pub const COUPLINGS: &[(&str, Entry)] = &[
    (
        "assignment",
        Entry {
            options: &[
                "assigner",
                "block",
                "cost",
                "class_wise",
                "precision",
                "scope",
                "mask",
                "pool",
                "standardize",
                "image_scale",
                "probability",
                "warmup",
                "flip",
                "shuffled",
            ],
            build: |config| Ok(Box::new(config.assignment()?)),
        },
    ),
    ("independent", Entry { options: &[], build: |_| Ok(Box::new(Independent)) }),
    (
        "knn",
        Entry {
            options: &[
                "k",
                "select",
                "coarse",
                "precision",
                "mask",
                "image_scale",
                "probability",
                "warmup",
                "flip",
                "shuffled",
            ],
            build: |config| Ok(Box::new(config.knn()?)),
        },
    ),
    (
        "mean_shift",
        Entry {
            options: &["k"],
            build: |config| Ok(Box::new(MeanShift { mean: Mean::OfKnn { k: config.k()? } })),
        },
    ),
    ("norm_shrink", Entry { options: &["k"], build: |config| Ok(Box::new(NormShrink { k: config.k()? })) }),
    (
        "priced_knn",
        Entry {
            options: &["k", "class_wise", "mask", "state", "probability", "warmup", "flip", "shuffled"],
            build: |config| {
                let (k, state) = (config.k()?, config.state.clone());
                Ok(Box::new(PricedKnn { k, class_wise: config.class_wise, state, prices: None }))
            },
        },
    ),
    (
        "window",
        Entry {
            options: &[
                "assigner",
                "block",
                "cost",
                "class_wise",
                "precision",
                "mask",
                "standardize",
                "image_scale",
                "window",
                "probability",
                "warmup",
                "shuffled",
            ],
            build: |config| Ok(Box::new(config.window()?)),
        },
    ),
];

/// Rows of a window up to which its distances may be a matrix: 1 GiB in single precision.
const MATRIX: usize = 16_384;

impl CouplingConfig {
    /// Builds the coupling that the config names. One that [needs data](Coupling::needs_data) must then be fitted to it.
    ///
    /// # Errors
    /// When the kind, the assigner or an option's value is not known, or the kind does not have an option.
    pub fn build(&self) -> Result<Box<dyn Coupling>, CouplingError> {
        let Some((kind, entry)) = COUPLINGS.iter().find(|(name, _)| *name == self.kind) else {
            return Err(CouplingError::Unknown {
                name: self.kind.clone(),
                known: COUPLINGS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "),
            });
        };
        if self.scope == Scope::Global {
            return Err(option(
                "scope",
                "global",
                "noise is not exchanged between processes yet; write \"batch\"",
            ));
        }
        if let Some(option) = self.given().find(|option| !entry.options.contains(option)) {
            let has = match entry.options {
                [] => String::new(),
                options => format!("; it has {}", options.join(", ")),
            };
            return Err(CouplingError::UnusedOption { kind, option, has });
        }
        let mut coupling = (entry.build)(self)?;
        for (given, after) in [(self.flip, After::Flip), (self.shuffled, After::Shuffle)] {
            if given {
                coupling = Box::new(Control { inner: coupling, after });
            }
        }
        let Self { probability, warmup, .. } = *self;
        if !(0.0..=1.0).contains(&probability) {
            return Err(option("probability", probability, "write a number from 0 to 1"));
        }
        if probability < 1.0 || warmup > 0 {
            coupling = Box::new(Sometimes { inner: coupling, probability, warmup });
        }
        Ok(coupling)
    }

    /// The options that do not have their defaults.
    fn given(&self) -> impl Iterator<Item = &'static str> {
        let default = Self::default();
        let given = [
            ("assigner", self.assigner != default.assigner),
            ("block", self.block != default.block),
            ("cost", self.cost != default.cost),
            ("class_wise", self.class_wise != default.class_wise),
            ("precision", self.precision != default.precision),
            ("scope", self.scope != default.scope),
            ("mask", self.mask != default.mask),
            ("pool", self.pool != default.pool),
            ("standardize", self.standardize != default.standardize),
            ("image_scale", self.image_scale != default.image_scale),
            ("window", self.window != default.window),
            ("k", self.k != default.k),
            ("select", self.select != default.select),
            ("coarse", self.coarse != default.coarse),
            ("state", self.state != default.state),
            ("probability", self.probability != default.probability),
            ("warmup", self.warmup != default.warmup),
            ("flip", self.flip != default.flip),
            ("shuffled", self.shuffled != default.shuffled),
        ];
        given.into_iter().filter(|(_, given)| *given).map(|(option, _)| option)
    }

    fn k(&self) -> Result<usize, CouplingError> {
        at_least_one("k", self.k)
    }

    fn image_scale(&self, matters: bool, of: &'static str) -> Result<f32, CouplingError> {
        let scale = self.image_scale;
        if !(scale.is_finite() && scale > 0.0) {
            return Err(option("image_scale", scale, "write a number above 0"));
        }
        if scale != 1.0 && !matters {
            return Err(CouplingError::OptionOf { option: "image_scale", of });
        }
        Ok(scale)
    }

    fn knn(&self) -> Result<Knn, CouplingError> {
        if self.coarse == Some(0) {
            return Err(option("coarse", 0, "write at least 1"));
        }
        let distance = self.select == Select::L2;
        let half = match self.precision {
            None | Some(Precision::F32) => false,
            Some(Precision::F16) if distance => true,
            Some(Precision::F16) => {
                return Err(option(
                    "precision",
                    "f16",
                    "it is that of the paper's distance; set coupling.select = \"l2\"",
                ));
            }
            Some(Precision::Int8) => {
                return Err(option("precision", "int8", "knn has f32 and f16; write one of them"));
            }
        };
        let image_scale = self.image_scale(distance, "coupling.select = \"l2\"")?;
        Ok(Knn { k: self.k()?, select: self.select, coarse: self.coarse, image_scale, half })
    }

    fn window(&self) -> Result<Window, CouplingError> {
        if self.window == 0 {
            return Err(option("window", 0, "write a multiple of the batch size, such as 8192"));
        }
        let assignment = self.assignment()?;
        if self.window > MATRIX && self.needs_matrix() {
            let remedy = "so many distances are kept in no matrix; write cost = \"dot\", precision = \"int8\" and assigner = \
                          \"exact\" without a mask, or at most 16384";
            return Err(option("window", self.window, remedy));
        }
        Ok(Window { assignment, rows: self.window })
    }

    /// Whether the distances of a window are in a matrix when they are solved.
    fn needs_matrix(&self) -> bool {
        let products = matches!(self.cost, Cost::Dot | Cost::SquaredL2)
            && matches!(self.precision, None | Some(Precision::Int8))
            && self.mask.is_none();
        match &*self.assigner {
            "approximate" | "exact" => !products,
            "blocks" => self.block > MATRIX && !products,
            _ => true,
        }
    }

    fn assignment(&self) -> Result<Assignment, CouplingError> {
        let blocks = Blocks { size: at_least_one("block", self.block)? };
        let assigner: Box<dyn Assigner> = match &*self.assigner {
            "blocks" => Box::new(blocks),
            _ if self.block != Blocks::default().size => {
                return Err(CouplingError::OptionOf {
                    option: "block",
                    of: "coupling.assigner = \"blocks\"",
                });
            }
            name => immiscible_assign::by_name(name)?,
        };
        if !assigner.shares_noise() {
            let remedy = "write one that pairs a batch, such as exact, or set coupling.kind = \"knn\"";
            return Err(option("assigner", &self.assigner, remedy));
        }
        if self.precision == Some(Precision::F16) && self.cost != Cost::L2 {
            return Err(option(
                "precision",
                "f16",
                "it is that of the paper's distance; set coupling.cost = \"l2\"",
            ));
        }
        let distance = matches!(self.cost, Cost::L2 | Cost::L1);
        let micro_batch = match (self.scope, self.micro_batch) {
            (Scope::Batch | Scope::Global, _) => None,
            (Scope::MicroBatch, Some(size)) => Some(size),
            (Scope::MicroBatch, None) => {
                return Err(option(
                    "scope",
                    "micro_batch",
                    "set train.micro_batch, the images of one, or write \"batch\"",
                ));
            }
        };
        Ok(Assignment {
            assigner: assigner.into(),
            cost: self.cost,
            class_wise: self.class_wise,
            precision: self.precision,
            micro_batch,
            pool: at_least_one("pool", self.pool)?,
            standardize: self.standardize,
            image_scale: self.image_scale(distance, "coupling.cost = \"l2\" or \"l1\"")?,
        })
    }
}

fn at_least_one(name: &'static str, value: usize) -> Result<usize, CouplingError> {
    if value == 0 { Err(option(name, 0, "write at least 1")) } else { Ok(value) }
}

fn option(option: &'static str, value: impl ToString, remedy: &'static str) -> CouplingError {
    CouplingError::Option { option, value: value.to_string(), remedy }
}
