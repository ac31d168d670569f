use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::Path;

use burn::store::{
    BurnToPyTorchAdapter, FloatCastAdapter, ModuleAdapter, ModuleSnapshot, ModuleStore, PyTorchToBurnAdapter,
    PytorchStore, SafetensorsStore, burn_pack::Tensor as PackTensor,
};
use burn::tensor::{DType, Device};
use serde::Deserialize;

use crate::{ModelConfig, ModelError, Network, NetworkConfig};

/// Weights travel as safetensors files with diffusers' names and layouts, such as
/// `diffusion_pytorch_model.safetensors` in the folder of a model. Those that PyTorch has pickled (`.bin`, `.pt`, `.pth`)
/// are read as well, by a reader that knows tensors only.
impl Network {
    /// Names and shapes of the tensors of a weights file, by name.
    pub fn tensors(&self) -> BTreeMap<String, Vec<usize>> {
        shapes(self)
    }

    /// Writes the weights to a file, replacing one that exists.
    ///
    /// # Errors
    /// [`ModelError::File`].
    pub fn save(&self, path: &Path) -> Result<(), ModelError> {
        save(self, path)
    }

    /// The bytes that [`save`](Self::save) would write.
    ///
    /// # Errors
    /// [`ModelError::File`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, ModelError> {
        let mut store = for_saving(SafetensorsStore::from_bytes(None));
        self.save_into(&mut store)
            .and_then(|()| store.get_bytes())
            .map_err(|reason| file(WRITE, None, reason))
    }

    /// Replaces the weights by those of a file, cast to the precision of the device.
    ///
    /// # Errors
    /// [`ModelError::File`] if it cannot be read, [`ModelError::Mismatch`] if its tensors are not those
    /// of the network; the weights are then what they were.
    pub fn load(&mut self, path: &Path) -> Result<(), ModelError> {
        load(self, path, NetworkConfig::rename)
    }

    /// Replaces the weights by those in the bytes of a safetensors file; see [`load`](Self::load).
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    pub fn load_bytes(&mut self, bytes: Vec<u8>) -> Result<(), ModelError> {
        let tensors = collect(SafetensorsStore::from_bytes(Some(bytes)), None)?;
        apply(self, tensors, None)
    }
}

const READ: &str = "read the weights";
const WRITE: &str = "write the weights";

/// Names and shapes of a module's tensors, as they are in a file.
pub(crate) fn shapes<M: ModuleSnapshot>(module: &M) -> BTreeMap<String, Vec<usize>> {
    let tensors = module.collect(None, Some(Box::new(BurnToPyTorchAdapter)), true);
    tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor.shape.to_vec())).collect()
}

/// Writes a module's tensors to a safetensors file, replacing one that exists.
pub(crate) fn save<M: ModuleSnapshot>(module: &M, path: &Path) -> Result<(), ModelError> {
    let mut store = for_saving(SafetensorsStore::from_file(path).overwrite(true));
    module.save_into(&mut store).map_err(|reason| file(WRITE, Some(path), reason))
}

/// Replaces a module's tensors by those of a file, or of all files that an index names; all or none.
pub(crate) fn load<M: ModuleSnapshot + Clone>(
    module: &mut M,
    path: &Path,
    rename: fn(&str) -> Option<&str>,
) -> Result<(), ModelError> {
    load_as(module, path, |name| rename(name).map(str::to_owned))
}

/// [`load`] with names that are made up.
pub(crate) fn load_as<M: ModuleSnapshot + Clone>(
    module: &mut M,
    path: &Path,
    rename: impl Fn(&str) -> Option<String>,
) -> Result<(), ModelError> {
    let mut tensors = Tensors::new();
    for (name, mut tensor) in read(path)? {
        let Some(name) = rename(&name) else { continue };
        tensor.name.clone_from(&name);
        if tensors.insert(name.clone(), tensor).is_some() {
            return Err(file(READ, Some(path), format!("it has `{name}` twice, under two names")));
        }
    }
    apply(module, tensors, Some(path))
}

fn for_saving(store: SafetensorsStore) -> SafetensorsStore {
    store
        .with_to_adapter(BurnToPyTorchAdapter)
        .skip_enum_variants(true)
        .clear_metadata()
        // Some readers of the format insist on this.
        .metadata("format", "pt")
}

type Tensors = BTreeMap<String, PackTensor>;

