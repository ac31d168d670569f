//! Any bytes are a file of latents or one clear error. How to run it: `npy.rs`.

#![no_main]

use immiscible_data::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| match fuzzing::latents(bytes) {
    Ok(source) => {
        let mut out = vec![0.0; source.shape().iter().product()];
        for index in [0, source.len() / 2, source.len() - 1] {
            if let Err(error) = source.read(index, &mut out) {
                one_line(&error.to_string());
            }
            if let (Some(label), Some(classes)) = (source.label(index), source.classes()) {
                assert!((label as usize) < classes.len());
            }
        }
    }
    Err(error) => one_line(&error.to_string()),
});

fn one_line(text: &str) {
    assert!(text.lines().count() == 1 && text.len() < 2000, "{text}");
}
