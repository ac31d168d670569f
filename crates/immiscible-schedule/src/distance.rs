//! How far a network's output is from its target.

use burn::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{ScheduleError, error::lookup};

mod huber;
mod mse;
mod pseudo_huber;

pub use huber::Huber;
pub use mse::Mse;
pub use pseudo_huber::PseudoHuber;

/// The loss of a sample, before its weight.
pub trait Distance: Send + Sync {
    /// Name in the config.
    fn name(&self) -> &'static str;

    /// The distances whose mean over each sample is its loss, from the error output − target.
    ///
    /// # Shapes
    /// `[B, C, H, W]` → the same, or `[B, 1, 1, 1]` where a sample has one distance. The mean of all of them is the mean over
    /// the samples either way.
    fn of(&self, error: Tensor<4>) -> Tensor<4>;
}

/// Which distance, and its options.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DistanceConfig {
    /// A name in [`DISTANCES`].
    pub name: String,
    /// Of `huber`: where it turns from square to linear; 1 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<f64>,
    /// Of `pseudo_huber`: where it turns from square to linear; 0.00054 √D if absent, with D the elements of a sample.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub c: Option<f64>,
}

impl Default for DistanceConfig {
    /// The squared error.
    fn default() -> Self {
        Self::new("mse")
    }
}

impl DistanceConfig {
    /// The distance of this name with default options.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), delta: None, c: None }
    }

    /// Builds the distance.
    ///
    /// # Errors
    /// If the name is unknown, or an option does not fit or is not a positive number.
    pub fn build(&self) -> Result<Box<dyn Distance>, ScheduleError> {
        let build = lookup("distance", DISTANCES, &self.name)?;
        for (option, value, user) in [("delta", self.delta, "huber"), ("c", self.c, "pseudo_huber")] {
            let (kind, name) = ("distance", self.name.clone());
            match value {
                Some(_) if name != user => return Err(ScheduleError::UnusedOption { kind, name, option }),
                Some(value) if !(1e-6..=1e6).contains(&value) => {
                    let valid = "a number in [0.000001, 1000000]";
                    return Err(ScheduleError::OutOfRange { kind, name, option, value, valid });
                }
                _ => {}
            }
        }
        Ok(build(self))
    }
}

/// Builds a distance from its config.
pub type BuildDistance = fn(&DistanceConfig) -> Box<dyn Distance>;

/// Every distance by name.
pub const DISTANCES: &[(&str, BuildDistance)] = &[
    ("huber", |config| Box::new(Huber { delta: config.delta.unwrap_or(1.0) })),
    ("mse", |_| Box::new(Mse)),
    ("pseudo_huber", |config| Box::new(PseudoHuber { c: config.c })),
];
