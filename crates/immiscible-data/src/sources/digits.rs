//! `digits`: 1,797 hand-written digits of 8×8 pixels, part of the library. `assets/README.md` names source and licence.

use std::path::Path;

use super::idx;
use crate::file::{self, MAX_BYTES};
use crate::{DataError, DataOptions, InMemory, Source};

const IMAGES: &[u8] = include_bytes!("../../assets/digits-images-idx3-ubyte.gz");
const LABELS: &[u8] = include_bytes!("../../assets/digits-labels-idx1-ubyte.gz");
/// Each value counts the ink in a 4×4 cell of the scan.
const WHITE: u8 = 16;

pub(crate) fn build(options: &DataOptions) -> Result<Box<dyn Source>, DataError> {
    options.allow(&[])?;
    let (shape, pixels) = idx::images(embedded(IMAGES)?).map_err(damaged)?;
    let labels = idx::labels(embedded(LABELS)?).map_err(damaged)?;
    let source = InMemory::new(&options.name, shape, pixels)?.with_white(WHITE);
    Ok(Box::new(source.with_labels(labels, idx::numbers(10))?))
}

fn embedded(gz: &[u8]) -> Result<Vec<u8>, DataError> {
    file::decompress(gz, Path::new("embedded digits"), MAX_BYTES)
}

fn damaged(reason: String) -> DataError {
    DataError::Format { path: "embedded digits".into(), reason }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    fn sha256(bytes: &[u8]) -> String {
        Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_embedded_files_are_the_published_ones() {
        assert_eq!(
            sha256(&embedded(IMAGES).unwrap()),
            "359cd13f0f514122884198b78a131df597421cbf5e93a76678fa96fc548f0d96"
        );
        assert_eq!(
            sha256(&embedded(LABELS).unwrap()),
            "ce71631c1f31ce56fa54f31d1d498fafacff59b001e6c30c4a5e29508aa277ad"
        );
    }

    #[test]
    fn counts_and_range() {
        let digits = build(&DataOptions::new("digits")).unwrap();
        assert_eq!((digits.len(), digits.shape()), (1797, [1, 8, 8]));
        let mut counts = [0; 10];
        let mut out = [0.0; 64];
        let (mut min, mut max) = (f32::MAX, f32::MIN);
        for index in 0..digits.len() {
            counts[digits.label(index).unwrap() as usize] += 1;
            digits.read(index, &mut out).unwrap();
            (min, max) = out.iter().fold((min, max), |(min, max), &v| (min.min(v), max.max(v)));
        }
        assert_eq!(counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
        assert_eq!((min, max), (-1.0, 1.0));
    }

    #[test]
    fn the_first_image_is_the_zero_of_the_uci_file() {
        let digits = build(&DataOptions::new("digits")).unwrap();
        let mut out = [0.0; 64];
        digits.read(0, &mut out).unwrap();
        let first_row = [0, 0, 5, 13, 9, 1, 0, 0].map(|v| v as f32 / 8.0 - 1.0);
        assert_eq!(out[..8], first_row);
        assert_eq!(digits.label(0), Some(0));
    }
}
