//! Bids over whole rows of integers: for matrices so small that this is less work than making lists.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::__m512i;

use pulp::{Arch, Simd, WithSimd};
#[cfg(target_arch = "x86_64")]
use pulp::{NullaryFnOnce, x86::V4};

use super::{FREE, NotFinite, SPARE, costs::Costs, entry::sealed::Real, lists::Prices, scan};

/// Most columns that a matrix may have.
pub(super) const COLUMNS: usize = 1 << COLUMN_BITS;
/// The lowest bits of a key are its column, the others its cost.
const COLUMN_BITS: u32 = 10;
/// The least and the largest key: the numbers between them are in the same order as the floating-point numbers that
/// have their bits, of which more processors can find the least.
const KEYS: std::ops::RangeInclusive<u32> = f32::MIN_POSITIVE.to_bits()..=f32::MAX.to_bits();
/// Costs, and what prices have fallen by, end here, so that their sum is a key.
const MOST: u32 = ((*KEYS.end() - *KEYS.start()) >> COLUMN_BITS) / 2 - 1;
/// Units of cost in a standard deviation of a column. The largest cost is 127 of them above the row's least.
const UNITS: f64 = 8192.0;
/// Units by which rounding can move one cost against another.
const UNCERTAIN: u32 = 2;
/// Rows are filled up to a multiple of this, with the largest key, for which nobody bids. No vector is longer.
const WIDTH: usize = 16;

/// What the keys of the first columns are more than their costs.
const FIRST: [u32; WIDTH] = {
    let mut first = [*KEYS.start(); WIDTH];
    let mut k = 0;
    while k < WIDTH {
        first[k] += k as u32;
        k += 1;
    }
    first
};

/// The reduced costs of a matrix as integers, those of a row above its least.
///
/// A cost and its column are one number, so that the least of a row is known with its place, and is the first of equal
/// ones.
pub(super) struct Rounded {
    keys: Vec<u32>,
    /// How far the price of each column has fallen, in the place of a key's cost.
    fallen: Vec<u32>,
    stride: usize,
    starts: Vec<f64>,
    unit: f64,
}

impl Rounded {
    /// Rounds an [n, m] matrix to `sigma` / [`UNITS`], at today's prices, and finds its largest magnitude.
    ///
    /// # Errors
    /// An entry that is not finite.
    pub(super) fn new<T: Real>(
        arch: Arch,
        costs: &dyn Costs<T>,
        prices: &Prices<T>,
        sigma: f64,
    ) -> Result<(Self, f64), NotFinite> {
        let (rows, columns) = costs.dim();
        let stride = columns.next_multiple_of(WIDTH);
        let mut keys = vec![0; rows * stride];
        let scale = Some(T::of(UNITS / sigma)).filter(|scale| scale.finite()).unwrap_or_default();
        let mut largest = 0.0_f64;
        let mut units = vec![f32::INFINITY; stride];
        let buffer = &mut Vec::new();
        for (i, keys) in keys.chunks_exact_mut(stride).enumerate() {
            let row = costs.rows(i..i + 1, buffer);
            let (low, high) = arch
                .dispatch(Round { row, v: prices.narrow(), scale, units: &mut units, keys })
                .map_err(|column| NotFinite { row: i, column })?;
            largest = largest.max(low.into().abs()).max(high.into().abs());
            keys[columns..].fill(*KEYS.end());
        }
        let rounded = Self {
            keys,
            fallen: vec![0; stride],
            stride,
            starts: prices.as_slice().to_vec(),
            unit: sigma / UNITS,
        };
        Ok((rounded, largest))
    }

    /// [`super::Auction::bid`] with an ε in standard deviations.
    pub(super) fn bid(
        &mut self,
        arch: Arch,
        epsilon: f64,
        bids: usize,
        column_of: &mut [u32],
        row_of: &mut [u32],
    ) -> bool {
        let epsilon = (epsilon * UNITS).ceil() as u32;
        dispatch(arch, Bidding { rounded: self, epsilon, bids, column_of, row_of })
    }

    /// [`super::Auction::reduce`], after freeing the rows whose column is not their best. Pairs that come of it are tight.
    pub(super) fn reduce(&mut self, arch: Arch, hops: usize, column_of: &mut [u32], row_of: &mut [u32]) {
        dispatch(arch, Reduction { rounded: self, hops, column_of, row_of });
    }

