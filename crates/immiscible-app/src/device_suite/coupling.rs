//! Couplings of images that are on the device.

use super::{Check, Devices, compare, floats};
use anyhow::{Result, ensure};
use burn::tensor::{Device, Tensor, TensorData};
use immiscible_coupling::{COUPLINGS, Coupling, CouplingConfig, PairContext, Statistics};
use immiscible_data::{DataOptions, Loader, LoaderOptions, build};
use immiscible_random::{Key, Stream};
use ndarray::Array2;

const ROWS: usize = 128;
const DIMENSIONS: usize = 64;
/// Of distances, which are sums of rounded squares.
const TOLERANCE: f64 = 1e-3;

pub(super) fn checks() -> Vec<Check> {
    let check =
        |kind: &'static str| Check::new(format!("coupling/{kind}"), move |devices| coupling(kind, devices));
    COUPLINGS.iter().map(|(kind, _)| check(kind)).collect()
}

fn coupling(kind: &str, devices: &Devices) -> Result<String> {
    let source = build(&DataOptions::new("digits"))?;
    let digits =
        Loader::new(source, LoaderOptions { batch_size: ROWS, seed: 11, flip: false })?.batch_at(0)?;
    let x0 = Array2::from_shape_vec((ROWS, DIMENSIONS), digits.images.values().iter().copied().collect())?;
    let mut coupling = CouplingConfig { kind: kind.into(), ..CouplingConfig::default() }.build()?;
    if coupling.needs_data() {
        coupling.fit(x0.view(), None)?;
    }
    let on = |device: &Device| draw(&*coupling, &x0, &digits.index, device);
    let (found, statistics) = on(&devices.tested)?;
    let (expected, of_cpu) = on(&devices.cpu)?;
    ensure!(on(&devices.tested)?.0 == found, "the same key draws other noise");
    ensure!(found.iter().all(|value| value.is_finite()), "noise that is not finite");

    let distance = mean_distance(&x0, &found);
    let error = (statistics.distance_after / distance - 1.0).abs();
    ensure!(
        error <= TOLERANCE,
        "distance_after = {} is told, {distance} is found in the noise",
        statistics.distance_after
    );
    let (drop, of_cpu) = (statistics.drop_percent(), of_cpu.drop_percent());
    // All noise is drawn on the host.
    compare("noise", &found, &expected, 0.0)?;
    Ok(format!("distance drop {drop:.2} %, on the CPU {of_cpu:.2} %"))
}

/// The noise, row by row.
fn draw(
    coupling: &dyn Coupling,
    x0: &Array2<f32>,
    index: &[u64],
    device: &Device,
) -> Result<(Vec<f32>, Statistics)> {
    let data = TensorData::new(x0.iter().copied().collect::<Vec<f32>>(), [ROWS, 1, 8, 8]);
    let images = Tensor::<4>::from_data(data, device);
    let pairing = PairContext { index: Some(index), ..PairContext::default() };
    let drawn = coupling.draw(&images, &pairing, Key::new(7).step(3).stream(Stream::NOISE))?;
    Ok((floats(drawn.noise)?, drawn.statistics))
}

fn mean_distance(x0: &Array2<f32>, noise: &[f32]) -> f64 {
    let of_row =
        |(x, n): (&[f32], &[f32])| x.iter().zip(n).map(|(x, n)| f64::from(x - n).powi(2)).sum::<f64>().sqrt();
    let x0: Vec<f32> = x0.iter().copied().collect();
    let sum: f64 = x0.chunks(DIMENSIONS).zip(noise.chunks(DIMENSIONS)).map(of_row).sum();
    sum / ROWS as f64
}
