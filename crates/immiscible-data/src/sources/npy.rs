//! `npy`: images in one array that NumPy saved, labels in another. The images stay on disk.

use super::array::{Array, Images};
use crate::bytes::Bytes;
use crate::{DataError, DataOptions, Source, npy};

pub(crate) fn build(options: &DataOptions) -> Result<Box<dyn Source>, DataError> {
    options.allow(&["path", "label_file", "range", "layout"])?;
    let path = options.require_path("the .npy file of the images")?;
    let bytes = Bytes::open(path)?;
    let images = Images::open(&bytes, path, options)?;
    let labels = options.label_file.as_ref().map(|path| Ok((path.clone(), npy::read_labels(path)?)));
    Ok(Box::new(Array::new(options, images, bytes, labels.transpose()?)?))
}
