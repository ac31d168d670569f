//! What every coupling must hold, over the registry, and what each one promises on top.

use burn::tensor::{Device, Tensor, TensorData};
use immiscible_assign::{AssignError, Cost, Precision};
use immiscible_coupling::{
    COUPLINGS, Coupling, CouplingConfig, CouplingError, Draw, Lookahead, PairContext, Scope, Select,
    Statistics,
};
use immiscible_random::{Key, Stream};
use ndarray::{Array2, Axis};

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

/// The coupling, fitted to images like those of the batches if it must be.
fn build(config: &CouplingConfig) -> Box<dyn Coupling> {
    let mut coupling = config.build().unwrap();
    let mut values = vec![0.0; 500 * D];
    Key::new(77).fill_normals(0, D, &mut values);
    let data = Array2::from_shape_vec((500, D), values).unwrap() * 0.5 - 0.4;
    let labels: Vec<u32> = (0..500).map(|i| i % 3).collect();
    coupling.fit(data.view(), Some(&labels)).unwrap();
    coupling
}

fn host_draw(config: &CouplingConfig, x0: &[f32], context: &PairContext, key: Key) -> Array2<f32> {
    let x0 = Array2::from_shape_vec((x0.len() / D, D), x0.to_vec()).unwrap();
    build(config).host().unwrap().draw_host(x0.view(), context, key).unwrap().noise
}

fn draw_with(config: &CouplingConfig, x0: &[f32], context: &PairContext, key: Key) -> (Vec<f32>, Statistics) {
    let coupling = build(config);
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
        let (mut alignment, mut mean_shift) = (0.0, 0.0);
        for d in 0..D {
            let column =
                |values: &[f32]| -> Vec<f64> { values.chunks(D).map(|row| f64::from(row[d])).collect() };
            let (x, e) = (column(&x0), column(&noise));
            let mean = |values: &[f64]| values.iter().sum::<f64>() / SHAPE[0] as f64;
            alignment += x.iter().zip(&e).map(|(x, e)| (x - mean(&column(&x0))) * e).sum::<f64>();
            mean_shift += mean(&e).powi(2);
        }
        let energy: f64 = noise.iter().map(|n| f64::from(n * n)).sum::<f64>() / noise.len() as f64;
        for (what, found, expected) in [
            ("before", statistics.distance_before, distance(&independent_noise(key(0)))),
            ("after", statistics.distance_after, distance(&noise)),
            ("coefficient", statistics.coefficient, inner / image),
            ("energy", statistics.energy, energy),
            ("alignment", statistics.alignment, alignment / SHAPE[0] as f64),
            ("mean shift", statistics.mean_shift, mean_shift * SHAPE[0] as f64 / D as f64),
        ] {
            assert!((found - expected).abs() < 1e-4, "{name}: {what} {found} instead of {expected}");
        }
        assert!(statistics.distance_after <= statistics.distance_before, "{name}");
    }
}

#[test]
fn host_and_device_forms_agree_bit_for_bit() {
    for (name, _) in COUPLINGS {
        let coupling = build(&config(name));
        let Some(host) = coupling.host() else { continue };
        let x0 = images(3);
        let array = Array2::from_shape_vec((SHAPE[0], D), x0.clone()).unwrap();
        let drawn = host.draw_host(array.view(), &PairContext::default(), key(5)).unwrap();
        let (noise, _) = draw_with(&config(name), &x0, &PairContext::default(), key(5));
        assert_eq!(rows(drawn.noise.as_slice().unwrap()), rows(&noise), "{name}");
    }
}

/// Which of the drawn noises each row is.
fn numbers(noise: &[f32], pool: usize, key: Key) -> Vec<usize> {
    let mut drawn = vec![0.0; pool * SHAPE[0] * D];
    key.fill_normals(0, D, &mut drawn);
    let drawn = rows(&drawn);
    rows(noise).iter().map(|row| drawn.iter().position(|other| other == row).unwrap()).collect()
}

