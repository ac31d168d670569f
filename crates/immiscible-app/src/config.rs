//! The config: a preset or a file, changed key by key on the command line, checked as a whole.

use crate::latent::LatentConfig;
use crate::network_table;
use crate::presets::PRESETS;
use anyhow::{Context, Error, Result, anyhow, bail};
use immiscible_coupling::{CouplingConfig, Scope};
use immiscible_data::{Crop, DataOptions, LabelKind, Layout, Resize, Split};
use immiscible_models::NetworkConfig;
use immiscible_sample::Spacing;
use immiscible_schedule::{
    Objective, ObjectiveConfig, SamplerConfig, ScheduleConfig, TimeSamplerConfig, Variance,
};
use immiscible_train::{
    CheckpointConfig, EmaConfig, LossConfig, MethodConfig, OptimizerConfig, TrainConfig, TrainError,
};
use serde::{Deserialize, Serialize};
use std::fmt::{Display, Formatter};
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Everything that a run depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Seed of everything random.
    #[serde(default)]
    pub(crate) seed: u64,
    /// A device, as `immiscible devices` lists them.
    #[serde(default = "flex")]
    pub(crate) device: String,
    pub(crate) data: DataConfig,
    #[serde(with = "network_table")]
    pub(crate) model: NetworkConfig,
    pub(crate) schedule: ScheduleConfig,
    /// What the network regresses; consistency methods have their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) objective: Option<ObjectiveConfig>,
    /// How a step learns.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) method: MethodConfig,
    /// Train on latents and not on pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latent: Option<LatentConfig>,
    /// Which times are trained on; uniform ones if absent.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) time: TimeSamplerConfig,
    /// What an output costs; the mean squared error if absent.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) loss: LossConfig,
    #[serde(default)]
    pub(crate) coupling: CouplingConfig,
    #[serde(default)]
    pub(crate) train: TrainConfig,
    #[serde(default)]
    pub(crate) optimizer: OptimizerConfig,
    #[serde(default)]
    pub(crate) ema: EmaConfig,
    #[serde(default)]
    pub(crate) checkpoint: CheckpointConfig,
    /// What is written down beside `metrics.jsonl`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) log: LogConfig,
    pub(crate) sample: SampleConfig,
}

/// A table at its default is not written down, so that the runs of versions without it go on.
fn is_default<T: Default + PartialEq>(table: &T) -> bool {
    *table == T::default()
}

impl Config {
    /// What the network's outputs mean, for the data as they are trained on: `sigma_data` in the config is that of images in
    /// [−1, 1].
    pub(crate) fn objective(&self) -> Result<Box<dyn Objective>, TrainError> {
        let scale = self.data.scale();
        let objective = self.objective.as_ref().map(|objective| objective.of_scaled_data(scale));
        self.method.of_scaled_data(scale).objective(&self.schedule, objective.as_ref())
    }

    /// What an output costs, likewise.
    pub(crate) fn loss(&self) -> LossConfig {
        let weighting = self.loss.weighting.of_scaled_data(self.data.scale());
        LossConfig { weighting, ..self.loss.clone() }
    }

    /// How samples are drawn.
    pub(crate) fn sampling(&self) -> immiscible_sample::SampleConfig {
        let mut sampling = self.sample.sampling();
        sampling.range = self.data.scale();
        if self.method.jumps() && sampling.sampler.name == "consistency" {
            sampling.sampler.sigma_min = self.schedule.sigma_min;
        }
        sampling
    }
}

fn flex() -> String {
    "flex".into()
}

