//! `immiscible train --check-device`: whether a device computes with the configured network what the CPU computes.
//!
//! A backend of GPUs whose kernel does not start may go on with a buffer that nothing was written to (Burn's issue 5352). The
//! loss can stay finite then, and nothing is learnt.

use crate::parts::Parts;
use anyhow::{Context, Result, ensure};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use clap::ValueEnum;
use immiscible_models::{Condition, Ctx, Denoiser, Network, Precision, TimeInput};
use immiscible_random::{Key, Stream};

/// When a device is checked before the first step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    /// Always.
    Always,
    /// If it is a GPU.
    Auto,
    /// Never.
    Never,
}

impl When {
    /// Whether the device of this name is to be checked.
    pub(crate) fn checks(self, device: &str) -> bool {
        match self {
            Self::Always => true,
            Self::Auto => device != "flex" && cfg!(feature = "flex"),
            Self::Never => false,
        }
    }
}

/// Times of the images that the CPU computes. The device computes as many images as a step does, these again and again: its
/// kernels are chosen by size, and the ones to check are those of training.
const TIMES: [f32; 2] = [90.0, 610.0];

/// Largest error. A GPU may round the factors of a product to 10 bits (TF32), which leaves some thousandths after all layers, and bf16
/// has 8 bits; a kernel that did not run leaves about 1.
fn tolerance(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 2e-2,
        Precision::Bf16 => 1e-1,
    }
}

/// A weight's gradient below this share of the whole gradient is compared as if it had this share: of those that are small beside the
/// others little is left but rounding.
const SMALL: f64 = 0.05;
/// Fresh networks have layers of zeros, behind which no error would show.
const PERTURBATION: f64 = 0.02;
/// Of what is random here.
const KEY: Key = Key::new(0x1dea);

/// Compares one forward and backward pass with the CPU's, and returns the largest errors.
///
/// # Errors
/// If they are too large, or the device does not answer.
pub(crate) fn compare(parts: &Parts, cpu: &Device) -> Result<Errors> {
    let train = &parts.config.train;
    let rows = train.micro_batch.unwrap_or(train.batch_size);
    let different = if rows.is_multiple_of(TIMES.len()) { TIMES.len() } else { 1 };

    cpu.seed(KEY.stream(Stream::INIT).device_seed());
    let network = parts.config.model.clone().without_dropout().init(cpu)?;
    let network = network.map(&mut Perturb(0)).train();
    let on = |device: &Device, rows: usize| -> Inputs {
        let [channels, height, width] = parts.shape;
        let mut images = vec![0.0; different * channels * height * width];
        KEY.stream(Stream::NOISE).fill_normals(0, channels * height * width, &mut images);
        let images = TensorData::new(images.repeat(rows / different), [rows, channels, height, width]);
        let classes =
            parts.classes.as_ref().map(|classes| [0, classes.null][..different].repeat(rows / different));
        Inputs {
            x: Tensor::from_data(images, device),
            time: TimeInput::of(&TIMES[..different].repeat(rows / different), device),
            condition: parts.condition(&classes.unwrap_or_default()).to_device(device),
        }
    };
    let forked = network.clone().fork(&parts.training_device());
    let found = Computed::of(&forked, on(&parts.device, rows), train.precision)?;
    found.errors(&Computed::of(&network, on(cpu, different), Precision::F32)?, tolerance(train.precision))
}

struct Inputs {
    x: Tensor<4>,
    time: TimeInput,
    condition: Condition,
}

/// Of mean(output²).
struct Computed {
    loss: f32,
    output: Vec<f32>,
    /// With the name of each weight.
    gradients: Vec<(String, Vec<f32>)>,
}

/// By how much a device differs from the CPU, relative to what the CPU computes.
#[derive(Debug)]
pub(crate) struct Errors {
    /// |output − output of the CPU| / |output of the CPU|.
    pub(crate) output: f64,
    /// The largest of the weights' gradients, likewise.
    pub(crate) gradient: f64,
}

impl Computed {
    fn of(network: &Network, inputs: Inputs, precision: Precision) -> Result<Self> {
        let Inputs { x, time, condition } = inputs;
        let output = network.forward(x, time, &condition, Ctx { precision, ..Ctx::default() }).pred;
        let loss = output.clone().square().mean();
        let gradients = GradientsParams::from_grads(loss.backward(), network);
        let mut read = Read { gradients, path: Vec::new(), found: Vec::new() };
        network.visit(&mut read);
        let gradients = read.found.into_iter().map(|(name, gradient)| Ok((name, floats(gradient)?)));
        Ok(Self {
            loss: floats(loss)?.first().copied().context("no loss comes back from the device")?,
            output: floats(output)?,
            gradients: gradients.collect::<Result<_>>()?,
        })
    }

