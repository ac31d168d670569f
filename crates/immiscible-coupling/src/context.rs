use ndarray::ArrayView2;

/// The coupling's own view of a batch: what it may look at besides the images.
///
/// Row `i` of every part belongs to image `i`.
#[derive(Clone, Copy, Debug, Default)]
pub struct PairContext<'a> {
    /// Class labels. Class-wise couplings pair inside each label only, which keeps the noise independent of the
    /// label.
    pub labels: Option<&'a [u32]>,
    /// Stable sample indices in the data set, for messages and for couplings that keep a state per sample.
    pub index: Option<&'a [u64]>,
    /// Groups that must never exchange noise (images of equal shape, say), on top of `labels`.
    pub group: Option<&'a [u32]>,
    /// The coordinates `[B, D]` that count when images and noises are compared: not an image's padding, say, which would
    /// otherwise outweigh it. `None` is all.
    pub mask: Option<ArrayView2<'a, bool>>,
    /// `[C, H, W]` of an image, for couplings that ask where in an image a value is; a draw on a device knows it without.
    pub shape: Option<[usize; 3]>,
}
