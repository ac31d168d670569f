//! Rows that are equal.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use rayon::prelude::*;

/// For each of some rows the first one that is equal to it, itself if there is none before it. `content` is what makes
/// rows equal.
pub(crate) fn firsts<I: Iterator<Item: Hash + PartialEq>>(
    rows: usize,
    content: impl Fn(usize) -> I + Sync,
) -> Vec<u32> {
    let hashes: Vec<u64> = (0..rows)
        .into_par_iter()
        .map(|i| {
            let mut hasher = DefaultHasher::new();
            content(i).for_each(|item| item.hash(&mut hasher));
            hasher.finish()
        })
        .collect();
    let mut seen = HashMap::<u64, Vec<u32>>::new();
    (0..)
        .zip(hashes)
        .map(|(i, hash)| {
            let alike = seen.entry(hash).or_default();
            let twin = alike.iter().copied().find(|&first| content(first as usize).eq(content(i as usize)));
            if twin.is_none() {
                alike.push(i);
            }
            twin.unwrap_or(i)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twins_have_one_first() {
        let rows = [[1, 2], [3, 4], [1, 2], [1, 5], [3, 4], [1, 2]];
        assert_eq!(firsts(rows.len(), |i| rows[i].iter()), [0, 1, 0, 3, 1, 0]);
    }
}
