//! A run that was stopped and goes on is the uninterrupted one, bit for bit on the CPU.

use burn::tensor::Device;
use immiscible_coupling::{Coupling, CouplingConfig};
use immiscible_data::{DataOptions, Loader, LoaderOptions, build};
use immiscible_models::{NetworkConfig, UNet2DConfig};
use immiscible_random::{Key, Stream};
use immiscible_schedule::{ObjectiveConfig, ScheduleConfig, TimeSamplerConfig};
use immiscible_train::{
    Average, CheckpointConfig, ClassCondition, Diffusion, DiffusionStep, EmaConfig, LossConfig, Observer,
    OptimizerConfig, StepReport, TrainConfig, TrainError, Trainer,
};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

/// Burn's generator belongs to the process: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static GENERATOR: Mutex<()> = Mutex::new(());
    GENERATOR.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

const KEY: Key = Key::new(5);
const STEPS: u64 = 200;
const STOPS: [u64; 4] = [1, 37, 100, 199];
const BATCH: usize = 4;

/// One way to train.
struct Way {
    name: &'static str,
    coupling: CouplingConfig,
    micro_batch: Option<usize>,
    /// Mirrored images, dropped classes and the dropout of the network.
    chance: bool,
}

fn ways() -> Vec<Way> {
    let coupling = |kind: &str| CouplingConfig { kind: kind.into(), ..CouplingConfig::default() };
    let way = |name, coupling| Way { name, coupling, micro_batch: None, chance: false };
    vec![
        way("independent", coupling("independent")),
        way("assignment", coupling("assignment")),
        way("knn", coupling("knn")),
        // The stops are not where windows begin.
        way("window", CouplingConfig { window: 8 * BATCH, ..coupling("window") }),
        Way { micro_batch: Some(3), ..way("micro-batches", coupling("assignment")) },
        Way { chance: true, ..way("dropout and flips", coupling("assignment")) },
    ]
}

/// Stops after some step.
struct Until(u64, u64);

impl Observer for Until {
    fn step(&mut self, step: u64, _report: &StepReport, _total: &Average) {
        self.1 = step;
    }

    fn stop(&mut self) -> bool {
        self.1 == self.0
    }
}

/// Takes up a run, in a new trainer with a new network, and goes on until `until`.
fn train(way: &Way, run: &Path, until: u64) {
    let coupling: Arc<dyn Coupling> = way.coupling.build().unwrap().into();
    let network = UNet2DConfig {
        in_channels: 1,
        out_channels: 1,
        num_class_embeds: Some(11),
        dropout: if way.chance { 0.2 } else { 0.0 },
        ..UNet2DConfig::tiny()
    };
    let device = Device::flex();
    // Not what the run began with: everything must come from the checkpoint.
    device.seed(KEY.stream(Stream::INIT).device_seed() + if run.exists() { until } else { 0 });
    let network = NetworkConfig::UNet2DModel(network).init(&device.clone().autodiff()).unwrap();
    let schedule = ScheduleConfig::new("linear").build().unwrap();
    let objective = ObjectiveConfig::new("epsilon").build().unwrap();
    let diffusion = Diffusion {
        time: TimeSamplerConfig::default().build_for(&*schedule).unwrap(),
        loss: LossConfig::default().build(&*schedule, &*objective).unwrap(),
        schedule,
        objective,
        coupling: coupling.clone(),
        classes: Some(ClassCondition::new(10, if way.chance { 0.3 } else { 0.0 })),
    };
    let optimizer = OptimizerConfig { learning_rate: 2e-3, warmup_steps: 50, ..OptimizerConfig::default() };
    let ema = EmaConfig { decay: 0.99, warmup: true };
    let method = DiffusionStep::new(diffusion, network, &optimizer, &ema, KEY, &device).unwrap();
    let mut method = method.with_micro_batch(way.micro_batch);
    let digits = build(&DataOptions::new("digits")).unwrap();
    let options = LoaderOptions { batch_size: BATCH, seed: 5, flip: way.chance };
    let trainer = Trainer {
        train: TrainConfig { steps: STEPS, batch_size: BATCH, log_every: 7, ..TrainConfig::default() },
        checkpoint: CheckpointConfig { every: 60, ..CheckpointConfig::default() },
        run: run.into(),
        config_sha256: "c0ffee".into(),
        key: KEY,
    };
    let loader = Loader::new(digits, options).unwrap();
    let ended = trainer.run(&mut method, loader, coupling, &mut Until(until, 0));
    match ended {
        Ok(_) => assert_eq!(until, STEPS, "{}", way.name),
        Err(TrainError::Stopped { step, kept }) => {
            assert_eq!((step, kept), (until, Some(until)), "{}", way.name)
        }
        Err(error) => panic!("{}: {error}", way.name),
    }
}

/// Everything that a run leaves, but for the clock's part in it.
fn left(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let checkpoint = run.join(format!("checkpoints/step-{STEPS:08}"));
    let mut files = BTreeMap::new();
    for name in ["model.safetensors", "ema.safetensors", "optim.bpk"] {
        files.insert(name.into(), fs::read(checkpoint.join(name)).unwrap());
    }
    let state = fs::read_to_string(checkpoint.join("state.json")).unwrap();
    let log = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    assert_eq!(log.lines().count(), STEPS.div_ceil(7) as usize);
    for (name, text) in log
        .lines()
        .enumerate()
        .map(|(i, line)| (format!("line {i}"), line))
        .chain([("state".into(), &*state)])
    {
        let mut value: serde_json::Value = serde_json::from_str(text).unwrap();
        without_clock(&mut value);
        files.insert(name, value.to_string().into_bytes());
    }
    files
}

fn without_clock(value: &mut serde_json::Value) {
    if let Some(table) = value.as_object_mut() {
        for key in ["images_per_second", "step_ms", "coupling_ms", "coupling_share_percent"] {
            table.remove(key);
        }
        table.values_mut().for_each(without_clock);
    }
}

fn same(way: &Way, whole: &Path, parts: &Path, what: &str) {
    let (whole, parts) = (left(whole), left(parts));
    for (name, bytes) in &whole {
        assert!(parts.get(name) == Some(bytes), "{}, {what}: {name} differs", way.name);
    }
    assert_eq!(whole.len(), parts.len());
}

/// 200 steps at once, and the same with a stop after each of 1, 37, 100 and 199 of them.
#[test]
fn a_run_stopped_four_times_is_the_uninterrupted_one_bit_for_bit() {
    let _alone = alone();
    for way in ways() {
        let folder = tempfile::tempdir().unwrap();
        let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
        train(&way, &whole, STEPS);
        STOPS.iter().chain([&STEPS]).for_each(|until| train(&way, &parts, *until));
        same(&way, &whole, &parts, "four stops");
    }
}

/// The same with each of the stops alone. `cargo xtask reliability` runs it.
#[test]
#[ignore = "takes minutes; the stops together are tested above"]
fn a_run_stopped_once_is_the_uninterrupted_one_bit_for_bit() {
    let _alone = alone();
    let mut compared = 0;
    for way in ways() {
        let folder = tempfile::tempdir().unwrap();
        let whole = folder.path().join("whole");
        train(&way, &whole, STEPS);
        for stop in STOPS {
            let parts = folder.path().join(stop.to_string());
            train(&way, &parts, stop);
            train(&way, &parts, STEPS);
            same(&way, &whole, &parts, &format!("a stop after {stop}"));
            compared += 1;
        }
    }
    println!("stopped runs compared: {compared}");
}
