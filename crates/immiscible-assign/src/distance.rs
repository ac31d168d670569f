use ndarray::{ArrayView1, ArrayView2, Axis, parallel::prelude::*};

use crate::AssignError;

/// The mean over the batch of ‖xᵢ − nᵢ‖, the number whose drop the paper reports (arXiv 2406.12303, Figure 1), whatever
/// the cost that was minimised. 0 for an empty batch.
///
/// # Shapes
/// `images` and `noise` are [B, D]; row i of `noise` is the noise of image i.
///
/// # Errors
/// If the shapes differ.
pub fn mean_distance(images: ArrayView2<f32>, noise: ArrayView2<f32>) -> Result<f64, AssignError> {
    if images.shape() != noise.shape() {
        return Err(AssignError::ShapeMismatch {
            what: "noise",
            expected: images.shape().to_vec(),
            found: noise.shape().to_vec(),
        });
    }
    let distances: Vec<f64> = images
        .axis_iter(Axis(0))
        .into_par_iter()
        .zip(noise.axis_iter(Axis(0)))
        .map(|(image, noise)| squared_distance(image, noise).sqrt())
        .collect();
    Ok(distances.iter().sum::<f64>() / distances.len().max(1) as f64)
}

/// By how many per cent `after` is below `before`; 0 if `before` is 0.
pub fn drop_percent(before: f64, after: f64) -> f64 {
    if before == 0.0 { 0.0 } else { 100.0 * (before - after) / before }
}

/// ‖a − b‖² of two vectors of the same length.
pub(crate) fn squared_distance(a: ArrayView1<f32>, b: ArrayView1<f32>) -> f64 {
    const LANES: usize = 8;
    let square = |a: f32, b: f32| f64::from(a - b) * f64::from(a - b);
    let (Some(a), Some(b)) = (a.to_slice(), b.to_slice()) else {
        return a.iter().zip(b).map(|(&a, &b)| square(a, b)).sum();
    };
    // Several sums at a time, which the compiler can keep in one register.
    let ((a, rest_a), (b, rest_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += square(a[lane], b[lane]);
        }
    }
    let rest: f64 = rest_a.iter().zip(rest_b).map(|(&a, &b)| square(a, b)).sum();
    sums.iter().sum::<f64>() + rest
}

/// Σ |a − b| of two vectors of the same length.
pub(crate) fn absolute_distance(a: ArrayView1<f32>, b: ArrayView1<f32>) -> f32 {
    const LANES: usize = 32;
    let (Some(a), Some(b)) = (a.to_slice(), b.to_slice()) else {
        return a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum();
    };
    let ((a, rest_a), (b, rest_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += (a[lane] - b[lane]).abs();
        }
    }
    let rest: f32 = rest_a.iter().zip(rest_b).map(|(a, b)| (a - b).abs()).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};

    use super::*;

    #[test]
    fn distances_of_a_triangle() {
        let images = array![[0.0, 0.0], [1.0, 1.0]];
        let noise = array![[3.0, 4.0], [1.0, 2.0]];
        assert_eq!(mean_distance(images.view(), noise.view()), Ok(3.0));
        assert_eq!(mean_distance(images.view(), images.view()), Ok(0.0));
        assert_eq!(mean_distance(array![[]].view(), array![[]].view()), Ok(0.0));
        assert!(mean_distance(images.view(), array![[1.0], [2.0]].view()).is_err());
    }

    #[test]
    fn the_memory_layout_does_not_matter() {
        let a = Array2::from_shape_fn((5, 37), |(i, j)| (i as f32 - j as f32).sin());
        let b = Array2::from_shape_fn((5, 37), |(i, j)| (i as f32 * j as f32).cos());
        let columns = a.t().as_standard_layout().into_owned();
        let plain = mean_distance(a.view(), b.view()).expect("the same shape");
        let strided = mean_distance(columns.t(), b.view()).expect("the same shape");
        assert!((plain - strided).abs() < 1e-12);
    }

    #[test]
    fn drops_are_relative_to_before() {
        assert_eq!(drop_percent(50.0, 49.0), 2.0);
        assert_eq!(drop_percent(50.0, 51.0), -2.0);
        assert_eq!(drop_percent(0.0, 0.0), 0.0);
    }
}
