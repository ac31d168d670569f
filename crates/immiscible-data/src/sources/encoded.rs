//! What data sets of encoded images have in common: they are decoded when they are read.

use std::path::PathBuf;

use rayon::prelude::*;

use crate::bytes::Bytes;
use crate::fit::{CENTER, Crop, Fit};
use crate::planes::planes;
use crate::source::check_request;
use crate::{DataError, DataOptions, ReadPixels, Source, image_file};

/// Where encoded images lie.
pub(crate) trait Store: Send + Sync {
    fn len(&self) -> usize;

    /// What image `index` is called in messages.
    fn path(&self, index: usize) -> PathBuf;

    fn bytes(&self, index: usize) -> Result<Bytes, DataError>;
}

/// Label of each image, and the names of the classes.
pub(crate) type Labels = (Vec<u32>, Vec<String>);

/// The options that every such data set has.
pub(crate) const OPTIONS: [&str; 4] = ["image_size", "resize", "crop", "max_bad"];

/// Images as RGB, upright by their EXIF orientation.
pub(crate) struct Encoded {
    name: String,
    store: Box<dyn Store>,
    labels: Option<Labels>,
    shape: [usize; 3],
    fit: Option<Fit>,
}

impl Encoded {
    /// Reads the header of every image now, so that what is no image shows before any work is done.
    pub(crate) fn open(
        options: &DataOptions,
        store: Box<dyn Store>,
        labels: Option<Labels>,
    ) -> Result<Self, DataError> {
        let fit =
            options.image_size.map(|side| Fit::new(side, options.resize.unwrap_or_default())).transpose()?;
        let unused = [("resize", options.resize.is_some()), ("crop", options.crop == Some(Crop::Random))];
        if let (None, Some((option, _))) = (fit, unused.into_iter().find(|(_, set)| *set)) {
            return Err(DataError::OptionNeeds { option, needs: "image_size" });
        }
        let most = options.most_bad(store.len())?;
        let size_of = |index| image_file::size(&store.bytes(index)?, &store.path(index));
        let sizes: Vec<_> = (0..store.len()).into_par_iter().map(size_of).collect();
        let first = sizes.iter().enumerate().find_map(|(index, size)| Some((index, *size.as_ref().ok()?)));
        let mut bad = Vec::new();
        for (index, size) in sizes.into_iter().enumerate() {
            let checked = match (size, first, fit) {
                (Ok(size), Some((first, wanted)), None) => same_size(&*store, index, size, first, wanted),
                (Ok(_), ..) => Ok(()),
                (Err(error), ..) => Err(error),
            };
            match checked {
                Err(error) if !error.is_damage() => return Err(error),
                Err(error) => bad.push(error),
                Ok(()) => {}
            }
        }
        DataError::unless_few(bad, most, store.len())?;
        let shape = match (fit, first) {
            (Some(Fit { side, .. }), _) => [3, side as usize, side as usize],
            (None, Some((_, (width, height)))) => [3, height as usize, width as usize],
            (None, None) => [3, 1, 1],
        };
        Ok(Self { name: options.name.clone(), store, labels, shape, fit })
    }
}

fn same_size(
    store: &dyn Store,
    index: usize,
    (width, height): (u32, u32),
    first: usize,
    (first_width, first_height): (u32, u32),
) -> Result<(), DataError> {
    if (width, height) == (first_width, first_height) {
        return Ok(());
    }
    let (path, first) = (store.path(index), store.path(first));
    Err(DataError::ImageSize { path, width, height, first, first_width, first_height })
}

impl Source for Encoded {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.store.len()
    }

    fn shape(&self) -> [usize; 3] {
        self.shape
    }

    fn classes(&self) -> Option<&[String]> {
        self.labels.as_ref().map(|(_, classes)| classes.as_slice())
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.labels.as_ref()?.0.get(index).copied()
    }

    fn place(&self, index: usize) -> Option<PathBuf> {
        (index < self.len()).then(|| self.store.path(index))
    }

    fn read(&self, index: usize, out: &mut [f32]) -> Result<(), DataError> {
        self.read_crop(index, CENTER, out)
    }

    fn read_crop(&self, index: usize, place: [f32; 2], out: &mut [f32]) -> Result<(), DataError> {
        check_request(self, index, out)?;
        let mut pixels = vec![[0; 3]; out.len() / 3];
        self.read_pixels(index, place, &mut pixels)?;
        planes(&pixels, out);
        Ok(())
    }

    fn pixels(&self) -> Option<&dyn ReadPixels> {
        Some(self)
    }
}

impl ReadPixels for Encoded {
    fn read_pixels(&self, index: usize, place: [f32; 2], out: &mut [[u8; 3]]) -> Result<(), DataError> {
        let out = out.as_flattened_mut();
        check_request(self, index, out)?;
        let [_, height, width] = self.shape.map(|size| size as u32);
        let (bytes, path) = (self.store.bytes(index)?, self.store.path(index));
        let Some(mut image) = image_file::decode_to(&bytes, &path, (width, height), out)? else {
            return Ok(());
        };
        if let Some(fit) = self.fit {
            image = fit.apply(image, place);
        }
        same_size(&*self.store, index, image.dimensions(), 0, (width, height))?;
        out.copy_from_slice(image.as_raw());
        Ok(())
    }
}
