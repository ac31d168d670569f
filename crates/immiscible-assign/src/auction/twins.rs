//! Rows that are equal.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use ndarray::ArrayView2;
use rayon::prelude::*;

use super::{entry::sealed::Real, lists::row};

/// For each row the first one that is equal to it, itself if there is none before it.
pub(super) fn firsts<T: Real>(cost: ArrayView2<T>) -> Vec<u32> {
    let hashes: Vec<u64> = (0..cost.nrows())
        .into_par_iter()
        .map(|i| {
            let mut hasher = DefaultHasher::new();
            row(cost, i).iter().for_each(|&c| c.into().to_bits().hash(&mut hasher));
            hasher.finish()
        })
        .collect();
    let mut seen = HashMap::<u64, Vec<u32>>::new();
    (0..)
        .zip(hashes)
        .map(|(i, hash)| {
            let alike = seen.entry(hash).or_default();
            let twin =
                alike.iter().copied().find(|&first| row(cost, first as usize) == row(cost, i as usize));
            if twin.is_none() {
                alike.push(i);
            }
            twin.unwrap_or(i)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn twins_have_one_first() {
        let cost = array![[1.0, 2.0], [3.0, 4.0], [1.0, 2.0], [1.0, 2.5], [3.0, 4.0], [1.0, 2.0]];
        assert_eq!(firsts(cost.view()), [0, 1, 0, 3, 1, 0]);
    }
}
