#![doc = include_str!("../README.md")]

mod bytes;
mod error;
mod file;
mod fit;
mod image_file;
mod in_memory;
mod loader;
pub mod npy;
mod order;
mod prefetch;
mod registry;
mod source;
mod sources;
mod tolerant;

pub use error::DataError;
pub use fit::{Crop, Resize};
pub use in_memory::InMemory;
pub use loader::{Batch, Loader, LoaderOptions};
pub use order::Order;
pub use prefetch::{Prefetch, prefetch};
pub use registry::{Build, DataOptions, LabelKind, Layout, SOURCES, Split, build};
pub use source::{LatentInfo, Source};
pub use tolerant::{BadSample, Tolerant};
