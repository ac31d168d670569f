//! Shortest augmenting paths: the part that makes the assignment optimal.

use std::{cmp::Ordering, collections::BinaryHeap};

use pulp::NullaryFnOnce;

use super::{Auction, FREE, SPARE, entry::sealed::Real, lists::Lists};

/// Columns settled per row, on average, after which it is worth looking for rows that are equal. Ordinary batches settle
/// less than one.
const MANY: usize = 8;

/// A search from one free row, by Dijkstra's algorithm on reduced costs.
pub(super) struct Search {
    /// Length of the shortest path found to each column.
    distance: Vec<f64>,
    /// The row before the column on that path.
    previous: Vec<u32>,
    reached: Vec<u32>,
    /// Columns whose distance is final, in the order of it.
    settled: Vec<u32>,
    is_settled: Vec<bool>,
    queue: BinaryHeap<Event>,
    /// The nearest free column.
    end: u32,
    end_distance: f64,
    /// The nearest spare column, through which the path reaches all others that nobody needs.
    spare: u32,
    spare_distance: f64,
    /// For each row the first one that equals it, once there is reason to look. A path over a row leads nowhere that a
    /// shorter one over its twin does not.
    twins: Option<Vec<u32>>,
    is_relaxed: Vec<bool>,
    all_settled: usize,
}

impl Search {
    pub(super) fn new(rows: usize, columns: usize) -> Self {
        Self {
            distance: vec![f64::INFINITY; columns],
            previous: vec![FREE; columns],
            reached: Vec::new(),
            settled: Vec::new(),
            is_settled: vec![false; columns],
            queue: BinaryHeap::new(),
            end: FREE,
            end_distance: f64::INFINITY,
            spare: FREE,
            spare_distance: f64::INFINITY,
            twins: None,
            is_relaxed: vec![false; rows],
            all_settled: 0,
        }
    }

    fn clear(&mut self) {
        self.all_settled += self.settled.len();
        self.is_relaxed.fill(false);
        for j in self.reached.drain(..) {
            self.distance[j as usize] = f64::INFINITY;
        }
        for j in self.settled.drain(..) {
            self.is_settled[j as usize] = false;
        }
        if self.spare != FREE {
            self.is_settled[self.spare as usize] = false;
        }
        self.queue.clear();
        (self.end, self.end_distance) = (FREE, f64::INFINITY);
        (self.spare, self.spare_distance) = (FREE, f64::INFINITY);
    }

    /// Whether a row equal to this one is already part of the tree. From now on one is.
    fn seen_twin_of(&mut self, row: u32) -> bool {
        let first = self.twins.as_ref().map(|twins| twins[row as usize]);
        first.is_some_and(|first| std::mem::replace(&mut self.is_relaxed[first as usize], true))
    }

