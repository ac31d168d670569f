//! Three "generators" of a mixture, one of them without a mode: `cargo run -p immiscible-metrics --example compare_samples`

use immiscible_metrics::{MetricError, NearestNeighbour, SlicedW2, coverage};
use immiscible_random::{Key, Stream};
use ndarray::{Array2, Axis};

const MODES: usize = 8;
const SAMPLES: usize = 1_000;

fn main() -> Result<(), MetricError> {
    let (real, labels) = ring(0, 3 * SAMPLES, MODES, 0.1);
    let generators = [
        ("as good as the data", ring(1, SAMPLES, MODES, 0.1)),
        ("a mode is missing", ring(2, SAMPLES, MODES - 1, 0.1)),
        ("blurred", ring(3, SAMPLES, MODES, 0.3)),
    ];
    let classifier = NearestNeighbour::fit(real.view(), &labels)?;
    for (name, (samples, _)) in generators {
        let quality = SlicedW2::measure(samples.view(), real.view(), 200, Key::new(0))?;
        let nearest = classifier.nearest(samples.view())?;
        let distance = nearest.iter().map(|nearest| nearest.distance).sum::<f64>() / SAMPLES as f64;
        let predicted: Vec<u32> = nearest.iter().map(|nearest| nearest.label).collect();
        println!("{name}: {quality}\n  {}\n  {distance:.3} to the nearest real sample", coverage(&predicted));
    }
    Ok(())
}

/// Normals around one of the first `modes` of eight points on a circle, drawn for each sample, and that point.
fn ring(seed: u64, count: usize, modes: usize, spread: f32) -> (Array2<f32>, Vec<u32>) {
    let mut values = vec![0.0; 2 * count];
    Key::new(seed).fill_normals(0, 2, &mut values);
    let mut samples = Array2::from_shape_vec((count, 2), values).expect("2 * count values");
    let mode = Key::new(seed).stream(Stream::custom(0));
    let labels: Vec<u32> = (0..count as u64).map(|i| (mode.uniform(i) * modes as f64) as u32).collect();
    for (mut sample, &label) in samples.axis_iter_mut(Axis(0)).zip(&labels) {
        let (sin, cos) = (label as f32 * std::f32::consts::TAU / MODES as f32).sin_cos();
        sample[0] = cos + spread * sample[0];
        sample[1] = sin + spread * sample[1];
    }
    (samples, labels)
}
