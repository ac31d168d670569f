//! What a run writes down: averages over steps, and `metrics.jsonl`.

use crate::{Parts, StepReport, TrainError};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

/// Version of the keys of [`Record`], written into every line. It rises when a key goes or changes its meaning; new keys may come
/// without.
pub const METRICS_SCHEMA: u32 = 1;

/// How much of the smoothed loss a step leaves.
const LOSS_EMA_DECAY: f64 = 0.99;

/// Sums over steps, from which averages are read. Part of a checkpoint, so that a resumed run reports the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Average {
    /// Steps summed.
    pub steps: u64,
    /// Steps that were skipped, which are not among them.
    #[serde(default)]
    pub skipped: u64,
    loss: f64,
    /// Losses, the newest weighing most.
    #[serde(default)]
    loss_ema: f64,
    /// How many; fewer than `steps` if an older version took some of those.
    #[serde(default)]
    loss_ema_steps: u64,
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
    /// The part of it that happened before the step had its batch.
    #[serde(default)]
    coupling_before_ms: f64,
    #[serde(default)]
    waited_ms: f64,
    step_ms: f64,
    /// First steps of their processes among them, and the part of the time that they took.
    #[serde(default)]
    first_steps: u64,
    #[serde(default)]
    first_step_ms: f64,
    /// Of the steps on latents.
    #[serde(default)]
    latents: Option<Parts>,
}

/// How long a step took, from asking for its batch on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Took {
    pub(crate) ms: f64,
    /// Whether it was the first of its process, in which a device compiles its kernels and tries which are fastest.
    pub(crate) first: bool,
    /// What of the time it waited for its batch.
    pub(crate) waited_ms: f64,
    /// Whether the batch came with its noise.
    pub(crate) with_noise: bool,
}

