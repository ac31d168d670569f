//! What a run is worth, in numbers with honest names.

use crate::parts::Parts;
use anyhow::Result;
use immiscible_data::{Batch, Source};
use immiscible_metrics::{NearestNeighbour, SlicedW2, coverage};
use immiscible_models::Network;
use immiscible_random::{Key, Stream};
use ndarray::{ArrayView2, Axis};

/// Samples that are compared, or half of the real images where there are fewer than twice as many.
const SAMPLES: usize = 500;
/// Real images that they are compared with, at most.
const REAL: usize = 10 * SAMPLES;
/// Values that they may have together, 256 MiB of them.
const VALUES: usize = 1 << 26;
/// Directions of the sliced distance.
const PROJECTIONS: usize = 1_000;
/// Seed of samples, choice of real images, and directions, the same for every run, so that runs can be compared.
const SEED: u64 = 0x5EED;
/// Samples that the nearest-neighbour classifier looks at.
const CLASSIFIED: usize = 100;

/// Compares samples of `network` with real images: the sliced distance beside its real-against-real floor, and for
/// labelled data which classes a nearest-neighbour classifier finds among the samples.
pub(crate) fn measure(parts: &Parts, source: &dyn Source, network: &Network) -> Result<Vec<String>> {
    let dimensions = parts.image_values();
    let reference = REAL.min(VALUES / dimensions).min(source.len());
    let n = SAMPLES.min(reference / 2);
    if n == 0 {
        return Ok(vec!["not measured: the data has a single image".into()]);
    }
    let samples = parts.sample(network, n, SEED)?;
    let samples = samples.to_shape((n, dimensions))?;

    let chosen = Key::new(SEED).stream(Stream::SHUFFLE).permutation(source.len());
    let chosen: Vec<u64> = chosen.into_iter().take(reference).map(u64::from).collect();
    let real = Batch::read(source, chosen)?;
    let images = parts.images(real.images.into_values().into_owned())?;
    let real_rows = images.to_shape((reference, dimensions))?;

    let key = Key::new(SEED).stream(Stream::PROJECTION);
    let mut lines = vec![SlicedW2::measure(samples.view(), real_rows.view(), PROJECTIONS, key)?.to_string()];
    if parts.data.latents.is_some() {
        lines.push("real images above are what the autoencoder makes of the latents".into());
    }
    if let (Some(labels), Some(classes)) = (&real.labels, source.classes()) {
        let looked_at: ArrayView2<f32> = samples.view().split_at(Axis(0), n.min(CLASSIFIED)).0;
        let found = coverage(&NearestNeighbour::fit(real_rows.view(), labels)?.predict(looked_at)?);
        lines.push(format!(
            "1-nearest neighbour on real images finds {} of {} classes among {} samples",
            found.distinct(),
            classes.len(),
            looked_at.nrows()
        ));
    }
    Ok(lines)
}
