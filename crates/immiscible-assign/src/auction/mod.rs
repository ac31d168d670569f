//! The list auction: an exact solver of the linear assignment problem for dense matrices, made for the costs of images
//! and noises, where every row likes a few columns better than all others.
//!
//! 1. Prices start where the statistics of the columns put the optimal ones ([`start`]).
//! 2. Every row's cheapest columns are listed ([`lists`], [`scan`]): of large matrices in one pass, of others when a row
//!    first bids. Prices only fall, so the lists stay valid, and few rows are read again.
//! 3. An auction on the lists, with a shrinking ε, leaves every row within ε of its best ([`bidding`]).
//!    Small matrices have no lists: there it is less work to read rows whole, as integers ([`rounded`]).
//! 4. Shortest augmenting paths on the same lists mend the few rows that are not at their best ([`augment`]). This part
//!    is a complete solver, so the auction may stop at any time, and the answer is the optimum.
//!
//! Decisions are made in double precision. Passes over whole rows are in the precision of the costs, and what they round
//! is part of the lists' bounds.

mod augment;
mod bidding;
#[cfg(target_arch = "x86_64")]
mod compress;
mod costs;
mod entry;
mod lists;
mod rounded;
mod scan;
mod start;
mod stock;
pub(crate) mod twins;

use ndarray::{Array2, ArrayView2};
use pulp::Arch;

pub(crate) use costs::Costs;
use costs::Stored;
pub use entry::Entry;
use entry::sealed::Real;
use lists::{Best, Lists, Prices};
use rounded::Rounded;
use scan::{Least, Reduced, Shortlist};
use start::Start;

/// No column, or no row.
const FREE: u32 = u32::MAX;
/// In place of a row: a column beyond the number of rows, which nobody needs. To the solver it is held by a row that likes
/// all columns alike; these rows are so equal that they need not exist.
const SPARE: u32 = u32::MAX - 1;
/// The ε of the auction's phases, in standard deviations of a column.
const PHASES: [f64; 2] = [0.02, 0.003];
/// The same for rows that are read whole: bids cost less there, and exact numbers more.
const WHOLE_PHASES: [f64; 2] = [0.03, 0.001];
/// Bids a row, on average, after which a phase gives up. Ordinary batches take 5 to 15.
const BIDS: usize = 60;
/// Columns up to which rows are read whole for every bid; beyond, lists are less work.
const WHOLE: usize = 384;
const _: () = assert!(WHOLE <= rounded::COLUMNS);
/// Entries up to which lists are made one by one, when they are first asked for. Beyond, it pays to make them on all threads.
const LISTED_LATE: usize = 1 << 21;
/// Rows that may be displaced one after the other to make room for one.
const HOPS: usize = 8;

/// One column for each row, and the prices that prove that no others cost less.
pub(crate) struct Matching {
    pub(crate) column_of: Vec<u32>,
    /// The dual variable u of each row: its least c − v.
    pub(crate) u: Vec<f64>,
    /// The dual variable v of each column: c − v is least, in each row, at the row's column, and v is 0 or less, and 0
    /// where no row took the column, if there are more columns than rows.
    pub(crate) v: Vec<f64>,
}

impl Matching {
    /// Σ u + Σ v: what every assignment costs at least, by weak duality.
    pub(crate) fn lower_bound(&self) -> f64 {
        self.u.iter().chain(&self.v).sum()
    }
}

/// An entry that is not finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct NotFinite {
    pub(crate) row: usize,
    pub(crate) column: usize,
}

/// The optimum of an [n, m] matrix with n ≤ m; with a `tolerance`, a solution that provably lacks no more than this
/// share of the gain over the identity.
///
/// # Errors
/// An entry that is not finite.
pub(crate) fn solve<T: Real>(cost: ArrayView2<T>, tolerance: f64) -> Result<Matching, NotFinite> {
    solve_by(cost, tolerance, WHOLE)
}

