//! For every row the columns worth a bid, and a bound on all others.

use std::cmp::Ordering;

use pulp::Arch;
use rayon::prelude::*;

use crate::panels::PART;

use super::{
    NotFinite,
    costs::Costs,
    entry::sealed::Real,
    scan::{self, Shortlist},
    stock::{self, Stock},
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
    /// Where rows must be made to be read: many more columns of each, of which its list is made anew.
    stock: Option<Stock<T>>,
}

/// Matrices up to this size are done before other threads wake up.
const SMALL: usize = 1 << 18;
/// Parts into which the rows of larger ones are divided.
const PARTS: usize = 64;
/// Rows that are made at a time.
const MADE_AT_A_TIME: usize = PART;

/// The lists of some consecutive rows.
struct Slice<'a, T> {
    columns: &'a mut [u32],
    costs: &'a mut [T],
    lens: &'a mut [u32],
    bounds: &'a mut [f64],
    stock: Option<stock::Part<'a, T>>,
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

    /// No reduced cost c − v is below this if (c − shift) − v, in the costs' own precision, is not below `threshold`: the
    /// pass rounds c − shift, the price, and their difference.
    pub(super) fn bound(&self, threshold: T, shift: T) -> f64 {
        let threshold: f64 = threshold.into();
        threshold + shift.into() - 4.0 * T::ROUNDING * (threshold.abs() + 2.0 * self.largest)
    }
}

impl<T: Real> Lists<T> {
    /// Empty lists, to be made anew when someone asks.
    pub(super) fn empty(rows: usize, columns: usize, with_stock: bool) -> Self {
        // Longer lists cost more a bid, shorter ones more passes over rows, and those of large matrices come from memory.
        let (capacity, rank) = match columns {
            ..=768 => (32, 8),
            769..=2048 => (32, 12),
            _ => (64, 15),
        };
        Self {
            columns: vec![0; rows * capacity],
            costs: vec![T::default(); rows * capacity],
            lens: vec![0; rows],
            bounds: vec![f64::NEG_INFINITY; rows],
            capacity,
            rank,
            stock: with_stock.then(|| Stock::empty(rows, columns)),
        }
    }

    /// Makes the list of every row, and finds the largest magnitude of a cost.
    ///
    /// # Errors
    /// A cost that is not finite.
    pub(super) fn new(arch: Arch, all: &dyn Costs<T>, prices: &Prices<T>) -> Result<(Self, f64), NotFinite> {
        let (rows, columns) = all.dim();
        let mut lists = Self::empty(rows, columns, all.are_made());
        let Self { capacity, rank, .. } = lists;
        let part = if all.are_made() { MADE_AT_A_TIME } else { rows.div_ceil(PARTS).max(1) };
        let make = |(scratch, buffer): &mut (Shortlist<T>, [Vec<T>; 2]),
                    (number, mut slice): (usize, Slice<T>)| {
            let mut largest = 0.0_f64;
            let first = number * part;
            let [made, reduced] = buffer;
            let costs_of = all.rows(first..first + slice.lens.len(), made);
            for (k, row) in costs_of.chunks(columns).enumerate() {
                let i = first + k;
                let (low, high) = scan::range(arch, row).map_err(|column| NotFinite { row: i, column })?;
                largest = largest.max(low.into().abs()).max(high.into().abs());
                let slots = k * capacity..(k + 1) * capacity;
                let (columns, costs) = (&mut slice.columns[slots.clone()], &mut slice.costs[slots]);
                (slice.lens[k], slice.bounds[k]) =
                    fill(arch, row, prices, low, rank, i, scratch, columns, costs);
                if let Some(stock) = &mut slice.stock {
                    stock.fill(row, prices, low, k, reduced);
                }
            }
            Ok(largest)
        };
        let scratch = || (Shortlist::new(columns), [Vec::new(), Vec::new()]);
        let slices = lists.slices(part);
        let largest: Result<f64, NotFinite> = if rows * columns <= SMALL {
            let mut scratch = scratch();
            let mut largest = slices.into_iter().enumerate().map(|slice| make(&mut scratch, slice));
            largest.try_fold(0.0, |a, b| Ok(f64::max(a, b?)))
        } else {
            slices
                .into_par_iter()
                .enumerate()
                .map_init(scratch, make)
                .try_reduce(|| 0.0, |a, b| Ok(f64::max(a, b)))
        };
        Ok((lists, largest?))
    }

    /// The lists in parts of so many rows.
    fn slices(&mut self, rows: usize) -> Vec<Slice<'_, T>> {
        let columns = self.columns.chunks_mut(self.capacity * rows);
        let costs = self.costs.chunks_mut(self.capacity * rows);
        let (lens, bounds) = (self.lens.chunks_mut(rows), self.bounds.chunks_mut(rows));
        let mut stock = self.stock.as_mut().map(|stock| stock.parts(rows));
        let parts = columns.zip(costs).zip(lens.zip(bounds));
        parts
            .map(|((columns, costs), (lens, bounds))| {
                let stock = stock.as_mut().and_then(Iterator::next);
                Slice { columns, costs, lens, bounds, stock }
            })
            .collect()
    }

    /// Makes the list of a row anew, at the prices of today.
    #[inline(never)]
    pub(super) fn renew(
        &mut self,
        arch: Arch,
        all: &dyn Costs<T>,
        prices: &Prices<T>,
        i: usize,
        scratch: &mut Shortlist<T>,
        buffer: &mut Vec<T>,
    ) {
        // Costs near the cheapest ones lose nothing when it is subtracted from them.
        let shift = self.best(prices, i).map_or(T::default(), |best| T::of(best.cost));
        let slots = i * self.capacity..(i + 1) * self.capacity;
        let (columns, costs) = (&mut self.columns[slots.clone()], &mut self.costs[slots]);
        let Some(stock) = &mut self.stock else {
            let row = all.rows(i..i + 1, buffer);
            (self.lens[i], self.bounds[i]) =
                fill(arch, row, prices, shift, self.rank, i, scratch, columns, costs);
            return;
        };
        let mut listed = stock.list(prices, i, columns, costs);
        if listed.is_none() {
            stock.fill(all.rows(i..i + 1, buffer), prices, shift, i, &mut Vec::new());
            listed = stock.list(prices, i, columns, costs);
        }
        if let Some(listed) = listed {
            (self.lens[i], self.bounds[i]) = listed;
        }
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
    let bound = if len == row.len() { f64::INFINITY } else { prices.bound(threshold, shift) };
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
