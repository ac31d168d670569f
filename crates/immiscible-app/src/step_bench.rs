//! `immiscible bench-step`: how long a training step takes, by network, coupling and batch size, and how much memory.
//!
//! Each combination is measured in a process of its own: what one of them leaves in memory, or that it uses it up, does not
//! touch the next.

use crate::config::{self, insert};
use crate::coupling::writable;
use crate::memory::size;
use crate::parts::Parts;
use crate::provenance::Provenance;
use crate::{Failure, cli, device, large_pages};
use anyhow::{Context, Result, anyhow, bail, ensure};
use burn::tensor::DType;
use immiscible_coupling::COUPLINGS;
use immiscible_data::{Loader, LoaderOptions, Source, npy};
use immiscible_models::{NetworkConfig, Precision};
use immiscible_random::{Key, Stream};
use immiscible_train::prepare;
use ndarray::Array4;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt::{self, Display, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Instant;
use toml::{Table, Value};

/// Everything but network, data and coupling is of this preset.
const PRESET: &str = "cifar10-ddim";
/// Of the images, which are noise: what they show takes no time.
const SHAPE: [usize; 3] = [3, 32, 32];

/// What is measured at a time.
#[derive(Clone, Copy, PartialEq)]
struct Case<'a> {
    network: &'a str,
    precision: &'a str,
    coupling: &'a str,
    batch: usize,
}

/// What was found.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    network: String,
    /// What it computes in.
    precision: String,
    /// What trained it.
    by: String,
    coupling: String,
    batch: usize,
    /// Of the first step, which compiles kernels and tries which are fastest.
    first_seconds: f64,
    /// The median.
    step_ms: f64,
    images_per_second: f64,
    /// Of the choice of the noise, which the loader's pipeline makes during the step before.
    coupling_ms: f64,
    /// Largest memory of the process on the CPU; on a GPU what is reserved there.
    memory_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Report {
    device: String,
    /// What that is on this machine.
    hardware: String,
    provenance: Provenance,
    warm: u64,
    steps: u64,
    threads: usize,
    /// Images whose gradient is computed at once, where not all of a batch.
    micro_batch: Option<usize>,
    rows: Vec<Row>,
    /// What was not tried, or failed, and why.
    ends: Vec<String>,
}

pub(crate) fn run(arguments: &cli::BenchStep) -> Result<(), Failure> {
    check(arguments).map_err(Failure::usage)?;
    if arguments.one {
        let row = measure(arguments, &arguments.cases().next().expect("one of each"));
        println!("{}", serde_json::to_string(&row.map_err(Failure::run)?).map_err(Failure::run)?);
        return Ok(());
    }
    // A device that is not there is told at once, and not once for each process.
    let opened = device::by_name(&arguments.device).map_err(Failure::usage)?;
    let half = opened.supports_dtype(DType::BF16);
    drop(opened);
    let mut report = Report {
        device: arguments.device.clone(),
        hardware: device::describe(&arguments.device).map_err(Failure::usage)?,
        provenance: Provenance::of_this(),
        warm: arguments.warm,
        steps: arguments.steps,
        threads: rayon::current_num_threads(),
        micro_batch: arguments.micro_batch,
        rows: Vec::new(),
        ends: Vec::new(),
    };
    if !half && arguments.precisions.iter().any(|precision| precision == BF16) {
        report.note(format!("{} does not compute in {BF16}", arguments.device));
    }
    // Networks, precisions and couplings with which a larger batch is of no use.
    let mut ended: Vec<Case> = Vec::new();
    for case in arguments.cases().filter(|case| half || case.precision != BF16) {
        if ended.iter().any(|other| Case { batch: case.batch, ..*other } == case) {
            continue;
        }
        let row = match report.fits(&case, OURS).and_then(|()| apart(arguments, &case)) {
            Ok(row) => row,
            Err(reason) => {
                report.note(format!("{case}: {reason:#}; no larger batch is tried"));
                ended.push(case);
                continue;
            }
        };
        let slow = row.step_ms > 1e3 * arguments.most_seconds;
        report.row(row);
        if slow {
            let most = arguments.most_seconds;
            report.note(format!("{case}: a step takes more than {most} s; no larger batch is tried"));
            ended.push(case);
        }
        // What there is, as all of it may take longer than there is time.
        report.write(arguments.out.as_deref()).map_err(Failure::run)?;
        // Once for each batch: its noise is independent.
        let Some(python) = arguments.python.as_deref().filter(|_| case.coupling == arguments.couplings[0])
        else {
            continue;
        };
        for how in &arguments.pytorch {
            match report.fits(&case, how).and_then(|()| pytorch(python, how, arguments, &case)) {
                Ok(row) => report.row(row),
                Err(reason) => report.note(format!("{case}, by PyTorch, {how}: {reason:#}")),
            }
            report.write(arguments.out.as_deref()).map_err(Failure::run)?;
        }
    }
    print!("{report}");
    for path in report.write(arguments.out.as_deref()).map_err(Failure::run)? {
        println!("{}", path.display());
    }
    if report.rows.is_empty() {
        return Err(Failure::run(anyhow!("nothing could be measured: {}", report.ends.join("; "))));
    }
    Ok(())
}

