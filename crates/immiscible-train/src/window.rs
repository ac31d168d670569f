use crate::{
    Prepared, TrainError,
    diffusion::{self, all_finite, with_rows},
};
use immiscible_assign::mean_distance;
use immiscible_coupling::{Coupling, Draw, Lookahead, PairContext};
use immiscible_data::{Batch, Loader, prefetch};
use immiscible_random::{Key, Stream};
use ndarray::{Array2, ArrayViewMut2, Axis, Slice, concatenate};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// The part of a coupling that looks ahead, if it has one.
pub(crate) fn lookahead(coupling: &dyn Coupling) -> Option<&dyn Lookahead> {
    coupling.host()?.lookahead()
}

/// The batches of `steps`, with their noise, for a coupling that pairs `rows` of them together: each window while the
/// batches of the one before are handed out, or in its turn without `overlap`.
///
/// Windows begin at multiples of their length, whatever the first step is: the noise of a step does not depend on where training
/// starts from.
///
/// # Errors
/// If a window is no whole number of batches.
pub(crate) fn batches(
    coupling: Arc<dyn Coupling>,
    rows: usize,
    loader: Loader,
    key: Key,
    steps: Range<u64>,
    overlap: bool,
) -> Result<impl Iterator<Item = Result<Prepared, TrainError>> + Send, TrainError> {
    let batch_size = loader.order().batch_size();
    if rows == 0 || !rows.is_multiple_of(batch_size) {
        return Err(TrainError::Option {
            key: "coupling.window",
            value: rows.to_string(),
            remedy: "write a multiple of train.batch_size",
        });
    }
    let length = (rows / batch_size) as u64;
    let pair = move |number| pair(&*coupling, &loader, key, number * length..(number + 1) * length);
    let numbers = steps.start / length..steps.end.div_ceil(length);
    let windows: Box<dyn Iterator<Item = _> + Send> = match overlap {
        true => Box::new(prefetch(numbers, NonZeroUsize::MIN, pair)?),
        false => Box::new(numbers.map(pair)),
    };
    let batches = windows.flat_map(|window: Result<Window, TrainError>| match window {
        Ok(Window { batches, pairing }) => {
            let batches = batches.into_iter().enumerate();
            batches.map(|(number, batch)| Ok((batch, number, pairing.clone()))).collect()
        }
        Err(error) => vec![Err(error)],
    });
    Ok(batches.skip((steps.start % length) as usize).map(|batch| {
        let (batch, number, pairing) = batch?;
        pairing.hand_out(batch, number)
    }))
}

/// Batches that were paired together.
struct Window {
    batches: Vec<Batch>,
    pairing: Arc<Pairing>,
}

struct Pairing {
    /// The run's.
    key: Key,
    /// Step of the window's first batch.
    first: u64,
    /// Rows of a batch.
    size: usize,
    /// The number of each row's noise: that of the row which would have it without a pairing.
    noise_of: Vec<u32>,
    /// The mean distance between each batch's rows and their own noises.
    distances: Vec<f64>,
    /// Time of the pairing, for each batch.
    milliseconds: f64,
}

fn pair(coupling: &dyn Coupling, loader: &Loader, key: Key, steps: Range<u64>) -> Result<Window, TrainError> {
    let (first, size) = (steps.start, loader.order().batch_size());
    let finite = |step| {
        let batch = loader.batch_at(step)?;
        all_finite(&batch, step, false).map(|()| batch)
    };
    let batches = steps.map(finite).collect::<Result<Vec<Batch>, TrainError>>()?;
    let dimensions = loader.source().shape().iter().product();
    let mut x0 = Array2::zeros((batches.len() * size, dimensions));
    for (mut rows, batch) in x0.axis_chunks_iter_mut(Axis(0), size).zip(&batches) {
        with_rows(&batch.images, |images| rows.assign(&images));
    }
    let labels = batches.iter().map(|batch| batch.labels.as_deref()).collect::<Option<Vec<_>>>();
    let labels = labels.map(|labels| labels.concat());
    let index: Vec<u64> = batches.iter().flat_map(|batch| &batch.index).copied().collect();
    let masks = batches.iter().map(|batch| Some(batch.mask.as_ref()?.view())).collect::<Option<Vec<_>>>();
    let mask = masks.map(|masks| concatenate(Axis(0), &masks).expect("masks of one data set have one shape"));
    let context = PairContext {
        labels: labels.as_deref(),
        index: Some(&index),
        mask: mask.as_ref().map(|mask| mask.view()),
        // The shape, which all have.
        ..batches.first().map(diffusion::pairing).unwrap_or_default()
    };

    let mut pairing = Pairing {
        key,
        first,
        size,
        noise_of: (0..x0.nrows() as u32).collect(),
        distances: Vec::new(),
        milliseconds: 0.0,
    };
    let mut drawn = Array2::zeros(x0.dim());
    for (number, mut noise) in drawn.axis_chunks_iter_mut(Axis(0), size).enumerate() {
        pairing.draw(number, noise.view_mut());
        let x0 = x0.slice_axis(Axis(0), Slice::from(number * size..(number + 1) * size));
        let distance = mean_distance(x0, noise.view()).expect("a noise is as long as its image");
        pairing.distances.push(distance);
    }
    if let Some(lookahead) = lookahead(coupling) {
        let start = Instant::now();
        let noise_of = lookahead.pair(x0.view(), drawn.view(), &context, pairing.key_at(0));
        pairing.noise_of = noise_of.map_err(|source| TrainError::Coupling { step: first, source })?;
        pairing.milliseconds = start.elapsed().as_secs_f64() * 1e3 / batches.len() as f64;
    }
    Ok(Window { batches, pairing: Arc::new(pairing) })
}

