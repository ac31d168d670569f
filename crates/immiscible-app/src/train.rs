//! `immiscible train`.

use crate::config::{self, Change, Config, differences, structure};
use crate::device_check::{self, Errors};
use crate::memory::{Memory, size, window};
use crate::parts::Parts;
use crate::progress::{Progress, Ui};
use crate::signals::Signals;
use crate::{Failure, cli, device, panics, quality, tensorboard};
use anyhow::{Context, Result, anyhow, bail, ensure};
use immiscible_coupling::{COUPLINGS, Knn, Select};
use immiscible_data::{Crop, Loader, LoaderOptions, Source, Split};
use immiscible_models::Network;
use immiscible_sample::Pipeline;
use immiscible_train::{Disk, FileSystem, RunLock, Start, TrainError, Trainer, sha256_hex};
use std::io::{self, IsTerminal};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use toml::Table;

/// The whole config of a run.
pub(crate) const CONFIG: &str = "config.toml";
/// What the run knows of its data.
pub(crate) const DATA: &str = "data.toml";
/// Its numbers.
pub(crate) const METRICS: &str = "metrics.jsonl";
/// The folder of its sample grids.
pub(crate) const SAMPLES: &str = "samples";
/// The damaged samples that the run met.
const BAD_FILES: &str = "bad_files.jsonl";

/// Trains, then says where the grid is and what the run is worth.
pub(crate) fn run(arguments: &cli::Train) -> Result<(), Failure> {
    if arguments.ui == Ui::Tui && !arguments.dry_run && !io::stderr().is_terminal() {
        let reason = anyhow!("--ui tui: standard error is no terminal; leave it out, or do not redirect it");
        return Err(Failure::usage(reason));
    }
    let (name, table) = read_config(arguments).map_err(Failure::usage)?;
    let (parts, source) = Parts::open(table).map_err(Failure::usage)?;
    let network = match &arguments.init {
        Some(folder) => initial(folder, &parts).map_err(Failure::usage)?,
        None => parts.network().map_err(Failure::usage)?,
    };
    let memory = Memory::of(&parts, &network);
    let (mut method, coupling) = parts.method(network).map_err(Failure::usage)?;
    if arguments.dry_run {
        return describe(&parts, source, &memory).map_err(Failure::usage);
    }
    let run = arguments.runs.join(&name);
    let ready = || {
        let has = device::cpu_memory(&parts.config.device);
        let too_large = has.and_then(|has| too_large(&parts, &memory, has));
        for warning in too_large.into_iter().chain(known_to_hurt(&parts, &*source)) {
            crate::say(format_args!("warning: {warning}"));
        }
        if arguments.check_device.checks(&parts.config.device) { check_device(&parts) } else { Ok(()) }
    };
    let (trainer, start, loader) = prepare(&parts, source.clone(), &run, arguments.fresh, ready)?;
    if let Err(error) = source.log_to(&run.join(BAD_FILES)) {
        crate::say(format_args!("warning: {error}; damaged samples are counted and not listed"));
    }

    let config = &parts.config;
    let signals = Signals::listen().map_err(Failure::run)?;
    let mut progress = Progress::new(&parts, &run, arguments.ui, signals.clone());
    let trained = panics::caught(|| trainer.run_from(start, &mut *method, loader, coupling, &mut progress));
    progress.close();
    signals.end_at_once();
    let total = match (trained, signals.status()) {
        (Ok(Ok(_)), Some(code)) => {
            let reason = anyhow!("stopped after the last step, before its samples and its quality");
            return Err(Failure { reason, code });
        }
        (Ok(Ok(total)), None) => total,
        (Ok(Err(error @ TrainError::Stopped { .. })), Some(code)) => {
            return Err(Failure { reason: error.into(), code });
        }
        (Ok(Err(TrainError::Device { reason, .. })) | Err(reason), _) => {
            return Err(Failure::device(device_failed(&parts, &memory, &reason)));
        }
        (Ok(Err(error)), _) => return Err(error.into()),
    };

    if progress.grid.is_none() {
        progress.draw_grid(total.steps, method.sampling_network());
    }
    crate::say(format_args!("measuring the quality"));
    let quality = quality::measure(&parts, &*source, method.sampling_network()).map_err(Failure::run)?;
    if let Some(grid) = &progress.grid {
        println!("samples   {}", grid.display());
    }
    println!(
        "coupling  {}: mean distance drop {:.2} % over {} steps",
        config.coupling.kind,
        total.drop_percent(),
        total.steps
    );
    println!(
        "time      {:.1} ms a step, {:.0} img/s; the coupling's {:.2} ms are {:.1} % of it, of which {:.2} ms delay it",
        total.step_ms(),
        total.images_per_second(config.train.batch_size),
        total.coupling_ms(),
        total.coupling_share_percent(),
        total.coupling_visible_ms(),
    );
    if let Some(first_ms) = total.first_step_ms().filter(|_| !device::is_the_cpu(&config.device)) {
        let (device, first) = (&config.device, first_ms / 1e3);
        println!(
            "first     {first:.1} s of that for the first step of a process, in which {device} compiles its kernels"
        );
    }
    if total.skipped > 0 {
        println!("skipped   {} steps, whose loss or gradient was not finite", total.skipped);
    }
    let bad = source.bad();
    if let Some(first) = bad.first() {
        println!(
            "damaged   {} samples, in whose place others were read: {}; the first: {}",
            bad.len(),
            run.join(BAD_FILES).display(),
            first.reason
        );
    }
    for line in quality {
        println!("quality   {line}");
    }
    Ok(())
}

