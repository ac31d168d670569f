//! `npz`: images and labels in one archive of arrays, as `numpy.savez` and `numpy.savez_compressed` write it.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use zip::CompressionMethod;
use zip::read::ZipArchive;
use zip::result::ZipError;

use super::array::{Array, Images};
use super::short;
use crate::bytes::{Bytes, Reader, inside};
use crate::file::MAX_BYTES;
use crate::{DataError, DataOptions, Source, npy};

/// What the arrays are called, the preferred name first.
const IMAGES: [&str; 4] = ["images", "x", "x_train", "arr_0"];
const LABELS: [&str; 4] = ["labels", "y", "y_train", "arr_1"];
/// More members than any such archive has.
const MAX_MEMBERS: usize = 1024;

pub(crate) fn build(options: &DataOptions) -> Result<Box<dyn Source>, DataError> {
    options.allow(&["path", "range", "layout"])?;
    let path = options.require_path("the .npz file with images and labels")?;
    let (images, bytes, labels) = open(Bytes::open(path)?, path, options)?;
    Ok(Box::new(Array::new(options, images, bytes, labels)?))
}

type Parts = (Images, Bytes, Option<(PathBuf, Vec<u32>)>);

pub(crate) fn open(bytes: Bytes, path: &Path, options: &DataOptions) -> Result<Parts, DataError> {
    let broken = |error: ZipError| broken(path, error);
    let mut archive = ZipArchive::new(bytes.reader()).map_err(broken)?;
    if archive.len() > MAX_MEMBERS {
        let reason = format!("holds {} arrays, and at most {MAX_MEMBERS} are taken", archive.len());
        return Err(DataError::Format { path: path.into(), reason });
    }
    let named = |archive: &ZipArchive<Reader>, names: &[&str]| {
        names.iter().map(|name| format!("{name}.npy")).find(|name| archive.index_for_name(name).is_some())
    };
    let Some(name) = named(&archive, &IMAGES) else {
        let names = archive.file_names().take(8).filter_map(Result::ok);
        let found: Vec<_> = names.map(|name| name.trim_end_matches(".npy").to_owned()).collect();
        let found = found.join(", ").chars().take(200).collect::<String>();
        let reason = format!("has no array called {}; it has {found:?}", IMAGES.join(", "));
        return Err(DataError::Format { path: path.into(), reason });
    };
    let values = member(&mut archive, &bytes, path, &name)?;
    let images = Images::open(&values, &inside(path, &name), options)?;
    let labels = match named(&archive, &LABELS) {
        Some(name) => {
            let bytes = member(&mut archive, &bytes, path, &name)?;
            let path = inside(path, &name);
            let labels = npy::decode_labels(bytes.reader(), &path)?;
            Some((path, labels))
        }
        None => None,
    };
    Ok((images, values, labels))
}

/// One array: where it lies if it is stored as it is, decompressed into memory if not.
fn member(
    archive: &mut ZipArchive<Reader>,
    whole: &Bytes,
    path: &Path,
    name: &str,
) -> Result<Bytes, DataError> {
    let mut file = archive.by_name(name).map_err(|error| broken(path, error))?;
    if file.compression() == CompressionMethod::Stored {
        let part = file.data_start().and_then(|start| whole.slice(start, file.size()));
        return part.ok_or_else(|| broken(path, ZipError::InvalidArchive("it ends too early".into())));
    }
    let mut bytes = Vec::new();
    let limit = MAX_BYTES + 1;
    let len = (&mut file).take(limit).read_to_end(&mut bytes).map_err(|error| broken(path, error.into()))?;
    if len as u64 == limit {
        return Err(DataError::TooLarge { path: inside(path, name), limit: MAX_BYTES });
    }
    Ok(Bytes::of_memory(bytes))
}

fn broken(path: &Path, error: ZipError) -> DataError {
    match error {
        ZipError::Io(source)
            if !matches!(
                source.kind(),
                ErrorKind::UnexpectedEof
                    | ErrorKind::InvalidData
                    | ErrorKind::InvalidInput
                    | ErrorKind::Other
            ) =>
        {
            DataError::Io { path: path.into(), source }
        }
        error => {
            let reason = short(&error);
            DataError::Format { path: path.into(), reason: format!("is no complete npz archive ({reason})") }
        }
    }
}
