use ndarray::{Array1, ArrayView2, Axis};
use rayon::prelude::*;

use crate::{MetricError, error::check};

/// Samples and training images of one matrix product.
const SAMPLES: usize = 64;
const IMAGES: usize = 1_024;

/// The training image nearest to a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Nearest {
    /// Its row.
    pub index: usize,
    /// Its label.
    pub label: u32,
    /// ‖sample − image‖. Close to 0 it says that the sample is a copy.
    pub distance: f64,
}

/// A 1-nearest-neighbour classifier by Euclidean distance: no training, no weights, the same for everybody.
#[derive(Clone, Debug)]
pub struct NearestNeighbour<'a> {
    images: ArrayView2<'a, f32>,
    labels: &'a [u32],
    squared_norms: Array1<f32>,
}

impl<'a> NearestNeighbour<'a> {
    /// Remembers the training images and their labels.
    ///
    /// # Shapes
    /// `images` is [N, D], `labels` has N.
    ///
    /// # Errors
    /// If there are no images, if one is not finite, or if there is not one label for each.
    pub fn fit(images: ArrayView2<'a, f32>, labels: &'a [u32]) -> Result<Self, MetricError> {
        check(images, "the training set")?;
        if labels.len() != images.nrows() {
            return Err(MetricError::ShapeMismatch {
                what: "the number of labels",
                expected: images.nrows(),
                found: labels.len(),
            });
        }
        let squared_norms = images.rows().into_iter().map(|image| image.dot(&image)).collect();
        Ok(Self { images, labels, squared_norms })
    }

    /// The label of the nearest training image of each sample.
    ///
    /// # Shapes
    /// `samples` is [M, D].
    ///
    /// # Errors
    /// As [`nearest`](Self::nearest).
    pub fn predict(&self, samples: ArrayView2<f32>) -> Result<Vec<u32>, MetricError> {
        Ok(self.nearest(samples)?.into_iter().map(|nearest| nearest.label).collect())
    }

    /// The nearest training image of each sample; of equally near ones, up to rounding, the first.
    ///
    /// # Shapes
    /// `samples` is [M, D].
    ///
    /// # Errors
    /// If there are no samples, if one is not finite, or if they differ from the training images in D.
    pub fn nearest(&self, samples: ArrayView2<f32>) -> Result<Vec<Nearest>, MetricError> {
        check(samples, "the set of samples")?;
        if samples.ncols() != self.images.ncols() {
            return Err(MetricError::ShapeMismatch {
                what: "the dimension of the samples",
                expected: self.images.ncols(),
                found: samples.ncols(),
            });
        }
        let blocks: Vec<ArrayView2<f32>> = samples.axis_chunks_iter(Axis(0), SAMPLES).collect();
        Ok(blocks.into_par_iter().flat_map_iter(|samples| self.nearest_of_block(samples)).collect())
    }

    fn nearest_of_block(&self, samples: ArrayView2<f32>) -> Vec<Nearest> {
        // ‖s − x‖² = ‖s‖² + (‖x‖² − 2⟨s, x⟩), of which the first term is the same for all x.
        let mut best = vec![(f32::INFINITY, 0); samples.nrows()];
        let images = self.images.axis_chunks_iter(Axis(0), IMAGES);
        let norms = self.squared_norms.axis_chunks_iter(Axis(0), IMAGES);
        for (block, (images, norms)) in images.zip(norms).enumerate() {
            let products = samples.dot(&images.t());
            for (best, products) in best.iter_mut().zip(products.rows()) {
                for (i, (norm, product)) in norms.iter().zip(products).enumerate() {
                    let score = norm - 2.0 * product;
                    if score < best.0 {
                        *best = (score, block * IMAGES + i);
                    }
                }
            }
        }
        let nearest = |(sample, (_, index)): (ndarray::ArrayView1<f32>, (f32, usize))| {
            let squares = sample.iter().zip(self.images.row(index)).map(|(s, x)| f64::from(s - x).powi(2));
            Nearest { index, label: self.labels[index], distance: squares.sum::<f64>().sqrt() }
        };
        samples.rows().into_iter().zip(best).map(nearest).collect()
    }
}

#[cfg(test)]
mod tests {
    use immiscible_random::Key;
    use ndarray::{Array2, array};

    use super::*;

    fn normals(seed: u64, rows: usize, columns: usize) -> Array2<f32> {
        let mut values = vec![0.0; rows * columns];
        Key::new(seed).fill_normals(0, columns, &mut values);
        Array2::from_shape_vec((rows, columns), values).expect("rows * columns values")
    }

    #[test]
    fn points_in_the_plane() {
        let images = array![[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]];
        let labels = [5, 6, 7];
        let classifier = NearestNeighbour::fit(images.view(), &labels).expect("finite");
        let samples = array![[9.0, 1.0], [3.0, 4.0], [-1.0, 99.0]];
        assert_eq!(classifier.predict(samples.view()), Ok(vec![6, 5, 7]));
        let nearest = classifier.nearest(samples.view()).expect("finite");
        assert_eq!(nearest[1], Nearest { index: 0, label: 5, distance: 5.0 });
    }

    #[test]
    fn agrees_with_trying_every_pair() {
        let (images, samples) = (normals(0, 2_500, 12), normals(1, 150, 12));
        let labels: Vec<u32> = (0..2_500).map(|i| i % 10).collect();
        let found = NearestNeighbour::fit(images.view(), &labels).and_then(|nn| nn.nearest(samples.view()));
        for (sample, found) in samples.rows().into_iter().zip(found.expect("finite")) {
            let distances = images.rows().into_iter().map(|image| {
                image.iter().zip(sample).map(|(x, s)| f64::from(x - s).powi(2)).sum::<f64>().sqrt()
            });
            let (index, distance) =
                distances.enumerate().min_by(|a, b| a.1.total_cmp(&b.1)).expect("there are images");
            assert_eq!(found, Nearest { index, label: labels[index], distance });
        }
    }

    #[test]
    fn a_training_image_is_its_own_neighbour() {
        let images = normals(0, 1_100, 64);
        let labels: Vec<u32> = (0..1_100).collect();
        let nearest = NearestNeighbour::fit(images.view(), &labels).and_then(|nn| nn.nearest(images.view()));
        for (i, nearest) in nearest.expect("finite").into_iter().enumerate() {
            assert_eq!(nearest, Nearest { index: i, label: i as u32, distance: 0.0 });
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let images = normals(0, 3, 4);
        let error = NearestNeighbour::fit(images.view(), &[1, 2]).expect_err("a label is missing");
        assert_eq!(error.to_string(), "the number of labels is 2, but 3 is needed");
        let classifier = NearestNeighbour::fit(images.view(), &[1, 2, 3]).expect("finite");
        assert!(classifier.predict(normals(0, 3, 5).view()).is_err());
        assert!(classifier.predict(Array2::zeros((0, 4)).view()).is_err());
        let broken = Array2::from_elem((1, 4), f32::NAN);
        assert!(matches!(
            classifier.predict(broken.view()),
            Err(MetricError::NonFinite { row: 0, column: 0, .. })
        ));
    }
}
