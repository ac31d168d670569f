//! `cifar10`, `cifar100`: the binary versions of CIFAR (A. Krizhevsky, "Learning Multiple Layers of Features from Tiny
//! Images", 2009). A record is one label byte, or for CIFAR-100 a coarse and a fine one, and the red, green and blue
//! planes of 32×32 bytes. `records` are such files of other square images.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use super::{numbered, short};
use crate::bytes::inside;
use crate::file::{self, MAX_BYTES};
use crate::image_file::MAX_SIDE;
use crate::{DataError, DataOptions, InMemory, LabelKind, Source, Split};

/// What the files of a data set are called, and how its records look.
struct Kind {
    /// The archive in which it is published.
    archive: &'static str,
    /// How the names of the files of a split begin.
    train: &'static str,
    test: &'static str,
    side: usize,
    /// Bytes before the pixels, and which of them is the label.
    label_bytes: usize,
    label: usize,
    /// As many classes as the labels say if empty.
    classes: &'static [&'static str],
}

const KIND_10: Kind = Kind {
    archive: "cifar-10-binary.tar.gz",
    train: "data_batch",
    test: "test_batch",
    side: 32,
    label_bytes: 1,
    label: 0,
    classes: &CIFAR_10,
};

pub(crate) fn build_10(options: &DataOptions) -> Result<Box<dyn Source>, DataError> {
    options.allow(&["path", "split"])?;
    let path = options.require_path(
        "cifar-10-binary.tar.gz, the folder with data_batch_1.bin … data_batch_5.bin, or one such file",
    )?;
    load(options, path, &KIND_10)
}

pub(crate) fn build_100(options: &DataOptions) -> Result<Box<dyn Source>, DataError> {
    options.allow(&["path", "split", "labels"])?;
    let path = options
        .require_path("cifar-100-binary.tar.gz, the folder with train.bin and test.bin, or one such file")?;
    load(options, path, &kind_100(options.labels.unwrap_or_default()))
}

fn kind_100(labels: LabelKind) -> Kind {
    let fine = labels == LabelKind::Fine;
    Kind {
        archive: "cifar-100-binary.tar.gz",
        train: "train",
        test: "test",
        side: 32,
        label_bytes: 2,
        label: usize::from(fine),
        classes: if fine { &CIFAR_100 } else { &CIFAR_100_COARSE },
    }
}

/// One file of records, whose side in pixels the options tell.
pub(crate) fn build_records(options: &DataOptions) -> Result<Box<dyn Source>, DataError> {
    options.allow(&["path", "split", "image_size"])?;
    let path = options.require_path(
        "the folder with files of records: a label byte and the red, green and blue bytes of an image",
    )?;
    let size = options.image_size.unwrap_or(32);
    let side = u32::try_from(size).ok().filter(|side| (1..=MAX_SIDE).contains(side));
    let side = side.ok_or(DataError::ImageSizeOption { size, max: MAX_SIDE })? as usize;
    let kind = Kind {
        archive: "records.tar.gz",
        train: "train",
        test: "test",
        side,
        label_bytes: 1,
        label: 0,
        classes: &[],
    };
    load(options, path, &kind)
}

fn load(options: &DataOptions, path: &Path, kind: &Kind) -> Result<Box<dyn Source>, DataError> {
    let split = options.split.unwrap_or(Split::Train);
    let is_archive = |path: &Path| {
        let name = path.to_string_lossy().to_lowercase();
        [".tar", ".tar.gz", ".tgz"].iter().any(|end| name.ends_with(end))
    };
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    let mut take = |path: PathBuf, bytes: Vec<u8>| {
        kind.parse(&bytes, &mut pixels, &mut labels).map_err(|reason| DataError::Format { path, reason })
    };
    let archive = path.join(kind.archive);
    if path.is_dir() {
        match kind.files(path, split) {
            Ok(files) => files.into_iter().try_for_each(|path| {
                let bytes = file::read(&path)?;
                take(path, bytes)
            })?,
            Err(DataError::NoFiles { .. }) if archive.is_file() => {
                kind.members(&archive, split)?.into_iter().try_for_each(|(path, bytes)| take(path, bytes))?;
            }
            Err(error) => return Err(error),
        }
    } else if is_archive(path) {
        kind.members(path, split)?.into_iter().try_for_each(|(path, bytes)| take(path, bytes))?;
    } else {
        let whole = DataOptions { split: None, ..options.clone() };
        if *options != whole {
            return Err(DataError::UnusedOption { name: options.name.clone(), option: "split" });
        }
        let bytes = file::read(path)?;
        take(path.into(), bytes)?;
    }
    let classes = match kind.classes {
        [] => numbered(path, labels.iter().copied().map(u32::from))?,
        names => names.iter().map(|&name| name.to_owned()).collect(),
    };
    let source = InMemory::new(&options.name, [3, kind.side, kind.side], pixels)?;
    Ok(Box::new(source.with_labels(labels, classes)?))
}

