//! Convolution as a product of matrices, after Chellapilla, Puri and Simard, "High Performance Convolutional Neural Networks for
//! Document Processing" (2006): the values that each output pixel sees become a column, and the kernel multiplies all columns.
//! Columns are made for a few hundred pixels at a time, which stay in a core's cache, and nothing is transposed.

use crate::matrix::{Matrix, multiply};
use crate::output::zeros;
use rayon::prelude::*;
use std::cell::RefCell;

/// What a convolution with one group and no dilation looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) batch: usize,
    /// Channels, height and width of what comes in.
    pub(super) input: [usize; 3],
    /// Channels, height and width of what comes out.
    pub(super) output: [usize; 3],
    /// Height and width.
    pub(super) kernel: [usize; 2],
    /// Down and to the right.
    pub(super) stride: [usize; 2],
    /// Zeros above and to the left; those below and to the right follow from the sizes.
    pub(super) padding: [usize; 2],
}

impl Geometry {
    pub(super) fn input_len(&self) -> usize {
        self.input.iter().product()
    }

    pub(super) fn output_len(&self) -> usize {
        self.output.iter().product()
    }

    /// Into how many parts the convolution can be divided.
    pub(super) fn shares(&self) -> usize {
        match self.together() {
            1 => self.batch * self.output[0].div_ceil(CHANNELS),
            together => self.batch.div_ceil(together),
        }
    }

    /// Images whose columns are made together, of which every thread has some.
    fn together(&self) -> usize {
        let of_each = self.batch / rayon::current_num_threads();
        (COLUMNS / self.pixels()).min(of_each).max(1)
    }

    fn pixels(&self) -> usize {
        self.output[1] * self.output[2]
    }

