//! Any bytes are records of CIFAR, an archive of them, or one clear error. How to run it: `npy.rs`.

#![no_main]

use immiscible_data::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for read in fuzzing::cifar(bytes) {
        if let Err(error) = read {
            let text = error.to_string();
            assert!(text.lines().count() == 1 && text.len() < 600, "{text}");
        }
    }
});
