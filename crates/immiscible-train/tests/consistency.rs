//! Consistency training: its schedules, its pairs, and that it learns.

mod generator;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use generator::alone;
use immiscible_coupling::{COUPLINGS, Coupling, CouplingConfig, downloads};
use immiscible_data::{Batch, DataOptions, Images, Loader, LoaderOptions, build};
use immiscible_models::{
    Condition, Ctx, Denoiser, Network, NetworkConfig, Output, Precision, TimeInput, UNet2DConfig,
};
use immiscible_random::{Key, Stream};
use immiscible_schedule::{
    NoiseSchedule, Objective, ObjectiveConfig, Point, ScheduleConfig, Time, TimeSamplerConfig, Times,
};
use immiscible_train::{
    Average, CheckpointConfig, ConsistencyLoss, Curriculum, DISTANCES, Diffusion, DiffusionStep,
    DoublingCurriculum, EmaConfig, Files, LogNormal, LossConfig, METHODS, MethodConfig, MethodParts,
    Neighbours, Observer, OptimizerConfig, StepReport, TrainConfig, TrainError, TrainStep, Trainer, prepare,
    uniform_neighbours,
};
use ndarray::Array4;
use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

const KEY: Key = Key::new(11);
const KINDS: [&str; 2] = ["consistency", "improved_consistency"];

fn config(kind: &str) -> MethodConfig {
    MethodConfig { kind: kind.into(), ..MethodConfig::default() }
}

fn ve() -> Box<dyn NoiseSchedule> {
    ScheduleConfig::new("ve").build().unwrap()
}

fn objective() -> Box<dyn Objective> {
    config("consistency").objective(&ScheduleConfig::new("ve"), None).unwrap()
}

fn coupling(kind: &str) -> Arc<dyn Coupling> {
    let mut coupling = CouplingConfig { kind: kind.into(), ..CouplingConfig::default() }.build().unwrap();
    let digits = loader(500).batch_at(0).unwrap();
    coupling.fit(digits.images.values().to_shape((500, 64)).unwrap().view(), None).unwrap();
    coupling.into()
}

fn diffusion(coupling: Arc<dyn Coupling>) -> Diffusion {
    let (schedule, objective) = (ve(), objective());
    Diffusion {
        time: TimeSamplerConfig::default().build_for(&*schedule).unwrap(),
        loss: LossConfig::default().build(&*schedule, &*objective).unwrap(),
        schedule,
        objective,
        coupling,
        classes: None,
        precision: Precision::F32,
    }
}

fn loss(kind: &str, distance: &str) -> ConsistencyLoss {
    let (_, build) = DISTANCES.iter().find(|(name, _)| *name == distance).unwrap();
    ConsistencyLoss {
        diffusion: diffusion(coupling(kind)),
        distance: build(&config("consistency"), &Device::flex()).unwrap(),
        key: KEY,
        device: Device::flex(),
    }
}

fn loader(batch_size: usize) -> Loader {
    let digits = build(&DataOptions::new("digits")).unwrap();
    Loader::new(digits, LoaderOptions { batch_size, seed: 11, flip: false }).unwrap()
}

fn network(dropout: f64) -> Network {
    let config = UNet2DConfig {
        in_channels: 1,
        out_channels: 1,
        num_class_embeds: None,
        dropout,
        ..UNet2DConfig::tiny()
    };
    Device::flex().seed(3);
    NetworkConfig::UNet2DModel(config).init(&Device::flex().autodiff()).unwrap()
}

fn method(kind: &str, coupling: Arc<dyn Coupling>, steps: u64, dropout: f64) -> Box<dyn TrainStep> {
    let config = MethodConfig {
        // So that the grid changes within a dozen steps.
        s0: Some(2),
        s1: Some(20),
        curriculum_steps: Some(steps),
        ..config(kind)
    };
    config
        .build(MethodParts {
            diffusion: diffusion(coupling),
            network: network(dropout),
            optimizer: OptimizerConfig { learning_rate: 2e-3, ..OptimizerConfig::default() },
            ema: EmaConfig { decay: 0.9, ..EmaConfig::default() },
            steps: 1,
            micro_batch: None,
            key: KEY,
            device: Device::flex(),
        })
        .unwrap()
}

