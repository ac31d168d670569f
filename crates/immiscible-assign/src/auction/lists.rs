//! For every row the columns worth a bid, and a bound on all others.

use std::cmp::Ordering;

use ndarray::{ArrayView2, Axis};
use pulp::Arch;
use rayon::prelude::*;

use super::{
    NotFinite,
    entry::sealed::Real,
    scan::{self, Shortlist},
};

/// The cheapest columns of every row, at the prices of the time when its list was made.
///
/// Prices only ever fall, so the reduced cost c − v of a column only ever rises: what was left out stays at or above
/// the row's bound, and a best column below the bound is the best of all.
pub(super) struct Lists<T> {
    columns: Vec<u32>,
    costs: Vec<T>,
    lens: Vec<u32>,
    bounds: Vec<f64>,
    capacity: usize,
    rank: usize,
}

/// Matrices up to this size are done before other threads wake up.
const SMALL: usize = 1 << 18;
/// Parts into which the rows of larger ones are divided.
const PARTS: usize = 64;

/// The lists of some consecutive rows.
struct Slice<'a, T> {
    columns: &'a mut [u32],
    costs: &'a mut [T],
    lens: &'a mut [u32],
    bounds: &'a mut [f64],
}

/// The best column of a row.
#[derive(Clone, Copy)]
pub(super) struct Best {
    pub(super) column: u32,
    /// Its cost c.
    pub(super) cost: f64,
    /// Its reduced cost c − v.
    pub(super) reduced: f64,
    /// The reduced cost of the second best, or a lower bound of it; not below `reduced`.
    pub(super) second: f64,
    /// Whether no column of the row can be better. Only rounding can make this false.
    pub(super) certain: bool,
}

/// Prices, in double precision for decisions and in the costs' own for the passes over whole rows.
pub(super) struct Prices<T> {
    wide: Vec<f64>,
    narrow: Vec<T>,
    largest: f64,
}

impl<T: Real> Prices<T> {
    pub(super) fn new(wide: Vec<f64>) -> Self {
        let narrow = wide.iter().map(|&v| T::of(v)).collect();
        let largest = wide.iter().fold(0.0, |largest: f64, v| largest.max(v.abs()));
        Self { wide, narrow, largest }
    }

    #[inline(always)]
    pub(super) fn of(&self, column: usize) -> f64 {
        self.wide[column]
    }

    #[inline(always)]
    pub(super) fn lower(&mut self, column: usize, to: f64) {
        self.wide[column] = to;
        self.narrow[column] = T::of(to);
        self.largest = self.largest.max(to.abs());
    }

    pub(super) fn as_slice(&self) -> &[f64] {
        &self.wide
    }

    pub(super) fn narrow(&self) -> &[T] {
        &self.narrow
    }
}

impl<T: Real> Lists<T> {
    /// Empty lists, to be made anew when someone asks.
    pub(super) fn empty(rows: usize, columns: usize) -> Self {
        // Longer lists cost more a bid, shorter ones more passes over rows, and those of large matrices come from memory.
        let (capacity, rank) = if columns <= 2048 { (32, 8) } else { (64, 15) };
        Self {
            columns: vec![0; rows * capacity],
            costs: vec![T::default(); rows * capacity],
            lens: vec![0; rows],
            bounds: vec![f64::NEG_INFINITY; rows],
            capacity,
            rank,
        }
    }

    /// Makes the list of every row, and finds the largest magnitude in the matrix.
    ///
    /// # Errors
    /// An entry that is not finite.
    pub(super) fn new(arch: Arch, cost: ArrayView2<T>, prices: &Prices<T>) -> Result<(Self, f64), NotFinite> {
        let (rows, columns) = cost.dim();
        let mut lists = Self::empty(rows, columns);
        let Self { capacity, rank, .. } = lists;
        let part = rows.div_ceil(PARTS).max(1);
        let make = |scratch: &mut Shortlist<T>, (number, slice): (usize, Slice<T>)| {
            let mut largest = 0.0_f64;
            let slots = slice.columns.chunks_mut(capacity).zip(slice.costs.chunks_mut(capacity));
            for (k, ((listed, costs), (len, bound))) in
                slots.zip(slice.lens.iter_mut().zip(slice.bounds)).enumerate()
            {
                let i = number * part + k;
                let row = row(cost, i);
                let (low, high) = scan::range(arch, row).map_err(|column| NotFinite { row: i, column })?;
                largest = largest.max(low.into().abs()).max(high.into().abs());
                (*len, *bound) = fill(arch, row, prices, low, rank, i, scratch, listed, costs);
            }
            Ok(largest)
        };
        let scratch = || Shortlist::new(columns);
        let slice = |(((columns, costs), lens), bounds)| Slice { columns, costs, lens, bounds };
        let largest: Result<f64, NotFinite> = if rows * columns <= SMALL {
            let all = (&mut lists.columns[..], &mut lists.costs[..]);
            make(&mut scratch(), (0, slice(((all, &mut lists.lens[..]), &mut lists.bounds[..]))))
        } else {
            lists
                .columns
                .par_chunks_mut(capacity * part)
                .zip(lists.costs.par_chunks_mut(capacity * part))
                .zip(lists.lens.par_chunks_mut(part))
                .zip(lists.bounds.par_chunks_mut(part))
                .map(slice)
                .enumerate()
                .map_init(scratch, make)
                .try_reduce(|| 0.0, |a, b| Ok(f64::max(a, b)))
        };
        Ok((lists, largest?))
    }

