//! diffusers' pipelines: a folder with a model, its scheduler, and a file that says what is in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use immiscible_models::{
    AutoencoderKLConfig, DiTConfig, ModelError, Network, NetworkConfig, Pretrained, TextEncoder,
};
use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::{SampleError, Scheduler};

/// A network and how it is sampled, in the folder layout of the Python package `diffusers`.
///
/// | parts | its class there |
/// |---|---|
/// | UNet | `DDIMPipeline` with a `DDIMScheduler`, `ConsistencyModelPipeline` with that of consistency functions, `DDPMPipeline` with another scheduler that it can run |
/// | UNet, autoencoder | `LDMPipeline` |
/// | UNet with text, autoencoder, text encoder | `StableDiffusionPipeline` |
/// | transformer with 1,000 classes, autoencoder, and no flow-matching scheduler | `DiTPipeline` |
///
/// Of a network that predicts a variance, the pipelines of UNets need a `DDPMScheduler` that takes it, and that of transformers
/// one that does not.
///
/// The package has no pipeline for other networks: their folder is that of the bare model, with `scheduler/` and `vae/` in it.
pub struct Pipeline {
    /// The network.
    pub model: Pretrained<NetworkConfig>,
    /// How it is sampled.
    pub scheduler: Scheduler,
    /// What makes images of the latents that the network works on; it works on images without one.
    pub vae: Option<Pretrained<AutoencoderKLConfig>>,
    /// What makes of texts what the network attends to.
    pub text: Option<TextEncoder>,
    /// Names of classes, which a `DiTPipeline` keeps in its index.
    pub labels: BTreeMap<u32, String>,
}

/// Why a pipeline cannot be read or written.
#[derive(Debug, Error)]
pub enum PipelineError {
    /// One of the networks.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The scheduler.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// The folder is no pipeline.
    #[error("`{}` is no pipeline folder: {problem}", .path.display())]
    Folder {
        /// The folder, or the file in it.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
}

const INDEX: &str = "model_index.json";
const SCHEDULER: &str = "scheduler";
const SCHEDULER_CONFIG: &str = "scheduler_config.json";
const VAE: &str = "vae";
const TEXT_ENCODER: &str = "text_encoder";
const TOKENIZER: &str = "tokenizer";
const LABELS: &str = "id2label";
/// Parts that look at the finished images only.
const AFTERWARDS: [&str; 2] = ["safety_checker", "feature_extractor"];

/// Schedulers that `DDPMPipeline` can run: it neither scales x_T nor what the network is given, and passes a generator.
const DDPM_PIPELINE: [&str; 4] = [
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
];

/// The only number of classes that `DiTPipeline` can guide.
const DIT_CLASSES: usize = 1000;

impl Pipeline {
    /// A network that works on images, without a text.
    pub fn new(model: Pretrained<NetworkConfig>, scheduler: Scheduler) -> Self {
        Self { model, scheduler, vae: None, text: None, labels: BTreeMap::new() }
    }

    /// Reads the folder of a pipeline, or of a bare model with `scheduler/` in it, onto a device.
    ///
    /// # Errors
    /// If a file is missing, or holds what this project has no part for, or the parts do not fit each other.
    pub fn from_pretrained(folder: &Path, device: &Device) -> Result<Self, PipelineError> {
        let folders = Folders::of(folder)?;
        let scheduler = folders.scheduler()?;
        let config = Pretrained::<NetworkConfig>::config(&folders.model)?;
        let vae = folders
            .vae
            .map(|path| Pretrained::<AutoencoderKLConfig>::from_pretrained(&path, device))
            .transpose()?;
        if let Some(vae) = &vae
            && vae.config.latent_channels != config.in_channels()
        {
            let (latents, channels) = (vae.config.latent_channels, config.in_channels());
            let reason =
                format!("the autoencoder makes {latents} channels, and the network takes {channels}");
            return Err(problem(folder, reason));
        }
        let text =
            folders.text.map(|[tokenizer, model]| TextEncoder::from_pretrained(&tokenizer, &model, device));
        let text = text.transpose()?;
        if let Some(text) = &text
            && config.text_channels() != Some(text.model.config.hidden_size)
        {
            let wanted = match config.text_channels() {
                Some(channels) => format!("{channels} channels"),
                None => "no text".into(),
            };
            let width = text.model.config.hidden_size;
            let reason = format!("the text encoder makes {width} channels, and the network takes {wanted}");
            return Err(problem(folder, reason));
        }
        let model = Pretrained::from_pretrained(&folders.model, device)?;
        Ok(Self { model, scheduler, vae, text, labels: folders.labels })
    }

