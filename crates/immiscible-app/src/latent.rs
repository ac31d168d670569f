//! Training on what an autoencoder makes of images, and on what a text encoder makes of the names of their classes.

use anyhow::{Context, Result, anyhow, ensure};
use burn::tensor::{Device, Tensor, TensorData};
use immiscible_data::LatentInfo;
use immiscible_models::{AutoencoderKLConfig, CLIPTextConfig, ModelConfig, Pretrained, TextEncoder};
use ndarray::{Array4, ArrayView4, Axis};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The `[latent]` table of a config. Both folders may be the same one: that of a whole pipeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LatentConfig {
    /// The folder of the autoencoder, or of a pipeline that has one.
    pub(crate) vae: Option<PathBuf>,
    /// The folder with `tokenizer/` and `text_encoder/`, for a network that attends to a text.
    pub(crate) text_encoder: Option<PathBuf>,
    /// The text of a class: `{}` stands for its name.
    #[serde(default = "a_photo")]
    pub(crate) prompt: String,
    /// Whether latents are drawn from the autoencoder's distribution, or are its mean.
    #[serde(default)]
    pub(crate) posterior: PosteriorKind,
}

fn a_photo() -> String {
    "a photo of a {}".into()
}

/// What is taken of the autoencoder's distribution of the latents of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PosteriorKind {
    /// Its mean.
    Mean,
    /// A draw of its own for every step.
    #[default]
    Sample,
}

/// What the settings in the folders say, before any weights are read.
pub(crate) struct LatentPlan {
    /// `[C, h, w]` of the latents.
    pub(crate) shape: [usize; 3],
    /// Channels of the states of a text.
    pub(crate) text_channels: Option<usize>,
}

impl LatentConfig {
    fn vae_folder(&self) -> Result<PathBuf> {
        let folder = self.vae.as_deref();
        let folder =
            folder.context("latent.vae is unset: give the folder of an autoencoder or of a pipeline")?;
        let inside = ["vae", "vqvae"].map(|name| folder.join(name)).into_iter().find(|path| path.is_dir());
        Ok(inside.unwrap_or_else(|| folder.into()))
    }

    fn text_folders(&self) -> Option<[PathBuf; 2]> {
        self.text_encoder.as_ref().map(|folder| [folder.join("tokenizer"), folder.join("text_encoder")])
    }

    /// What the folders hold, for images `[C, H, W]`.
    ///
    /// # Errors
    /// One line that names the key and what is wrong with its folder.
    pub(crate) fn plan(&self, images: [usize; 3]) -> Result<LatentPlan> {
        let vae = settings::<AutoencoderKLConfig>("latent.vae", &self.vae_folder()?)?;
        let [channels, height, width] = images;
        vae.accepts(channels, height, width).context("latent.vae")?;
        ensure!(
            vae.out_channels == channels,
            "latent.vae: it decodes to {} channels, and the images have {channels}",
            vae.out_channels
        );
        let factor = vae.downsampling();
        let shape = [vae.latent_channels, height / factor, width / factor];
        Ok(LatentPlan { shape, text_channels: self.text_channels()? })
    }

    /// What the folders hold, for latents `[C, h, w]` that the data consist of.
    ///
    /// # Errors
    /// As [`plan`](Self::plan), and if another autoencoder made them.
    pub(crate) fn plan_cached(&self, latents: [usize; 3], info: &LatentInfo) -> Result<LatentPlan> {
        let vae = settings::<AutoencoderKLConfig>("latent.vae", &self.vae_folder()?)?;
        let [channels, _, _] = latents;
        ensure!(
            vae.latent_channels == channels,
            "latent.vae: it makes {} channels, and the latents have {channels}; give the one that made them",
            vae.latent_channels
        );
        for (key, made, has) in [
            ("scaling_factor", info.scaling_factor, vae.scaling_factor),
            ("shift_factor", info.shift_factor, vae.shift_factor.unwrap_or(0.0)),
        ] {
            ensure!(
                made.is_none_or(|made| made == has),
                "latent.vae: its {key} is {has}, and the latents were made with {}; give the one that made them",
                made.unwrap_or_default()
            );
        }
        Ok(LatentPlan { shape: latents, text_channels: self.text_channels()? })
    }

    /// Whether the weights are those that made the latents, where they say.
    ///
    /// # Errors
    /// If they are not, or cannot be read.
    pub(crate) fn check_weights(&self, info: &LatentInfo) -> Result<()> {
        let (Some(made), Some(has)) = (&info.vae_sha256, self.weights_sha256()?) else {
            return Ok(());
        };
        ensure!(
            *made == has,
            "latent.vae: its weights have the SHA-256 {has}, and the latents were made with {made}; give the one that \
             made them"
        );
        Ok(())
    }