impl Pairing {
    /// Of the noise of the window's batch of this number, as without a window.
    fn key_at(&self, number: usize) -> Key {
        self.key.step(self.first + number as u64).stream(Stream::NOISE)
    }

    /// Fills `noise`, `[B, D]`, with what the batch of this number has without a pairing.
    fn draw(&self, number: usize, mut noise: ArrayViewMut2<f32>) {
        let dimensions = noise.ncols();
        if let Some(values) = noise.as_slice_mut() {
            self.key_at(number).fill_normals(0, dimensions, values);
        }
    }

    /// What the batch of this number has with it.
    fn paired(&self, number: usize, dimensions: usize) -> Array2<f32> {
        let mut noise = Array2::zeros((self.size, dimensions));
        let numbers = &self.noise_of[number * self.size..(number + 1) * self.size];
        for (mut noise, &j) in noise.rows_mut().into_iter().zip(numbers) {
            let (number, row) = (j as usize / self.size, j as usize % self.size);
            if let Some(values) = noise.as_slice_mut() {
                self.key_at(number).fill_normals(row as u64, dimensions, values);
            }
        }
        noise
    }

    /// The window's batch of this number, with its noise.
    fn hand_out(&self, batch: Batch, number: usize) -> Result<Prepared, TrainError> {
        let drawn = with_rows(&batch.images, |x0| {
            let noise = self.paired(number, x0.ncols());
            Draw::measured_since(x0, self.distances[number], noise, self.milliseconds)
        });
        let drawn = drawn.map_err(|source| {
            let step = self.first + number as u64;
            TrainError::Coupling { step, source }
        })?;
        Ok(Prepared { batch, drawn: Some(drawn), on_device: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prepare;
    use immiscible_coupling::CouplingConfig;
    use immiscible_data::{DataOptions, LoaderOptions, build};
    use ndarray::Array4;
    use std::collections::BTreeMap;

    const KEY: Key = Key::new(3);
    const BATCH: usize = 16;

    fn loader() -> Loader {
        let digits = build(&DataOptions::new("digits")).unwrap();
        Loader::new(digits, LoaderOptions { batch_size: BATCH, seed: 11, flip: false }).unwrap()
    }

    fn config(window: usize) -> CouplingConfig {
        CouplingConfig { kind: "window".into(), window, ..CouplingConfig::default() }
    }

    fn prepared(config: &CouplingConfig, start: u64, steps: usize) -> Vec<Prepared> {
        let coupling = config.build().unwrap().into();
        let overlap = start.is_multiple_of(2);
        let range = start..start + steps as u64;
        let batches = batches(coupling, config.window, loader(), KEY, range, overlap).unwrap();
        batches.take(steps).collect::<Result<_, _>>().unwrap()
    }

    /// The noise of every row, as bits.
    fn noise(prepared: &[Prepared]) -> Vec<Vec<u32>> {
        let rows = prepared.iter().flat_map(|prepared| prepared.drawn.as_ref().unwrap().noise.rows());
        rows.map(|row| row.iter().map(|value| value.to_bits()).collect()).collect()
    }

    /// What ordinary training draws in these steps.
    fn plain(steps: Range<u64>) -> Vec<f32> {
        let noise = |step| {
            let mut values = vec![0.0; BATCH * 64];
            KEY.step(step).stream(Stream::NOISE).fill_normals(0, 64, &mut values);
            values
        };
        steps.flat_map(noise).collect()
    }

    #[test]
    fn a_window_that_is_not_coupled_is_ordinary_training_bit_for_bit() {
        let config = CouplingConfig { probability: 0.0, ..config(4 * BATCH) };
        let bits: Vec<u32> = plain(2..9).iter().map(|value| value.to_bits()).collect();
        assert_eq!(noise(&prepared(&config, 2, 7)).concat(), bits);
    }

    #[test]
    fn a_window_of_one_batch_is_the_assignment_of_the_batch() {
        let assignment = CouplingConfig::default().build().unwrap();
        for (step, found) in (5..).zip(prepared(&config(BATCH), 5, 3)) {
            let expected = prepare(&*assignment, loader().batch_at(step).unwrap(), KEY, step).unwrap();
            assert_eq!(found.batch, expected.batch);
            let (found, expected) = (found.drawn.unwrap(), expected.drawn.unwrap());
            assert_eq!(found.noise, expected.noise);
            assert_eq!(found.statistics.distance_after, expected.statistics.distance_after);
        }
    }

    #[test]
    fn the_noise_of_a_step_does_not_depend_on_where_training_starts() {
        let config = config(4 * BATCH);
        let whole = noise(&prepared(&config, 0, 10));
        for start in [1, 3, 4, 6, 9] {
            assert_eq!(noise(&prepared(&config, start as u64, 10 - start)), whole[start * BATCH..]);
        }
    }

    #[test]
    fn a_window_hands_out_every_noise_once() {
        let found = prepared(&config(4 * BATCH), 4, 4);
        let drawn = plain(4..8);
        let mut expected: Vec<Vec<u32>> =
            drawn.chunks(64).map(|row| row.iter().map(|value| value.to_bits()).collect()).collect();
        let mut taken = noise(&found);
        assert_ne!(taken, expected);
        taken.sort();
        expected.sort();
        assert_eq!(taken, expected);
    }

    #[test]
    fn larger_windows_bring_noise_nearer() {
        let drop = |window: usize| {
            let found = prepared(&config(window), 0, 16);
            let drops =
                found.iter().map(|prepared| prepared.drawn.as_ref().unwrap().statistics.drop_percent());
            drops.sum::<f64>() / 16.0
        };
        let drops = [BATCH, 4 * BATCH, 16 * BATCH].map(drop);
        assert!(drops[0] + 0.5 < drops[1] && drops[1] + 0.5 < drops[2], "{drops:?}");
    }

    #[test]
    fn class_wise_windows_stay_inside_labels() {
        let config = CouplingConfig { class_wise: true, ..config(8 * BATCH) };
        let found = prepared(&config, 0, 8);
        let labels: Vec<u32> = found.iter().flat_map(|p| p.batch.labels.clone().unwrap()).collect();
        let drawn = plain(0..8);
        let bits = |row: &[f32]| -> Vec<u32> { row.iter().map(|value| value.to_bits()).collect() };
        let number: BTreeMap<Vec<u32>, usize> =
            drawn.chunks(64).enumerate().map(|(j, row)| (bits(row), j)).collect();
        let taken: Vec<usize> = noise(&found).iter().map(|row| number[row]).collect();
        assert!(taken.iter().enumerate().any(|(i, &j)| i != j));
        for (i, j) in taken.into_iter().enumerate() {
            assert_eq!(labels[i], labels[j], "row {i} took noise {j}");
        }
    }

    /// A window looks at the values that count, of each image its own, and at no others.
    #[test]
    fn a_masked_window_is_that_of_the_values_that_count() {
        let values = loader().source().len() * 64;
        let counts =
            Array4::from_shape_vec((values / 64, 1, 8, 8), (0..values).map(|v| v * v % 3 > 0).collect());
        let masks = counts.unwrap();
        let config = config(4 * BATCH);
        let batches = |masks: &Array4<bool>, window: usize| {
            let config = CouplingConfig { window, ..config.clone() };
            let loader = loader().masked(masks.clone()).unwrap();
            let batches = batches(config.build().unwrap().into(), window, loader, KEY, 0..4, true).unwrap();
            batches.take(4).collect::<Result<Vec<_>, _>>().unwrap()
        };
        let masked = batches(&masks, 4 * BATCH);
        let plain = noise(&prepared(&config, 0, 4));
        assert_ne!(noise(&masked), plain);
        assert_eq!(noise(&batches(&masks.mapv(|_| true), 4 * BATCH)), plain);
        let total = |prepared: &[Prepared]| -> f32 {
            let rows = prepared.iter().flat_map(|prepared| {
                let noise = &prepared.drawn.as_ref().unwrap().noise;
                let products = with_rows(&prepared.batch.images, |x0| &x0 * noise);
                let mask = prepared.batch.mask.clone().unwrap();
                products
                    .into_iter()
                    .zip(mask)
                    .filter(|(_, counts)| *counts)
                    .map(|(product, _)| product)
                    .collect::<Vec<_>>()
            });
            rows.sum()
        };
        let mut unmasked = prepared(&config, 0, 4);
        for (unmasked, masked) in unmasked.iter_mut().zip(&masked) {
            unmasked.batch.mask = masked.batch.mask.clone();
        }
        assert!(total(&masked) > total(&unmasked), "{} {}", total(&masked), total(&unmasked));
        // A window of one batch is the assignment of the batch, masked as well.
        let loader = loader().masked(masks.clone()).unwrap();
        let assignment = CouplingConfig::default().build().unwrap();
        for (step, found) in (0..).zip(batches(&masks, BATCH)) {
            let expected = prepare(&*assignment, loader.batch_at(step).unwrap(), KEY, step).unwrap();
            assert_eq!(found.drawn.unwrap().noise, expected.drawn.unwrap().noise);
        }
    }

    #[test]
    fn a_window_is_a_whole_number_of_batches() {
        let coupling = config(40).build().unwrap().into();
        let error = batches(coupling, 40, loader(), KEY, 0..9, true).err().unwrap().to_string();
        assert!(error.contains("coupling.window = 40") && error.contains("train.batch_size"), "{error}");
    }
}
