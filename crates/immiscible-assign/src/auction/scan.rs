//! The dense passes over one row of the cost matrix.

use pulp::{Arch, NullaryFnOnce, Simd, WithSimd};

#[cfg(target_arch = "x86_64")]
use super::compress::{Compress, Compressed};
use super::entry::sealed::Real;

/// Columns whose reduced costs are compared at a time.
pub(super) const BLOCK: usize = 32;
/// Columns of two blocks, whose minima are kept apart.
pub(super) const PAIR: usize = 2 * BLOCK;
/// Columns of one vector; a block is four of them, folded into their element-wise minimum.
const WIDTH: usize = 8;
/// Vectors of a block.
const VECTORS: usize = BLOCK / WIDTH;
/// Running minima from which the threshold is chosen.
pub(super) const LANES: usize = 2 * WIDTH;

/// The columns of a row whose reduced cost c − v is low, in the order of the columns.
pub(super) struct Shortlist<T> {
    pub(super) columns: Vec<u32>,
    pub(super) costs: Vec<T>,
    /// How many of the entries above are valid.
    pub(super) len: usize,
    folded: Vec<[T; WIDTH]>,
    hits: Vec<u8>,
    /// For processors that keep a row's reduced costs.
    reduced: Vec<[f32; PAIR]>,
}

impl<T: Real> Shortlist<T> {
    /// Space for rows of `columns` entries.
    pub(super) fn new(columns: usize) -> Self {
        // Two blocks, or 64 hits: what one turn of the loops takes.
        let blocks = columns.div_ceil(BLOCK).next_multiple_of(2);
        Self {
            columns: vec![0; columns + LANES],
            costs: vec![T::default(); columns + VECTORS],
            len: 0,
            folded: vec![[T::INFINITY; WIDTH]; blocks],
            hits: vec![0; (blocks * WIDTH).next_multiple_of(64)],
            reduced: vec![[f32::INFINITY; PAIR]; columns.div_ceil(PAIR)],
        }
    }

    /// [`Self::fill`] for a row that nobody has looked at yet; the threshold, and the largest magnitude of a cost.
    ///
    /// # Errors
    /// The position of the first cost that is not finite.
    pub(super) fn check_and_fill(
        &mut self,
        arch: Arch,
        row: &[T],
        v: &[T],
        shift: T,
        rank: usize,
    ) -> Result<(T, f64), usize> {
        if let Some((threshold, largest)) = self.compress(arch, row, v, shift, rank)
            && largest.is_finite()
        {
            return Ok((threshold, largest.into()));
        }
        let (low, high) = range(arch, row)?;
        let threshold = self.fill(arch, row, v, shift, rank);
        Ok((threshold, low.into().abs().max(high.into().abs())))
    }

    /// Fills the list with the columns whose (c − shift) − v is at most the returned threshold. The threshold is the
    /// `rank`-th of 16 minima over interleaved columns, so that about 16 (1/16 + 1/15 + … ) entries, `rank` terms,
    /// are below it, whatever the row's distribution; without ties never fewer than `rank`.
    pub(super) fn fill(&mut self, arch: Arch, row: &[T], v: &[T], shift: T, rank: usize) -> T {
        match self.compress(arch, row, v, shift, rank) {
            Some((threshold, _)) => threshold,
            None => arch.dispatch(Fill { row, v, shift, rank, list: self }),
        }
    }

    /// The same and the largest magnitude of a cost, with AVX-512 and in single precision.
    #[inline(always)]
    fn compress(&mut self, arch: Arch, row: &[T], v: &[T], shift: T, rank: usize) -> Option<(T, f32)> {
        #[cfg(target_arch = "x86_64")]
        if let (Arch::V4(v4), Some(singles), Some(v)) = (arch, T::singles(row), T::singles(v)) {
            let (reduced, columns) = (&mut self.reduced[..], &mut self.columns[..]);
            let compress = Compress { v4, row: singles, v, shift: shift.narrow(), rank, reduced, columns };
            let Compressed { len, threshold, magnitude } = v4.vectorize(compress);
            for (cost, &column) in self.costs.iter_mut().zip(&self.columns[..len]) {
                *cost = row[column as usize];
            }
            self.len = len;
            return Some((T::of(threshold.into()), magnitude));
        }
        None
    }
}

/// Asks the memory for a row, without waiting for it.
#[inline(always)]
pub(super) fn fetch<T>(row: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in row.chunks(64 / size_of::<T>()) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        #[expect(unsafe_code, reason = "a hint does not read, and there is no safe one")]
        // SAFETY: the address is that of the slice, and nothing is accessed.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = row;
}