    /// Lowers the prices to what bids have made of them.
    pub(super) fn lower<T: Real>(&self, prices: &mut Prices<T>) {
        for (column, (start, &fallen)) in self.starts.iter().zip(&self.fallen).enumerate() {
            prices.lower(column, start - self.unit * f64::from(fallen >> COLUMN_BITS));
        }
    }

    /// Makes a column more expensive by `step` units.
    #[inline(always)]
    fn fall(&mut self, column: usize, step: u32) {
        let fallen = &mut self.fallen[column];
        *fallen = ((*fallen >> COLUMN_BITS) + step).min(MOST) << COLUMN_BITS;
    }

    /// The least key of a row, and the second least.
    #[inline(always)]
    fn best(&self, least: impl Least, row: usize) -> (u32, u32) {
        least.two_of_sums(&self.keys[row * self.stride..(row + 1) * self.stride], &self.fallen)
    }
}

/// How a processor finds the best of a row.
trait Least: Copy {
    /// The least of the sums of keys and what prices have fallen by, and the second least. There are a multiple of [`WIDTH`].
    fn two_of_sums(self, keys: &[u32], fallen: &[u32]) -> (u32, u32);
}

/// As floating-point numbers, of which every processor with vectors can find the least.
#[derive(Clone, Copy)]
struct Floats<S>(S);

impl<S: Simd> Least for Floats<S> {
    #[inline(always)]
    fn two_of_sums(self, keys: &[u32], fallen: &[u32]) -> (u32, u32) {
        let Self(simd) = self;
        let (keys, fallen) = (S::as_simd_u32s(keys).0, S::as_simd_u32s(fallen).0);
        let mut least = simd.splat_f32s(f32::MAX);
        let mut second = least;
        for (&keys, &fallen) in keys.iter().zip(fallen) {
            let keys = simd.transmute_f32s_u32s(simd.add_u32s(keys, fallen));
            second = simd.min_f32s(second, simd.max_f32s(least, keys));
            least = simd.min_f32s(least, keys);
        }
        let best = simd.reduce_min_f32s(least);
        let others = simd.select_f32s(simd.equal_f32s(least, simd.splat_f32s(best)), second, least);
        (best.to_bits(), simd.reduce_min_f32s(others).to_bits())
    }
}

/// As integers, whose comparison takes a quarter of the time.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Integers(V4);

#[cfg(target_arch = "x86_64")]
impl Least for Integers {
    #[inline(always)]
    fn two_of_sums(self, keys: &[u32], fallen: &[u32]) -> (u32, u32) {
        let Self(v4) = self;
        let simd = v4.avx512f;
        let mut least = simd._mm512_set1_epi32(-1);
        let mut second = least;
        for (&keys, &fallen) in keys.as_chunks::<WIDTH>().0.iter().zip(fallen.as_chunks::<WIDTH>().0) {
            let keys = simd._mm512_add_epi32(pulp::cast(keys), pulp::cast(fallen));
            second = simd._mm512_min_epu32(second, simd._mm512_max_epu32(least, keys));
            least = simd._mm512_min_epu32(least, keys);
        }
        let fold = |(least, second): (__m512i, __m512i), (other_least, other_second)| {
            let seconds = simd._mm512_min_epu32(second, other_second);
            let second = simd._mm512_min_epu32(seconds, simd._mm512_max_epu32(least, other_least));
            (simd._mm512_min_epu32(least, other_least), second)
        };
        // Halves, quarters, eighths and sixteenths of the vectors change places.
        let halves = |x| simd._mm512_shuffle_i64x2::<0b01_00_11_10>(x, x);
        let quarters = |x| simd._mm512_shuffle_i64x2::<0b10_11_00_01>(x, x);
        let eighths = |x| simd._mm512_shuffle_epi32::<0b01_00_11_10>(x);
        let sixteenths = |x| simd._mm512_shuffle_epi32::<0b10_11_00_01>(x);
        let mut both = (least, second);
        both = fold(both, (halves(both.0), halves(both.1)));
        both = fold(both, (quarters(both.0), quarters(both.1)));
        both = fold(both, (eighths(both.0), eighths(both.1)));
        both = fold(both, (sixteenths(both.0), sixteenths(both.1)));
        let first = |x| pulp::cast::<__m512i, [u32; WIDTH]>(x)[0];
        (first(both.0), first(both.1))
    }
}

/// Work on the rows, which is inlined for each kind of processor.
trait Pass {
    type Output;

    fn run(self, least: impl Least) -> Self::Output;
}