#[test]
fn the_grid_becomes_finer_and_the_teacher_slower_as_published() {
    let curriculum = Curriculum { s0: 2, s1: 150, mu0: 0.9, steps: 1000 };
    assert_eq!([0, 1000, 5000].map(|k| curriculum.levels(k)), [2, 151, 151]);
    // N(500) = ⌈√(0.5 (151² − 2²) + 2²) − 1⌉ + 1, and √11402.5 = 106.78.
    assert_eq!(curriculum.levels(500), 107);
    let decays = [0, 1000].map(|k| curriculum.decay(k));
    let expected = [0.9_f64.powi(2), (2.0 * 0.9_f64.ln() / 150.0).exp()];
    assert!(decays.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{decays:?}");
    assert!((0..1000).all(|k| curriculum.levels(k) <= curriculum.levels(k + 1)));

    let doubling = DoublingCurriculum { s0: 10, s1: 1280, steps: 8000 };
    // K′ = 8000/(7 + 1)
    let levels = [0, 999, 1000, 3500, 6999, 7000, 8000, u64::MAX].map(|k| doubling.levels(k));
    assert_eq!(levels, [11, 11, 21, 81, 641, 1281, 1281, 1281]);
    assert_eq!(DoublingCurriculum { s0: 10, s1: 1280, steps: 3 }.levels(0), 11);
}

#[test]
fn pairs_are_neighbours_of_the_grid() {
    let _alone = alone();
    let (ve, key) = (ve(), KEY.step(4));
    let grid = ve.grid(11).unwrap();
    let check = |pairs: &[Neighbours]| {
        for pair in pairs {
            let i = grid.iter().position(|point| *point == pair.at).unwrap();
            assert!(i < 10 && pair.next == grid[i + 1], "{pair:?}");
        }
    };
    let uniform = uniform_neighbours(&*ve, 11, 5_000, key).unwrap();
    check(&uniform);
    for (i, at) in grid[..10].iter().enumerate() {
        let share = uniform.iter().filter(|pair| pair.at == *at).count() as f64 / 5e3;
        // Five standard deviations of 5,000 draws.
        assert!((share - 0.1).abs() < 0.022, "pair {i}: {share}");
    }

    // The least noise falls into the second interval: a normal of mean −1.1 and deviation 2 against the grid's logarithms.
    let pairs = LogNormal { mean: -1.1, std: 2.0 }.neighbours(&*ve, 11, 20_000, key).unwrap();
    check(&pairs);
    assert!(pairs.iter().all(|pair| pair.weight == 1.0 / (pair.at.sigma - pair.next.sigma)));
    // Φ by Simpson's rule, which needs no table.
    let phi = |a: f64, b: f64| {
        let (n, density) = (200, |z: f64| (-0.5 * z * z).exp());
        let h = (b - a) / f64::from(n);
        let weight = |i| if i == 0 || i == n { 1.0 } else { f64::from(2 + 2 * (i % 2)) };
        (0..=n).map(|i| weight(i) * density(a + f64::from(i) * h)).sum::<f64>() * h / 3.0
    };
    let z: Vec<f64> = grid[..11].iter().map(|point| (point.sigma.ln() + 1.1) / 2.0).collect();
    let total = phi(z[10], z[0]);
    for i in 0..10 {
        let share = pairs.iter().filter(|pair| pair.at == grid[i]).count() as f64 / 2e4;
        let expected = phi(z[i + 1], z[i]) / total;
        assert!((share - expected).abs() < 0.018, "pair {i}: {share}, expected {expected}");
    }
}

/// Remembers what it is asked; answers 0.
#[derive(Default)]
struct Recorder(RefCell<Vec<(Tensor<4>, Vec<f32>)>>);

impl Denoiser for Recorder {
    fn forward(&self, x: Tensor<4>, t: TimeInput, _: &Condition, _: Ctx<'_>) -> Output {
        self.0.borrow_mut().push((x.clone(), t.u.into_data().try_into_vec_as().unwrap()));
        Output { pred: x.zeros_like(), aux: vec![], taps: vec![], heads: vec![] }
    }
}

#[test]
fn both_points_lie_on_the_way_to_the_coupled_noise() {
    let _alone = alone();
    for (kind, _) in COUPLINGS {
        let loss = loss(kind, "l2");
        let batch = loader(16).batch_at(3).unwrap();
        let (student, teacher) = (Recorder::default(), Recorder::default());
        let prepared = prepare(&*loss.diffusion.coupling, batch.clone(), KEY, 3).unwrap();
        let example = Tensor::<4>::from_data(
            burn::tensor::TensorData::new(
                batch.images.values().iter().copied().collect::<Vec<_>>(),
                [16, 1, 8, 8],
            ),
            &Device::flex(),
        );
        let pairing = immiscible_coupling::PairContext { index: Some(&batch.index), ..Default::default() };
        let noise = loss.diffusion.coupling.draw(&example, &pairing, KEY.step(3).stream(Stream::NOISE));
        let noise: Vec<f32> = noise.unwrap().noise.into_data().try_into_vec_as().unwrap();

        let pairs = uniform_neighbours(&*ve(), 6, 16, KEY.step(3)).unwrap();
        loss.loss(&student, &teacher, prepared, &pairs, 3).unwrap();
        for (recorder, point) in
            [(student, (|pair| pair.at) as fn(&Neighbours) -> Point), (teacher, |pair| pair.next)]
        {
            let [(input, times)] = recorder.0.take().try_into().ok().unwrap();
            let points: Vec<Point> = pairs.iter().map(point).collect();
            for (time, point) in times.iter().zip(&points) {
                assert!((f64::from(*time) - 250.0 * point.sigma.ln()).abs() < 1e-3);
            }
            let levels = Times::from(points.clone()).levels(&Device::flex());
            let x_t = input.clone() / loss.diffusion.objective.network_input(input.ones_like(), &levels);
            let found: Vec<f32> = (x_t - example.clone()).into_data().try_into_vec_as().unwrap();
            for (i, (found, noise)) in found.iter().zip(&noise).enumerate() {
                // (x_t − x)/t = ε, up to the rounding of x_t.
                let t = points[i / 64].sigma as f32;
                assert!((found - t * noise).abs() < 2e-6 * t.max(1.0), "{kind}: {found} at {t}, {noise}");
            }
        }
    }
}

/// f(x, t) = the one image that there is: the output for which reading gives it.
struct OneImage(Box<dyn Objective>);

const IMAGE: f64 = 0.4;

impl Denoiser for OneImage {
    fn forward(&self, x: Tensor<4>, t: TimeInput, _: &Condition, _: Ctx<'_>) -> Output {
        let times: Vec<f32> = t.u.into_data().try_into_vec_as().unwrap();
        let point = |u: &f32| ve().at(Time::Sigma((f64::from(*u) / 250.0).exp())).unwrap();
        let points: Vec<Point> = times.iter().map(point).collect();
        let levels = Times::from(points).levels(&x.device());
        let x_t = x.clone() / self.0.network_input(x.ones_like(), &levels);
        let x0 = x_t.zeros_like() + IMAGE;
        let noise = (x_t - x0.clone()) / levels.sigma.clone();
        Output { pred: self.0.target(&x0, &noise, &levels), aux: vec![], taps: vec![], heads: vec![] }
    }
}

/// Neighbours of both ways of training, of which the improved one has weights; all pairs but the last, at whose lower end F has
/// no say.
fn all_neighbours(rows: usize, key: Key) -> [(&'static str, Vec<Neighbours>); 2] {
    let last = ve().grid(12).unwrap()[11];
    let without_last = |mut pairs: Vec<Neighbours>| {
        let other = pairs.iter().copied().find(|pair| pair.next != last).unwrap();
        pairs.iter_mut().filter(|pair| pair.next == last).for_each(|pair| *pair = other);
        pairs
    };
    let uniform = uniform_neighbours(&*ve(), 12, rows, key).unwrap();
    let log_normal = LogNormal { mean: -1.1, std: 2.0 }.neighbours(&*ve(), 12, rows, key).unwrap();
    [("uniform", without_last(uniform)), ("log-normal", without_last(log_normal))]
}

#[test]
fn a_perfect_consistency_function_has_no_loss() {
    let _alone = alone();
    // LPIPS reads its weights from a file; its training has a test of its own.
    for (distance, _) in DISTANCES.iter().filter(|(name, _)| *name != "lpips") {
        for (kind, _) in COUPLINGS {
            for (neighbours, pairs) in all_neighbours(32, KEY.step(5)) {
                let loss = loss(kind, distance);
                let images = Array4::from_elem((32, 1, 8, 8), IMAGE as f32);
                let batch = Batch {
                    images: Images::Values(images.into_shared()),
                    labels: None,
                    index: (0..32).collect(),
                    mask: None,
                };
                let prepared = || prepare(&*loss.diffusion.coupling, batch.clone(), KEY, 5).unwrap();
                let perfect = OneImage(objective());
                let value = |network: &dyn Denoiser| -> f32 {
                    struct By<'a>(&'a dyn Denoiser);
                    impl Denoiser for By<'_> {
                        fn forward(&self, x: Tensor<4>, t: TimeInput, c: &Condition, ctx: Ctx<'_>) -> Output {
                            self.0.forward(x, t, c, ctx)
                        }
                    }
                    let (found, _) = loss.loss(&By(network), &perfect, prepared(), &pairs, 5).unwrap();
                    found.into_scalar()
                };
                // Of what a network that answers 0 has; the weights are up to 100.
                let (found, bad) = (value(&perfect), value(&Recorder::default()));
                let what = format!("{distance} × {kind} × {neighbours}: {found}, {bad}");
                assert!(bad > 1e-3 && found.abs() < 1e-5 * bad.max(1.0), "{what}");
            }
        }
    }
}

