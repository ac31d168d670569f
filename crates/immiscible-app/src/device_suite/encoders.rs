//! The networks beside the one that is trained, against what the Python packages computed: latents, text, the perceptual distance.

use super::networks::{Io, OUTPUT_TOLERANCE};
use super::{Check, Devices, compare, floats};
use anyhow::{Context, Result};
use burn::tensor::Tensor;
use immiscible_models::{AutoencoderKLConfig, CLIPTextConfig, Ctx, Lpips, Pretrained};
use std::path::Path;

/// Of the features in the perceptual distance that is compared.
const LPIPS_CHANNELS: [usize; 5] = [4, 6, 8, 8, 8];

/// A check by the name of its folder or file.
type Parity = fn(&Path, &Devices) -> Result<String>;

const PARITIES: [(&str, Parity); 5] = [
    ("autoencoder_kl", autoencoder),
    ("autoencoder_kl_flat", autoencoder),
    ("clip_text", text),
    ("clip_text_former", text),
    ("lpips", lpips),
];

pub(super) fn checks(golden: &Path) -> Vec<Check> {
    let check = |(name, parity): (&str, Parity)| {
        let path = golden.join(name);
        Check::new(format!("encoder/{name}"), move |devices| parity(&path, devices))
    };
    PARITIES.into_iter().map(check).collect()
}

/// The errors of what has a name in the file of outputs.
fn errors<const N: usize>(io: &mut Io, found: [(&str, Vec<f32>); N]) -> Result<String> {
    let errors = found.into_iter().map(|(name, found)| {
        let error = compare(name, &found, &io.floats(name)?, OUTPUT_TOLERANCE)?;
        Ok(format!("{name} {error:.1e}"))
    });
    Ok(errors.collect::<Result<Vec<_>>>()?.join(", "))
}

fn autoencoder(folder: &Path, devices: &Devices) -> Result<String> {
    let device = &devices.tested;
    let network = Pretrained::<AutoencoderKLConfig>::from_pretrained(folder, device)?.network;
    let mut io = Io::open(&folder.join("io.safetensors"));
    let latents = network.latents(io.tensor("x", device)?, Some(io.tensor("noise", device)?));
    let images = network.images(io.tensor("latents", device)?);
    errors(&mut io, [("latents", floats(latents)?), ("out", floats(images)?)])
}

fn text(folder: &Path, devices: &Devices) -> Result<String> {
    let device = &devices.tested;
    let network = Pretrained::<CLIPTextConfig>::from_pretrained(folder, device)?.network;
    let mut io = Io::open(&folder.join("io.safetensors"));
    let ids = io.data("ids")?.context("no tensor \"ids\"")?;
    let output = network.forward(Tensor::from_data(ids, device), Ctx::default());
    let (hidden, pooled) = (floats(output.last_hidden_state)?, floats(output.pooled)?);
    errors(&mut io, [("last_hidden_state", hidden), ("pooled", pooled)])
}

fn lpips(name: &Path, devices: &Devices) -> Result<String> {
    let device = &devices.tested;
    let network = Lpips::with_channels(&name.with_extension("safetensors"), LPIPS_CHANNELS, device)?;
    let mut io = Io::open(&name.with_file_name("lpips_io.safetensors"));
    let a = io.tensor::<4>("a", &device.clone().autodiff())?.require_grad();
    let distance = network.forward(a.clone(), io.tensor("b", device)?);
    let gradient = a.grad(&distance.clone().sum().backward()).context("no gradient of \"a\"")?;
    errors(&mut io, [("distance", floats(distance)?), ("grad.a", floats(gradient)?)])
}
