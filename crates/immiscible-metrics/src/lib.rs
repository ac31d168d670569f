#![doc = include_str!("../README.md")]

mod coverage;
mod error;
mod nearest_neighbour;
mod sliced_w2;

pub use coverage::{Coverage, coverage};
pub use error::MetricError;
pub use nearest_neighbour::{Nearest, NearestNeighbour};
pub use sliced_w2::{SlicedW2, sliced_w2};
