#![doc = include_str!("../README.md")]

mod error;
mod file;
mod in_memory;
mod loader;
pub mod npy;
mod order;
mod prefetch;
mod registry;
mod source;
mod sources;

pub use error::DataError;
pub use in_memory::InMemory;
pub use loader::{Batch, Loader, LoaderOptions};
pub use order::Order;
pub use prefetch::{Prefetch, prefetch};
pub use registry::{Build, DataOptions, SOURCES, Split, build};
pub use source::Source;
