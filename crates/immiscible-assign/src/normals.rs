//! Matrices for the unit tests.

use immiscible_random::Key;
use ndarray::Array2;

/// Standard normals.
pub(crate) fn normals(seed: u64, rows: usize, columns: usize) -> Array2<f32> {
    let mut values = vec![0.0; rows * columns];
    Key::new(seed).fill_normals(0, columns, &mut values);
    Array2::from_shape_vec((rows, columns), values).expect("rows * columns values")
}
