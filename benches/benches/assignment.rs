//! What an assignment costs and what it brings: milliseconds for the cost matrix by cost and precision, and for cost and
//! solution beside the drop of the mean distance ‖x − ε‖ in per cent, for every assigner and several batch sizes.
//!
//! `cargo bench -p immiscible-benches --bench assignment [-- FILTER]`; `RAYON_NUM_THREADS` sets the threads.
//!
//! The images are smooth random fields, a stand-in for photographs: the optimum brings them about what it brings
//! CIFAR-10 (1.9 % at batch size 1,024). Compare assigners by this table, not data sets; `cargo xtask bench assignment`
//! compares with other people's solvers.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, SamplingMode};
use immiscible_assign::{ASSIGNERS, Candidates, Cost, Precision, Problem, drop_percent, mean_distance};
use immiscible_benches::fields;
use ndarray::Axis;

const BATCH_SIZES: [usize; 6] = [64, 128, 256, 512, 1_024, 2_048];
/// Of the cost kernels.
const COST_BATCH: usize = 1_024;
const CHANNELS: usize = 3;
const SIDE: usize = 32;
const DIMENSION: usize = CHANNELS * SIDE * SIDE;
/// Candidates per image, where images have their own.
const K: usize = 4;

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
    costs(&mut criterion);
    let measured = assigners(&mut criterion);
    criterion.final_summary();

    println!(
        "\nassignment by the cost {}, D = {DIMENSION}, k = {K}, {} threads,",
        Cost::default(),
        threads()
    );
    println!("images: smooth random fields (synthetic), median time of cost and solution\n");
    println!("| assigner | batch | ms | distance drop % |");
    println!("|---|---:|---:|---:|");
    for Measured { assigner, batch, milliseconds, drop } in measured {
        println!("| {assigner} | {batch} | {milliseconds:.2} | {drop:.2} |");
    }
}

/// The cost matrix alone.
fn costs(criterion: &mut Criterion) {
    let (images, noise) =
        (fields::smooth(0, COST_BATCH, CHANNELS, SIDE), fields::noise(0, COST_BATCH, DIMENSION));
    let mut group = criterion.benchmark_group("cost");
    group.sampling_mode(SamplingMode::Flat);
    for cost in Cost::ALL {
        for precision in [Precision::F32, Precision::Int8] {
            // Absolute differences are no product: eight bits would not change what is done.
            if (cost, precision) == (Cost::L1, Precision::Int8) {
                continue;
            }
            let candidates = Candidates::Shared(noise.view());
            let problem = Problem { cost, precision, ..Problem::new(images.view(), candidates) };
            group.bench_function(BenchmarkId::new(cost.name(), format!("{precision:?}")), |bencher| {
                bencher.iter(|| problem.cost_matrix().expect("finite images and noises"));
            });
        }
    }
    group.finish();
}

fn assigners(criterion: &mut Criterion) -> Vec<Measured> {
    let mut measured = Vec::new();
    let mut group = criterion.benchmark_group("assignment");
    group.sampling_mode(SamplingMode::Flat);
    for batch in BATCH_SIZES {
        let images = fields::smooth(0, batch, CHANNELS, SIDE);
        // Candidate 0 of every image is its noise in the shared set, so that all assigners start from one pairing.
        let own = fields::candidates(batch, K, DIMENSION);
        let shared = own.index_axis(Axis(1), 0).to_owned();
        for (assigner, build) in ASSIGNERS {
            let solver = build();
            let candidates = if solver.shares_noise() {
                Candidates::Shared(shared.view())
            } else {
                Candidates::PerImage(own.view())
            };
            let problem = Problem::new(images.view(), candidates);
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

fn threads() -> usize {
    std::env::var("RAYON_NUM_THREADS")
        .ok()
        .and_then(|threads| threads.parse().ok())
        .or_else(|| std::thread::available_parallelism().ok().map(Into::into))
        .unwrap_or(1)
}
