//! The parsers behind the formats, for the fuzzer alone: bytes in, a data set or one clear error out.

use std::path::Path;

use crate::bytes::Bytes;
use crate::sources::encoded::Encoded;
use crate::sources::{array::Array, cifar, idx, latents::Latents, npz, tar::Shards};
use crate::{DataError, DataOptions, Source};

type Parsed = Result<Box<dyn Source>, DataError>;

/// Reads from what was parsed: what is wrong is said in one line, and labels are those of classes.
pub fn read(parsed: Parsed) {
    let source = match parsed {
        Ok(source) => source,
        Err(error) => return one_line(&error),
    };
    let mut out = vec![0.0; source.shape().iter().product()];
    for index in [0, source.len() / 2, source.len() - 1] {
        if let Err(error) = source.read(index, &mut out) {
            one_line(&error);
        }
        if let (Some(label), Some(classes)) = (source.label(index), source.classes()) {
            assert!((label as usize) < classes.len());
        }
    }
}

/// A message of one line that names what is wrong, and not all that was read.
pub fn one_line(error: &DataError) {
    let text = error.to_string();
    assert!(text.lines().count() == 1 && text.len() < 2000, "{text}");
}

/// An IDX file of images, and one of labels, told by their first bytes.
pub fn idx(bytes: &[u8]) {
    let _ = idx::images(bytes.to_vec()).map(|(shape, values)| {
        assert!(values.len().is_multiple_of(shape.iter().product()));
        assert!(values.len() < bytes.len());
    });
    let _ = idx::labels(bytes.to_vec()).map(|labels| assert!(labels.len() < bytes.len()));
}

/// Records and archives of CIFAR.
pub fn cifar(bytes: &[u8]) -> [Result<usize, DataError>; 2] {
    cifar::fuzz(bytes, Path::new("x.tar.gz"))
}

/// An archive of arrays.
pub fn npz(bytes: &[u8], options: &DataOptions) -> Parsed {
    let (images, values, labels) = npz::open(Bytes::of_memory(bytes.to_vec()), Path::new("x.npz"), options)?;
    Ok(Box::new(Array::new(options, images, values, labels)?))
}

/// A file of latents.
pub fn latents(bytes: &[u8]) -> Parsed {
    Ok(Box::new(Latents::open(Bytes::of_memory(bytes.to_vec()), Path::new("x.safetensors"), "latents")?))
}

/// A shard of images.
pub fn tar(bytes: &[u8]) -> Parsed {
    let options = DataOptions { image_size: Some(4), max_bad: Some(1.0), ..DataOptions::new("tar") };
    let mut shards = Shards::default();
    shards.add(Bytes::of_memory(bytes.to_vec()), "x.tar".into())?;
    let labels = shards.labels(Path::new("x.tar"))?;
    Ok(Box::new(Encoded::open(&options, Box::new(shards), labels)?))
}