#[test]
fn costs_of_the_device_pair_as_those_of_the_host() {
    let (x0, labels) = (images(12), (0..SHAPE[0] as u32).map(|i| i % 5).collect::<Vec<_>>());
    let on_device = Tensor::<4>::from_data(TensorData::new(x0.clone(), SHAPE), &Device::flex());
    let array = Array2::from_shape_vec((SHAPE[0], D), x0).unwrap();
    let context = PairContext { labels: Some(&labels), ..PairContext::default() };
    let assignment = config("assignment");
    for config in [
        assignment.clone(),
        CouplingConfig { cost: Cost::SquaredL2, ..assignment.clone() },
        CouplingConfig { cost: Cost::L2, image_scale: 3.0, ..assignment.clone() },
        CouplingConfig { class_wise: true, ..assignment.clone() },
        CouplingConfig { pool: 3, ..assignment.clone() },
        CouplingConfig { pool: 3, cost: Cost::L2, class_wise: true, ..assignment.clone() },
        CouplingConfig { assigner: "greedy".into(), ..assignment.clone() },
        CouplingConfig { window: SHAPE[0], warmup: 1, ..config("window") },
    ] {
        let coupling = config.build().unwrap();
        let (compared, costs) = coupling.compare(&on_device, &context, key(5)).unwrap().unwrap();
        let pairs = SHAPE[0] * config.pool * SHAPE[0];
        assert_eq!(costs.bytes_to_host(), 4 * (pairs + SHAPE[0]), "{config:?}");
        let chosen = std::thread::spawn(move || costs.solve()).join().unwrap().unwrap();
        let noise_of: Vec<usize> = chosen.noise_of.iter().map(|&j| j as usize).collect();
        let Draw { noise, statistics: found } = compared.take(chosen);
        let noise: Vec<f32> = noise.into_data().try_into_vec_as().unwrap();

        let host = coupling.host().unwrap().draw_host(array.view(), &context, key(5)).unwrap();
        assert_eq!(numbers(&noise, config.pool, key(5)), noise_of, "{config:?}");
        assert_eq!(numbers(host.noise.as_slice().unwrap(), config.pool, key(5)), noise_of, "{config:?}");
        if config.class_wise {
            assert!(noise_of.iter().enumerate().all(|(i, j)| labels[i] == labels[j % SHAPE[0]]));
        }
        let expected = host.statistics;
        for (what, found, expected) in [
            ("before", found.distance_before, expected.distance_before),
            ("after", found.distance_after, expected.distance_after),
            ("drop", found.drop_percent(), expected.drop_percent()),
            ("coefficient", found.coefficient, expected.coefficient),
            ("alignment", found.alignment, expected.alignment),
            ("energy", found.energy, expected.energy),
            ("mean shift", found.mean_shift, expected.mean_shift),
        ] {
            let off = (found - expected).abs();
            assert!(off < 1e-3 * expected.abs(), "{config:?}: {what} {found} instead of {expected}");
        }
    }
}

#[test]
fn costs_in_8_bits_lose_next_to_nothing_on_the_device() {
    let x0 = Tensor::<4>::from_data(TensorData::new(images(12), SHAPE), &Device::flex());
    let gain = |config: &CouplingConfig| {
        let (_, costs) = build(config).compare(&x0, &PairContext::default(), key(5)).unwrap().unwrap();
        costs.solve().unwrap().statistics.coefficient
    };
    let assignment = config("assignment");
    let single = gain(&assignment);
    let rounded = gain(&CouplingConfig { precision: Some(Precision::Int8), ..assignment.clone() });
    assert_ne!(single, rounded);
    assert!((single - rounded).abs() < 2e-3 * single, "{rounded} instead of {single}");
}

