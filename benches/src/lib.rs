//! What the benchmarks of the workspace share, one file per subject under `benches/`.

pub mod fields;