/// The losses of the steps that a run took.
#[derive(Default)]
struct Losses(Vec<(u64, u32)>);

impl Observer for Losses {
    fn step(&mut self, step: u64, report: &StepReport, _total: &Average) {
        self.0.push((step, report.loss.to_bits()));
    }
}

fn train(run: &Path, steps: u64, mut method: Box<dyn TrainStep>, coupling: Arc<dyn Coupling>) -> Losses {
    let trainer = Trainer {
        train: TrainConfig { steps, batch_size: 8, log_every: 4, ..TrainConfig::default() },
        checkpoint: CheckpointConfig { every: 100, ..CheckpointConfig::default() },
        run: run.into(),
        config_sha256: "c0ffee".into(),
        key: KEY,
    };
    let mut losses = Losses::default();
    trainer.run(&mut *method, loader(8), coupling, &mut losses).unwrap();
    losses
}

#[test]
fn a_resumed_run_is_the_uninterrupted_one_bit_for_bit() {
    let _alone = alone();
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
        let train = |run: &Path, steps| {
            let coupling = coupling("assignment");
            train(run, steps, method(kind, coupling.clone(), 12, 0.1), coupling).0
        };
        let expected = train(&whole, 12);
        let mut found = train(&parts, 5);
        found.extend(train(&parts, 12));
        assert_eq!(found, expected, "{kind}");
        let files: &[&str] = match kind {
            "consistency" => &["model.safetensors", "ema.safetensors", "teacher.safetensors"],
            _ => &["model.safetensors", "ema.safetensors"],
        };
        let mut all = Vec::new();
        for file in files {
            let read = |run: &Path| std::fs::read(run.join("checkpoints/step-00000012").join(file)).unwrap();
            assert!(read(&whole) == read(&parts), "{kind}: {file}");
            all.push(read(&whole));
        }
        // Teacher, average and network are three.
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]) && all[0] != all[all.len() - 1], "{kind}");
    }
}