/// Whether the device computes what the CPU computes.
fn check_device(parts: &Parts) -> Result<(), Failure> {
    let device = &parts.config.device;
    let start = Instant::now();
    let cpu = device::by_name("flex").context("--check-device").map_err(Failure::usage)?;
    let Errors { output, gradient } = device_check::compare(parts, &cpu).map_err(|error| {
        Failure::device(anyhow!(
            "device {device} does not compute what the CPU computes: {error:#}; update its driver, remove the outcome of \
             autotuning, or try another device; see docs/devices.md"
        ))
    })?;
    let seconds = start.elapsed().as_secs_f64();
    crate::say(format_args!(
        "device {device} computes what the CPU computes: output within {output:.0e}, gradients within {gradient:.0e}; {seconds:.0} s"
    ));
    Ok(())
}

/// What to say where a device failed, which most often is that its memory is used up.
fn device_failed(parts: &Parts, memory: &Memory, reason: &str) -> anyhow::Error {
    let (device, takes, less) = (&parts.config.device, takes(parts, memory), less(parts));
    anyhow!(
        "training broke off on device {device}: {reason}; {takes}; if that is too much, try {less}; the same command goes on \
         from the newest checkpoint"
    )
}

/// What to say before the first step where the CPU has less memory than a run takes: where that is used up, the system ends
/// the process, and nobody can say why.
fn too_large(parts: &Parts, memory: &Memory, has: u64) -> Option<String> {
    (memory.total() > has as f64).then(|| {
        let (has, takes, less) = (size(has as f64), takes(parts, memory), less(parts));
        format!("this machine has {has} of memory, and {takes}; try {less}")
    })
}

/// Model, images and memory.
fn takes(parts: &Parts, memory: &Memory) -> String {
    let [channels, height, width] = parts.shape;
    let train = &parts.config.train;
    let (model, parameters) = (parts.config.model.name(), memory.parameters);
    let at_once = train.micro_batch.unwrap_or(train.batch_size);
    format!(
        "{model} with {parameters} parameters and {at_once} images of {channels}×{height}×{width} at once takes {memory}"
    )
}