    /// Makes the list of a row anew, at the prices of today.
    #[inline(never)]
    pub(super) fn renew(
        &mut self,
        arch: Arch,
        cost: ArrayView2<T>,
        prices: &Prices<T>,
        i: usize,
        scratch: &mut Shortlist<T>,
    ) {
        let slots = i * self.capacity..(i + 1) * self.capacity;
        // Costs near the cheapest ones lose nothing when it is subtracted from them.
        let shift = self.best(prices, i).map_or(T::default(), |best| T::of(best.cost));
        (self.lens[i], self.bounds[i]) = fill(
            arch,
            row(cost, i),
            prices,
            shift,
            self.rank,
            i,
            scratch,
            &mut self.columns[slots.clone()],
            &mut self.costs[slots],
        );
    }

    /// The columns in the list of row i, with their costs.
    #[inline(always)]
    pub(super) fn of(&self, i: usize) -> impl Iterator<Item = (usize, f64)> {
        let slots = i * self.capacity..i * self.capacity + self.lens[i] as usize;
        self.columns[slots.clone()].iter().zip(&self.costs[slots]).map(|(&j, &c)| (j as usize, c.into()))
    }

    /// No reduced cost outside the list of row i is below this.
    #[inline(always)]
    pub(super) fn bound(&self, i: usize) -> f64 {
        self.bounds[i]
    }

    /// The best of the list, the first of equal ones. None if a row has no columns.
    #[inline(always)]
    pub(super) fn best(&self, prices: &Prices<T>, i: usize) -> Option<Best> {
        let slots = i * self.capacity..i * self.capacity + self.lens[i] as usize;
        let (columns, costs) = (&self.columns[slots.clone()], &self.costs[slots]);
        let (mut best, mut second, mut slot) = (f64::INFINITY, f64::INFINITY, usize::MAX);
        for (k, (&j, &c)) in columns.iter().zip(costs).enumerate() {
            let reduced = c.into() - prices.of(j as usize);
            // Selections in place of branches, which nobody could predict.
            let worse = if reduced > best { reduced } else { best };
            second = if worse < second { worse } else { second };
            slot = if reduced < best { k } else { slot };
            best = if reduced < best { reduced } else { best };
        }
        let bound = self.bounds[i];
        let second = if second < bound { second } else { bound };
        Some(Best {
            column: *columns.get(slot)?,
            cost: costs[slot].into(),
            reduced: best,
            second: if second > best { second } else { best },
            certain: best <= bound,
        })
    }
}

/// Row i; the caller has made sure that rows are contiguous.
#[inline(always)]
pub(super) fn row<T>(cost: ArrayView2<'_, T>, i: usize) -> &[T] {
    cost.index_axis_move(Axis(0), i).to_slice().unwrap_or(&[])
}

/// Lists the cheapest columns of a row; their number, and the bound on all others.
#[expect(clippy::too_many_arguments, reason = "the parts of a row's list are borrowed one by one")]
fn fill<T: Real>(
    arch: Arch,
    row: &[T],
    prices: &Prices<T>,
    shift: T,
    rank: usize,
    i: usize,
    found: &mut Shortlist<T>,
    columns: &mut [u32],
    costs: &mut [T],
) -> (u32, f64) {
    let mut threshold = found.fill(arch, row, &prices.narrow, shift, rank);
    let mut len = found.len;
    if len > columns.len() {
        (len, threshold) = shorten(found, &prices.narrow, shift, columns.len(), i);
    }
    columns[..len].copy_from_slice(&found.columns[..len]);
    costs[..len].copy_from_slice(&found.costs[..len]);
    let bound = if len == row.len() {
        f64::INFINITY
    } else {
        // The pass rounds c − shift, the price, and their difference.
        let threshold: f64 = threshold.into();
        let rounding = 4.0 * T::ROUNDING * (threshold.abs() + 2.0 * prices.largest);
        threshold + shift.into() - rounding
    };
    (len as u32, bound)
}

/// Keeps the `capacity` best of a list that ties have made too long; the least reduced cost that was left out. Of equal
/// ones each row keeps others, lest all rows compete for the same few: row i those from column i on.
#[cold]
fn shorten<T: Real>(found: &mut Shortlist<T>, v: &[T], shift: T, capacity: usize, i: usize) -> (usize, T) {
    let mut entries: Vec<(T, u32, T)> = found.columns[..found.len]
        .iter()
        .zip(&found.costs)
        .map(|(&j, &c)| ((c - shift) - v[j as usize], j, c))
        .collect();
    let from_i = |j: u32| ((j as usize) < i, j);
    let (kept, omitted, _) = entries.select_nth_unstable_by(capacity, |a, b| {
        a.0.partial_cmp(&b.0).unwrap_or(Ordering::Equal).then(from_i(a.1).cmp(&from_i(b.1)))
    });
    kept.sort_unstable_by_key(|entry| entry.1);
    for (k, &(_, column, cost)) in kept.iter().enumerate() {
        (found.columns[k], found.costs[k]) = (column, cost);
    }
    (capacity, omitted.0)
}