/// Does the work with the instruction set that this processor has.
fn dispatch<P: Pass>(arch: Arch, pass: P) -> P::Output {
    match arch {
        #[cfg(target_arch = "x86_64")]
        Arch::V4(v4) => v4.vectorize(OfIntegers(v4, pass)),
        _ => arch.dispatch(OfFloats(pass)),
    }
}

struct OfFloats<P>(P);

impl<P: Pass> WithSimd for OfFloats<P> {
    type Output = P::Output;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> P::Output {
        self.0.run(Floats(simd))
    }
}

#[cfg(target_arch = "x86_64")]
struct OfIntegers<P>(V4, P);

#[cfg(target_arch = "x86_64")]
impl<P: Pass> NullaryFnOnce for OfIntegers<P> {
    type Output = P::Output;

    #[inline(always)]
    fn call(self) -> P::Output {
        self.1.run(Integers(self.0))
    }
}

/// Writes the keys of a row, and finds its least and its largest entry.
struct Round<'a, T> {
    row: &'a [T],
    v: &'a [T],
    scale: T,
    units: &'a mut [f32],
    keys: &'a mut [u32],
}

impl<T: Real> WithSimd for Round<'_, T> {
    type Output = Result<(T, T), usize>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        /// From here on all numbers are integers, and their lowest bits are the integers'.
        const INTEGERS: f32 = (1_u32 << 23) as f32;
        let Self { row, v, scale, units, keys } = self;
        let (low, high) = scan::Range(row).with_simd(simd)?;
        for ((&c, &v), r) in row.iter().zip(v).zip(&mut *units) {
            *r = (((c - low) - v) * scale).narrow();
        }
        let (units, _) = S::as_simd_f32s(units);
        let (keys, _) = S::as_mut_simd_u32s(keys);
        let mut least = simd.splat_f32s(f32::INFINITY);
        for &r in units {
            least = simd.min_f32s(least, r);
        }
        let least = simd.splat_f32s(simd.reduce_min_f32s(least));
        let (most, integers) = (simd.splat_f32s(MOST as f32), simd.splat_f32s(INTEGERS));
        let (bits, shift) = (simd.splat_u32s((1 << 23) - 1), simd.splat_u32s(COLUMN_BITS));
        let lanes = simd.splat_u32s(S::U32_LANES as u32);
        let (first, _) = S::as_simd_u32s(&FIRST);
        let mut column = first[0];
        for (keys, &r) in keys.iter_mut().zip(units) {
            let above = simd.min_f32s(simd.sub_f32s(r, least), most);
            let above = simd.and_u32s(simd.transmute_u32s_f32s(simd.add_f32s(above, integers)), bits);
            *keys = simd.add_u32s(simd.wrapping_dyn_shl_u32s(above, shift), column);
            column = simd.add_u32s(column, lanes);
        }
        Ok((low, high))
    }
}

/// The bids of a phase, with the instruction set that this processor has.
struct Bidding<'a> {
    rounded: &'a mut Rounded,
    epsilon: u32,
    bids: usize,
    column_of: &'a mut [u32],
    row_of: &'a mut [u32],
}

impl Pass for Bidding<'_> {
    type Output = bool;

    #[inline(always)]
    fn run(self, least: impl Least) -> bool {
        let Self { rounded, epsilon, mut bids, column_of, row_of } = self;
        for first in 0..column_of.len() {
            let mut row = first;
            while column_of[row] == FREE {
                if bids == 0 {
                    return false;
                }
                bids -= 1;
                let (first, second) = rounded.best(least, row);
                let column = column(first);
                rounded.fall(column, cost(second) - cost(first) + epsilon);
                match give(row, column, column_of, row_of) {
                    Some(held) => row = held,
                    None => break,
                }
            }
        }
        true
    }
}

/// The same without ε.
struct Reduction<'a> {
    rounded: &'a mut Rounded,
    hops: usize,
    column_of: &'a mut [u32],
    row_of: &'a mut [u32],
}

impl Pass for Reduction<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self, least: impl Least) {
        let Self { rounded, hops, column_of, row_of } = self;
        for (row, held) in column_of.iter_mut().enumerate() {
            if *held != FREE && column(rounded.best(least, row).0) != *held as usize {
                row_of[*held as usize] = FREE;
                *held = FREE;
            }
        }
        for first in 0..column_of.len() {
            let mut row = first;
            for _ in 0..hops {
                if column_of[row] != FREE {
                    break;
                }
                let (first, second) = rounded.best(least, row);
                let (column, ahead) = (column(first), cost(second) - cost(first));
                let taken = row_of[column] != FREE;
                if taken && (row_of[column] == SPARE || ahead <= UNCERTAIN) {
                    break;
                }
                rounded.fall(column, ahead.saturating_sub(UNCERTAIN));
                match give(row, column, column_of, row_of) {
                    Some(held) => row = held,
                    None => break,
                }
            }
        }
    }
}

