//! What every key promises: the numbers depend on their address and on nothing else.

use immiscible_random::{Key, Stream};

const KEY: Key = Key::new(42).step(3).stream(Stream::NOISE);
/// Fills rows by their ids.
type Fill = fn(Key, &[u64], usize, &mut [f32]);
const FILLS: [Fill; 2] = [Key::fill_normals_at, Key::fill_uniforms_at];

fn row(key: Key, row: u64, len: usize) -> Vec<f32> {
    let mut out = vec![0.0; len];
    key.fill_normals(row, len, &mut out);
    out
}

fn threads<T: Send>(count: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(count).build().expect("a thread pool").install(work)
}

/// The same numbers came out of a second implementation, in Python with NumPy's `float32`.
#[test]
fn golden_bits() {
    let bits = |key, id, len| row(key, id, len).iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(KEY, 0, 5), [0x3eaa_c0a1, 0xbee5_cdf4, 0xbf91_e574, 0xc015_a1b8, 0xbe04_ca2d]);
    let far = Key::new(u64::MAX).step(1 << 40).stream(Stream::custom(9));
    assert_eq!(bits(far, (5 << 32) + 7, 3), [0xbf9a_5f90, 0xbfb8_6e1a, 0xbd8d_d42f]);
    assert_eq!(KEY.uniform(1).to_bits(), 0x3fe4_7d40_957a_efea);
    assert_eq!(KEY.device_seed(), 0xdaf2_f025_da09_4ca5);
    assert_eq!(KEY.permutation(8), [7, 1, 2, 4, 3, 0, 5, 6]);
}

#[test]
fn a_row_is_the_same_whatever_is_asked_for_with_it() {
    let len = 37;
    for fill in FILLS {
        let ids = [9, 0, 4, 9, 7_000_000_000, u64::MAX];
        let mut together = vec![0.0; ids.len() * len];
        fill(KEY, &ids, len, &mut together);
        for (&id, together) in ids.iter().zip(together.chunks(len)) {
            let mut alone = vec![0.0; len];
            fill(KEY, &[id], len, &mut alone);
            assert_eq!(alone, together, "row {id}");
        }
    }
    let mut consecutive = vec![0.0; 3 * len];
    KEY.fill_normals((1 << 32) - 2, len, &mut consecutive);
    for (id, consecutive) in ((1 << 32) - 2..).zip(consecutive.chunks(len)) {
        assert_eq!(row(KEY, id, len), consecutive, "row {id}");
    }
}

#[test]
fn the_beginning_of_a_row_does_not_depend_on_its_length() {
    let long = row(KEY, 5, 20_000);
    for len in [0, 1, 3, 4, 31, 32, 33, 4_095, 4_096, 4_097, 12_345] {
        assert_eq!(row(KEY, 5, len), long[..len], "{len} numbers");
    }
    // A last row that is cut short is the beginning of its row.
    let mut cut = vec![0.0; 150];
    KEY.fill_normals(4, 100, &mut cut);
    assert_eq!(cut[100..], long[..50]);
}

#[test]
fn threads_do_not_matter() {
    for (rows, len) in [(1, 100_003), (1_000, 17), (7, 5_000), (64, 784)] {
        let draw = || {
            let mut out = vec![0.0; rows * len];
            KEY.fill_normals(0, len, &mut out);
            out.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
        };
        let one = threads(1, draw);
        for count in [2, 5] {
            assert!(threads(count, draw) == one, "{rows} x {len} by {count} threads");
        }
    }
}

#[test]
fn seed_step_stream_and_row_all_matter() {
    let draws = [
        row(KEY, 0, 4),
        row(KEY, 1, 4),
        row(KEY, 1 << 32, 4),
        row(KEY, 1 << 33, 4),
        row(KEY.step(4), 0, 4),
        row(KEY.step(3 + (1 << 32)), 0, 4),
        row(KEY.stream(Stream::TIME), 0, 4),
        row(KEY.stream(Stream::custom(1)), 0, 4),
        row(Key::new(43).step(3).stream(Stream::NOISE), 0, 4),
        row(Key::new(42 + (1 << 32)).step(3).stream(Stream::NOISE), 0, 4),
    ];
    for (i, a) in draws.iter().enumerate() {
        for b in &draws[..i] {
            assert!(a.iter().zip(b).all(|(x, y)| x != y), "{a:?} and {b:?}");
        }
    }
}

#[test]
fn uniforms_are_uniform() {
    let mut draws = vec![0.0; 100_000];
    KEY.stream(Stream::TIME).fill_uniforms(0, 1, &mut draws);
    assert!(draws.iter().all(|u| (0.0..1.0).contains(u)));
    let mut counts = [0_u32; 100];
    for u in &draws {
        counts[(u * 100.0) as usize] += 1;
    }
    // χ² with 99 degrees of freedom exceeds 149 once in a thousand samples.
    let chi2: f64 = counts.iter().map(|&c| (f64::from(c) - 1_000.0).powi(2) / 1_000.0).sum();
    assert!(chi2 < 149.0, "χ² = {chi2}");
    for id in 0..100 {
        let fine = KEY.stream(Stream::TIME).uniform(id);
        assert!((0.0..1.0).contains(&fine));
        assert!((fine - f64::from(draws[id as usize])).abs() < (0.5_f64).powi(24), "{fine}");
    }
}

#[test]
fn permutations_are_permutations_and_every_order_is_as_likely() {
    for n in [0, 1, 2, 1_000] {
        let mut order = KEY.stream(Stream::SHUFFLE).permutation(n);
        assert_eq!(order, KEY.stream(Stream::SHUFFLE).permutation(n));
        order.sort_unstable();
        assert!(order.iter().copied().eq(0..n as u32), "{n}");
    }
    let mut counts = std::collections::BTreeMap::new();
    for epoch in 0..24_000 {
        *counts.entry(KEY.step(epoch).permutation(4)).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 24);
    // χ² with 23 degrees of freedom exceeds 49.7 once in a thousand samples.
    let chi2: f64 = counts.values().map(|&c| (f64::from(c) - 1_000.0).powi(2) / 1_000.0).sum();
    assert!(chi2 < 49.7, "χ² = {chi2}");
}

#[test]
#[should_panic(expected = "3 rows of 5 numbers")]
fn a_wrong_length_is_refused() {
    KEY.fill_normals_at(&[1, 2, 3], 5, &mut [0.0; 14]);
}

#[test]
fn streams_have_names() {
    assert_eq!(Stream::CONDITION_DROP.to_string(), "condition_drop");
    assert_eq!(Stream::custom(5).to_string(), "custom(5)");
    assert_ne!(Stream::custom(1), Stream::NOISE);
}
