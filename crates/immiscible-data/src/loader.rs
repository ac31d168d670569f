use std::sync::Arc;

use immiscible_random::{Key, Stream};
use ndarray::{ArcArray, Array, Array2, Array4, Axis, Dimension, Ix3, Ix4};
use rayon::prelude::*;

use crate::fit::CENTER;
use crate::memory::Lent;
use crate::{DataError, Images, Order, Source};

/// Samples read together.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The images, as their data set has them. Their memory is shared with the [`Loader`], which takes that of a large batch for a
    /// later one when nobody else has it any more; until then, whoever changes them changes a copy.
    pub images: Images,
    /// A label for each image, where the data set has labels.
    pub labels: Option<Vec<u32>>,
    /// Index of each image in its [`Source`].
    pub index: Vec<u64>,
    /// The values of each image that count when it is compared, `[B, D]`; all if absent.
    pub mask: Option<Array2<bool>>,
}

impl Batch {
    /// Reads the samples `index` of `source`, in this order and unflipped, on all threads of the current rayon pool.
    ///
    /// # Errors
    /// Those of [`Source::read`].
    pub fn read(source: &dyn Source, index: Vec<u64>) -> Result<Self, DataError> {
        let images = read_images(source, &index, &Lent::default(), |_| CENTER, |_| false)?;
        Ok(Self { images, labels: labels(source, &index), index, mask: None })
    }

    /// Multiplies the images.
    pub fn scale(&mut self, scale: f64) {
        self.images.multiply(scale as f32);
    }
}

fn labels(source: &dyn Source, index: &[u64]) -> Option<Vec<u32>> {
    source.classes()?;
    index.iter().map(|&index| source.label(to_usize(index))).collect()
}

/// The samples `index`, each of the part that `place` says, and mirrored if it is `flipped`.
fn read_images(
    source: &dyn Source,
    index: &[u64],
    lent: &Lent,
    place: impl Fn(u64) -> [f32; 2] + Sync,
    flipped: impl Fn(u64) -> bool + Sync,
) -> Result<Images, DataError> {
    let [c, h, w] = source.shape();
    let rows = index.len();
    match source.pixels() {
        Some(pixels) => {
            let read = |index, out: &mut [_]| {
                pixels.read_pixels(to_usize(index), place(index), out)?;
                mirror_if(flipped(index), out, w);
                Ok(())
            };
            let pixels = read_each(lent.pixels.take(rows * h * w), Ix3(rows, h, w), index, read)?;
            Ok(Images::Pixels { pixels, scale: 1.0 })
        }
        None => {
            let read = |index, out: &mut [_]| {
                source.read_crop(to_usize(index), place(index), out)?;
                mirror_if(flipped(index), out, w);
                Ok(())
            };
            let values = lent.values.take(rows * c * h * w);
            Ok(Images::Values(read_each(values, Ix4(rows, c, h, w), index, read)?))
        }
    }
}

/// Mirrors rows of so many values left to right.
fn mirror_if<T>(flipped: bool, rows: &mut [T], width: usize) {
    if flipped {
        rows.chunks_exact_mut(width.max(1)).for_each(<[T]>::reverse);
    }
}

/// One after the other into memory that was made for them.
fn read_each<T: Clone + Send, D: Dimension>(
    mut values: Vec<T>,
    shape: D,
    index: &[u64],
    read: impl Fn(u64, &mut [T]) -> Result<(), DataError> + Sync,
) -> Result<ArcArray<T, D>, DataError> {
    let image = shape.size() / index.len().max(1);
    values
        .par_chunks_exact_mut(image.max(1))
        .zip(index)
        .try_for_each(|(image, &index)| read(index, image))?;
    Ok(Array::from_shape_vec(shape, values).expect("the buffer was made for this shape").into_shared())
}

/// An index that does not fit names no sample, and neither does `usize::MAX`.
fn to_usize(index: u64) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}

/// How a [`Loader`] draws batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Samples in a batch.
    pub batch_size: usize,
    /// Seed of the order and of the flips.
    pub seed: u64,
    /// Mirrors each image left to right with probability 1/2, drawn for each (seed, epoch, sample).
    pub flip: bool,
}

/// Reads the batch of any step. The batch is a function of the data set, the options and the step: asking again, in
/// another order or in another process gives the same one.
///
/// Batches follow [`Order`]: shuffled epochs of whole batches, the incomplete last batch of an epoch dropped.
pub struct Loader {
    source: Arc<dyn Source>,
    order: Order,
    options: LoaderOptions,
    random_crops: bool,
    scale: f64,
    masks: Option<Array4<bool>>,
    lent: Lent,
}

impl Loader {
    /// Draws batches from `source`.
    ///
    /// # Errors
    /// Those of [`Order::new`]: the batch size must be 1 to the number of samples.
    pub fn new(source: impl Into<Arc<dyn Source>>, options: LoaderOptions) -> Result<Self, DataError> {
        let source = source.into();
        let order = Order::new(options.seed, source.len(), options.batch_size)?;
        Ok(Self {
            source,
            order,
            options,
            random_crops: false,
            scale: 1.0,
            masks: None,
            lent: Lent::default(),
        })
    }