impl Kind {
    fn record(&self) -> usize {
        self.label_bytes + 3 * self.side * self.side
    }

    fn wanted(&self, split: Split) -> &'static str {
        match split {
            Split::Train => self.train,
            Split::Test => self.test,
        }
    }

    /// The files of a split in the order of their names, or where none has its name every other file of records. A file
    /// that is there both plain and compressed counts once.
    fn files(&self, folder: &Path, split: Split) -> Result<Vec<PathBuf>, DataError> {
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
        let wanted = self.wanted(split);
        let (named, mut other): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|(stem, _)| stem.starts_with(wanted));
        other.retain(|(stem, _)| split == Split::Train && !stem.starts_with(self.test));
        let selected = if named.is_empty() { other } else { named };
        if selected.is_empty() {
            let wanted = format!("{wanted}*.bin, {wanted}*.bin.gz or {}", self.archive);
            return Err(DataError::NoFiles { path: folder.into(), wanted });
        }
        Ok(selected.into_iter().map(|(_, path)| path).collect())
    }

    /// The files of a split inside an archive, in the order of their names.
    fn members(&self, archive: &Path, split: Split) -> Result<Vec<(PathBuf, Vec<u8>)>, DataError> {
        let io = |source| DataError::Io { path: archive.into(), source };
        let file = BufReader::new(File::open(archive).map_err(io)?);
        let gzip = archive.extension().is_some_and(|end| !end.eq_ignore_ascii_case("tar"));
        let members = match gzip {
            true => self.unpack(MultiGzDecoder::new(file), split, archive)?,
            false => self.unpack(file, split, archive)?,
        };
        if members.is_empty() {
            let wanted = format!("{}*.bin", self.wanted(split));
            return Err(DataError::NoFiles { path: archive.into(), wanted });
        }
        Ok(members)
    }

    fn unpack(
        &self,
        reader: impl Read,
        split: Split,
        archive: &Path,
    ) -> Result<Vec<(PathBuf, Vec<u8>)>, DataError> {
        let broken = |error: std::io::Error| {
            let error = short(&error);
            let reason = format!("is not a complete archive ({error})");
            DataError::Format { path: archive.into(), reason }
        };
        let too_large = || DataError::TooLarge { path: archive.into(), limit: MAX_BYTES };
        // What is passed over is decompressed too, and a bomb may be made of it.
        let mut tar = tar::Archive::new(reader.take(2 * MAX_BYTES));
        let (mut members, mut total) = (Vec::new(), 0);
        for entry in tar.entries().map_err(broken)? {
            let mut entry = entry.map_err(broken)?;
            let name = entry.path().map_err(broken)?.into_owned();
            let file = name.file_name().unwrap_or_default().to_string_lossy();
            let wanted = file.strip_suffix(".bin").is_some_and(|s| s.starts_with(self.wanted(split)));
            if !wanted || entry.header().entry_type() != tar::EntryType::Regular {
                continue;
            }
            total += entry.size();
            if total > MAX_BYTES {
                return Err(too_large());
            }
            let mut bytes = Vec::new();
            let len = entry.read_to_end(&mut bytes).map_err(broken)?;
            if len as u64 != entry.size() {
                return Err(broken(std::io::ErrorKind::UnexpectedEof.into()));
            }
            members.push((inside(archive, &name.to_string_lossy()), bytes));
        }
        // The check sum of the whole archive lies behind its last file.
        std::io::copy(&mut tar.into_inner(), &mut std::io::sink()).map_err(broken)?;
        members.sort();
        Ok(members)
    }

    /// Appends the records of one file, or says what is wrong with it.
    fn parse(&self, bytes: &[u8], pixels: &mut Vec<u8>, labels: &mut Vec<u8>) -> Result<(), String> {
        let record = self.record();
        if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
            return Err(format!("has {} bytes, not a whole number of records of {record}", bytes.len()));
        }
        pixels.reserve(bytes.len() / record * (record - self.label_bytes));
        for (index, record) in bytes.chunks_exact(record).enumerate() {
            let label = record[self.label];
            if !self.classes.is_empty() && usize::from(label) >= self.classes.len() {
                let most = self.classes.len() - 1;
                return Err(format!("has the label {label} in record {index} where there are 0 to {most}"));
            }
            labels.push(label);
            pixels.extend_from_slice(&record[self.label_bytes..]);
        }
        Ok(())
    }
}

