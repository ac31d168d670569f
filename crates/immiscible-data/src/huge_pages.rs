//! Memory of large batches.

/// Asks Linux for large pages under values that nobody has touched yet. A large batch is new memory every time, because allocators
/// give blocks of that size back; with 512 times as few pages it is there earlier. Nowhere else does this do anything, and nothing
/// depends on it.
#[cfg(target_os = "linux")]
pub(crate) fn ask_for(values: &mut [f32]) {
    use rustix::mm::{Advice, madvise};

    /// A large page, where the others have 4 KiB.
    const LARGE: usize = 2 << 20;
    /// Below this, allocators reuse their memory.
    const SMALLEST: usize = 32 << 20;
    if size_of_val(values) < SMALLEST {
        return;
    }
    let start = values.as_mut_ptr().cast::<u8>();
    let skipped = start.align_offset(LARGE);
    let bytes = (size_of_val(values) - skipped) / LARGE * LARGE;
    // SAFETY: the whole pages from `start + skipped` on are inside of `values`, and this advice changes no content.
    #[expect(unsafe_code, reason = "other advice could change the content")]
    let _ = unsafe { madvise(start.add(skipped).cast(), bytes, Advice::LinuxHugepage) };
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn ask_for(_: &mut [f32]) {}