/// [`solve`], with a choice up to which number of columns rows are read whole.
fn solve_by<T: Real>(cost: ArrayView2<T>, tolerance: f64, whole: usize) -> Result<Matching, NotFinite> {
    let standard = cost.as_standard_layout();
    let stored = Stored { values: standard.as_slice().unwrap_or(&[]), columns: cost.ncols() };
    match Auction::run(&stored, tolerance, whole)? {
        Outcome::Matched(matching) => Ok(matching),
        Outcome::OutOfRange(largest) => {
            // A power of two rounds nothing, or only what is negligible beside the largest entry. The largest power there
            // is brings even the smallest numbers into range.
            let scale = (-largest.log2().floor()).min(f64::from(f64::MAX_EXP - 1)).exp2();
            let scaled: Array2<f64> = standard.mapv(|c| c.into() * scale);
            let mut matching = solve_by(scaled.view(), tolerance, whole)?;
            matching.u.iter_mut().chain(&mut matching.v).for_each(|dual| *dual /= scale);
            Ok(matching)
        }
    }
}

/// [`solve`] for costs that are not in a matrix. None if they are so large or small that they must be scaled first.
///
/// # Errors
/// A cost that is not finite.
pub(crate) fn solve_costs<T: Real>(
    costs: &dyn Costs<T>,
    tolerance: f64,
) -> Result<Option<Matching>, NotFinite> {
    Ok(match Auction::run(costs, tolerance, 0)? {
        Outcome::Matched(matching) => Some(matching),
        Outcome::OutOfRange(_) => None,
    })
}

enum Outcome {
    Matched(Matching),
    /// The largest magnitude in the matrix: sums of such numbers would leave the type.
    OutOfRange(f64),
}

struct Auction<'a, T> {
    arch: Arch,
    costs: &'a dyn Costs<T>,
    prices: Prices<T>,
    /// None where rows are read whole.
    lists: Option<Lists<T>>,
    scratch: Shortlist<T>,
    reduced: Reduced,
    /// For rows that are made when they are read.
    buffer: Vec<T>,
    /// No reduced cost of a row was below this, and none is, as prices only fall.
    floors: Vec<f64>,
    column_of: Vec<u32>,
    row_of: Vec<u32>,
    spare_price: f64,
}

impl<'a, T: Real> Auction<'a, T> {
    fn run(costs: &'a dyn Costs<T>, tolerance: f64, whole: usize) -> Result<Outcome, NotFinite> {
        let arch = Arch::new();
        let (rows, columns) = costs.dim();
        if rows == 0 {
            let nothing = Matching { column_of: Vec::new(), u: Vec::new(), v: vec![0.0; columns] };
            return Ok(Outcome::Matched(nothing));
        }
        let square = rows == columns;
        let mut start = Start::of(arch, costs);
        if !square {
            // Columns that nobody takes must have one price, the highest: nobody would take them at a lower one either.
            start.v.fill(0.0);
        }
        let sigma = start.sigma;
        let prices = Prices::new(start.v);
        let (lists, mut rounded) = if columns <= whole {
            let (rounded, largest) = Rounded::new(arch, costs, &prices, sigma)?;
            if out_of_range::<T>(largest) {
                return Ok(Outcome::OutOfRange(largest));
            }
            (None, Some(rounded))
        } else if rows * columns <= LISTED_LATE && !costs.are_made() {
            (Some(Lists::empty(rows, columns, false)), None)
        } else {
            (Some(Lists::new(arch, costs, &prices)?), None)
        };
        let (column_of, row_of) = (vec![FREE; rows], vec![FREE; columns]);
        let mut auction = Self {
            arch,
            costs,
            prices,
            lists,
            scratch: Shortlist::new(columns),
            reduced: Reduced::new(columns),
            buffer: Vec::new(),
            floors: vec![f64::NEG_INFINITY; rows],
            column_of,
            row_of,
            spare_price: 0.0,
        };
        // Prices that a phase leaves behind are no start for the next one if columns stay over.
        let phases = if rounded.is_some() { &WHOLE_PHASES } else { &PHASES };
        let phases = if square { &phases[..] } else { &phases[1..] };
        for share in phases.iter().filter(|_| sigma > 0.0) {
            auction.free_all();
            let done = match &mut rounded {
                Some(rounded) => auction.bid_rounded(rounded, *share, BIDS * rows),
                None => auction.bid(share * sigma, BIDS * rows),
            };
            if let Some(largest) = auction.out_of_range()? {
                return Ok(Outcome::OutOfRange(largest));
            }
            if done && tolerance > 0.0 && auction.good_enough(tolerance) {
                return Ok(Outcome::Matched(auction.finish()));
            }
        }
        if let Some(largest) = auction.out_of_range()? {
            return Ok(Outcome::OutOfRange(largest));
        }
        auction.set_spare_columns_aside();
        if let Some(rounded) = &mut rounded {
            auction.reduce_rounded(rounded, HOPS);
        }
        auction.free_slack();
        auction.reduce(HOPS);
        auction.augment();
        Ok(Outcome::Matched(auction.finish()))
    }

