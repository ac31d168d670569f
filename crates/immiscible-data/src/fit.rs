//! Bringing images of any size to one.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;
use image::imageops::crop_imm;
use serde::{Deserialize, Serialize};

use crate::DataError;
use crate::image_file::MAX_SIDE;

/// The middle of what a crop can choose from.
pub(crate) const CENTER: [f32; 2] = [0.5, 0.5];

/// How pixels are averaged when an image changes its size, as in Pillow, which has no Gaussian. Each filter widens with the factor by which the image shrinks,
/// so that every pixel counts and nothing aliases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resize {
    /// Catmull-Rom's cubic (a = −1/2), the bicubic filter of Pillow.
    Bicubic,
    /// The mean of the pixels whose middle a new one covers.
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
    pub(crate) fn apply(self, image: RgbImage, place: [f32; 2]) -> RgbImage {
        let (width, height) = image.dimensions();
        if (width, height) == (self.side, self.side) {
            return image;
        }
        let crop = width.min(height);
        let at = |room: u32, place: f32| ((room + 1) as f32 * place).min(room as f32) as u32;
        // For the middle of an even room this is its half, of an odd one the half above.
        let (x, y) = match place {
            CENTER => ((width - crop) / 2, (height - crop) / 2),
            [x, y] => (at(width - crop, x), at(height - crop, y)),
        };
        if crop == self.side {
            return crop_imm(&image, x, y, crop, crop).to_image();
        }
        self.resized(&image, [x, y], crop)
    }

    /// The square of `crop` pixels at `[x, y]`, resized.
    fn resized(self, image: &RgbImage, [x, y]: [u32; 2], crop: u32) -> RgbImage {
        let (width, [x, y, crop]) = (image.width() as usize, [x, y, crop].map(|value| value as usize));
        // The resizer is built for pixels of four bytes alone; the fourth is not looked at.
        let mut square = vec![0; 4 * crop * crop];
        for (wide, row) in
            square.chunks_exact_mut(4 * crop).zip(image.as_raw().chunks_exact(3 * width).skip(y))
        {
            let pixels = row[3 * x..].as_chunks::<3>().0;
            for (wide, &[r, g, b]) in wide.as_chunks_mut::<4>().0.iter_mut().zip(pixels) {
                *wide = [r, g, b, 0];
            }
        }
        let filter = match self.resize {
            Resize::Bicubic => FilterType::CatmullRom,
            Resize::Box => FilterType::Box,
            Resize::Gaussian => FilterType::Gaussian,
            Resize::Lanczos3 => FilterType::Lanczos3,
            Resize::Triangle => FilterType::Bilinear,
        };
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter)).use_alpha(false);
        let square = ImageRef::new(crop as u32, crop as u32, &square, PixelType::U8x4)
            .expect("the buffer was made for this size");
        let mut resized = Image::new(self.side, self.side, PixelType::U8x4);
        Resizer::new().resize(&square, &mut resized, &options).expect("both have the same kind of pixels");
        let pixels = resized.buffer().as_chunks::<4>().0.iter().flat_map(|&[r, g, b, _]| [r, g, b]);
        RgbImage::from_raw(self.side, self.side, pixels.collect()).expect("it has three bytes a pixel")
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;
    use crate::npy;

    /// One goes along rows first and the other along columns: rounding to levels between them may make one of difference, and clamping
    /// more, so the image keeps away from black and white.
    #[test]
    fn filters_are_those_of_pillow() {
        let image = RgbImage::from_fn(31, 31, |x, y| {
            Rgb([0, 1, 2].map(|c| (64 + (7 * x * x + 13 * y + 50 * c + 9 * (x * y % 17)) % 128) as u8))
        });
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/resize.npy");
        let mut expected = npy::read::<f32>(golden.as_ref()).unwrap().values.into_iter();
        for resize in [Resize::Bicubic, Resize::Box, Resize::Lanczos3, Resize::Triangle] {
            for side in [11, 40] {
                let found = Fit { side, resize }.apply(image.clone(), CENTER).into_raw();
                let expected = expected.by_ref().take(found.len());
                let most =
                    found.iter().zip(expected).map(|(f, e)| (f32::from(*f) - e).abs()).fold(0.0, f32::max);
                assert!(most <= 1.0, "{resize:?} to {side}: {most}");
            }
        }
        assert_eq!(expected.next(), None);
    }

    #[test]
    fn the_box_is_the_mean_of_what_it_covers() {
        let image = RgbImage::from_fn(6, 6, |x, y| Rgb([(10 * x + y) as u8, 200, (x * y) as u8]));
        let fit = |side| Fit { side, resize: Resize::Box }.apply(image.clone(), CENTER);
        // Columns 0 to 2 and rows 0 to 2: the mean of 10 x + y is 11.
        assert_eq!(fit(2).get_pixel(0, 0).0, [11, 200, 1]);
        assert_eq!(fit(12).get_pixel(3, 5), image.get_pixel(1, 2));
    }

    #[test]
    fn every_filter_keeps_what_is_flat_and_averages_what_alternates() {
        let flat = RgbImage::from_pixel(40, 40, Rgb([7, 100, 250]));
        let stripes = RgbImage::from_fn(40, 40, |x, _| Rgb([(x % 2 * 255) as u8; 3]));
        for resize in [Resize::Bicubic, Resize::Box, Resize::Gaussian, Resize::Lanczos3, Resize::Triangle] {
            let fit = Fit { side: 5, resize };
            assert!(fit.apply(flat.clone(), CENTER).pixels().all(|p| p.0 == [7, 100, 250]), "{resize:?}");
            let grey = fit.apply(stripes.clone(), CENTER);
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
        let first = |place| {
            Fit { side: 4, resize: Resize::default() }.apply(image.clone(), place).get_pixel(0, 0).0[0]
        };
        assert_eq!([0.0, 0.24, 0.26, 0.51, 0.76, 0.999, 1.0].map(|x| first([x, 0.3])), [0, 0, 1, 2, 3, 3, 3]);
        assert_eq!(first(CENTER), 1);
    }
}
