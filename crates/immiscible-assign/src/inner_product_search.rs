use ndarray::{ArrayView2, Axis, parallel::prelude::*};
use pulp::{Arch, NullaryFnOnce};

use crate::{
    Precision,
    int8::{Rounded, worth},
    panels::{IMAGES, PART},
    product,
    tile::Bytes,
};

/// Noises that look for images together: in 8 bits they stay in a core's second cache, with the best image of each.
const TOGETHER: usize = 1024;

/// Images among which noises look for their own: that of the largest ⟨x, n⟩ + g, with a price g of each image. With
/// g = −|x|²/2 it is the nearest one; with the prices of semidiscrete transport every image gets its share of the noises.
///
/// Every image is compared with every noise. Their products are never kept.
pub struct InnerProductSearch<'a> {
    images: ArrayView2<'a, f32>,
    /// None in single precision.
    rounded: Option<Rounded<IMAGES>>,
}

/// What a noise found: the largest ⟨x, n⟩ + g, and the first image that has it.
type Found = (f32, u32);

const NOTHING: Found = (f32::NEG_INFINITY, 0);

impl<'a> InnerProductSearch<'a> {
    /// Prepares the images. With [`Precision::Int8`] images and noises are rounded to 8 bits each, unless rows are longer than
    /// 65,536; with another all is in single precision.
    ///
    /// # Shapes
    /// `images` is `[N, D]`.
    pub fn new(images: ArrayView2<'a, f32>, precision: Precision) -> Self {
        let rounded = (precision == Precision::Int8).then(|| Rounded::of_images(images)).flatten();
        Self { images, rounded }
    }

    /// For each noise the largest ⟨x, n⟩ + g, and the first image that has it: −∞ and 0 where there are no images, or where
    /// nothing is a number. The number of threads changes nothing.
    ///
    /// # Shapes
    /// `prices` is `[N]`, `noise` `[M, D]`, the result `[M]`.
    ///
    /// # Panics
    /// If there are not as many prices as images, or rows are not equally long.
    pub fn best(&self, prices: &[f32], noise: ArrayView2<f32>) -> Vec<Found> {
        assert_eq!(prices.len(), self.images.nrows(), "every image has a price");
        assert_eq!(noise.ncols(), self.images.ncols(), "images and noises are equally long");
        let together = noise.axis_chunks_iter(Axis(0), TOGETHER);
        let found = together.flat_map(|noise| match &self.rounded {
            Some(images) => in_bytes(images, prices, noise),
            None => self.in_single_precision(prices, noise),
        });
        found.collect()
    }

    fn in_single_precision(&self, prices: &[f32], noise: ArrayView2<f32>) -> Vec<Found> {
        let mut found = vec![NOTHING; noise.nrows()];
        let chunks = self.images.axis_chunks_iter(Axis(0), TOGETHER).zip(prices.chunks(TOGETHER));
        for (first, (images, prices)) in (0..).step_by(TOGETHER).zip(chunks) {
            let products = product::product(1.0, noise, images);
            found.par_iter_mut().zip(products.axis_iter(Axis(0))).for_each(|(found, products)| {
                for (image, (product, price)) in (first..).zip(products.iter().zip(prices)) {
                    let score = product + price;
                    if score > found.0 {
                        *found = (score, image);
                    }
                }
            });
        }
        found
    }
}

fn in_bytes(images: &Rounded<IMAGES>, prices: &[f32], noise: ArrayView2<f32>) -> Vec<Found> {
    let (arch, bytes, noises) = (Arch::new(), Bytes::new(), Rounded::of_noises(noise));
    let none = || (vec![f32::NEG_INFINITY; noise.nrows()], vec![0; noise.nrows()]);
    let starts: Vec<usize> = (0..prices.len()).step_by(PART).collect();
    let parts = starts.into_par_iter().fold(none, |(mut scores, mut found), start| {
        images.panels.tiles(
            &noises.panels,
            start..prices.len().min(start + PART),
            |x, n, sums| bytes.multiply(x, n, sums),
            |i, columns, products| {
                arch.dispatch(Better {
                    image: i as u32,
                    price: prices[i],
                    scale: images.units[i],
                    units: &noises.units[columns.clone()],
                    sums: &noises.sums[columns.clone()],
                    products,
                    scores: &mut scores[columns.clone()],
                    found: &mut found[columns],
                });
            },
        );
        (scores, found)
    });
    // Parts are in order from left to right, so the first of equals stays.
    let (scores, found) = parts.reduce(none, |mut left, right| {
        let right = right.0.into_iter().zip(right.1);
        for ((score, found), right) in left.0.iter_mut().zip(&mut left.1).zip(right) {
            if right.0 > *score {
                (*score, *found) = right;
            }
        }
        left
    });
    scores.into_iter().zip(found).collect()
}

