//! Bringing images of any size to one.

use image::RgbImage;
use image::imageops::{self, FilterType};
use serde::{Deserialize, Serialize};

use crate::DataError;
use crate::image_file::MAX_SIDE;

/// The middle of what a crop can choose from.
pub(crate) const CENTER: [f32; 2] = [0.5, 0.5];

/// How pixels are averaged when an image changes its size. Each filter widens with the factor by which the image shrinks,
/// so that every pixel counts and nothing aliases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resize {
    /// Catmull-Rom's cubic (a = −1/2), the bicubic filter of Pillow.
    Bicubic,
    /// The mean of the pixels that a new one covers.
    Box,
    /// A Gaussian of standard deviation 1/2 of a new pixel.
    Gaussian,
    /// Sinc in a window of three lobes.
    #[default]
    Lanczos3,
    /// Linear, the bilinear filter of Pillow.
    Triangle,
}

/// Which square of an image is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Crop {
    /// The largest one in the middle.
    #[default]
    Center,
    /// The largest one at a place of the longer side that is drawn for each (seed, epoch, sample).
    Random,
}

/// Crops to a square and resizes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fit {
    pub(crate) side: u32,
    pub(crate) resize: Resize,
}

impl Fit {
    /// To squares of `side` pixels.
    pub(crate) fn new(side: usize, resize: Resize) -> Result<Self, DataError> {
        let checked = u32::try_from(side).ok().filter(|side| (1..=MAX_SIDE).contains(side));
        let side = checked.ok_or(DataError::ImageSizeOption { size: side, max: MAX_SIDE })?;
        Ok(Self { side, resize })
    }

    /// The largest square of `image`, resized. `place` says where it lies, `[x, y]` from 0 (left, top) to 1.
    pub(crate) fn apply(self, image: &RgbImage, place: [f32; 2]) -> RgbImage {
        let (width, height) = image.dimensions();
        let crop = width.min(height);
        let at = |room: u32, place: f32| ((room + 1) as f32 * place).min(room as f32) as u32;
        // For the middle of an even room this is its half, of an odd one the half above.
        let (x, y) = match place {
            CENTER => ((width - crop) / 2, (height - crop) / 2),
            [x, y] => (at(width - crop, x), at(height - crop, y)),
        };
        let view = imageops::crop_imm(image, x, y, crop, crop);
        let filter = match self.resize {
            _ if crop == self.side => return view.to_image(),
            Resize::Box => return mean(&view.to_image(), self.side),
            Resize::Bicubic => FilterType::CatmullRom,
            Resize::Gaussian => FilterType::Gaussian,
            Resize::Lanczos3 => FilterType::Lanczos3,
            Resize::Triangle => FilterType::Triangle,
        };
        imageops::resize(&*view, self.side, self.side, filter)
    }
}

/// Each new pixel is the mean of what it covers of the square `image`, parts of pixels by their area.
fn mean(image: &RgbImage, side: u32) -> RgbImage {
    let old = image.width();
    let scale = f64::from(old) / f64::from(side);
    // What each new pixel covers on one axis, and how much of it.
    let covers: Vec<Vec<(u32, f64)>> = (0..side)
        .map(|new| {
            let (from, to) = (f64::from(new) * scale, f64::from(new + 1) * scale);
            let pixels = from as u32..(to.ceil() as u32).min(old);
            let area = |x: u32| (to.min(f64::from(x + 1)) - from.max(f64::from(x))) / scale;
            pixels.map(|x| (x, area(x))).collect()
        })
        .collect();
    RgbImage::from_fn(side, side, |x, y| {
        let mut sum = [0.0; 3];
        for &(row, height) in &covers[y as usize] {
            for &(column, width) in &covers[x as usize] {
                let pixel = image.get_pixel(column, row);
                sum.iter_mut().zip(pixel.0).for_each(|(sum, v)| *sum += f64::from(v) * width * height);
            }
        }
        image::Rgb(sum.map(|v| v.round() as u8))
    })
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn the_box_is_the_mean_of_what_it_covers() {
        let image = RgbImage::from_fn(6, 6, |x, y| Rgb([(10 * x + y) as u8, 200, (x * y) as u8]));
        let fit = |side| Fit { side, resize: Resize::Box }.apply(&image, CENTER);
        // Columns 0 to 2 and rows 0 to 2: the mean of 10 x + y is 11.
        assert_eq!(fit(2).get_pixel(0, 0).0, [11, 200, 1]);
        // A pixel and a half each: (0 + 10/2)/1.5 + (0 + 1/2)/1.5 = 3.67.
        assert_eq!(fit(4).get_pixel(0, 0).0[..2], [4, 200]);
        assert_eq!(fit(12).get_pixel(3, 5), image.get_pixel(1, 2));
    }

    #[test]
    fn every_filter_keeps_what_is_flat_and_averages_what_alternates() {
        let flat = RgbImage::from_pixel(40, 40, Rgb([7, 100, 250]));
        let stripes = RgbImage::from_fn(40, 40, |x, _| Rgb([(x % 2 * 255) as u8; 3]));
        for resize in [Resize::Bicubic, Resize::Box, Resize::Gaussian, Resize::Lanczos3, Resize::Triangle] {
            let fit = Fit { side: 5, resize };
            assert!(fit.apply(&flat, CENTER).pixels().all(|p| p.0 == [7, 100, 250]), "{resize:?}");
            let grey = fit.apply(&stripes, CENTER);
            assert!(
                grey.pixels().all(|p| p.0[0].abs_diff(128) < 16),
                "{resize:?}: {:?}",
                grey.get_pixel(0, 0)
            );
        }
    }

    #[test]
    fn a_place_runs_over_all_there_is() {
        let image = RgbImage::from_fn(7, 4, |x, y| Rgb([x as u8, y as u8, 0]));
        let first =
            |place| Fit { side: 4, resize: Resize::default() }.apply(&image, place).get_pixel(0, 0).0[0];
        assert_eq!([0.0, 0.24, 0.26, 0.51, 0.76, 0.999, 1.0].map(|x| first([x, 0.3])), [0, 0, 1, 2, 3, 3, 3]);
        assert_eq!(first(CENTER), 1);
    }
}
