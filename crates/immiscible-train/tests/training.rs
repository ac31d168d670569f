//! The one training step, and what is remembered of it.

use burn::tensor::{Device, Tensor, TensorData};
use immiscible_coupling::{COUPLINGS, Coupling, CouplingConfig};
use immiscible_data::{Batch, DataOptions, Loader, LoaderOptions, build};
use immiscible_models::{Condition, Ctx, Denoiser, Network, NetworkConfig, Output, TimeInput, UNet2DConfig};
use immiscible_random::{Key, Stream};
use immiscible_schedule::{
    ForwardCondition, Levels, NoiseSchedule, OBJECTIVES, Objective, ObjectiveConfig, SCHEDULES,
    ScheduleConfig, Time, Times,
};
use immiscible_train::{
    CheckpointConfig, CheckpointStore, ClassCondition, Diffusion, DiffusionStep, EmaConfig, Observer,
    OptimizerConfig, StepReport, TrainConfig, TrainError, TrainStep, Trainer, prepare,
};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

/// Burn's generator belongs to the process: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static GENERATOR: Mutex<()> = Mutex::new(());
    GENERATOR.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

const KEY: Key = Key::new(11);

fn loader(batch_size: usize) -> Loader {
    let digits = build(&DataOptions::new("digits")).unwrap();
    Loader::new(digits, LoaderOptions { batch_size, seed: 11, flip: false }).unwrap()
}

fn coupling(kind: &str, k: usize) -> Arc<dyn Coupling> {
    let mut coupling = CouplingConfig { kind: kind.into(), k, ..CouplingConfig::default() }.build().unwrap();
    let digits = loader(500).batch_at(0).unwrap();
    coupling.fit(digits.images.view().into_shape_with_order((500, 64)).unwrap(), None).unwrap();
    coupling.into()
}

fn diffusion(schedule: &str, objective: &str, coupling: Arc<dyn Coupling>) -> Diffusion {
    Diffusion {
        schedule: ScheduleConfig::new(schedule).build().unwrap(),
        objective: ObjectiveConfig::new(objective).build().unwrap(),
        coupling,
        classes: None,
    }
}

fn tiny_network(classes: Option<usize>) -> Network {
    let config = UNet2DConfig {
        in_channels: 1,
        out_channels: 1,
        num_class_embeds: classes,
        dropout: 0.1,
        ..UNet2DConfig::tiny()
    };
    Device::flex().seed(3);
    NetworkConfig::UNet2DModel(config).init(&Device::flex().autodiff()).unwrap()
}

fn method(coupling: Arc<dyn Coupling>) -> DiffusionStep {
    let diffusion = Diffusion {
        classes: Some(ClassCondition { null: 10, dropout: 0.2 }),
        ..diffusion("flow", "flow_velocity", coupling)
    };
    let optimizer = OptimizerConfig { learning_rate: 2e-3, warmup_steps: 3, ..OptimizerConfig::default() };
    let ema = EmaConfig { decay: 0.9, warmup: true };
    DiffusionStep::new(diffusion, tiny_network(Some(11)), &optimizer, &ema, KEY, &Device::flex()).unwrap()
}

/// An unconditional network a few steps after its zero-initialised end.
fn trained_a_little() -> Network {
    let coupling = coupling("independent", 4);
    let diffusion = diffusion("linear", "epsilon", coupling.clone());
    let optimizer = OptimizerConfig { learning_rate: 1e-2, ..OptimizerConfig::default() };
    let ema = EmaConfig { decay: 0.0, warmup: false };
    let network = tiny_network(None);
    let mut method = DiffusionStep::new(diffusion, network, &optimizer, &ema, KEY, &Device::flex()).unwrap();
    for step in 0..5 {
        let prepared = prepare(&*coupling, loader(8).batch_at(step).unwrap(), KEY, step).unwrap();
        method.step(prepared, step).unwrap();
    }
    method.sampling_network().clone()
}

/// Knows the image behind every x_t and answers what the objective asks for.
struct Oracle<'a> {
    x0: Tensor<4>,
    schedule: &'a dyn NoiseSchedule,
    objective: &'a dyn Objective,
}

impl Denoiser for Oracle<'_> {
    fn forward(&self, x: Tensor<4>, t: TimeInput, _condition: &Condition, _ctx: Ctx<'_>) -> Output {
        let times: Vec<f32> = t.u.into_data().try_into_vec_as().unwrap();
        let points = times.iter().map(|&u| {
            let time = match self.schedule.name() {
                "flow" => Time::Continuous(f64::from(u) / 1000.0),
                _ => Time::Index(u as u32),
            };
            self.schedule.at(time).unwrap()
        });
        let levels: Levels = Times::from(points.collect::<Vec<_>>()).levels(&x.device());
        let noise = (x - levels.alpha.clone() * self.x0.clone()) / levels.sigma.clone();
        Output {
            pred: self.objective.target(&self.x0, &noise, &levels),
            aux: Vec::new(),
            taps: Vec::new(),
            heads: Vec::new(),
        }
    }
}

