//! `idx`, `mnist`, `fashion-mnist`: the IDX files in which MNIST and its successors are published
//! (Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits").
//!
//! A file is two zero bytes, the type of the values (8: one unsigned byte), the number of dimensions, each dimension as
//! a big-endian u32, and the values.

use crate::file;
use crate::{DataError, DataOptions, InMemory, Source, Split};

const UNSIGNED_BYTE: u8 = 8;

/// Names of the classes of Fashion-MNIST (H. Xiao, K. Rasul, R. Vollgraf, arXiv:1708.07747, Table 2).
const FASHION_MNIST: [&str; 10] = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];

/// Any IDX pair; there are as many classes as the largest label says.
pub(crate) fn build(options: &DataOptions) -> Result<Box<dyn Source>, DataError> {
    load(options, None)
}

pub(crate) fn build_mnist(options: &DataOptions) -> Result<Box<dyn Source>, DataError> {
    load(options, Some(numbers(10)))
}

pub(crate) fn build_fashion_mnist(options: &DataOptions) -> Result<Box<dyn Source>, DataError> {
    load(options, Some(FASHION_MNIST.map(str::to_owned).to_vec()))
}

/// Class names `"0"`, `"1"`, …
pub(crate) fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|class| class.to_string()).collect()
}

fn load(options: &DataOptions, classes: Option<Vec<String>>) -> Result<Box<dyn Source>, DataError> {
    options.allow(&["path", "split"])?;
    let folder =
        options.require_path("the folder with train-images-idx3-ubyte and train-labels-idx1-ubyte")?;
    let prefix = match options.split.unwrap_or(Split::Train) {
        Split::Train => "train",
        Split::Test => "t10k",
    };
    let images_path = file::plain_or_gz(folder, &format!("{prefix}-images-idx3-ubyte"))?;
    let labels_path = file::plain_or_gz(folder, &format!("{prefix}-labels-idx1-ubyte"))?;
    let (shape, pixels) = images(file::read(&images_path)?)
        .map_err(|reason| DataError::Format { path: images_path.clone(), reason })?;
    let labels = labels(file::read(&labels_path)?)
        .map_err(|reason| DataError::Format { path: labels_path.clone(), reason })?;

    let source = InMemory::new(&options.name, shape, pixels)?;
    if labels.len() != source.len() {
        return Err(DataError::FileCounts {
            images_path,
            images: source.len(),
            labels_path,
            labels: labels.len(),
        });
    }
    let classes =
        classes.unwrap_or_else(|| numbers(labels.iter().max().map_or(0, |&label| usize::from(label) + 1)));
    Ok(Box::new(source.with_labels(labels, classes)?))
}

/// Shape `[1, H, W]` and bytes of an image file, at least one image, or what is wrong with it.
pub(crate) fn images(bytes: Vec<u8>) -> Result<([usize; 3], Vec<u8>), String> {
    let ([count, height, width], values) = parse(bytes)?;
    if values.is_empty() {
        return Err(format!("is empty: {count} images of {height}×{width} pixels"));
    }
    Ok(([1, height, width], values))
}

/// Values of a label file, or what is wrong with it.
pub(crate) fn labels(bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    let ([_], values) = parse(bytes)?;
    Ok(values)
}

/// Splits a file into its `N` dimensions and its values. Nothing is allocated: the values stay where they are, so a
/// header cannot ask for more than the file holds.
fn parse<const N: usize>(mut bytes: Vec<u8>) -> Result<([usize; N], Vec<u8>), String> {
    let header = 4 + 4 * N;
    if bytes.len() < header {
        return Err(format!("ends after {} bytes, within the {header} bytes of an IDX header", bytes.len()));
    }
    let magic = [0, 0, UNSIGNED_BYTE, N as u8];
    if bytes[..4] != magic {
        return Err(format!("starts with {:02x?} where IDX has {magic:02x?}", &bytes[..4]));
    }
    let dims = std::array::from_fn(|axis| {
        let at = 4 + 4 * axis;
        u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize
    });
    let (found, sizes) = (bytes.len() - header, dims.map(|dim| dim.to_string()).join("×"));
    match dims.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim)) {
        Some(expected) if expected == found => {}
        Some(expected) if expected < found => {
            return Err(format!("has {} bytes after its {sizes} values", found - expected));
        }
        _ => return Err(format!("declares {sizes} values but ends after {found}")),
    }
    bytes.drain(..header);
    Ok((dims, bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(dims: &[u32], values: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, UNSIGNED_BYTE, dims.len() as u8];
        bytes.extend(dims.iter().flat_map(|dim| dim.to_be_bytes()));
        bytes.extend(values);
        bytes
    }

    #[test]
    fn faults_are_named() {
        let message = |bytes| images(bytes).unwrap_err();
        assert_eq!(message(vec![0; 3]), "ends after 3 bytes, within the 16 bytes of an IDX header");
        assert_eq!(message(file(&[1, 1, 1], &[])), "declares 1×1×1 values but ends after 0");
        assert_eq!(message(file(&[1, 1, 1], &[1, 2])), "has 1 bytes after its 1×1×1 values");
        assert_eq!(message(file(&[0, 2, 2], &[])), "is empty: 0 images of 2×2 pixels");
        assert_eq!(
            message(file(&[u32::MAX; 3], &[1])),
            "declares 4294967295×4294967295×4294967295 values but ends after 1"
        );
        let mut labels_as_images = file(&[20], &[0; 20]);
        assert_eq!(
            message(labels_as_images.clone()),
            "starts with [00, 00, 08, 01] where IDX has [00, 00, 08, 03]"
        );
        assert_eq!(labels(labels_as_images.clone()), Ok(vec![0; 20]));
        labels_as_images[2] = 0x0d;
        assert_eq!(
            labels(labels_as_images).unwrap_err(),
            "starts with [00, 00, 0d, 01] where IDX has [00, 00, 08, 01]"
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(count in 1u32..5, height in 1u32..5, width in 1u32..5, fill: u8) {
            let values: Vec<u8> = (0..count * height * width).map(|i| fill.wrapping_add(i as u8)).collect();
            let (shape, read) = images(file(&[count, height, width], &values)).unwrap();
            prop_assert_eq!(shape, [1, height as usize, width as usize]);
            prop_assert_eq!(read, values);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), valid_magic: bool) {
            let mut bytes = bytes;
            if valid_magic && bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&[0, 0, UNSIGNED_BYTE, 3]);
            }
            let len = bytes.len();
            if let Ok((shape, values)) = images(bytes) {
                prop_assert_eq!(values.len() + 16, len);
                prop_assert_eq!(values.len() % shape.iter().product::<usize>(), 0);
            }
        }

        #[test]
        fn a_truncated_file_is_refused(cut in 0usize..28) {
            let mut bytes = file(&[3, 2, 2], &[9; 12]);
            bytes.truncate(cut);
            prop_assert!(images(bytes).is_err());
        }

        #[test]
        fn a_flipped_header_bit_is_refused(bit in 0usize..128) {
            let mut bytes = file(&[3, 2, 2], &[9; 12]);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(images(bytes).is_err());
        }
    }
}
