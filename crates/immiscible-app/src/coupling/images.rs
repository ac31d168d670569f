//! The images that couplings are tried on.

use crate::cli;
use anyhow::{Context, Result, bail, ensure};
use immiscible_data::{Batch, DataOptions, SOURCES, build, npy};
use immiscible_random::{Key, Stream};
use ndarray::{Array2, Axis};
use std::borrow::Cow;
use std::path::Path;

pub(crate) struct Images {
    /// `[N, D]`
    pub(crate) rows: Array2<f32>,
    pub(crate) labels: Option<Vec<u32>>,
    /// `[C, H, W]` of an image, if the rows are images and not only values.
    pub(crate) shape: Option<[usize; 3]>,
    /// In words.
    pub(crate) what: String,
}

/// Kinds of files that may hold any data set, whose own names tell nothing of it.
const CONTAINERS: [&str; 8] = ["folder", "idx", "latents", "npy", "npz", "parquet", "records", "tar"];

/// The name of a file without the folders that it lies in, which are nobody else's business in a report.
fn last(path: &Path) -> Cow<'_, str> {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy()
}

impl Images {
    /// Reads an array, or a data set by its name and path. In words it is `called` so, or by that name.
    pub(crate) fn read(data: &cli::Images, called: Option<&str>) -> Result<Self> {
        let (name, path) = match data.data.split_once(':') {
            Some((name, path)) => (name, Some(Path::new(path))),
            None => (&*data.data, None),
        };
        let images = if Path::new(&data.data).extension().is_some_and(|extension| extension == "npy") {
            ensure!(data.image_size.is_none(), "--image-size: an array keeps its size; leave it out");
            Self::of_arrays(Path::new(&data.data), data.labels.as_deref(), called)?
        } else if SOURCES.iter().any(|(known, _)| *known == name) {
            ensure!(data.labels.is_none(), "--labels: {name} has its own; leave it out");
            let options = DataOptions {
                path: path.map(Path::to_owned),
                image_size: data.image_size,
                ..DataOptions::new(name)
            };
            let remedy = || format!("DATA = {}: write NAME, or NAME:PATH where it needs one", data.data);
            let source = build(&options).with_context(remedy)?;
            let batch = Batch::read(&*source, (0..source.len() as u64).collect())?;
            let shape @ [c, h, w] = source.shape();
            let rows = batch
                .images
                .into_values()
                .into_owned()
                .into_shape_with_order((source.len(), shape.iter().product::<usize>()))?;
            let what = match (called, path) {
                (Some(called), _) => called.into(),
                (None, Some(path)) if CONTAINERS.contains(&name) => last(path),
                _ => name.into(),
            };
            let what = format!("{what}: {} of {c}×{h}×{w}", rows.nrows());
            Self { rows, labels: batch.labels, shape: Some(shape), what }
        } else {
            let names: Vec<_> = SOURCES.iter().map(|(name, _)| *name).collect();
            bail!(
                "DATA = {}: write a file that ends in .npy, or NAME:PATH with one of the names {}",
                data.data,
                names.join(", ")
            );
        };
        ensure!(
            images.rows.iter().all(|x| x.is_finite()),
            "{}: it has values that are not finite",
            images.what
        );
        Ok(images)
    }

    fn of_arrays(path: &Path, labels: Option<&Path>, called: Option<&str>) -> Result<Self> {
        let file = npy::read::<f32>(path)?;
        ensure!(
            file.shape.len() >= 2 && !file.values.is_empty(),
            "{}: its shape is {:?}; write [N, …] with at least one image",
            path.display(),
            file.shape
        );
        let rows = file.rows()?.to_owned();
        let labels = labels.map(npy::read_labels).transpose()?;
        if let Some(labels) = &labels {
            let (found, n) = (labels.len(), rows.nrows());
            ensure!(found == n, "--labels: it has {found} rows for {n} images; give one for each");
        }
        let shape = match file.shape[..] {
            [_, ref channels @ .., h, w] => Some([channels.iter().product(), h, w]),
            _ => None,
        };
        let what = format!(
            "{}: {} of {} values",
            called.map_or_else(|| last(path), Into::into),
            rows.nrows(),
            rows.ncols()
        );
        Ok(Self { rows, labels, shape, what })
    }

    /// `n` of them in an order of their own: data sets are often sorted by class, and a pool must not be of one class.
    pub(crate) fn some(self, n: usize, key: Key) -> Self {
        let all = self.rows.nrows();
        let order = key.stream(Stream::SHUFFLE).permutation(all);
        let chosen: Vec<usize> = order.into_iter().take(n).map(|row| row as usize).collect();
        Self {
            rows: self.rows.select(Axis(0), &chosen),
            labels: self.labels.map(|labels| chosen.iter().map(|row| labels[*row]).collect()),
            what: if n < all { format!("{n} images of {}", self.what) } else { self.what },
            shape: self.shape,
        }
    }
}