#[test]
fn a_step_reads_the_device_once() {
    let _alone = alone();
    for kind in KINDS {
        let coupling = coupling("assignment");
        let mut method = method(kind, coupling.clone(), 12, 0.1);
        for step in 0..2 {
            let prepared = prepare(&*coupling, loader(8).batch_at(step).unwrap(), KEY, step).unwrap();
            let before = downloads();
            method.step(prepared, step).unwrap();
            assert_eq!(downloads() - before, 1, "{kind}");
        }
    }
}

/// Song et al. 2023, algorithm 3, written out with independent noise.
#[test]
fn the_independent_coupling_is_ordinary_consistency_training_bit_for_bit() {
    let _alone = alone();
    let device = Device::flex();
    let loss = loss("independent", "l2");
    let (step, rows) = (7, 8);
    let (network, key) = (network(0.1), KEY.step(step));
    let batch = loader(rows).batch_at(step).unwrap();
    let pairs = uniform_neighbours(&*ve(), 9, rows, key).unwrap();

    let mut values = vec![0.0; rows * 64];
    key.stream(Stream::NOISE).fill_normals(0, 64, &mut values);
    let upload = |values: Vec<f32>| {
        Tensor::<4>::from_data(burn::tensor::TensorData::new(values, [rows, 1, 8, 8]), &device)
    };
    let (x, z) = (upload(batch.images.values().iter().copied().collect()), upload(values));
    let f = |points: Vec<Point>| {
        let times: Vec<f32> = points.iter().map(|point| (250.0 * point.sigma.ln()) as f32).collect();
        let levels = Times::from(points).levels(&device);
        let t = levels.sigma.clone();
        let x_t = levels.alpha.clone() * x.clone() + t.clone() * z.clone();
        let c_in = (t.square() + 0.25).sqrt();
        device.seed(key.stream(Stream::DROPOUT).device_seed());
        let input = x_t.clone() / c_in;
        let output = network.forward(input, TimeInput::of(&times, &device), &Condition::None, Ctx::default());
        loss.diffusion.objective.read(output.pred, &x_t, &levels).x0
    };
    let difference =
        f(pairs.iter().map(|pair| pair.at).collect()) - f(pairs.iter().map(|pair| pair.next).collect());
    let expected: f32 = difference.square().flatten::<2>(1, 3).mean_dim(1).mean().into_scalar();

    let prepared = prepare(&*loss.diffusion.coupling, batch, KEY, step).unwrap();
    let (found, _) = loss.loss(&network, &network, prepared, &pairs, step).unwrap();
    assert_eq!(found.into_scalar::<f32>().to_bits(), expected.to_bits());
}