    /// Reads the network of such a folder only; it may lack the scheduler.
    ///
    /// # Errors
    /// As for [`from_pretrained`](Self::from_pretrained).
    pub fn model(folder: &Path, device: &Device) -> Result<Pretrained<NetworkConfig>, PipelineError> {
        Ok(Pretrained::from_pretrained(&Folders::of(folder)?.model, device)?)
    }

    /// The settings of the network of such a folder.
    ///
    /// # Errors
    /// As for [`from_pretrained`](Self::from_pretrained).
    pub fn config(folder: &Path) -> Result<NetworkConfig, PipelineError> {
        Ok(Pretrained::<NetworkConfig>::config(&Folders::of(folder)?.model)?)
    }

    /// The scheduler of such a folder.
    ///
    /// # Errors
    /// As for [`from_pretrained`](Self::from_pretrained).
    pub fn scheduler(folder: &Path) -> Result<Scheduler, PipelineError> {
        Folders::of(folder)?.scheduler()
    }

    /// The name of the class in diffusers; none for the folder of a bare model.
    pub fn class_name(&self) -> Option<&'static str> {
        let (scheduler, config) = (self.scheduler.class_name(), &self.model.config);
        let transformer = matches!(config, NetworkConfig::DiTTransformer2DModel(_));
        let variance = config.out_channels() == 2 * config.in_channels();
        if self.scheduler.takes_variance() != (variance && !transformer) {
            return None;
        }
        match (config, &self.vae, &self.text) {
            (NetworkConfig::UNet2DModel(_), None, None) if scheduler == "DDIMScheduler" => {
                Some("DDIMPipeline")
            }
            (NetworkConfig::UNet2DModel(_), None, None) if scheduler == "CMStochasticIterativeScheduler" => {
                Some("ConsistencyModelPipeline")
            }
            (NetworkConfig::UNet2DModel(_), None, None) if DDPM_PIPELINE.contains(&scheduler) => {
                Some("DDPMPipeline")
            }
            (NetworkConfig::UNet2DModel(_), Some(_), None) => Some("LDMPipeline"),
            (NetworkConfig::UNet2DConditionModel(_), Some(_), Some(_)) => Some("StableDiffusionPipeline"),
            (NetworkConfig::DiTTransformer2DModel(config), Some(_), None)
                if for_dit_pipeline(config, scheduler) =>
            {
                Some("DiTPipeline")
            }
            _ => None,
        }
    }

    /// Writes the folder; what was in it under these names is replaced.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save_pretrained(&self, folder: &Path) -> Result<(), PipelineError> {
        let write = |path: PathBuf, text: String| {
            std::fs::write(&path, text).map_err(|reason| problem(&path, reason))
        };
        let scheduler = folder.join(SCHEDULER);
        std::fs::create_dir_all(&scheduler).map_err(|reason| problem(&scheduler, reason))?;
        write(scheduler.join(SCHEDULER_CONFIG), self.scheduler.to_json())?;
        let class = self.class_name();
        let vae = if class == Some("LDMPipeline") { "vqvae" } else { VAE };
        if let Some(model) = &self.vae {
            model.save_pretrained(&folder.join(vae))?;
        }
        if let Some(text) = &self.text {
            text.tokenizer.save_pretrained(&folder.join(TOKENIZER))?;
            text.model.save_pretrained(&folder.join(TEXT_ENCODER))?;
        }
        let Some(class) = class else {
            return Ok(self.model.save_pretrained(folder)?);
        };
        let model = match self.model.network {
            Network::DiTTransformer2DModel(_) => "transformer",
            _ => "unet",
        };
        self.model.save_pretrained(&folder.join(model))?;
        let mut index = json!({
            "_class_name": class,
            SCHEDULER: ["diffusers", self.scheduler.class_name()],
            model: ["diffusers", self.model.config.class_name()],
        });
        if self.vae.is_some() {
            index[vae] = json!(["diffusers", "AutoencoderKL"]);
        }
        if self.text.is_some() {
            index[TEXT_ENCODER] = json!(["transformers", "CLIPTextModel"]);
            index[TOKENIZER] = json!(["transformers", "CLIPTokenizer"]);
            AFTERWARDS.iter().for_each(|part| index[part] = json!([null, null]));
            index["requires_safety_checker"] = json!(false);
        }
        if class == "DiTPipeline" {
            index[LABELS] = json!(self.labels);
        }
        write(folder.join(INDEX), format!("{index:#}\n"))
    }
}