#[test]
fn a_perfect_model_has_no_loss_whatever_the_coupling() {
    let _alone = alone();
    let device = Device::flex();
    let batch = loader(32).batch_at(0).unwrap();
    let x0 = Tensor::<4>::from_data(
        TensorData::new(batch.images.iter().copied().collect::<Vec<f32>>(), [32, 1, 8, 8]),
        &device,
    );
    for (schedule, _) in SCHEDULES {
        for (objective, _) in OBJECTIVES {
            for (kind, _) in COUPLINGS {
                let diffusion = diffusion(schedule, objective, coupling(kind, 4));
                let oracle = Oracle {
                    x0: x0.clone(),
                    schedule: &*diffusion.schedule,
                    objective: &*diffusion.objective,
                };
                let prepared = prepare(&*diffusion.coupling, batch.clone(), KEY, 5).unwrap();
                let (loss, _) = diffusion.loss(&oracle, prepared, KEY, 5, &device).unwrap();
                let loss: f32 = loss.into_scalar();
                // Noise that the target does not share with x_t would cost about 2.
                assert!(loss < 1e-4, "{schedule} × {objective} × {kind}: {loss}");
            }
        }
    }
}

#[test]
fn the_plain_couplings_are_ordinary_diffusion_bit_for_bit() {
    let _alone = alone();
    let device = Device::flex();
    // A fresh network answers 0 whatever it is given; one that was trained a little does not.
    let network = trained_a_little();
    for (batch_size, kind, k) in [(8, "independent", 4), (8, "knn", 1), (1, "assignment", 4)] {
        let diffusion = diffusion("linear", "epsilon", coupling(kind, k));
        for step in [0, 6] {
            let batch = loader(batch_size).batch_at(step).unwrap();

            // Ordinary diffusion, written out (Ho et al. 2020, algorithm 1).
            let key = KEY.step(step);
            let mut values = vec![0.0; batch_size * 64];
            key.stream(Stream::NOISE).fill_normals(0, 64, &mut values);
            let upload = |values: Vec<f32>| {
                Tensor::<4>::from_data(TensorData::new(values, [batch_size, 1, 8, 8]), &device)
            };
            let (x0, noise) = (upload(batch.images.iter().copied().collect()), upload(values));
            let t = diffusion.schedule.sample_t(batch_size, key.stream(Stream::TIME));
            let x_t =
                diffusion.schedule.add_noise(&x0, &noise, &t.levels(&device), &ForwardCondition::default());
            let time = TimeInput::of(&t.network_times(), &device);
            device.seed(key.stream(Stream::DROPOUT).device_seed());
            let pred = network.forward(x_t, time, &Condition::None, Ctx::default()).pred;
            let expected: f32 = (pred - noise.clone()).powi_scalar(2).mean().into_scalar();

            let prepared = prepare(&*diffusion.coupling, batch, KEY, step).unwrap();
            let (loss, _) = diffusion.loss(&network, prepared, KEY, step, &device).unwrap();
            let loss: f32 = loss.into_scalar();
            let noise_alone: f32 = noise.powi_scalar(2).mean().into_scalar();
            assert_ne!(loss.to_bits(), noise_alone.to_bits(), "the network answers 0");
            assert_eq!(loss.to_bits(), expected.to_bits(), "{kind}, batch of {batch_size}, step {step}");
        }
    }
}

/// The losses of the steps that a run took.
#[derive(Default)]
struct Losses(Vec<(u64, u32)>);

impl Observer for Losses {
    fn step(&mut self, step: u64, report: &StepReport, _total: &immiscible_train::Average) {
        self.0.push((step, report.loss.to_bits()));
    }
}

fn train(run: &Path, steps: u64, coupling: Arc<dyn Coupling>) -> Losses {
    let trainer = Trainer {
        train: TrainConfig { steps, batch_size: 8, log_every: 4, ..TrainConfig::default() },
        checkpoint: CheckpointConfig { every: 100, keep: 2 },
        run: run.into(),
        config_sha256: "c0ffee".into(),
        key: KEY,
    };
    let mut losses = Losses::default();
    trainer.run(&mut method(coupling.clone()), loader(8), coupling, &mut losses).unwrap();
    losses
}