    /// SHA-256 of the autoencoder's weights, where they are one file of safetensors.
    pub(crate) fn weights_sha256(&self) -> Result<Option<String>> {
        let path = self.vae_folder()?.join("diffusion_pytorch_model.safetensors");
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    /// Channels of the states of a text, if there are any.
    fn text_channels(&self) -> Result<Option<usize>> {
        let text = self.text_folders();
        let text =
            text.map(|[_, model]| settings::<CLIPTextConfig>("latent.text_encoder", &model)).transpose()?;
        ensure!(
            text.is_none() || self.prompt.matches("{}").count() == 1,
            "latent.prompt = {:?}: write {{}} once, where the name of the class goes",
            self.prompt
        );
        Ok(text.map(|text| text.hidden_size))
    }

    /// Reads the weights, onto a plain device.
    ///
    /// # Errors
    /// As for [`plan`](Self::plan).
    pub(crate) fn open(&self, device: &Device) -> Result<LatentSpace> {
        let folder = self.vae_folder()?;
        let vae = Pretrained::from_pretrained(&folder, device)
            .with_context(|| format!("latent.vae = {}", folder.display()))?;
        let text = self.text_folders().map(|[tokenizer, model]| {
            TextEncoder::from_pretrained(&tokenizer, &model, device)
                .with_context(|| format!("latent.text_encoder = {}", model.display()))
        });
        Ok(LatentSpace { vae, text: text.transpose()? })
    }

    /// The text of a class.
    fn prompt_of(&self, class: &str) -> String {
        self.prompt.replace("{}", class)
    }

    /// Makes the folders' names hold wherever the run's config is read.
    pub(crate) fn absolute(&self) -> Result<Self> {
        let absolute = |path: &Option<PathBuf>| {
            path.as_deref().map(|path| std::path::absolute(path).context("latent")).transpose()
        };
        Ok(Self { vae: absolute(&self.vae)?, text_encoder: absolute(&self.text_encoder)?, ..self.clone() })
    }
}

fn settings<C: ModelConfig>(key: &str, folder: &Path) -> Result<C> {
    Pretrained::<C>::config(folder).with_context(|| format!("{key} = {}", folder.display()))
}

/// The frozen networks around the one that is trained.
pub(crate) struct LatentSpace {
    pub(crate) vae: Pretrained<AutoencoderKLConfig>,
    pub(crate) text: Option<TextEncoder>,
}

/// Latents that are decoded together.
const DECODED: usize = 16;
/// Texts that are encoded together.
const CHUNK: usize = 64;

impl LatentSpace {
    /// How many times higher and wider images are than their latents.
    pub(crate) fn factor(&self) -> usize {
        self.vae.config.downsampling()
    }

    /// The images that scaled latents stand for.
    ///
    /// # Shapes
    /// `[N, C, h, w]` → `[N, C, H, W]`
    ///
    /// # Errors
    /// When the device does not return them.
    pub(crate) fn decode(&self, latents: ArrayView4<f32>, device: &Device) -> Result<Array4<f32>> {
        let chunks = latents.axis_chunks_iter(Axis(0), DECODED).map(|chunk| {
            let values: Vec<f32> = chunk.iter().copied().collect();
            let latents = Tensor::<4>::from_data(TensorData::new(values, chunk.shape().to_vec()), device);
            let images = self.vae.network.images(latents);
            let dims = images.dims();
            let values = images.into_data().try_into_vec_as::<f32>().map_err(|error| anyhow!("{error}"))?;
            anyhow::Ok(Array4::from_shape_vec(dims, values)?)
        });
        let chunks = chunks.collect::<Result<Vec<_>>>()?;
        let views: Vec<_> = chunks.iter().map(|chunk| chunk.view()).collect();
        Ok(ndarray::concatenate(Axis(0), &views)?)
    }

    /// The states of the text of every class, and after them those of the empty text, which stands for none.
    ///
    /// # Shapes
    /// → `[classes + 1, N, D]`
    pub(crate) fn class_texts(
        &self,
        config: &LatentConfig,
        classes: &[String],
        device: &Device,
    ) -> Result<Option<Tensor<3>>> {
        let Some(text) = &self.text else {
            return Ok(None);
        };
        let mut prompts: Vec<String> = classes.iter().map(|class| config.prompt_of(class)).collect();
        prompts.push(String::new());
        let states = prompts.chunks(CHUNK).map(|chunk| {
            let chunk: Vec<&str> = chunk.iter().map(String::as_str).collect();
            text.encode(&chunk, device)
        });
        Ok(Some(Tensor::cat(states.collect::<Result<Vec<_>, _>>()?, 0)))
    }
}
