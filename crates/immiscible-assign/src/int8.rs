//! Products of images and noises that are rounded to 8 bits: with AVX2 about twice as many a second as in single precision.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, parallel::prelude::*};
use pulp::{Arch, NullaryFnOnce};
use rayon::slice::ParallelSliceMut;

/// Noises are rounded to −127 … 127 …
const NOISE_LEVELS: f32 = 127.0;
/// … and images to −63 … 63, stored with 64 added: a product of two such bytes and the next one fit in 16 bits together.
const IMAGE_LEVELS: f32 = 63.0;
const IMAGE_ORIGIN: i16 = 64;
/// Coordinates whose products are summed as integers; twice as many would still fit.
const DEPTH: usize = 1 << 16;
/// Images and noises of a tile, whose sums stay in registers.
const IMAGES: usize = 4;
const NOISES: usize = 2;
/// Noises that stay in the cache while all images of a part pass by.
const NOISES_AT_A_TIME: usize = 96;
/// Images of a part, which is one thread's work.
const IMAGES_AT_A_TIME: usize = 128;
/// Bytes of a vector. Rows are filled up to whole vectors.
const WIDTH: usize = 32;

/// `scale` · ⟨x, n⟩ of every image and noise, both rounded to 8 bits with a scale of their own.
///
/// What is not finite makes all products of its image or noise not a number.
pub(crate) fn product(scale: f32, images: ArrayView2<f32>, noise: ArrayView2<f32>) -> Array2<f32> {
    let mut cost = Array2::zeros((images.nrows(), noise.nrows()));
    let origin = |q: f32| (q as i16 + IMAGE_ORIGIN) as u8;
    for (images, noise) in images.axis_chunks_iter(Axis(1), DEPTH).zip(noise.axis_chunks_iter(Axis(1), DEPTH))
    {
        let x = Rounded::of(images, IMAGE_LEVELS, IMAGES, origin);
        let n = Rounded::of(noise, NOISE_LEVELS, NOISES, |q| q as i8);
        let arch = Arch::new();
        cost.axis_chunks_iter_mut(Axis(0), IMAGES_AT_A_TIME)
            .into_par_iter()
            .enumerate()
            .for_each(|(part, cost)| add_products(arch, scale, &x, &n, part * IMAGES_AT_A_TIME, cost));
    }
    cost
}

/// Rows in 8 bits.
struct Rounded<Q> {
    /// Rows of `stride`, filled up with zeros like the rows themselves.
    values: Vec<Q>,
    stride: usize,
    /// What one unit of each row stands for.
    units: Vec<f32>,
}

impl<Q: Copy + Default + Send + Sync> Rounded<Q> {
    /// Rounds each row to −`levels` … `levels`; as many rows as a multiple of `group`.
    fn of(rows: ArrayView2<f32>, levels: f32, group: usize, stored: impl Fn(f32) -> Q + Sync) -> Self {
        let (count, columns) = rows.dim();
        let stride = columns.next_multiple_of(WIDTH).max(WIDTH);
        let mut values = vec![Q::default(); count.next_multiple_of(group) * stride];
        let units = values
            .par_chunks_mut(stride)
            .zip(rows.axis_iter(Axis(0)))
            .map(|(values, row)| {
                let largest =
                    row.iter().fold(0.0, |largest, x| if x.abs() > largest { x.abs() } else { largest });
                let poison: f32 = row.iter().map(|x| x * 0.0).sum();
                let inverse = if largest > 0.0 { levels / largest } else { 0.0 };
                for (value, x) in values.iter_mut().zip(row) {
                    *value = stored((x * inverse).round_ties_even());
                }
                largest / levels + poison
            })
            .collect();
        Self { values, stride, units }
    }

    fn row(&self, i: usize) -> &[Q] {
        &self.values[i * self.stride..(i + 1) * self.stride]
    }
}

/// Adds the products of the images from `first` on with all noises.
fn add_products(
    arch: Arch,
    scale: f32,
    x: &Rounded<u8>,
    n: &Rounded<i8>,
    first: usize,
    mut cost: ArrayViewMut2<f32>,
) {
    let (images, noises) = cost.dim();
    let sums: Vec<i32> = (0..noises).map(|j| n.row(j).iter().map(|&q| i32::from(q)).sum::<i32>()).collect();
    for block in (0..noises).step_by(NOISES_AT_A_TIME) {
        for i in (0..images).step_by(IMAGES) {
            let tile_x = std::array::from_fn(|r| x.row(first + i + r));
            for j in (block..noises.min(block + NOISES_AT_A_TIME)).step_by(NOISES) {
                let tile_n = std::array::from_fn(|c| n.row(j + c));
                let products = multiply(arch, tile_x, tile_n);
                for (r, products) in products.iter().enumerate().take(images - i) {
                    for (c, product) in products.iter().enumerate().take(noises - j) {
                        let unit = x.units[first + i + r] * n.units[j + c];
                        let product = product - i32::from(IMAGE_ORIGIN) * sums[j + c];
                        cost[(i + r, j + c)] += scale * unit * product as f32;
                    }
                }
            }
        }
    }
}

