use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;

use burn::module::Module;
use burn::store::{
    BurnToPyTorchAdapter, FloatCastAdapter, ModuleAdapter, ModuleSnapshot, ModuleStore, PyTorchToBurnAdapter,
    SafetensorsStore,
};
use burn::tensor::{DType, Device};

use crate::{ModelError, Network};

/// Weights travel as one safetensors file with diffusers' names and layouts, such as
/// `diffusion_pytorch_model.safetensors` in the folder of a model.
impl Network {
    /// Names and shapes of the tensors of a weights file, by name.
    pub fn tensors(&self) -> BTreeMap<String, Vec<usize>> {
        let tensors = self.collect(None, Some(Box::new(BurnToPyTorchAdapter)), true);
        tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor.shape.to_vec())).collect()
    }

    /// Writes the weights to a file, replacing one that exists.
    ///
    /// # Errors
    /// [`ModelError::File`].
    pub fn save(&self, path: &Path) -> Result<(), ModelError> {
        let mut store = for_saving(SafetensorsStore::from_file(path).overwrite(true));
        self.save_into(&mut store).map_err(|reason| file("write", Some(path), reason))
    }

    /// The bytes that [`save`](Self::save) would write.
    ///
    /// # Errors
    /// [`ModelError::File`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, ModelError> {
        let mut store = for_saving(SafetensorsStore::from_bytes(None));
        self.save_into(&mut store)
            .and_then(|()| store.get_bytes())
            .map_err(|reason| file("write", None, reason))
    }

    /// Replaces the weights by those of a file, cast to the precision of the device.
    ///
    /// # Errors
    /// [`ModelError::File`] if it cannot be read, [`ModelError::Mismatch`] if its tensors are not those
    /// of the network; the weights are then what they were.
    pub fn load(&mut self, path: &Path) -> Result<(), ModelError> {
        self.load_store(SafetensorsStore::from_file(path), Some(path))
    }

    /// Replaces the weights by those in the bytes of a file; see [`load`](Self::load).
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    pub fn load_bytes(&mut self, bytes: Vec<u8>) -> Result<(), ModelError> {
        self.load_store(SafetensorsStore::from_bytes(Some(bytes)), None)
    }

    fn load_store(&mut self, store: SafetensorsStore, path: Option<&Path>) -> Result<(), ModelError> {
        let error = |reason: &dyn Display| file("read", path, reason);
        let precision: DType = match self.devices().first() {
            Some(device) => Device::settings(device).float_dtype.into(),
            None => DType::F32,
        };
        let mut store = store
            .with_from_adapter(PyTorchToBurnAdapter.chain(FloatCastAdapter::to(precision)))
            .skip_enum_variants(true)
            .allow_partial(true)
            .validate(false);

        let found = store.get_all_tensors().map_err(|reason| error(&reason))?;
        let found: BTreeMap<String, Vec<usize>> =
            found.iter().map(|(name, tensor)| (name.clone(), tensor.shape.to_vec())).collect();
        compare(&found, &self.tensors())?;

        let mut loaded = self.clone();
        let result = loaded.load_from(&mut store).map_err(|reason| error(&reason))?;
        if !result.is_success() {
            return Err(error(&result));
        }
        *self = loaded;
        Ok(())
    }
}

fn for_saving(store: SafetensorsStore) -> SafetensorsStore {
    store
        .with_to_adapter(BurnToPyTorchAdapter)
        .skip_enum_variants(true)
        .clear_metadata()
        // Some readers of the format insist on this.
        .metadata("format", "pt")
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

fn file(action: &'static str, path: Option<&Path>, reason: impl Display) -> ModelError {
    ModelError::File { action, path: path.map(Path::to_owned), reason: reason.to_string() }
}
