//! What every coupling must hold, over the registry, and what each one promises on top.

use burn::tensor::{Device, Tensor, TensorData};
use immiscible_coupling::{COUPLINGS, CouplingConfig, CouplingError, Draw, PairContext, Statistics};
use immiscible_random::{Key, Stream};
use ndarray::Array2;
use std::sync::Mutex;

/// Burn's generator belongs to the process, and KNN seeds it.
static GENERATOR: Mutex<()> = Mutex::new(());

const SHAPE: [usize; 4] = [24, 1, 6, 6];
const D: usize = 36;

/// Images around a common mean, as real ones are.
fn images(seed: u64) -> Vec<f32> {
    let mut values = vec![0.0; SHAPE[0] * D];
    Key::new(seed).fill_normals(0, D, &mut values);
    values.iter().map(|value| 0.5 * value - 0.4).collect()
}

fn config(kind: &str) -> CouplingConfig {
    CouplingConfig { kind: kind.into(), ..CouplingConfig::default() }
}

fn key(step: u64) -> Key {
    Key::new(7).step(step).stream(Stream::NOISE)
}

fn independent_noise(key: Key) -> Vec<f32> {
    let mut values = vec![0.0; SHAPE[0] * D];
    key.fill_normals(0, D, &mut values);
    values
}

fn draw_with(config: &CouplingConfig, x0: &[f32], context: &PairContext, key: Key) -> (Vec<f32>, Statistics) {
    let _guard = GENERATOR.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let coupling = config.build().unwrap();
    let x0 = Tensor::<4>::from_data(TensorData::new(x0.to_vec(), SHAPE), &Device::flex());
    let Draw { noise, statistics } = coupling.draw(&x0, context, key).unwrap();
    assert_eq!(noise.dims(), SHAPE);
    (noise.into_data().try_into_vec_as().unwrap(), statistics)
}

fn rows(values: &[f32]) -> Vec<Vec<u32>> {
    values.chunks(D).map(|row| row.iter().map(|value| value.to_bits()).collect()).collect()
}

#[test]
fn every_coupling_is_a_function_of_its_arguments() {
    for (name, _) in COUPLINGS {
        let draw = |step| draw_with(&config(name), &images(1), &PairContext::default(), key(step)).0;
        assert_eq!(rows(&draw(3)), rows(&draw(3)), "{name}");
        assert_ne!(rows(&draw(3)), rows(&draw(4)), "{name}");
    }
}

#[test]
fn every_coupling_reports_what_it_did() {
    for (name, _) in COUPLINGS {
        let x0 = images(2);
        let (noise, statistics) = draw_with(&config(name), &x0, &PairContext::default(), key(0));
        let distance = |noise: &[f32]| {
            let rows = x0.chunks(D).zip(noise.chunks(D));
            let sum: f64 = rows
                .map(|(x, n)| x.iter().zip(n).map(|(x, n)| f64::from(x - n).powi(2)).sum::<f64>().sqrt())
                .sum();
            sum / SHAPE[0] as f64
        };
        let inner: f64 = x0.iter().zip(&noise).map(|(x, n)| f64::from(x * n)).sum();
        let image: f64 = x0.iter().map(|x| f64::from(x * x)).sum();
        let energy: f64 = noise.iter().map(|n| f64::from(n * n)).sum::<f64>() / noise.len() as f64;
        for (what, found, expected) in [
            ("before", statistics.distance_before, distance(&independent_noise(key(0)))),
            ("after", statistics.distance_after, distance(&noise)),
            ("coefficient", statistics.coefficient, inner / image),
            ("energy", statistics.energy, energy),
        ] {
            assert!((found - expected).abs() < 1e-4, "{name}: {what} {found} instead of {expected}");
        }
        assert!(statistics.distance_after <= statistics.distance_before, "{name}");
    }
}

#[test]
fn host_and_device_forms_agree_bit_for_bit() {
    for (name, build) in COUPLINGS {
        let coupling = build(&config(name)).unwrap();
        let Some(host) = coupling.host() else { continue };
        let x0 = images(3);
        let array = Array2::from_shape_vec((SHAPE[0], D), x0.clone()).unwrap();
        let drawn = host.draw_host(array.view(), &PairContext::default(), key(5)).unwrap();
        let (noise, _) = draw_with(&config(name), &x0, &PairContext::default(), key(5));
        assert_eq!(rows(drawn.noise.as_slice().unwrap()), rows(&noise), "{name}");
    }
}

#[test]
fn assignment_hands_out_the_drawn_noises_and_nothing_else() {
    let (noise, statistics) = draw_with(&config("assignment"), &images(4), &PairContext::default(), key(1));
    let (mut taken, mut drawn) = (rows(&noise), rows(&independent_noise(key(1))));
    assert_ne!(taken, drawn);
    taken.sort();
    drawn.sort();
    assert_eq!(taken, drawn);
    assert!(statistics.drop_percent() > 1.0, "{statistics:?}");
}

