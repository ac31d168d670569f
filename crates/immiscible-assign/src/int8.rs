//! Products of images and noises that are rounded to 8 bits or less: with AVX2 about twice, with VNNI more than three times as
//! many a second as in single precision, where vectors are long.

use std::ops::Range;

use ndarray::{Array2, ArrayView2, Axis};
use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;

use crate::{
    auction::{Costs, twins},
    int16::Int16,
    panels::{IMAGES, NOISES, PART, Panels, Word},
    tile::{self, Bytes, SHORT},
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

/// `scale` · ⟨x, n⟩ of every image and noise, both rounded to 8 bits with a scale of their own.
///
/// What is not finite makes products of its image or noise that are not finite.
pub(crate) fn product(scale: f32, images: ArrayView2<f32>, noise: ArrayView2<f32>) -> Array2<f32> {
    let mut cost = Array2::zeros((images.nrows(), noise.nrows()));
    for (images, noise) in images.axis_chunks_iter(Axis(1), DEPTH).zip(noise.axis_chunks_iter(Axis(1), DEPTH))
    {
        let products = Products::part(scale, images, noise);
        if let Some(costs) = cost.as_slice_mut() {
            costs.par_chunks_mut((PART * noise.nrows()).max(1)).enumerate().for_each(|(part, costs)| {
                let rows = part * PART..part * PART + costs.len() / noise.nrows();
                products.add(&products.x, rows, costs);
            });
        }
    }
    cost
}

/// Costs −⟨x, n⟩ of images and noises in 8 bits. A matrix of them in single precision need not exist: up to some number they are
/// kept in 16 bits, and beyond only those are computed that are asked for.
pub struct Products {
    bytes: Bytes,
    arch: Arch,
    scale: f32,
    x: Rounded<IMAGES>,
    n: Rounded<NOISES>,
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
        (self.x.panels.rows(), self.n.panels.rows())
    }

    /// The cost of an image and a noise.
    ///
    /// # Panics
    /// If there are not so many of them.
    pub fn cost(&self, image: usize, noise: usize) -> f32 {
        self.of(image, noise)
    }

    fn part(scale: f32, images: ArrayView2<f32>, noise: ArrayView2<f32>) -> Self {
        let (x, n) = (Rounded::of(images, IMAGES_IN), Rounded::of(noise, NOISES_IN));
        Self { bytes: Bytes::new(), arch: Arch::new(), scale, x, n, kept: None }
    }

    /// `rows` of images in `buffer`.
    fn rows_of<'s>(&self, x: &Rounded<IMAGES>, rows: Range<usize>, buffer: &'s mut Vec<f32>) -> &'s [f32] {
        buffer.clear();
        buffer.resize(rows.len() * self.n.panels.rows(), 0.0);
        self.add(x, rows, buffer);
        buffer
    }

    /// Adds the products of images with all noises to their costs, one image after the other.
    fn add(&self, x: &Rounded<IMAGES>, rows: Range<usize>, costs: &mut [f32]) {
        let noises = self.n.panels.rows();
        x.panels.tiles(
            &self.n.panels,
            rows.clone(),
            |x, n, sums| self.bytes.multiply(x, n, sums),
            |i, columns, products| {
                self.arch.dispatch(Worth {
                    scale: self.scale * x.units[i],
                    units: &self.n.units[columns.clone()],
                    sums: &self.n.sums[columns.clone()],
                    products,
                    costs: &mut costs[(i - rows.start) * noises..][columns],
                });
            },
        );
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
        all.chunks(self.n.panels.rows().max(1)).collect()
    }

    fn of(&self, row: usize, column: usize) -> f32 {
        if let Some(kept) = &self.kept {
            return kept.get(row, column);
        }
        let words = self.x.panels.row(row).zip(self.n.panels.row(column));
        let product = words.map(|(x, n)| tile::dot(x, n)).sum();
        worth(self.scale * self.x.units[row], self.n.units[column], self.n.sums[column], product)
    }

    fn twins(&self) -> Vec<u32> {
        let content = |i: usize| self.x.panels.row(i).chain([self.x.units[i].to_le_bytes()]);
        twins::firsts(self.x.panels.rows(), content)
    }

    fn are_made(&self) -> bool {
        self.kept.is_none()
    }
}

