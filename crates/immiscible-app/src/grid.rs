//! Images to PNG files.

use anyhow::{Context, Result};
use image::{ImageFormat, RgbImage};
use ndarray::{ArrayView3, ArrayView4};
use std::path::Path;

/// Small images are enlarged by whole numbers until they are at least this high.
const TILE: usize = 32;
/// Pixels between two images of a grid.
const GAP: usize = 2;

/// Writes `images` as one [`picture`].
pub(crate) fn save(images: ArrayView4<f32>, path: &Path) -> Result<()> {
    write(&picture(images), path)
}

/// All of `images` in one grid, row by row.
///
/// # Shapes
/// `images` is `[N, C, H, W]` with values in [−1, 1]; one channel is grey, of others the first three are red, green
/// and blue.
pub(crate) fn picture(images: ArrayView4<f32>) -> RgbImage {
    let (n, _, height, width) = images.dim();
    let scale = TILE.div_ceil(height.max(1));
    let columns = (n as f64).sqrt().ceil().max(1.0) as usize;
    let rows = n.div_ceil(columns);
    let side = |count: usize, size: usize| (count * (size * scale + GAP) + GAP) as u32;
    let mut grid = RgbImage::from_pixel(side(columns, width), side(rows, height), image::Rgb([255; 3]));
    for (i, image) in images.outer_iter().enumerate() {
        let left = (i % columns) * (width * scale + GAP) + GAP;
        let top = (i / columns) * (height * scale + GAP) + GAP;
        for y in 0..height * scale {
            for x in 0..width * scale {
                grid.put_pixel((left + x) as u32, (top + y) as u32, pixel(image, y / scale, x / scale));
            }
        }
    }
    grid
}

/// Writes one image at its own size.
pub(crate) fn save_one(image: ArrayView3<f32>, path: &Path) -> Result<()> {
    let (_, height, width) = image.dim();
    let picture = RgbImage::from_fn(width as u32, height as u32, |x, y| pixel(image, y as usize, x as usize));
    write(&picture, path)
}

fn pixel(image: ArrayView3<f32>, y: usize, x: usize) -> image::Rgb<u8> {
    let channels = image.dim().0;
    let level = |channel: usize| (127.5 * image[[channel.min(channels - 1), y, x]] + 127.5).round() as u8;
    image::Rgb(if channels < 3 { [level(0); 3] } else { [level(0), level(1), level(2)] })
}

/// Writes to a temporary name first, so that a picture is whole or not there.
fn write(picture: &RgbImage, path: &Path) -> Result<()> {
    let context = || path.display().to_string();
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(context)?;
    }
    let staged = path.with_extension("png.tmp");
    picture.save_with_format(&staged, ImageFormat::Png).with_context(context)?;
    std::fs::rename(&staged, path).with_context(context)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array4;

    #[test]
    fn a_grid_shows_every_image_in_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grid.png");
        // Five images of one grey level each, from black to white, enlarged 16 times.
        let images = Array4::from_shape_fn((5, 1, 2, 2), |(i, ..)| i as f32 / 2.0 - 1.0);
        save(images.view(), &path).unwrap();
        let grid = image::open(&path).unwrap().to_rgb8();
        assert_eq!(grid.dimensions(), (3 * 34 + 2, 2 * 34 + 2));
        for (i, level) in [0, 64, 128, 191, 255].into_iter().enumerate() {
            let (x, y) = ((i % 3 * 34 + 18) as u32, (i / 3 * 34 + 18) as u32);
            assert_eq!(grid.get_pixel(x, y).0, [level; 3], "image {i}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