#[inline(always)]
fn column(key: u32) -> usize {
    key as usize % COLUMNS
}

#[inline(always)]
fn cost(key: u32) -> u32 {
    key >> COLUMN_BITS
}

/// Gives a row a column; the row that held it.
#[inline(always)]
fn give(row: usize, column: usize, column_of: &mut [u32], row_of: &mut [u32]) -> Option<usize> {
    let held = std::mem::replace(&mut row_of[column], row as u32);
    column_of[row] = column as u32;
    if held == FREE {
        return None;
    }
    column_of[held as usize] = FREE;
    Some(held as usize)
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::{super::costs::Stored, *};

    fn numbers(rows: usize, columns: usize) -> Array2<f32> {
        Array2::from_shape_fn((rows, columns), |(i, j)| {
            (((i * 7919 + j * 104_729 + i * j) % 10_007) as f32 * 0.37).sin() + j as f32
        })
    }

    fn stored(cost: &Array2<f32>) -> Stored<'_, f32> {
        Stored { values: cost.as_slice().unwrap(), columns: cost.ncols() }
    }

    fn solved(arch: Arch, cost: &Array2<f32>) -> (Vec<u32>, Vec<u32>, Prices<f32>) {
        let (rows, columns) = cost.dim();
        let mut prices = Prices::new((0..columns).map(|j| j as f64).collect());
        let (mut rounded, _) = Rounded::new(arch, &stored(cost), &prices, 0.7).unwrap();
        let (mut column_of, mut row_of) = (vec![FREE; rows], vec![FREE; columns]);
        assert!(rounded.bid(arch, 0.02, 100 * rows, &mut column_of, &mut row_of));
        assert!(!column_of.contains(&FREE));
        rounded.reduce(arch, 8, &mut column_of, &mut row_of);
        rounded.lower(&mut prices);
        (column_of, row_of, prices)
    }

    #[test]
    fn pairs_are_each_others_and_tight() {
        for (rows, columns) in [(1, 2), (5, 5), (16, 17), (100, 130), (257, 257)] {
            let cost = numbers(rows, columns);
            let (column_of, row_of, prices) = solved(Arch::new(), &cost);
            let pairs: Vec<(usize, usize)> = column_of
                .iter()
                .enumerate()
                .filter(|(_, j)| **j != FREE)
                .map(|(i, &j)| (i, j as usize))
                .collect();
            assert!(2 * pairs.len() >= rows, "{rows} x {columns}: {}", pairs.len());
            assert_eq!(row_of.iter().filter(|&&i| i != FREE).count(), pairs.len());
            for (i, j) in pairs {
                assert_eq!(row_of[j] as usize, i);
                let reduced = |j: usize| f64::from(cost[(i, j)]) - prices.of(j);
                let least = (0..columns).map(reduced).fold(f64::INFINITY, f64::min);
                // A pair that stayed since the bids may be off by what rounding hides.
                assert!(reduced(j) - least <= f64::from(UNCERTAIN) * 0.7 / UNITS, "{i}, {j}");
            }
        }
    }

    #[test]
    fn every_instruction_set_finds_the_same() {
        let cost = numbers(90, 93);
        let (scalar, native) = (solved(Arch::Scalar, &cost), solved(Arch::new(), &cost));
        assert_eq!((scalar.0, scalar.1, scalar.2.as_slice()), (native.0, native.1, native.2.as_slice()));
    }

    #[test]
    fn costs_far_above_the_least_are_all_alike() {
        let mut cost = numbers(4, 40);
        cost[(2, 7)] = 3e30;
        let prices = Prices::new(vec![0.0; 40]);
        let (rounded, largest) = Rounded::new(Arch::new(), &stored(&cost), &prices, 1e-3).unwrap();
        assert!((largest - 3e30).abs() < 1e25, "{largest}");
        for (i, keys) in rounded.keys.chunks(rounded.stride).enumerate() {
            for (j, &key) in keys.iter().enumerate().take(40) {
                assert_eq!(column(key), j, "{i}");
                assert!(KEYS.contains(&(key + (MOST << COLUMN_BITS))), "{i}, {j}");
            }
        }
    }
}
