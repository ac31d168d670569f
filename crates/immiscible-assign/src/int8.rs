//! Products of images and noises that are rounded to 8 bits: with AVX2 1.8 times as many a second as in single precision, where
//! vectors are long.

use std::ops::Range;

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, parallel::prelude::*};
use pulp::{Arch, NullaryFnOnce};
use rayon::slice::ParallelSliceMut;

use crate::auction::{Costs, twins};

/// Noises are rounded to −127 … 127 …
const NOISES_IN: Integers = Integers { levels: 127.0, origin: 0.0 };
/// … and images to 1 … 127 around 64, so that the sum of two products of such bytes fits in 16 bits.
const IMAGES_IN: Integers = Integers { levels: 63.0, origin: 64.0 };

/// The integers that the numbers of a row become.
struct Integers {
    levels: f32,
    origin: f32,
}

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
    for (images, noise) in images.axis_chunks_iter(Axis(1), DEPTH).zip(noise.axis_chunks_iter(Axis(1), DEPTH))
    {
        let products = Products::part(scale, images, noise);
        cost.axis_chunks_iter_mut(Axis(0), IMAGES_AT_A_TIME)
            .into_par_iter()
            .enumerate()
            .for_each(|(part, cost)| products.add(&products.x, part * IMAGES_AT_A_TIME, cost));
    }
    cost
}

/// Costs −⟨x, n⟩ of images and noises in 8 bits, of which only those are computed that are asked for: a matrix of many of
/// them need not exist.
pub struct Products {
    arch: Arch,
    scale: f32,
    x: Rounded,
    n: Rounded,
    /// The sum of each noise.
    sums: Vec<i32>,
}

impl Products {
    /// None if rows are longer than what is summed as integers.
    pub(crate) fn new(scale: f32, images: ArrayView2<f32>, noise: ArrayView2<f32>) -> Option<Self> {
        (images.ncols() <= DEPTH).then(|| Self::part(scale, images, noise))
    }

    /// Images and noises.
    pub fn dim(&self) -> (usize, usize) {
        (self.x.units.len(), self.n.units.len())
    }

    /// The cost of an image and a noise.
    ///
    /// # Panics
    /// If there are not so many of them.
    pub fn cost(&self, image: usize, noise: usize) -> f32 {
        self.of(image, noise)
    }

    fn part(scale: f32, images: ArrayView2<f32>, noise: ArrayView2<f32>) -> Self {
        let arch = Arch::new();
        let x = Rounded::of(arch, images, IMAGES_IN, IMAGES);
        let n = Rounded::of(arch, noise, NOISES_IN, NOISES);
        let sums = (0..noise.nrows()).into_par_iter();
        let sums = sums.map(|j| n.row(j).iter().map(|&q| i32::from(q as i8)).sum()).collect();
        Self { arch, scale, x, n, sums }
    }

    /// `rows` from `first` on, in `buffer`.
    fn rows_of<'s>(&self, x: &Rounded, rows: Range<usize>, buffer: &'s mut Vec<f32>) -> &'s [f32] {
        let shape = (rows.len(), self.sums.len());
        buffer.clear();
        buffer.resize(shape.0 * shape.1, 0.0);
        if let Ok(cost) = ArrayViewMut2::from_shape(shape, buffer) {
            self.add(x, rows.start, cost);
        }
        buffer
    }
}

impl Costs<f32> for Products {
    fn dim(&self) -> (usize, usize) {
        self.dim()
    }

    fn rows<'s>(&'s self, rows: Range<usize>, buffer: &'s mut Vec<f32>) -> &'s [f32] {
        self.rows_of(&self.x, rows, buffer)
    }

    fn selected<'s>(&'s self, rows: &[usize], buffer: &'s mut Vec<f32>) -> Vec<&'s [f32]> {
        let all = self.rows_of(&self.x.select(rows), 0..rows.len(), buffer);
        all.chunks(self.sums.len().max(1)).collect()
    }

    fn of(&self, row: usize, column: usize) -> f32 {
        self.worth(&self.x, dot(self.x.row(row), self.n.row(column)), row, column)
    }

    fn twins(&self) -> Vec<u32> {
        let content =
            |i: usize| self.x.row(i).iter().map(|&q| u32::from(q)).chain([self.x.units[i].to_bits()]);
        twins::firsts(self.x.units.len(), content)
    }

    fn are_made(&self) -> bool {
        true
    }
}

/// Rows in 8 bits.
struct Rounded {
    /// Rows of `stride` bytes, filled up with zeros like the rows themselves. Noises are `i8` in two's complement.
    values: Vec<u8>,
    stride: usize,
    /// What one unit of each row stands for.
    units: Vec<f32>,
}

impl Rounded {
    /// Rounds each row to its own scale; as many rows as a multiple of `group`.
    fn of(arch: Arch, rows: ArrayView2<f32>, range: Integers, group: usize) -> Self {
        let (count, columns) = rows.dim();
        let stride = columns.next_multiple_of(WIDTH).max(WIDTH);
        let mut values = vec![0; count.next_multiple_of(group) * stride];
        let units = values
            .par_chunks_mut(stride)
            .zip(rows.axis_iter(Axis(0)))
            .map(|(values, row)| {
                let row = row.as_standard_layout();
                arch.dispatch(Round { row: row.as_slice().unwrap_or(&[]), values, range: &range })
            })
            .collect();
        Self { values, stride, units }
    }

    /// Some of the rows, filled up to whole tiles of images.
    fn select(&self, rows: &[usize]) -> Self {
        let mut values: Vec<u8> = rows.iter().flat_map(|&i| self.row(i)).copied().collect();
        values.resize(rows.len().next_multiple_of(IMAGES) * self.stride, 0);
        Self { values, stride: self.stride, units: rows.iter().map(|&i| self.units[i]).collect() }
    }

