//! Memory of large batches. New memory is dear: allocators give blocks of this size back, and the system clears every page of the
//! next one, which takes as long as decoding images of 3×256×256 where these are real numbers. So it is used again, and large pages
//! are asked for.

use crate::Images;
use ndarray::{ArcArray, Dimension, Ix3, Ix4};
use std::sync::{Mutex, PoisonError};

/// Below this, allocators reuse their memory themselves; above, that depends on what lies behind it.
const SMALLEST_BYTES: usize = 1 << 20;
/// From here on large pages are worth asking for.
const LARGE_BYTES: usize = 32 << 20;

/// Batches of which somebody may still have the images.
#[derive(Default)]
pub(crate) struct Lent {
    pub(crate) values: Pool<f32, Ix4>,
    pub(crate) pixels: Pool<[u8; 3], Ix3>,
}

impl Lent {
    /// Remembers images, if they are large.
    pub(crate) fn keep(&self, images: &Images) {
        match images {
            Images::Values(values) => self.values.keep(values),
            Images::Pixels { pixels, .. } => self.pixels.keep(pixels),
        }
    }
}

/// Those whose images are of one kind.
pub(crate) struct Pool<T, D>(Mutex<Vec<ArcArray<T, D>>>);

impl<T, D> Default for Pool<T, D> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Copy + Default, D: Dimension> Pool<T, D> {
    /// Any values: those of a batch that nobody has any more, if there is one of this length, or zeros in new memory. Whatever
    /// else nobody has is given back to the system.
    pub(crate) fn take(&self, len: usize) -> Vec<T> {
        let mut lent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = None;
        for images in std::mem::take(&mut *lent) {
            match images.try_into_owned_nocopy() {
                Ok(images) if images.len() == len => free = Some(images.into_raw_vec_and_offset().0),
                Ok(_) => {}
                Err(images) => lent.push(images),
            }
        }
        drop(lent);
        free.filter(|values| values.len() == len).unwrap_or_else(|| fresh(len))
    }

    fn keep(&self, images: &ArcArray<T, D>) {
        if images.len() * size_of::<T>() >= SMALLEST_BYTES {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(images.clone());
        }
    }
}

/// Zeros.
pub(crate) fn fresh<T: Copy + Default>(len: usize) -> Vec<T> {
    let mut values = vec![T::default(); len];
    if size_of_val(&*values) >= LARGE_BYTES {
        ask_for_large_pages(&mut values);
    }
    values
}

/// Asks Linux for large pages under values that nobody has touched yet: with 512 times as few pages they are there earlier.
/// Nowhere else does this do anything, and nothing depends on it.
#[cfg(target_os = "linux")]
fn ask_for_large_pages<T>(values: &mut [T]) {
    use rustix::mm::{Advice, madvise};

    /// A large page, where the others have 4 KiB.
    const LARGE: usize = 2 << 20;
    let start = values.as_mut_ptr().cast::<u8>();
    let skipped = start.align_offset(LARGE);
    let bytes = (size_of_val(values) - skipped) / LARGE * LARGE;
    // SAFETY: the whole pages from `start + skipped` on are inside of `values`, and this advice changes no content.
    #[expect(unsafe_code, reason = "other advice could change the content")]
    let _ = unsafe { madvise(start.add(skipped).cast(), bytes, Advice::LinuxHugepage) };
}

#[cfg(not(target_os = "linux"))]
fn ask_for_large_pages<T>(_: &mut [T]) {}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array4;

    const SHAPE: (usize, usize, usize, usize) = (SMALLEST_BYTES / size_of::<f32>() / 1024, 1, 32, 32);

    fn lend(lent: &Pool<f32, Ix4>) -> ArcArray<f32, Ix4> {
        let values = lent.take(SMALLEST_BYTES / size_of::<f32>());
        let images = Array4::from_shape_vec(SHAPE, values).unwrap().into_shared();
        lent.keep(&images);
        images
    }

    #[test]
    fn memory_of_a_batch_is_used_again_once_nobody_has_it() {
        let lent = Pool::default();
        let [first, second] = [lend(&lent), lend(&lent)];
        assert_ne!(first.as_ptr(), second.as_ptr());
        let (at, copy) = (first.as_ptr(), first.clone());
        drop(first);
        let third = lend(&lent);
        assert_ne!(third.as_ptr(), at, "a copy is still there");
        drop(copy);
        assert_eq!(lend(&lent).as_ptr(), at);
        drop((second, third));
        // Three were free, of which one was taken and two given back.
        let _fourth = lend(&lent);
        assert_eq!(lent.0.lock().unwrap().len(), 1);
    }

    #[test]
    fn another_length_and_small_batches_are_new() {
        let lent = Pool::default();
        drop(lend(&lent));
        assert_eq!(lent.take(7), [0.0; 7]);
        lent.keep(&Array4::zeros((2, 1, 2, 2)).into_shared());
        assert!(lent.0.lock().unwrap().is_empty());
    }
}
