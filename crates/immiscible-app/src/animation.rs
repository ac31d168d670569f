//! The way from noise to samples, as a GIF.

use crate::grid;
use anyhow::{Context, Result, ensure};
use color_quant::NeuQuant;
use gif::{Encoder, Frame, Repeat};
use image::RgbImage;
use ndarray::Array4;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Hundredths of a second that all frames but the last take, that one of them takes at least, and that the last one is held.
const WAY: usize = 300;
const LEAST: usize = 4;
const HELD: u16 = 200;

/// Writes one grid a frame, for ever anew. All frames share the colours of the last.
///
/// # Shapes
/// Each of `frames` is `[N, C, H, W]` with values in [−1, 1]; others are cut off there.
pub(crate) fn save(frames: &[Array4<f32>], path: &Path) -> Result<()> {
    let grids: Vec<RgbImage> = frames.iter().map(|images| grid::picture(images.view())).collect();
    let (Some(last), Some(grey)) = (grids.last(), frames.first().map(|images| images.dim().1 < 3)) else {
        return Ok(());
    };
    let size = |pixels: u32| u16::try_from(pixels).ok();
    let (Some(width), Some(height)) = (size(last.width()), size(last.height())) else {
        let (width, height) = last.dimensions();
        anyhow::bail!(
            "{}: a GIF has at most 65535 pixels a side, and the grid {width}×{height}; write a smaller --n",
            path.display()
        );
    };
    ensure!(grids.iter().all(|grid| grid.dimensions() == last.dimensions()), "frames of different sizes");
    let colours = (!grey).then(|| NeuQuant::new(SAMPLED, 256, &rgba(last)));
    let palette = colours
        .as_ref()
        .map_or_else(|| (0..=255).flat_map(|level| [level; 3]).collect(), NeuQuant::color_map_rgb);
    let index = |pixel: &image::Rgb<u8>| match &colours {
        Some(colours) => colours.index_of(&[pixel.0[0], pixel.0[1], pixel.0[2], 255]) as u8,
        None => pixel.0[0],
    };

    let context = || path.display().to_string();
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).with_context(context)?;
    // Under a temporary name first, so that it is whole or not there.
    let staged = path.with_extension("gif.tmp");
    let mut file = BufWriter::new(File::create(&staged).with_context(context)?);
    let mut encoder = Encoder::new(&mut file, width, height, &palette).with_context(context)?;
    encoder.set_repeat(Repeat::Infinite).with_context(context)?;
    let delay = (WAY / grids.len()).max(LEAST) as u16;
    for (i, grid) in grids.iter().enumerate() {
        let buffer: Vec<u8> = grid.pixels().map(index).collect();
        let delay = if i + 1 == grids.len() { HELD } else { delay };
        encoder
            .write_frame(&Frame { width, height, delay, buffer: buffer.into(), ..Frame::default() })
            .with_context(context)?;
    }
    drop(encoder);
    file.flush().with_context(context)?;
    std::fs::rename(&staged, path).with_context(context)
}

/// One of so many pixels teaches the palette, of those that color_quant takes: 1 is best, 30 is fastest.
const SAMPLED: i32 = 3;

fn rgba(grid: &RgbImage) -> Vec<u8> {
    grid.pixels().flat_map(|pixel| [pixel.0[0], pixel.0[1], pixel.0[2], 255]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::AnimationDecoder;

    fn read(path: &Path) -> Vec<image::Frame> {
        let file = std::io::BufReader::new(File::open(path).unwrap());
        image::codecs::gif::GifDecoder::new(file).unwrap().into_frames().collect_frames().unwrap()
    }

    #[test]
    fn frames_are_shown_in_turn_and_the_last_is_held() {
        let folder = tempfile::tempdir().unwrap();
        // Noise that is too large, half of the way, and a ramp of greys.
        let ramp = |scale: f32| {
            Array4::from_shape_fn((4, 1, 8, 8), |(i, _, y, x)| {
                scale * ((i * 64 + y * 8 + x) as f32 / 127.5 - 1.0)
            })
        };
        let frames = [ramp(9.0), ramp(0.5), ramp(1.0)];
        let path = folder.path().join("new/way.gif");
        save(&frames, &path).unwrap();
        let found = read(&path);
        assert_eq!(found.len(), 3);
        for (frame, images) in found.iter().zip(&frames) {
            let expected = image::DynamicImage::ImageRgb8(grid::picture(images.view())).to_rgba8();
            assert!(*frame.buffer() == expected, "greys are kept as they are");
        }
        let delays: Vec<u32> = found.iter().map(|frame| frame.delay().numer_denom_ms().0).collect();
        assert_eq!(delays, [1_000, 1_000, 2_000]);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn colours_of_the_last_frame_are_kept_nearly() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("way.gif");
        let last = Array4::from_shape_fn((4, 3, 16, 16), |(i, c, y, x)| {
            ((i + c) as f32 * 0.7 + y as f32 / 9.0 + x as f32 / 11.0).sin()
        });
        save(&[last.mapv(|value| -value), last.clone()], &path).unwrap();
        let found = read(&path);
        let expected = grid::picture(last.view());
        let off = found[1]
            .buffer()
            .pixels()
            .zip(expected.pixels())
            .flat_map(|(a, b)| (0..3).map(move |channel| f64::from(a.0[channel].abs_diff(b.0[channel]))));
        let (sum, count) = off.fold((0.0, 0.0), |(sum, count), off| (sum + off, count + 1.0));
        assert!(sum / count < 6.0, "{}", sum / count);
    }
}