/// Compares an image with noises whose products with it are given.
struct Better<'a> {
    image: u32,
    price: f32,
    /// The unit of the image.
    scale: f32,
    /// The units of the noises, and their sums.
    units: &'a [f32],
    sums: &'a [i32],
    products: &'a [i32],
    scores: &'a mut [f32],
    found: &'a mut [u32],
}

impl NullaryFnOnce for Better<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let noises = self.units.iter().zip(self.sums).zip(self.products);
        for ((score, found), ((&unit, &sum), &product)) in self.scores.iter_mut().zip(self.found).zip(noises)
        {
            let other = self.price + worth(self.scale, unit, sum, product);
            let better = other > *score;
            *score = if better { other } else { *score };
            *found = if better { self.image } else { *found };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normals::normals;
    use ndarray::{Array2, s};

    /// ⟨x, n⟩ + g of every noise and image.
    fn scores(x: &Array2<f32>, prices: &[f32], n: &Array2<f32>) -> Array2<f64> {
        let mut scores = n.mapv(f64::from).dot(&x.mapv(f64::from).t());
        for mut row in scores.rows_mut() {
            row.iter_mut().zip(prices).for_each(|(score, price)| *score += f64::from(*price));
        }
        scores
    }

    #[test]
    fn the_best_image_is_found_in_either_precision() {
        for (images, noises, d) in [(1, 3, 5), (700, 1500, 40), (2100, 70, 300), (13, 1, 1)] {
            let (x, n) = (normals(1, images, d), normals(2, noises, d));
            let prices: Vec<f32> = (0..images).map(|j| (j % 17) as f32 * 0.3 - 2.0).collect();
            let all = scores(&x, &prices, &n);
            let tolerances = [(Precision::F32, 1e-4), (Precision::Int8, 0.15 * (d as f64).sqrt())];
            for (precision, tolerance) in tolerances {
                let found = InnerProductSearch::new(x.view(), precision).best(&prices, n.view());
                assert_eq!(found.len(), noises);
                for ((score, image), all) in found.into_iter().zip(all.rows()) {
                    let best = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    assert!((f64::from(score) - best).abs() < tolerance, "{precision:?}: {score}, {best}");
                    assert!(best - all[image as usize] < tolerance, "{precision:?}: image {image}");
                }
            }
        }
    }

    #[test]
    fn of_equal_images_the_first_is_found_by_any_number_of_threads() {
        let mut x = normals(1, 900, 30);
        let half = x.slice(s![..450, ..]).to_owned();
        x.slice_mut(s![450.., ..]).assign(&half);
        let n = normals(2, 1100, 30);
        for precision in [Precision::F32, Precision::Int8] {
            let search = InnerProductSearch::new(x.view(), precision);
            let with = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| search.best(&[0.0; 900], n.view()))
            };
            let found = with(3);
            assert!(found.iter().all(|(_, image)| *image < 450));
            assert_eq!(found, with(1));
        }
    }

    #[test]
    fn nothing_is_found_where_nothing_is() {
        let none = Array2::zeros((0, 4));
        let n = normals(2, 2, 4);
        for precision in [Precision::F32, Precision::Int8] {
            assert_eq!(InnerProductSearch::new(none.view(), precision).best(&[], n.view()), [NOTHING; 2]);
            assert_eq!(InnerProductSearch::new(n.view(), precision).best(&[0.0; 2], none.view()), []);
        }
    }
}
