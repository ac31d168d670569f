//! For every row the columns worth a bid, and a bound on all others.

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

    pub(super) fn into_vec(self) -> Vec<f64> {
        self.wide
    }
}

impl<T: Real> Lists<T> {
    /// Makes the list of every row, and finds the largest magnitude in the matrix.
    ///
    /// # Errors
    /// An entry that is not finite.
    pub(super) fn new(arch: Arch, cost: ArrayView2<T>, prices: &Prices<T>) -> Result<(Self, f64), NotFinite> {
        let (rows, columns) = cost.dim();
        // Longer lists cost more a bid, shorter ones more passes over rows, and those of large matrices come from memory.
        let (capacity, rank) = if columns <= 2048 { (32, 12) } else { (64, 15) };
        let mut lists = Self {
            columns: vec![0; rows * capacity],
            costs: vec![T::default(); rows * capacity],
            lens: vec![0; rows],
            bounds: vec![0.0; rows],
            capacity,
            rank,
        };
        // Small batches are done before other threads wake up.
        let together = if rows * columns < 1 << 16 { rows } else { rows.div_ceil(64).max(16) };
        let largest: Result<f64, NotFinite> = lists
            .columns
            .par_chunks_mut(capacity * together)
            .zip(lists.costs.par_chunks_mut(capacity * together))
            .zip(lists.lens.par_chunks_mut(together))
            .zip(lists.bounds.par_chunks_mut(together))
            .enumerate()
            .map(|(part, (((listed, costs), lens), bounds))| {
                let mut scratch = Shortlist::new(columns);
                let mut largest = 0.0_f64;
                for (k, (len, bound)) in lens.iter_mut().zip(bounds).enumerate() {
                    let i = part * together + k;
                    let row = row(cost, i);
                    let (low, high) =
                        scan::range(arch, row).map_err(|column| NotFinite { row: i, column })?;
                    largest = largest.max(low.into().abs()).max(high.into().abs());
                    let slots = k * capacity..(k + 1) * capacity;
                    let (listed, costs) = (&mut listed[slots.clone()], &mut costs[slots]);
                    (*len, *bound) = fill(arch, row, prices, low, rank, &mut scratch, listed, costs);
                }
                Ok(largest)
            })
            .try_reduce(|| 0.0, |a, b| Ok(f64::max(a, b)));
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
    found: &mut Shortlist<T>,
    columns: &mut [u32],
    costs: &mut [T],
) -> (u32, f64) {
    let mut threshold = found.fill(arch, row, &prices.narrow, shift, rank);
    let mut len = found.len;
    if len > columns.len() {
        (len, threshold) = shorten(found, &prices.narrow, shift, columns.len());
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

/// Keeps the `capacity` best of a list that ties have made too long, of equal ones the first; the least reduced cost
/// that was left out.
#[cold]
fn shorten<T: Real>(found: &mut Shortlist<T>, v: &[T], shift: T, capacity: usize) -> (usize, T) {
    let mut entries: Vec<(T, u32, T)> = found.columns[..found.len]
        .iter()
        .zip(&found.costs)
        .map(|(&j, &c)| ((c - shift) - v[j as usize], j, c))
        .collect();
    let (kept, omitted, _) = entries.select_nth_unstable_by(capacity, |a, b| {
        a.0.partial_cmp(&b.0).unwrap_or(std::cmp::Ordering::Equal).then(a.1.cmp(&b.1))
    });
    kept.sort_unstable_by_key(|entry| entry.1);
    for (k, &(_, column, cost)) in kept.iter().enumerate() {
        (found.columns[k], found.costs[k]) = (column, cost);
    }
    (capacity, omitted.0)
}
