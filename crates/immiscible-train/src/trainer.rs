use crate::{
    Average, Checkpoint, CheckpointConfig, CheckpointStore, Prepared, Record, RunLock, StepReport,
    TrainConfig, TrainError, TrainStep, prepare,
    record::{MetricsLog, Took},
    window,
};
use immiscible_coupling::{Coupling, Lookahead};
use immiscible_data::{Loader, Prefetch, prefetch};
use immiscible_models::Network;
use immiscible_random::Key;
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

const STATE: &str = "state.json";
const METRICS: &str = "metrics.jsonl";

/// What the loop itself must remember beside the networks. Data order, noise and times follow from `step`.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct State {
    step: u64,
    /// Steps in a row, up to this one, that were skipped.
    #[serde(default)]
    skipped_in_a_row: u64,
    /// Since the last line of the log.
    window: Average,
    /// Since the first step.
    total: Average,
}

impl State {
    /// Weights that no batch can be learned with must not displace those from before.
    fn sound(&self) -> bool {
        self.skipped_in_a_row == 0
    }
}

/// What the loop tells while it runs. Every method has an empty default.
pub trait Observer {
    /// Training starts at `step`; `skipped` are checkpoints that were passed over, with the reason.
    fn start(&mut self, step: u64, skipped: &[TrainError]) {
        let _ = (step, skipped);
    }

    /// A step was taken; `step` counts the steps taken so far.
    fn step(&mut self, step: u64, report: &StepReport, total: &Average) {
        let _ = (step, report, total);
    }

    /// A step's loss or gradient was not finite, and nothing was changed by it; `step` counts it as gone through.
    fn skipped(&mut self, step: u64, reason: &TrainError) {
        let _ = (step, reason);
    }

    /// A line of `metrics.jsonl` is due, whether it could be written or not.
    fn logged(&mut self, record: &Record) {
        let _ = record;
    }

    /// A checkpoint was saved and read back: the run goes on from there, whatever happens.
    fn saved(&mut self, checkpoint: &Checkpoint) {
        let _ = checkpoint;
    }

    /// Something failed that training goes on without: a checkpoint that will be tried again, or the log, which is told
    /// of once.
    fn warn(&mut self, warning: &TrainError) {
        let _ = warning;
    }

    /// Asked after every step, and while a batch, or a checkpoint that cannot be saved, is waited for: true saves and ends
    /// training.
    fn stop(&mut self) -> bool {
        false
    }

    /// Called after every step with the network to sample from.
    fn evaluate(&mut self, step: u64, network: &Network) {
        let _ = (step, network);
    }
}

/// The loop: batches in, steps taken, log and checkpoints out.
pub struct Trainer {
    /// Steps, batch size, log interval.
    pub train: TrainConfig,
    /// When to save.
    pub checkpoint: CheckpointConfig,
    /// The run directory; `metrics.jsonl` and `checkpoints/` appear in it.
    pub run: PathBuf,
    /// Hash of the config, kept in every checkpoint.
    pub config_sha256: String,
    /// Seed of everything random.
    pub key: Key,
}

/// Where training begins: [`Trainer::start`].
#[derive(Debug)]
pub struct Start {
    /// For as long as it is trained.
    lock: RunLock,
    newest: Option<Checkpoint>,
    skipped: Vec<TrainError>,
}

impl Trainer {
    /// Checks the options, and finds the newest intact checkpoint of the locked run directory.
    ///
    /// # Errors
    /// When an option is outside its range, when there are checkpoints and none can be read, or when the newest is of
    /// another config or of a later step than the last. Nothing has then changed.
    pub fn start(&self, lock: RunLock) -> Result<Start, TrainError> {
        self.validate()?;
        let (newest, skipped) = self.store().newest()?;
        match &newest {
            None if !skipped.is_empty() => {
                let reasons: Vec<String> = skipped.iter().map(ToString::to_string).collect();
                let reason =
                    format!("no checkpoint can be read ({}); repair one or start again", reasons.join("; "));
                Err(TrainError::checkpoint(&self.run, reason))
            }
            Some(checkpoint) if checkpoint.config_sha256 != self.config_sha256 => {
                let reason = "it was trained with another config; train under another name or start again";
                Err(TrainError::checkpoint(&checkpoint.path, reason))
            }
            Some(checkpoint) if checkpoint.step > self.train.steps => Err(TrainError::Option {
                key: "train.steps",
                value: self.train.steps.to_string(),
                remedy: "the run has taken more steps already; write at least as many",
            }),
            _ => Ok(Start { lock, newest, skipped }),
        }
    }

    /// Whether the options are in their ranges.
    ///
    /// # Errors
    /// When one is not.
    pub fn validate(&self) -> Result<(), TrainError> {
        self.train.validate()?;
        self.checkpoint.validate()
    }

    fn store(&self) -> CheckpointStore {
        CheckpointStore::new(self.run.join("checkpoints"))
    }

