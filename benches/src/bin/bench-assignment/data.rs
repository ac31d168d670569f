//! Where the images come from: synthetic fields, or a data set on disk.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use immiscible_benches::fields;
use immiscible_data::{DataOptions, SOURCES, Source, npy};
use immiscible_random::{Key, Stream};
use ndarray::Array2;

/// A kind of image, and what the report calls it.
pub(crate) struct Images {
    pub(crate) label: String,
    pub(crate) dimension: usize,
    origin: Origin,
}

enum Origin {
    Smooth { channels: usize, side: usize },
    Latents,
    Source(Box<dyn Source>),
    Table(Array2<f32>),
}

/// An `.npy` file as a matrix: axes after the first become one.
pub(crate) fn read_matrix(path: &Path) -> anyhow::Result<Array2<f32>> {
    let file = npy::read(path)?;
    let shape = file.rows()?.dim();
    Ok(Array2::from_shape_vec(shape, file.values)?)
}

impl Images {
    /// `smooth`, `latents`, `digits`, or the path of a data set; `LABEL=` before it sets the label. `dimension` is that of
    /// `smooth`.
    pub(crate) fn open(named: &str, dimension: usize) -> anyhow::Result<Self> {
        let (label, what) = match named.split_once('=') {
            Some((label, what)) => (Some(label), what),
            None => (None, named),
        };
        let origin = match what {
            "smooth" => {
                let (channels, side) = pixels(dimension)?;
                Origin::Smooth { channels, side }
            }
            "latents" => Origin::Latents,
            "digits" => Origin::Source(immiscible_data::build(&DataOptions::new("digits"))?),
            path if path.ends_with(".npy") => Origin::Table(read_matrix(Path::new(path))?),
            path => Origin::Source(open_source(Path::new(path))?),
        };
        let dimension = match &origin {
            Origin::Smooth { .. } => dimension,
            Origin::Latents => 4 * 32 * 32,
            Origin::Source(source) => source.shape().iter().product(),
            Origin::Table(table) => table.ncols(),
        };
        let label = label.map_or_else(|| file_name(what), str::to_owned);
        Ok(Self { label, dimension, origin })
    }

    /// `batch` different images, [`batch`, D], others for every seed, or why there are none.
    pub(crate) fn draw(&self, seed: u64, batch: usize) -> anyhow::Result<Array2<f32>> {
        let len = match &self.origin {
            Origin::Smooth { channels, side } => return Ok(fields::smooth(seed, batch, *channels, *side)),
            Origin::Latents => return Ok(fields::latents(seed, batch)),
            Origin::Source(source) => source.len(),
            Origin::Table(table) => table.nrows(),
        };
        ensure!(batch <= len, "{} has {len} images", self.label);
        let order = Key::new(seed).stream(Stream::SHUFFLE).permutation(len);
        let mut images = Array2::zeros((batch, self.dimension));
        for (mut row, &index) in images.rows_mut().into_iter().zip(&order) {
            match &self.origin {
                Origin::Table(table) => row.assign(&table.row(index as usize)),
                Origin::Source(source) => {
                    source.read(index as usize, row.as_slice_mut().expect("a row of a new array"))?;
                }
                Origin::Smooth { .. } | Origin::Latents => {}
            }
        }
        Ok(images)
    }
}

/// What follows the last `/`: the report does not tell where a machine keeps its data.
pub(crate) fn file_name(path: &str) -> String {
    Path::new(path).file_name().map_or_else(|| path.into(), |name| name.to_string_lossy().into_owned())
}

/// Square images with three channels, or one.
fn pixels(dimension: usize) -> anyhow::Result<(usize, usize)> {
    [3, 1]
        .into_iter()
        .map(|channels| (channels, (dimension / channels).isqrt()))
        .find(|(channels, side)| channels * side * side == dimension && dimension > 0)
        .with_context(|| format!("--dim {dimension} is neither 3·s² nor s²: take 3072, for example"))
}

/// Tells the formats that `immiscible-data` reads by the names of the files.
fn open_source(path: &Path) -> anyhow::Result<Box<dyn Source>> {
    let names: Vec<PathBuf> = match std::fs::read_dir(path) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().into())).collect::<std::io::Result<_>>()?,
        Err(_) if path.is_file() => vec![path.to_owned()],
        Err(error) => bail!("{}: {error}", path.display()),
    };
    let any = |pattern: &str| names.iter().any(|name| name.to_string_lossy().contains(pattern));
    let format = if any("images-idx3-ubyte") {
        "idx"
    } else if any(".bin") {
        "cifar10"
    } else {
        "folder"
    };
    debug_assert!(SOURCES.iter().any(|(name, _)| *name == format));
    let options = DataOptions { path: Some(path.into()), ..DataOptions::new(format) };
    Ok(immiscible_data::build(&options)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_images_of_a_batch_differ_and_begin_the_next_larger_one() {
        let digits = Images::open("digits", 3_072).expect("built in");
        assert_eq!((digits.label.as_str(), digits.dimension), ("digits", 64));
        let [few, many] = [8, 32].map(|batch| digits.draw(0, batch).expect("there are 1,797"));
        assert_eq!(few, many.select(ndarray::Axis(0), &[0, 1, 2, 3, 4, 5, 6, 7]));
        assert_ne!(few.row(0), few.row(1));
        let error = digits.draw(0, 4_096).expect_err("too many");
        assert_eq!(error.to_string(), "digits has 1797 images");
    }

    #[test]
    fn labels_and_sizes() {
        let smooth = Images::open("Smooth fields=smooth", 192).expect("3 × 8 × 8");
        assert_eq!((smooth.label.as_str(), smooth.dimension), ("Smooth fields", 192));
        assert_eq!(smooth.draw(0, 5).expect("synthetic").dim(), (5, 192));
        assert_eq!(Images::open("latents", 3_072).expect("built in").dimension, 4_096);
        assert!(Images::open("smooth", 1_000).is_err());
        assert!(Images::open("/nowhere/at/all", 3_072).is_err());
    }
}
