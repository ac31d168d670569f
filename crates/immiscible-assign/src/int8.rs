//! Products of images and noises that are rounded to 8 bits or less: with AVX2 about twice as many a second as in single
//! precision, where vectors are long.

use std::ops::Range;

use ndarray::{Array2, ArrayView2, Axis, parallel::prelude::*};
use pulp::{Arch, NullaryFnOnce};
use rayon::slice::ParallelSliceMut;

use crate::{
    auction::{Costs, twins},
    int16::Int16,
};

/// Noises are rounded to −63 … 63 …
const NOISES_IN: Integers = Integers { levels: 63.0, origin: 0.0 };
/// … and images to 1 … 127 around 64, so that the sum of four products of such bytes fits in 16 bits.
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
/// Bytes of a vector.
const WIDTH: usize = 32;
/// Vectors whose products are summed in 16 bits. Rows are filled up to a multiple of them.
const SHORT: usize = 2;

/// `scale` · ⟨x, n⟩ of every image and noise, both rounded to 8 bits with a scale of their own.
///
/// What is not finite makes all products of its image or noise not a number.
pub(crate) fn product(scale: f32, images: ArrayView2<f32>, noise: ArrayView2<f32>) -> Array2<f32> {
    let mut cost = Array2::zeros((images.nrows(), noise.nrows()));
    for (images, noise) in images.axis_chunks_iter(Axis(1), DEPTH).zip(noise.axis_chunks_iter(Axis(1), DEPTH))
    {
        let products = Products::part(scale, images, noise);
        if let Some(costs) = cost.as_slice_mut() {
            costs
                .par_chunks_mut((IMAGES_AT_A_TIME * noise.nrows()).max(1))
                .enumerate()
                .for_each(|(part, costs)| products.add(&products.x, part * IMAGES_AT_A_TIME, costs));
        }
    }
    cost
}

/// Costs −⟨x, n⟩ of images and noises in 8 bits. A matrix of them in single precision need not exist: up to some number they are
/// kept in 16 bits, and beyond only those are computed that are asked for.
pub struct Products {
    arch: Arch,
    scale: f32,
    x: Rounded,
    n: Rounded,
    /// The sum of each noise.
    sums: Vec<i32>,
    kept: Option<Int16>,
}

impl Products {
    /// None if rows are longer than what is summed as integers.
    pub(crate) fn new(scale: f32, images: ArrayView2<f32>, noise: ArrayView2<f32>) -> Option<Self> {
        (images.ncols() <= DEPTH).then(|| Self::part(scale, images, noise))
    }

    /// Computes all costs and keeps them, rounded to 16 bits, if there are at most `most` of them.
    pub(crate) fn keep(mut self, most: usize) -> Self {
        let (images, noises) = self.dim();
        if images * noises <= most {
            self.kept = Int16::of(images, noises, |rows, costs| {
                self.rows_of(&self.x, rows, costs);
            });
        }
        self
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
        Self { arch, scale, x, n, sums, kept: None }
    }

    /// `rows` from `first` on, in `buffer`.
    fn rows_of<'s>(&self, x: &Rounded, rows: Range<usize>, buffer: &'s mut Vec<f32>) -> &'s [f32] {
        buffer.clear();
        buffer.resize(rows.len() * self.sums.len(), 0.0);
        self.add(x, rows.start, buffer);
        buffer
    }
}

impl Costs<f32> for Products {
    fn dim(&self) -> (usize, usize) {
        self.dim()
    }

    fn rows<'s>(&'s self, rows: Range<usize>, buffer: &'s mut Vec<f32>) -> &'s [f32] {
        match &self.kept {
            Some(kept) => {
                buffer.clear();
                kept.read(rows, buffer);
                buffer
            }
            None => self.rows_of(&self.x, rows, buffer),
        }
    }

    fn selected<'s>(&'s self, rows: &[usize], buffer: &'s mut Vec<f32>) -> Vec<&'s [f32]> {
        let all = match &self.kept {
            Some(kept) => {
                buffer.clear();
                rows.iter().for_each(|&i| kept.read(i..i + 1, buffer));
                buffer
            }
            None => self.rows_of(&self.x.select(rows), 0..rows.len(), buffer),
        };
        all.chunks(self.sums.len().max(1)).collect()
    }

    fn of(&self, row: usize, column: usize) -> f32 {
        if let Some(kept) = &self.kept {
            return kept.get(row, column);
        }
        let product = dot(self.x.row(row), self.n.row(column));
        worth(self.scale * self.x.units[row], self.n.units[column], self.sums[column], product)
    }

    fn twins(&self) -> Vec<u32> {
        let content =
            |i: usize| self.x.row(i).iter().map(|&q| u32::from(q)).chain([self.x.units[i].to_bits()]);
        twins::firsts(self.x.units.len(), content)
    }

