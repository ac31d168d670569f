//! The command under test, on a network so small that starting it takes longer than a step.

use crate::layers;
use serde_json::Value;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Steps of a run.
pub(super) const STEPS: u64 = 120;

const SETTINGS: &[&str] = &[
    "model={kind=\"dit\", num_layers=1, patch_size=4, num_attention_heads=2, attention_head_dim=8}",
    "coupling.kind=window",
    "coupling.window=32",
    "coupling.class_wise=true",
    "data.flip=true",
    "model.dropout=0.1",
    "train.batch_size=8",
    "train.log_every=7",
    "checkpoint.every=3",
    "sample.steps=2",
    "sample.n=4",
    "sample.every=50",
];

pub(super) struct Subject {
    binary: PathBuf,
    /// Emptied at the beginning.
    pub(super) folder: PathBuf,
    pub(super) seed: u64,
    /// How long an uninterrupted run takes.
    pub(super) whole: Duration,
}

/// A run that has ended, however it did.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) said: String,
}

impl Ended {
    /// The numbers after some words, in the order of their lines.
    pub(super) fn numbers(&self, words: &str) -> Vec<u64> {
        let number = |line: &str| {
            let rest = line.split_once(words)?.1;
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        };
        self.said.lines().filter_map(number).collect()
    }

    /// The step that it went on from; 0 if it began.
    pub(super) fn from(&self) -> u64 {
        self.numbers("going on from step ").first().copied().unwrap_or(0)
    }

    /// What no run may say, whatever happens to it.
    pub(super) fn complaint(&self) -> Option<&str> {
        self.said.lines().find(|line| line.contains("panicked") || line.contains("passing over"))
    }
}

impl Subject {
    /// Trains once, undisturbed, as the run `whole`.
    pub(super) fn new(seed: u64) -> Result<Self, String> {
        let folder = layers::target_folder().join(format!("reliability-{}", std::process::id()));
        let gone = if folder.exists() { fs::remove_dir_all(&folder) } else { Ok(()) };
        gone.and_then(|()| fs::create_dir_all(&folder))
            .map_err(|error| format!("{}: {error}", folder.display()))?;
        let binary = layers::target_folder().join("debug/immiscible");
        let mut subject = Self { binary, folder, seed, whole: Duration::ZERO };
        let begin = Instant::now();
        let ended = subject.train("whole", &[])?;
        subject.whole = begin.elapsed();
        if !ended.status.success() {
            return Err(format!("the undisturbed run ends with {}: {}", ended.status, ended.said));
        }
        Ok(subject)
    }

    /// Removes what it made.
    pub(super) fn done(self) {
        let _ = fs::remove_dir_all(self.folder);
    }

    pub(super) fn runs(&self) -> PathBuf {
        self.folder.join("runs")
    }

    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.current_dir(&self.folder).env("RUST_BACKTRACE", "0").args(arguments);
        command
    }

    /// The arguments that train a run, without the command.
    pub(super) fn arguments(run: &str, more: &[&str]) -> Vec<String> {
        let steps = format!("train.steps={STEPS}");
        let settings = SETTINGS.iter().copied().chain([&*steps]).chain(more.iter().copied());
        let mut arguments: Vec<String> = ["train", "--run", run].map(String::from).into();
        arguments.extend(settings.flat_map(|setting| ["--set".into(), setting.into()]));
        arguments
    }

    /// Starts a run, or goes on with it. What it says goes to a file, so that it outlives the process.
    pub(super) fn start(&self, run: &str, more: &[&str]) -> Result<Child, String> {
        let arguments = Self::arguments(run, more);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let said = File::create(self.said(run)).map_err(|error| error.to_string())?;
        let mut command = self.command(&arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        command.spawn().map_err(|error| format!("{}: {error}", self.binary.display()))
    }

    fn said(&self, run: &str) -> PathBuf {
        self.folder.join(format!("{run}.stderr"))
    }

    pub(super) fn wait(&self, run: &str, mut child: Child) -> Result<Ended, String> {
        let status = child.wait().map_err(|error| error.to_string())?;
        let said = fs::read(self.said(run)).map_err(|error| error.to_string())?;
        Ok(Ended { status, said: String::from_utf8_lossy(&said).into_owned() })
    }

    pub(super) fn train(&self, run: &str, more: &[&str]) -> Result<Ended, String> {
        self.wait(run, self.start(run, more)?)
    }

    pub(super) fn remove(&self, run: &str) -> Result<(), String> {
        let run = self.runs().join(run);
        if run.exists() { fs::remove_dir_all(&run).map_err(|error| error.to_string()) } else { Ok(()) }
    }

    /// Whether a finished run left what the undisturbed one did, but for the clock's part: the name of what differs.
    pub(super) fn difference(&self, run: &Path) -> Result<Option<String>, String> {
        let checkpoint = format!("checkpoints/step-{STEPS:08}");
        let whole = self.runs().join("whole");
        let read = |run: &Path, name: &str| {
            let path = run.join(name);
            fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
        };
        for name in ["model.safetensors", "ema.safetensors", "optim.bpk"] {
            let name = format!("{checkpoint}/{name}");
            if read(&whole, &name)? != read(run, &name)? {
                return Ok(Some(name));
            }
        }
        for name in [format!("{checkpoint}/state.json"), "metrics.jsonl".into()] {
            if without_clock(&read(&whole, &name)?)? != without_clock(&read(run, &name)?)? {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }
}

fn without_clock(text: &[u8]) -> Result<Vec<Value>, String> {
    fn remove(value: &mut Value) {
        if let Some(table) = value.as_object_mut() {
            let clock = ["images_per_second", "coupling_share_percent", "first_steps"];
            table.retain(|key, _| !key.ends_with("_ms") && !clock.contains(&&**key));
            table.values_mut().for_each(remove);
        }
    }
    let values = serde_json::Deserializer::from_slice(text).into_iter();
    let mut values = values.collect::<Result<Vec<Value>, _>>().map_err(|error| error.to_string())?;
    values.iter_mut().for_each(remove);
    Ok(values)
}

/// SplitMix64 (Steele et al. 2014): when, where and what.
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64, stage: u64) -> Self {
        Self(seed.wrapping_add(stage << 32))
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n.max(1)
    }

    /// Some time up to this.
    pub(super) fn up_to(&mut self, longest: Duration) -> Duration {
        Duration::from_micros(self.below(longest.as_micros() as u64))
    }
}
