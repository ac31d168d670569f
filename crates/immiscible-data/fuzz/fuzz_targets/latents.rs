//! Any bytes are a file of latents or one clear error. How to run it: `npy.rs`.

#![no_main]

use immiscible_data::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| fuzzing::read(fuzzing::latents(bytes)));
