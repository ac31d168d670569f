//! A run that was stopped and goes on is the uninterrupted one, bit for bit on the CPU, and one whose files cannot be
//! written goes on as well.

mod generator;

use burn::tensor::Device;
use generator::alone;
use immiscible_coupling::{
    Coupling, CouplingConfig, CouplingError, Draw, HostCoupling, Lookahead, PairContext,
};
use immiscible_data::{DataOptions, Loader, LoaderOptions, build};
use immiscible_models::{DiTConfig, NetworkConfig, Precision, UNet2DConfig};
use immiscible_random::{Key, Stream};
use immiscible_schedule::{ObjectiveConfig, ScheduleConfig, TimeSamplerConfig};
use immiscible_train::{
    Average, Checkpoint, CheckpointConfig, ClassCondition, Diffusion, DiffusionStep, EmaConfig, LossConfig,
    Observer, OptimizerConfig, RunLock, StepReport, TrainConfig, TrainError, Trainer,
};
use ndarray::{Array2, ArrayView2};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

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
    precision: Precision,
    /// The slower network.
    unet: bool,
}

fn ways() -> Vec<Way> {
    let coupling = |kind: &str| CouplingConfig { kind: kind.into(), ..CouplingConfig::default() };
    let plain = Precision::F32;
    let way = |name, coupling| Way {
        name,
        coupling,
        micro_batch: None,
        chance: false,
        precision: plain,
        unet: false,
    };
    vec![
        way("independent", coupling("independent")),
        way("assignment", coupling("assignment")),
        way("knn", coupling("knn")),
        // The stops are not where windows begin.
        way("window", CouplingConfig { window: 8 * BATCH, ..coupling("window") }),
        Way { micro_batch: Some(3), ..way("micro-batches", coupling("assignment")) },
        Way { chance: true, ..way("dropout and flips", coupling("assignment")) },
        Way { precision: Precision::Bf16, ..way("half precision", coupling("assignment")) },
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

/// What takes up a run: a new trainer with a new network.
fn set_up(way: &Way, run: &Path) -> (Trainer, DiffusionStep, Loader, Arc<dyn Coupling>) {
    let coupling: Arc<dyn Coupling> = way.coupling.build().unwrap().into();
    let dropout = if way.chance { 0.2 } else { 0.0 };
    let network = if way.unet {
        let tiny = UNet2DConfig { in_channels: 1, out_channels: 1, dropout, ..UNet2DConfig::tiny() };
        NetworkConfig::UNet2DModel(tiny)
    } else {
        NetworkConfig::DiTTransformer2DModel(DiTConfig {
            in_channels: 1,
            patch_size: 4,
            num_layers: 1,
            dropout,
            ..DiTConfig::tiny()
        })
    };
    let device = Device::flex();
    // Not what the run began with: everything must come from the checkpoint.
    device.seed(KEY.stream(Stream::INIT).device_seed() + u64::from(run.exists()));
    let network = network.init(&device.clone().autodiff()).unwrap();
    let schedule = ScheduleConfig::new("linear").build().unwrap();
    let objective = ObjectiveConfig::new("epsilon").build().unwrap();
    let diffusion = Diffusion {
        time: TimeSamplerConfig::default().build_for(&*schedule).unwrap(),
        loss: LossConfig::default().build(&*schedule, &*objective).unwrap(),
        schedule,
        objective,
        coupling: coupling.clone(),
        classes: Some(ClassCondition::new(10, if way.chance { 0.3 } else { 0.0 })),
        precision: way.precision,
    };
    let optimizer = OptimizerConfig { learning_rate: 2e-3, warmup_steps: 50, ..OptimizerConfig::default() };
    let ema = EmaConfig { decay: 0.99, ..EmaConfig::default() };
    let method = DiffusionStep::new(diffusion, network, &optimizer, &ema, KEY, &device).unwrap();
    let method = method.with_micro_batch(way.micro_batch);
    let digits = build(&DataOptions::new("digits")).unwrap();
    let options = LoaderOptions { batch_size: BATCH, seed: 5, flip: way.chance };
    let trainer = Trainer {
        train: TrainConfig { steps: STEPS, batch_size: BATCH, log_every: 7, ..TrainConfig::default() },
        checkpoint: CheckpointConfig { every: 60, ..CheckpointConfig::default() },
        run: run.into(),
        config_sha256: "c0ffee".into(),
        key: KEY,
    };
    (trainer, method, Loader::new(digits, options).unwrap(), coupling)
}

/// Takes up a run and goes on until `until`.
fn train(way: &Way, run: &Path, until: u64) {
    let (trainer, mut method, loader, coupling) = set_up(way, run);
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
        // Every process has a first step, which is timed apart.
        let clock = ["images_per_second", "coupling_share_percent", "first_steps"];
        table.retain(|key, _| !key.ends_with("_ms") && !clock.contains(&&**key));
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

/// 200 steps at once, and the same with a stop after one of 1, 37, 100 and 199 of them.
#[test]
fn a_run_that_was_stopped_is_the_uninterrupted_one_bit_for_bit() {
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

/// The same with all four stops.
#[test]
fn a_run_that_was_stopped_four_times_is_the_uninterrupted_one_bit_for_bit() {
    let _alone = alone();
    for way in ways().into_iter().filter(|way| way.chance) {
        let way = Way { unet: true, ..way };
        let folder = tempfile::tempdir().unwrap();
        let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
        train(&way, &whole, STEPS);
        STOPS.iter().chain([&STEPS]).for_each(|until| train(&way, &parts, *until));
        same(&way, &whole, &parts, "four stops");
    }
}

/// Windows of one batch; pairing the second takes as long as the other end of its channel is kept.
struct Slow {
    pairs: AtomicUsize,
    until: Mutex<Receiver<()>>,
}

impl Coupling for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }

    fn host(&self) -> Option<&dyn HostCoupling> {
        Some(self)
    }
}

impl HostCoupling for Slow {
    fn draw_host(
        &self,
        _x0: ArrayView2<f32>,
        _pairing: &PairContext,
        _key: Key,
    ) -> Result<Draw<Array2<f32>>, CouplingError> {
        unreachable!("it looks ahead")
    }

    fn lookahead(&self) -> Option<&dyn Lookahead> {
        Some(self)
    }
}

impl Lookahead for Slow {
    fn rows(&self) -> usize {
        BATCH
    }

    fn pair(
        &self,
        x0: ArrayView2<f32>,
        _drawn: ArrayView2<f32>,
        _pairing: &PairContext,
        _key: Key,
    ) -> Result<Vec<u32>, CouplingError> {
        if self.pairs.fetch_add(1, Ordering::SeqCst) == 1 {
            let _ = self.until.lock().unwrap().recv();
        }
        Ok((0..x0.nrows() as u32).collect())
    }
}

/// Wants to stop, but not yet when it is asked right after the first step.
#[derive(Default)]
struct AskedTwice(u64);

impl Observer for AskedTwice {
    fn step(&mut self, _step: u64, _report: &StepReport, _total: &Average) {
        self.0 = 1;
    }

    fn stop(&mut self) -> bool {
        self.0 += u64::from(self.0 > 0);
        self.0 > 2
    }
}

#[test]
fn a_stop_does_not_wait_for_a_window_that_is_being_paired() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let (trainer, mut method, loader, _) = set_up(&ways()[0], &run);
    let (go_on, until) = channel();
    let slow = Arc::new(Slow { pairs: AtomicUsize::new(0), until: Mutex::new(until) });
    // Whoever waited for the window would wait for ever.
    let ended = trainer.run(&mut method, loader, slow.clone(), &mut AskedTwice::default());
    assert!(matches!(ended, Err(TrainError::Stopped { step: 1, kept: Some(1) })), "{ended:?}");
    assert_eq!(slow.pairs.load(Ordering::SeqCst), 2, "the second window was being paired");
    drop(go_on);

    // What was saved then is what the run goes on from.
    let (mut trainer, mut method, loader, coupling) = set_up(&ways()[0], &run);
    trainer.train.steps = 3;
    assert_eq!(trainer.run(&mut method, loader, coupling, &mut Until(9, 0)).unwrap().steps, 3);
}

/// Takes the folder of the checkpoints away after some step, and gives it back after some number of warnings.
#[derive(Default)]
struct Obstacle {
    run: PathBuf,
    from: u64,
    warnings_before_it_ends: usize,
    stop_from: Option<u64>,
    step: u64,
    saved: Vec<u64>,
    warnings: Vec<String>,
}

impl Obstacle {
    fn folders(&self) -> [PathBuf; 2] {
        ["checkpoints", "elsewhere"].map(|name| self.run.join(name))
    }
}

impl Observer for Obstacle {
    fn step(&mut self, step: u64, _report: &StepReport, _total: &Average) {
        self.step = step;
        if step == self.from {
            let [here, away] = self.folders();
            fs::rename(&here, &away).unwrap();
            fs::write(here, "no folder").unwrap();
        }
    }

    fn saved(&mut self, checkpoint: &Checkpoint) {
        self.saved.push(checkpoint.step);
    }

    fn warn(&mut self, warning: &TrainError) {
        self.warnings.push(warning.to_string());
        if self.warnings.len() == self.warnings_before_it_ends {
            let [here, away] = self.folders();
            fs::remove_file(&here).unwrap();
            fs::rename(away, here).unwrap();
        }
    }

    fn stop(&mut self) -> bool {
        self.stop_from.is_some_and(|step| self.step >= step)
    }
}

fn obstructed(steps: u64, obstacle: Obstacle) -> (Result<Average, TrainError>, Obstacle) {
    let folder = tempfile::tempdir().unwrap();
    let mut obstacle = Obstacle { run: folder.path().join("run"), ..obstacle };
    let (mut trainer, mut method, loader, coupling) = set_up(&ways()[0], &obstacle.run);
    trainer.train.steps = steps;
    trainer.checkpoint =
        CheckpointConfig { every: 2, max_failures: 3, retry_seconds: 0, ..CheckpointConfig::default() };
    let ended = trainer.run(&mut method, loader, coupling, &mut obstacle);
    (ended, obstacle)
}

#[test]
fn a_checkpoint_that_cannot_be_saved_is_tried_again_at_the_next_steps() {
    let _alone = alone();
    let obstacle = || Obstacle { from: 3, warnings_before_it_ends: 2, ..Obstacle::default() };
    let (ended, found) = obstructed(9, obstacle());
    assert_eq!(ended.unwrap().steps, 9);
    // At steps 4 and 5 it fails, at 6 it is made up for.
    assert_eq!(found.saved, [2, 6, 8, 9]);
    assert_eq!(found.warnings.len(), 2, "{:?}", found.warnings);
    for (warning, words) in
        found.warnings.iter().zip(["step 4: no checkpoint, 1 of 3", "step 5: no checkpoint, 2 of 3"])
    {
        assert!(warning.starts_with(words) && warning.contains("checkpoints"), "{warning}");
        assert!(!warning.contains('\n'), "{warning}");
    }

    // The last step is not left before its checkpoint is there.
    let (ended, found) = obstructed(4, Obstacle { from: 4, ..obstacle() });
    assert_eq!((ended.unwrap().steps, found.saved), (4, vec![2, 4]));
}

#[test]
fn a_run_ends_after_so_many_failures_and_names_what_is_left() {
    let _alone = alone();
    let obstacle = || Obstacle { from: 3, warnings_before_it_ends: usize::MAX, ..Obstacle::default() };
    let (ended, found) = obstructed(50, obstacle());
    let error = ended.unwrap_err();
    assert!(matches!(error, TrainError::Unsaved { step: 6, failures: 3, kept: Some(2), .. }), "{error}");
    assert!(error.to_string().contains("checkpoint of step 2 is unharmed"), "{error}");
    assert_eq!((found.saved, found.warnings.len()), (vec![2], 2));
    // Whoever wants it to end does not wait for more of them.
    let (ended, found) = obstructed(50, Obstacle { stop_from: Some(4), ..obstacle() });
    assert!(
        matches!(ended, Err(TrainError::Unsaved { step: 4, failures: 1, kept: Some(2), .. })),
        "{ended:?}"
    );
    assert!(found.warnings.is_empty());
}

#[test]
fn a_log_that_cannot_be_written_is_told_of_once_and_training_goes_on() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    fs::create_dir_all(run.join("metrics.jsonl")).unwrap();
    let (mut trainer, mut method, loader, coupling) = set_up(&ways()[0], &run);
    trainer.train = TrainConfig { steps: 4, log_every: 1, ..trainer.train };
    let mut observer =
        Obstacle { run, warnings_before_it_ends: usize::MAX, from: u64::MAX, ..Obstacle::default() };
    assert_eq!(trainer.run(&mut method, loader, coupling, &mut observer).unwrap().steps, 4);
    assert_eq!((observer.saved, observer.warnings.len()), (vec![4], 1));
    assert!(observer.warnings[0].contains("metrics.jsonl"), "{:?}", observer.warnings);
}

#[test]
fn a_second_trainer_is_refused_and_what_is_refused_changes_nothing() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(&ways()[0], &run, 2);
    let again = |change: fn(&mut Trainer)| {
        let (mut trainer, mut method, loader, coupling) = set_up(&ways()[0], &run);
        change(&mut trainer);
        trainer.run(&mut method, loader, coupling, &mut Until(3, 0)).unwrap_err()
    };
    let lock = RunLock::take(&run).unwrap();
    let error = again(|_| ());
    assert!(matches!(error, TrainError::Locked { .. }), "{error}");
    drop(lock);
    let error = again(|trainer| trainer.train.steps = 1);
    assert!(matches!(error, TrainError::Option { key: "train.steps", .. }), "{error}");
    let error = again(|trainer| trainer.config_sha256 = "decaf".into());
    assert!(error.to_string().contains("another config"), "{error}");
    let error = again(|trainer| trainer.checkpoint.max_failures = 0);
    assert!(matches!(error, TrainError::Option { key: "checkpoint.max_failures", .. }), "{error}");
    assert!(matches!(again(|_| ()), TrainError::Stopped { step: 3, kept: Some(3) }));
}