/// A network a few steps after its zero-initialised end.
fn trained_a_little(dropout: f64) -> Network {
    let coupling = coupling("independent");
    let parts =
        Diffusion { objective: ObjectiveConfig::new("edm").build().unwrap(), ..diffusion(coupling.clone()) };
    let optimizer = OptimizerConfig { learning_rate: 1e-2, ..OptimizerConfig::default() };
    let ema = EmaConfig { decay: 0.0, warmup: false, ..EmaConfig::default() };
    let mut method =
        DiffusionStep::new(parts, network(dropout), &optimizer, &ema, KEY, &Device::flex()).unwrap();
    for step in 0..3 {
        let prepared = prepare(&*coupling, loader(8).batch_at(step).unwrap(), KEY, step).unwrap();
        method.step(prepared, step).unwrap();
    }
    method.sampling_network().clone().train()
}

/// Where all noise levels are one, student and teacher are the same function of the same x_t, up to their dropout.
#[test]
fn the_teacher_has_the_students_dropout() {
    let _alone = alone();
    // Neighbours are apart by less than single precision sees.
    let one_level_config = ScheduleConfig {
        sigma_min: Some(2.0),
        sigma_max: Some(2.0 * (1.0 + 1e-9)),
        ..ScheduleConfig::new("ve")
    };
    let one_level = || one_level_config.build().unwrap();
    for (kind, p) in
        [("consistency", [None; 2]), ("improved_consistency", [Some(2_f64.ln() + 5e-10), Some(1e-10)])]
    {
        let coupling = coupling("assignment");
        let config = MethodConfig { s0: Some(4), s1: Some(4), p_mean: p[0], p_std: p[1], ..config(kind) };
        let parts = MethodParts {
            diffusion: Diffusion { schedule: one_level(), ..diffusion(coupling.clone()) },
            network: trained_a_little(0.3),
            optimizer: OptimizerConfig::default(),
            ema: EmaConfig::default(),
            steps: 1,
            micro_batch: None,
            key: KEY,
            device: Device::flex(),
        };
        let mut method = config.build(parts).unwrap();
        let prepared = || prepare(&*coupling, loader(8).batch_at(0).unwrap(), KEY, 0).unwrap();
        assert_eq!(method.step(prepared(), 0).unwrap().loss, 0.0, "{kind}");

        // A teacher without dropout is another function.
        let network = trained_a_little(0.3);
        let mut loss = loss("assignment", "l2");
        loss.diffusion.schedule = one_level();
        let pairs = uniform_neighbours(&*one_level(), 5, 8, KEY.step(0)).unwrap();
        let (found, _) = loss.loss(&network, &network.valid(), prepared(), &pairs, 0).unwrap();
        assert!(found.into_scalar::<f32>() > 1e-4, "{kind}");
    }
}

#[test]
fn a_step_that_is_not_finite_changes_nothing() {
    let _alone = alone();
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let coupling = coupling("assignment");
        let mut method = method(kind, coupling.clone(), 12, 0.1);
        let prepared = |step| prepare(&*coupling, loader(8).batch_at(step).unwrap(), KEY, step).unwrap();
        let files = |name: &str, method: &dyn TrainStep| {
            let folder = folder.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            method.save(&mut Files::new(&folder)).unwrap();
            let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap()).collect();
            files.sort_by_key(|file| file.file_name());
            let contents = |file: &std::fs::DirEntry| (file.file_name(), std::fs::read(file.path()).unwrap());
            files.iter().map(contents).collect::<Vec<_>>()
        };
        // Twice, so that all of them have moved.
        for step in 0..2 {
            method.step(prepared(step), step).unwrap();
        }
        let before = files("before", &*method);
        // Weights, average and optimiser, and the teacher.
        assert_eq!(before.len(), if kind == "consistency" { 4 } else { 3 });
        let mut bad = prepared(2);
        bad.batch.images.make_values()[[3, 0, 2, 2]] = f32::INFINITY;
        assert!(matches!(method.step(bad, 2), Err(TrainError::NonFinite { step: 2, .. })), "{kind}");
        assert!(before == files("after", &*method), "{kind}");
        method.step(prepared(3), 3).unwrap();
        let next = files("next", &*method);
        assert!(before.iter().zip(&next).all(|(before, next)| before != next), "{kind}");
    }
}

