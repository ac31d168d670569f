//! Many columns of every row, for costs that are made when they are read.

use std::cmp::Ordering;

use super::{entry::sealed::Real, lists::Prices};

/// The columns of each row that may ever be of use to it, so that its list can be made anew without the row.
pub(super) struct Stock<T> {
    columns: Vec<u32>,
    costs: Vec<T>,
    lens: Vec<u32>,
    bounds: Vec<f64>,
    capacity: usize,
    entries: Vec<(f64, u32, T)>,
}

/// The stock of some consecutive rows.
pub(super) struct Part<'a, T> {
    columns: &'a mut [u32],
    costs: &'a mut [T],
    lens: &'a mut [u32],
    bounds: &'a mut [f64],
    capacity: usize,
}

/// One in so many columns of a row is in the stock, within these limits.
const SHARE: usize = 8;
const CAPACITY: std::ops::RangeInclusive<usize> = 256..=1024;
/// One in so many columns tells which costs are low.
const SAMPLE: usize = 16;

impl<T: Real> Stock<T> {
    pub(super) fn empty(rows: usize, columns: usize) -> Self {
        let capacity = (columns / SHARE).clamp(*CAPACITY.start(), *CAPACITY.end()).min(columns).max(1);
        Self {
            columns: vec![0; rows * capacity],
            costs: vec![T::default(); rows * capacity],
            lens: vec![0; rows],
            bounds: vec![f64::NEG_INFINITY; rows],
            capacity,
            entries: Vec::with_capacity(capacity),
        }
    }

    /// The stock in parts of so many rows.
    pub(super) fn parts(&mut self, rows: usize) -> impl Iterator<Item = Part<'_, T>> {
        let capacity = self.capacity;
        let columns = self.columns.chunks_mut(capacity * rows);
        let costs = self.costs.chunks_mut(capacity * rows);
        let (lens, bounds) = (self.lens.chunks_mut(rows), self.bounds.chunks_mut(rows));
        let parts = columns.zip(costs).zip(lens.zip(bounds));
        parts.map(move |((columns, costs), (lens, bounds))| Part { columns, costs, lens, bounds, capacity })
    }

    /// Takes the cheapest columns of row i, at the prices of today.
    pub(super) fn fill(&mut self, row: &[T], prices: &Prices<T>, shift: T, i: usize, reduced: &mut Vec<T>) {
        let slots = i * self.capacity..(i + 1) * self.capacity;
        let mut part = Part {
            columns: &mut self.columns[slots.clone()],
            costs: &mut self.costs[slots],
            lens: &mut self.lens[i..=i],
            bounds: &mut self.bounds[i..=i],
            capacity: self.capacity,
        };
        part.fill(row, prices, shift, 0, reduced);
    }

    /// Writes the best of the stock of row i, at the prices of today, into its list, and returns their number and a bound on
    /// all other columns of the row. None if a column that is not in stock may be better.
    pub(super) fn list(
        &mut self,
        prices: &Prices<T>,
        i: usize,
        columns: &mut [u32],
        costs: &mut [T],
    ) -> Option<(u32, f64)> {
        let slots = i * self.capacity..i * self.capacity + self.lens[i] as usize;
        self.entries.clear();
        self.entries.extend(
            self.columns[slots.clone()]
                .iter()
                .zip(&self.costs[slots])
                .map(|(&j, &c)| (c.into() - prices.of(j as usize), j, c)),
        );
        let by_reduced = |a: &(f64, u32, T), b: &(f64, u32, T)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        let mut bound = self.bounds[i];
        let kept = if self.entries.len() > columns.len() {
            let (kept, omitted, _) = self.entries.select_nth_unstable_by(columns.len(), by_reduced);
            bound = bound.min(omitted.0);
            kept
        } else {
            &mut self.entries[..]
        };
        let best = kept.iter().fold(f64::INFINITY, |best, entry| best.min(entry.0));
        if best > self.bounds[i] || kept.is_empty() {
            return None;
        }
        kept.sort_unstable_by_key(|entry| entry.1);
        for (k, &(_, column, cost)) in kept.iter().enumerate() {
            (columns[k], costs[k]) = (column, cost);
        }
        Some((kept.len() as u32, bound))
    }
}

impl<T: Real> Part<'_, T> {
    /// Takes the cheapest columns of the part's row k.
    pub(super) fn fill(&mut self, row: &[T], prices: &Prices<T>, shift: T, k: usize, reduced: &mut Vec<T>) {
        reduced.clear();
        reduced.extend(row.iter().zip(prices.narrow()).map(|(&c, &v)| (c - shift) - v));
        let (capacity, n) = (self.capacity, row.len());
        let slots = k * capacity..(k + 1) * capacity;
        let (columns, costs) = (&mut self.columns[slots.clone()], &mut self.costs[slots]);
        if n <= capacity {
            (0..)
                .zip(row)
                .zip(columns.iter_mut().zip(costs))
                .for_each(|((j, &c), slot)| (*slot.0, *slot.1) = (j, c));
            (self.lens[k], self.bounds[k]) = (n as u32, f64::INFINITY);
            return;
        }
        let order = |a: &T, b: &T| a.partial_cmp(b).unwrap_or(Ordering::Equal);
        let mut sample: Vec<T> = reduced.iter().copied().step_by(SAMPLE).collect();
        // A quarter less than there is room for, as the sample is no exact measure.
        let rank = (sample.len() * capacity * 3 / 4 / n).min(sample.len() - 1);
        let mut threshold = *sample.select_nth_unstable_by(rank, order).1;
        let mut low: Vec<u32> =
            (0..).zip(&*reduced).filter(|(_, r)| **r <= threshold).map(|(j, _)| j).collect();
        if low.len() > capacity {
            let by_reduced =
                |a: &u32, b: &u32| order(&reduced[*a as usize], &reduced[*b as usize]).then(a.cmp(b));
            let (_, omitted, _) = low.select_nth_unstable_by(capacity, by_reduced);
            threshold = reduced[*omitted as usize];
            low.truncate(capacity);
            low.sort_unstable();
        }
        for (slot, &j) in low.iter().enumerate() {
            (columns[slot], costs[slot]) = (j, row[j as usize]);
        }
        self.lens[k] = low.len() as u32;
        self.bounds[k] = prices.bound(threshold, shift);
    }
}