    /// Makes the lists that nobody has asked for yet; the largest magnitude of a cost, if the matrix must be scaled.
    ///
    /// # Errors
    /// A cost that is not finite.
    fn out_of_range(&mut self) -> Result<Option<f64>, NotFinite> {
        for row in 0..self.rows() {
            if self.lists.as_ref().is_some_and(|lists| lists.lacks(row)) && !self.is_unfit() {
                self.renew(row);
            }
        }
        let Some(lists) = &self.lists else {
            return Ok(None);
        };
        let largest = match lists.largest() {
            Some(largest) => largest,
            None => {
                let mut largest = 0.0_f64;
                for i in 0..self.rows() {
                    let row = self.costs.rows(i..i + 1, &mut self.buffer);
                    let (low, high) =
                        scan::range(self.arch, row).map_err(|column| NotFinite { row: i, column })?;
                    largest = largest.max(low.into().abs()).max(high.into().abs());
                }
                largest
            }
        };
        Ok(Some(largest).filter(|&largest| out_of_range::<T>(largest)))
    }

    /// Whether costs were found that this type cannot add.
    fn is_unfit(&self) -> bool {
        self.lists.as_ref().is_some_and(|lists| lists.largest().is_none())
    }

    /// Marks as many columns as there are more than rows, out of those that nobody bid for.
    fn set_spare_columns_aside(&mut self) {
        let spare = self.columns() - self.rows();
        for row in self.row_of.iter_mut().rev().filter(|row| **row == FREE).take(spare) {
            *row = SPARE;
        }
    }

    fn rows(&self) -> usize {
        self.costs.dim().0
    }

    fn columns(&self) -> usize {
        self.costs.dim().1
    }

    /// c − v.
    fn reduced(&self, row: usize, column: usize) -> f64 {
        self.costs.of(row, column).into() - self.prices.of(column)
    }

    fn renew(&mut self, row: usize) {
        if let Some(lists) = &mut self.lists {
            lists.renew(self.arch, self.costs, &self.prices, row, &mut self.scratch, &mut self.buffer);
        }
    }

    /// The best column in the list of a row, if there is one and none in the row can be better.
    #[inline(always)]
    fn listed(&self, row: usize) -> Option<Best> {
        self.lists.as_ref()?.best(&self.prices, row).filter(|best| best.certain)
    }

    /// The best of all columns of a row.
    fn best_of_all(&mut self, i: usize) -> Best {
        let costs = self.costs.rows(i..i + 1, &mut self.buffer);
        let Least { column, reduced, second } =
            self.reduced.two_least(self.arch, costs, self.prices.as_slice());
        Best { column: column as u32, cost: costs[column].into(), reduced, second, certain: true }
    }