/// The `[data]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DataConfig {
    /// A name from the registry of `immiscible-data`.
    pub(crate) name: String,
    /// Where the data set lies; `digits` is built in.
    pub(crate) path: Option<PathBuf>,
    /// `train` or `test`, where the data set has both.
    pub(crate) split: Option<Split>,
    /// Side that image files are brought to.
    pub(crate) image_size: Option<usize>,
    /// The filter of that: `bicubic`, `box`, `gaussian`, `lanczos3` or `triangle`; `lanczos3` if absent.
    pub(crate) resize: Option<Resize>,
    /// Which square of an image file: `center` or `random`; `center` if absent.
    pub(crate) crop: Option<Crop>,
    /// `fine` or `coarse` labels of CIFAR-100; `fine` if absent.
    pub(crate) labels: Option<LabelKind>,
    /// The file of the labels of `npy`.
    pub(crate) label_file: Option<PathBuf>,
    /// The values of `npy` and `npz` that become −1 and 1.
    pub(crate) range: Option<[f64; 2]>,
    /// `nchw` or `nhwc`, where the shape of an array does not tell.
    pub(crate) layout: Option<Layout>,
    /// Share of the samples that may be damaged; 0.001 if absent.
    pub(crate) max_bad: Option<f64>,
    /// Mirror images left to right with probability 1/2.
    #[serde(default)]
    pub(crate) flip: bool,
    /// What images are multiplied by for training, and samples divided by; 1 if absent. Against noise that stays as it is, images
    /// then lie further apart (arXiv 2505.18521, §4.3). Every `sigma_data` is multiplied as well.
    pub(crate) scale: Option<f64>,
}

impl DataConfig {
    /// What images are multiplied by.
    pub(crate) fn scale(&self) -> f64 {
        self.scale.unwrap_or(1.0)
    }

    pub(crate) fn options(&self) -> DataOptions {
        let Self {
            name,
            path,
            split,
            image_size,
            resize,
            crop,
            labels,
            label_file,
            range,
            layout,
            max_bad,
            flip: _,
            scale: _,
        } = self.clone();
        DataOptions {
            name,
            path,
            split,
            image_size,
            resize,
            crop,
            labels,
            label_file,
            range,
            layout,
            max_bad,
        }
    }
}

/// The `[log]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LogConfig {
    /// Whether the folder `tensorboard` of the run gets the same numbers and the sample grids.
    pub(crate) tensorboard: bool,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { tensorboard: true }
    }
}

/// The `[sample]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SampleConfig {
    /// A name from the registry of samplers.
    pub(crate) sampler: String,
    /// Sampling steps.
    pub(crate) steps: usize,
    /// Classifier-free guidance weight; 1 for none.
    #[serde(default = "one")]
    pub(crate) guidance: f64,
    /// Clamp the estimate of the image to [−1, 1] at every step; right for pixels.
    #[serde(default = "yes")]
    pub(crate) clip: bool,
    /// Levels of noise σ/α with guidance, above the first and up to the second number; all if absent.
    pub(crate) guidance_interval: Option<[f64; 2]>,
    /// With `clip`: the quantile of dynamic thresholding, such as 0.995, in place of clamping.
    pub(crate) threshold: Option<f64>,
    /// How noise levels are spaced: `trailing`, `leading`, `linspace`, `quadratic`, `karras` or `exponential`; the schedule's
    /// own way if absent.
    pub(crate) spacing: Option<Spacing>,
    /// η of `ddim` and `euler_ancestral`.
    pub(crate) eta: Option<f64>,
    /// Variance of `ddpm`.
    pub(crate) variance: Option<Variance>,
    /// Order of `dpmpp_2m`, `dpmpp_2m_sde` and `unipc`.
    pub(crate) order: Option<usize>,
    /// Whether `pndm` starts without Runge-Kutta steps.
    pub(crate) skip_prk_steps: Option<bool>,
    /// Error that a step of `dopri5` may have.
    pub(crate) tolerance: Option<f64>,
    /// Images in a grid.
    #[serde(default = "grid_images")]
    pub(crate) n: usize,
    /// Training steps between two grids; the last step always makes one.
    #[serde(default = "grid_every")]
    pub(crate) every: u64,
}

fn one() -> f64 {
    1.0
}

fn yes() -> bool {
    true
}

fn grid_images() -> usize {
    64
}

fn grid_every() -> u64 {
    1_000
}

impl SampleConfig {
    /// The keys that another sampler may not have.
    const OF_SAMPLER: [&str; 6] = ["eta", "variance", "order", "skip_prk_steps", "spacing", "tolerance"];

    /// The part that the sampler itself reads.
    fn sampling(&self) -> immiscible_sample::SampleConfig {
        immiscible_sample::SampleConfig {
            sampler: SamplerConfig {
                name: self.sampler.clone(),
                eta: self.eta,
                variance: self.variance,
                order: self.order,
                skip_prk_steps: self.skip_prk_steps,
                tolerance: self.tolerance,
                sigma_min: None,
            },
            steps: self.steps,
            spacing: self.spacing,
            guidance: self.guidance,
            guidance_interval: self.guidance_interval,
            clip: self.clip,
            range: 1.0,
            threshold: self.threshold,
        }
    }
}

