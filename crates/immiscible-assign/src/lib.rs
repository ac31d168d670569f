#![doc = include_str!("../README.md")]

mod approximate;
mod assigner;
mod assignment;
mod auction;
mod blocks;
mod conditioned;
mod cost;
mod distance;
mod error;
mod exact;
mod greedy;
mod half;
mod inner_product_search;
mod int16;
mod int8;
mod knn;
mod lapjv;
#[cfg(test)]
mod normals;
mod one_to_one;
mod panels;
mod problem;
mod product;
mod sinkhorn;
mod tile;

pub use approximate::Approximate;
pub use assigner::{ASSIGNERS, Assigner, by_name};
pub use assignment::Assignment;
pub use auction::Entry;
pub use blocks::Blocks;
pub use cost::Cost;
pub use distance::{drop_percent, mean_distance};
pub use error::AssignError;
pub use exact::{Exact, Solution, linear_sum_assignment};
pub use greedy::Greedy;
pub use half::half_distance;
pub use inner_product_search::InnerProductSearch;
pub use int8::Products;
pub use knn::Knn;
pub use lapjv::Lapjv;
pub use one_to_one::{Matched, OneToOneSolver};
pub use problem::{Candidates, Precision, Problem};
pub use sinkhorn::Sinkhorn;
