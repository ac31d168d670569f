//! Any bytes are an array or one clear error: no panic, no memory that the bytes do not account for.
//!
//! From `crates/immiscible-data`, with `cargo install cargo-fuzz` done once:
//!
//! ```console
//! $ mkdir -p fuzz/corpus/npy && cp tests/golden/*.npy fuzz/corpus/npy  # the others: fuzz/seeds/NAME
//! $ RUSTC_BOOTSTRAP=1 cargo fuzz run npy -- -runs=1000000 -timeout=1 -malloc_limit_mb=1024
//! ```
//!
//! An input that takes longer than a second, or an allocation over 1 GiB, is a finding as a panic is.

#![no_main]

use std::path::Path;

use immiscible_data::{DataError, fuzzing, npy};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("x.npy");
    let labels = npy::decode_labels(bytes, path);
    one_line(labels.as_ref().err());
    if let Ok(labels) = labels {
        assert!(labels.len() <= bytes.len());
    }

    let single = npy::decode::<f32>(bytes, path);
    one_line(single.as_ref().err());
    let double = npy::decode::<f64>(bytes, path);
    one_line(double.as_ref().err());
    let Ok(double) = double else {
        assert!(single.is_err(), "only double precision is refused");
        return;
    };
    assert!(2 * double.values.len() <= bytes.len());
    assert_eq!(double.values.len(), double.shape.iter().product::<usize>());
    match double.rows() {
        Ok(rows) => assert_eq!(rows.len(), double.values.len()),
        Err(error) => one_line(Some(&error)),
    }
    if let Ok(single) = single {
        assert_eq!(single.shape, double.shape);
        let rounded = double.values.iter().map(|x| (*x as f32).to_bits());
        assert!(
            single.values.iter().zip(rounded).all(|(x, rounded)| x.to_bits() == rounded || x.is_nan()),
            "the two precisions differ"
        );
    }
});

fn one_line(error: Option<&DataError>) {
    error.into_iter().for_each(fuzzing::one_line);
}
