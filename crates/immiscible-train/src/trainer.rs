use crate::{
    Average, CheckpointConfig, CheckpointStore, Record, StepReport, TrainConfig, TrainError, TrainStep,
    checkpoint::{read_json, write_json},
    prepare,
    record::MetricsLog,
    window,
};
use immiscible_coupling::{Coupling, Lookahead};
use immiscible_data::{Loader, prefetch};
use immiscible_models::Network;
use immiscible_random::Key;
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

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

impl Trainer {
    /// Trains until the last step, from the newest intact checkpoint of the run directory or from the beginning.
    ///
    /// # Errors
    /// When a batch, a step or a checkpoint fails, and with [`TrainError::Diverged`] when `max_skipped` steps in a row were not
    /// finite. What was saved before stays.
    pub fn run(
        &self,
        method: &mut dyn TrainStep,
        loader: Loader,
        coupling: Arc<dyn Coupling>,
        observer: &mut dyn Observer,
    ) -> Result<Average, TrainError> {
        self.train.validate()?;
        self.checkpoint.validate()?;
        let store = CheckpointStore::new(self.run.join("checkpoints"));
        let (newest, skipped) = store.newest()?;
        if newest.is_none() && !skipped.is_empty() {
            let reasons: Vec<String> = skipped.iter().map(ToString::to_string).collect();
            let reason =
                format!("no checkpoint can be read ({}); repair one or start again", reasons.join("; "));
            return Err(TrainError::checkpoint(&self.run, reason));
        }
        let mut state = match &newest {
            Some(checkpoint) if checkpoint.config_sha256 != self.config_sha256 => {
                let reason = "it was trained with another config; train under another name or start again";
                return Err(TrainError::checkpoint(&checkpoint.path, reason));
            }
            Some(checkpoint) if checkpoint.step > self.train.steps => {
                return Err(TrainError::Option {
                    key: "train.steps",
                    value: self.train.steps.to_string(),
                    remedy: "the run has taken more steps already; write at least as many",
                });
            }
            Some(checkpoint) => {
                method.load(&checkpoint.path)?;
                read_json(&checkpoint.path.join(STATE))?
            }
            None => State::default(),
        };
        std::fs::create_dir_all(&self.run).map_err(TrainError::io(&self.run))?;
        let mut log = MetricsLog::open(&self.run.join(METRICS), state.step)?;
        observer.start(state.step, &skipped);
        if state.step >= self.train.steps {
            return Ok(state.total);
        }

        let key = self.key;
        let ahead = NonZeroUsize::new(self.train.prefetch).unwrap_or(NonZeroUsize::MIN);
        let steps = state.step..self.train.steps;
        let batches = match window::lookahead(&*coupling).map(Lookahead::rows) {
            Some(rows) => {
                let mut batches = window::batches(coupling, rows, loader, key, state.step)?;
                prefetch(steps, ahead, move |_| batches.next().expect("windows do not end"))?
            }
            None => {
                prefetch(steps, ahead, move |step| prepare(&*coupling, loader.batch_at(step)?, key, step))?
            }
        };
        let mut begin = Instant::now();
        for prepared in batches {
            let taken = method.step(prepared?, state.step);
            state.step += 1;
            match taken {
                Ok(report) => {
                    state.skipped_in_a_row = 0;
                    let step_ms = begin.elapsed().as_secs_f64() * 1e3;
                    state.window.add(&report, step_ms);
                    state.total.add(&report, step_ms);
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
                        let kept = store.newest()?.0.map(|checkpoint| checkpoint.step);
                        return Err(TrainError::Diverged { step, skipped, loss, gradient_norm, kept });
                    }
                }
                Err(error) => return Err(error),
            }

            let done = state.step == self.train.steps;
            if state.step.is_multiple_of(self.train.log_every) || done {
                let learning_rate = method.learning_rate_at(state.step - 1);
                let record = Record::new(state.step, &state.window, learning_rate, self.train.batch_size);
                log.write(&record)?;
                state.window = Average::default();
            }
            // Weights that no batch can be learned with must not displace those from before.
            let sound = state.skipped_in_a_row == 0;
            if state.step.is_multiple_of(self.checkpoint.every) && sound || done {
                store.save(state.step, &self.config_sha256, self.checkpoint.keep, |folder| {
                    method.save(folder)?;
                    write_json(&folder.join(STATE), &state)
                })?;
            }
            observer.evaluate(state.step, method.sampling_network());
            // Logging, saving and sampling are not part of a step's time.
            begin = Instant::now();
        }
        Ok(state.total)
    }
}
