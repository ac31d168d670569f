//! Products of images and noises in single precision.

use ndarray::{Array2, ArrayView2, Axis, linalg::general_mat_mul};
use pulp::bytemuck::cast_slice;
use rayon::prelude::*;

use crate::{
    cost::by_blocks,
    panels::{IMAGES, NOISES, PART, Panels, Word},
    tile::Floats,
};

/// Images of one product by the library: enough of them to be worth the noises' repacking. It does not depend on the number
/// of threads, so neither do the results.
const BLOCK: usize = 256;
/// Coordinates that are packed at a time: a thousand noises of so many stay near to the cores.
const DEPTH: usize = 1024;

/// `scale` · ⟨x, n⟩ of every image and noise.
pub(crate) fn product(scale: f32, images: ArrayView2<f32>, noise: ArrayView2<f32>) -> Array2<f32> {
    match Floats::new() {
        Some(floats) => packed(floats, scale, images, noise),
        None => by_blocks(BLOCK, images, noise, |images, mut cost| {
            general_mat_mul(scale, &images, &noise.t(), 0.0, &mut cost);
        }),
    }
}

fn packed(floats: Floats, scale: f32, images: ArrayView2<f32>, noise: ArrayView2<f32>) -> Array2<f32> {
    let (rows, noises) = (images.nrows(), noise.nrows());
    let mut cost = vec![0.0; rows * noises];
    let depth = images.ncols().div_ceil(images.ncols().div_ceil(DEPTH).max(1)).max(1);
    let (mut x, mut n) = (Panels::<IMAGES>::new(rows, depth), Panels::<NOISES>::new(noises, depth));
    let chunks = images.axis_chunks_iter(Axis(1), depth).zip(noise.axis_chunks_iter(Axis(1), depth));
    for (images, noise) in chunks {
        x.pack(images, copied);
        n.pack(noise, copied);
        cost.par_chunks_mut((PART * noises).max(1)).enumerate().for_each(|(part, cost)| {
            let rows = part * PART..part * PART + cost.len() / noises;
            let multiply = |x: &[_], n: &[_], sums: &mut _| floats.multiply(x, n, sums);
            x.tiles(&n, rows.clone(), multiply, |i, columns, sums| {
                let cost = &mut cost[(i - rows.start) * noises..][columns];
                cost.iter_mut().zip(sums).for_each(|(cost, sum)| *cost += scale * sum);
            });
        });
    }
    Array2::from_shape_vec((rows, noises), cost).unwrap_or_default()
}

/// A row is read from memory in one go; its numbers are put in their places from there.
fn copied<'a>(row: &'a [f32], words: &'a mut [Word]) -> (&'a [Word], ()) {
    let words = &mut words[..row.len()];
    words.copy_from_slice(cast_slice(row));
    (words, ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normals::normals;

    #[test]
    fn products_are_right_to_rounding() {
        for (b, m, d) in [(0, 0, 0), (1, 1, 1), (3, 5, 0), (13, 40, 769), (200, 33, 24), (7, 70, 2_000)] {
            let (x, n) = (normals(1, b, d), normals(2, m, d));
            let expected = x.mapv(f64::from).dot(&n.mapv(f64::from).t()) * -2.0;
            let found = product(-2.0, x.view(), n.view());
            assert_eq!(found.dim(), (b, m));
            for (&found, &expected) in found.iter().zip(&expected) {
                let error = (f64::from(found) - expected).abs();
                assert!(error < 1e-5 * (1.0 + d as f64).sqrt(), "{b}x{m}x{d}: {found}, {expected}");
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let (x, n) = (normals(1, 500, 800), normals(2, 300, 800));
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| product(1.0, x.view(), n.view()))
        };
        assert_eq!(with(1), with(3));
    }
}
