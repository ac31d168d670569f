//! Normals per second. `cargo run --release -p immiscible-random --example throughput`

use std::time::Instant;

use immiscible_random::{Key, Stream};

fn main() {
    let (rows, row_len) = (1_024, 3_072);
    let mut noise = vec![0.0; rows * row_len];
    let seconds = |step| {
        let start = Instant::now();
        Key::new(0).step(step).stream(Stream::NOISE).fill_normals(0, row_len, &mut noise);
        start.elapsed().as_secs_f64()
    };
    let best = (0..20).map(seconds).fold(f64::INFINITY, f64::min);
    println!(
        "{rows} x {row_len} normals in {:.1} ms: {:.0} million a second (RAYON_NUM_THREADS sets the threads)",
        1e3 * best,
        1e-6 * (rows * row_len) as f64 / best
    );
}