type Products = [[i32; NOISES]; IMAGES];

/// Σ x n of the rows of a tile.
fn multiply(arch: Arch, x: [&[u8]; IMAGES], n: [&[i8]; NOISES]) -> Products {
    match arch {
        #[cfg(target_arch = "x86_64")]
        Arch::V3(v3) => v3.vectorize(Avx2 { avx2: v3.avx2, x, n }),
        #[cfg(target_arch = "x86_64")]
        Arch::V4(v4) => v4.vectorize(Avx2 { avx2: v4.avx2, x, n }),
        arch => arch.dispatch(Portable { x, n }),
    }
}

struct Portable<'a> {
    x: [&'a [u8]; IMAGES],
    n: [&'a [i8]; NOISES],
}

impl NullaryFnOnce for Portable<'_> {
    type Output = Products;

    #[inline(always)]
    fn call(self) -> Products {
        self.x.map(|x| {
            self.n.map(|n| x.iter().zip(n).map(|(&x, &n)| i32::from(i16::from(x) * i16::from(n))).sum())
        })
    }
}

#[cfg(target_arch = "x86_64")]
struct Avx2<'a> {
    avx2: pulp::core_arch::x86::Avx2,
    x: [&'a [u8]; IMAGES],
    n: [&'a [i8]; NOISES],
}

#[cfg(target_arch = "x86_64")]
impl NullaryFnOnce for Avx2<'_> {
    type Output = Products;

    #[inline(always)]
    fn call(self) -> Products {
        use std::arch::x86_64::__m256i;

        let Self { avx2, x, n } = self;
        let chunks = x[0].len() / WIDTH;
        let x = x.map(|x| &x.as_chunks::<WIDTH>().0[..chunks]);
        let n = n.map(|n| &n.as_chunks::<WIDTH>().0[..chunks]);
        let ones: __m256i = pulp::cast([1_i16; WIDTH / 2]);
        let mut sums: [[__m256i; NOISES]; IMAGES] = [[pulp::cast([0_i32; WIDTH / 4]); NOISES]; IMAGES];
        for k in 0..chunks {
            for r in 0..IMAGES {
                for c in 0..NOISES {
                    // Two products in 16 bits, then four in 32.
                    let pairs = avx2._mm256_maddubs_epi16(pulp::cast(x[r][k]), pulp::cast(n[c][k]));
                    sums[r][c] = avx2._mm256_add_epi32(sums[r][c], avx2._mm256_madd_epi16(pairs, ones));
                }
            }
        }
        sums.map(|sums| {
            sums.map(|sum| {
                let lanes: [i32; WIDTH / 4] = pulp::cast(sum);
                lanes.iter().sum()
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use immiscible_random::Key;

    use super::*;

    fn normals(seed: u64, rows: usize, columns: usize) -> Array2<f32> {
        let mut values = vec![0.0; rows * columns];
        Key::new(seed).fill_normals(0, columns, &mut values);
        Array2::from_shape_vec((rows, columns), values).expect("rows * columns values")
    }

    #[test]
    fn products_are_right_to_eight_bits() {
        for (b, m, d) in [(1, 1, 1), (3, 5, 31), (130, 99, 64), (6, 7, 1_000), (2, 3, DEPTH + 40)] {
            let (x, n) = (normals(1, b, d), normals(2, m, d) * 3.0);
            let expected = x.dot(&n.t());
            let found = product(-2.0, x.view(), n.view());
            // Errors of one unit in each factor are 1/63 and 1/127 of the largest, which is about 4 in 3,072 normals.
            let tolerance = 0.2 * (d as f32).sqrt() * 3.0;
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found + 2.0 * expected).abs() < tolerance, "{b}x{m}x{d}: {found}, {expected}");
            }
        }
    }

    #[test]
    fn every_instruction_set_multiplies_exactly() {
        let x: Vec<u8> = (0..WIDTH * 5).map(|k| [0, 1, 127, 126][k % 4]).collect();
        let n: Vec<i8> = (0..WIDTH * 5).map(|k| [127, -127, -128, 5, 127][k % 5]).collect();
        let exact: i32 = x.iter().zip(&n).map(|(&x, &n)| i32::from(x) * i32::from(n)).sum();
        let zeros = vec![0; WIDTH * 5];
        for arch in [Arch::Scalar, Arch::new()] {
            let products = multiply(arch, [&x, &zeros, &x, &zeros], [&n, &n]);
            assert_eq!(products, [[exact; 2], [0; 2], [exact; 2], [0; 2]]);
        }
    }

    #[test]
    fn what_is_not_finite_poisons_its_row_or_column() {
        let (mut x, n) = (normals(1, 5, 9), normals(2, 4, 9));
        x[(3, 2)] = f32::NAN;
        let found = product(1.0, x.view(), n.view());
        for ((i, _), value) in found.indexed_iter() {
            assert_eq!(value.is_nan(), i == 3);
        }
    }
}