#[test]
fn what_is_no_product_is_not_compared_on_the_device() {
    let x0 = Tensor::<4>::from_data(TensorData::new(images(1), SHAPE), &Device::flex());
    let compares = |config: &CouplingConfig, pairing: &PairContext| {
        build(config).compare(&x0, pairing, key(0)).unwrap().is_some()
    };
    let nothing = PairContext::default();
    let assignment = config("assignment");
    assert!(compares(&assignment, &nothing));
    let mask = Array2::from_elem((SHAPE[0], D), true);
    assert!(!compares(&assignment, &PairContext { mask: Some(mask.view()), ..nothing }));
    for config in [
        CouplingConfig { cost: Cost::L1, ..assignment.clone() },
        CouplingConfig { precision: Some(Precision::F16), cost: Cost::L2, ..assignment.clone() },
        CouplingConfig { standardize: true, ..assignment.clone() },
        CouplingConfig { flip: true, ..assignment.clone() },
        CouplingConfig { warmup: 1, ..assignment.clone() },
        CouplingConfig { window: 1, ..config("window") },
        config("independent"),
        config("knn"),
    ] {
        assert!(!compares(&config, &nothing), "{config:?}");
    }
    let bad = Tensor::<4>::full(SHAPE, f32::NAN, &Device::flex());
    let (_, costs) = build(&assignment).compare(&bad, &nothing, key(0)).unwrap().unwrap();
    assert!(matches!(costs.solve(), Err(CouplingError::NonFinite)));
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

    let k1 = CouplingConfig { k: 1, ..config("priced_knn") };
    assert_eq!(rows(&draw_with(&k1, &images(6), &nothing, key(9)).0), rows(&independent_noise(key(9))));
    for (name, entry) in COUPLINGS {
        if entry.options.contains(&"probability") {
            let never = CouplingConfig { probability: 0.0, ..config(name) };
            assert_eq!(
                rows(&draw_with(&never, &images(6), &nothing, key(9)).0),
                rows(&independent_noise(key(9)))
            );
        }
    }

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

/// The candidates of KNN, `[k, rows, d]`: the independent noises, and others that are addressed by their number and the image's.
fn candidates(key: Key, k: usize, rows: usize, d: usize) -> Vec<f32> {
    let mut all = vec![0.0; k * rows * d];
    key.fill_normals(0, d, &mut all[..rows * d]);
    for (j, candidates) in all.chunks_mut(rows * d).enumerate().skip(1) {
        key.stream(Stream::CANDIDATES).fill_normals((j as u64) << 32, d, candidates);
    }
    all
}

#[test]
fn candidates_in_chunks_are_those_of_one_draw() {
    const K: usize = 21;
    let x0 = images(8);
    let (found, _) =
        draw_with(&CouplingConfig { k: K, ..config("knn") }, &x0, &PairContext::default(), key(4));
    let candidates = candidates(key(4), K, SHAPE[0], D);
    let candidate = |j: usize, i: usize| &candidates[(j * SHAPE[0] + i) * D..][..D];
    for (i, (x, taken)) in x0.chunks(D).zip(found.chunks(D)).enumerate() {
        let distance = |noise: &[f32]| -> f64 {
            x.iter().zip(noise).map(|(x, n)| (f64::from(*x) - f64::from(*n)).powi(2)).sum()
        };
        let nearest = (0..K).map(|j| candidate(j, i)).min_by(|a, b| distance(a).total_cmp(&distance(b)));
        assert_eq!(rows(taken), rows(nearest.unwrap()), "image {i}");
    }
}

#[test]
fn nearest_of_k_shrinks_the_noise_as_the_closed_form_says() {
    // Energy 1 − 2 m_k/s and coefficient 2 m_k/s with s = sqrt(2D + 4|x|²), for D large.
    const ROWS: usize = 64;
    const DIMENSIONS: usize = 3_072;
    const M_8: f64 = 1.4236;
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

/// The nearest number with 11 significant bits, the even one of two; for numbers that half precision holds as normal ones.
fn to_half(x: f64) -> f64 {
    if x == 0.0 {
        return x;
    }
    let unit = 2_f64.powi(x.abs().log2().floor() as i32 - 10).max(2_f64.powi(-24));
    (x / unit).round_ties_even() * unit
}

/// `((x.half() - n.half()).norm(dim=...)).argmin()` of the paper's code, number by number.
#[test]
fn half_precision_knn_takes_what_the_papers_code_takes() {
    const ROWS: usize = 256;
    const K: usize = 6;
    const VALUES: usize = 3 * 32 * 32;
    let device = Device::flex();
    let mut x0 = vec![0.0; ROWS * VALUES];
    Key::new(3).fill_normals(0, VALUES, &mut x0);
    x0.iter_mut().for_each(|x| *x = (0.5 * *x).clamp(-1.0, 1.0));
    let of = |precision| {
        let coupling = CouplingConfig { k: K, precision: Some(precision), ..config("knn") }.build().unwrap();
        let x0 = Tensor::from_data(TensorData::new(x0.clone(), [ROWS, 3, 32, 32]), &device);
        let noise = coupling.draw(&x0, &PairContext::default(), key(1)).unwrap().noise;
        noise.into_data().try_into_vec_as::<f32>().unwrap()
    };
    let (half, single) = (of(Precision::F16), of(Precision::F32));

    let candidates = candidates(key(1), K, ROWS, VALUES);
    for (row, x) in x0.chunks(VALUES).enumerate() {
        let candidate = |j: usize| &candidates[(j * ROWS + row) * VALUES..][..VALUES];
        let distance = |j: usize| {
            let differences =
                x.iter().zip(candidate(j)).map(|(&x, &n)| to_half(to_half(x.into()) - to_half(n.into())));
            to_half(differences.map(|d| d * d).sum::<f64>().sqrt())
        };
        // The first of those that are equally near.
        let nearest = (0..K).min_by(|&a, &b| distance(a).total_cmp(&distance(b))).unwrap();
        assert_eq!(&half[row * VALUES..][..VALUES], candidate(nearest), "image {row}");
    }
    assert!(half != single, "no two of the distances were equal in half precision only");
}

#[test]
fn bad_input_is_one_line_with_a_remedy() {
    let error = |config: CouplingConfig| config.build().err().unwrap().to_string();
    assert_eq!(
        error(config("assignmnt")),
        "unknown coupling `assignmnt`; known: assignment, independent, knn, mean_shift, norm_shrink, priced_knn, window"
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

#[test]
fn options_are_refused_where_they_have_no_meaning() {
    type Set = fn(&mut CouplingConfig);
    let with: &[(&str, Set)] = &[
        ("assigner", |config| config.assigner = "greedy".into()),
        ("cost", |config| config.cost = "l1".parse().unwrap()),
        ("class_wise", |config| config.class_wise = true),
        ("scope", |config| (config.scope, config.micro_batch) = (Scope::MicroBatch, Some(4))),
        ("mask", |config| config.mask = Some("mask.npy".into())),
        ("pool", |config| config.pool = 2),
        ("standardize", |config| config.standardize = true),
        ("window", |config| config.window = 48),
        ("k", |config| config.k = 9),
        ("select", |config| config.select = Select::Dot),
        ("coarse", |config| config.coarse = Some(2)),
        ("state", |config| config.state = Some("prices".into())),
        ("probability", |config| config.probability = 0.5),
        ("warmup", |config| config.warmup = 3),
        ("flip", |config| config.flip = true),
        ("shuffled", |config| config.shuffled = true),
    ];
    for (kind, entry) in COUPLINGS {
        assert!(entry.options.iter().all(|option| {
            ["block", "precision", "image_scale"].contains(option)
                || with.iter().any(|(name, _)| name == option)
        }));
        for (option, set) in with {
            let mut config = config(kind);
            set(&mut config);
            match config.build() {
                Ok(_) => assert!(entry.options.contains(option), "{kind} takes {option}"),
                Err(error) => {
                    assert!(!entry.options.contains(option), "{kind}, {option}: {error}");
                    let line = error.to_string();
                    assert!(line.contains(&format!("coupling.{option} has no meaning")), "{line}");
                    assert!(entry.options.iter().all(|other| line.contains(other)), "{line}");
                }
            }
        }
    }
    for (config, words) in [
        (CouplingConfig { block: 8, ..config("assignment") }, "coupling.assigner = \"blocks\""),
        (CouplingConfig { block: 0, assigner: "blocks".into(), ..config("window") }, "coupling.block = 0"),
        (CouplingConfig { image_scale: 2.0, ..config("assignment") }, "coupling.cost"),
        (CouplingConfig { image_scale: -1.0, ..config("knn") }, "above 0"),
        (CouplingConfig { image_scale: 2.0, select: Select::Dot, ..config("knn") }, "coupling.select"),
        (CouplingConfig { coarse: Some(0), ..config("knn") }, "at least 1"),
        (CouplingConfig { precision: Some(Precision::Int8), ..config("knn") }, "f32 and f16"),
        (
            CouplingConfig { precision: Some(Precision::F16), select: Select::Dot, ..config("knn") },
            "set coupling.select",
        ),
        (CouplingConfig { pool: 0, ..config("assignment") }, "at least 1"),
        (CouplingConfig { probability: f64::NAN, ..config("knn") }, "from 0 to 1"),
        (
            CouplingConfig { precision: Some(Precision::F16), ..config("assignment") },
            "set coupling.cost = \"l2\"",
        ),
        (
            CouplingConfig { scope: Scope::Global, ..config("assignment") },
            "coupling.scope = global: noise is not",
        ),
        (CouplingConfig { scope: Scope::MicroBatch, ..config("assignment") }, "set train.micro_batch"),
        (CouplingConfig { window: 16_385, cost: Cost::L2, ..config("window") }, "at most 16384"),
        (
            CouplingConfig { window: 65_536, precision: Some(Precision::F32), ..config("window") },
            "coupling.window = 65536",
        ),
        (CouplingConfig { window: 65_536, mask: Some("m.npy".into()), ..config("window") }, "without a mask"),
        (
            CouplingConfig { window: 65_536, assigner: "lapjv".into(), ..config("window") },
            "assigner = \"exact\"",
        ),
    ] {
        let line = config.build().err().unwrap().to_string();
        assert!(line.contains(words) && !line.contains('\n'), "{line}");
    }
    let half = CouplingConfig { precision: Some(Precision::F16), cost: Cost::L2, ..config("assignment") };
    assert!(half.build().is_ok());
    for large in [
        CouplingConfig { window: 65_536, cost: Cost::SquaredL2, ..config("window") },
        CouplingConfig { window: 65_536, cost: Cost::L1, assigner: "blocks".into(), ..config("window") },
    ] {
        assert!(large.build().is_ok());
    }
}

/// As if every micro-batch were a batch of its own; class-wise inside each label as well.
#[test]
fn a_micro_batch_keeps_its_noise() {
    const SIZE: usize = 7;
    let x0 = images(4);
    let labels: Vec<u32> = (0..SHAPE[0] as u32).map(|i| i % 3).collect();
    let context = PairContext { labels: Some(&labels), ..PairContext::default() };
    let scoped = |class_wise| CouplingConfig {
        scope: Scope::MicroBatch,
        micro_batch: Some(SIZE),
        class_wise,
        ..config("assignment")
    };
    let blocks = CouplingConfig { assigner: "blocks".into(), block: SIZE, ..config("assignment") };
    assert_eq!(
        draw_with(&scoped(false), &x0, &context, key(2)).0,
        draw_with(&blocks, &x0, &context, key(2)).0
    );

    let (noise, _) = draw_with(&scoped(true), &x0, &context, key(2));
    let mut drawn = vec![0.0; SHAPE[0] * D];
    key(2).fill_normals(0, D, &mut drawn);
    let (noise, drawn) = (rows(&noise), rows(&drawn));
    let from: Vec<usize> =
        noise.iter().map(|row| drawn.iter().position(|other| other == row).unwrap()).collect();
    assert!(from.iter().enumerate().any(|(i, &j)| i != j));
    for (i, j) in from.into_iter().enumerate() {
        assert_eq!((i / SIZE, labels[i]), (j / SIZE, labels[j]), "image {i} has noise {j}");
    }
}

/// From 4,096 images on both have costs of 8 bits.
#[test]
fn a_window_of_one_large_batch_is_the_assignment_of_the_batch() {
    const ROWS: usize = 4096;
    let (mut x0, mut drawn) = (Array2::zeros((ROWS, D)), Array2::zeros((ROWS, D)));
    Key::new(1).fill_normals(0, D, x0.as_slice_mut().unwrap());
    key(0).fill_normals(0, D, drawn.as_slice_mut().unwrap());
    let pair = |config: CouplingConfig| {
        let window = config.build().unwrap();
        let ahead = window.host().unwrap().lookahead().unwrap();
        let noise_of = ahead.pair(x0.view(), drawn.view(), &PairContext::default(), key(0)).unwrap();
        drawn.select(Axis(0), &noise_of.iter().map(|&j| j as usize).collect::<Vec<_>>())
    };
    let window = CouplingConfig { window: ROWS, ..config("window") };
    let assignment = config("assignment").build().unwrap();
    let batch = assignment.host().unwrap().draw_host(x0.view(), &PairContext::default(), key(0)).unwrap();
    assert_eq!(pair(window.clone()), batch.noise);
    assert_eq!(pair(CouplingConfig { precision: Some(Precision::Int8), ..window }), batch.noise);
}

/// Both are the same permutation, whatever the norms are.
#[test]
fn squared_distances_are_paired_by_products() {
    let x0 = images(5);
    let squared = CouplingConfig { cost: Cost::SquaredL2, ..config("assignment") };
    let draw = |config: &CouplingConfig| draw_with(config, &x0, &PairContext::default(), key(3)).0;
    assert_eq!(draw(&squared), draw(&config("assignment")));
}

#[test]
fn a_pool_comes_nearer_and_blocks_less_near() {
    let drop = |config| {
        let mean = (0..8).map(|step| {
            draw_with(&config, &images(step), &PairContext::default(), key(step)).1.drop_percent()
        });
        mean.sum::<f64>() / 8.0
    };
    let whole = drop(config("assignment"));
    let pool = drop(CouplingConfig { pool: 4, ..config("assignment") });
    let blocks = drop(CouplingConfig { assigner: "blocks".into(), block: 6, ..config("assignment") });
    assert!(0.0 < blocks && blocks < whole && whole < pool, "{blocks}, {whole}, {pool}");
    let pooled = CouplingConfig { pool: 4, class_wise: true, ..config("assignment") };
    let labels: Vec<u32> = (0..SHAPE[0] as u32).map(|i| i % 5).collect();
    let context = PairContext { labels: Some(&labels), ..PairContext::default() };
    let (noise, _) = draw_with(&pooled, &images(1), &context, key(1));
    let mut drawn = vec![0.0; 4 * SHAPE[0] * D];
    key(1).fill_normals(0, D, &mut drawn);
    let drawn = rows(&drawn);
    for (i, row) in rows(&noise).iter().enumerate() {
        let j = drawn.iter().position(|other| other == row).unwrap();
        assert_eq!(labels[i], labels[j % SHAPE[0]]);
    }
}

#[test]
fn controls_do_what_they_say() {
    let (x0, nothing) = (images(2), PairContext::default());
    for kind in ["assignment", "knn"] {
        let (plain, before) = draw_with(&config(kind), &x0, &nothing, key(3));
        let (flipped, after) =
            draw_with(&CouplingConfig { flip: true, ..config(kind) }, &x0, &nothing, key(3));
        assert!(plain.iter().zip(&flipped).all(|(n, f)| *f == -*n), "{kind}");
        assert!((before.alignment + after.alignment).abs() < 1e-5 && before.alignment > 1.0, "{kind}");
        assert_eq!(before.distance_before as f32, after.distance_before as f32, "{kind}");

        let shuffled = CouplingConfig { shuffled: true, ..config(kind) };
        let (shuffled, after) = draw_with(&shuffled, &x0, &nothing, key(3));
        let (mut ordered, mut other) = (rows(&plain), rows(&shuffled));
        assert_ne!(ordered, other, "{kind}");
        ordered.sort();
        other.sort();
        assert_eq!(ordered, other, "{kind}");
        assert!(after.alignment < 0.5 * before.alignment, "{kind}: {after:?}");
    }
    let group: Vec<u32> = (0..SHAPE[0] as u32).map(|i| i / 12).collect();
    let context = PairContext { group: Some(&group), ..PairContext::default() };
    let shuffled =
        host_draw(&CouplingConfig { shuffled: true, ..config("assignment") }, &x0, &context, key(3));
    let drawn = rows(&independent_noise(key(3)));
    for (i, row) in rows(shuffled.as_slice().unwrap()).iter().enumerate() {
        assert_eq!(group[i], group[drawn.iter().position(|other| other == row).unwrap()]);
    }
}

#[test]
fn steps_before_the_warm_up_and_uncoupled_ones_are_ordinary_training() {
    let (x0, nothing) = (images(4), PairContext::default());
    let coupled = |config: &CouplingConfig, step| {
        rows(&draw_with(config, &x0, &nothing, key(step)).0) != rows(&independent_noise(key(step)))
    };
    for kind in ["assignment", "knn", "window"] {
        let warm = CouplingConfig { warmup: 3, ..config(kind) };
        assert_eq!([0, 2, 3, 4].map(|step| coupled(&warm, step)), [false, false, true, true], "{kind}");
    }
    let half = CouplingConfig { probability: 0.5, ..config("assignment") };
    let count = (0..200).filter(|&step| coupled(&half, step)).count();
    assert!((70..=130).contains(&count), "{count} of 200");

    let window = CouplingConfig { window: SHAPE[0], shuffled: true, warmup: 3, ..config("window") };
    let window = build(&window);
    let ahead = window.host().unwrap().lookahead().unwrap();
    let array = Array2::from_shape_vec((SHAPE[0], D), x0.clone()).unwrap();
    let pair = |step| {
        let drawn = Array2::from_shape_vec((SHAPE[0], D), independent_noise(key(step))).unwrap();
        Lookahead::pair(ahead, array.view(), drawn.view(), &nothing, key(step)).unwrap()
    };
    let identity: Vec<u32> = (0..SHAPE[0] as u32).collect();
    assert_eq!((ahead.rows(), pair(2)), (SHAPE[0], identity.clone()));
    let mut pairs = pair(3);
    assert_ne!(pairs, identity);
    pairs.sort();
    assert_eq!(pairs, identity);
}

#[test]
fn what_the_mask_hides_has_no_say() {
    let x0 = images(5);
    // The second half of every image is padding.
    let mask = Array2::from_shape_fn((SHAPE[0], D), |(_, d)| d < D / 2);
    let context = PairContext { mask: Some(mask.view()), ..PairContext::default() };
    let padded: Vec<f32> =
        x0.iter().enumerate().map(|(i, &x)| if i % D < D / 2 { x } else { 50.0 * x }).collect();
    for kind in ["assignment", "knn", "priced_knn"] {
        let (one, _) = draw_with(&config(kind), &x0, &context, key(6));
        let (other, _) = draw_with(&config(kind), &padded, &context, key(6));
        assert_eq!(rows(&one), rows(&other), "{kind}");
        let (all, _) = draw_with(&config(kind), &padded, &PairContext::default(), key(6));
        assert_ne!(rows(&one), rows(&all), "{kind}");
    }
    let short = Array2::from_elem((2, D), true);
    let context = PairContext { mask: Some(short.view()), ..PairContext::default() };
    for kind in ["assignment", "knn", "priced_knn"] {
        let x0 = Tensor::<4>::from_data(TensorData::new(x0.clone(), SHAPE), &Device::flex());
        assert!(build(&config(kind)).draw(&x0, &context, key(0)).is_err(), "{kind}");
    }
}

#[test]
fn a_standardised_cost_hears_every_coordinate() {
    // One coordinate a hundred times as large as the others decides alone, unless they are brought to one scale.
    let mut x0 = images(6);
    x0.iter_mut().step_by(D).for_each(|x| *x *= 100.0);
    let others = |config: &CouplingConfig| -> f64 {
        let noise = host_draw(config, &x0, &PairContext::default(), key(7));
        let pairs = x0.iter().zip(&noise).enumerate().filter(|(i, _)| i % D > 0);
        pairs.map(|(_, (x, n))| f64::from((x + 0.4) * n)).sum::<f64>() / SHAPE[0] as f64
    };
    let (plain, standard) = (
        others(&config("assignment")),
        others(&CouplingConfig { standardize: true, ..config("assignment") }),
    );
    assert!(standard > plain + 1.0, "{plain}, {standard}");
}

#[test]
fn knn_compares_as_it_is_told() {
    let (x0, nothing) = (images(7), PairContext::default());
    let (_, l2) = draw_with(&CouplingConfig { k: 16, ..config("knn") }, &x0, &nothing, key(8));
    let dot = CouplingConfig { k: 16, select: Select::Dot, ..config("knn") };
    let (by_dot, dot) = draw_with(&dot, &x0, &nothing, key(8));
    assert!(dot.coefficient > l2.coefficient && dot.energy > l2.energy, "{dot:?}, {l2:?}");
    let far = CouplingConfig { k: 16, image_scale: 1e3, ..config("knn") };
    assert_eq!(rows(&draw_with(&far, &x0, &nothing, key(8)).0), rows(&by_dot));
    // On a grid of one cell only the image's mean counts; on one of 6×6, the side, every pixel does.
    let coarse = |side| CouplingConfig { coarse: Some(side), k: 16, ..config("knn") };
    let fine = draw_with(&coarse(6), &x0, &nothing, key(8)).0;
    assert_eq!(
        rows(&fine),
        rows(&draw_with(&CouplingConfig { k: 16, ..config("knn") }, &x0, &nothing, key(8)).0)
    );
    let of_means = draw_with(&coarse(1), &x0, &nothing, key(8)).0;
    let distance = |noise: &[f32]| -> f32 {
        let mean = |row: &[f32]| row.iter().sum::<f32>() / D as f32;
        x0.chunks(D).zip(noise.chunks(D)).map(|(x, n)| (mean(x) - mean(n)).abs()).sum()
    };
    assert!(distance(&of_means) < 0.5 * distance(&fine));
    let tensor = Tensor::<4>::from_data(TensorData::new(x0.clone(), SHAPE), &Device::flex());
    let error = coarse(4).build().unwrap().draw(&tensor, &nothing, key(0)).unwrap_err().to_string();
    assert!(error.contains("coupling.coarse = 4"), "{error}");
    let bad = Tensor::<4>::full(SHAPE, f32::NAN, &Device::flex());
    assert!(matches!(
        config("knn").build().unwrap().draw(&bad, &nothing, key(0)),
        Err(CouplingError::Assign(AssignError::NonFinite { what: "images", .. }))
    ));
    // Rows of values are no images, unless their shape says so.
    let array = Array2::from_shape_vec((SHAPE[0], D), x0.clone()).unwrap();
    let on_host = |shape| {
        let context = PairContext { shape, ..PairContext::default() };
        coarse(6).build().unwrap().host().unwrap().draw_host(array.view(), &context, key(8))
    };
    assert_eq!(rows(on_host(Some([1, 6, 6])).unwrap().noise.as_slice().unwrap()), rows(&fine));
    for shape in [None, Some([1, 6, 5])] {
        let error = on_host(shape).unwrap_err().to_string();
        assert!(error.contains("coupling.coarse") && error.contains("36 values"), "{error}");
    }
}