const CIFAR_10: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
const CIFAR_100_COARSE: [&str; 20] = [
    "aquatic_mammals",
    "fish",
    "flowers",
    "food_containers",
    "fruit_and_vegetables",
    "household_electrical_devices",
    "household_furniture",
    "insects",
    "large_carnivores",
    "large_man-made_outdoor_things",
    "large_natural_outdoor_scenes",
    "large_omnivores_and_herbivores",
    "medium_mammals",
    "non-insect_invertebrates",
    "people",
    "reptiles",
    "small_mammals",
    "trees",
    "vehicles_1",
    "vehicles_2",
];
#[rustfmt::skip]
const CIFAR_100: [&str; 100] = [
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl",
    "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair",
    "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin",
    "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp",
    "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
    "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck",
    "pine_tree", "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road",
    "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider",
    "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television",
    "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf",
    "woman", "worm",
];

/// The records, and the archives, of CIFAR-10 and CIFAR-100: how many images there are.
#[cfg(fuzzing)]
pub(crate) fn fuzz(bytes: &[u8], path: &Path) -> [Result<usize, DataError>; 2] {
    [&KIND_10, &kind_100(LabelKind::Fine)].map(|kind| {
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        if kind.parse(bytes, &mut pixels, &mut labels).is_err() {
            for (_, bytes) in kind.unpack(MultiGzDecoder::new(bytes), Split::Train, path)? {
                let _ = kind.parse(&bytes, &mut pixels, &mut labels);
            }
            for (_, bytes) in kind.unpack(bytes, Split::Train, path)? {
                let _ = kind.parse(&bytes, &mut pixels, &mut labels);
            }
        }
        assert_eq!(pixels.len(), labels.len() * 3072);
        Ok(labels.len())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PIXELS: usize = 3 * 32 * 32;
    const RECORD: usize = 1 + PIXELS;

    fn read(bytes: &[u8]) -> Result<(Vec<u8>, Vec<u8>), String> {
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        KIND_10.parse(bytes, &mut pixels, &mut labels).map(|()| (pixels, labels))
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
        assert_eq!(read(&bytes).unwrap_err(), "has the label 10 in record 1 where there are 0 to 9");
    }

    #[test]
    fn cifar_100_has_two_labels() {
        let bytes = [&[7, 99][..], &[1; PIXELS], &[19, 3], &[2; PIXELS]].concat();
        for (kind, expected) in [(LabelKind::Fine, [99, 3]), (LabelKind::Coarse, [7, 19])] {
            let (mut pixels, mut labels) = (Vec::new(), Vec::new());
            kind_100(kind).parse(&bytes, &mut pixels, &mut labels).unwrap();
            assert_eq!(labels, expected);
            assert_eq!((pixels.len(), pixels[PIXELS - 1], pixels[PIXELS]), (2 * PIXELS, 1, 2));
        }
        assert!(CIFAR_100.is_sorted() && CIFAR_100_COARSE.is_sorted());
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
