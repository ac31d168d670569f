//! Networks against what the Python package computed with them: outputs and gradients.

use super::{Check, Devices, compare, floats};
use anyhow::{Context, Result, ensure};
use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::store::{ModuleStore, SafetensorsStore, bridge};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use immiscible_models::{
    Condition, Ctx, Denoiser, DiTConfig, NetworkConfig, Precision, Pretrained, TimeInput,
};
use std::path::{Path, PathBuf};

/// Of an output, against its largest value.
pub(super) const OUTPUT_TOLERANCE: f32 = 1e-3;
/// Of a gradient's direction, 1 − cosine, and of its norm.
const GRADIENT_TOLERANCE: f64 = 1e-3;
/// Of an output in half precision, and of the gradient of all weights.
const HALF_TOLERANCE: f32 = 5e-2;
/// A gradient smaller than this is rounding: with one token there is nothing to choose between, and its keys have none.
const NO_GRADIENT: f64 = 1e-6;

/// The folder of a family, and how its weights are to be read.
const FAMILIES: [&str; 3] = ["dit", "unet_2d", "unet_2d_condition"];

pub(super) fn checks(golden: &Path) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    for family in FAMILIES {
        let family_folder = golden.join(family);
        let entries = std::fs::read_dir(&family_folder).with_context(|| {
            format!("--golden {}: {} cannot be listed", golden.display(), family_folder.display())
        })?;
        let mut folders = entries
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<PathBuf>>>()
            .with_context(|| family_folder.display().to_string())?;
        folders.sort();
        for folder in folders {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            checks.push(Check::new(format!("network/{family}/{name}"), move |devices| {
                parity(&folder, devices)
            }));
        }
    }
    checks.push(Check::new("network/kept".into(), kept));
    Ok(checks)
}

/// What a forward pass keeps for its gradient, against the estimate, by which factor they may differ.
fn kept(devices: &Devices) -> Result<String> {
    const FACTOR: f64 = 2.0;

    // Were the matrices of its attention kept, they would be most of it.
    let (side, channels, times) = (32, 1, [90.0]);
    let config = NetworkConfig::DiTTransformer2DModel(DiTConfig {
        num_attention_heads: 2,
        attention_head_dim: 8,
        in_channels: channels,
        num_layers: 1,
        sample_size: side,
        patch_size: 1,
        ..DiTConfig::default()
    });
    let device = &devices.tested;
    let network = config.init(&device.clone().autodiff())?;
    let x = Tensor::<4>::ones([times.len(), channels, side, side], device);
    let time = TimeInput::of(&times, device);
    let held = || -> Result<Option<u64>> {
        device.sync()?;
        Ok(device.memory_pool_usage().map(|usage| usage.bytes_in_use))
    };
    let forward = || network.forward(x.clone(), time.clone(), &Condition::None, Ctx::default()).pred;
    // Its weights are made when they are first needed.
    drop(forward());
    let before = held()?;
    let pred = forward();
    let (Some(before), Some(after)) = (before, held()?) else {
        return Ok("the device does not tell what it holds".into());
    };
    drop(pred);
    let found = after.saturating_sub(before) as f64;
    let estimate = 4.0 * times.len() as f64 * config.activations(side, side, false);
    let line = format!("{:.2} MB, {:.2} MB estimated", found / 1e6, estimate / 1e6);
    ensure!((1.0 / FACTOR..FACTOR).contains(&(found / estimate)), "{line}");
    Ok(line)
}

/// The file of inputs and outputs.
pub(super) struct Io(SafetensorsStore);

impl Io {
    pub(super) fn open(path: &Path) -> Self {
        Self(SafetensorsStore::from_file(path))
    }

    pub(super) fn data(&mut self, name: &str) -> Result<Option<TensorData>> {
        self.0.get_tensor(name)?.map(|tensor| Ok(bridge::to_data(tensor)?)).transpose()
    }

    pub(super) fn tensor<const D: usize>(&mut self, name: &str, device: &Device) -> Result<Tensor<D>> {
        let data = self.data(name)?.with_context(|| format!("no tensor {name:?}"))?;
        Ok(Tensor::from_data(data, device))
    }

    pub(super) fn floats(&mut self, name: &str) -> Result<Vec<f32>> {
        let data = self.data(name)?.with_context(|| format!("no tensor {name:?}"))?;
        data.try_into_vec_as().with_context(|| name.to_owned())
    }

    fn condition(&mut self, device: &Device) -> Result<Condition> {
        Ok(if let Some(text) = self.data("text")? {
            Condition::Text(Tensor::from_data(text, device))
        } else if let Some(embedding) = self.data("embedding")? {
            Condition::Embedding(Tensor::from_data(embedding, device))
        } else if let Some(labels) = self.data("class")? {
            Condition::Class(Tensor::<1, Int>::from_data(labels, device))
        } else {
            Condition::None
        })
    }
}

