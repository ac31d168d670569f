//! Any bytes are records of CIFAR, an archive of them, or one clear error. How to run it: `npy.rs`.

#![no_main]

use immiscible_data::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| fuzzing::cifar(bytes)
    .iter()
    .filter_map(|read| read.as_ref().err())
    .for_each(fuzzing::one_line));
