use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::DataError;

/// Runs `produce` for each of `steps`, in order, on one background thread that stays up to `depth` finished items ahead
/// of the consumer.
///
/// `produce` is everything a step needs from the host: usually [`Loader::batch_at`](crate::Loader::batch_at) and then
/// the noise of the batch; it may also look at batches of later steps. What it makes depends on the step alone as long
/// as `produce` does, so the depth changes the timing and nothing else. The iterator ends after the last step or after
/// the first error.
///
/// ```
/// use std::num::NonZeroUsize;
/// use immiscible_data::{DataError, DataOptions, Loader, LoaderOptions, build, prefetch};
///
/// let loader = Loader::new(
///     build(&DataOptions::new("digits"))?,
///     LoaderOptions { batch_size: 32, seed: 0, flip: false },
/// )?;
/// let resume_at = 100;
/// let batches = prefetch(resume_at..103, NonZeroUsize::MIN, move |step| {
///     let batch = loader.batch_at(step)?;
///     Ok::<_, DataError>((step, batch)) // … and the noise for it
/// })?;
/// for item in batches {
///     let (step, batch) = item?;
///     assert!(step >= 100 && batch.index.len() == 32);
/// }
/// # Ok::<(), DataError>(())
/// ```
///
/// # Errors
/// [`DataError::Thread`] where the operating system refuses the thread.
pub fn prefetch<S, T, E, F>(
    steps: S,
    depth: NonZeroUsize,
    mut produce: F,
) -> Result<Prefetch<T, E>, DataError>
where
    S: IntoIterator<Item = u64>,
    S::IntoIter: Send + 'static,
    F: FnMut(u64) -> Result<T, E> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    // The thread itself holds one finished item while it waits for room.
    let (sender, receiver) = sync_channel(depth.get() - 1);
    let steps = steps.into_iter();
    let work = move || {
        for step in steps {
            let item = produce(step);
            let last = item.is_err();
            if sender.send(item).is_err() || last {
                return;
            }
        }
    };
    let thread = thread::Builder::new().name("prefetch".into()).spawn(work).map_err(DataError::Thread)?;
    Ok(Prefetch { receiver: Some(receiver), thread: Some(thread) })
}

/// The items of [`prefetch`]. Dropping it ends the thread after the item it is working on, which is not waited for: it can
/// take minutes.
///
/// # Panics
/// [`next`](Iterator::next) and [`next_unless`](Self::next_unless) pass on a panic of the background thread.
pub struct Prefetch<T, E> {
    receiver: Option<Receiver<Result<T, E>>>,
    thread: Option<JoinHandle<()>>,
}

/// Time between two questions whether to stop.
const PATIENCE: Duration = Duration::from_millis(100);

impl<T, E> Prefetch<T, E> {
    /// The next item, or `None` where `stop` says so, which is asked again and again while there is none.
    pub fn next_unless(&mut self, mut stop: impl FnMut() -> bool) -> Option<Result<T, E>> {
        loop {
            match self.receiver.as_ref()?.recv_timeout(PATIENCE) {
                Ok(item) => return Some(item),
                Err(RecvTimeoutError::Timeout) if stop() => return None,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => self.receiver = None,
            }
            if self.receiver.is_none()
                && let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            {
                resume_unwind(panic);
            }
        }
    }
}

impl<T, E> Iterator for Prefetch<T, E> {
    type Item = Result<T, E>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_unless(|| false)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc::channel;
    use std::time::Instant;

    use super::*;
    use crate::{DataOptions, Loader, LoaderOptions, build};

    fn depth(depth: usize) -> NonZeroUsize {
        NonZeroUsize::new(depth).unwrap()
    }

    fn square(step: u64) -> Result<u64, String> {
        Ok(step * step)
    }

