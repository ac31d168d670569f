//! Images of a batch on their way to the device.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use immiscible_data::Images;
use ndarray::{ArrayView3, Axis, Slice};
use std::ops::Range;

/// Puts some of the images on a device, `[B, C, H, W]`.
pub(crate) fn upload_images(images: &Images, rows: Range<usize>, device: &Device) -> Tensor<4> {
    let rows = Slice::from(rows);
    match images {
        Images::Values(values) => {
            let values = values.slice_axis(Axis(0), rows);
            let shape: [usize; 4] = values.dim().into();
            let (values, _) = values.as_standard_layout().into_owned().into_raw_vec_and_offset();
            Tensor::from_data(TensorData::new(values, shape), device)
        }
        Images::Pixels { pixels, scale } => {
            let pixels = pixels.slice_axis(Axis(0), rows);
            let (_, height, width) = pixels.dim();
            let together = (TOGETHER / (height * width).max(1)).max(1);
            let parts = pixels.axis_chunks_iter(Axis(0), together);
            match parts.map(|part| upload_pixels(part, *scale, device)).collect::<Vec<_>>() {
                parts if parts.is_empty() => Tensor::zeros([0, 3, height, width], device),
                parts => Tensor::cat(parts, 0),
            }
        }
    }
}

/// Pixels that become values together: on the way they take ten times as much memory as the values.
const TOGETHER: usize = 1 << 22;

/// What [`upload_images`] moves for an image, in bytes.
pub(crate) fn bytes_of_image(images: &Images) -> usize {
    let [_, channels, height, width] = images.dim();
    let values = channels * height * width;
    match images {
        Images::Values(_) => size_of::<f32>() * values,
        Images::Pixels { .. } => values,
    }
}

/// Moves pixels as they are, and makes values of them on the device.
///
/// # Shapes
/// `[B, H, W]` → `[B, 3, H, W]`
fn upload_pixels(pixels: ArrayView3<'_, [u8; 3]>, scale: f32, device: &Device) -> Tensor<4> {
    let (rows, height, width) = pixels.dim();
    let pixels = pixels.as_standard_layout();
    let bytes = pixels.as_slice().expect("the standard layout is that of a slice").as_flattened();
    let numbers = match device.supports_dtype(DType::U8) {
        true => upload_bytes(bytes, device),
        false => upload_words(bytes, device),
    };
    let values = numbers.float().reshape([rows, height, width, 3]).permute([0, 3, 1, 2]);
    // As the loader computes it, so that both ways end with the same number on the CPU.
    let values = values.div_scalar(127.5).sub_scalar(1.0);
    if scale == 1.0 { values } else { values.mul_scalar(scale) }
}

fn upload_bytes(bytes: &[u8], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(bytes.to_vec(), [bytes.len()]), (device, DType::U8))
}

/// The same on a device that knows no bytes: four of them are a word there.
fn upload_words(bytes: &[u8], device: &Device) -> Tensor<1, Int> {
    let (whole, rest) = bytes.as_chunks();
    let mut words: Vec<i32> = whole.iter().copied().map(i32::from_le_bytes).collect();
    if !rest.is_empty() {
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        words.push(i32::from_le_bytes(last));
    }
    let count = words.len();
    let words = Tensor::<1, Int>::from_data(TensorData::new(words, [count]), (device, DType::I32));
    let byte = |k| words.clone().bitwise_right_shift_scalar(8 * k).bitwise_and_scalar(0xff);
    let of_words: Tensor<2, Int> = Tensor::stack([0, 1, 2, 3].map(byte).to_vec(), 1);
    of_words.reshape([4 * count]).narrow(0, 0, bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array3;

    #[test]
    fn pixels_become_the_same_values_on_the_device_as_on_the_host() {
        // Of the last, one image at a time.
        for shape @ (rows, height, width) in [(3, 16, 16), (1, 1, 1), (2, 5, 3), (0, 2, 2), (3, 2048, 2047)] {
            let pixels = Array3::from_shape_fn(shape, |(row, y, x)| {
                [0, 1, 2].map(|c| (85 * c + 16 * y + x).wrapping_mul(row + 1) as u8)
            });
            for scale in [1.0, 0.182_15] {
                let images = Images::Pixels { pixels: pixels.clone().into_shared(), scale };
                let found = upload_images(&images, 0..rows, &Device::flex());
                assert_eq!(found.dims(), [rows, 3, height, width]);
                let found: Vec<f32> = found.into_data().try_into_vec_as().unwrap();
                assert_eq!(found, images.values().iter().copied().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn bytes_are_the_same_numbers_one_by_one_and_in_words() {
        for len in [1, 2, 3, 4, 1027] {
            let bytes: Vec<u8> = (0..len).map(|i: usize| (255 - i % 256) as u8).collect();
            for upload in [upload_bytes, upload_words] {
                let found: Vec<f32> =
                    upload(&bytes, &Device::flex()).float().into_data().try_into_vec_as().unwrap();
                assert_eq!(found, bytes.iter().copied().map(f32::from).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn some_rows_are_those_of_the_images() {
        let pixels = Array3::from_shape_fn((5, 2, 3), |(row, y, x)| {
            [0, 1, 2].map(|c| (row * 50 + y * 9 + x * 3 + c) as u8)
        });
        let pixels = Images::Pixels { pixels: pixels.into_shared(), scale: 1.0 };
        let values = Images::Values(pixels.values());
        let [of_pixels, of_values] = [&pixels, &values].map(|images| {
            let rows = upload_images(images, 1..4, &Device::flex());
            rows.into_data().try_into_vec_as::<f32>().unwrap()
        });
        assert_eq!(of_pixels, of_values);
        assert_eq!(of_values, pixels.values().iter().copied().skip(18).take(3 * 18).collect::<Vec<_>>());
        assert_eq!([&pixels, &values].map(bytes_of_image), [18, 72]);
    }
}