    /// Trains until the last step, from the newest intact checkpoint of the run directory or from the beginning.
    ///
    /// # Errors
    /// As [`start`](Self::start) and [`run_from`](Self::run_from), and when another process trains in the directory.
    pub fn run(
        &self,
        method: &mut dyn TrainStep,
        loader: Loader,
        coupling: Arc<dyn Coupling>,
        observer: &mut dyn Observer,
    ) -> Result<Average, TrainError> {
        self.validate()?;
        self.run_from(self.start(RunLock::take(&self.run)?)?, method, loader, coupling, observer)
    }

    /// Trains until the last step.
    ///
    /// # Errors
    /// When a batch or a step fails; with [`TrainError::Diverged`] when `max_skipped` steps in a row were not finite, with
    /// [`TrainError::NonFiniteWeights`] when the weights that are to be saved are not, with [`TrainError::Unsaved`] when
    /// `max_failures` times in a row no checkpoint could be saved, and with [`TrainError::Stopped`] when the observer asked
    /// for it. What was saved before stays.
    pub fn run_from(
        &self,
        start: Start,
        method: &mut dyn TrainStep,
        loader: Loader,
        coupling: Arc<dyn Coupling>,
        observer: &mut dyn Observer,
    ) -> Result<Average, TrainError> {
        let Start { lock: _lock, newest, skipped } = start;
        let mut saving = Saving::new(self.store(), self, newest.as_ref().map(|checkpoint| checkpoint.step));
        // What cannot be removed now is in nobody's way.
        let _ = saving.store.remove_stale();
        let mut state = match &newest {
            Some(checkpoint) => {
                method.load(&checkpoint.path)?;
                let path = checkpoint.path.join(STATE);
                let text = std::fs::read(&path).map_err(TrainError::io(&path))?;
                serde_json::from_slice(&text).map_err(|error| TrainError::checkpoint(&path, error))?
            }
            None => State::default(),
        };
        let mut log = Log { log: MetricsLog::new(&self.run.join(METRICS), state.step), told: false };
        observer.start(state.step, &skipped);
        if state.step >= self.train.steps {
            return Ok(state.total);
        }

        let key = self.key;
        let depth = NonZeroUsize::new(self.train.prefetch);
        let steps = state.step..self.train.steps;
        let mut batches = match window::lookahead(&*coupling).map(Lookahead::rows) {
            Some(rows) => {
                let overlap = depth.is_some();
                let mut batches = window::batches(coupling, rows, loader, key, steps.clone(), overlap)?;
                Batches::new(steps, depth, move |_| batches.next().expect("a batch for every step"))?
            }
            None => Batches::new(steps, depth, move |step| {
                prepare(&*coupling, loader.batch_at(step)?, key, step)
            })?,
        };
        let looks_ahead = depth.is_some() && method.looks_ahead();
        let mut coming = None;
        let mut first = true;
        let mut begin = Instant::now();
        while state.step < self.train.steps {
            let Some(prepared) = coming.take().or_else(|| batches.next_unless(|| observer.stop())) else {
                if state.sound() && saving.kept.unwrap_or(0) < state.step {
                    log.tell(observer, |log| log.sync());
                    saving.save(&*method, &state, false, observer)?;
                }
                return Err(TrainError::Stopped { step: state.step, kept: saving.kept });
            };
            let prepared = prepared?;
            if looks_ahead && state.step + 1 < self.train.steps {
                coming = batches.next_unless(|| observer.stop());
            }
            let waited_ms = begin.elapsed().as_secs_f64() * 1e3;
            let with_noise = prepared.drawn.is_some();
            // What is wrong with the next batch is told in its turn.
            if let Some(Ok(next)) = &coming {
                method.look_ahead(next, state.step + 1);
            }
            let taken = method.step(prepared, state.step);
            state.step += 1;
            match taken {
                Ok(report) => {
                    state.skipped_in_a_row = 0;
                    let ms = begin.elapsed().as_secs_f64() * 1e3;
                    let took = Took { ms, first, waited_ms, with_noise };
                    state.window.add(&report, took);
                    state.total.add(&report, took);
                    observer.step(state.step, &report, &state.total);
                }
                Err(TrainError::NonFinite { step, loss, gradient_norm }) => {
                    let reason = TrainError::NonFinite { step, loss, gradient_norm };
                    state.skipped_in_a_row += 1;
                    state.window.skip();
                    state.total.skip();
                    observer.skipped(state.step, &reason);
                    let skipped = state.skipped_in_a_row;
                    if skipped >= self.train.max_skipped {
                        let kept = saving.kept;
                        return Err(TrainError::Diverged { step, skipped, loss, gradient_norm, kept });
                    }
                }
                Err(error) => return Err(error),
            }
            first = false;

            let done = state.step == self.train.steps;
            if state.step.is_multiple_of(self.train.log_every) || done {
                let learning_rate = method.learning_rate_at(state.step - 1);
                let State { step, window, total, .. } = &state;
                let record = Record::new(*step, window, total, learning_rate, self.train.batch_size);
                log.tell(observer, |log| log.write(&record));
                observer.logged(&record);
                state.window = Average::default();
            }
            let stop = !done && observer.stop();
            if done || (state.sound() && (stop || saving.due(state.step))) {
                log.tell(observer, |log| log.sync());
                saving.save(&*method, &state, done, observer)?;
            }
            if stop {
                return Err(TrainError::Stopped { step: state.step, kept: saving.kept });
            }
            observer.evaluate(state.step, method.sampling_network());
            // Logging, saving and sampling are not part of a step's time.
            begin = Instant::now();
        }
        Ok(state.total)
    }
}

