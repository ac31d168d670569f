//! Benchmarks of the workspace, one file per subject under `benches/`.