/// Something near the cheapest costs of a row: subtracted from them, they lose nothing.
pub(super) fn near_cheapest<T: Real>(row: &[T]) -> T {
    let parts = [0, row.len() / 4, row.len() / 2, row.len() / 4 * 3];
    let some = parts.into_iter().flat_map(|first| row[first..].iter().take(LANES));
    some.fold(T::MAX, |low, &c| if c < low { c } else { low })
}

struct Fill<'a, T> {
    row: &'a [T],
    v: &'a [T],
    shift: T,
    rank: usize,
    list: &'a mut Shortlist<T>,
}

impl<T: Real> NullaryFnOnce for Fill<'_, T> {
    type Output = T;

    #[inline(always)]
    fn call(self) -> T {
        let Self { row, v, shift, rank, list } = self;
        let Shortlist { columns, costs, folded, hits, .. } = list;
        let (columns, costs, hits) = (&mut columns[..], &mut costs[..], &mut hits[..]);
        let lanes = fold(row, v, shift, folded);
        let threshold = of_rank(lanes, rank);
        for (hit, &least) in hits.iter_mut().zip(folded.as_flattened()) {
            *hit = (least <= threshold) as u8;
        }
        let mut len = 0;
        let (blocks, rest) = row.as_chunks::<BLOCK>();
        let (v_blocks, v_rest) = v.as_chunks::<BLOCK>();
        for (w, words) in hits.as_chunks::<64>().0.iter().enumerate() {
            let mut bits = 0;
            for (k, &word) in words.as_chunks::<8>().0.iter().enumerate() {
                // The product gathers the lowest bits of eight bytes in its highest byte.
                let byte = u64::from_le_bytes(word).wrapping_mul(0x0102_0408_1020_4080) >> 56;
                bits |= byte << (8 * k);
            }
            while bits != 0 {
                let hit = 64 * w + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let (block, lane) = (hit / WIDTH, hit % WIDTH);
                if let (Some(c), Some(v)) = (blocks.get(block), v_blocks.get(block)) {
                    let columns = &mut columns[len..len + VECTORS];
                    let costs = &mut costs[len..len + VECTORS];
                    let mut found = 0;
                    for g in 0..VECTORS {
                        let k = WIDTH * g + lane % WIDTH;
                        // Written anyway, and kept if it is low: no branch to predict.
                        let at = found % VECTORS;
                        (columns[at], costs[at]) = ((block * BLOCK + k) as u32, c[k]);
                        found += ((c[k] - shift) - v[k] <= threshold) as usize;
                    }
                    len += found;
                } else {
                    for k in (lane..rest.len()).step_by(WIDTH) {
                        if (rest[k] - shift) - v_rest[k] <= threshold {
                            (columns[len], costs[len]) = ((block * BLOCK + k) as u32, rest[k]);
                            len += 1;
                        }
                    }
                }
            }
        }
        sort_by_column(&mut columns[..len], &mut costs[..len]);
        list.len = len;
        threshold
    }
}

/// The minimum of every eighth column of each block, and of all blocks together, even and odd ones apart.
#[inline(always)]
fn fold<T: Real>(row: &[T], v: &[T], shift: T, folded: &mut [[T; WIDTH]]) -> [T; LANES] {
    let mut lanes = [[T::INFINITY; WIDTH]; 2];
    let ((row, row_rest), (v, v_rest)) = (row.as_chunks::<BLOCK>(), v.as_chunks::<BLOCK>());
    let ((pairs, single), (v_pairs, v_single)) = (row.as_chunks::<2>(), v.as_chunks::<2>());
    let (folded, _) = folded.as_chunks_mut::<2>();
    for ((c, v), folded) in pairs.iter().zip(v_pairs).zip(&mut *folded) {
        for half in 0..2 {
            folded[half] = lowest(&c[half], &v[half], shift);
            lanes[half] = lesser(folded[half], lanes[half]);
        }
    }
    if let Some(folded) = folded.get_mut(pairs.len()) {
        let mut half = 0;
        if let ([c], [v]) = (single, v_single) {
            folded[half] = lowest(c, v, shift);
            lanes[half] = lesser(folded[half], lanes[half]);
            half += 1;
        }
        if !row_rest.is_empty() {
            let (mut c, mut v) = ([T::INFINITY; BLOCK], [T::default(); BLOCK]);
            c[..row_rest.len()].copy_from_slice(row_rest);
            v[..v_rest.len()].copy_from_slice(v_rest);
            folded[half] = lowest(&c, &v, shift);
            lanes[half] = lesser(folded[half], lanes[half]);
        }
    }
    std::array::from_fn(|k| lanes[k / WIDTH][k % WIDTH])
}