/// Another sampler; the config's options and its spacing belong to the config's sampler.
pub(crate) fn set_sampler(table: &mut Table, name: &str) -> Result<()> {
    match table.get_mut("sample") {
        Some(Value::Table(sample)) if sample.get("sampler").and_then(Value::as_str) != Some(name) => {
            SampleConfig::OF_SAMPLER.iter().for_each(|option| drop(sample.remove(*option)));
        }
        _ => {}
    }
    insert(table, "sample.sampler", Value::String(name.into()))
}

/// A built-in config.
pub(crate) fn preset(name: &str) -> Result<Table> {
    let names = || PRESETS.iter().map(|(name, _)| *name);
    match PRESETS.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => {
            text.parse().map_err(Error::from).and_then(whole).with_context(|| format!("preset {name}"))
        }
        None => bail!(
            "unknown preset `{name}`{}; known: {}",
            did_you_mean(name, names()),
            names().collect::<Vec<_>>().join(", ")
        ),
    }
}

/// The content of a config file.
pub(crate) fn file(path: &Path) -> Result<Table> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let table: Result<Table> =
        text.parse().map_err(|error: toml::de::Error| anyhow!("{}", one_line(&error.to_string())));
    table.and_then(whole).with_context(|| path.display().to_string())
}

/// The config with what it leaves to the preset that its key `base` names.
fn whole(mut table: Table) -> Result<Table> {
    match table.remove("base") {
        None => Ok(table),
        Some(Value::String(base)) => {
            let mut whole = preset(&base).with_context(|| format!("base = {base:?}"))?;
            change(&mut whole, table);
            Ok(whole)
        }
        Some(other) => bail!("base = {other}: write the name of a preset; see immiscible list"),
    }
}

/// Changes a table key by key. A part that is another one, by its kind or name, comes with its own options alone.
fn change(table: &mut Table, changes: Table) {
    for (key, value) in changes {
        match (table.get_mut(&key), value) {
            (Some(Value::Table(part)), Value::Table(changes)) if same_part(part, &changes) => {
                change(part, changes)
            }
            (_, value) => drop(table.insert(key, value)),
        }
    }
}

fn same_part(part: &Table, changes: &Table) -> bool {
    ["kind", "name", "size"]
        .iter()
        .all(|key| changes.get(*key).is_none_or(|value| part.get(*key) == Some(value)))
}

/// The key of `a.b=value`.
pub(crate) fn key(assignment: &str) -> Option<&str> {
    assignment.split_once('=').map(|(key, _)| key.trim())
}

/// Changes one key: `a.b=value`. A value that is not TOML is taken as text.
pub(crate) fn set(table: &mut Table, assignment: &str) -> Result<()> {
    let Some((key, value)) = assignment.split_once('=') else {
        bail!("--set {assignment}: write KEY=VALUE, such as --set optimizer.learning_rate=1e-4");
    };
    let value = value.trim();
    let value = format!("value = {value}")
        .parse::<Table>()
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| Value::String(value.into()));
    insert(table, key.trim(), value)
}

/// Puts `value` at a dotted key, making the tables on the way.
pub(crate) fn insert(table: &mut Table, key: &str, value: Value) -> Result<()> {
    match key.split_once('.') {
        None => {
            table.insert(key.into(), value);
            Ok(())
        }
        Some((head, rest)) => match table.entry(head).or_insert_with(|| Value::Table(Table::new())) {
            Value::Table(inner) => insert(inner, rest, value),
            _ => bail!("--set {key}: `{head}` is a value and has no keys below it"),
        },
    }
}

/// Replaces `model.size` by the settings of that size. What the data decides stays open: channels, image size and classes.
pub(crate) fn expand_size(table: &mut Table) -> Result<()> {
    let Some(Value::Table(model)) = table.get_mut("model") else {
        return Ok(());
    };
    let Some(size) = model.remove("size") else {
        return Ok(());
    };
    let Value::String(size) = size else {
        bail!("model.size = {size}: write a name; see immiscible list");
    };
    let network = NetworkConfig::of_size(&size)?;
    if let Some(kind) = model.get("kind").filter(|kind| kind.as_str() != Some(network.name())) {
        bail!(
            "model.kind = {kind}: model.size = {size:?} is of kind {:?}; leave out one of them",
            network.name()
        );
    }
    let mut settings = Table::try_from(network_table::table(&network)?)?;
    for open in ["in_channels", "out_channels", "sample_size", "num_class_embeds", "num_embeds_ada_norm"] {
        settings.remove(open);
    }
    settings.extend(std::mem::take(model));
    *model = settings;
    Ok(())
}