    /// The least reduced cost of a row, over all its columns.
    fn least_reduced(&mut self, i: usize) -> f64 {
        if let Some(best) = self.listed(i) {
            return best.reduced;
        }
        if self.costs.are_made() {
            let best = self.best(i);
            if best.certain {
                return best.reduced;
            }
        }
        let costs = self.costs.rows(i..i + 1, &mut self.buffer);
        self.reduced.least(self.arch, costs, self.prices.as_slice())
    }

    /// Whether the assignment is within `tolerance` of the optimum, in units of its gain over the identity.
    fn good_enough(&mut self, tolerance: f64) -> bool {
        let assigned = self.column_of.iter().enumerate().map(|(i, &j)| self.costs.of(i, j as usize).into());
        let cost: f64 = assigned.sum();
        let identity: f64 = (0..self.rows()).map(|i| self.costs.of(i, i).into()).sum();
        let (u, v) = self.duals();
        let bound: f64 = u.iter().chain(&v).sum();
        cost - bound <= tolerance * (identity - bound)
    }

    /// u and v. Only differences of prices mean anything, so spare columns can have 0.
    fn duals(&mut self) -> (Vec<f64>, Vec<f64>) {
        let mut u = Vec::with_capacity(self.rows());
        for row in 0..self.rows() {
            let reduced = self.reduced(row, self.column_of[row] as usize);
            let least = if reduced == self.floors[row] { reduced } else { self.least_reduced(row) };
            u.push(least + self.spare_price);
        }
        (u, self.prices.as_slice().iter().map(|v| v - self.spare_price).collect())
    }

    fn finish(mut self) -> Matching {
        let (u, v) = self.duals();
        Matching { column_of: self.column_of, u, v }
    }
}