impl cli::BenchStep {
    /// All combinations, with batches of rising size one after the other.
    fn cases(&self) -> impl Iterator<Item = Case<'_>> {
        self.networks.iter().flat_map(move |network| {
            self.precisions.iter().flat_map(move |precision| {
                self.couplings.iter().flat_map(move |coupling| {
                    self.batches.iter().map(move |&batch| Case { network, precision, coupling, batch })
                })
            })
        })
    }
}

fn check(arguments: &cli::BenchStep) -> Result<()> {
    let cli::BenchStep { networks, precisions, couplings, batches, micro_batch, .. } = arguments;
    let cli::BenchStep { steps, most_seconds, out, .. } = arguments;
    for network in networks {
        NetworkConfig::of_size(network).with_context(|| format!("--networks {network}"))?;
    }
    for how in &arguments.pytorch {
        ensure!(PYTORCH.contains(&&**how), "--pytorch {how} is unknown; write eager, compile or both");
    }
    for precision in precisions {
        let value = Value::String(precision.clone());
        ensure!(
            value.try_into::<Precision>().is_ok(),
            "--precisions {precision} is unknown; write f32, bf16 or both"
        );
    }
    for coupling in couplings {
        let known = COUPLINGS.iter().map(|(kind, _)| *kind);
        ensure!(
            known.clone().any(|kind| kind == coupling),
            "--couplings {coupling} is unknown; see immiscible list{}",
            config::did_you_mean(coupling, known)
        );
    }
    ensure!(batches.iter().all(|batch| *batch > 0), "--batches: write numbers > 0");
    if let Some(images) = *micro_batch {
        ensure!(images > 0, "--micro-batch 0: write a number > 0, or leave it out");
        let parts = |batch: usize| batch <= images || batch.is_multiple_of(images);
        if let Some(batch) = batches.iter().find(|batch| !parts(**batch)) {
            bail!("--micro-batch {images} does not divide --batches {batch}");
        }
    }
    ensure!(*steps > 0, "--steps {steps}: write a number > 0");
    ensure!(*most_seconds > 0.0, "--most-seconds {most_seconds}: write a number > 0");
    out.as_deref().map_or(Ok(()), |out| writable("out", out))
}

/// Measures in a process of its own.
fn apart(arguments: &cli::BenchStep, case: &Case) -> Result<Row> {
    let program = std::env::current_exe().context("this program")?;
    let mut child = Command::new(program);
    child.args(["bench-step", "--one", "--device", &arguments.device, "--networks", case.network]);
    child.args([
        "--precisions",
        case.precision,
        "--couplings",
        case.coupling,
        "--batches",
        &case.batch.to_string(),
    ]);
    child.args(["--steps", &arguments.steps.to_string(), "--warm", &arguments.warm.to_string()]);
    child.stdin(Stdio::null());
    if let Some(images) = arguments.micro_batch {
        child.args(["--micro-batch", &images.to_string()]);
    }
    said(child.output().context("this program")?)
}