/// Replaces weights by their gradients.
struct IntoGradients(GradientsParams);

impl ModuleMapper for IntoGradients {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let gradient = self.0.get::<D>(param.id);
        param.map(|w| gradient.unwrap_or_else(|| w.zeros_like()))
    }
}

fn parity(folder: &Path, devices: &Devices) -> Result<String> {
    let device = &devices.tested;
    let single = Computed::of(folder, device, Precision::F32)?;
    let output = compare("output", &single.output, &single.expected, OUTPUT_TOLERANCE)?;
    let mut worst = 0.0f64;
    for (weight, found, expected) in &single.gradients {
        worst = worst.max(gradient(weight, found, expected, GRADIENT_TOLERANCE)?);
    }
    let found = format!("output {output:.1e}, {} gradients {worst:.1e}", single.gradients.len());
    if !device.supports_dtype(DType::BF16) {
        return Ok(format!("{found}; no bf16"));
    }
    let half = Computed::of(folder, device, Precision::Bf16)?;
    let output = compare("output in bf16", &half.output, &half.expected, HALF_TOLERANCE)?;
    // Of all weights together: one whose gradient is small has it from what is rounded.
    let (found_gradient, expected): (Vec<f32>, Vec<f32>) =
        half.gradients.into_iter().flat_map(|(_, found, expected)| found.into_iter().zip(expected)).unzip();
    let gradient = gradient("all weights in bf16", &found_gradient, &expected, HALF_TOLERANCE.into())?;
    Ok(format!("{found}; in bf16 {output:.1e}, {gradient:.1e}"))
}

/// What a network computes, and what the Python package computed.
struct Computed {
    output: Vec<f32>,
    expected: Vec<f32>,
    /// The weight's name, its gradient, and what that should be.
    gradients: Vec<(String, Vec<f32>, Vec<f32>)>,
}

impl Computed {
    fn of(folder: &Path, device: &Device, precision: Precision) -> Result<Self> {
        let network =
            Pretrained::<NetworkConfig>::from_pretrained(folder, &device.clone().autodiff())?.network;
        let mut io = Io::open(&folder.join("io.safetensors"));
        let (times, condition) = (io.floats("u")?, io.condition(device)?);
        let (x, ctx) = (io.tensor("x", device)?, Ctx { precision, ..Ctx::default() });
        let pred = network.forward(x, TimeInput::of(&times, device), &condition, ctx).pred;
        let output = floats(pred.clone())?;

        let gradients = GradientsParams::from_grads((pred.clone() * pred).mean().backward(), &network);
        let gradients = network.map(&mut IntoGradients(gradients)).to_bytes()?;
        let mut gradients = Io(SafetensorsStore::from_bytes(Some(gradients)));
        let names: Vec<String> = io.0.keys()?.into_iter().filter(|name| name.starts_with("grad.")).collect();
        ensure!(names.len() >= 5, "{} gradients to compare with", names.len());
        let gradients = names.into_iter().map(|name| {
            let weight = name.trim_start_matches("grad.");
            Ok((weight.to_owned(), gradients.floats(weight)?, io.floats(&name)?))
        });
        let gradients = gradients.collect::<Result<_>>()?;
        Ok(Self { output, expected: io.floats("pred")?, gradients })
    }
}

/// The larger of 1 − cosine and the relative difference of the norms.
fn gradient(weight: &str, found: &[f32], expected: &[f32], tolerance: f64) -> Result<f64> {
    ensure!(found.len() == expected.len(), "gradient of {weight}: {} values", found.len());
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let (norm, found_norm) = (dot(expected, expected).sqrt(), dot(found, found).sqrt());
    if norm <= NO_GRADIENT {
        ensure!(
            found_norm < 10.0 * NO_GRADIENT,
            "gradient of {weight}: norm {found_norm:.1e} instead of none"
        );
        return Ok(0.0);
    }
    let error = (1.0 - dot(found, expected) / (norm * found_norm)).max((found_norm / norm - 1.0).abs());
    // Also refuses what is no number.
    ensure!(error <= tolerance, "gradient of {weight}: error {error:.1e}, allowed {tolerance:.0e}");
    Ok(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gradient_of_another_direction_or_length_does_not_pass() {
        let expected = [3.0, 4.0];
        let gradient = |found: &[f32], expected: &[f32]| gradient("w", found, expected, GRADIENT_TOLERANCE);
        assert!(gradient(&expected, &expected).unwrap() < 1e-12);
        for found in [[4.0, 3.0], [3.01, 4.0], [0.0, 0.0], [f32::NAN, 4.0]] {
            assert!(gradient(&found, &expected).is_err(), "{found:?}");
        }
        assert!(gradient(&[1e-3], &[0.0]).is_err());
        assert!(gradient(&[1e-8], &[0.0]).is_ok());
    }
}