/// Reads the whole config; an unknown key is an error that suggests the nearest known one.
pub(crate) fn parse(table: Table) -> Result<Config> {
    table.try_into().map_err(|error: toml::de::Error| explain(&error.to_string()))
}

/// Turns serde's words into one line with a suggestion.
fn explain(message: &str) -> Error {
    let line = one_line(message);
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    match (message.starts_with("unknown field"), quoted.split_first()) {
        (true, Some((unknown, known))) => anyhow!("{line}{}", did_you_mean(unknown, known.iter().copied())),
        _ => anyhow!("{line}"),
    }
}

/// toml puts the path of the key on a line of its own.
fn one_line(message: &str) -> String {
    message.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// A suggestion, if one of the known names is near.
pub(crate) fn did_you_mean<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> String {
    let near = |name: &&str| strsim::jaro_winkler(unknown, name);
    known
        .filter(|name| near(name) > 0.75)
        .max_by(|a, b| near(a).total_cmp(&near(b)))
        .map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

/// The part of a config that a run cannot change while it goes on: all but how long it trains, where, how fast, and what
/// it writes down.
pub(crate) fn structure(config: &Config) -> Result<Table> {
    let mut table = Table::try_from(config)?;
    if config.method.jumps() {
        // How fine the grid of noise levels is follows from it at every step.
        let steps = config.method.curriculum_steps.unwrap_or(config.train.steps);
        insert(&mut table, "method.curriculum_steps", Value::Integer(i64::try_from(steps)?))?;
    }
    // What the learning rate is at every step follows from how far it falls, and when.
    let optimizer = config.optimizer.clone().of_run(config.train.steps);
    if let Some(steps) = optimizer.schedule_steps {
        insert(&mut table, "optimizer.schedule_steps", Value::Integer(i64::try_from(steps)?))?;
    }
    insert(&mut table, "optimizer.beta2", Value::Float(optimizer.beta2().into()))?;
    for key in ["device", "checkpoint", "log", "sample"] {
        table.remove(key);
    }
    for (section, keys) in [
        // The data may have moved; whether they are still the same is checked against data.toml.
        ("data", &["path", "label_file"][..]),
        (
            "train",
            &["steps", "micro_batch", "gradient_checkpointing", "log_every", "max_skipped", "prefetch"],
        ),
        // What a run that diverged is mended with.
        ("optimizer", &["learning_rate", "warmup_steps", "clip_norm"]),
    ] {
        if let Some(Value::Table(table)) = table.get_mut(section) {
            // A micro-batch changes what is paired where the coupling keeps inside it.
            let kept = |key: &str| key == "micro_batch" && config.coupling.scope == Scope::MicroBatch;
            keys.iter().filter(|key| !kept(key)).for_each(|key| drop(table.remove(*key)));
        }
    }
    Ok(table)
}

/// A key in which two tables differ, with both values.
#[derive(Debug, PartialEq)]
pub(crate) struct Change {
    pub(crate) key: String,
    pub(crate) before: String,
    pub(crate) now: String,
}

impl Display for Change {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} -> {}", self.key, self.before, self.now)
    }
}