    /// Reads each image at a place drawn for each (seed, epoch, sample), where it is larger than what is read.
    pub fn random_crops(mut self) -> Self {
        self.random_crops = true;
        self
    }

    /// Multiplies each image by `scale`.
    pub fn scaled(mut self, scale: f64) -> Self {
        self.scale = scale;
        self
    }

    /// Says which values of each sample count when it is compared, one mask for all samples or one for each. Masks are mirrored with
    /// their images. They may have another shape than those, where it is not images that are compared.
    ///
    /// # Shapes
    /// `[1, C, H, W]` or `[N, C, H, W]`
    ///
    /// # Errors
    /// [`DataError::Masks`] for another number of masks.
    pub fn masked(mut self, masks: Array4<bool>) -> Result<Self, DataError> {
        let (found, samples) = (masks.dim().0, self.source.len());
        if found != 1 && found != samples {
            return Err(DataError::Masks { found, samples });
        }
        self.masks = Some(masks);
        Ok(self)
    }

    /// The data set.
    pub fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }

    /// Which samples each step holds, without reading them.
    pub fn order(&self) -> &Order {
        &self.order
    }

    /// The batch of `step`.
    ///
    /// # Errors
    /// Those of [`Source::read`].
    pub fn batch_at(&self, step: u64) -> Result<Batch, DataError> {
        let (source, index) = (self.source.as_ref(), self.order.indices(step));
        let key = Key::new(self.options.seed).step(self.order.epoch(step));
        let place = |index| {
            let mut place = CENTER;
            if self.random_crops {
                key.stream(Stream::CROP).fill_uniforms(index, 2, &mut place);
            }
            place
        };
        let key_of_flips = key.stream(Stream::FLIP);
        let flipped = |index| self.options.flip && key_of_flips.uniform(index) < 0.5;
        let images = read_images(source, &index, &self.lent, place, flipped)?;
        let mut batch = Batch { images, labels: labels(source, &index), index, mask: None };
        batch.mask = self.masks.as_ref().map(|masks| {
            let (count, values) = (masks.dim().0, masks.len() / masks.dim().0.max(1));
            let mut counts = Vec::with_capacity(batch.index.len() * values);
            for &index in &batch.index {
                let start = counts.len();
                counts.extend(masks.index_axis(Axis(0), if count == 1 { 0 } else { to_usize(index) }));
                mirror_if(flipped(index), &mut counts[start..], masks.dim().3);
            }
            Array2::from_shape_vec((batch.index.len(), values), counts)
                .expect("as many values for each image")
        });
        batch.scale(self.scale);
        self.lent.keep(&batch.images);
        Ok(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::InMemory;

    /// Twelve images of 1×2×3 that hold their own index in the first pixel of each row, then distinct values.
    fn source() -> Arc<dyn Source> {
        let pixels = (0..12u8).flat_map(|i| [i, 100, 200, i, 50, 150]).collect();
        let classes = ["even", "odd"].map(str::to_owned).to_vec();
        let source = InMemory::new("twelve", [1, 2, 3], pixels).unwrap();
        Arc::new(source.with_labels((0..12).map(|i| i % 2).collect(), classes).unwrap())
    }

    fn loader(seed: u64, flip: bool) -> Loader {
        Loader::new(source(), LoaderOptions { batch_size: 5, seed, flip }).unwrap()
    }

    #[test]
    fn images_labels_and_indices_belong_together() {
        let batch = loader(3, false).batch_at(7).unwrap();
        assert_eq!(batch.images.dim(), [5, 1, 2, 3]);
        let images = batch.images.values();
        for (row, &index) in batch.index.iter().enumerate() {
            assert_eq!(images[[row, 0, 0, 0]], index as f32 / 127.5 - 1.0);
            assert_eq!(batch.labels.as_ref().unwrap()[row], index as u32 % 2);
        }
    }

    #[test]
    fn masks_are_those_of_the_samples_and_mirrored_with_them() {
        // What is masked are the pixels of value 100, and those of the sample's own index in odd samples.
        let mask = |i: u8| [i.is_multiple_of(2), false, true, i.is_multiple_of(2), true, true];
        let masks = Array4::from_shape_vec((12, 1, 2, 3), (0..12).flat_map(mask).collect()).unwrap();
        let level = |v: u8| f32::from(v) / 127.5 - 1.0;
        let mut mirrored = 0;
        for step in 0..20 {
            let batch = loader(3, true).masked(masks.clone()).unwrap().batch_at(step).unwrap();
            let counts = batch.mask.unwrap();
            for ((image, counts), index) in
                batch.images.values().outer_iter().zip(counts.rows()).zip(&batch.index)
            {
                mirrored += usize::from(image[[0, 0, 0]] == level(200));
                for (&value, &counts) in image.iter().zip(counts) {
                    let own = value == level(*index as u8);
                    assert_eq!(counts, value != level(100) && !(own && index % 2 == 1), "{index}: {value}");
                }
            }
        }
        assert!((20..80).contains(&mirrored), "{mirrored}");
        let one = masks.slice_axis(Axis(0), ndarray::Slice::from(1..2)).to_owned();
        let batch = loader(3, false).masked(one).unwrap().batch_at(0).unwrap();
        assert!(batch.mask.unwrap().rows().into_iter().all(|row| row.to_vec() == mask(1)));
        let two = masks.slice_axis(Axis(0), ndarray::Slice::from(..2)).to_owned();
        let error = loader(3, false).masked(two).err().unwrap().to_string();
        assert!(error.contains("2 masks") && error.contains("12 samples"), "{error}");
    }

    #[test]
    fn a_scale_multiplies_what_is_read() {
        let (plain, scaled) =
            (loader(3, true).batch_at(4).unwrap(), loader(3, true).scaled(2.0).batch_at(4).unwrap());
        assert_eq!(scaled.images.values(), 2.0 * &plain.images.values());
        assert_eq!((scaled.labels, scaled.index), (plain.labels, plain.index));
    }

    #[test]
    fn a_batch_depends_on_seed_and_step_alone() {
        let forward = loader(3, true);
        let batches: Vec<Batch> = (0..9).map(|step| forward.batch_at(step).unwrap()).collect();
        for step in [8, 0, 5, 5, 2] {
            assert_eq!(loader(3, true).batch_at(step).unwrap(), batches[step as usize]);
        }
        assert_ne!(loader(4, true).batch_at(0).unwrap().index, batches[0].index);
    }

    #[test]
    fn large_batches_use_memory_again_and_hold_their_own_images() {
        let pixels = (0..9u8).flat_map(|i| std::iter::repeat_n(28 * i, 1 << 20)).collect();
        let source: Arc<dyn Source> = Arc::new(InMemory::new("large", [1, 1024, 1024], pixels).unwrap());
        let loader =
            Loader::new(source, LoaderOptions { batch_size: 8, seed: 3, flip: true }).unwrap().scaled(2.0);
        let holds_its_own = |batch: &Batch| {
            batch.images.values().outer_iter().zip(&batch.index).all(|(image, &index)| {
                image.iter().all(|&value| value == 2.0 * (28.0 * index as f32 / 127.5 - 1.0))
            })
        };
        let first = loader.batch_at(0).unwrap();
        let kept = loader.batch_at(1).unwrap();
        let at = first.images.values().as_ptr();
        drop(first);
        let third = loader.batch_at(2).unwrap();
        assert_eq!(third.images.values().as_ptr(), at);
        assert!(holds_its_own(&kept) && holds_its_own(&third));
    }

    #[test]
    fn a_flip_mirrors_whole_images_by_sample_and_epoch() {
        let (plain, flipped) = (loader(3, false), loader(3, true));
        let mut mirrored = 0;
        for step in 0..200 {
            let (plain, flipped) = (plain.batch_at(step).unwrap(), flipped.batch_at(step).unwrap());
            assert_eq!((plain.labels, &plain.index), (flipped.labels, &flipped.index));
            for (before, after) in
                plain.images.values().outer_iter().zip(flipped.images.values().outer_iter())
            {
                let mut mirror = before;
                mirror.invert_axis(Axis(2));
                let is_mirrored = after == mirror;
                assert!(is_mirrored || after == before);
                mirrored += usize::from(is_mirrored);
            }
        }
        // 1000 draws of probability 1/2: six standard deviations are 95.
        assert!((405..=595).contains(&mirrored), "{mirrored} of 1000");
    }

    #[test]
    fn flips_of_a_sample_do_not_depend_on_the_batch_size() {
        let whole = |batch_size| {
            let loader = Loader::new(source(), LoaderOptions { batch_size, seed: 9, flip: true }).unwrap();
            let mut images: Vec<(u64, Vec<f32>)> = (0..12 / batch_size as u64)
                .map(|step| loader.batch_at(step).unwrap())
                .flat_map(|batch| {
                    let images = batch.images.values();
                    let images = images.outer_iter().map(|image| image.iter().copied().collect());
                    batch.index.iter().copied().zip(images.collect::<Vec<_>>()).collect::<Vec<_>>()
                })
                .collect();
            images.sort_by_key(|(index, _)| *index);
            images
        };
        assert_eq!(whole(12), whole(3));
    }

    #[test]
    fn an_index_beyond_the_end_is_an_error() {
        let error = Batch::read(source().as_ref(), vec![0, 12]).unwrap_err();
        assert_eq!(error.to_string(), "sample 12 does not exist: there are 12, counted from 0");
        assert!(Batch::read(source().as_ref(), vec![u64::MAX]).is_err());
    }
}