    fn are_made(&self) -> bool {
        self.kept.is_none()
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
        let stride = columns.next_multiple_of(SHORT * WIDTH).max(SHORT * WIDTH);
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
    /// Adds the products of the images from `first` on with all noises to their costs, one image after the other.
    fn add(&self, x: &Rounded, first: usize, costs: &mut [f32]) {
        let noises = self.sums.len();
        let last = x.units.len().saturating_sub(1);
        let mut products = [[0; NOISES_AT_A_TIME]; IMAGES];
        for block in (0..noises).step_by(NOISES_AT_A_TIME) {
            let block = block..noises.min(block + NOISES_AT_A_TIME);
            for (tile, costs) in costs.chunks_mut(IMAGES * noises).enumerate() {
                let row = |r: usize| (first + tile * IMAGES + r).min(last);
                let tile_x = std::array::from_fn(|r| x.row(row(r)));
                for j in block.clone().step_by(NOISES) {
                    let tile_n = std::array::from_fn(|c| self.n.row(j + c));
                    let tile = multiply(self.arch, tile_x, tile_n);
                    for (products, tile) in products.iter_mut().zip(tile) {
                        products[j - block.start..][..NOISES].copy_from_slice(&tile);
                    }
                }
                let (units, sums) = (&self.n.units[block.clone()], &self.sums[block.clone()]);
                for (r, (costs, products)) in costs.chunks_mut(noises).zip(&products).enumerate() {
                    let costs = &mut costs[block.clone()];
                    self.arch.dispatch(Worth {
                        scale: self.scale * x.units[row(r)],
                        units,
                        sums,
                        products,
                        costs,
                    });
                }
            }
        }
    }
}

/// Adds what products of integers stand for to the costs of an image.
struct Worth<'a> {
    scale: f32,
    units: &'a [f32],
    sums: &'a [i32],
    products: &'a [i32],
    costs: &'a mut [f32],
}

impl NullaryFnOnce for Worth<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let noises = self.units.iter().zip(self.sums).zip(self.products);
        for (cost, ((&unit, &sum), &product)) in self.costs.iter_mut().zip(noises) {
            *cost += worth(self.scale, unit, sum, product);
        }
    }
}

/// What a product of integers stands for, given the scale of its image, and the unit and the sum of its noise.
#[inline(always)]
fn worth(scale: f32, unit: f32, sum: i32, product: i32) -> f32 {
    scale * unit * (product - IMAGES_IN.origin as i32 * sum) as f32
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
        let [x0, x1, x2, x3] = x.map(|x| x.as_chunks::<{ SHORT * WIDTH }>().0);
        let [n0, n1] = n.map(|n| n.as_chunks::<{ SHORT * WIDTH }>().0);
        let ones: __m256i = pulp::cast([1_i16; WIDTH / 2]);
        let mut sums: [[__m256i; NOISES]; IMAGES] = [[pulp::cast([0_i32; WIDTH / 4]); NOISES]; IMAGES];
        // Iterators of one length each: an index would be checked in every turn.
        for (((x0, x1), (x2, x3)), (n0, n1)) in
            x0.iter().zip(x1).zip(x2.iter().zip(x3)).zip(n0.iter().zip(n1))
        {
            let (x, n): ([[__m256i; SHORT]; IMAGES], [[__m256i; SHORT]; NOISES]) =
                (pulp::cast([*x0, *x1, *x2, *x3]), pulp::cast([*n0, *n1]));
            for r in 0..IMAGES {
                for c in 0..NOISES {
                    // Two products in 16 bits, four, and then eight in 32.
                    let pairs = [
                        avx2._mm256_maddubs_epi16(x[r][0], n[c][0]),
                        avx2._mm256_maddubs_epi16(x[r][1], n[c][1]),
                    ];
                    let fours = avx2._mm256_add_epi16(pairs[0], pairs[1]);
                    sums[r][c] = avx2._mm256_add_epi32(sums[r][c], avx2._mm256_madd_epi16(fours, ones));
                }
            }
        }
        let mut products = Tile::default();
        for c in 0..NOISES {
            // The sums of neighbours, and of those: in the end every image has one sum in either half of the vector.
            let pairs = [
                avx2._mm256_hadd_epi32(sums[0][c], sums[1][c]),
                avx2._mm256_hadd_epi32(sums[2][c], sums[3][c]),
            ];
            let halves: [i32; 2 * IMAGES] = pulp::cast(avx2._mm256_hadd_epi32(pairs[0], pairs[1]));
            for r in 0..IMAGES {
                products[r][c] = halves[r] + halves[r + IMAGES];
            }
        }
        products
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
        const D: usize = 2 * SHORT * WIDTH;
        let x: Vec<u8> = (0..D).map(|k| [0, 1, 127, 126][k % 4]).collect();
        let n: Vec<u8> = (0..D).map(|k| [63, -63, 62, 5, 63_i8][k % 5] as u8).collect();
        let exact: i32 = x.iter().zip(&n).map(|(&x, &n)| i32::from(x) * i32::from(n as i8)).sum();
        let (zeros, images, noises) = ([0; D], [127; D], [-63_i8 as u8; D]);
        let [sum_x, sum_n] = [&x, &n].map(|v| v.iter().map(|&q| i32::from(q as i8)).sum::<i32>());
        for arch in [Arch::Scalar, Arch::new()] {
            let products = multiply(arch, [&x, &zeros, &images, &zeros], [&n, &noises]);
            assert_eq!(products, [[exact, -63 * sum_x], [0; 2], [127 * sum_n, -63 * 127 * D as i32], [0; 2]]);
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