    /// A path of this length to a column, over `row`. Paths that are longer than one to a free column lead nowhere.
    #[inline(always)]
    fn reach(&mut self, column: usize, distance: f64, row: u32, row_of: &[u32]) {
        // Rounding can make the way back to a settled column look shorter.
        if distance < self.distance[column] && distance < self.end_distance && !self.is_settled[column] {
            if self.distance[column] == f64::INFINITY {
                self.reached.push(column as u32);
            }
            self.distance[column] = distance;
            self.previous[column] = row;
            if row_of[column] == FREE {
                (self.end, self.end_distance) = (column as u32, distance);
            } else {
                self.queue.push(Event { distance, what: What::Column(column as u32) });
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// A column is reached.
    Column(u32),
    /// A column outside the list of this row might be reached.
    Unlisted(u32),
    /// The same, after its list was made anew.
    AllOf(u32),
}

struct Event {
    distance: f64,
    what: What,
}

impl Ord for Event {
    /// The nearest first, of a heap that hands out the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        other.distance.total_cmp(&self.distance).then(other.what.cmp(&self.what))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Event {}

impl<T: Real> Auction<'_, T> {
    /// Gives every free row a column along a shortest augmenting path. All pairs must be tight, and stay so: at the end
    /// the assignment is optimal (successive shortest paths; Jonker and Volgenant, Computing 38, 1987).
    pub(super) fn augment(&mut self) {
        if !self.column_of.contains(&FREE) {
            return;
        }
        let (rows, columns) = self.costs.dim();
        self.lists.get_or_insert_with(|| Lists::empty(rows, columns, false));
        let mut search = Search::new(rows, columns);
        for row in 0..self.rows() {
            if self.column_of[row] == FREE {
                self.find_path(row, &mut search);
                self.lower_settled(&search);
                self.flip(row, &search);
                search.clear();
                if search.twins.is_none() && search.all_settled > MANY * self.rows() {
                    search.twins = Some(self.costs.twins());
                }
            }
        }
    }

    fn find_path(&mut self, root: usize, search: &mut Search) {
        if self.listed(root).is_none() {
            self.renew(root);
        }
        search.seen_twin_of(root as u32);
        self.relax_list(root, root, search, What::Unlisted(root as u32));
        while let Some(event) = search.queue.pop() {
            if event.distance >= search.end_distance {
                break;
            }
            match event.what {
                What::Column(column) => {
                    let j = column as usize;
                    if search.is_settled[j] {
                        // A shorter path to it came first.
                        continue;
                    }
                    let row = self.row_of[j];
                    if row == SPARE {
                        if search.spare == FREE {
                            search.is_settled[j] = true;
                            (search.spare, search.spare_distance) = (column, event.distance);
                            self.relax_spare(search);
                        }
                        continue;
                    }
                    search.is_settled[j] = true;
                    search.settled.push(column);
                    if search.seen_twin_of(row) {
                        continue;
                    }
                    self.relax_list(row as usize, root, search, What::Unlisted(row));
                }
                What::Unlisted(row) => {
                    self.renew(row as usize);
                    self.relax_list(row as usize, root, search, What::AllOf(row));
                }
                What::AllOf(row) => self.relax_row(row as usize, root, search),
            }
        }
    }

    /// What a path to a column over this row has in length beyond the column's reduced cost, negated.
    fn head(&self, row: usize, root: usize, search: &Search) -> f64 {
        if row == root {
            return 0.0;
        }
        let column = self.column_of[row] as usize;
        self.reduced(row, column) - search.distance[column]
    }

    /// Extends the path to the columns in the row's list, and puts all others into the queue as one event.
    fn relax_list(&mut self, i: usize, root: usize, search: &mut Search, others: What) {
        let head = self.head(i, root, search);
        let Some(lists) = &self.lists else {
            return;
        };
        for (j, c) in lists.of(i) {
            search.reach(j, c - self.prices.of(j) - head, i as u32, &self.row_of);
        }
        let bound = lists.bound(i) - head;
        if bound < search.end_distance {
            search.queue.push(Event { distance: bound, what: others });
        }
    }

    /// Extends the path to every column.
    fn relax_row(&mut self, i: usize, root: usize, search: &mut Search) {
        const CHUNK: usize = 64;
        let head = self.head(i, root, search);
        let (costs, prices) = (self.costs.rows(i..i + 1, &mut self.buffer), self.prices.as_slice());
        for (chunk, (costs, prices)) in costs.chunks(CHUNK).zip(prices.chunks(CHUNK)).enumerate() {
            let first = chunk * CHUNK;
            let distances = &search.distance[first..first + costs.len()];
            let limit = search.end_distance;
            if self.arch.dispatch(Shorter { costs, prices, distances, head, limit }) {
                for (k, (&c, &v)) in costs.iter().zip(prices).enumerate() {
                    search.reach(first + k, c.into() - v - head, i as u32, &self.row_of);
                }
            }
        }
    }

    /// Extends the path from the spare column to every column that is not spare: the one that held it, which likes all
    /// columns alike, could take another.
    fn relax_spare(&self, search: &mut Search) {
        for (j, (&v, &row)) in self.prices.as_slice().iter().zip(&self.row_of).enumerate() {
            if row != SPARE {
                search.reach(j, search.spare_distance + self.spare_price - v, SPARE, &self.row_of);
            }
        }
    }

    /// Lowers the prices along the tree so that the path and the pairs stay tight.
    fn lower_settled(&mut self, search: &Search) {
        for &j in &search.settled {
            let j = j as usize;
            let slack = search.end_distance - search.distance[j];
            if slack > 0.0 {
                self.prices.lower(j, self.prices.of(j) - slack);
            }
        }
        if search.spare_distance < search.end_distance {
            self.spare_price -= search.end_distance - search.spare_distance;
            for (j, _) in self.row_of.iter().enumerate().filter(|(_, row)| **row == SPARE) {
                self.prices.lower(j, self.spare_price);
            }
        }
    }

    /// Every row on the path takes the column after it.
    fn flip(&mut self, root: usize, search: &Search) {
        let mut column = search.end;
        while column != FREE {
            let row = search.previous[column as usize];
            self.row_of[column as usize] = row;
            if row == SPARE {
                column = search.spare;
                continue;
            }
            std::mem::swap(&mut self.column_of[row as usize], &mut column);
            if row as usize == root {
                break;
            }
        }
    }
}

/// Whether a path over this row is the shortest to any of some columns.
struct Shorter<'a, T> {
    costs: &'a [T],
    prices: &'a [f64],
    distances: &'a [f64],
    head: f64,
    limit: f64,
}

impl<T: Real> NullaryFnOnce for Shorter<'_, T> {
    type Output = bool;

    #[inline(always)]
    fn call(self) -> bool {
        let mut any = false;
        for ((&c, &v), &distance) in self.costs.iter().zip(self.prices).zip(self.distances) {
            let length = c.into() - v - self.head;
            any |= (length < distance) & (length < self.limit);
        }
        any
    }
}