fn out_of_range<T: Real>(largest: f64) -> bool {
    largest > 0.0 && !T::COMFORTABLE.contains(&largest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normals::normals;

    /// Matrices of every kind that the parts of the solver treat in their own way.
    fn matrices(seed: u64) -> Vec<Array2<f32>> {
        let rows = 1 + (seed as usize * 7) % 70;
        let columns = rows + if seed.is_multiple_of(3) { (seed as usize * 5) % 40 } else { 0 };
        let noise = normals(seed, rows, columns);
        let of_columns = normals(seed + 1, 1, columns) * 100.0;
        let mut outlier = noise.clone();
        outlier.row_mut(rows / 2).mapv_inplace(|c| c * 1e4);
        let twins = Array2::from_shape_fn(noise.dim(), |(i, j)| noise[(i / 4, j)]);
        vec![
            noise.mapv(f32::round),
            noise.mapv(|c| (3.0 * c).round()),
            &noise + &of_columns,
            Array2::from_shape_fn(noise.dim(), |(i, j)| (noise[(i, 0)] - noise[(0, j)]).abs()),
            outlier,
            twins,
            noise,
        ]
    }

    /// Counts the rows that are made one by one.
    struct Counting<'a> {
        stored: Stored<'a, f32>,
        alone: std::sync::atomic::AtomicUsize,
    }

    impl Costs<f32> for Counting<'_> {
        fn dim(&self) -> (usize, usize) {
            self.stored.dim()
        }

        fn rows<'s>(&'s self, rows: std::ops::Range<usize>, buffer: &'s mut Vec<f32>) -> &'s [f32] {
            if rows.len() == 1 {
                self.alone.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            self.stored.rows(rows, buffer)
        }

        fn selected<'s>(&'s self, rows: &[usize], buffer: &'s mut Vec<f32>) -> Vec<&'s [f32]> {
            self.stored.selected(rows, buffer)
        }

        fn of(&self, row: usize, column: usize) -> f32 {
            self.stored.of(row, column)
        }

        fn twins(&self) -> Vec<u32> {
            self.stored.twins()
        }

        fn are_made(&self) -> bool {
            true
        }
    }

    #[test]
    fn rows_full_of_ties_that_are_made_are_at_their_best() {
        for seed in 0..20 {
            let (rows, columns) = (400 + 10 * seed as usize, 800);
            let mut cost = -normals(seed, rows, 24).dot(&normals(100 + seed, columns, 24).t());
            cost.rows_mut().into_iter().take(rows / 2).for_each(|mut row| row.fill(0.0));
            let stored = Stored { values: cost.as_slice().unwrap(), columns };
            let counting = Counting { stored, alone: Default::default() };
            let matching = solve_costs(&counting, 0.0).unwrap().unwrap();
            let pairs = matching.column_of.iter().enumerate();
            let total: f64 = pairs.map(|(i, &j)| f64::from(cost[(i, j as usize)])).sum();
            let gap = total - matching.lower_bound();
            assert!(gap.abs() <= 1e-9 * total.abs(), "{seed}: {gap}");
        }
    }

    #[test]
    fn hardly_any_row_is_made_twice() {
        // Products of images, whose coordinates matter less and less, and noise.
        let mut images = normals(2, 1_500, 64) + 0.5;
        images.columns_mut().into_iter().enumerate().for_each(|(d, mut x)| x /= 1.0 + d as f32 / 4.0);
        let cost = -images.dot(&normals(3, 1_500, 64).t());
        let stored = Stored { values: cost.as_slice().unwrap(), columns: 1_500 };
        let counting = Counting { stored, alone: Default::default() };
        let matching = solve_costs(&counting, 0.0).unwrap().unwrap();
        let expected = solve(cost.view(), 0.0).unwrap();
        assert!((matching.lower_bound() - expected.lower_bound()).abs() < 1e-6);
        let alone = counting.alone.into_inner();
        assert!(alone <= 75, "{alone} rows");
    }

    #[test]
    fn what_lists_made_late_cannot_hold_is_found_wherever_it_is() {
        let n = WHOLE + 16;
        let cost = normals(5, n, n);
        for (row, column) in [(0, 0), (1, n - 1), (n / 2, 7), (n - 1, n - 1)] {
            let mut wrong = cost.clone();
            // The last rows are wrong too: the first wrong cost is named.
            wrong[(n - 1, n - 1)] = f32::INFINITY;
            wrong[(row, column)] = f32::NAN;
            assert_eq!(solve(wrong.view(), 0.0).err(), Some(NotFinite { row, column }));
            let mut large = cost.clone();
            large[(row, column)] = 3e38;
            let matching = solve(large.view(), 0.0).unwrap();
            assert_ne!(matching.column_of[row] as usize, column);
            let gap: f64 = (0..n).map(|i| f64::from(large[(i, matching.column_of[i] as usize)])).sum::<f64>()
                - matching.lower_bound();
            assert!(gap.abs() <= 1e-6, "{row}, {column}: {gap}");
        }
        let matching = solve((cost * 1e-35).view(), 0.0).unwrap();
        assert!(matching.lower_bound() < -2e-35 * n as f64);
    }

    #[test]
    fn lists_and_whole_rows_lead_to_one_optimum() {
        for seed in 0..300 {
            for (kind, cost) in matrices(seed).iter().enumerate() {
                let total = |whole: usize| {
                    let matching = solve_by(cost.view(), 0.0, whole).unwrap();
                    let pairs = matching.column_of.iter().enumerate();
                    let total: f64 = pairs.map(|(i, &j)| f64::from(cost[(i, j as usize)])).sum();
                    let size: f64 = cost.iter().fold(0.0, |size, &c| size.max(f64::from(c.abs())));
                    let gap = total - matching.lower_bound();
                    assert!(
                        gap.abs() <= 1e-12 * size * cost.nrows() as f64,
                        "{seed}, {kind}, {whole}: {gap}"
                    );
                    (total, size)
                };
                let ((lists, size), (whole, _)) = (total(0), total(WHOLE));
                assert!((lists - whole).abs() <= 1e-12 * size * cost.nrows() as f64, "{seed}, {kind}");
            }
        }
    }
}