    #[test]
    fn any_depth_and_start_give_the_same_batches() {
        let loader = || {
            let digits = build(&DataOptions::new("digits")).unwrap();
            Loader::new(digits, LoaderOptions { batch_size: 600, seed: 5, flip: true }).unwrap()
        };
        let direct = loader();
        let expected: Vec<_> = (0..8).map(|step| direct.batch_at(step).unwrap()).collect();
        for (start, ahead) in [(0, 1), (0, 3), (5, 2), (2, 20)] {
            let loader = loader();
            let items = prefetch(start..8, depth(ahead), move |step| loader.batch_at(step)).unwrap();
            let items: Vec<_> = items.map(Result::unwrap).collect();
            assert_eq!(items, expected[start as usize..]);
        }
    }

    #[test]
    fn it_ends_after_the_last_step() {
        let mut items = prefetch(3..5, depth(4), square).unwrap();
        assert_eq!(items.by_ref().collect::<Result<Vec<_>, _>>(), Ok(vec![9, 16]));
        assert_eq!(items.next(), None);
    }

    #[test]
    fn an_error_arrives_in_its_place_and_ends_the_items() {
        let produce = |step| {
            if step == 2 { Err(format!("step {step}")) } else { square(step) }
        };
        let items: Vec<_> = prefetch(0.., depth(2), produce).unwrap().collect();
        assert_eq!(items, [Ok(0), Ok(1), Err("step 2".to_owned())]);
    }

    #[test]
    fn it_works_ahead_without_being_asked() {
        for ahead in 1..4 {
            let (begun, begins) = channel();
            let items = prefetch(0.., depth(ahead), move |step| {
                let _ = begun.send(step);
                square(step)
            });
            assert_eq!(begins.iter().take(ahead).collect::<Vec<_>>(), (0..ahead as u64).collect::<Vec<_>>());
            drop(items);
        }
    }

    #[test]
    fn it_stays_within_its_depth_and_stops_when_dropped() {
        for ahead in 1..4 {
            let produced = Arc::new(AtomicU64::new(0));
            let counter = produced.clone();
            let mut items = prefetch(0.., depth(ahead), move |step| {
                counter.fetch_add(1, Ordering::SeqCst);
                square(step)
            })
            .unwrap();
            assert_eq!(items.next(), Some(Ok(0)));
            drop(items);
            // The thread holds the other one.
            let begun = Instant::now();
            while Arc::strong_count(&produced) > 1 {
                assert!(begun.elapsed() < Duration::from_secs(60), "the thread goes on");
                thread::yield_now();
            }
            // One taken, `depth` finished, and one more that a send to the dropped receiver cut off.
            let after = produced.load(Ordering::SeqCst);
            assert!(after <= ahead as u64 + 2, "{after} at depth {ahead}");
        }
    }

    #[test]
    fn neither_a_stop_nor_the_end_waits_for_the_item_that_is_made() {
        let (finish, finished) = channel::<()>();
        let mut items = prefetch(0.., depth(1), move |step| {
            if step == 1 {
                // Until the sender is dropped.
                let _ = finished.recv();
            }
            square(step)
        })
        .unwrap();
        assert_eq!(items.next(), Some(Ok(0)));
        let mut asked = 0;
        let stop = || {
            asked += 1;
            asked == 3
        };
        assert_eq!(items.next_unless(stop), None);
        assert_eq!(asked, 3);
        drop(items);
        drop(finish);
    }

    #[test]
    fn a_stop_loses_nothing() {
        let (finish, finished) = channel::<()>();
        let mut items = prefetch(0..2, depth(1), move |step| {
            let _ = finished.recv();
            square(step)
        })
        .unwrap();
        assert_eq!(items.next_unless(|| true), None);
        drop(finish);
        assert_eq!(items.collect::<Result<Vec<_>, _>>(), Ok(vec![0, 1]));
    }

    #[test]
    #[should_panic(expected = "bad step 1")]
    fn a_panic_is_passed_on() {
        let produce = |step| {
            if step == 1 { panic!("bad step {step}") } else { square(step) }
        };
        prefetch(0.., depth(1), produce).unwrap().for_each(drop);
    }
}
