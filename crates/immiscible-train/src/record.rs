//! What a run writes down: averages over steps, and `metrics.jsonl`.

use crate::{StepReport, TrainError};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

/// Sums over steps, from which averages are read. Part of a checkpoint, so that a resumed run reports the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Average {
    /// Steps summed.
    pub steps: u64,
    /// Steps that were skipped, which are not among them.
    #[serde(default)]
    pub skipped: u64,
    loss: f64,
    gradient_norm: f64,
    distance_before: f64,
    distance_after: f64,
    drop_percent: f64,
    coefficient: f64,
    energy: f64,
    #[serde(default)]
    alignment: f64,
    #[serde(default)]
    mean_shift: f64,
    coupling_ms: f64,
    step_ms: f64,
}

impl Average {
    pub(crate) fn add(&mut self, report: &StepReport, step_ms: f64) {
        let coupling = &report.coupling;
        self.steps += 1;
        self.loss += f64::from(report.loss);
        self.gradient_norm += f64::from(report.gradient_norm);
        self.distance_before += coupling.distance_before;
        self.distance_after += coupling.distance_after;
        self.drop_percent += coupling.drop_percent();
        self.coefficient += coupling.coefficient;
        self.energy += coupling.energy;
        self.alignment += coupling.alignment;
        self.mean_shift += coupling.mean_shift;
        self.coupling_ms += coupling.milliseconds;
        self.step_ms += step_ms;
    }

    pub(crate) fn skip(&mut self) {
        self.skipped += 1;
    }

    fn per_step(&self, sum: f64) -> f64 {
        if self.steps == 0 { 0.0 } else { sum / self.steps as f64 }
    }

    /// Mean loss.
    pub fn loss(&self) -> f64 {
        self.per_step(self.loss)
    }

    /// Mean drop of the distance between images and noises, in per cent.
    pub fn drop_percent(&self) -> f64 {
        self.per_step(self.drop_percent)
    }

    /// Mean wall-clock time of the coupling, in milliseconds a step.
    pub fn coupling_ms(&self) -> f64 {
        self.per_step(self.coupling_ms)
    }

    /// Mean wall-clock time of a step, in milliseconds.
    pub fn step_ms(&self) -> f64 {
        self.per_step(self.step_ms)
    }

    /// The coupling's time as a share of the step's, in per cent. A coupling that runs in the loader's pipeline
    /// overlaps the step, so this is an upper bound of what it delays.
    pub fn coupling_share_percent(&self) -> f64 {
        if self.step_ms > 0.0 { 100.0 * self.coupling_ms / self.step_ms } else { 0.0 }
    }

    /// Images per second.
    pub fn images_per_second(&self, batch_size: usize) -> f64 {
        if self.step_ms > 0.0 { 1e3 * batch_size as f64 * self.steps as f64 / self.step_ms } else { 0.0 }
    }
}

/// One line of `metrics.jsonl`: averages over the steps taken since the line before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Steps gone through, the skipped ones included.
    pub step: u64,
    /// Steps among those that were skipped, because the loss or its gradient was not finite.
    #[serde(default)]
    pub skipped: u64,
    /// Mean loss; null if all steps were skipped. Not comparable between couplings: a coupled target is easier to predict.
    pub loss: Option<f64>,
    /// Mean global L2 norm of the gradient before clipping; null if all steps were skipped.
    pub gradient_norm: Option<f64>,
    /// Learning rate of the last of these steps.
    pub learning_rate: f64,
    /// Images per second.
    pub images_per_second: f64,
    /// Wall-clock milliseconds of a step.
    pub step_ms: f64,
    /// The coupling's milliseconds a step.
    pub coupling_ms: f64,
    /// The coupling's share of the step in per cent.
    pub coupling_share_percent: f64,
    /// Mean L2 distance to the drawn noise.
    pub distance_before: f64,
    /// Mean L2 distance to the noise taken.
    pub distance_after: f64,
    /// Mean drop in per cent.
    pub distance_drop_percent: f64,
    /// Mean Σ⟨x, ε⟩ / Σ|x|².
    pub coefficient: f64,
    /// Mean |ε|² / D.
    pub energy: f64,
    /// Mean ⟨ε, x − x̄⟩ with the batch's mean as x̄.
    #[serde(default)]
    pub alignment: f64,
    /// Mean over the steps of the squared mean noise of a batch, over what chance gives it: 1 for normal noise.
    #[serde(default)]
    pub mean_shift: f64,
}

impl Record {
    pub(crate) fn new(step: u64, average: &Average, learning_rate: f64, batch_size: usize) -> Self {
        let taken = average.steps > 0;
        Self {
            step,
            skipped: average.skipped,
            loss: taken.then(|| average.loss()),
            gradient_norm: taken.then(|| average.per_step(average.gradient_norm)),
            learning_rate,
            images_per_second: average.images_per_second(batch_size),
            step_ms: average.step_ms(),
            coupling_ms: average.coupling_ms(),
            coupling_share_percent: average.coupling_share_percent(),
            distance_before: average.per_step(average.distance_before),
            distance_after: average.per_step(average.distance_after),
            distance_drop_percent: average.drop_percent(),
            coefficient: average.per_step(average.coefficient),
            energy: average.per_step(average.energy),
            alignment: average.per_step(average.alignment),
            mean_shift: average.per_step(average.mean_shift),
        }
    }
}

/// `metrics.jsonl`, append-only within a run.
#[derive(Debug)]
pub(crate) struct MetricsLog {
    path: PathBuf,
    file: File,
}

impl MetricsLog {
    /// Opens the log of a run that goes on after `step`: what a killed run wrote beyond it is cut off.
    pub(crate) fn open(path: &Path, step: u64) -> Result<Self, TrainError> {
        let mut kept = 0;
        if path.exists() {
            let mut reader = BufReader::new(File::open(path).map_err(TrainError::io(path))?);
            let mut line = String::new();
            loop {
                line.clear();
                let read = reader.read_line(&mut line).map_err(TrainError::io(path))?;
                match serde_json::from_str::<Record>(&line) {
                    Ok(record) if record.step <= step => kept += read as u64,
                    _ => break,
                }
            }
        }
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(TrainError::io(path))?;
        file.set_len(kept).map_err(TrainError::io(path))?;
        Ok(Self { path: path.into(), file })
    }

    pub(crate) fn write(&mut self, record: &Record) -> Result<(), TrainError> {
        let line = serde_json::to_string(record).map_err(|e| TrainError::checkpoint(&self.path, e))?;
        writeln!(self.file, "{line}").map_err(TrainError::io(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_log_holds_every_step_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let record = |step| Record::new(step, &Average::default(), 0.1, 4);
        let mut log = MetricsLog::open(&path, 0).unwrap();
        for step in [10, 20, 30] {
            log.write(&record(step)).unwrap();
        }
        let mut log = MetricsLog::open(&path, 20).unwrap();
        log.write(&record(30)).unwrap();
        let steps: Vec<u64> = std::fs::read_to_string(&path)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str::<Record>(line).unwrap().step)
            .collect();
        assert_eq!(steps, [10, 20, 30]);
    }
}
