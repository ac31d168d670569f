//! Where the costs are: in a matrix, or in what they are made of.

use std::ops::Range;

use super::{entry::sealed::Real, twins};

/// The costs of a problem by rows. Reading a row must be cheap, or the lists must be long enough that it is hardly ever done.
pub(crate) trait Costs<T>: Sync {
    /// Rows and columns.
    fn dim(&self) -> (usize, usize);

    /// The costs of consecutive rows, one after the other; in `buffer`, if they are made for this.
    fn rows<'s>(&'s self, rows: Range<usize>, buffer: &'s mut Vec<T>) -> &'s [T];

    /// The costs of some rows, each by itself.
    fn selected<'s>(&'s self, rows: &[usize], buffer: &'s mut Vec<T>) -> Vec<&'s [T]>;

    /// One of the costs.
    fn of(&self, row: usize, column: usize) -> T;

    /// For each row the first one that is equal to it, itself if there is none before it.
    fn twins(&self) -> Vec<u32>;

    /// Whether rows are made anew whenever they are asked for.
    fn are_made(&self) -> bool;
}

/// A matrix, row by row.
pub(super) struct Stored<'a, T> {
    pub(super) values: &'a [T],
    pub(super) columns: usize,
}

impl<T: Real> Costs<T> for Stored<'_, T> {
    fn dim(&self) -> (usize, usize) {
        (self.values.len().checked_div(self.columns).unwrap_or(0), self.columns)
    }

    fn rows<'s>(&'s self, rows: Range<usize>, _buffer: &'s mut Vec<T>) -> &'s [T] {
        &self.values[rows.start * self.columns..rows.end * self.columns]
    }

    fn selected<'s>(&'s self, rows: &[usize], _buffer: &'s mut Vec<T>) -> Vec<&'s [T]> {
        rows.iter().map(|&i| &self.values[i * self.columns..(i + 1) * self.columns]).collect()
    }

    fn of(&self, row: usize, column: usize) -> T {
        self.values[row * self.columns + column]
    }

    fn twins(&self) -> Vec<u32> {
        let (rows, columns) = self.dim();
        twins::firsts(rows, |i| {
            self.values[i * columns..(i + 1) * columns].iter().map(|&c| c.into().to_bits())
        })
    }

    fn are_made(&self) -> bool {
        false
    }
}