#[test]
fn training_learns_and_one_step_is_an_image() {
    let _alone = alone();
    for kind in KINDS {
        let coupling = coupling("assignment");
        let mut method = method(kind, coupling.clone(), 1_000_000, 0.0);
        let mut losses = Vec::new();
        let loader = loader(16);
        for step in 0..60 {
            let prepared = prepare(&*coupling, loader.batch_at(step).unwrap(), KEY, step).unwrap();
            losses.push(method.step(prepared, step).unwrap().loss);
        }
        let mean = |part: &[f32]| part.iter().sum::<f32>() / part.len() as f32;
        let (first, last) = (mean(&losses[..10]), mean(&losses[50..]));
        assert!(last < 0.7 * first, "{kind}: loss {first} → {last}");

        let device = Device::flex();
        let point = ve().noisiest();
        let mut values = vec![0.0; 4 * 64];
        KEY.stream(Stream::PRIOR).fill_normals(0, 64, &mut values);
        let noise = Tensor::<4>::from_data(burn::tensor::TensorData::new(values, [4, 1, 8, 8]), &device);
        let x_t = noise * point.sigma;
        let (objective, levels) = (objective(), point.levels(&device));
        let time = TimeInput::of(&[objective.network_time(point); 4], &device);
        let input = objective.network_input(x_t.clone(), &levels);
        let output = method.sampling_network().forward(input, time, &Condition::None, Ctx::default());
        let images = objective.read(output.pred, &x_t, &levels).x0;
        let images: Vec<f32> = images.into_data().try_into_vec_as().unwrap();
        assert!(images.iter().all(|value| value.abs() < 10.0), "{kind}: {images:?}");
    }
}

#[test]
fn what_does_not_go_together_is_refused_with_both_keys() {
    let _alone = alone();
    assert!(METHODS.is_sorted_by(|a, b| a.0 < b.0));
    let refuse = |config: MethodConfig| config.validate().unwrap_err().to_string();
    assert_eq!(
        refuse(config("consistensy")),
        "method.kind = consistensy is unknown; known: consistency, diffusion, improved_consistency"
    );
    assert_eq!(
        refuse(MethodConfig { s0: Some(2), ..config("diffusion") }),
        "method.kind = diffusion has no option method.s0; remove it"
    );
    assert_eq!(
        refuse(MethodConfig { p_std: Some(2.0), ..config("consistency") }),
        "method.kind = consistency has no option method.p_std; remove it"
    );
    assert!(refuse(MethodConfig { mu0: Some(1.0), ..config("consistency") }).contains("method.mu0 = 1"));
    assert!(refuse(MethodConfig { s1: Some(1), ..config("consistency") }).contains("method.s1 = 1"));
    let lpips =
        MethodConfig { lpips: Some("f".into()), distance: Some("l1".into()), ..config("consistency") };
    assert_eq!(refuse(lpips), "method.distance = l1 has no option method.lpips; remove it");
    let distance = MethodConfig { distance: Some("l3".into()), ..config("consistency") };
    assert!(refuse(distance).contains("method.distance = l3 is unknown; known: l1, l2, lpips, pseudo_huber"));

    let objective = |kind: &str, schedule: &str, objective: Option<&str>| {
        let objective = objective.map(ObjectiveConfig::new);
        let built = config(kind).objective(&ScheduleConfig::new(schedule), objective.as_ref());
        built.map(|objective| objective.name().to_owned()).map_err(|error| error.to_string())
    };
    assert_eq!(objective("consistency", "ve", None).unwrap(), "consistency");
    assert_eq!(objective("diffusion", "ve", Some("edm")).unwrap(), "edm");
    assert_eq!(
        objective("improved_consistency", "flow", None).unwrap_err(),
        "method.kind = improved_consistency does not go with schedule.name = flow: consistency training needs ve"
    );
    assert_eq!(
        objective("consistency", "ve", Some("edm")).unwrap_err(),
        "method.kind = consistency does not go with objective.name = edm: the method has its own; leave out [objective]"
    );
    assert!(objective("diffusion", "ve", None).unwrap_err().contains("objective.name = unset"));
}

