//! One batch with every assigner: `cargo run -p immiscible-assign --example assign_batch`

use immiscible_assign::{ASSIGNERS, AssignError, Candidates, Problem, drop_percent, mean_distance};
use immiscible_random::{Key, Stream};
use ndarray::{Array2, Axis};

const BATCH: usize = 256;
const DIMENSION: usize = 784;
const K: usize = 4;

fn main() -> Result<(), AssignError> {
    // Blurred noise stands in for images.
    let rough = normals(Key::new(0), BATCH);
    let images = Array2::from_shape_fn((BATCH, DIMENSION), |(i, d)| {
        (d..d + 49).map(|d| rough[(i, d % DIMENSION)]).sum::<f32>() / 14.0
    });
    // Candidate 0 of every image is its noise in the shared set.
    let candidates = normals(Key::new(0).stream(Stream::NOISE), BATCH * K);
    let own = candidates.to_shape((BATCH, K, DIMENSION)).expect("BATCH * K rows");
    let shared = own.index_axis(Axis(1), 0);

    let before = mean_distance(images.view(), shared)?;
    for (name, build) in ASSIGNERS {
        let assigner = build();
        let candidates = if assigner.shares_noise() {
            Candidates::Shared(shared)
        } else {
            Candidates::PerImage(own.view())
        };
        let problem = Problem::new(images.view(), candidates);
        let assignment = assigner.assign(&problem)?;
        let after = mean_distance(images.view(), assignment.gather(&candidates)?.view())?;
        println!("{name:>6}: ‖x − ε‖ {before:.3} → {after:.3}, {:.2} % less", drop_percent(before, after));
    }
    Ok(())
}

fn normals(key: Key, rows: usize) -> Array2<f32> {
    let mut values = vec![0.0; rows * DIMENSION];
    key.fill_normals(0, DIMENSION, &mut values);
    Array2::from_shape_vec((rows, DIMENSION), values).expect("rows * DIMENSION values")
}