/// The JSON that a process printed, or the last line that it said before it failed.
fn said<T: DeserializeOwned>(output: Output) -> Result<T> {
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    ensure!(output.status.success(), "{}: {line}", output.status);
    let printed = String::from_utf8_lossy(&output.stdout);
    let last = printed.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    serde_json::from_str(last).context("what the process printed")
}

const BF16: &str = "bf16";
/// The share of the CPU's memory that others leave.
const FREE: f64 = 0.9;
/// What trains a network, if not PyTorch.
const OURS: &str = "immiscible";

/// How PyTorch runs a network.
const PYTORCH: [&str; 2] = ["eager", "compile"];

/// What [`SCRIPT`] prints.
#[derive(Deserialize)]
struct PyTorch {
    version: String,
    first_seconds: f64,
    step_ms: f64,
    memory_bytes: u64,
}

const SCRIPT: &str = include_str!("step_bench.py");

/// Measures the same network in PyTorch.
fn pytorch(python: &Path, how: &str, arguments: &cli::BenchStep, case: &Case) -> Result<Row> {
    let device = match &*arguments.device {
        "flex" => "cpu",
        cuda if cuda.starts_with("cuda") => cuda,
        other => bail!("it has no {other}"),
    };
    let folder = tempfile::tempdir()?;
    // Only to know the network: a GPU's memory is PyTorch's.
    let opened = if cfg!(feature = "flex") { "flex" } else { &arguments.device };
    let (parts, _) = Parts::open(table(opened, arguments, case, folder.path())?)?;
    let config = folder.path().join("config.json");
    std::fs::write(&config, parts.config.model.to_json())?;
    let mut command = Command::new(python);
    command.args(["-c", SCRIPT]).arg(&config).args([how, case.precision]);
    let at_once = parts.config.train.micro_batch.unwrap_or(case.batch);
    command.args(
        [case.batch as u64, at_once as u64, arguments.steps, arguments.warm].map(|number| number.to_string()),
    );
    command.arg(rayon::current_num_threads().to_string()).arg(device).stdin(Stdio::null());
    // Set for this program, see there.
    command.env_remove(large_pages::VARIABLE);
    let found: PyTorch = said(command.output().with_context(|| python.display().to_string())?)?;
    Ok(Row {
        network: case.network.into(),
        precision: case.precision.into(),
        by: format!("PyTorch {}, {how}", found.version),
        coupling: "independent".into(),
        batch: case.batch,
        first_seconds: found.first_seconds,
        step_ms: found.step_ms,
        images_per_second: 1e3 * case.batch as f64 / found.step_ms,
        coupling_ms: 0.0,
        memory_bytes: Some(found.memory_bytes),
    })
}

fn measure(arguments: &cli::BenchStep, case: &Case) -> Result<Row> {
    let folder = tempfile::tempdir()?;
    let (parts, source) = Parts::open(table(&arguments.device, arguments, case, folder.path())?)?;
    let (mut method, coupling) = parts.method(parts.network()?)?;
    let options = LoaderOptions { batch_size: case.batch, seed: 0, flip: false };
    let source: Arc<dyn Source> = source;
    let loader = Loader::new(source, options)?;
    let (mut first_seconds, mut coupling_ms) = (0.0, 0.0);
    let mut milliseconds = Vec::new();
    for step in 0..arguments.warm + arguments.steps {
        let prepared = prepare(&*coupling, loader.batch_at(step)?, parts.key(), step)?;
        let start = Instant::now();
        let report = method.step(prepared, step)?;
        // A step ends with its new weights, which nothing waits for after it has read its loss.
        parts.device.sync()?;
        let seconds = start.elapsed().as_secs_f64();
        if step == 0 {
            first_seconds = seconds;
        }
        if step >= arguments.warm {
            milliseconds.push(1e3 * seconds);
            coupling_ms += report.coupling.milliseconds / arguments.steps as f64;
        }
    }
    milliseconds.sort_by(f64::total_cmp);
    let step_ms = milliseconds[milliseconds.len() / 2];
    Ok(Row {
        network: case.network.into(),
        precision: case.precision.into(),
        by: OURS.into(),
        coupling: case.coupling.into(),
        batch: case.batch,
        first_seconds,
        step_ms,
        images_per_second: 1e3 * case.batch as f64 / step_ms,
        coupling_ms,
        memory_bytes: device::memory_held(&parts.device),
    })
}