#[test]
fn class_wise_assignment_stays_inside_labels_and_groups() {
    let config = CouplingConfig { class_wise: true, ..config("assignment") };
    let labels: Vec<u32> = (0..SHAPE[0] as u32).map(|i| i % 3).collect();
    let group: Vec<u32> = (0..SHAPE[0] as u32).map(|i| i / 12).collect();
    let context = PairContext { labels: Some(&labels), group: Some(&group), ..PairContext::default() };
    let (noise, _) = draw_with(&config, &images(5), &context, key(2));
    let drawn = rows(&independent_noise(key(2)));
    let mut moved = 0;
    for (i, row) in rows(&noise).iter().enumerate() {
        let j = drawn.iter().position(|other| other == row).unwrap();
        assert_eq!((labels[i], group[i]), (labels[j], group[j]), "image {i} took noise {j}");
        moved += usize::from(i != j);
    }
    assert!(moved > 0);
}

#[test]
fn one_candidate_or_one_image_is_ordinary_training_bit_for_bit() {
    let nothing = PairContext::default();
    let k1 = CouplingConfig { k: 1, ..config("knn") };
    assert_eq!(rows(&draw_with(&k1, &images(6), &nothing, key(9)).0), rows(&independent_noise(key(9))));
    assert_eq!(
        rows(&draw_with(&config("independent"), &images(6), &nothing, key(9)).0),
        rows(&independent_noise(key(9)))
    );

    let alone = CouplingConfig { window: 1, ..config("window") };
    assert_eq!(rows(&draw_with(&alone, &images(6), &nothing, key(9)).0), rows(&independent_noise(key(9))));
    assert!(alone.build().unwrap().host().unwrap().lookahead().is_none());

    let coupling = config("assignment").build().unwrap();
    let one = Array2::from_shape_vec((1, D), images(6)[..D].to_vec()).unwrap();
    let drawn = coupling.host().unwrap().draw_host(one.view(), &nothing, key(9)).unwrap();
    assert_eq!(rows(drawn.noise.as_slice().unwrap()), rows(&independent_noise(key(9))[..D]));
}

#[test]
fn more_candidates_are_nearer_and_hold_the_fewer_ones() {
    // 21 candidates are drawn in several chunks; the first chunk is what fewer candidates see.
    let mut last = f64::INFINITY;
    for k in [1, 2, 9, 21] {
        let config = CouplingConfig { k, ..config("knn") };
        let (_, statistics) = draw_with(&config, &images(8), &PairContext::default(), key(4));
        assert!(statistics.distance_after < last, "k = {k}");
        last = statistics.distance_after;
    }
}

#[test]
fn nearest_of_k_shrinks_the_noise_as_the_closed_form_says() {
    // Energy 1 − 2 m_k/s and coefficient 2 m_k/s with s = sqrt(2D + 4|x|²), for D large.
    const ROWS: usize = 64;
    const DIMENSIONS: usize = 3_072;
    const M_8: f64 = 1.4236;
    let _guard = GENERATOR.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let device = Device::flex();
    let x0 = Tensor::<4>::full([ROWS, 3, 32, 32], 0.5, &device);
    let coupling = CouplingConfig { k: 8, ..config("knn") }.build().unwrap();
    let s = (2.0 * DIMENSIONS as f64 + 4.0 * 0.25 * DIMENSIONS as f64).sqrt();
    let (mut energy, mut coefficient) = (0.0, 0.0);
    const STEPS: u64 = 16;
    for step in 0..STEPS {
        let Draw { statistics, .. } = coupling.draw(&x0, &PairContext::default(), key(step)).unwrap();
        energy += statistics.energy / STEPS as f64;
        coefficient += statistics.coefficient / STEPS as f64;
    }
    // Standard errors over 1,024 rows: about 8e-4 and 1.1e-3.
    assert!((energy - (1.0 - 2.0 * M_8 / s)).abs() < 3e-3, "energy {energy}");
    assert!((coefficient - 2.0 * M_8 / s).abs() < 4e-3, "coefficient {coefficient}");
}

#[test]
fn bad_input_is_one_line_with_a_remedy() {
    let error = |config: CouplingConfig| config.build().err().unwrap().to_string();
    assert_eq!(
        error(config("assignmnt")),
        "unknown coupling `assignmnt`; known: assignment, independent, knn, window"
    );
    assert!(
        error(CouplingConfig { assigner: "hungry".into(), ..config("assignment") }).contains("exact, greedy")
    );
    assert_eq!(error(CouplingConfig { k: 0, ..config("knn") }), "coupling.k = 0: write at least 1");

    let coupling = CouplingConfig { class_wise: true, ..config("assignment") }.build().unwrap();
    let host = coupling.host().unwrap();
    let mut x0 = Array2::from_shape_vec((SHAPE[0], D), images(9)).unwrap();
    let unlabelled = host.draw_host(x0.view(), &PairContext::default(), key(0));
    assert!(matches!(unlabelled, Err(CouplingError::LabelsRequired)));
    let short = PairContext { labels: Some(&[0, 1]), ..PairContext::default() };
    assert!(host.draw_host(x0.view(), &short, key(0)).unwrap_err().to_string().contains("2 rows"));

    x0[[3, 5]] = f32::NAN;
    let labels = vec![0; SHAPE[0]];
    let context = PairContext { labels: Some(&labels), ..PairContext::default() };
    let error = host.draw_host(x0.view(), &context, key(0)).unwrap_err().to_string();
    assert!(error.contains("row 3") && error.contains("column 5"), "{error}");
}
