use std::{cmp::Reverse, collections::BinaryHeap};

use ndarray::{ArrayView1, ArrayView2, Axis, parallel::prelude::*};

use crate::{AssignError, Matched, OneToOneSolver, conditioned::conditioned};

/// The cheapest pair of all first, then the cheapest of those left, and so on; of equal ones the first image, then the
/// first noise. About O(B² log B), and usually most of the optimum's gain.
///
/// The last images must take what is left, so the sum can end up above the identity's; the identity is the answer then.
#[derive(Clone, Copy, Debug, Default)]
pub struct Greedy;

/// Columns that a row keeps ready.
const SHORTLIST: usize = 32;

impl OneToOneSolver for Greedy {
    const NAME: &'static str = "greedy";

    fn solve_matrix(&self, cost: ArrayView2<f32>) -> Result<Matched, AssignError> {
        Ok(Matched { column_of: cheapest_first(conditioned(cost)?.view()), lower_bound: None })
    }
}

/// For each row the column that it gets when all pairs are taken in the order of cost, row, column, if both are free.
pub(crate) fn cheapest_first(cost: ArrayView2<f32>) -> Vec<u32> {
    let (rows, columns) = cost.dim();
    let mut taken = vec![false; columns];
    let mut column_of = vec![0; rows];
    let mut shortlists: Vec<Vec<Entry>> =
        cost.axis_iter(Axis(0)).into_par_iter().map(|row| shortlist(row, &taken)).collect();
    // Each row stands in the heap with its cheapest column. A column may have been taken since; its cost is then
    // too low an estimate of what the row has left, and the row goes back with its next column.
    let mut queue: BinaryHeap<Reverse<(Rank, usize, u32)>> = BinaryHeap::with_capacity(rows);
    let next = |row: usize, list: &mut Vec<Entry>, taken: &[bool]| loop {
        match list.pop() {
            Some((rank, column)) if !taken[column as usize] => return Some(Reverse((rank, row, column))),
            Some(_) => {}
            None => {
                *list = shortlist(cost.row(row), taken);
                if list.is_empty() {
                    return None;
                }
            }
        }
    };
    for (row, list) in shortlists.iter_mut().enumerate() {
        queue.extend(next(row, list, &taken));
    }
    while let Some(Reverse((_, row, column))) = queue.pop() {
        if taken[column as usize] {
            queue.extend(next(row, &mut shortlists[row], &taken));
        } else {
            taken[column as usize] = true;
            column_of[row] = column;
        }
    }
    column_of
}

/// A cost as an integer of the same order.
type Rank = u32;
type Entry = (Rank, u32);

/// The [`SHORTLIST`] cheapest columns that are not taken, the cheapest last, of equal ones the first.
fn shortlist(costs: ArrayView1<f32>, taken: &[bool]) -> Vec<Entry> {
    let free = costs.iter().zip(taken).enumerate().filter(|(_, (_, taken))| !**taken);
    let mut list: Vec<Entry> = free.map(|(column, (&cost, _))| (rank(cost), column as u32)).collect();
    if list.len() > SHORTLIST {
        list.select_nth_unstable(SHORTLIST);
        list.truncate(SHORTLIST);
    }
    list.sort_unstable_by(|a, b| b.cmp(a));
    list
}

/// The bits of a finite number, turned so that they sort like it. −0 and 0 are one.
fn rank(cost: f32) -> Rank {
    let bits = (cost + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::normals::normals;

    /// The definition: all pairs in the order of cost, image, noise, each taken if both are still free.
    fn by_sorting(cost: &Array2<f32>) -> Vec<u32> {
        let mut pairs: Vec<((usize, usize), f32)> = cost.indexed_iter().map(|(at, &c)| (at, c)).collect();
        pairs.sort_by(|(_, a), (_, b)| a.partial_cmp(b).expect("finite"));
        let (mut noise_of, mut taken) = (vec![None; cost.nrows()], vec![false; cost.ncols()]);
        for ((i, j), _) in pairs {
            if noise_of[i].is_none() && !taken[j] {
                (noise_of[i], taken[j]) = (Some(j as u32), true);
            }
        }
        noise_of.into_iter().flatten().collect()
    }

    #[test]
    fn is_the_choice_from_all_sorted_pairs() {
        for n in [2, 3, 32, 33, 150] {
            let normal = normals(n as u64, n, n);
            let alike = Array2::from_shape_fn((n, n), |(i, j)| normal[(i % 2, j)]);
            let wide = normal.slice_axis(Axis(0), (..n / 2).into()).to_owned();
            for cost in [normal.mapv(|c| c.round()), alike, Array2::zeros((n, n)), wide, normal] {
                assert_eq!(cheapest_first(cost.view()), by_sorting(&cost), "{n}");
            }
        }
    }

    #[test]
    fn ranks_sort_like_the_numbers() {
        let sorted = [f32::MIN, -1.5, -1.0, -f32::MIN_POSITIVE, 0.0, 1e-30, 1.0, 1.5, f32::MAX];
        assert!(sorted.windows(2).all(|pair| rank(pair[0]) < rank(pair[1])));
        assert_eq!(rank(-0.0), rank(0.0));
    }
}
