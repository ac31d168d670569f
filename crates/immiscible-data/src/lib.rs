#![doc = include_str!("../README.md")]

mod bytes;
mod error;
#[cfg(feature = "fetch")]
mod fetch;
mod file;
mod fit;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod image_file;
mod images;
mod in_memory;
mod jpeg;
mod loader;
mod memory;
pub mod npy;
mod order;
mod planes;
mod prefetch;
mod registry;
mod source;
mod sources;
mod tolerant;
mod unpack;

pub use error::DataError;
#[cfg(feature = "fetch")]
pub use fetch::{Patience, REMOTES, Remote, RemoteFile, fetch};
pub use fit::{Crop, Resize};
pub use images::Images;
pub use in_memory::InMemory;
pub use loader::{Batch, Loader, LoaderOptions};
pub use order::Order;
pub use prefetch::{Prefetch, prefetch};
pub use registry::{Build, DataOptions, LabelKind, Layout, SOURCES, Split, build};
pub use source::{LatentInfo, ReadPixels, Source, read_all};
pub use tolerant::{BadSample, Tolerant};
pub use unpack::{UnpackLimits, unpack};