/// The package's pipeline guides with class 1000, tells a learned variance by `out_channels`, and asks the scheduler for
/// what that of flow matching lacks.
fn for_dit_pipeline(config: &DiTConfig, scheduler: &str) -> bool {
    let discrete = ["DDIMScheduler", "DDPMScheduler"].contains(&scheduler);
    config.num_embeds_ada_norm == DIT_CLASSES && config.out_channels.is_some() && discrete
}

/// Where the parts are.
#[derive(Default)]
struct Folders {
    model: PathBuf,
    scheduler: PathBuf,
    vae: Option<PathBuf>,
    /// Tokenizer and network.
    text: Option<[PathBuf; 2]>,
    labels: BTreeMap<u32, String>,
}

impl Folders {
    fn of(folder: &Path) -> Result<Self, PipelineError> {
        let scheduler = folder.join(SCHEDULER);
        let index = folder.join(INDEX);
        if !index.is_file() {
            if folder.join("config.json").is_file() {
                let vae = Some(folder.join(VAE)).filter(|path| path.is_dir());
                return Ok(Self { model: folder.into(), scheduler, vae, ..Self::default() });
            }
            let reason =
                format!("it has neither {INDEX} nor config.json; give the folder that save_pretrained wrote");
            return Err(problem(folder, reason));
        }
        let text = std::fs::read_to_string(&index).map_err(|reason| problem(&index, reason))?;
        let parts: Map<String, Value> =
            serde_json::from_str(&text).map_err(|reason| problem(&index, reason))?;
        let mut folders = Self { scheduler, ..Self::default() };
        let (mut tokenizer, mut text_encoder) = (None, None);
        for (name, value) in parts.into_iter().filter(|(name, _)| !name.starts_with('_')) {
            let path = folder.join(&name);
            match (&*name, value) {
                (LABELS, labels) => {
                    let labels = serde_json::from_value::<Option<_>>(labels);
                    folders.labels = labels.map_err(|reason| problem(&index, reason))?.unwrap_or_default();
                }
                // A setting, or an optional part that this pipeline does without.
                (_, Value::Null | Value::Bool(_)) => {}
                (_, Value::Array(pair)) if pair.iter().all(Value::is_null) => {}
                ("unet" | "transformer", _) => folders.model = path,
                (VAE | "vqvae", _) => folders.vae = Some(path),
                (TEXT_ENCODER, _) => text_encoder = Some(path),
                (TOKENIZER, _) => tokenizer = Some(path),
                (SCHEDULER, _) => {}
                (part, _) if AFTERWARDS.contains(&part) => {}
                (part, _) => {
                    return Err(problem(
                        &index,
                        format!("this project cannot sample with its part `{part}`"),
                    ));
                }
            }
        }
        if folders.model.as_os_str().is_empty() {
            return Err(problem(&index, "it names no unet and no transformer"));
        }
        folders.text = match (tokenizer, text_encoder) {
            (Some(tokenizer), Some(text_encoder)) => Some([tokenizer, text_encoder]),
            (None, None) => None,
            _ => return Err(problem(&index, format!("it names only one of {TOKENIZER} and {TEXT_ENCODER}"))),
        };
        Ok(folders)
    }

    fn scheduler(&self) -> Result<Scheduler, PipelineError> {
        let path = self.scheduler.join(SCHEDULER_CONFIG);
        let text = std::fs::read_to_string(&path).map_err(|reason| problem(&path, reason))?;
        Ok(Scheduler::from_json(&text)?)
    }
}

fn problem(path: &Path, problem: impl ToString) -> PipelineError {
    PipelineError::Folder { path: path.into(), problem: problem.to_string() }
}