/// Rows in 8 bits.
pub(crate) struct Rounded<const N: usize> {
    pub(crate) panels: Panels<N>,
    /// What one unit of each row stands for.
    pub(crate) units: Vec<f32>,
    /// The sum of each row, its bytes taken for `i8`.
    pub(crate) sums: Vec<i32>,
}

impl Rounded<IMAGES> {
    /// None if rows are longer than what is summed as integers.
    pub(crate) fn of_images(rows: ArrayView2<f32>) -> Option<Self> {
        (rows.ncols() <= DEPTH).then(|| Self::of(rows, IMAGES_IN))
    }
}

impl Rounded<NOISES> {
    pub(crate) fn of_noises(rows: ArrayView2<f32>) -> Self {
        Self::of(rows, NOISES_IN)
    }
}

impl<const N: usize> Rounded<N> {
    /// Rounds each row to its own scale.
    fn of(rows: ArrayView2<f32>, range: Integers) -> Self {
        let arch = Arch::new();
        let depth = rows.ncols().div_ceil(4).next_multiple_of(SHORT);
        let mut panels = Panels::new(rows.nrows(), depth);
        let units = panels.pack(rows, |row, words| {
            let of_row = arch.dispatch(Round { row, words, range: &range });
            (words, of_row)
        });
        let (units, sums) = units.into_iter().unzip();
        Self { panels, units, sums }
    }

    fn select(&self, rows: &[usize]) -> Self {
        Self {
            panels: self.panels.select(rows),
            units: rows.iter().map(|&i| self.units[i]).collect(),
            sums: rows.iter().map(|&i| self.sums[i]).collect(),
        }
    }
}

/// Rounds a row; the result is its unit and its sum.
struct Round<'a> {
    row: &'a [f32],
    words: &'a mut [Word],
    range: &'a Integers,
}

impl NullaryFnOnce for Round<'_> {
    type Output = (f32, i32);

    #[inline(always)]
    fn call(self) -> (f32, i32) {
        const LANES: usize = 32;
        /// Numbers near this one are integers, and their lowest byte is the integer's.
        const INTEGERS: f32 = 1.5 * (1 << 23) as f32;
        let Self { row, words, range: Integers { levels, origin } } = self;
        // The bits of sizes are in the order of the sizes, with what is no number above all.
        let size = |x: &f32| x.abs().to_bits();
        let mut lanes = [0; LANES];
        let (chunks, rest) = row.as_chunks::<LANES>();
        for chunk in chunks {
            for k in 0..LANES {
                lanes[k] = lanes[k].max(size(&chunk[k]));
            }
        }
        let largest = lanes.into_iter().chain(rest.iter().map(size)).max().map_or(0.0, f32::from_bits);
        let inverse = if largest > 0.0 { levels / largest } else { 0.0 };
        let bytes = &mut words.as_flattened_mut()[..row.len()];
        for (byte, x) in bytes.iter_mut().zip(row) {
            *byte = (x * inverse + (INTEGERS + origin)).to_bits() as u8;
        }
        let sum = bytes.iter().map(|&byte| i32::from(byte as i8)).sum();
        (largest / levels, sum)
    }
}

/// Adds what the products of an image stand for to its costs.
struct Worth<'a> {
    scale: f32,
    /// The units of the noises.
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
pub(crate) fn worth(scale: f32, unit: f32, sum: i32, product: i32) -> f32 {
    scale * unit * (product - IMAGES_IN.origin as i32 * sum) as f32
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