fn noise(batch: usize) -> Array4<f32> {
    let [channels, height, width] = SHAPE;
    let values = channels * height * width;
    let mut images = vec![0.0; batch * values];
    Key::new(0).stream(Stream::NOISE).fill_uniforms(0, values, &mut images);
    let centred = images.into_iter().map(|value: f32| 2.0 * value - 1.0).collect();
    Array4::from_shape_vec((batch, channels, height, width), centred).expect("a value for every place")
}

/// The preset with another network and coupling, and with images that are written to the folder.
fn table(device: &str, arguments: &cli::BenchStep, case: &Case, folder: &Path) -> Result<Table> {
    let images = folder.join("images.npy");
    npy::write(&images, noise(case.batch).view())?;
    let mut table = config::preset(PRESET)?;
    for whole in ["data", "model", "coupling"] {
        table.remove(whole);
    }
    let images = images.to_str().context("the folder for temporary files is not UTF-8")?;
    for (key, value) in [
        ("device", device),
        ("data.name", "npy"),
        ("data.path", images),
        ("model.size", case.network),
        ("coupling.kind", case.coupling),
        ("train.precision", case.precision),
    ] {
        insert(&mut table, key, Value::String(value.into()))?;
    }
    insert(&mut table, "data.range", Value::Array(vec![Value::Float(-1.0), Value::Float(1.0)]))?;
    insert(&mut table, "train.batch_size", Value::Integer(i64::try_from(case.batch)?))?;
    if let Some(images) = arguments.micro_batch.filter(|images| *images < case.batch) {
        insert(&mut table, "train.micro_batch", Value::Integer(i64::try_from(images)?))?;
    }
    Ok(table)
}

impl Report {
    /// Whether the CPU has as much memory as the case takes, going by the two smaller batches before: where it is used up, the
    /// system ends some process, and perhaps not that of the case. `by` ends the name of what trains.
    fn fits(&self, case: &Case, by: &str) -> Result<()> {
        let Some(has) = device::cpu_memory(&self.device) else { return Ok(()) };
        let alike = self.rows.iter().rev().filter(|row| {
            let Row { network, precision, coupling, .. } = row;
            // Others have no coupling.
            [network, precision] == [case.network, case.precision]
                && row.by.ends_with(by)
                && (by != OURS || coupling == case.coupling)
        });
        let known: Vec<_> =
            alike.filter_map(|row| Some((row.batch as f64, row.memory_bytes? as f64))).collect();
        if let [(large, more), (small, less), ..] = known[..]
            && large > small
        {
            let takes = more + (more - less) / (large - small) * (case.batch as f64 - large);
            ensure!(
                takes < FREE * has as f64,
                "it would take {} of memory, more than {:.0} % of the {} there are",
                size(takes),
                100.0 * FREE,
                size(has as f64)
            );
        }
        Ok(())
    }

    fn row(&mut self, row: Row) {
        crate::say(format_args!("{row}"));
        self.rows.push(row);
    }

    fn note(&mut self, line: String) {
        crate::say(format_args!("{line}"));
        self.ends.push(line);
    }

    /// The table and its numbers, where they are asked for: the files.
    fn write(&self, out: Option<&Path>) -> Result<Vec<PathBuf>> {
        let Some(out) = out else { return Ok(Vec::new()) };
        let written = [
            ("md", format!("# Training steps on {}\n\n{self}", self.device)),
            ("json", format!("{}\n", serde_json::to_string_pretty(self)?)),
        ]
        .map(|(extension, text)| {
            let path = out.with_added_extension(extension);
            std::fs::write(&path, text).with_context(|| path.display().to_string())?;
            Ok(path)
        });
        written.into_iter().collect()
    }
}