    /// Against what the CPU computed for fewer images, of which these are repetitions.
    ///
    /// # Errors
    /// If one is above `tolerance`.
    fn errors(&self, cpu: &Self, tolerance: f64) -> Result<Errors> {
        ensure!(self.loss.is_finite(), "its loss is {}, and {} on the CPU", self.loss, cpu.loss);
        let mut errors = Errors { output: 0.0, gradient: 0.0 };
        for image in self.output.chunks(cpu.output.len()) {
            errors.output = errors.output.max(error("the output", image, &cpu.output, 0.0, tolerance)?);
        }
        let whole = cpu.gradients.iter().map(|(_, gradient)| norm(gradient).powi(2)).sum::<f64>().sqrt();
        ensure!(
            self.gradients.len() == cpu.gradients.len(),
            "it computes {} gradients, and {} on the CPU",
            self.gradients.len(),
            cpu.gradients.len()
        );
        for ((name, gradient), (_, expected)) in self.gradients.iter().zip(&cpu.gradients) {
            let what = format!("the gradient of {name}");
            let error = error(&what, gradient, expected, SMALL * whole, tolerance)?;
            errors.gradient = errors.gradient.max(error);
        }
        Ok(errors)
    }
}

/// |found − expected| / max(|expected|, least).
fn error(what: &str, found: &[f32], expected: &[f32], least: f64, tolerance: f64) -> Result<f64> {
    ensure!(
        found.len() == expected.len(),
        "{what} has {} values, and {} on the CPU",
        found.len(),
        expected.len()
    );
    let difference: Vec<f32> = found.iter().zip(expected).map(|(a, b)| a - b).collect();
    let error = norm(&difference) / norm(expected).max(least);
    // Also refuses what is no number.
    ensure!(
        error <= tolerance,
        "{what} differs from the CPU's by {error:.1e} of its size, allowed {tolerance:.0e}"
    );
    Ok(error)
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt()
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    let data = tensor.try_into_data().context("reading the device")?;
    data.try_into_vec_as().context("reading the device")
}

/// Adds to every weight a little that depends on nothing but its position in the network.
struct Perturb(u64);

impl ModuleMapper for Perturb {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.0 += 1;
        let key = KEY.step(self.0).stream(Stream::INIT);
        param.map(|weight| {
            let shape = weight.shape();
            let mut normals = vec![0.0; shape.num_elements()];
            key.fill_normals(0, 1, &mut normals);
            let device = weight.device();
            weight + Tensor::from_data(TensorData::new(normals, shape), &device) * PERTURBATION
        })
    }
}

/// Takes the gradients by the names of their weights.
struct Read {
    gradients: GradientsParams,
    path: Vec<String>,
    found: Vec<(String, Tensor<1>)>,
}

impl ModuleVisitor for Read {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            self.found.push((self.path.join("."), gradient.flatten(0, D - 1)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn parts(preset: &str, settings: &[&str]) -> Parts {
        let mut table = config::preset(preset).unwrap();
        settings.iter().for_each(|setting| config::set(&mut table, setting).unwrap());
        Parts::open(table).unwrap().0
    }

    #[test]
    fn the_cpu_agrees_with_itself_on_repeated_images() {
        for (preset, setting) in [
            ("digits", "train.batch_size=16"),
            // Two images cannot be repeated to an odd number.
            ("digits", "train.micro_batch=3"),
            ("digits", "model.dropout=0.5"),
            ("digits", "train.gradient_checkpointing=true"),
            ("digits-classes", "train.batch_size=8"),
        ] {
            let errors = compare(&parts(preset, &[setting]), &Device::flex())
                .unwrap_or_else(|error| panic!("{preset} {setting}: {error:#}"));
            assert!(errors.output < 1e-4 && errors.gradient < 1e-3, "{preset} {setting}: {errors:?}");
        }
    }

    #[test]
    fn half_precision_is_nearly_single_precision() {
        let errors =
            compare(&parts("digits-classes", &["train.precision=\"bf16\""]), &Device::flex()).unwrap();
        assert!(errors.output > 1e-4 && errors.gradient > 1e-4, "{errors:?}");
    }

    #[test]
    fn what_was_not_computed_is_found_and_named() {
        const TOLERANCE: f64 = 0.02;
        let computed = || Computed {
            loss: 0.5,
            output: vec![1.0, -2.0, 3.0, 4.0],
            gradients: vec![("a".into(), vec![3.0, 4.0]), ("b".into(), vec![0.1; 4])],
        };
        assert!(computed().errors(&computed(), TOLERANCE).is_ok());
        let refused = |change: fn(&mut Computed)| {
            let mut found = computed();
            change(&mut found);
            let line = found.errors(&computed(), TOLERANCE).expect_err("another result").to_string();
            assert_eq!(line.lines().count(), 1, "{line}");
            line
        };
        assert!(refused(|found| found.loss = f32::NAN).contains("loss is NaN"));
        // Of the second repetition only.
        let line = refused(|found| found.output = [found.output.clone(), vec![0.0; 4]].concat());
        assert!(line.contains("the output differs") && line.contains("1.0e0"), "{line}");
        assert!(refused(|found| found.output[2] = f32::NAN).contains("the output"));
        assert!(refused(|found| found.gradients[0].1 = vec![0.0; 2]).contains("the gradient of a"));
        assert!(refused(|found| found.gradients[1].1 = vec![0.0; 4]).contains("the gradient of b"));
        assert!(refused(|found| found.gradients.truncate(1)).contains("1 gradients"));
    }

    #[test]
    fn gpus_are_checked_unless_told_otherwise() {
        assert!(When::Auto.checks("cuda:1") && When::Auto.checks("vulkan") && !When::Auto.checks("flex"));
        assert!(When::Always.checks("flex") && !When::Never.checks("cuda"));
    }
}
