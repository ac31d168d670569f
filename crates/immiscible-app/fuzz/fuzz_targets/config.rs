//! Any text is a config, or the arguments of `--set`, or one clear error: no panic, no memory that a run would not need.
//!
//! From `crates/immiscible-app`, with `cargo install cargo-fuzz` done once:
//!
//! ```console
//! $ mkdir -p fuzz/corpus/config && cp presets/*.toml fuzz/seeds/config/* fuzz/corpus/config
//! $ RUSTC_BOOTSTRAP=1 cargo fuzz run config -- -runs=1000000 -timeout=1 -malloc_limit_mb=1024
//! ```

#![no_main]

use immiscible_app::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| fuzzing::config(text));
