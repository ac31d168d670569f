#![doc = include_str!("../README.md")]

mod assigner;
mod assignment;
mod cost;
mod distance;
mod error;
mod greedy;
mod knn;
mod lapjv;
mod problem;
mod square;

pub use assigner::{ASSIGNERS, Assigner, by_name};
pub use assignment::Assignment;
pub use cost::Cost;
pub use distance::{drop_percent, mean_distance};
pub use error::AssignError;
pub use greedy::Greedy;
pub use knn::Knn;
pub use lapjv::Lapjv;
pub use problem::{Candidates, Problem};
pub use square::SquareSolver;