impl Average {
    pub(crate) fn add(&mut self, report: &StepReport, took: Took) {
        let coupling = &report.coupling;
        self.steps += 1;
        self.loss += f64::from(report.loss);
        self.loss_ema = LOSS_EMA_DECAY * self.loss_ema + (1.0 - LOSS_EMA_DECAY) * f64::from(report.loss);
        self.loss_ema_steps += 1;
        self.gradient_norm += f64::from(report.gradient_norm);
        self.distance_before += coupling.distance_before;
        self.distance_after += coupling.distance_after;
        self.drop_percent += coupling.drop_percent();
        self.coefficient += coupling.coefficient;
        self.energy += coupling.energy;
        self.alignment += coupling.alignment;
        self.mean_shift += coupling.mean_shift;
        self.coupling_ms += coupling.milliseconds;
        if took.with_noise {
            self.coupling_before_ms += coupling.milliseconds;
        }
        self.waited_ms += took.waited_ms;
        self.step_ms += took.ms;
        if took.first {
            self.first_steps += 1;
            self.first_step_ms += took.ms;
        }
        if let Some(parts) = report.latents {
            let sum = self.latents.unwrap_or_default();
            self.latents = Some(sum.plus(parts));
        }
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

    /// Mean loss, in which a step weighs 0.99 times what the one after it does: about the last hundred. The weights add up to 1
    /// from the first step on, as those of Adam's moments do (Kingma & Ba 2015, arXiv 1412.6980, §3).
    pub fn loss_ema(&self) -> f64 {
        let weights = 1.0 - LOSS_EMA_DECAY.powf(self.loss_ema_steps as f64);
        if weights > 0.0 { self.loss_ema / weights } else { 0.0 }
    }

    /// Mean drop of the distance between images and noises, in per cent.
    pub fn drop_percent(&self) -> f64 {
        self.per_step(self.drop_percent)
    }

    /// Mean wall-clock time of the coupling, in milliseconds a step.
    pub fn coupling_ms(&self) -> f64 {
        self.per_step(self.coupling_ms)
    }

    /// What of that delayed the steps: inside a step all but what happened beside the step before, and in the loader's pipeline
    /// no more than steps waited for their batches. The time of a window is spread over its batches, and waited for at the first: to be read over whole windows.
    pub fn coupling_visible_ms(&self) -> f64 {
        let beside = self.latents.map_or(0.0, |parts| parts.hidden_ms);
        let inside = self.coupling_ms - self.coupling_before_ms - beside;
        self.per_step(inside + self.coupling_before_ms.min(self.waited_ms))
    }

    /// The rest of it: what happened while other steps were taken.
    pub fn coupling_hidden_ms(&self) -> f64 {
        self.coupling_ms() - self.coupling_visible_ms()
    }

    /// Mean wall-clock time that a step waited for its batch, in milliseconds: for images to be read, and for what of the
    /// coupling is visible.
    pub fn waited_ms(&self) -> f64 {
        self.per_step(self.waited_ms)
    }

    /// Mean wall-clock time of a step, in milliseconds.
    pub fn step_ms(&self) -> f64 {
        self.per_step(self.step_ms)
    }

    /// That of the first steps of processes, in milliseconds, where there are any.
    pub fn first_step_ms(&self) -> Option<f64> {
        (self.first_steps > 0).then(|| self.first_step_ms / self.first_steps as f64)
    }

    /// The coupling's time as a share of the step's, in per cent, hidden or not.
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
    /// [`METRICS_SCHEMA`] of the version that wrote the line; 0 before there was one.
    #[serde(default)]
    pub schema: u32,
    /// Steps gone through, the skipped ones included.
    pub step: u64,
    /// Steps among those that were skipped, because the loss or its gradient was not finite.
    #[serde(default)]
    pub skipped: u64,
    /// Mean loss; null if all steps were skipped. Not comparable between couplings: a coupled target is easier to predict.
    pub loss: Option<f64>,
    /// [`Average::loss_ema`] of the run up to this step; null before its first step that was not skipped.
    #[serde(default)]
    pub loss_ema: Option<f64>,
    /// Mean global L2 norm of the gradient before clipping; null if all steps were skipped.
    pub gradient_norm: Option<f64>,
    /// Learning rate of the last of these steps.
    pub learning_rate: f64,
    /// Images per second.
    pub images_per_second: f64,
    /// Wall-clock milliseconds of a step.
    pub step_ms: f64,
    /// Those of the first step of a process, in which a device compiles its kernels; null where it is not among these.
    #[serde(default)]
    pub first_step_ms: Option<f64>,
    /// The coupling's milliseconds a step.
    pub coupling_ms: f64,
    /// What of them delayed the step.
    #[serde(default)]
    pub coupling_visible_ms: f64,
    /// What of them other steps hid.
    #[serde(default)]
    pub coupling_hidden_ms: f64,
    /// Milliseconds that a step waited for its batch.
    #[serde(default)]
    pub waited_ms: f64,
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
    /// Milliseconds until the latents of a batch were there; this and what follows of steps on latents only.
    #[serde(default)]
    pub encode_ms: Option<f64>,
    /// The coupling's milliseconds for comparing latents with noises on the device.
    #[serde(default)]
    pub cost_ms: Option<f64>,
    /// Those for the choice, on the host.
    #[serde(default)]
    pub solve_ms: Option<f64>,
    /// Those for gathering the noise on the device.
    #[serde(default)]
    pub gather_ms: Option<f64>,
    /// Bytes that a step read from the device for latents and coupling.
    #[serde(default)]
    pub bytes_to_host: Option<f64>,
    /// Bytes that a step put on the device for images, latents and noise.
    #[serde(default)]
    pub bytes_to_device: Option<f64>,
}

impl Record {
    /// Of the steps in `average`, the last ones of those in `total`.
    pub(crate) fn new(
        step: u64,
        average: &Average,
        total: &Average,
        learning_rate: f64,
        batch_size: usize,
    ) -> Self {
        let taken = average.steps > 0;
        let part = |of: fn(&Parts) -> f64| average.latents.as_ref().map(|parts| average.per_step(of(parts)));
        Self {
            schema: METRICS_SCHEMA,
            step,
            skipped: average.skipped,
            loss: taken.then(|| average.loss()),
            loss_ema: (total.loss_ema_steps > 0).then(|| total.loss_ema()),
            gradient_norm: taken.then(|| average.per_step(average.gradient_norm)),
            learning_rate,
            images_per_second: average.images_per_second(batch_size),
            step_ms: average.step_ms(),
            first_step_ms: average.first_step_ms(),
            coupling_ms: average.coupling_ms(),
            coupling_visible_ms: average.coupling_visible_ms(),
            coupling_hidden_ms: average.coupling_hidden_ms(),
            waited_ms: average.waited_ms(),
            coupling_share_percent: average.coupling_share_percent(),
            distance_before: average.per_step(average.distance_before),
            distance_after: average.per_step(average.distance_after),
            distance_drop_percent: average.drop_percent(),
            coefficient: average.per_step(average.coefficient),
            energy: average.per_step(average.energy),
            alignment: average.per_step(average.alignment),
            mean_shift: average.per_step(average.mean_shift),
            encode_ms: part(|parts| parts.encode_ms),
            cost_ms: part(|parts| parts.cost_ms),
            solve_ms: part(|parts| parts.solve_ms),
            gather_ms: part(|parts| parts.gather_ms),
            bytes_to_host: part(|parts| parts.bytes_to_host),
            bytes_to_device: part(|parts| parts.bytes_to_device),
        }
    }
}

/// More lines than this are not kept for a disk that takes none.
const UNWRITTEN: usize = 1 << 20;

/// `metrics.jsonl`, append-only within a run. What fails here is tried again later, and no reason to stop.
#[derive(Debug)]
pub(crate) struct MetricsLog {
    path: PathBuf,
    /// Up to here its lines are whole.
    whole: u64,
    file: Option<File>,
    /// Lines that come after those.
    unwritten: Vec<u8>,
}

impl MetricsLog {
    /// The log of a run that goes on after `step`: what a killed run wrote beyond it is cut off with the next line.
    pub(crate) fn new(path: &Path, step: u64) -> Self {
        Self { path: path.into(), whole: length_to(path, step), file: None, unwritten: Vec::new() }
    }

