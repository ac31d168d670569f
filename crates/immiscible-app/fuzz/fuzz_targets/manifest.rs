//! Any bytes are the manifest of a checkpoint or one clear error. How to run it: `config.rs`.

#![no_main]

use immiscible_train::fuzz_manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| fuzz_manifest(bytes));