#[test]
fn a_resumed_run_is_the_uninterrupted_one_bit_for_bit() {
    let _alone = alone();
    for (kind, _) in COUPLINGS {
        let folder = tempfile::tempdir().unwrap();
        let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
        let expected = train(&whole, 12, coupling(kind, 4)).0;
        let mut found = train(&parts, 5, coupling(kind, 4)).0;
        found.extend(train(&parts, 12, coupling(kind, 4)).0);
        assert_eq!(found, expected, "{kind}");
        for file in ["model.safetensors", "ema.safetensors"] {
            let read = |run: &Path| std::fs::read(run.join("checkpoints/step-00000012").join(file)).unwrap();
            assert!(read(&whole) == read(&parts), "{kind}: {file}");
        }
        let log = |run: &Path| -> Vec<serde_json::Value> {
            let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
            let mut lines: Vec<serde_json::Value> =
                text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            let timings = ["images_per_second", "step_ms", "coupling_ms", "coupling_share_percent"];
            lines.iter_mut().for_each(|line| timings.iter().for_each(|key| line[*key] = 0.into()));
            lines
        };
        // Stopping wrote a line of its own, at step 5; the next line starts there.
        let steps =
            |run: &Path| log(run).iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>();
        assert_eq!((steps(&whole), steps(&parts)), (vec![4, 8, 12], vec![4, 5, 8, 12]), "{kind}");
        assert_eq!(log(&whole).last(), log(&parts).last(), "{kind}");
        // A finished run takes no further step.
        assert!(train(&parts, 12, coupling(kind, 4)).0.is_empty());
    }
}

#[test]
fn training_learns_and_the_average_follows() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let losses = train(folder.path(), 60, coupling("assignment", 4)).0;
    let mean = |part: &[(u64, u32)]| {
        part.iter().map(|(_, bits)| f32::from_bits(*bits)).sum::<f32>() / part.len() as f32
    };
    let (first, last) = (mean(&losses[..5]), mean(&losses[50..]));
    assert!(last < 0.7 * first, "loss {first} → {last}");
    let log = std::fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 15);

    let newest = CheckpointStore::new(folder.path().join("checkpoints")).newest().unwrap().0.unwrap();
    assert_eq!((newest.step, newest.config_sha256.as_str()), (60, "c0ffee"));
    let weights = |file: &str| std::fs::read(newest.path.join(file)).unwrap();
    assert_ne!(weights("model.safetensors"), weights("ema.safetensors"));
}

#[test]
fn a_checkpoint_of_another_network_is_refused_by_name() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let here = method(coupling("independent", 4));
    here.save(folder.path()).unwrap();
    let mut other = DiffusionStep::new(
        diffusion("flow", "v", coupling("independent", 4)),
        tiny_network(None),
        &OptimizerConfig::default(),
        &EmaConfig::default(),
        KEY,
        &Device::flex(),
    )
    .unwrap();
    let error = other.load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("class_embedding.weight"), "{error}");
}

#[test]
fn a_loss_that_is_not_finite_ends_the_run_before_it_is_saved() {
    let _alone = alone();
    let mut batch: Batch = loader(4).batch_at(0).unwrap();
    batch.images[[1, 0, 0, 0]] = f32::INFINITY;
    let mut method = method(coupling("independent", 4));
    let prepared = prepare(&*coupling("independent", 4), batch, KEY, 0).unwrap();
    let error = method.step(prepared, 0).unwrap_err();
    assert!(matches!(error, TrainError::NonFinite { step: 0, .. }), "{error}");
}

#[test]
fn options_outside_their_range_are_refused() {
    let text = |result: Result<(), TrainError>| result.unwrap_err().to_string();
    let optimizer = OptimizerConfig { learning_rate: -1e-4, ..OptimizerConfig::default() };
    assert_eq!(text(optimizer.validate()), "optimizer.learning_rate = -0.0001: write a value > 0");
    let optimizer = OptimizerConfig { kind: "sgd".into(), ..OptimizerConfig::default() };
    let unknown = optimizer.build().err().unwrap().to_string();
    assert_eq!(unknown, "optimizer.kind = sgd is unknown; known: adam, adamw");
    let train = TrainConfig { batch_size: 0, ..TrainConfig::default() };
    assert_eq!(text(train.validate()), "train.batch_size = 0: write at least 1");
    assert!(EmaConfig { decay: 1.0, warmup: true }.validate().is_err());
    assert!(CheckpointConfig { every: 1, keep: 1 }.validate().is_err());
}

#[test]
fn the_learning_rate_warms_up_linearly() {
    let config = OptimizerConfig { learning_rate: 1.0, warmup_steps: 4, ..OptimizerConfig::default() };
    let rates: Vec<f64> = (0..6).map(|step| config.learning_rate_at(step)).collect();
    assert_eq!(rates, [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]);
}