    pub(crate) fn write(&mut self, record: &Record) -> Result<(), TrainError> {
        let line = serde_json::to_string(record).map_err(|error| self.failed(io::Error::other(error)))?;
        if self.unwritten.len() < UNWRITTEN {
            self.unwritten.extend([line.as_bytes(), b"\n"].concat());
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), TrainError> {
        let lines = std::mem::take(&mut self.unwritten);
        if lines.is_empty() {
            return Ok(());
        }
        self.append(&lines).map_err(|source| {
            // Opened anew, and half a line cut off, before the next try.
            self.file = None;
            self.unwritten = lines;
            self.failed(source)
        })
    }

    fn failed(&self, source: io::Error) -> TrainError {
        TrainError::Log { path: self.path.clone(), source }
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => {
                let file = OpenOptions::new().create(true).append(true).open(&self.path)?;
                file.set_len(self.whole)?;
                file
            }
        };
        file.write_all(lines)?;
        self.whole += lines.len() as u64;
        self.file = Some(file);
        Ok(())
    }

    /// Brings the lines to the disk, so that a checkpoint does not survive a crash without them.
    pub(crate) fn sync(&mut self) -> Result<(), TrainError> {
        self.flush()?;
        self.file.as_ref().map_or(Ok(()), File::sync_data).map_err(|source| self.failed(source))
    }
}

/// Bytes of the lines that are whole and not of later steps.
fn length_to(path: &Path, step: u64) -> u64 {
    let Ok(file) = File::open(path) else { return 0 };
    let (mut reader, mut line, mut length) = (BufReader::new(file), Vec::new(), 0);
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line);
        match (read, serde_json::from_slice::<Record>(&line)) {
            (Ok(read), Ok(record)) if record.step <= step && line.ends_with(b"\n") => length += read as u64,
            _ => return length,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: u64) -> Record {
        Record::new(step, &Average::default(), &Average::default(), 0.1, 4)
    }

