//! `cifar10`: the binary version of CIFAR-10 (A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images",
//! 2009). A record is one label byte and the red, green and blue planes of 32×32 bytes.

use std::path::{Path, PathBuf};

use crate::file;
use crate::{DataError, DataOptions, InMemory, Source, Split};

const SHAPE: [usize; 3] = [3, 32, 32];
const PIXELS: usize = 3 * 32 * 32;
const RECORD: usize = 1 + PIXELS;
const CLASSES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

pub(crate) fn build(options: &DataOptions) -> Result<Box<dyn Source>, DataError> {
    let path = options.require_path("a folder with data_batch_1.bin … data_batch_5.bin, or one such file")?;
    let files = if path.is_dir() {
        options.allow(&["path", "split"])?;
        batches(path, options.split.unwrap_or(Split::Train))?
    } else {
        options.allow(&["path"])?;
        vec![path.to_owned()]
    };
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for path in files {
        let bytes = file::read(&path)?;
        parse(&bytes, &mut pixels, &mut labels).map_err(|reason| DataError::Format { path, reason })?;
    }
    let source = InMemory::new(&options.name, SHAPE, pixels)?;
    Ok(Box::new(source.with_labels(labels, CLASSES.map(str::to_owned).to_vec())?))
}

/// The files of a split in the order of their names: `test_batch`, or the `data_batch_`es, or where none has that name
/// every other batch. A file that is there both plain and compressed counts once.
fn batches(folder: &Path, split: Split) -> Result<Vec<PathBuf>, DataError> {
    let mut files: Vec<(String, PathBuf)> = Vec::new();
    for path in file::entries(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(stem) = name.strip_suffix(".bin").or_else(|| name.strip_suffix(".bin.gz"))
            && path.is_file()
        {
            files.push((stem.to_owned(), path));
        }
    }
    files.dedup_by(|(later, _), (earlier, _)| later == earlier);
    let (test, train): (Vec<_>, Vec<_>) = files.into_iter().partition(|(stem, _)| stem == "test_batch");
    let (selected, wanted) = match split {
        Split::Test => (test, "test_batch.bin or test_batch.bin.gz"),
        Split::Train => {
            let (named, other): (Vec<_>, Vec<_>) =
                train.into_iter().partition(|(stem, _)| stem.starts_with("data_batch_"));
            (if named.is_empty() { other } else { named }, "data_batch_*.bin or other *.bin or *.bin.gz")
        }
    };
    if selected.is_empty() {
        return Err(DataError::NoFiles { path: folder.into(), wanted: wanted.into() });
    }
    Ok(selected.into_iter().map(|(_, path)| path).collect())
}

/// Appends the records of one file, or says what is wrong with it.
fn parse(bytes: &[u8], pixels: &mut Vec<u8>, labels: &mut Vec<u8>) -> Result<(), String> {
    if bytes.is_empty() || !bytes.len().is_multiple_of(RECORD) {
        return Err(format!("has {} bytes, not a whole number of records of {RECORD}", bytes.len()));
    }
    pixels.reserve(bytes.len() / RECORD * PIXELS);
    for (record, chunk) in bytes.chunks_exact(RECORD).enumerate() {
        if usize::from(chunk[0]) >= CLASSES.len() {
            return Err(format!("has the label {} in record {record} where CIFAR-10 has 0 to 9", chunk[0]));
        }
        labels.push(chunk[0]);
        pixels.extend_from_slice(&chunk[1..]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Result<(Vec<u8>, Vec<u8>), String> {
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        parse(bytes, &mut pixels, &mut labels).map(|()| (pixels, labels))
    }

    #[test]
    fn records_are_split_into_label_and_planes() {
        let mut bytes = vec![3; 2 * RECORD];
        bytes[RECORD] = 9;
        bytes[RECORD + 1] = 200;
        let (pixels, labels) = read(&bytes).unwrap();
        assert_eq!(labels, [3, 9]);
        assert_eq!((pixels.len(), pixels[PIXELS], pixels[PIXELS + 1]), (2 * PIXELS, 200, 3));
    }

    #[test]
    fn a_label_beyond_the_classes_is_refused() {
        let mut bytes = vec![0; 2 * RECORD];
        bytes[RECORD] = 10;
        assert_eq!(read(&bytes).unwrap_err(), "has the label 10 in record 1 where CIFAR-10 has 0 to 9");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_length_is_read_or_refused(len in 0usize..4 * RECORD, whole: bool) {
            let len = if whole { len.div_ceil(RECORD) * RECORD } else { len };
            match read(&vec![1; len]) {
                Ok((pixels, labels)) => prop_assert_eq!(pixels.len() + labels.len(), len),
                Err(_) => prop_assert!(len == 0 || len % RECORD != 0),
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(seed: u64, records in 1usize..4) {
            let mut state = seed;
            let bytes: Vec<u8> = (0..records * RECORD)
                .map(|_| {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    (state >> 56) as u8
                })
                .collect();
            let valid = bytes.chunks(RECORD).all(|record| record[0] < 10);
            prop_assert_eq!(read(&bytes).is_ok(), valid);
        }
    }
}