#[inline(always)]
fn lowest<T: Real>(c: &[T; BLOCK], v: &[T; BLOCK], shift: T) -> [T; WIDTH] {
    let reduced =
        |g: usize| -> [T; WIDTH] { std::array::from_fn(|k| (c[WIDTH * g + k] - shift) - v[WIDTH * g + k]) };
    lesser(lesser(reduced(0), reduced(1)), lesser(reduced(2), reduced(3)))
}

#[inline(always)]
fn lesser<T: Real>(a: [T; WIDTH], b: [T; WIDTH]) -> [T; WIDTH] {
    std::array::from_fn(|k| if a[k] < b[k] { a[k] } else { b[k] })
}

/// The largest of those lanes that have fewer than `rank` smaller ones; finite.
#[inline(always)]
fn of_rank<T: Real>(lanes: [T; LANES], rank: usize) -> T {
    let mut smaller = [0_u32; LANES];
    for x in lanes {
        for k in 0..LANES {
            smaller[k] += (x < lanes[k]) as u32;
        }
    }
    let mut threshold = lanes[0];
    for k in 0..LANES {
        if smaller[k] == 0 {
            threshold = lanes[k];
        }
    }
    for k in 0..LANES {
        if smaller[k] < rank as u32 && lanes[k] > threshold {
            threshold = lanes[k];
        }
    }
    if threshold.finite() { threshold } else { T::MAX }
}

/// Eight columns of a block interleave with those of the next vector, so the entries are nearly sorted.
#[inline(always)]
fn sort_by_column<T: Real>(columns: &mut [u32], costs: &mut [T]) {
    for end in 1..columns.len() {
        let (column, cost) = (columns[end], costs[end]);
        let mut at = end;
        while at > 0 && columns[at - 1] > column {
            (columns[at], costs[at]) = (columns[at - 1], costs[at - 1]);
            at -= 1;
        }
        (columns[at], costs[at]) = (column, cost);
    }
}

/// The least and the largest entry of a row.
///
/// # Errors
/// The position of the first entry that is not finite.
pub(super) fn range<T: Real>(arch: Arch, row: &[T]) -> Result<(T, T), usize> {
    arch.dispatch(Range(row))
}

/// [`range`], for use inside of other passes.
pub(super) struct Range<'a, T>(pub(super) &'a [T]);

impl<T: Real> WithSimd for Range<'_, T> {
    type Output = Result<(T, T), usize>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let (vectors, rest) = T::lanes::<S>(self.0);
        let mut low = T::splat(simd, T::INFINITY);
        let mut high = T::splat(simd, T::of(f64::NEG_INFINITY));
        // x − x is 0, or NaN if x is not finite.
        let mut poison = T::splat(simd, T::default());
        for &x in vectors {
            low = T::min(simd, low, x);
            high = T::max(simd, high, x);
            poison = T::or(simd, poison, T::minus(simd, x, x));
        }
        let (mut low, mut high) = (T::least(simd, low), T::greatest(simd, high));
        let mut poison = T::sum(simd, poison);
        for &x in rest {
            low = if x < low { x } else { low };
            high = if x > high { x } else { high };
            poison = if x.finite() { poison } else { x };
        }
        if poison.finite() {
            Ok((low, high))
        } else {
            Err(self.0.iter().position(|x| !x.finite()).unwrap_or(0))
        }
    }
}

/// The reduced costs c − v of a row in double precision, which decisions about exact answers need.
pub(super) struct Reduced {
    /// Filled up with infinity to whole vectors of every instruction set.
    values: Vec<f64>,
}

/// What is least in a row.
pub(super) struct Least {
    pub(super) column: usize,
    pub(super) reduced: f64,
    /// The next least, infinite if there is no other column.
    pub(super) second: f64,
}

impl Reduced {
    /// Space for rows of `columns` entries.
    pub(super) fn new(columns: usize) -> Self {
        Self { values: vec![f64::INFINITY; columns.next_multiple_of(WIDTH)] }
    }

    /// The least of a row.
    pub(super) fn least<T: Real>(&mut self, arch: Arch, row: &[T], v: &[f64]) -> f64 {
        arch.dispatch(Reduce { row, v, values: &mut self.values })
    }

    /// The least and the second least, and the first column of the least.
    pub(super) fn two_least<T: Real>(&mut self, arch: Arch, row: &[T], v: &[f64]) -> Least {
        let reduced = self.least(arch, row, v);
        arch.dispatch(Second { reduced, values: &mut self.values })
    }
}