    fn steps(path: &Path) -> Vec<u64> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str::<Record>(line).unwrap().step).collect()
    }

    /// As lines were before they had a version, and states of checkpoints before there was a smoothed loss.
    #[test]
    fn a_log_of_the_version_before_is_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut before = serde_json::to_value(record(10)).unwrap();
        for key in ["schema", "loss_ema"] {
            assert!(before.as_object_mut().unwrap().remove(key).is_some());
        }
        std::fs::write(&path, format!("{before}\n")).unwrap();
        MetricsLog::new(&path, 10).write(&record(20)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let schemas: Vec<u32> =
            text.lines().map(|line| serde_json::from_str::<Record>(line).unwrap().schema).collect();
        assert_eq!(schemas, [0, METRICS_SCHEMA]);

        let mut before = serde_json::to_value(Average { steps: 7, ..Average::default() }).unwrap();
        for key in ["loss_ema", "loss_ema_steps"] {
            assert!(before.as_object_mut().unwrap().remove(key).is_some());
        }
        let mut average: Average = serde_json::from_value(before).unwrap();
        average.add(&report(3.0), TOOK);
        assert!((average.loss_ema() - 3.0).abs() < 1e-12, "{average:?}");
    }

    const TOOK: Took = Took { ms: 1.0, first: false, waited_ms: 0.0, with_noise: false };

    fn report(loss: f32) -> StepReport {
        StepReport { loss, gradient_norm: 1.0, coupling: Default::default(), latents: None }
    }

    #[test]
    fn the_smoothed_loss_is_a_mean_from_the_first_step_on() {
        let mut average = Average::default();
        assert_eq!(Record::new(1, &average, &average, 0.1, 4).loss_ema, None);
        // Weights 0.99² : 0.99 : 1 of three steps.
        for (loss, expected) in
            [(4.0, 4.0), (2.0, (0.99 * 4.0 + 2.0) / 1.99), (8.0, (0.9801 * 4.0 + 0.99 * 2.0 + 8.0) / 2.9701)]
        {
            average.add(&report(loss), TOOK);
            assert!((average.loss_ema() - expected).abs() < 1e-12, "{}", average.loss_ema());
        }
        // A line has that of the run, also where all of its own steps were skipped.
        let line = Record::new(3, &Average::default(), &average, 0.1, 4);
        assert_eq!((line.loss, line.loss_ema), (None, Some(average.loss_ema())));
    }

    #[test]
    fn a_resumed_log_holds_every_step_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut log = MetricsLog::new(&path, 0);
        for step in [10, 20, 30] {
            log.write(&record(step)).unwrap();
        }
        MetricsLog::new(&path, 20).write(&record(30)).unwrap();
        assert_eq!(steps(&path), [10, 20, 30]);
    }

    /// A killed run, a full disk and a bad sector leave these.
    #[test]
    fn what_is_no_whole_line_is_cut_off() {
        for rest in [&b"{\"step\":30,\"lo"[..], b"\xff\xfe\n", b"\0\0\0\0", b"\n", b""] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("metrics.jsonl");
            let mut log = MetricsLog::new(&path, 0);
            log.write(&record(10)).unwrap();
            log.write(&record(20)).unwrap();
            OpenOptions::new().append(true).open(&path).unwrap().write_all(rest).unwrap();
            MetricsLog::new(&path, 40).write(&record(40)).unwrap();
            assert_eq!(steps(&path), [10, 20, 40], "{rest:?}");
        }
        // A last line without its end is not followed by another on the same line.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, serde_json::to_string(&record(10)).unwrap()).unwrap();
        MetricsLog::new(&path, 40).write(&record(40)).unwrap();
        assert_eq!(steps(&path), [40]);
    }

    #[test]
    fn lines_that_cannot_be_written_are_with_the_next_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::create_dir(&path).unwrap();
        let mut log = MetricsLog::new(&path, 0);
        let error = log.write(&record(10)).unwrap_err().to_string();
        assert!(error.contains("metrics.jsonl") && error.contains("training goes on"), "{error}");
        std::fs::remove_dir(&path).unwrap();
        log.write(&record(20)).unwrap();
        assert_eq!(steps(&path), [10, 20]);
    }
}
