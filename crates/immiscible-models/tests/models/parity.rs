//! A network in the folder of a model against what the Python package computed with it.

use std::collections::BTreeMap;
use std::fs;

use burn::store::{ModuleStore, SafetensorsStore, bridge};
use immiscible_models::Pretrained;

use super::*;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The folders of a family, by name.
pub(crate) fn folders(family: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(golden().join(family)).unwrap();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders
}

/// The file of inputs and outputs.
struct Io(SafetensorsStore);

impl Io {
    fn of(folder: &Path) -> Self {
        Self(SafetensorsStore::from_file(folder.join("io.safetensors")))
    }

    fn data(&mut self, name: &str) -> Option<TensorData> {
        self.0.get_tensor(name).unwrap().map(|tensor| bridge::to_data(tensor).unwrap())
    }

    fn tensor<const D: usize>(&mut self, name: &str, device: &Device) -> Tensor<D> {
        Tensor::from_data(self.data(name).unwrap_or_else(|| panic!("no {name}")), device)
    }

    fn condition(&mut self, device: &Device) -> Condition {
        if let Some(text) = self.data("text") {
            return Condition::Text(Tensor::from_data(text, device));
        }
        if let Some(embedding) = self.data("embedding") {
            return Condition::Embedding(Tensor::from_data(embedding, device));
        }
        match self.data("class") {
            Some(labels) => Condition::Class(Tensor::<1, Int>::from_data(labels, device)),
            None => Condition::None,
        }
    }

    fn gradients(&mut self) -> Vec<String> {
        let names = self.0.keys().unwrap();
        names.into_iter().filter_map(|name| Some(name.strip_prefix("grad.")?.to_owned())).collect()
    }
}

/// The prediction for the inputs in the folder.
pub(crate) fn predict(network: &Network, folder: &Path, device: &Device) -> Tensor<4> {
    let mut io = Io::of(folder);
    let times = floats(io.tensor::<1>("u", device));
    let condition = io.condition(device);
    let x = io.tensor("x", device);
    network.forward(x, TimeInput::of(&times, device), &condition, Ctx::default()).pred
}

/// Replaces weights by their gradients.
struct IntoGradients(GradientsParams);

impl ModuleMapper for IntoGradients {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let gradient = self.0.get::<D>(param.id);
        param.map(|w| gradient.unwrap_or_else(|| w.zeros_like()))
    }
}

/// Asserts that outputs and gradients are the package's.
pub(crate) fn assert_parity(folder: &Path) {
    let name = folder.file_name().unwrap().display();
    let device = Device::flex();
    let _turn = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    let network =
        Pretrained::<NetworkConfig>::from_pretrained(folder, &device.clone().autodiff()).unwrap().network;
    let mut io = Io::of(folder);

    let pred = predict(&network, folder, &device);
    let expected = floats(io.tensor::<4>("pred", &device));
    let largest = expected.iter().fold(0.0f32, |largest, v| largest.max(v.abs()));
    let error = distance(&floats(pred.clone()), &expected) / largest;
    // GELU and its tanh approximation make a difference of 5e-5.
    assert!(error <= 2e-5, "{name}: max |Δ pred| / max |pred| = {error:e}");

    let gradients = GradientsParams::from_grads((pred.clone() * pred).mean().backward(), &network);
    let gradients = network.map(&mut IntoGradients(gradients)).to_bytes().unwrap();
    let mut gradients = Io(SafetensorsStore::from_bytes(Some(gradients)));
    let names = io.gradients();
    assert!(names.len() >= 5, "{name}: {names:?}");
    let mut worst = 1.0f64;
    for weight in names {
        let vector = |data: Option<TensorData>| data.unwrap().try_into_vec_as::<f32>().unwrap();
        let own = vector(gradients.data(&weight));
        let expected = vector(io.data(&format!("grad.{weight}")));
        let dot =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
        let norm = dot(&expected, &expected).sqrt();
        let own_norm = dot(&own, &own).sqrt();
        let cosine = dot(&own, &expected) / (norm * own_norm);
        // With one token there is nothing to choose between, and its keys have no gradient.
        if norm > 1e-6 {
            assert!(cosine > 0.9999, "{name}: {weight}: cosine {cosine}, norm {norm:e}");
            assert!((own_norm / norm - 1.0).abs() <= 1e-4, "{name}: {weight}: norm {own_norm:e} ≠ {norm:e}");
            worst = worst.min(cosine);
        } else {
            assert!(own_norm < 1e-5, "{name}: {weight}: no gradient");
        }
    }
    println!("{name}: error {error:.1e}, 1 − cosine {:.1e}", 1.0 - worst);
}

/// Asserts that a folder written anew is read as the same network, and that its settings and the names and
/// shapes of its weights are those that the package wrote.
pub(crate) fn assert_round_trip(folder: &Path) {
    let device = Device::flex();
    let copy = tempfile::tempdir().unwrap();
    let _turn = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    let model = Pretrained::<NetworkConfig>::from_pretrained(folder, &device).unwrap();
    model.save_pretrained(copy.path()).unwrap();
    let again = Pretrained::<NetworkConfig>::from_pretrained(copy.path(), &device).unwrap();
    assert_eq!(again.config, model.config);
    assert_eq!(
        floats(predict(&again.network, folder, &device)),
        floats(predict(&model.network, folder, &device)),
        "{folder:?}"
    );
    let shapes = |folder: &Path| -> BTreeMap<String, Vec<usize>> {
        let mut store = SafetensorsStore::from_file(folder.join("diffusion_pytorch_model.safetensors"));
        let tensors = store.get_all_tensors().unwrap();
        tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shape.to_vec())).collect()
    };
    assert_eq!(shapes(copy.path()), shapes(folder), "{folder:?}");
    assert_eq!(model.network.tensors(), shapes(folder), "{folder:?}");
    let fields = |folder: &Path| {
        let text = fs::read_to_string(folder.join("config.json")).unwrap();
        // 1 and 1.0 are the same number.
        let text = text.replace(".0,\n", ",\n");
        let mut fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
        fields.remove("_diffusers_version");
        fields
    };
    assert_eq!(fields(copy.path()), fields(folder), "{folder:?}");
}

/// Asserts that the settings are those of the package, all of them, with its defaults.
pub(crate) fn assert_defaults(family: &str, config: &NetworkConfig) {
    type Fields = serde_json::Map<String, serde_json::Value>;
    let text = fs::read_to_string(golden().join(format!("{family}_defaults.json"))).unwrap();
    let mut defaults: Fields = serde_json::from_str(&text).unwrap();
    defaults.insert("_class_name".into(), config.class_name().into());
    assert_eq!(NetworkConfig::from_json(&serde_json::json!(defaults).to_string()).unwrap(), *config);
    let own: Fields = serde_json::from_str(&config.to_json()).unwrap();
    assert!(own.keys().eq(defaults.keys()), "{own:?}");
}