    fn row(&self, i: usize) -> &[u8] {
        &self.values[i * self.stride..(i + 1) * self.stride]
    }
}

/// Rounds a row; the result is its unit.
struct Round<'a> {
    row: &'a [f32],
    values: &'a mut [u8],
    range: &'a Integers,
}

impl NullaryFnOnce for Round<'_> {
    type Output = f32;

    #[inline(always)]
    fn call(self) -> f32 {
        const LANES: usize = 8;
        /// Numbers near this one are integers, and their lowest byte is the integer's.
        const INTEGERS: f32 = 1.5 * (1 << 23) as f32;
        let Self { row, values, range: Integers { levels, origin } } = self;
        let (mut largest, mut poison) = ([0.0_f32; LANES], [0.0_f32; LANES]);
        let (chunks, rest) = row.as_chunks::<LANES>();
        for chunk in chunks {
            for k in 0..LANES {
                let size = chunk[k].abs();
                largest[k] = if size > largest[k] { size } else { largest[k] };
                poison[k] += chunk[k] * 0.0;
            }
        }
        let mut largest = largest.into_iter().fold(0.0, f32::max);
        let mut poison: f32 = poison.iter().sum();
        for x in rest {
            largest = largest.max(x.abs());
            poison += x * 0.0;
        }
        let inverse = if largest > 0.0 { levels / largest } else { 0.0 };
        for (value, x) in values.iter_mut().zip(row) {
            *value = (x * inverse + (INTEGERS + origin)).to_bits() as u8;
        }
        largest / levels + poison
    }
}

impl Products {
    /// Adds the products of the images from `first` on with all noises.
    fn add(&self, x: &Rounded, first: usize, mut cost: ArrayViewMut2<f32>) {
        let (images, noises) = cost.dim();
        let last = x.units.len().saturating_sub(1);
        for block in (0..noises).step_by(NOISES_AT_A_TIME) {
            for i in (0..images).step_by(IMAGES) {
                let tile_x = std::array::from_fn(|r| x.row((first + i + r).min(last)));
                for j in (block..noises.min(block + NOISES_AT_A_TIME)).step_by(NOISES) {
                    let tile_n = std::array::from_fn(|c| self.n.row(j + c));
                    let products = multiply(self.arch, tile_x, tile_n);
                    for (r, products) in products.iter().enumerate().take(images - i) {
                        for (c, &product) in products.iter().enumerate().take(noises - j) {
                            cost[(i + r, j + c)] += self.worth(x, product, first + i + r, j + c);
                        }
                    }
                }
            }
        }
    }

    /// What a product of integers stands for.
    fn worth(&self, x: &Rounded, product: i32, row: usize, column: usize) -> f32 {
        let unit = x.units[row] * self.n.units[column];
        let product = product - IMAGES_IN.origin as i32 * self.sums[column];
        self.scale * unit * product as f32
    }
}

type Tile = [[i32; NOISES]; IMAGES];

/// Σ x n of the rows of a tile.
fn multiply(arch: Arch, x: [&[u8]; IMAGES], n: [&[u8]; NOISES]) -> Tile {
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
    n: [&'a [u8]; NOISES],
}

impl NullaryFnOnce for Portable<'_> {
    type Output = Tile;

    #[inline(always)]
    fn call(self) -> Tile {
        self.x.map(|x| self.n.map(|n| dot(x, n)))
    }
}

#[inline(always)]
fn dot(x: &[u8], n: &[u8]) -> i32 {
    x.iter().zip(n).map(|(&x, &n)| i32::from(i16::from(x) * i16::from(n as i8))).sum()
}

#[cfg(target_arch = "x86_64")]
struct Avx2<'a> {
    avx2: pulp::core_arch::x86::Avx2,
    x: [&'a [u8]; IMAGES],
    n: [&'a [u8]; NOISES],
}

#[cfg(target_arch = "x86_64")]
impl NullaryFnOnce for Avx2<'_> {
    type Output = Tile;

    #[inline(always)]
    fn call(self) -> Tile {
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
    use super::*;
    use crate::normals::normals;

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
        let n: Vec<u8> = (0..WIDTH * 5).map(|k| [127, -127, -128, 5, 127_i8][k % 5] as u8).collect();
        let exact: i32 = x.iter().zip(&n).map(|(&x, &n)| i32::from(x) * i32::from(n as i8)).sum();
        let zeros = vec![0; WIDTH * 5];
        for arch in [Arch::Scalar, Arch::new()] {
            let products = multiply(arch, [&x, &zeros, &x, &zeros], [&n, &n]);
            assert_eq!(products, [[exact; 2], [0; 2], [exact; 2], [0; 2]]);
        }
    }

    #[test]
    fn a_cost_is_the_same_however_it_is_asked_for() {
        let (x, n) = (normals(1, 130, 70), normals(2, 99, 70));
        let products = Products::new(-1.0, x.view(), n.view()).unwrap();
        let whole = product(-1.0, x.view(), n.view());
        let (mut buffer, mut other) = (Vec::new(), Vec::new());
        for rows in [0..130, 5..6, 127..130] {
            let first = rows.start;
            for (k, &cost) in products.rows(rows, &mut buffer).iter().enumerate() {
                assert_eq!(cost, whole[(first + k / 99, k % 99)]);
            }
        }
        for (row, &i) in products.selected(&[129, 3, 64], &mut other).iter().zip(&[129, 3, 64]) {
            assert_eq!(row, &whole.row(i).as_slice().unwrap());
            assert!((0..99).all(|j| products.cost(i, j) == row[j]));
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
