//! diffusers' pipelines: a folder with a model, its scheduler, and a file that says what is in it.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use immiscible_models::{ModelError, Network, NetworkConfig, Pretrained};
use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::{SampleError, Scheduler};

/// A network and how it is sampled, in the folder layout of the Python package `diffusers`.
///
/// UNets make a pipeline folder (`model_index.json`, `unet/`, `scheduler/`), which `DDPMPipeline` or `DDIMPipeline` opens.
/// A transformer has no pipeline there without an autoencoder, so its folder is that of the bare model, with `scheduler/`
/// beside it.
pub struct Pipeline {
    /// The network.
    pub model: Pretrained<NetworkConfig>,
    /// How it is sampled.
    pub scheduler: Scheduler,
}

/// Why a pipeline cannot be read or written.
#[derive(Debug, Error)]
pub enum PipelineError {
    /// The network.
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

impl Pipeline {
    /// Reads the folder of a pipeline, or of a bare model with `scheduler/` in it, onto a device.
    ///
    /// # Errors
    /// If a file is missing, or holds what this project has no part for.
    pub fn from_pretrained(folder: &Path, device: &Device) -> Result<Self, PipelineError> {
        let folders = Folders::of(folder)?;
        let path = folders.scheduler.join(SCHEDULER_CONFIG);
        let text = std::fs::read_to_string(&path).map_err(|reason| problem(&path, reason))?;
        Ok(Self {
            scheduler: Scheduler::from_json(&text)?,
            model: Pretrained::from_pretrained(&folders.model, device)?,
        })
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
        match component(&self.model.network) {
            Some(name) => {
                self.model.save_pretrained(&folder.join(name))?;
                let class = if self.scheduler.class_name() == "DDIMScheduler" {
                    "DDIMPipeline"
                } else {
                    "DDPMPipeline"
                };
                let index = json!({
                    "_class_name": class,
                    "scheduler": ["diffusers", self.scheduler.class_name()],
                    name: ["diffusers", self.model.config.class_name()],
                });
                write(folder.join(INDEX), format!("{index:#}\n"))
            }
            None => Ok(self.model.save_pretrained(folder)?),
        }
    }
}

/// The network's name in a pipeline that is complete with it.
fn component(network: &Network) -> Option<&'static str> {
    match network {
        Network::UNet2DModel(_) => Some("unet"),
        _ => None,
    }
}

/// Where the parts are.
struct Folders {
    model: PathBuf,
    scheduler: PathBuf,
}

impl Folders {
    fn of(folder: &Path) -> Result<Self, PipelineError> {
        let scheduler = folder.join(SCHEDULER);
        let index = folder.join(INDEX);
        if !index.is_file() {
            if folder.join("config.json").is_file() {
                return Ok(Self { model: folder.into(), scheduler });
            }
            let reason =
                format!("it has neither {INDEX} nor config.json; give the folder that save_pretrained wrote");
            return Err(problem(folder, reason));
        }
        let text = std::fs::read_to_string(&index).map_err(|reason| problem(&index, reason))?;
        let parts: Map<String, Value> =
            serde_json::from_str(&text).map_err(|reason| problem(&index, reason))?;
        let mut model = None;
        for (name, value) in parts.iter().filter(|(name, _)| !name.starts_with('_')) {
            match (&**name, value) {
                ("unet" | "transformer", _) => model = Some(folder.join(name)),
                (SCHEDULER, _) => {}
                // An optional part that this pipeline does without.
                (_, Value::Null | Value::Bool(_)) => {}
                (_, Value::Array(pair)) if pair.iter().all(Value::is_null) => {}
                _ => {
                    return Err(problem(
                        &index,
                        format!("this project cannot sample with its part `{name}`"),
                    ));
                }
            }
        }
        let reason = "it names no unet and no transformer";
        Ok(Self { model: model.ok_or_else(|| problem(&index, reason))?, scheduler })
    }
}

fn problem(path: &Path, problem: impl ToString) -> PipelineError {
    PipelineError::Folder { path: path.into(), problem: problem.to_string() }
}