    /// Values that an output pixel sees in one channel.
    fn window(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Values that an output pixel sees.
    fn column(&self) -> usize {
        self.input[0] * self.window()
    }
}

/// Columns that are made at a time, about: fewer, and the kernel is arranged anew too often; more, and they leave the cache.
const COLUMNS: usize = 256;
/// Channels that a thread works on, at least, before images are shared between threads.
const CHANNELS: usize = 32;

thread_local! {
    /// The columns that a thread is working on, and the values of the output that belong to them.
    static SCRATCH: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// Runs `work` with two arrays of any content.
fn with_scratch<T>(columns: usize, values: usize, work: impl FnOnce(&mut [f32], &mut [f32]) -> T) -> T {
    SCRATCH.with_borrow_mut(|[a, b]| {
        let sized = |it: &mut Vec<f32>, len: usize| it.resize(it.len().max(len), 0.0);
        sized(a, columns);
        sized(b, values);
        work(&mut a[..columns], &mut b[..values])
    })
}

/// Images, or rows of one image, whose columns are made together.
#[derive(Clone, Copy)]
struct Tile {
    /// The first image and their number.
    images: [usize; 2],
    /// The first row of the output and their number.
    rows: [usize; 2],
}

/// Tiles of `images` that begin at the first; all tiles of more than one image hold whole ones.
fn tiles(images: usize, [_, height, width]: [usize; 3]) -> impl Iterator<Item = Tile> {
    let rows = (COLUMNS / width).clamp(1, height);
    let together = if rows == height { (COLUMNS / (height * width)).max(1) } else { 1 };
    (0..images).step_by(together).flat_map(move |image| {
        let images = [image, together.min(images - image)];
        (0..height).step_by(rows).map(move |row| Tile { images, rows: [row, rows.min(height - row)] })
    })
}

/// Writes what the output pixels of a tile see in some channels as columns, a row for each place in the window.
///
/// # Shapes
/// `x` `[N, C, H, W]`; `columns` `[len(channels)·kh·kw, pixels of the tile]`
fn columns_of(
    x: &[f32],
    geometry: &Geometry,
    tile: Tile,
    channels: std::ops::Range<usize>,
    columns: &mut [f32],
) {
    let ([_, height, width], [_, _, wide]) = (geometry.input, geometry.output);
    let ([kernel_y, kernel_x], [down, right], [above, left]) =
        (geometry.kernel, geometry.stride, geometry.padding);
    let [first_row, rows] = tile.rows;
    let part = rows * wide;
    let places =
        channels.flat_map(|c| (0..kernel_y).flat_map(move |i| (0..kernel_x).map(move |j| (c, i, j))));
    for ((c, i, j), row) in places.zip(columns.chunks_exact_mut(tile.images[1] * part)) {
        // The outputs whose j-th value lies inside of the image.
        let first = left.saturating_sub(j).div_ceil(right).min(wide);
        let last = (width + left).saturating_sub(j).div_ceil(right).clamp(first, wide);
        for (image, out) in (tile.images[0]..).zip(row.chunks_exact_mut(part)) {
            let plane = &x[image * geometry.input_len() + c * height * width..][..height * width];
            for (y, out) in (first_row..).zip(out.chunks_exact_mut(wide)) {
                let Some(y) = (y * down + i).checked_sub(above).filter(|&y| y < height) else {
                    out.fill(0.0);
                    continue;
                };
                out[..first].fill(0.0);
                out[last..].fill(0.0);
                if first == last {
                    continue;
                }
                let from = &plane[y * width + first * right + j - left..];
                match right {
                    1 => out[first..last].copy_from_slice(&from[..last - first]),
                    _ => {
                        out[first..last].iter_mut().zip(from.iter().step_by(right)).for_each(|(o, &v)| *o = v)
                    }
                }
            }
        }
    }
}

/// The convolution.
///
/// # Shapes
/// `x` `[N, C, H, W]`, `weight` `[C', C, kh, kw]`, `bias` `[C']` → `[N, C', H', W']`
pub(super) fn forward(x: &[f32], weight: &[f32], bias: Option<&[f32]>, geometry: &Geometry) -> Vec<f32> {
    let mut out = zeros(geometry.batch * geometry.output_len());
    let ([channels, ..], pixels, k) = (geometry.output, geometry.pixels(), geometry.column());
    // Whole images for each thread; of a few images on many threads some channels each.
    let together = geometry.together();
    let shares = rayon::current_num_threads().div_ceil(geometry.batch.div_ceil(together));
    let share = match together {
        1 => channels.div_ceil(shares.min(channels.div_ceil(CHANNELS))),
        _ => channels,
    };
    let parts = channels.div_ceil(share);
    out.par_chunks_mut(together * geometry.output_len()).enumerate().for_each(|(group, out)| {
        let first = group * together;
        let images = out.len() / geometry.output_len();
        let x = &x[first * geometry.input_len()..][..images * geometry.input_len()];
        let convolve = |(part, out): (usize, &mut [f32])| {
            let first_channel = part * share;
            let channels = out.len() / (images * pixels);
            let weight = Matrix { values: &weight[first_channel * k..][..channels * k], steps: [k, 1] };
            for tile in tiles(images, geometry.output) {
                let (at, len) = (tile.rows[0] * geometry.output[2], tile.rows[1] * geometry.output[2]);
                let n = tile.images[1] * len;
                with_scratch(k * n, channels * n, |columns, values| {
                    columns_of(x, geometry, tile, 0..geometry.input[0], columns);
                    let columns = Matrix { values: columns, steps: [n, 1] };
                    multiply([channels, k, n], 1.0, weight, columns, values, n, false);
                    for (c, values) in values.chunks_exact(n).enumerate() {
                        let bias = bias.map_or(0.0, |bias| bias[first_channel + c]);
                        for (image, values) in (tile.images[0]..).zip(values.chunks_exact(len)) {
                            let out = &mut out[(image * channels + c) * pixels + at..][..len];
                            out.iter_mut().zip(values).for_each(|(out, &value)| *out = value + bias);
                        }
                    }
                });
            }
        };
        if parts == 1 {
            convolve((0, out));
        } else {
            out.par_chunks_mut(share * pixels).enumerate().for_each(convolve);
        }
    });
    out
}

/// The gradient of a loss by `x`, of a convolution with stride 1, which is again one: of the outputs' gradient, with the kernel
/// mirrored and its channels exchanged.
///
/// # Shapes
/// `weight` `[C', C, kh, kw]`, `gradient` `[N, C', H', W']` → `[N, C, H, W]`
pub(super) fn input_gradient(weight: &[f32], gradient: &[f32], geometry: &Geometry) -> Vec<f32> {
    let (window, [from, to]) = (geometry.window(), [geometry.input[0], geometry.output[0]]);
    let mut mirrored = vec![0.0; weight.len()];
    mirrored.par_chunks_mut(to * window).enumerate().for_each(|(c, mirrored)| {
        for (out, mirrored) in mirrored.chunks_exact_mut(window).enumerate() {
            let weight = &weight[(out * from + c) * window..][..window];
            mirrored.iter_mut().zip(weight.iter().rev()).for_each(|(to, &from)| *to = from);
        }
    });
    let [above, left] = [0, 1].map(|i| geometry.kernel[i] - 1 - geometry.padding[i]);
    let back =
        Geometry { input: geometry.output, output: geometry.input, padding: [above, left], ..*geometry };
    forward(gradient, &mirrored, None, &back)
}

/// The gradient of a loss by the kernel.
///
/// # Shapes
/// `x` `[N, C, H, W]`, `gradient` `[N, C', H', W']` → `[C', C, kh, kw]`
pub(super) fn weight_gradient(x: &[f32], gradient: &[f32], geometry: &Geometry) -> Vec<f32> {
    let ([to, ..], pixels, k) = (geometry.output, geometry.pixels(), geometry.column());
    // A thread sums over all images for its channels of the input. How many these are does not depend on the threads, so that
    // sums don't either.
    let channels: Vec<usize> = (0..geometry.input[0]).step_by(CHANNELS).collect();
    let parts: Vec<Vec<f32>> = channels
        .into_par_iter()
        .map(|first| {
            let channels = first..(first + CHANNELS).min(geometry.input[0]);
            let k = channels.len() * geometry.window();
            let mut sum = vec![0.0; to * k];
            for tile in tiles(geometry.batch, geometry.output) {
                let (at, len) = (tile.rows[0] * geometry.output[2], tile.rows[1] * geometry.output[2]);
                let ([image, images], n) = (tile.images, tile.images[1] * len);
                with_scratch(k * n, to * n, |columns, values| {
                    columns_of(x, geometry, tile, channels.clone(), columns);
                    let columns = Matrix { values: columns, steps: [1, n] };
                    let gradient = &gradient[image * geometry.output_len()..];
                    let gradient = match images {
                        1 => Matrix { values: &gradient[at..], steps: [pixels, 1] },
                        _ => {
                            for (c, values) in values.chunks_exact_mut(n).enumerate() {
                                for (image, values) in values.chunks_exact_mut(len).enumerate() {
                                    values.copy_from_slice(&gradient[(image * to + c) * pixels..][..len]);
                                }
                            }
                            Matrix { values, steps: [n, 1] }
                        }
                    };
                    multiply([to, n, k], 1.0, gradient, columns, &mut sum, k, true);
                });
            }
            sum
        })
        .collect();
    let mut out = vec![0.0; to * k];
    for (c, out) in out.chunks_exact_mut(k).enumerate() {
        let mut rest = out;
        for part in &parts {
            let k = part.len() / to;
            let (row, after) = rest.split_at_mut(k);
            row.copy_from_slice(&part[c * k..][..k]);
            rest = after;
        }
    }
    out
}

/// The gradient of a loss by the bias: the sum over images and pixels.
///
/// # Shapes
/// `gradient` `[N, C', H', W']` → `[C']`
pub(super) fn bias_gradient(gradient: &[f32], geometry: &Geometry) -> Vec<f32> {
    let ([channels, ..], pixels) = (geometry.output, geometry.pixels());
    let of_channel = |c: usize| {
        let planes = gradient.chunks_exact(geometry.output_len()).map(|image| &image[c * pixels..][..pixels]);
        // Sums of every eighth value, which are added with wide vectors.
        let mut sums = [0.0; 8];
        let mut rest = 0.0;
        for plane in planes {
            let (eights, last) = plane.as_chunks::<8>();
            eights.iter().for_each(|eight| sums.iter_mut().zip(eight).for_each(|(sum, value)| *sum += value));
            rest += last.iter().sum::<f32>();
        }
        sums.iter().sum::<f32>() + rest
    };
    (0..channels).into_par_iter().map(of_channel).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_images_as_threads_keep_all_of_them_busy() {
        for threads in [1, 2, 6, 16] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for (batch, side) in [(16, 4), (17, 8), (16, 32), (100, 1)] {
                let size = [3, side, side];
                let geometry = Geometry {
                    batch,
                    input: size,
                    output: size,
                    kernel: [1, 1],
                    stride: [1, 1],
                    padding: [0, 0],
                };
                let shares = pool.install(|| geometry.shares());
                assert!(shares >= threads, "{batch} × {side}²: {shares} for {threads}");
            }
        }
    }
}