/// The batches of the coming steps, with their noise.
enum Batches {
    /// Made on a thread of their own.
    Ahead(Prefetch<Prepared, TrainError>),
    /// Each made when it is asked for.
    InTurn(Box<dyn Iterator<Item = Result<Prepared, TrainError>>>),
}

impl Batches {
    /// What `produce` makes of each of `steps`, up to `depth` of them ahead.
    fn new(
        steps: Range<u64>,
        depth: Option<NonZeroUsize>,
        produce: impl FnMut(u64) -> Result<Prepared, TrainError> + Send + 'static,
    ) -> Result<Self, TrainError> {
        Ok(match depth {
            Some(depth) => Self::Ahead(prefetch(steps, depth, produce)?),
            None => Self::InTurn(Box::new(steps.map(produce))),
        })
    }

    /// The next, or `None` where `stop` says so while it is waited for: a window can take minutes to pair.
    fn next_unless(&mut self, stop: impl FnMut() -> bool) -> Option<Result<Prepared, TrainError>> {
        match self {
            Self::Ahead(batches) => batches.next_unless(stop),
            Self::InTurn(batches) => batches.next(),
        }
    }
}

/// The log, whose first failure is told.
struct Log {
    log: MetricsLog,
    told: bool,
}

impl Log {
    fn tell(
        &mut self,
        observer: &mut dyn Observer,
        act: impl FnOnce(&mut MetricsLog) -> Result<(), TrainError>,
    ) {
        if let Err(error) = act(&mut self.log)
            && !std::mem::replace(&mut self.told, true)
        {
            observer.warn(&error);
        }
    }
}

/// When a checkpoint is due, also after failures.
struct Saving<'a> {
    store: CheckpointStore,
    trainer: &'a Trainer,
    /// The step of the newest checkpoint.
    kept: Option<u64>,
    /// Failures since then.
    failures: u64,
    retry_at: Option<Instant>,
}

impl<'a> Saving<'a> {
    fn new(store: CheckpointStore, trainer: &'a Trainer, kept: Option<u64>) -> Self {
        Self { store, trainer, kept, failures: 0, retry_at: None }
    }

    fn due(&self, step: u64) -> bool {
        match self.retry_at {
            Some(at) => Instant::now() >= at,
            None => step.is_multiple_of(self.trainer.checkpoint.every),
        }
    }

    /// Saves. A failure is told and left for a later step, or, after the last one, waited for.
    ///
    /// # Errors
    /// [`TrainError::Unsaved`] after the last failure that is allowed, and when training is to stop;
    /// [`TrainError::NonFiniteWeights`] at once, as these do not mend.
    fn save(
        &mut self,
        method: &dyn TrainStep,
        state: &State,
        last: bool,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let step = state.step;
        loop {
            let source = match self.try_to_save(method, state, observer) {
                Ok(()) => return Ok(()),
                Err(TrainError::NonFiniteWeights { .. }) => {
                    return Err(TrainError::NonFiniteWeights { kept: self.kept });
                }
                Err(source) => source,
            };
            let (source, failures, most) =
                (source.into(), self.failures, self.trainer.checkpoint.max_failures);
            if failures >= most || observer.stop() {
                return Err(TrainError::Unsaved { step, failures, source, kept: self.kept });
            }
            observer.warn(&TrainError::NotSaved { step, failures, most, seconds: self.seconds(), source });
            if !last {
                return Ok(());
            }
            while self.retry_at.is_some_and(|at| Instant::now() < at) && !observer.stop() {
                sleep(Duration::from_millis(100));
            }
        }
    }

    fn try_to_save(
        &mut self,
        method: &dyn TrainStep,
        state: &State,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let (config_sha256, keep) = (&self.trainer.config_sha256, self.trainer.checkpoint.keep);
        let saved = self.store.save(state.step, config_sha256, keep, |files| {
            method.save(files)?;
            files.write_json(STATE, state)
        });
        match saved {
            Ok(saved) => {
                (self.kept, self.failures, self.retry_at) = (Some(state.step), 0, None);
                observer.saved(&saved.checkpoint);
                saved.untidy.iter().for_each(|warning| observer.warn(warning));
                Ok(())
            }
            Err(error) => {
                self.failures += 1;
                self.retry_at = Some(Instant::now() + Duration::from_secs(self.seconds()));
                Err(error)
            }
        }
    }

    /// From the last failure to the next try.
    fn seconds(&self) -> u64 {
        let doublings = self.failures.saturating_sub(1).min(16);
        self.trainer.checkpoint.retry_seconds << doublings
    }
}
