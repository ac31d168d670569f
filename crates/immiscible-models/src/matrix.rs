//! Products of matrices on the CPU.

use gemm::Parallelism;

/// A matrix by its values and the steps from row to row and from column to column.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) steps: [usize; 2],
}

impl Matrix<'_> {
    pub(crate) fn transposed(self) -> Self {
        let [row, column] = self.steps;
        Self { steps: [column, row], ..self }
    }
}

/// Writes `scale` times `a` `[m, k]` times `b` `[k, n]` to `out` `[m, n]`, whose rows are `step` values apart, or adds it. On one
/// thread.
///
/// # Panics
/// Where a matrix has no values, or fewer than it needs.
pub(crate) fn multiply(
    sizes: [usize; 3],
    scale: f32,
    a: Matrix<'_>,
    b: Matrix<'_>,
    out: &mut [f32],
    step: usize,
    add: bool,
) {
    product(sizes, scale, [a, b], out, step, add, Parallelism::None);
}

/// As [`multiply`], by itself and without gaps between rows, on all threads of the current rayon pool.
pub(crate) fn multiply_together(sizes: [usize; 3], a: Matrix<'_>, b: Matrix<'_>, out: &mut [f32], add: bool) {
    product(sizes, 1.0, [a, b], out, sizes[2], add, Parallelism::Rayon(0));
}

fn product(
    [m, k, n]: [usize; 3],
    scale: f32,
    [a, b]: [Matrix<'_>; 2],
    out: &mut [f32],
    step: usize,
    add: bool,
    parallelism: Parallelism,
) {
    let within = |len: usize, steps: [usize; 2], [rows, columns]: [usize; 2]| {
        (rows - 1) * steps[0] + (columns - 1) * steps[1] < len
    };
    assert!(m > 0 && k > 0 && n > 0 && step >= n, "matrices have rows and columns");
    assert!(
        within(a.values.len(), a.steps, [m, k])
            && within(b.values.len(), b.steps, [k, n])
            && within(out.len(), [step, 1], [m, n]),
        "matrices have all their values"
    );
    let [[a_row, a_column], [b_row, b_column]] = [a, b].map(|it| it.steps.map(|step| step as isize));
    // SAFETY: every value that is read and written lies in its slice, by the assertions above.
    #[expect(unsafe_code, reason = "the library takes pointers")]
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            step as isize,
            add,
            a.values.as_ptr(),
            a_column,
            a_row,
            b.values.as_ptr(),
            b_column,
            b_row,
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}
