//! Which values count when images and noises are compared: the file of `coupling.mask`.

use anyhow::{Result, bail, ensure};
use immiscible_data::npy;
use ndarray::{Array4, Axis};
use sha2::{Digest, Sha256};
use std::path::Path;

/// Reads the masks of `samples` samples of this shape: `[1, C, H, W]`, or `[N, C, H, W]` with one for each.
///
/// # Errors
/// One line, if the file is no array of truth values of that shape, or a mask counts nothing.
pub(crate) fn open(path: &Path, samples: usize, shape: [usize; 3]) -> Result<Array4<bool>> {
    let file = npy::read_bools(path)?;
    let count = match file.shape[..] {
        _ if file.shape == shape => 1,
        [n, ..] if n == samples && file.shape[1..] == shape => n,
        _ => bail!(
            "coupling.mask = {path:?} has the shape {:?}: write one of {shape:?}, or {samples} of them",
            file.shape
        ),
    };
    let [c, h, w] = shape;
    let masks = Array4::from_shape_vec((count, c, h, w), file.values)?;
    let empty = masks.axis_iter(Axis(0)).position(|mask| !mask.iter().any(|counts| *counts));
    ensure!(empty.is_none(), "coupling.mask = {path:?}: mask {} counts no value", empty.unwrap_or_default());
    Ok(masks)
}

/// SHA-256 of what the masks say, in hexadecimal: by it a run knows them again, whatever their file is called.
pub(crate) fn sha256(masks: &Array4<bool>) -> String {
    let mut hash = Sha256::new();
    for &length in masks.shape() {
        hash.update((length as u64).to_le_bytes());
    }
    let values: Vec<u8> = masks.iter().copied().map(u8::from).collect();
    hash.update(values);
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
