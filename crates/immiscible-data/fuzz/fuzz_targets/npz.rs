//! Any bytes are an archive of arrays or one clear error. How to run it: `npy.rs`.

#![no_main]

use immiscible_data::{DataOptions, fuzzing};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let options = DataOptions { range: Some([-4.0, 300.0]), ..DataOptions::new("npz") };
    fuzzing::read(fuzzing::npz(bytes, &options));
});
