//! The mean of a data set and the principal components of its covariance.

use immiscible_random::Key;
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, Slice};

/// Components beyond those asked for, which make the last ones right.
const OVERSAMPLING: usize = 8;
/// Rounds of the iteration. Each multiplies a component's error by the ratio of its variance and the largest one left out.
const ROUNDS: usize = 8;

/// Mean ȳ and covariance Σ of the rows of a data set; Σ by its leading components, and what remains as if it were the same in
/// all other directions.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// ȳ, `[D]`.
    pub mean: Array1<f32>,
    /// The components of the largest variances, orthonormal, `[r, D]`.
    pub components: Array2<f32>,
    /// Their variances, the largest first.
    pub variances: Vec<f64>,
    /// The trace of Σ without those variances.
    pub rest: f64,
}

impl Moments {
    /// Of `rows`, with at most `r` components, by randomised subspace iteration (Halko, Martinsson and Tropp, "Finding structure
    /// with randomness", SIAM Review 53, 2011, Algorithm 4.4). The data is read, never copied.
    ///
    /// # Shapes
    /// `rows` is `[N, D]`.
    pub fn of(rows: ArrayView2<f32>, r: usize) -> Self {
        let (n, d) = rows.dim();
        let mut sum = Array1::<f64>::zeros(d);
        for row in rows.rows() {
            sum.zip_mut_with(&row, |sum, &x| *sum += f64::from(x));
        }
        let mean = sum.mapv(|sum| (sum / n.max(1) as f64) as f32);
        let square = |row: ArrayView1<f32>| -> f64 {
            row.iter().zip(&mean).map(|(&x, &m)| f64::from(x - m) * f64::from(x - m)).sum()
        };
        let trace = rows.rows().into_iter().map(square).sum::<f64>() / n.max(1) as f64;

        let r = r.min(d).min(n.saturating_sub(1));
        let width = (r + OVERSAMPLING).min(d);
        let mut basis = Array2::zeros((width, d));
        if let Some(values) = basis.as_slice_mut() {
            Key::new(0).fill_normals(0, d, values);
        }
        orthonormalise(&mut basis);
        // The centred rows in the basis, `[N, width]`.
        let project = |basis: &Array2<f32>| rows.dot(&basis.t()) - &basis.dot(&mean);
        for _ in 0..if r == 0 { 0 } else { ROUNDS } {
            let projected = project(&basis);
            let centre = projected.sum_axis(Axis(0)).insert_axis(Axis(1));
            basis = projected.t().dot(&rows) - centre.dot(&mean.view().insert_axis(Axis(0)));
            orthonormalise(&mut basis);
        }
        let projected = project(&basis);
        let covariance = projected.t().dot(&projected).mapv(f64::from) / n.max(1) as f64;
        let (mut variances, vectors) = eigen(covariance);
        variances.truncate(r);
        variances.iter_mut().for_each(|variance| *variance = variance.max(0.0));
        let components = vectors.slice_axis(Axis(0), Slice::from(..r)).mapv(|v| v as f32).dot(&basis);
        let rest = (trace - variances.iter().sum::<f64>()).max(0.0);
        Self { mean, components, variances, rest }
    }

    /// The variance in every direction that is no component.
    pub(crate) fn rest_variance(&self) -> f64 {
        self.rest / self.mean.len().saturating_sub(self.variances.len()).max(1) as f64
    }
}

/// Gram–Schmidt, twice, which is enough to be orthonormal up to rounding; a row that depends on those before becomes 0.
fn orthonormalise(rows: &mut Array2<f32>) {
    for i in 0..rows.nrows() {
        let before = rows.row(i).dot(&rows.row(i)).sqrt();
        let (done, mut rest) = rows.view_mut().split_at(Axis(0), i);
        let mut row = rest.row_mut(0);
        for _ in 0..2 {
            let shares = done.dot(&row);
            row -= &shares.dot(&done);
        }
        let norm = row.dot(&row).sqrt();
        let scale = if norm > 1e-5 * before { 1.0 / norm } else { 0.0 };
        row *= scale;
    }
}