/// What takes less memory.
fn less(parts: &Parts) -> String {
    let train = &parts.config.train;
    let mut less = Vec::new();
    if !train.gradient_checkpointing {
        less.push("train.gradient_checkpointing = true".to_string());
    }
    less.push(match train.micro_batch.unwrap_or(train.batch_size) / 2 {
        0 => "a smaller model".into(),
        half => format!("train.micro_batch = {half}, which changes only the memory and the time"),
    });
    less.join(", or ")
}

/// Settings that are known to hurt, and what to take in their place.
fn known_to_hurt(parts: &Parts, source: &dyn Source) -> Vec<String> {
    let (config, [channels, height, width]) = (&parts.config, parts.shape);
    let (coupling, batch) = (&config.coupling, config.train.batch_size);
    let mut warnings = Vec::new();
    let tells_classes = parts.class_count().is_some_and(|classes| classes > 1) && !coupling.class_wise;
    let remedy = match &*coupling.kind {
        "assignment" | "priced_knn" | "window" => Some("set coupling.class_wise = true"),
        "knn" if coupling.k > 1 => Some("write \"priced_knn\" with coupling.class_wise = true"),
        _ => None,
    };
    if let (Some(remedy), true) = (remedy, tells_classes) {
        warnings.push(format!(
            "coupling.kind = {:?} with coupling.class_wise = false for a class-conditional network: the noise then tells the \
             class, and sampling suffers; {remedy}",
            coupling.kind
        ));
    }
    if let (Some(classes), true) = (&parts.data.classes, coupling.class_wise) {
        let mut images = vec![0; classes.len()];
        for label in (0..source.len()).filter_map(|index| source.label(index)) {
            images[label as usize] += 1;
        }
        let mut alone =
            classes.iter().zip(&images).filter(|(_, images)| **images == 1).map(|(class, _)| class);
        if let Some(class) = alone.next() {
            let more = match alone.count() {
                0 => String::new(),
                others => format!(" (and {others} more)"),
            };
            warnings.push(format!(
                "coupling.class_wise = true and class {class:?}{more} has a single image, whose noise stays as it is drawn: add \
                 images, or leave the class out"
            ));
        }
    }
    if coupling.kind == "assignment" && batch < FEW_IMAGES {
        warnings.push(format!(
            "coupling.kind = \"assignment\" with train.batch_size = {batch}: so few images have little to choose from; write \
             \"window\", or \"priced_knn\""
        ));
    }
    let dimensions = channels * height * width;
    let loss = Knn::new(coupling.k).energy_loss(dimensions);
    if coupling.kind == "knn" && loss > MUCH_ENERGY {
        let shrinks = match coupling.select {
            Select::L2 => format!("takes up to {:.0} % of the noise's energy and ", 100.0 * loss),
            Select::Dot => String::new(),
        };
        warnings.push(format!(
            "coupling.kind = \"knn\" with coupling.k = {} on {dimensions} values an image: it {shrinks}moves the mean of the \
             noise, the more the fewer values there are; write \"priced_knn\"",
            coupling.k
        ));
    }
    warnings
}

/// Fewer images than this have little to choose from.
const FEW_IMAGES: usize = 16;
/// A share of the noise's energy that should not be lost.
const MUCH_ENERGY: f64 = 0.05;

