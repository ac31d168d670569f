//! Rows bid for columns.

use pulp::NullaryFnOnce;

use super::{Auction, FREE, SPARE, entry::sealed::Real, lists::Best, rounded::Rounded, scan};

impl<T: Real> Auction<'_, T> {
    /// Every row without a column bids for its best one: the price falls until the column is worth only ε more than the
    /// row's second choice, and the row that held the column bids next (Gauss–Seidel auction, Bertsekas, Annals of
    /// Operations Research 14, 1988). Afterwards no row is more than ε from its best. False if `bids` ran out.
    pub(super) fn bid(&mut self, epsilon: f64, bids: usize) -> bool {
        self.arch.dispatch(Bidding { auction: self, epsilon, bids })
    }

    #[inline(always)]
    fn bid_here(&mut self, epsilon: f64, bids: usize) -> bool {
        let mut left = bids;
        for first in 0..self.rows() {
            self.fetch(first + 1);
            let mut row = first;
            while self.column_of[row] == FREE {
                if left == 0 {
                    return false;
                }
                left -= 1;
                let best = self.best(row);
                if !best.certain && self.is_unfit() {
                    return false;
                }
                let held = self.give(row, best, epsilon);
                if held == FREE {
                    break;
                }
                row = held as usize;
            }
        }
        true
    }

    /// Asks the memory for a row that will need a list.
    #[inline(always)]
    fn fetch(&mut self, row: usize) {
        if row < self.rows() && self.lists.as_ref().is_some_and(|lists| lists.lacks(row)) {
            scan::fetch(self.costs.rows(row..row + 1, &mut self.buffer));
        }
    }

    /// The same without ε, as far as it goes: every pair that comes of it is tight. Stops a chain of displaced rows where
    /// two columns are equally good, or after `hops`.
    pub(super) fn reduce(&mut self, hops: usize) {
        for first in 0..self.rows() {
            let mut row = first;
            for _ in 0..hops {
                if self.column_of[row] != FREE {
                    break;
                }
                let best = self.best(row);
                let holder = self.row_of[best.column as usize];
                let tie = holder != FREE && best.second <= best.reduced;
                if !best.certain || holder == SPARE || tie {
                    self.take_free_equal(row, best);
                    break;
                }
                let held = self.give(row, best, 0.0);
                if held == FREE {
                    break;
                }
                row = held as usize;
            }
        }
    }

    /// Gives a row the first free column that is as good as its best, if there is one.
    fn take_free_equal(&mut self, row: usize, best: Best) {
        let equal = |&(j, c): &(usize, f64)| self.row_of[j] == FREE && c - self.prices.of(j) <= best.reduced;
        if !best.certain {
            return;
        }
        let costs = self.costs.rows(row..row + 1, &mut self.buffer);
        let mut all = costs.iter().map(|&c| c.into()).enumerate();
        if let Some((column, _)) = all.find(equal) {
            self.row_of[column] = row as u32;
            self.column_of[row] = column as u32;
        }
    }

    /// Frees the rows whose column is not their best, and so makes all pairs tight.
    pub(super) fn free_slack(&mut self) {
        for row in 0..self.rows() {
            let column = self.column_of[row];
            if column == FREE {
                continue;
            }
            let least = self.least_reduced(row);
            self.floors[row] = least;
            if self.reduced(row, column as usize) > least {
                self.column_of[row] = FREE;
                self.row_of[column as usize] = FREE;
            }
        }
    }

    /// [`Self::bid`] with an ε in standard deviations, over whole rows of integers.
    pub(super) fn bid_rounded(&mut self, rounded: &mut Rounded, epsilon: f64, bids: usize) -> bool {
        let done = rounded.bid(self.arch, epsilon, bids, &mut self.column_of, &mut self.row_of);
        rounded.lower(&mut self.prices);
        done
    }

    /// [`Self::reduce`] over whole rows of integers, beginning with the pairs that are not tight; leaves those for
    /// exact numbers that integers cannot tell.
    pub(super) fn reduce_rounded(&mut self, rounded: &mut Rounded, hops: usize) {
        rounded.reduce(self.arch, hops, &mut self.column_of, &mut self.row_of);
        rounded.lower(&mut self.prices);
    }

    /// Frees all rows.
    pub(super) fn free_all(&mut self) {
        self.column_of.fill(FREE);
        self.row_of.fill(FREE);
    }

    /// The best column of a row, from a new list if prices have fallen too far for the old one.
    #[inline(always)]
    pub(super) fn best(&mut self, row: usize) -> Best {
        if self.lists.is_none() {
            return self.best_of_all(row);
        }
        if let Some(best) = self.listed(row) {
            return best;
        }
        self.renew(row);
        let best = self.lists.as_ref().and_then(|lists| lists.best(&self.prices, row));
        best.unwrap_or(Best { column: 0, cost: 0.0, reduced: 0.0, second: 0.0, certain: false })
    }

    /// Gives a row its best column, which then is worth ε less to it than its second choice, and returns the row that
    /// held it.
    #[inline(always)]
    fn give(&mut self, row: usize, best: Best, epsilon: f64) -> u32 {
        let column = best.column as usize;
        // v − (second − (c − v)) without the rounding of a v that may be large beside c.
        let price = best.cost - best.second - epsilon;
        // A row with a single column has no second choice: nobody else can want it.
        if price > f64::NEG_INFINITY {
            self.prices.lower(column, price);
        }
        let held = std::mem::replace(&mut self.row_of[column], row as u32);
        self.column_of[row] = best.column;
        if held != FREE {
            self.column_of[held as usize] = FREE;
        }
        held
    }
}

/// Calls `bid_here` with the instruction set that this processor has.
struct Bidding<'s, 'a, T> {
    auction: &'s mut Auction<'a, T>,
    epsilon: f64,
    bids: usize,
}

impl<T: Real> NullaryFnOnce for Bidding<'_, '_, T> {
    type Output = bool;

    #[inline(always)]
    fn call(self) -> bool {
        self.auction.bid_here(self.epsilon, self.bids)
    }
}