impl Display for Case<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { network, precision, coupling, batch } = self;
        write!(f, "{network}, {precision}, {coupling}, {batch} images")
    }
}

impl Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { network, precision, by, coupling, batch, step_ms, images_per_second, .. } = self;
        write!(
            f,
            "{network}, {precision}, {by}, {coupling}, {batch} images: {step_ms:.1} ms a step, {images_per_second:.1} img/s"
        )
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}.\n", self.provenance)?;
        if !device::is_the_cpu(&self.device) {
            writeln!(f, "{} is {}.\n", self.device, self.hardware)?;
        }
        let Self { warm, steps, threads, .. } = self;
        let threads = match threads {
            1 => "one thread of the CPU".into(),
            threads => format!("{threads} threads of the CPU"),
        };
        let at_once = match self.micro_batch {
            Some(images) if self.rows.iter().any(|row| row.batch > images) => {
                format!(", the gradient of {images} at once")
            }
            _ => String::new(),
        };
        writeln!(f, "3×32×32 images{at_once}, {threads}; the median of {steps} steps after {warm}.\n")?;
        let mut table = "| network | precision | by | coupling | batch | step, ms | img/s | coupling, ms | of the step, % | first step, s | memory |\n\
                         |---|---|---|---|---:|---:|---:|---:|---:|---:|---:|\n"
            .to_owned();
        for row in &self.rows {
            let Row {
                network,
                precision,
                by,
                coupling,
                batch,
                step_ms,
                images_per_second,
                coupling_ms,
                first_seconds,
                ..
            } = row;
            let share = 100.0 * coupling_ms / step_ms;
            let memory = row.memory_bytes.map_or("–".into(), |bytes| size(bytes as f64));
            writeln!(
                table,
                "| {network} | {precision} | {by} | {coupling} | {batch} | {step_ms:.1} | {images_per_second:.1} | {coupling_ms:.2} | {share:.2} | \
                 {first_seconds:.1} | {memory} |"
            )?;
        }
        f.write_str(&table)?;
        self.ends.iter().try_for_each(|end| write!(f, "\n{end}.\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_for_which_the_memory_is_too_small_is_not_tried() {
        let row = |batch: usize, memory: f64, by: &str| Row {
            network: "DiT-S/2".into(),
            precision: "f32".into(),
            by: by.into(),
            coupling: "independent".into(),
            batch,
            first_seconds: 1.0,
            step_ms: 1.0,
            images_per_second: 1.0,
            coupling_ms: 0.0,
            memory_bytes: Some(memory as u64),
        };
        let mut report = Report {
            device: "flex".into(),
            hardware: "a processor".into(),
            provenance: Provenance::of_this(),
            warm: 0,
            steps: 1,
            threads: 1,
            micro_batch: None,
            rows: Vec::new(),
            ends: Vec::new(),
        };
        let case = |batch| Case { network: "DiT-S/2", precision: "f32", coupling: "independent", batch };
        let Some(has) = device::cpu_memory("flex") else { return };
        let has = has as f64;
        // Here 16 images more take a tenth of the memory, and in PyTorch four tenths.
        report.rows.push(row(16, 0.2 * has, OURS));
        report.rows.push(row(16, 0.4 * has, "PyTorch 2, eager"));
        assert!(report.fits(&case(1 << 20), OURS).is_ok(), "one batch tells nothing");
        report.rows.push(row(32, 0.3 * has, OURS));
        report.rows.push(row(32, 0.8 * has, "PyTorch 2, eager"));
        assert!(report.fits(&case(64), OURS).is_ok());
        let message = report.fits(&case(256), OURS).unwrap_err().to_string();
        assert!(message.contains("it would take"), "{message}");
        let knn = Case { coupling: "knn", ..case(64) };
        assert!(report.fits(&knn, OURS).is_ok() && report.fits(&knn, "eager").is_err());
        assert!(report.fits(&case(64), "compile").is_ok());
    }
}