/// Says what would be trained on what, after every check that needs no training.
fn describe(parts: &Parts, source: Arc<dyn Source>, memory: &Memory) -> Result<()> {
    let (config, data) = (&parts.config, &parts.data);
    let loader = Loader::new(source, loader_options(config))?;
    let shape = |[c, h, w]: [usize; 3]| format!("{c}×{h}×{w}");
    println!("model     {} with {} parameters on {}", config.model.name(), memory.parameters, config.device);
    let place = config.data.path.as_ref().map_or("built in".into(), |path| path.display().to_string());
    let classes =
        data.classes.as_ref().map_or(String::new(), |classes| format!(", {} classes", classes.len()));
    let split = match config.data.split {
        None => "",
        Some(Split::Train) => ", train",
        Some(Split::Test) => ", test",
    };
    println!("data      {} ({place}{split}): {} of {}{classes}", data.name, data.samples, shape(data.shape));
    if let Some(latent) = &config.latent {
        let folder = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        println!("latents   {} from {}", shape(parts.shape), folder(&latent.vae).unwrap_or_default());
        if let Some(text) = folder(&latent.text_encoder) {
            println!("texts     {:?} from {text}", latent.prompt);
        }
    }
    let train = &config.train;
    println!("method    {} with {} coupling", config.method.kind, config.coupling.kind);
    let epoch = loader.order().steps_per_epoch();
    let epochs = train.steps as f64 / epoch as f64;
    println!(
        "steps     {} of {} images; an epoch is {epoch} steps, the run {epochs:.2} epochs",
        train.steps, train.batch_size
    );
    if let Some(part) = train.micro_batch.filter(|part| *part < train.batch_size) {
        let together = match window(parts) {
            Some(rows) => format!("a window of {rows} images"),
            None => format!("the whole batch of {}", train.batch_size),
        };
        println!("parts     the gradient of {part} images at once; the noise is chosen for {together}");
    }
    println!("memory    about {}, of which", size(memory.total()));
    for (name, bytes) in &memory.parts {
        println!("          {:>8}  {name}", size(*bytes));
    }
    // One more than are kept while the newest is written.
    let checkpoints = config.checkpoint.keep + 1;
    let all = size(checkpoints as f64 * memory.checkpoint);
    println!("disk      {} a checkpoint, {all} for {checkpoints} of them", size(memory.checkpoint));
    Ok(())
}

fn loader_options(config: &Config) -> LoaderOptions {
    LoaderOptions { batch_size: config.train.batch_size, seed: config.seed, flip: config.data.flip }
}

