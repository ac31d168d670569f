//! How much memory a run takes, and how much room its checkpoints: told before it begins, and where a device failed.

use crate::device;
use crate::parts::Parts;
use burn::module::Module;
use immiscible_models::{Network, Precision};
use std::fmt::{Display, Formatter};

/// What the backward pass keeps with `train.gradient_checkpointing`, as a share: measured, see docs/training.md.
const CHECKPOINTED: f64 = 0.65;
/// A number on the device and in a batch is an f32; of bf16 it is not known how much less it takes on a GPU. Batches of image files are bytes, but their noise is not, nor are they once a
/// coupling compares them: they are counted as f32, too.
const BYTES: f64 = 4.0;

/// An estimate, in bytes.
pub(crate) struct Memory {
    /// Of the network.
    pub(crate) parameters: usize,
    /// What takes how much.
    pub(crate) parts: Vec<(String, f64)>,
    /// Of one checkpoint.
    pub(crate) checkpoint: f64,
}

impl Memory {
    /// Of a run that trains `network`. The data set is not counted where it is held in memory, nor is the program.
    pub(crate) fn of(parts: &Parts, network: &Network) -> Self {
        let (config, [channels, height, width]) = (&parts.config, parts.shape);
        let train = &config.train;
        let parameters = network.num_params();
        let weights = BYTES * parameters as f64;
        let state = BYTES * config.optimizer.state_numbers(network) as f64;
        let at_once = train.micro_batch.unwrap_or(train.batch_size);
        let kept = if train.gradient_checkpointing { CHECKPOINTED } else { 1.0 };
        let fused = device::is_the_cpu(&config.device) && train.precision == Precision::F32;
        let activations = kept * BYTES * at_once as f64 * config.model.activations(height, width, fused);

        let averages = config.ema.others.keys().map(|name| format!("average {name}"));
        let mut copies: Vec<String> = std::iter::once("average".into()).chain(averages).collect();
        if config.method.has_teacher() {
            copies.push("teacher".into());
        }
        let checkpoint = (1 + copies.len()) as f64 * weights + state;

        // Those of a part of the batch are added to those of the parts before.
        let gradients = if at_once < train.batch_size { 2.0 } else { 1.0 };
        let mut all = vec![("weights".into(), weights), ("gradients".into(), gradients * weights)];
        all.push((config.optimizer.kind.clone(), state));
        all.extend(copies.into_iter().map(|name| (name, weights)));
        if let Some(latent) = &parts.latent {
            all.push(("autoencoder".into(), BYTES * latent.vae.network.num_params() as f64));
        }
        let images = if at_once == 1 { "image" } else { "images" };
        all.push((format!("activations of {at_once} {images}"), activations));

        // Images and noise of those that wait, the one that is made and the one that is trained on.
        let image = BYTES * parts.data.shape.iter().product::<usize>() as f64;
        let noise = BYTES * (channels * height * width) as f64;
        let batches = (train.prefetch + 2) as f64 * train.batch_size as f64 * (image + noise);
        all.push(("batches".into(), batches));
        if let Some(rows) = window(parts) {
            // The images that are handed out, those that wait, and those that are paired, once more as a whole and with noise.
            all.push((format!("coupling of {rows} images"), rows as f64 * (4.0 * image + noise)));
        }
        all.push(("a checkpoint's largest file".into(), weights.max(state)));
        Self { parameters, parts: all, checkpoint }
    }

    pub(crate) fn total(&self) -> f64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// One line.
impl Display for Memory {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "about {} (", size(self.total()))?;
        for (i, (name, bytes)) in self.parts.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{name} {}", size(*bytes))?;
        }
        write!(f, ")")
    }
}

/// Images that the coupling pairs together, where it looks ahead: not where the device encodes them batch by batch.
pub(crate) fn window(parts: &Parts) -> Option<usize> {
    let encodes = parts.latent.is_some() && parts.data.latents.is_none();
    let lookahead = parts.coupling.host().filter(|_| !encodes).and_then(|host| host.lookahead());
    lookahead.map(|lookahead| lookahead.rows())
}

/// Bytes for people.
pub(crate) fn size(bytes: f64) -> String {
    match bytes {
        b if b >= 1e10 => format!("{:.1} GB", b / 1e9),
        b if b >= 1e7 => format!("{:.0} MB", b / 1e6),
        b => format!("{:.1} MB", b / 1e6),
    }
}