struct Reduce<'a, T> {
    row: &'a [T],
    v: &'a [f64],
    values: &'a mut [f64],
}

impl<T: Real> WithSimd for Reduce<'_, T> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let Self { row, v, values } = self;
        for ((value, &c), v) in values.iter_mut().zip(row).zip(v) {
            *value = c.into() - v;
        }
        least(simd, values)
    }
}

struct Second<'a> {
    reduced: f64,
    values: &'a mut [f64],
}

impl WithSimd for Second<'_> {
    type Output = Least;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Least {
        let Self { reduced, values } = self;
        // `first_true` tells whether there is one, but with AVX-512 pulp counts the lanes from the last one.
        let found = |&values: &S::f64s| {
            simd.first_true_m64s(simd.equal_f64s(values, simd.splat_f64s(reduced))) < S::F64_LANES
        };
        let first = S::as_simd_f64s(values).0.iter().position(found).unwrap_or(0) * S::F64_LANES;
        let lane = values[first..].iter().position(|&value| value == reduced).unwrap_or(0);
        let column = first + lane;
        values[column] = f64::INFINITY;
        Least { column, reduced, second: least(simd, values) }
    }
}

#[inline(always)]
fn least<S: Simd>(simd: S, values: &[f64]) -> f64 {
    let mut least = simd.splat_f64s(f64::INFINITY);
    for &values in S::as_simd_f64s(values).0 {
        least = simd.min_f64s(least, values);
    }
    simd.reduce_min_f64s(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|j| (((j * 7919 + seed * 104_729) % 10_007) as f32 * 0.37).sin()).collect()
    }

    #[test]
    fn the_list_is_every_column_below_the_threshold() {
        for n in [1, 2, 7, 31, 32, 33, 63, 64, 65, 100, 1_000] {
            for rank in [1, 6, 16] {
                let (row, v) = (numbers(n, 1), numbers(n, 2));
                let mut list = Shortlist::new(n);
                let threshold = list.fill(Arch::new(), &row, &v, row[0], rank);
                let expected: Vec<u32> =
                    (0..n).filter(|&j| (row[j] - row[0]) - v[j] <= threshold).map(|j| j as u32).collect();
                assert_eq!(list.columns[..list.len], expected, "{n}, {rank}");
                assert!(list.len >= rank.min(n), "{n}, {rank}: {}", list.len);
                for (&j, &c) in expected.iter().zip(&list.costs) {
                    assert_eq!(c, row[j as usize]);
                }
            }
        }
    }

    #[test]
    fn every_instruction_set_lists_the_same() {
        let (row, v) = (numbers(777, 3), numbers(777, 4));
        let (mut scalar, mut native) = (Shortlist::new(777), Shortlist::new(777));
        let low = scalar.fill(Arch::Scalar, &row, &v, 0.0, 9);
        assert_eq!(low, native.fill(Arch::new(), &row, &v, 0.0, 9));
        assert_eq!(scalar.columns[..scalar.len], native.columns[..native.len]);
    }

    #[test]
    fn every_instruction_set_finds_the_first_of_the_least() {
        for n in [1, 2, 7, 8, 9, 40, 777] {
            let (row, v) = (numbers(n, 3), vec![0.0; n]);
            for at in [0, n / 2, n - 1] {
                let mut row = row.clone();
                row[at..].iter_mut().step_by(3).for_each(|c| *c = -2.0);
                let second = if at + 3 < n {
                    -2.0
                } else {
                    row.iter()
                        .enumerate()
                        .filter(|(j, _)| *j != at)
                        .fold(f64::INFINITY, |least, (_, &c)| least.min(f64::from(c)))
                };
                for arch in [Arch::Scalar, Arch::new()] {
                    let least = Reduced::new(n).two_least(arch, &row, &v);
                    assert_eq!(
                        (least.column, least.reduced, least.second),
                        (at, -2.0, second),
                        "{n}, {arch:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn ranges_and_what_is_not_finite() {
        let mut row = numbers(75, 5);
        (row[17], row[74]) = (-9.0, 8.0);
        assert_eq!(range(Arch::new(), &row), Ok((-9.0, 8.0)));
        for (at, value) in [(0, f32::NAN), (40, f32::INFINITY), (74, f32::NEG_INFINITY)] {
            let mut row = row.clone();
            row[at] = value;
            assert_eq!(range(Arch::new(), &row), Err(at));
        }
    }
}
