use std::sync::{Arc, Mutex, PoisonError};

use immiscible_random::{Key, Stream};

use crate::DataError;

/// Which samples the batch of a step holds: a function of (seed, step, length, batch size) alone.
///
/// Each epoch is one uniformly random permutation of the samples, cut into whole batches. What is left at its end,
/// fewer samples than a batch, is not used in that epoch.
pub struct Order {
    seed: u64,
    len: usize,
    batch_size: usize,
    /// The permutation used last, by epoch: steps mostly follow each other.
    recent: Mutex<Option<(u64, Arc<[u32]>)>>,
}

impl Order {
    /// The order of `len` samples in batches of `batch_size`.
    ///
    /// # Errors
    /// [`DataError::BatchSize`] unless 1 ≤ `batch_size` ≤ `len`, [`DataError::TooManySamples`] where `len` exceeds a u32.
    pub fn new(seed: u64, len: usize, batch_size: usize) -> Result<Self, DataError> {
        if batch_size == 0 || batch_size > len {
            return Err(DataError::BatchSize { batch_size, len });
        }
        if u32::try_from(len).is_err() {
            return Err(DataError::TooManySamples { len, max: u32::MAX });
        }
        Ok(Self { seed, len, batch_size, recent: Mutex::new(None) })
    }

    /// Number of samples.
    pub fn samples(&self) -> usize {
        self.len
    }

    /// Samples in a batch.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// Number of steps in an epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        (self.len / self.batch_size) as u64
    }

    /// The epoch that `step` is in, from 0.
    pub fn epoch(&self, step: u64) -> u64 {
        step / self.steps_per_epoch()
    }

    /// Indices of the samples in the batch of `step`, all different.
    pub fn indices(&self, step: u64) -> Vec<u64> {
        let start = (step % self.steps_per_epoch()) as usize * self.batch_size;
        let permutation = self.permutation(self.epoch(step));
        permutation[start..][..self.batch_size].iter().copied().map(u64::from).collect()
    }

    fn permutation(&self, epoch: u64) -> Arc<[u32]> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        match recent.as_ref() {
            Some((last, permutation)) if *last == epoch => permutation.clone(),
            _ => {
                let key = Key::new(self.seed).step(epoch).stream(Stream::SHUFFLE);
                let permutation: Arc<[u32]> = key.permutation(self.len).into();
                *recent = Some((epoch, permutation.clone()));
                permutation
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_epoch_uses_each_sample_at_most_once(seed: u64, len in 1usize..60, batch in 1usize..60, epoch in 0u64..9) {
            prop_assume!(batch <= len);
            let order = Order::new(seed, len, batch).unwrap();
            let steps = order.steps_per_epoch();
            let mut seen: Vec<u64> =
                (epoch * steps..(epoch + 1) * steps).flat_map(|step| order.indices(step)).collect();
            prop_assert_eq!(seen.len(), len / batch * batch);
            seen.sort_unstable();
            seen.dedup();
            prop_assert_eq!(seen.len(), len / batch * batch);
            prop_assert!(seen.iter().all(|&index| index < len as u64));
        }

        #[test]
        fn the_order_of_the_questions_does_not_matter(seed: u64, steps in prop::collection::vec(0u64..40, 1..20)) {
            let order = Order::new(seed, 17, 4).unwrap();
            for step in steps {
                prop_assert_eq!(order.indices(step), Order::new(seed, 17, 4).unwrap().indices(step));
            }
        }
    }

    #[test]
    fn epochs_and_seeds_differ() {
        let order = |seed| Order::new(seed, 100, 100).unwrap();
        assert_ne!(order(0).indices(0), order(0).indices(1));
        assert_ne!(order(0).indices(0), order(1).indices(0));
        assert_ne!(order(0).indices(0), (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn batch_sizes_that_cannot_be_drawn_are_refused() {
        let message = |batch_size| Order::new(0, 10, batch_size).err().unwrap().to_string();
        assert_eq!(message(0), "batch_size = 0 cannot be drawn from 10 samples; choose 1 to 10");
        assert_eq!(message(11), "batch_size = 11 cannot be drawn from 10 samples; choose 1 to 10");
    }
}
