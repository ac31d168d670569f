//! The perceptual distance: parity with PyTorch's layers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::store::{ModuleStore, SafetensorsStore, bridge};
use burn::tensor::{Device, Tensor, TensorData};
use immiscible_models::{Lpips, ModelError};

use super::{distance, floats};

const CHANNELS: [usize; 5] = [4, 6, 8, 8, 8];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn io() -> BTreeMap<String, TensorData> {
    let mut store = SafetensorsStore::from_file(golden("lpips_io.safetensors"));
    let tensors = store.get_all_tensors().unwrap();
    tensors.iter().map(|(name, tensor)| (name.clone(), bridge::to_data(tensor).unwrap())).collect()
}

#[test]
fn distances_and_gradients_are_pytorchs() {
    let device = Device::flex();
    let lpips = Lpips::with_channels(&golden("lpips.safetensors"), CHANNELS, &device).unwrap();
    let io = io();
    let a = Tensor::<4>::from_data(io["a"].clone(), &device.clone().autodiff()).require_grad();
    let b = Tensor::<4>::from_data(io["b"].clone(), &device);
    let d = lpips.forward(a.clone(), b.clone());
    let expected = io["distance"].try_to_vec::<f32>().unwrap();
    let found: Vec<f32> = d.clone().into_data().try_into_vec_as().unwrap();
    assert!(distance(&found, &expected) < 1e-5, "{found:?}, {expected:?}");
    let gradient = floats(a.grad(&d.sum().backward()).unwrap());
    let expected = io["grad.a"].try_to_vec::<f32>().unwrap();
    let largest = expected.iter().map(|v| v.abs()).fold(0.0, f32::max);
    assert!(distance(&gradient, &expected) < 1e-4 * largest, "off by {}", distance(&gradient, &expected));

    let same = floats_1(lpips.forward(b.clone(), b));
    assert!(same.iter().all(|d| *d == 0.0), "{same:?}");
}

/// Equal images, black features: nothing in the gradient that is not finite.
#[test]
fn the_gradient_is_finite_where_nothing_differs() {
    let device = Device::flex();
    let lpips = Lpips::with_channels(&golden("lpips.safetensors"), CHANNELS, &device).unwrap();
    for value in [-1.0, 0.0, 1.0] {
        let a = Tensor::<4>::full([1, 3, 16, 16], value, &device.clone().autodiff()).require_grad();
        let b = Tensor::<4>::full([1, 3, 16, 16], value, &device);
        let gradients = lpips.forward(a.clone(), b).sum().backward();
        assert!(floats(a.grad(&gradients).unwrap()).iter().all(|g| g.is_finite()), "{value}");
    }
}

#[test]
fn other_files_are_refused_by_name() {
    let device = Device::flex();
    let refuse = |path: &Path| Lpips::from_file(path, &device).unwrap_err();
    let narrow = refuse(&golden("lpips.safetensors"));
    assert!(matches!(&narrow, ModelError::Mismatch { misshapen, .. } if !misshapen.is_empty()), "{narrow}");
    let strange = refuse(&golden("lpips_io.safetensors"));
    assert!(matches!(&strange, ModelError::Mismatch { extra, .. } if extra.len() == 4), "{strange}");
    assert!(refuse(Path::new("nowhere.safetensors")).to_string().contains("nowhere"));
}

fn floats_1(x: Tensor<1>) -> Vec<f32> {
    x.into_data().try_into_vec_as().unwrap()
}
