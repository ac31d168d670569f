use std::path::{Path, PathBuf};

use burn::store::ModuleSnapshot;
use burn::tensor::Device;
use serde::Serialize;
use serde::de::{DeserializeOwned, Error as _};
use serde_json::{Map, Value};

use crate::{ModelError, Network, NetworkConfig, weights};

/// Settings of a network that the Python packages keep in a `config.json`.
pub trait ModelConfig: Sized {
    /// The network that is built from them.
    type Network: ModuleSnapshot + Clone;

    /// Names of the weights file, without extension, by the packages that write it: safetensors, and pickled.
    const WEIGHTS: [&str; 2];

    /// The settings of a `config.json`.
    ///
    /// # Errors
    /// [`ModelError::Json`] for text that is no such file, [`ModelError::Config`] for a class or a setting that this crate
    /// has no network for.
    fn from_json(text: &str) -> Result<Self, ModelError>;

    /// The `config.json` that the Python package reads.
    fn to_json(&self) -> String;

    /// The network's name for a tensor of a weights file, which other versions of the package may name otherwise; none for one
    /// that is no weight.
    fn rename(name: &str) -> Option<&str> {
        Some(name)
    }

    /// The network with fresh weights.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the first setting that stands against it.
    fn init(&self, device: &Device) -> Result<Self::Network, ModelError>;
}

/// The stems of diffusers' weights files.
pub(crate) const DIFFUSERS: [&str; 2] = ["diffusion_pytorch_model", "diffusion_pytorch_model"];

impl ModelConfig for NetworkConfig {
    type Network = Network;

    const WEIGHTS: [&str; 2] = DIFFUSERS;

    fn from_json(text: &str) -> Result<Self, ModelError> {
        Self::from_json(text)
    }

    fn to_json(&self) -> String {
        self.to_json()
    }

    fn init(&self, device: &Device) -> Result<Network, ModelError> {
        self.init(device)
    }
}

/// A network with its settings: a folder with `config.json` and weights, as the Python packages read and write it.
#[derive(Clone, Debug)]
pub struct Pretrained<C: ModelConfig> {
    /// What the network was built from.
    pub config: C,
    /// The network.
    pub network: C::Network,
}

const CONFIG: &str = "config.json";

impl<C: ModelConfig> Pretrained<C> {
    /// Reads the folder of a model: `config.json`, and the weights from safetensors (one file, or shards with an index) or
    /// from a file that PyTorch has pickled.
    ///
    /// # Errors
    /// Those of the settings ([`ModelConfig::from_json`]), [`ModelError::File`] for what cannot be read, and
    /// [`ModelError::Mismatch`] with the names of missing, extra and misshapen tensors.
    pub fn from_pretrained(folder: &Path, device: &Device) -> Result<Self, ModelError> {
        let config = Self::config(folder)?;
        let mut network = config.init(device)?;
        weights::load(&mut network, &weights_file::<C>(folder)?, C::rename)?;
        Ok(Self { config, network })
    }

    /// The settings in the folder of a model.
    ///
    /// # Errors
    /// As for [`from_pretrained`](Self::from_pretrained).
    pub fn config(folder: &Path) -> Result<C, ModelError> {
        let path = folder.join(CONFIG);
        let text = std::fs::read_to_string(&path)
            .map_err(|reason| weights::file("read the network's settings", Some(&path), reason))?;
        C::from_json(&text)
    }

    /// Writes the folder, which is created if it is not there; files of the same names are replaced.
    ///
    /// # Errors
    /// [`ModelError::File`].
    pub fn save_pretrained(&self, folder: &Path) -> Result<(), ModelError> {
        let error = |path: &Path, reason| weights::file("write", Some(path), reason);
        std::fs::create_dir_all(folder).map_err(|reason| error(folder, reason))?;
        weights::save(&self.network, &folder.join(C::WEIGHTS[0]).with_extension("safetensors"))?;
        let path = folder.join(CONFIG);
        std::fs::write(&path, self.config.to_json()).map_err(|reason| error(&path, reason))
    }
}

/// The weights file in the folder of a model, the best of those that may be there.
fn weights_file<C: ModelConfig>(folder: &Path) -> Result<PathBuf, ModelError> {
    let [safetensors, pickled] = C::WEIGHTS;
    let names = [
        format!("{safetensors}.safetensors"),
        format!("{safetensors}.safetensors.index.json"),
        format!("{pickled}.bin"),
        format!("{pickled}.bin.index.json"),
    ];
    names.iter().map(|name| folder.join(name)).find(|path| path.is_file()).ok_or_else(|| {
        let reason = format!("it has none of {}", names.join(", "));
        weights::file("find the weights in", Some(folder), reason)
    })
}

/// The settings of a `config.json` of one of `classes`, without the notes about the file.
pub(crate) fn fields(text: &str) -> Result<(Value, Map<String, Value>), ModelError> {
    let mut fields: Map<String, Value> = serde_json::from_str(text)?;
    let class = fields.remove("_class_name").unwrap_or_default();
    // `_diffusers_version`, `_name_or_path`: notes about the file, not settings.
    fields.retain(|field, _| !field.starts_with('_'));
    Ok((class, fields))
}

/// The settings of a `config.json` of diffusers, which must be of this class.
pub(crate) fn read<C: DeserializeOwned>(text: &str, class: &str) -> Result<C, ModelError> {
    let (found, fields) = fields(text)?;
    if found.as_str() != Some(class) {
        return Err(ModelError::config("_class_name", &found, format!("a {class} is wanted here")));
    }
    parse(fields)
}

/// Settings that all have defaults.
pub(crate) fn parse<C: DeserializeOwned>(fields: Map<String, Value>) -> Result<C, ModelError> {
    serde_json::from_value(Value::Object(fields.clone())).map_err(|error| {
        // Each field by itself, because the error of the whole does not tell which one it was.
        let alone = |(field, value): (String, Value)| {
            let one = Map::from_iter([(field.clone(), value)]);
            Some((field, serde_json::from_value::<C>(Value::Object(one)).err()?))
        };
        ModelError::Json(match fields.into_iter().find_map(alone) {
            Some((field, error)) => serde_json::Error::custom(format_args!("`{field}`: {error}")),
            None => error,
        })
    })
}

/// The `config.json` of a class of diffusers.
pub(crate) fn write(config: &impl Serialize, class: &str) -> String {
    let mut all = Map::new();
    all.insert("_class_name".into(), class.into());
    if let Value::Object(fields) = serde_json::json!(config) {
        all.extend(fields);
    }
    format!("{:#}\n", Value::Object(all))
}
