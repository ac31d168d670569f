//! What couplings do to images that do not come with the code. Each test reads the place of its data set from a variable, and has
//! nothing to say without:
//!
//! ```console
//! $ IMMISCIBLE_FASHION_MNIST=DIR IMMISCIBLE_CIFAR10=DIR cargo test -p immiscible-train --test real_images -- --nocapture
//! ```

use immiscible_coupling::{Coupling, CouplingConfig, Marginal, Moments};
use immiscible_data::{Batch, DataOptions, Loader, LoaderOptions, Source, build};
use immiscible_random::Key;
use immiscible_train::{Prepared, prepare};
use ndarray::{Array2, ArrayView2, Axis};
use std::path::PathBuf;

const KEY: Key = Key::new(13);

/// The data set in the place that a variable names.
fn source(name: &str, variable: &str) -> Option<Box<dyn Source>> {
    let Some(path) = std::env::var_os(variable) else {
        eprintln!("{variable} is not set: nothing is tested on {name}");
        return None;
    };
    let options = DataOptions { path: Some(PathBuf::from(path)), ..DataOptions::new(name) };
    Some(build(&options).unwrap_or_else(|error| panic!("{variable}: {error}")))
}

fn config(kind: &str) -> CouplingConfig {
    CouplingConfig { kind: kind.into(), ..CouplingConfig::default() }
}

/// The batches of one epoch, at most so many images, with their noise.
fn batches(
    coupling: &dyn Coupling,
    source: Box<dyn Source>,
    batch_size: usize,
    most: usize,
) -> Vec<Prepared> {
    let steps = (source.len().min(most) / batch_size) as u64;
    let loader = Loader::new(source, LoaderOptions { batch_size, seed: 1, flip: false }).unwrap();
    let prepared = |step| prepare(coupling, loader.batch_at(step).unwrap(), KEY, step).unwrap();
    (0..steps).map(prepared).collect()
}

/// By how much per cent exact assignment brings images and noises together, over at most 16,384 images.
fn drop(source: Box<dyn Source>, batch_size: usize) -> f64 {
    let coupling = config("assignment").build().unwrap();
    let drawn = batches(&*coupling, source, batch_size, 16_384);
    let statistics = || drawn.iter().map(|prepared| prepared.drawn.as_ref().unwrap().statistics);
    let before: f64 = statistics().map(|statistics| statistics.distance_before).sum();
    let after: f64 = statistics().map(|statistics| statistics.distance_after).sum();
    100.0 * (1.0 - after / before)
}

/// Measured beside this project with other solvers, on pixels in [-1, 1].
#[test]
fn distance_drops_are_those_measured_elsewhere() {
    for (name, variable, expected) in [
        ("fashion-mnist", "IMMISCIBLE_FASHION_MNIST", [(128, 2.6), (1024, 3.2)]),
        ("cifar10", "IMMISCIBLE_CIFAR10", [(128, 1.55), (1024, 1.94)]),
    ] {
        for (batch_size, expected) in expected {
            let Some(source) = source(name, variable) else { break };
            let found = drop(source, batch_size);
            eprintln!("{name}, {batch_size} images: {found:.2} %");
            assert!((found - expected).abs() < 0.3, "{name}, {batch_size}: {found} %, not {expected} %");
        }
    }
}

#[test]
fn priced_knn_keeps_mean_and_energy_on_fashion_mnist() {
    const IMAGES: usize = 16_384;
    let Some(source) = source("fashion-mnist", "IMMISCIBLE_FASHION_MNIST") else { return };
    let images = Batch::read(&*source, (0..IMAGES as u64).collect()).unwrap().images.into_values();
    let dimensions = images.len() / IMAGES;
    let images = images.to_shape((IMAGES, dimensions)).unwrap();
    let moments = Moments::of(images.view(), 8);
    let mut coupling = CouplingConfig { k: 16, ..config("priced_knn") }.build().unwrap();
    coupling.fit(images.view(), None).unwrap();
    let drawn = batches(&*coupling, source, 128, IMAGES);
    let noises: Vec<ArrayView2<f32>> =
        drawn.iter().map(|prepared| prepared.drawn.as_ref().unwrap().noise.view()).collect();
    let noise: Array2<f32> = ndarray::concatenate(Axis(0), &noises).unwrap();
    let Marginal { mean_shift, energy, .. } = Marginal::of(noise.view(), &moments);
    eprintln!("priced_knn of 16: mean shift {mean_shift:.3} of what chance gives, energy {energy:.4}");
    assert!(mean_shift < 1.5, "mean shift {mean_shift}");
    assert!((energy - 1.0).abs() < 0.005, "energy {energy}");
}