/// Eigenvalues, the largest first, and eigenvectors, in rows, of a symmetric matrix, by Jacobi's rotations.
fn eigen(mut a: Array2<f64>) -> (Vec<f64>, Array2<f64>) {
    const SWEEPS: usize = 30;
    let n = a.nrows();
    let mut vectors = Array2::<f64>::eye(n);
    for _ in 0..SWEEPS {
        let off: f64 = (0..n).flat_map(|p| (0..p).map(move |q| (p, q))).map(|at| a[at] * a[at]).sum();
        if off <= 1e-24 * a.diag().dot(&a.diag()) {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                if a[(p, q)] == 0.0 {
                    continue;
                }
                // The rotation by the smaller angle that makes a[p, q] zero.
                let theta = (a[(q, q)] - a[(p, p)]) / (2.0 * a[(p, q)]);
                let tan = theta.signum() / (theta.abs() + theta.hypot(1.0));
                let cos = 1.0 / tan.hypot(1.0);
                let sin = tan * cos;
                let rotate = |x: &mut f64, y: &mut f64| (*x, *y) = (cos * *x - sin * *y, sin * *x + cos * *y);
                for i in 0..n {
                    let (mut x, mut y) = (a[(i, p)], a[(i, q)]);
                    rotate(&mut x, &mut y);
                    (a[(i, p)], a[(i, q)]) = (x, y);
                }
                for i in 0..n {
                    let (mut x, mut y) = (a[(p, i)], a[(q, i)]);
                    rotate(&mut x, &mut y);
                    (a[(p, i)], a[(q, i)]) = (x, y);
                    let (mut x, mut y) = (vectors[(p, i)], vectors[(q, i)]);
                    rotate(&mut x, &mut y);
                    (vectors[(p, i)], vectors[(q, i)]) = (x, y);
                }
            }
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&p, &q| a[(q, q)].total_cmp(&a[(p, p)]));
    (order.iter().map(|&p| a[(p, p)]).collect(), vectors.select(Axis(0), &order))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fresh_noise;

    #[test]
    fn components_are_those_of_the_exact_covariance() {
        // Variances that fall as those of images do, in directions that are not the axes, around a mean.
        let mut rows = fresh_noise(500, 60, Key::new(1));
        for (j, mut column) in rows.columns_mut().into_iter().enumerate() {
            column *= 10.0 / (1.0 + j as f32);
        }
        let mixing = fresh_noise(60, 60, Key::new(2)) / 60_f32.sqrt();
        let rows = rows.dot(&mixing) + 3.0;
        let found = Moments::of(rows.view(), 12);

        let exact = rows.mapv(f64::from);
        let mean = exact.mean_axis(Axis(0)).unwrap();
        let centred = &exact - &mean;
        let covariance = centred.t().dot(&centred) / 500.0;
        let trace = covariance.diag().sum();
        let (variances, vectors) = eigen(covariance);
        assert!((&found.mean.mapv(f64::from) - &mean).iter().all(|difference| difference.abs() < 1e-5));
        for (i, (variance, exact)) in found.variances.iter().zip(&variances).enumerate() {
            let ratio = variance / exact;
            assert!((ratio - 1.0).abs() < 1e-3, "variance {i}: {ratio} of the exact one");
            let cosine = found.components.row(i).mapv(f64::from).dot(&vectors.row(i)).abs();
            assert!(cosine > 0.999, "component {i}: {cosine}");
        }
        assert!((found.rest - (trace - variances[..12].iter().sum::<f64>())).abs() < 1e-3 * trace);
        let unit = found.components.dot(&found.components.t()) - Array2::<f32>::eye(12);
        assert!(unit.iter().all(|entry| entry.abs() < 1e-5));
    }

    #[test]
    fn few_rows_have_few_components() {
        let rows = fresh_noise(4, 30, Key::new(3));
        let found = Moments::of(rows.view(), 32);
        assert_eq!(found.components.dim(), (3, 30));
        assert!(found.rest < 1e-4, "three components hold four rows: {found:?}");
        let alone = Moments::of(rows.slice_axis(Axis(0), Slice::from(..1)), 32);
        assert_eq!((alone.components.nrows(), alone.rest), (0, 0.0));
        let same = Moments::of(Array2::ones((9, 5)).view(), 3);
        assert!(same.variances.iter().all(|&variance| variance == 0.0) && same.rest == 0.0);
    }
}
