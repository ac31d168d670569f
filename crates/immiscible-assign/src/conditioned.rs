use ndarray::{Array1, Array2, ArrayView2};

use crate::{AssignError, cost::all_finite};

/// The same problem with rows of mean zero, and columns too where all of them are taken, in units that put its largest
/// entry near 2²⁰.
///
/// Constants of a row add the same to every assignment, and those of a column do if every column is taken. But with ‖x‖²
/// in its row, a small image looks cheap everywhere: a greedy choice serves it first, and column reduction gives it all the
/// columns. The factor is there because `lapjv` takes paths for equal that differ by less than the machine epsilon in
/// absolute terms.
///
/// # Errors
/// The first entry that is not finite.
pub(crate) fn conditioned(cost: ArrayView2<f32>) -> Result<Array2<f32>, AssignError> {
    all_finite(cost, "cost")?;
    let (rows, columns) = cost.dim();
    let mut sums = Array1::<f64>::zeros(columns);
    let mut centred = cost.mapv(f64::from);
    for mut row in centred.rows_mut() {
        row -= row.sum() / columns as f64;
        sums += &row;
    }
    if rows == columns {
        centred -= &(sums / rows as f64);
    }
    let largest = centred.iter().fold(0.0_f64, |largest, c| largest.max(c.abs()));
    if largest > 0.0 {
        // A power of two rounds nothing.
        centred *= (20.0 - largest.log2().floor()).exp2();
    }
    Ok(centred.mapv(|c| c as f32))
}
