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
    /// The largest magnitude of a cost in the rows that have a list.
    largest: f64,
    /// Whether a row has no list because of costs that this type cannot add.
    unfit: bool,
    /// Where rows must be made to be read: many more columns of each, of which its list is made anew.
    stock: Option<Stock<T>>,
}

/// Columns of a list that are compared side by side. Lists are filled up to a multiple of it with costs of infinity.
const CHAINS: usize = 4;
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
    /// Lists that are made when someone asks: those of late rows at lower prices, which saves making some of them anew.
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
            largest: 0.0,
            unfit: false,
            stock: with_stock.then(|| Stock::empty(rows, columns)),
        }
    }

    /// Makes the list of every row, on as many threads as there are.
    ///
    /// # Errors
    /// A cost that is not finite.
    pub(super) fn new(arch: Arch, all: &dyn Costs<T>, prices: &Prices<T>) -> Result<Self, NotFinite> {
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
                scan::fetch(costs_of.get((k + 1) * columns..(k + 2) * columns).unwrap_or_default());
                let i = first + k;
                let shift = scan::near_cheapest(row);
                let (threshold, magnitude) = scratch
                    .check_and_fill(arch, row, prices.narrow(), shift, rank)
                    .map_err(|column| NotFinite { row: i, column })?;
                largest = largest.max(magnitude);
                let slots = k * capacity..(k + 1) * capacity;
                let (columns, costs) = (&mut slice.columns[slots.clone()], &mut slice.costs[slots]);
                (slice.lens[k], slice.bounds[k]) =
                    take(scratch, threshold, row, prices, shift, i, columns, costs);
                if let Some(stock) = &mut slice.stock {
                    stock.fill(row, prices, shift, k, reduced);
                }
            }
            Ok(largest)
        };
        let scratch = || (Shortlist::new(columns), [Vec::new(), Vec::new()]);
        let slices = lists.slices(part);
        let largest: Result<f64, NotFinite> = if rayon::current_num_threads() == 1 {
            // Without a way to the only thread of the pool and back.
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
        lists.largest = largest?;
        Ok(lists)
    }

    /// The largest magnitude of a cost in the rows that have a list. None if there is one that this type cannot add, or that is
    /// not finite.
    pub(super) fn largest(&self) -> Option<f64> {
        (!self.unfit).then_some(self.largest)
    }

    /// Whether the list of a row was never made.
    #[inline(always)]
    pub(super) fn lacks(&self, i: usize) -> bool {
        self.bounds[i] == f64::NEG_INFINITY
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
        let made = !self.lacks(i);
        // Costs near the cheapest ones lose nothing when it is subtracted from them.
        let shift = match self.best(prices, i) {
            Some(best) => T::of(best.cost),
            None => scan::near_cheapest(all.rows(i..i + 1, buffer)),
        };
        let slots = i * self.capacity..(i + 1) * self.capacity;
        let (columns, costs) = (&mut self.columns[slots.clone()], &mut self.costs[slots]);
        let Some(stock) = &mut self.stock else {
            let row = all.rows(i..i + 1, buffer);
            let threshold = if made {
                scratch.fill(arch, row, prices.narrow(), shift, self.rank)
            } else {
                match scratch.check_and_fill(arch, row, prices.narrow(), shift, self.rank) {
                    Ok((threshold, largest)) if largest <= *T::COMFORTABLE.end() => {
                        self.largest = self.largest.max(largest);
                        threshold
                    }
                    _ => {
                        self.unfit = true;
                        return;
                    }
                }
            };
            (self.lens[i], self.bounds[i]) = take(scratch, threshold, row, prices, shift, i, columns, costs);
            return;
        };
        let mut listed = stock.list(prices, i, columns, costs);
        if listed.is_none() {
            stock.fill(all.rows(i..i + 1, buffer), prices, shift, i, &mut Vec::new());
            listed = stock.list(prices, i, columns, costs);
        }
        if let Some(listed) = listed {
            fill_up(columns, costs, listed.0 as usize);
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
        let slots = i * self.capacity..i * self.capacity + (self.lens[i] as usize).next_multiple_of(CHAINS);
        let (columns, costs) = (&self.columns[slots.clone()], &self.costs[slots]);
        let (mut bests, mut seconds) = ([f64::INFINITY; CHAINS], [f64::INFINITY; CHAINS]);
        let mut found = [usize::MAX; CHAINS];
        let (quads, _) = columns.as_chunks::<CHAINS>();
        for (quad, (columns, costs)) in quads.iter().zip(costs.as_chunks::<CHAINS>().0).enumerate() {
            for k in 0..CHAINS {
                let reduced = costs[k].into() - prices.of(columns[k] as usize);
                // Selections in place of branches, which nobody could predict.
                let worse = if reduced > bests[k] { reduced } else { bests[k] };
                seconds[k] = if worse < seconds[k] { worse } else { seconds[k] };
                found[k] = if reduced < bests[k] { CHAINS * quad + k } else { found[k] };
                bests[k] = if reduced < bests[k] { reduced } else { bests[k] };
            }
        }
        let (mut best, mut second, mut slot) = (bests[0], seconds[0], found[0]);
        for k in 1..CHAINS {
            let worse = if bests[k] > best { bests[k] } else { best };
            let other = if seconds[k] < second { seconds[k] } else { second };
            second = if worse < other { worse } else { other };
            let before = (bests[k] < best) | ((bests[k] == best) & (found[k] < slot));
            slot = if before { found[k] } else { slot };
            best = if bests[k] < best { bests[k] } else { best };
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

/// Writes what was found into the list of row i; the number of columns, and the bound on all others.
#[expect(clippy::too_many_arguments, reason = "the parts of a row's list are borrowed one by one")]
fn take<T: Real>(
    found: &mut Shortlist<T>,
    mut threshold: T,
    row: &[T],
    prices: &Prices<T>,
    shift: T,
    i: usize,
    columns: &mut [u32],
    costs: &mut [T],
) -> (u32, f64) {
    let mut len = found.len;
    if len > columns.len() {
        (len, threshold) = shorten(found, &prices.narrow, shift, columns.len(), i);
    }
    columns[..len].copy_from_slice(&found.columns[..len]);
    costs[..len].copy_from_slice(&found.costs[..len]);
    fill_up(columns, costs, len);
    let bound = if len == row.len() { f64::INFINITY } else { prices.bound(threshold, shift) };
    (len as u32, bound)
}

/// Makes a list of `len` columns one of whole [`CHAINS`].
#[inline(always)]
fn fill_up<T: Real>(columns: &mut [u32], costs: &mut [T], len: usize) {
    let end = len.next_multiple_of(CHAINS).min(columns.len());
    columns[len..end].fill(0);
    costs[len..end].fill(T::INFINITY);
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