/// Less than the middle half of the noise levels to compare inside the schedule.
#[test]
fn noise_levels_beyond_the_schedule_are_refused() {
    let _alone = alone();
    let refused = |p_mean, p_std, sigma_max| {
        let config = MethodConfig { p_mean, p_std, ..config("improved_consistency") };
        let schedule = ScheduleConfig { sigma_max, ..ScheduleConfig::new("ve") };
        let early = config.objective(&schedule, None).map(|_| ()).map_err(|error| error.to_string());
        let schedule = schedule.build().unwrap();
        let parts = MethodParts {
            diffusion: Diffusion { schedule, ..diffusion(coupling("independent")) },
            network: network(0.0),
            optimizer: OptimizerConfig::default(),
            ema: EmaConfig::default(),
            steps: 1,
            micro_batch: None,
            key: KEY,
            device: Device::flex(),
        };
        // Also where a program builds the parts itself.
        assert_eq!(config.build(parts).map(|_| ()).map_err(|error| error.to_string()), early);
        early
    };
    assert_eq!(refused(None, None, None), Ok(()));
    // ln 0.002 = −6.21 and ln 80 = 4.38; a quartile is 0.67 standard deviations away.
    assert_eq!(refused(Some(-4.8), None, None), Ok(()));
    let low = refused(Some(-4.9), None, None).unwrap_err();
    assert!(
        low.starts_with(
            "method.p_mean = -4.9 (method.p_std = 2) does not go with schedule.sigma_min = 0.002: p_mean ± 0.675 p_std"
        ),
        "{low}"
    );
    assert_eq!(refused(Some(3.0), None, None), Ok(()));
    assert!(refused(Some(3.1), None, None).unwrap_err().contains("schedule.sigma_max = 80"));
    assert!(refused(None, None, Some(0.5)).unwrap_err().contains("schedule.sigma_max = 0.5"));
    assert!(refused(None, Some(8.0), None).unwrap_err().contains("method.p_std = 8"));

    // Who asks all the same gets the end that is nearest.
    let grid = ve().grid(5).unwrap();
    for (mean, [at, next]) in [(20.0, [grid[0], grid[1]]), (-20.0, [grid[3], grid[4]])] {
        let pairs = LogNormal { mean, std: 0.1 }.neighbours(&*ve(), 5, 20, KEY).unwrap();
        assert!(pairs.iter().all(|pair| pair.at == at && pair.next == next), "{mean}: {pairs:?}");
    }
}

// ---- LPIPS ----