/// The tensors of a file, which its extension tells the format of, or of the files of an index.
fn read(path: &Path) -> Result<Tensors, ModelError> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => read_shards(path),
        Some("bin" | "pt" | "pth") => collect(PytorchStore::from_file(path).validate(false), Some(path)),
        _ => collect(SafetensorsStore::from_file(path).validate(false), Some(path)),
    }
}

/// `*.index.json`: the file of each tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn read_shards(path: &Path) -> Result<Tensors, ModelError> {
    let error = |reason: &dyn Display| file(READ, Some(path), reason);
    let text = std::fs::read_to_string(path).map_err(|reason| error(&reason))?;
    let index: Index = serde_json::from_str(&text).map_err(|reason| error(&reason))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut tensors = Tensors::new();
    for shard in index.weight_map.values().collect::<BTreeSet<_>>() {
        // A name with a folder in it could lead anywhere, and an index to itself.
        let name = Path::new(shard);
        if name.file_name() != Some(shard.as_ref()) || name.extension().is_some_and(|kind| kind == "json") {
            return Err(error(&format!("`{shard}` is no weights file beside it")));
        }
        tensors.extend(read(&folder.join(shard))?);
    }
    let missing: Vec<String> =
        index.weight_map.into_keys().filter(|name| !tensors.contains_key(name)).collect();
    if missing.is_empty() {
        return Ok(tensors);
    }
    Err(ModelError::Mismatch { missing, extra: Vec::new(), misshapen: Vec::new() })
}

fn collect<S: ModuleStore<Error: Display>>(mut store: S, path: Option<&Path>) -> Result<Tensors, ModelError> {
    store.get_all_tensors().cloned().map_err(|reason| file(READ, path, reason))
}

fn apply<M: ModuleSnapshot + Clone>(
    module: &mut M,
    tensors: Tensors,
    path: Option<&Path>,
) -> Result<(), ModelError> {
    let precision: DType = match module.devices().first() {
        Some(device) => Device::settings(device).float_dtype.into(),
        None => DType::F32,
    };
    let own = shapes(module);
    let tensors = renamed(tensors, &own);
    let found = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shape.to_vec())).collect();
    compare(&found, &own)?;

    let adapter = PyTorchToBurnAdapter.chain(FloatCastAdapter::to(precision));
    let mut loaded = module.clone();
    let result = loaded.apply(tensors.into_values().collect(), None, Some(Box::new(adapter)), true);
    if !result.is_success() {
        return Err(file(READ, path, &result));
    }
    *module = loaded;
    Ok(())
}

/// Layers of attention as the first versions of diffusers named them, and as it does now. It still reads the old names,
/// which most published weights of that time have.
const RENAMED: [(&str, &str); 4] =
    [(".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0.")];

/// The tensors under the names of today, where only those are names of the network and the file has them not as well.
fn renamed(mut tensors: Tensors, own: &BTreeMap<String, Vec<usize>>) -> Tensors {
    let strange: Vec<String> = tensors.keys().filter(|name| !own.contains_key(*name)).cloned().collect();
    for old in strange {
        let mut today = RENAMED.iter().map(|(from, to)| old.replace(from, to));
        if let Some(new) = today.find(|new| own.contains_key(new) && !tensors.contains_key(new))
            && let Some(mut tensor) = tensors.remove(&old)
        {
            tensor.name.clone_from(&new);
            tensors.insert(new, tensor);
        }
    }
    tensors
}

fn compare(
    found: &BTreeMap<String, Vec<usize>>,
    own: &BTreeMap<String, Vec<usize>>,
) -> Result<(), ModelError> {
    let without = |a: &BTreeMap<String, Vec<usize>>, b: &BTreeMap<String, Vec<usize>>| -> Vec<String> {
        a.keys().filter(|name| !b.contains_key(*name)).cloned().collect()
    };
    let missing = without(own, found);
    let extra = without(found, own);
    let misshapen: Vec<String> = own
        .iter()
        .filter_map(|(name, shape)| {
            let other = found.get(name).filter(|other| *other != shape)?;
            Some(format!("{name} (file {other:?}, network {shape:?})"))
        })
        .collect();
    if missing.is_empty() && extra.is_empty() && misshapen.is_empty() {
        return Ok(());
    }
    Err(ModelError::Mismatch { missing, extra, misshapen })
}

pub(crate) fn file(action: &'static str, path: Option<&Path>, reason: impl Display) -> ModelError {
    ModelError::File { action, path: path.map(Path::to_owned), reason: reason.to_string() }
}