/// Every key in which two tables differ, sorted.
pub(crate) fn differences(before: &Table, now: &Table) -> Vec<Change> {
    let text = |value: Option<&Value>| value.map_or_else(|| "unset".into(), Value::to_string);
    let keys: std::collections::BTreeSet<_> = before.keys().chain(now.keys()).collect();
    let mut changes = Vec::new();
    for key in keys {
        match (before.get(key), now.get(key)) {
            (Some(Value::Table(before)), Some(Value::Table(now))) => {
                let inner = differences(before, now).into_iter();
                changes.extend(inner.map(|change| Change { key: format!("{key}.{}", change.key), ..change }));
            }
            (before, now) if before != now => {
                changes.push(Change { key: key.clone(), before: text(before), now: text(now) });
            }
            _ => {}
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use immiscible_sample::Sampler;

    #[test]
    fn every_preset_is_a_config() {
        for (name, _) in PRESETS {
            let mut table = preset(name).unwrap();
            expand_size(&mut table).unwrap_or_else(|error| panic!("{name}: {error}"));
            let config = parse(table).unwrap_or_else(|error| panic!("{name}: {error}"));
            let again = parse(Table::try_from(&config).unwrap()).unwrap();
            assert_eq!(config, again, "{name} does not survive being written down");
            let objective = config.objective().unwrap_or_else(|error| panic!("{name}: {error}"));
            let schedule = config.schedule.build().unwrap();
            Sampler::new(&config.sampling(), &*schedule, &*objective)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        assert!(PRESETS.is_sorted());
    }

    #[test]
    fn a_scale_of_the_data_is_one_of_their_deviation() {
        let point = immiscible_schedule::Point {
            alpha: 1.0,
            sigma: 1.5,
            time: immiscible_schedule::Time::Continuous(1.5),
        };
        let edm = ["schedule.name=ve", "objective.name=edm", "loss.weighting.name=edm"];
        let consistency = ["schedule.name=ve", "method.kind=consistency"];
        for (settings, keys) in [
            (&edm[..], &["objective.sigma_data", "loss.weighting.sigma_data"][..]),
            (&consistency, &["method.sigma_data"]),
        ] {
            let numbers = |scale: f64, sigma: Option<f64>| {
                let mut table = preset("digits").unwrap();
                if settings == consistency {
                    table.remove("objective");
                }
                let sigma = sigma.map(|sigma| keys.iter().map(move |key| format!("{key}={sigma}")));
                let settings = settings.iter().map(|setting| (*setting).to_owned());
                settings
                    .chain([format!("data.scale={scale}")])
                    .chain(sigma.into_iter().flatten())
                    .for_each(|assignment| set(&mut table, &assignment).unwrap());
                let config = parse(table).unwrap();
                let objective = config.objective().unwrap();
                let weight = config.loss().weighting.build().unwrap().weight(&*objective, point);
                (objective.x0_error(point), weight)
            };
            assert_eq!(numbers(2.0, Some(0.6)), numbers(1.0, Some(1.2)));
            assert_eq!(numbers(2.0, None), numbers(1.0, Some(1.0)));
            assert_ne!(numbers(2.0, None), numbers(1.0, None));
        }
    }

    #[test]
    fn a_config_changes_what_its_base_says() {
        let read = |mut table: Table| expand_size(&mut table).and_then(|()| parse(table)).unwrap();
        let of = |text: &str| whole(text.parse().unwrap()).map(read);
        let base = read(preset("cifar10-ddim").unwrap());
        let config = of("base = 'cifar10-ddim'\ntrain.steps = 7\n[coupling]\nkind = 'knn'\nk = 8").unwrap();
        assert_eq!((config.train.steps, config.train.batch_size), (7, base.train.batch_size));
        // The options of another kind are gone.
        let knn = CouplingConfig { kind: "knn".into(), k: 8, ..CouplingConfig::default() };
        assert_eq!(config.coupling, knn);
        let flip = of("base = 'cifar10-ddim'\ncoupling.flip = true").unwrap();
        assert_eq!(flip.coupling, CouplingConfig { flip: true, ..base.coupling.clone() });
        assert_eq!(of("base = 'cifar10-ddim'").unwrap(), base);
        for (text, words) in
            [("base = 'cifar'", ["base = \"cifar\"", "cifar10-ddim"]), ("base = 3", ["base = 3", "preset"])]
        {
            let error = crate::one_line(&whole(text.parse().unwrap()).unwrap_err());
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
    }

    #[test]
    fn keys_are_set_with_their_type() {
        let mut table = preset("digits").unwrap();
        for assignment in
            ["train.steps=7", "optimizer.learning_rate=1e-3", "data.path=a b/c", "coupling.kind=knn"]
        {
            set(&mut table, assignment).unwrap();
        }
        let config = parse(table).unwrap();
        assert_eq!(config.train.steps, 7);
        assert_eq!(config.optimizer.learning_rate, 1e-3);
        assert_eq!(config.data.path.as_deref(), Some(Path::new("a b/c")));
        assert_eq!(config.coupling.kind, "knn");
        assert!(set(&mut preset("digits").unwrap(), "seed.x=1").is_err());
    }

    #[test]
    fn times_and_loss_survive_being_written_down_and_defaults_are_not_written() {
        let plain = structure(&parse(preset("digits").unwrap()).unwrap()).unwrap();
        assert!(!plain.contains_key("time") && !plain.contains_key("loss"));
        let mut table = preset("digits").unwrap();
        for assignment in [
            "schedule.name=scaled_linear",
            "schedule.zero_terminal_snr=true",
            "schedule.beta_end=0.013",
            "time.name=log_normal",
            "time.mean=-0.4",
            "loss.vlb_weight=0.001",
            "loss.distance.name=pseudo_huber",
            "loss.distance.c=0.03",
            "loss.weighting.name=p2",
            "loss.weighting.gamma=0.5",
        ] {
            set(&mut table, assignment).unwrap();
        }
        let config = parse(table).unwrap();
        assert_eq!((config.time.mean, config.loss.vlb_weight), (Some(-0.4), Some(0.001)));
        assert_eq!(parse(toml::to_string(&config).unwrap().parse().unwrap()).unwrap(), config);
        let changed = structure(&config).unwrap();
        assert!(!differences(&plain, &changed).is_empty());
    }

    #[test]
    fn a_typo_is_named_with_its_table_and_a_suggestion() {
        for (assignment, words) in [
            ("optimizer.lerning_rate=1", ["lerning_rate", "optimizer", "did you mean `learning_rate`?"]),
            ("loss.weighting.gama=5", ["gama", "weighting", "did you mean `gamma`?"]),
            ("time.stdd=1", ["stdd", "time", "did you mean `std`?"]),
            ("coupling.knd=knn", ["knd", "coupling", "did you mean `kind`?"]),
            (
                "model.block_out_chanels=[8]",
                ["block_out_chanels", "model", "did you mean `block_out_channels`?"],
            ),
            ("trian.steps=1", ["trian", "expected", "did you mean `train`?"]),
        ] {
            let mut table = preset("digits").unwrap();
            set(&mut table, assignment).unwrap();
            let error = parse(table).unwrap_err().to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{assignment}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
        let error = preset("digit").unwrap_err().to_string();
        assert!(error.contains("did you mean `digits`?"), "{error}");
    }

    #[test]
    fn a_size_is_a_network_whose_images_the_data_decides() {
        let table = |model: &str| -> Table { format!("model = {{ {model} }}").parse().unwrap() };
        let mut small = table(r#"size = "DiT-S/4", num_layers = 3"#);
        expand_size(&mut small).unwrap();
        let model = small["model"].as_table().unwrap();
        let integer = |key: &str| model.get(key).and_then(Value::as_integer);
        assert_eq!(model["kind"].as_str(), Some("dit"));
        assert_eq!(
            ["patch_size", "num_attention_heads", "num_layers"].map(integer),
            [Some(4), Some(6), Some(3)]
        );
        assert_eq!(["in_channels", "num_embeds_ada_norm"].map(integer), [None, None]);
        for (model, word) in [
            (r#"size = "DiT-S/3""#, "DiT-S/4"),
            (r#"size = 3"#, "model.size = 3"),
            (r#"size = "DiT-S/4", kind = "unet""#, "dit"),
        ] {
            let error = expand_size(&mut table(model)).unwrap_err().to_string();
            assert!(error.contains(word), "{model}: {error}");
        }
    }

    #[test]
    fn the_length_of_a_run_is_open_unless_its_learning_rate_follows_from_it() {
        let of = |assignments: &[&str]| {
            let mut table = preset("digits").unwrap();
            assignments.iter().for_each(|assignment| set(&mut table, assignment).unwrap());
            structure(&parse(table).unwrap()).unwrap()
        };
        let key = |before: &[&str], now: &[&str]| {
            differences(&of(before), &of(now)).into_iter().next().map(|change| change.key)
        };
        for (schedule, follows) in
            [("constant", false), ("cosine", true), ("linear", true), ("inverse_sqrt", false)]
        {
            let schedule = format!("optimizer.schedule={schedule}");
            let short = [&*schedule, "train.steps=100"];
            let longer = key(&short, &[&*schedule, "train.steps=200"]);
            assert_eq!(longer.as_deref(), follows.then_some("optimizer.schedule_steps"), "{schedule}");
            if follows {
                // Prolonged at what the learning rate has come down to.
                let prolonged = [&*schedule, "train.steps=200", "optimizer.schedule_steps=100"];
                assert_eq!(key(&short, &prolonged), None, "{schedule}");
            }
        }
        assert_eq!(key(&[], &["optimizer.beta2=0.999"]), None);
        assert_eq!(key(&[], &["train.gradient_checkpointing=true"]), None);
        assert_eq!(key(&[], &["train.precision=bf16"]).as_deref(), Some("train.precision"));
        assert_eq!(key(&[], &["train.micro_batch=8"]), None);
        let scope = ["coupling={kind=\"assignment\", scope=\"micro_batch\"}", "train.micro_batch=8"];
        let other = key(&scope, &[scope[0], "train.micro_batch=16"]);
        assert_eq!(other.as_deref(), Some("train.micro_batch"));
        assert_eq!(key(&[], &["optimizer.kind=lion"]).as_deref(), Some("optimizer.beta2"));
        assert_eq!(key(&[], &["ema.others.wide.decay=0.9"]).as_deref(), Some("ema.others"));
    }

    /// The hash that checkpoints hold, as it was before schedules, other averages and other optimisers could be named.
    #[test]
    fn runs_of_versions_before_go_on() {
        let mut table = preset("digits").unwrap();
        for assignment in [
            "coupling.kind=assignment",
            "train.steps=6",
            "train.batch_size=32",
            "sample.n=4",
            "sample.steps=2",
        ] {
            set(&mut table, assignment).unwrap();
        }
        let (parts, _) = crate::parts::Parts::open(table).unwrap();
        let hash = immiscible_train::sha256_hex(&structure(&parts.config).unwrap().to_string());
        assert_eq!(hash, "b6192d756ef27e52a70a0a2e504b831942e03e36748343b56f0a595f88fc5370");
    }

    #[test]
    fn a_coupling_that_the_config_leaves_open_looks_as_far_ahead_as_the_data_go() {
        let coupling = |preset_name: &str, without: &[&str], assignments: &[&str]| {
            let mut table = preset(preset_name).unwrap();
            without.iter().for_each(|key| drop(table.remove(*key)));
            assignments.iter().for_each(|assignment| set(&mut table, assignment).unwrap());
            crate::parts::Parts::open(table).unwrap().0.config.coupling
        };
        let window = |class_wise, window| CouplingConfig {
            kind: "window".into(),
            class_wise,
            window,
            ..Default::default()
        };
        let open = &["coupling"][..];
        assert_eq!(coupling("digits", open, &[]), window(false, 1792));
        assert_eq!(coupling("digits", open, &["train.batch_size=100"]), window(false, 1700));
        assert_eq!(coupling("digits", open, &["train.batch_size=1000"]), window(false, 1000));
        assert_eq!(coupling("digits-classes", open, &[]), window(true, 1792));
        assert_eq!(coupling("digits-classes", open, &["coupling.class_wise=false"]), window(false, 1792));
        assert_eq!(coupling("digits", &[], &["coupling.window=256"]), window(false, 256));
        for preset in ["digits", "digits-classes"] {
            assert_eq!(coupling(preset, &[], &[]), coupling(preset, open, &[]), "{preset}");
        }
        let of_batch = coupling("digits", &[], &["coupling.kind=assignment"]);
        assert_eq!(of_batch, CouplingConfig { kind: "assignment".into(), ..Default::default() });
    }

    #[test]
    fn all_differences_are_told_with_key_and_both_values() {
        let before = structure(&parse(preset("digits").unwrap()).unwrap()).unwrap();
        let mut table = preset("digits").unwrap();
        set(&mut table, "train.steps=9").unwrap();
        assert_eq!(differences(&before, &structure(&parse(table.clone()).unwrap()).unwrap()), []);
        set(&mut table, "train.batch_size=64").unwrap();
        set(&mut table, "coupling.k=9").unwrap();
        let changes = differences(&before, &structure(&parse(table).unwrap()).unwrap());
        let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
        assert!(changes.contains(&"coupling.k: 4 -> 9".into()), "{changes:?}");
        assert!(changes.contains(&"train.batch_size: 128 -> 64".into()), "{changes:?}");
    }
}