/// A state dict of `lpips.LPIPS(net="vgg")` with random values, as safetensors: 59 MB.
fn lpips_weights(path: &Path) {
    // Layer among those of VGG-16, channels in and out.
    let convs = [
        (0, 3, 64),
        (2, 64, 64),
        (5, 64, 128),
        (7, 128, 128),
        (10, 128, 256),
        (12, 256, 256),
        (14, 256, 256),
        (17, 256, 512),
        (19, 512, 512),
        (21, 512, 512),
        (24, 512, 512),
        (26, 512, 512),
        (28, 512, 512),
    ];
    // Name, shape and standard deviation: features neither vanish nor explode (He et al. 2015, arXiv 1502.01852).
    let mut tensors = Vec::new();
    for (layer, from, to) in convs {
        let name = format!("net.slice.{layer}");
        let std = (2.0 / (9.0 * from as f32)).sqrt();
        tensors.push((format!("{name}.weight"), vec![to, from, 3, 3], std));
        tensors.push((format!("{name}.bias"), vec![to], 0.01));
    }
    for (depth, channels) in [64, 128, 256, 512, 512].into_iter().enumerate() {
        tensors.push((format!("lin{depth}.model.1.weight"), vec![1, channels, 1, 1], 0.1));
    }
    let (mut header, mut values) = (serde_json::Map::new(), Vec::<f32>::new());
    for (number, (name, shape, std)) in tensors.into_iter().enumerate() {
        let from = values.len();
        values.resize(from + shape.iter().product::<usize>(), 0.0);
        KEY.step(number as u64).fill_normals(0, values.len() - from, &mut values[from..]);
        // The heads are weights of squares: at least 0.
        let sign = |value: f32| if name.starts_with("lin") { value.abs() } else { value };
        values[from..].iter_mut().for_each(|value| *value = sign(*value) * std);
        let at = [4 * from, 4 * values.len()];
        header.insert(name, serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": at }));
    }
    let header = serde_json::to_string(&header).unwrap();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    std::fs::write(path, file).unwrap();
}

/// Learns two steps from random images of this shape: the losses, and the weights before and after.
fn learn_by_lpips(weights: &Path, shape: [usize; 4], steps: u64) -> (Vec<f32>, [Vec<u8>; 2]) {
    let [rows, channels, ..] = shape;
    let network = {
        let unet = UNet2DConfig { in_channels: channels, out_channels: channels, ..UNet2DConfig::tiny() };
        Device::flex().seed(3);
        let unet = UNet2DConfig { num_class_embeds: None, ..unet };
        NetworkConfig::UNet2DModel(unet).init(&Device::flex().autodiff()).unwrap()
    };
    let config =
        MethodConfig { distance: Some("lpips".into()), lpips: Some(weights.into()), ..config("consistency") };
    let coupling = coupling("independent");
    let mut method = config
        .build(MethodParts {
            diffusion: diffusion(coupling.clone()),
            network,
            optimizer: OptimizerConfig::default(),
            ema: EmaConfig::default(),
            steps,
            micro_batch: None,
            key: KEY,
            device: Device::flex(),
        })
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let saved = |method: &dyn TrainStep| {
        method.save(&mut Files::new(folder.path())).unwrap();
        std::fs::read(folder.path().join("model.safetensors")).unwrap()
    };
    let before = saved(&*method);
    let take = |step| {
        let mut images = Array4::zeros(shape);
        KEY.step(step).fill_normals(0, images.len() / rows, images.as_slice_mut().unwrap());
        let batch = Batch {
            images: Images::Values(images.into_shared()),
            labels: None,
            index: (0..rows as u64).collect(),
            mask: None,
        };
        method.step(prepare(&*coupling, batch, KEY, step).unwrap(), step).unwrap().loss
    };
    let losses: Vec<f32> = (0..steps).map(take).collect();
    (losses, [before, saved(&*method)])
}

#[test]
fn consistency_training_learns_by_lpips() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lpips.safetensors");
    lpips_weights(&path);
    let learns = |losses: &[f32], [before, after]: &[Vec<u8>; 2]| {
        assert!(losses.iter().all(|loss| loss.is_finite() && *loss > 0.0), "{losses:?}");
        assert!(before != after, "no gradient reaches the network");
    };
    // Images as wide as 256 are compared as they are, which takes a twelfth of the time.
    let (losses, weights) = learn_by_lpips(&path, [1, 3, 16, 256], 2);
    learns(&losses, &weights);
    let (losses, weights) = learn_by_lpips(&path, [2, 1, 16, 256], 2);
    learns(&losses, &weights);
    let again = learn_by_lpips(&path, [2, 1, 16, 256], 2);
    assert!(again.0 == losses && again.1 == weights, "{losses:?}, {:?}", again.0);
    // Smaller ones are brought to 224 pixels.
    let (losses, weights) = learn_by_lpips(&path, [1, 1, 8, 8], 1);
    learns(&losses, &weights);

    let config = MethodConfig { distance: Some("lpips".into()), lpips: Some(path), ..config("consistency") };
    let (_, build) = DISTANCES.iter().find(|(name, _)| *name == "lpips").unwrap();
    let distance = build(&config, &Device::flex()).unwrap();
    let distances = |a: &Tensor<4>, b: &Tensor<4>| -> Vec<f32> {
        distance(a.clone(), b.clone()).into_data().try_into_vec_as().unwrap()
    };
    let mut values = vec![0.0; 3 * 16 * 256];
    KEY.fill_normals(0, 3 * 16 * 256, &mut values);
    let image = burn::tensor::TensorData::new(values, [1, 3, 16, 256]);
    let image = Tensor::<4>::from_data(image, &Device::flex());
    let dark = image.clone() * 0.5;
    assert_eq!(distances(&image, &image), [0.0]);
    let [far] = distances(&image, &dark).try_into().unwrap();
    assert!(far > 1e-3, "{far}");
    // One channel stands for all three, and a fourth for nothing.
    let grey = |image: &Tensor<4>| image.clone().narrow(1, 0, 1);
    let three = |image: &Tensor<4>| Tensor::cat(vec![grey(image); 3], 1);
    assert_eq!(distances(&grey(&image), &grey(&dark)), distances(&three(&image), &three(&dark)));
    let four = |image: &Tensor<4>, fourth| Tensor::cat(vec![image.clone(), grey(image) * fourth], 1);
    assert_eq!(distances(&four(&image, 1.0), &four(&dark, -1.0)), [far]);
}
