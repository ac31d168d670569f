//! What an assignment costs and what it brings: milliseconds for cost and solution, beside the drop of the mean
//! distance ‖x − ε‖ in per cent, for every assigner and several batch sizes.
//!
//! `cargo bench -p immiscible-benches --bench assignment [-- FILTER]`; `RAYON_NUM_THREADS` sets the threads.
//!
//! The images are smooth random fields, a stand-in for photographs: the optimum brings them about what it brings
//! CIFAR-10 (1.9 % at batch size 1,024). Compare assigners by this table, not data sets.

use std::{
    f32::consts::PI,
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, SamplingMode};
use immiscible_assign::{ASSIGNERS, Candidates, Cost, Problem, drop_percent, mean_distance};
use immiscible_random::{Key, Stream};
use ndarray::{Array2, Array3, Axis};

const BATCH_SIZES: [usize; 6] = [64, 128, 256, 512, 1_024, 2_048];
const CHANNELS: usize = 3;
const SIDE: usize = 32;
const DIMENSION: usize = CHANNELS * SIDE * SIDE;
/// Candidates per image, where images have their own.
const K: usize = 4;
const COST: Cost = Cost::Dot;

/// A line of the table.
struct Measured {
    assigner: &'static str,
    batch: usize,
    milliseconds: f64,
    drop: f64,
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let measured = bench(&mut criterion);
    criterion.final_summary();

    println!("\nassignment by the cost {COST}, D = {DIMENSION}, k = {K}, {} threads,", threads());
    println!("images: smooth random fields (synthetic), median time of cost and solution\n");
    println!("| assigner | batch | ms | distance drop % |");
    println!("|---|---:|---:|---:|");
    for Measured { assigner, batch, milliseconds, drop } in measured {
        println!("| {assigner} | {batch} | {milliseconds:.2} | {drop:.2} |");
    }
}

fn bench(criterion: &mut Criterion) -> Vec<Measured> {
    let mut measured = Vec::new();
    let mut group = criterion.benchmark_group("assignment");
    group.sampling_mode(SamplingMode::Flat);
    for batch in BATCH_SIZES {
        let images = smooth_fields(batch);
        // Candidate 0 of every image is its noise in the shared set, so that all assigners start from one pairing.
        let own = candidates(batch);
        let shared = own.index_axis(Axis(1), 0).to_owned();
        for (assigner, build) in ASSIGNERS {
            let solver = build();
            let candidates = if solver.shares_noise() {
                Candidates::Shared(shared.view())
            } else {
                Candidates::PerImage(own.view())
            };
            let problem = Problem { cost: COST, ..Problem::new(images.view(), candidates) };
            let assign = || solver.assign(&problem).expect("finite images and noises");
            let mut samples = Vec::new();
            group.bench_function(BenchmarkId::new(*assigner, batch), |bencher| {
                bencher.iter_custom(|iterations| {
                    let start = Instant::now();
                    for _ in 0..iterations {
                        black_box(assign());
                    }
                    let elapsed = start.elapsed();
                    samples.push(1e3 * elapsed.as_secs_f64() / iterations as f64);
                    elapsed
                });
            });
            // Nothing was timed if a filter on the command line left this one out.
            if samples.is_empty() {
                continue;
            }
            samples.sort_by(f64::total_cmp);
            let milliseconds = samples[samples.len() / 2];
            let paired = assign().gather(&candidates).expect("the same candidates");
            let distance = |noise| mean_distance(images.view(), noise).expect("the same shape");
            let drop = drop_percent(distance(shared.view()), distance(paired.view()));
            measured.push(Measured { assigner, batch, milliseconds, drop });
        }
    }
    group.finish();
    measured.sort_by_key(|line| (line.assigner, line.batch));
    measured
}

/// Mixtures of the lowest cosines, weaker with the frequency as in photographs, clipped to [−1, 1].
fn smooth_fields(batch: usize) -> Array2<f32> {
    const FREQUENCIES: usize = 6;
    const AMPLITUDE: f32 = 0.3;
    let wave =
        |pixel: usize, frequency: usize| ((pixel as f32 + 0.5) * frequency as f32 * PI / SIDE as f32).cos();
    let modes = CHANNELS * FREQUENCIES * FREQUENCIES;
    let basis = Array2::from_shape_fn((modes, DIMENSION), |(mode, d)| {
        let (channel, u, v) = split(mode, FREQUENCIES);
        let (of, y, x) = split(d, SIDE);
        let decay = AMPLITUDE / ((u * u + v * v) as f32).sqrt().max(0.7);
        if channel == of { decay * wave(y, u) * wave(x, v) } else { 0.0 }
    });
    normals(Key::new(0).stream(Stream::custom(0)), batch, modes).dot(&basis).mapv(|x| x.clamp(-1.0, 1.0))
}

/// The channel, row and column of an index into channels of `side` × `side`.
fn split(index: usize, side: usize) -> (usize, usize, usize) {
    (index / (side * side), index / side % side, index % side)
}

fn candidates(batch: usize) -> Array3<f32> {
    let rows = normals(Key::new(0).stream(Stream::NOISE), batch * K, DIMENSION);
    rows.into_shape_with_order((batch, K, DIMENSION)).expect("batch * K rows")
}

fn normals(key: Key, rows: usize, columns: usize) -> Array2<f32> {
    let mut values = vec![0.0; rows * columns];
    key.fill_normals(0, columns, &mut values);
    Array2::from_shape_vec((rows, columns), values).expect("rows * columns values")
}

fn threads() -> usize {
    std::env::var("RAYON_NUM_THREADS")
        .ok()
        .and_then(|threads| threads.parse().ok())
        .or_else(|| std::thread::available_parallelism().ok().map(Into::into))
        .unwrap_or(1)
}
