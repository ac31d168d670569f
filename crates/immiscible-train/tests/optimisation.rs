//! Optimisers, learning rates, averages, and what the backward pass keeps: a run may be cut anywhere.

mod generator;

use burn::tensor::Device;
use generator::alone;
use immiscible_coupling::{Coupling, CouplingConfig};
use immiscible_data::{DataOptions, Loader, LoaderOptions, build};
use immiscible_models::{DiTConfig, NetworkConfig, Precision, UNet2DConfig};
use immiscible_random::Key;
use immiscible_schedule::{ObjectiveConfig, ScheduleConfig, TimeSamplerConfig};
use immiscible_train::{
    Average, CheckpointConfig, ClassCondition, Diffusion, EmaConfig, LEARNING_RATE_SCHEDULES, LossConfig,
    METHODS, MethodConfig, MethodParts, OPTIMIZERS, Observer, OptimizerConfig, StepReport, TrainConfig,
    Trainer, ema_weights_of,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const KEY: Key = Key::new(11);
const STEPS: u64 = 8;

fn unet() -> NetworkConfig {
    NetworkConfig::UNet2DModel(UNet2DConfig {
        in_channels: 1,
        out_channels: 1,
        num_class_embeds: Some(11),
        dropout: 0.1,
        ..UNet2DConfig::tiny()
    })
}

fn dit() -> NetworkConfig {
    NetworkConfig::DiTTransformer2DModel(DiTConfig { in_channels: 1, dropout: 0.1, ..DiTConfig::tiny() })
}

/// What is trained, and how.
#[derive(Clone)]
struct Run {
    network: NetworkConfig,
    method: MethodConfig,
    optimizer: OptimizerConfig,
    ema: EmaConfig,
    micro_batch: Option<usize>,
}

impl Run {
    fn of(network: NetworkConfig) -> Self {
        Self {
            network,
            method: MethodConfig::default(),
            optimizer: OptimizerConfig { learning_rate: 2e-3, warmup_steps: 3, ..OptimizerConfig::default() },
            ema: EmaConfig { decay: 0.9, ..EmaConfig::default() },
            micro_batch: None,
        }
    }
}

#[derive(Default)]
struct Losses(Vec<(u64, u32)>);

impl Observer for Losses {
    fn step(&mut self, step: u64, report: &StepReport, _total: &Average) {
        self.0.push((step, report.loss.to_bits()));
    }
}

/// By name.
type Files = BTreeMap<String, Vec<u8>>;

/// The losses and the files of the last checkpoint of a run that is cut at some steps, after each of which the backward pass
/// may keep more or less.
fn train(run: &Run, parts: &[(u64, bool)]) -> (Vec<(u64, u32)>, Files) {
    let folder = tempfile::tempdir().unwrap();
    let mut losses = Losses::default();
    for (steps, gradient_checkpointing) in parts {
        let (schedule, objective) = match run.method.jumps() {
            true => ("ve", None),
            false => ("flow", Some(ObjectiveConfig::new("flow_velocity"))),
        };
        let config = ScheduleConfig::new(schedule);
        let objective = run.method.objective(&config, objective.as_ref()).unwrap();
        let schedule = config.build().unwrap();
        let coupling: Arc<dyn Coupling> = CouplingConfig::default().build().unwrap().into();
        let device = Device::flex();
        device.seed(3);
        let autodiff = device.clone().autodiff();
        let autodiff = if *gradient_checkpointing { autodiff.gradient_checkpointing() } else { autodiff };
        let parts = MethodParts {
            diffusion: Diffusion {
                time: TimeSamplerConfig::default().build_for(&*schedule).unwrap(),
                loss: LossConfig::default().build(&*schedule, &*objective).unwrap(),
                schedule,
                objective,
                coupling: coupling.clone(),
                classes: Some(ClassCondition::new(10, 0.2)),
                precision: Precision::F32,
            },
            network: run.network.init(&autodiff).unwrap(),
            optimizer: run.optimizer.clone(),
            ema: run.ema.clone(),
            steps: STEPS,
            micro_batch: run.micro_batch,
            key: KEY,
            device,
        };
        let mut method = run.method.build(parts).unwrap();
        let trainer = Trainer {
            train: TrainConfig { steps: *steps, batch_size: 8, log_every: 4, ..TrainConfig::default() },
            checkpoint: CheckpointConfig { every: 100, ..CheckpointConfig::default() },
            run: folder.path().into(),
            config_sha256: "c0ffee".into(),
            key: KEY,
        };
        let digits = build(&DataOptions::new("digits")).unwrap();
        let loader = Loader::new(digits, LoaderOptions { batch_size: 8, seed: 11, flip: false }).unwrap();
        trainer.run(&mut *method, loader, coupling, &mut losses).unwrap();
    }
    (losses.0, files(&folder.path().join(format!("checkpoints/step-{STEPS:08}"))))
}

/// All but what holds the clock.
fn files(checkpoint: &Path) -> Files {
    let names =
        std::fs::read_dir(checkpoint).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names = names.filter(|name| !name.ends_with(".json"));
    names.map(|name| (name.clone(), std::fs::read(checkpoint.join(name)).unwrap())).collect()
}

#[test]
fn every_optimizer_and_learning_rate_resumes_bit_for_bit() {
    let _alone = alone();
    let mut ends = Vec::new();
    for (nth, (kind, _)) in OPTIMIZERS.iter().enumerate() {
        let (schedule, entry) = &LEARNING_RATE_SCHEDULES[nth % LEARNING_RATE_SCHEDULES.len()];
        let mut run = Run::of(dit());
        run.optimizer.kind = (*kind).into();
        run.optimizer.schedule = (*schedule).into();
        run.optimizer.decay_start = entry.options.contains(&"decay_start").then_some(4);
        let whole = train(&run, &[(STEPS, false)]);
        let parts = train(&run, &[(3, false), (STEPS, false)]);
        assert!(whole == parts, "{kind}, {schedule}");
        let network = run.network.init(&Device::flex()).unwrap();
        let (state, file) = (4 * run.optimizer.state_numbers(&network), whole.1["optim.bpk"].len());
        assert!((state..state + state / 4).contains(&file), "{kind}: {state} bytes, and a file of {file}");
        ends.push(whole.1["model.safetensors"].clone());
    }
    assert!(ends.windows(2).all(|pair| pair[0] != pair[1]));
    assert!(OPTIMIZERS.len() >= LEARNING_RATE_SCHEDULES.len());
}

#[test]
fn every_average_resumes_bit_for_bit_and_none_changes_the_others() {
    let _alone = alone();
    let alone = train(&Run::of(unet()), &[(STEPS, false)]);
    let mut run = Run::of(unet());
    let power =
        |sigma_rel| EmaConfig { kind: "power".into(), sigma_rel: Some(sigma_rel), ..EmaConfig::default() };
    run.ema.others = [
        ("narrow".to_string(), power(0.05)),
        ("wide".to_string(), power(0.2)),
        ("same".to_string(), EmaConfig { decay: 0.9, ..EmaConfig::default() }),
    ]
    .into();
    for kind in METHODS.iter().map(|(name, _)| *name) {
        let run = Run { method: method(kind), ..run.clone() };
        let whole = train(&run, &[(STEPS, false)]);
        assert!(whole == train(&run, &[(3, false), (STEPS, false)]), "{kind}");
        let file = |name: &str| &whole.1[name];
        let other = |name: &str| &whole.1[&ema_weights_of(name)];
        assert!(other("same") == file("ema.safetensors"), "{kind}");
        assert!(other("narrow") != other("wide") && other("wide") != file("ema.safetensors"), "{kind}");
        if kind == "diffusion" {
            assert!(whole.0 == alone.0 && alone.1.iter().all(|(name, bytes)| file(name) == bytes));
            assert_eq!(whole.1.len(), alone.1.len() + run.ema.others.len());
        }
    }
}

fn method(kind: &str) -> MethodConfig {
    let jumps = MethodConfig { kind: kind.into(), ..MethodConfig::default() }.jumps();
    // So that the grid changes within a few steps.
    let of_jumps = |value| jumps.then_some(value);
    MethodConfig { kind: kind.into(), s0: of_jumps(2), s1: of_jumps(20), ..MethodConfig::default() }
}

#[test]
fn what_the_backward_pass_keeps_changes_no_bit() {
    let _alone = alone();
    for network in [unet(), dit()] {
        for (kind, _) in METHODS {
            let mut run = Run { method: method(kind), ..Run::of(network.clone()) };
            run.ema.others = [("last".to_string(), EmaConfig { decay: 0.0, ..EmaConfig::default() })].into();
            let plain = train(&run, &[(STEPS, false)]);
            let what = format!("{}, {kind}", network.name());
            assert!(train(&run, &[(STEPS, true)]) == plain, "{what}");
            assert!(train(&run, &[(3, true), (5, false), (STEPS, true)]) == plain, "{what}, in turn");
        }
    }
    let run = Run { micro_batch: Some(3), ..Run::of(unet()) };
    assert!(train(&run, &[(STEPS, true)]) == train(&run, &[(STEPS, false)]));
}