/// The run's name and its config, from preset or file and the flags.
fn read_config(arguments: &cli::Train) -> Result<(String, Table)> {
    let (mut name, mut table) = match &arguments.config {
        Some(path) => {
            // The config of a run carries the run's name in its folder.
            let named_by = match path.file_name() {
                Some(name) if name == CONFIG => path.parent().and_then(Path::file_name),
                _ => path.file_stem(),
            };
            (named_by.unwrap_or_default().to_string_lossy().into_owned(), config::file(path)?)
        }
        None => (arguments.preset.clone(), config::preset(&arguments.preset)?),
    };
    for (key, flag) in [("device", &arguments.device), ("coupling.kind", &arguments.coupling)] {
        if let Some(value) = flag {
            config::insert(&mut table, key, toml::Value::String(value.clone()))?;
        }
    }
    if let Some(coupling) = &arguments.coupling {
        name = format!("{name}-{coupling}");
        // What the preset says of another kind is not meant for this one.
        if let (Some((_, entry)), Some(options)) = (
            COUPLINGS.iter().find(|(kind, _)| kind == coupling),
            table.get_mut("coupling").and_then(toml::Value::as_table_mut),
        ) {
            options.retain(|key, _| key == "kind" || entry.options.contains(&key));
        }
    }
    if let Some(folder) = &arguments.init {
        let model = Pipeline::config(folder).with_context(|| format!("--init {}", folder.display()))?;
        table.insert("model".into(), toml::Value::try_from(model)?);
        whole_pipeline(&mut table, folder)?;
    }
    // A size stands for a whole network, so that nothing of another one remains.
    if arguments.set.iter().any(|assignment| config::key(assignment) == Some("model.size")) {
        if let Some(folder) = &arguments.init {
            bail!(
                "--set model.size with --init {}: the folder tells the network; leave one of them out",
                folder.display()
            );
        }
        table.insert("model".into(), Table::new().into());
    }
    for assignment in &arguments.set {
        config::set(&mut table, assignment)?;
    }
    let name = arguments.run.clone().unwrap_or(name);
    let plain = matches!(Path::new(&name).components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
    ensure!(plain, "--run {name:?}: write a plain name; --runs is the folder that holds it");
    Ok((name, table))
}

/// A run on latents that starts from a pipeline has the pipeline's autoencoder and text encoder, unless the config names
/// others.
fn whole_pipeline(table: &mut Table, folder: &Path) -> Result<()> {
    for (key, part) in [("vae", "vae"), ("vae", "vqvae"), ("text_encoder", "text_encoder")] {
        let open =
            table.get("latent").and_then(|latent| latent.as_table()).is_some_and(|t| !t.contains_key(key));
        if open && folder.join(part).is_dir() {
            let folder = toml::Value::try_from(folder)?;
            config::insert(table, &format!("latent.{key}"), folder)?;
        }
    }
    Ok(())
}

/// The network in a folder, on the autodiff side of the device.
fn initial(folder: &Path, parts: &Parts) -> Result<Network> {
    let device = parts.training_device();
    Ok(Pipeline::model(folder, &device).with_context(|| format!("--init {}", folder.display()))?.network)
}

/// What a run leaves behind, that without which it has not begun first.
const OF_A_RUN: [&str; 7] = ["checkpoints", METRICS, BAD_FILES, tensorboard::FOLDER, SAMPLES, DATA, CONFIG];
/// The key of [`DATA`] that tells what the mask says.
const MASK: &str = "mask_sha256";
/// What is on its way out.
const DISCARDED: &str = ".discarded";

/// Removes what a run leaves behind, and nothing else. Wherever this ends, a run can begin there.
fn remove_run(run: &Path) -> Result<()> {
    let discarded = run.join(DISCARDED);
    let discard = || {
        Disk.remove(&discarded)?;
        Disk.create_folder(&discarded)?;
        for name in OF_A_RUN {
            let path = run.join(name);
            if path.symlink_metadata().is_ok() {
                Disk.rename(&path, &discarded.join(name))?;
            }
        }
        Disk.sync_folder(run)?;
        Disk.remove(&discarded)
    };
    discard().with_context(|| format!("--fresh: {}", run.display()))
}

/// Makes the run directory, or checks that an existing one holds this very run. `ready` is what is still to be checked before
/// anything is removed.
fn prepare(
    parts: &Parts,
    source: Arc<dyn Source>,
    run: &Path,
    fresh: bool,
    ready: impl FnOnce() -> Result<(), Failure>,
) -> Result<(Trainer, Start, Loader), Failure> {
    let config = &parts.config;
    let mut loader = Loader::new(source, loader_options(config)).map_err(Failure::usage)?;
    if config.data.crop == Some(Crop::Random) {
        loader = loader.random_crops();
    }
    if let Some(scale) = config.data.scale {
        loader = loader.scaled(scale);
    }
    if let Some(masks) = &parts.masks {
        loader = loader.masked(masks.clone()).map_err(Failure::usage)?;
    }
    let now = structure(config).map_err(Failure::usage)?;
    let trainer = Trainer {
        train: config.train.clone(),
        checkpoint: config.checkpoint.clone(),
        run: run.into(),
        config_sha256: sha256_hex(&now.to_string()),
        key: parts.key(),
    };
    trainer.validate()?;

    let lock = RunLock::take(run).map_err(|error| match error {
        TrainError::Locked { .. } => error.into(),
        error => Failure::usage(error),
    })?;
    if !lock.held {
        crate::say(format_args!(
            "warning: {}: its file system has no locks; let no other process train there",
            run.display()
        ));
    }
    // Without a checkpoint there is nothing that it could be at odds with.
    if !fresh && run.join("checkpoints").exists() {
        same_run(parts, run, &now).map_err(Failure::usage)?;
    }
    ready()?;
    if fresh {
        remove_run(run).map_err(Failure::usage)?;
    }
    let start = trainer.start(lock)?;
    let write = || {
        // What a --fresh left that was killed.
        Disk.remove(&run.join(DISCARDED)).with_context(|| run.join(DISCARDED).display().to_string())?;
        write(&run.join(CONFIG), &toml::to_string(config)?)?;
        write(&run.join(DATA), &toml::to_string(&parts.data)?)
    };
    write().map_err(Failure::usage)?;
    Ok((trainer, start, loader))
}

/// Whether a run directory holds this very run.
fn same_run(parts: &Parts, run: &Path, now: &Table) -> Result<()> {
    // A file that cannot be read is written anew: the checkpoints know their config as well.
    let read = |name: &str| -> Option<Table> {
        let table = config::file(&run.join(name));
        table.inspect_err(|error| crate::say(format_args!("warning: {error:#}; it is written anew"))).ok()
    };
    if let Some(before) = read(CONFIG) {
        let before = structure(&config::parse(before)?)?;
        let changes = differences(&before, now);
        if !changes.is_empty() {
            // Both are train.steps where the config leaves them open.
            let open = ["method.curriculum_steps", "optimizer.schedule_steps"];
            let prolong = changes.iter().filter(|change| open.contains(&&*change.key));
            let prolong: String = prolong
                .map(|Change { key, before, .. }| format!("write --set {key}={before} to prolong it, "))
                .collect();
            bail!(
                "{} was trained with another config: {}; {prolong}give it another name with --run, or throw it away with \
                 --fresh",
                run.display(),
                listed(&changes)
            );
        }
    }
    if let Some(mut before) = read(DATA) {
        let mut now = Table::try_from(&parts.data)?;
        // A run of a version that did not write it down has only the name of the file.
        if let (Some(before), Some(now)) = (before.remove(MASK), now.remove(MASK)) {
            ensure!(
                before == now,
                "{} was trained with another mask in the file coupling.mask = {:?}; put that one back, give the run another name \
                 with --run, or throw it away with --fresh",
                run.display(),
                parts.config.coupling.mask.as_deref().unwrap_or(Path::new(""))
            );
        }
        let changes = differences(&before, &now);
        ensure!(
            changes.is_empty(),
            "{} was trained on other data: {}; give it another name with --run, or throw it away with --fresh",
            run.display(),
            listed(&changes)
        );
    }
    Ok(())
}

fn listed(changes: &[Change]) -> String {
    changes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Writes a file under a temporary name first, so that it is whole or not there. One that is as it should be stays.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    if std::fs::read(path).is_ok_and(|found| found == text.as_bytes()) {
        return Ok(());
    }
    let staged = path.with_extension("tmp");
    let replace = || {
        Disk.write(&staged, text.as_bytes())?;
        Disk.rename(&staged, path)?;
        Disk.sync_folder(path.parent().unwrap_or(Path::new(".")))
    };
    replace().with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_fails_is_told_of_with_what_to_try() {
        let mut table = config::preset("digits").unwrap();
        config::set(&mut table, "train.micro_batch=48").unwrap();
        let (parts, _) = Parts::open(table).unwrap();
        let memory = Memory::of(&parts, &parts.network().unwrap());
        let message = device_failed(&parts, &memory, "out of memory").to_string();
        let parameters = format!("{} parameters", memory.parameters);
        let total = format!("about {}", size(memory.total()));
        for words in [
            "flex",
            "out of memory",
            &parameters,
            &total,
            "48 images of 1×8×8",
            "activations of 48 images",
            "train.gradient_checkpointing = true",
            "train.micro_batch = 24",
        ] {
            assert!(message.contains(words), "no {words:?} in {message}");
        }
        assert!(!message.contains('\n'), "{message}");

        // The same before the first step.
        let bytes = memory.total() as u64;
        assert_eq!(too_large(&parts, &memory, bytes + 1), None);
        let message = too_large(&parts, &memory, bytes / 2).unwrap();
        for words in [&*parameters, &total, "48 images of 1×8×8", "train.micro_batch = 24"] {
            assert!(message.contains(words), "no {words:?} in {message}");
        }
    }
}
