use std::path::Path;

use burn::module::Module;
use burn::nn::PaddingConfig2d;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::activation::relu;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{Device, Tensor, TensorData};

use crate::convolution::Convolve;
use crate::{ModelError, weights};

/// How different two images look (Zhang et al. 2018, arXiv 1801.03924): the distance of their features in VGG-16, weighted by
/// what people see.
///
/// Features at five depths are normalised to unit length at every pixel, their squared differences are summed over the channels
/// with trained weights, averaged over the pixels, and added up (eq. 1).
#[derive(Module, Debug)]
pub struct Lpips {
    /// The 13 convolutions of VGG-16, 3×3.
    convs: Vec<Conv2d>,
    /// For each depth the weights of its channels.
    heads: Vec<Conv2d>,
}

/// Where each convolution of VGG-16 stands among its layers, by the depth that it leads to. Before every depth but the first
/// its feature maps are halved.
const LAYERS: [&[usize]; DEPTHS] = [&[0, 2], &[5, 7], &[10, 12, 14], &[17, 19, 21], &[24, 26, 28]];
const DEPTHS: usize = 5;
/// Channels at each depth.
const VGG16: [usize; DEPTHS] = [64, 128, 256, 512, 512];
/// Mean and standard deviation of red, green and blue, for images in [−1, 1].
const SHIFT: [f32; 3] = [-0.030, -0.088, -0.188];
const SCALE: [f32; 3] = [0.458, 0.448, 0.450];

/// Images are halved four times.
const LEAST: usize = 16;

impl Lpips {
    /// Reads the weights, those of the features and of the channels in one file: the state dict of `lpips.LPIPS(net="vgg")` as
    /// safetensors, or pickled by PyTorch (`.pth`).
    ///
    /// # Errors
    /// [`ModelError::File`] for what cannot be read, [`ModelError::Mismatch`] with the names of missing, extra and misshapen
    /// tensors.
    pub fn from_file(path: &Path, device: &Device) -> Result<Self, ModelError> {
        Self::with_channels(path, VGG16, device)
    }

    /// As [`from_file`](Self::from_file), for features with other numbers of channels at their five depths.
    ///
    /// # Errors
    /// As for [`from_file`](Self::from_file).
    pub fn with_channels(path: &Path, channels: [usize; 5], device: &Device) -> Result<Self, ModelError> {
        let mut before = 3;
        let mut convs = Vec::new();
        for (layers, width) in LAYERS.into_iter().zip(channels) {
            for _ in layers {
                let padding = PaddingConfig2d::Explicit(1, 1, 1, 1);
                convs.push(Conv2dConfig::new([before, width], [3, 3]).with_padding(padding).init(device));
                before = width;
            }
        }
        let head = |width| Conv2dConfig::new([width, 1], [1, 1]).with_bias(false).init(device);
        let mut network = Self { convs, heads: channels.into_iter().map(head).collect() };
        weights::load_as(&mut network, path, rename)?;
        Ok(network)
    }

    /// The distance of every pair.
    ///
    /// # Shapes
    /// `[B, 3, H, W]` twice, in [−1, 1], H and W at least 16 → `[B]`
    ///
    /// # Panics
    /// If the shapes are others.
    pub fn forward(&self, a: Tensor<4>, b: Tensor<4>) -> Tensor<1> {
        let [_, channels, height, width] = a.dims();
        assert!(
            a.dims() == b.dims() && channels == 3 && height.min(width) >= LEAST,
            "pairs of [B, 3, H, W] of at least {LEAST}×{LEAST}, not {:?} and {:?}",
            a.dims(),
            b.dims()
        );
        let depths = self.features(a).into_iter().zip(self.features(b)).zip(&self.heads);
        let terms = depths.map(|((a, b), head)| {
            let difference = (unit(a) - unit(b)).square();
            head.convolve(difference).flatten::<2>(1, 3).mean_dim(1).squeeze_dim::<1>(1)
        });
        terms.reduce(|sum, term| sum + term).expect("five depths")
    }

    /// The feature maps at the five depths.
    fn features(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        let device = &x.device();
        let channel =
            |values: [f32; 3]| Tensor::<4>::from_data(TensorData::new(values.to_vec(), [1, 3, 1, 1]), device);
        let mut x = (x - channel(SHIFT)) / channel(SCALE);
        let mut convs = self.convs.iter();
        let mut features = Vec::with_capacity(DEPTHS);
        for layers in LAYERS {
            if !features.is_empty() {
                x = max_pool2d(x, MaxPoolOptions::new([2, 2]).with_stride([2, 2]));
            }
            for conv in convs.by_ref().take(layers.len()) {
                x = relu(conv.convolve(x));
            }
            features.push(x.clone());
        }
        features
    }
}

/// x/|x| at every pixel; 0 stays 0.
fn unit(x: Tensor<4>) -> Tensor<4> {
    // Under the root, so that the gradient at 0 is finite.
    let norm = (x.clone().square().sum_dim(1) + 1e-20).sqrt();
    x / (norm + 1e-10)
}

/// `net.slice2.5.weight` → `convs.2.weight`, `lin0.model.1.weight` → `heads.0.weight`.
fn rename(name: &str) -> Option<String> {
    let parts: Vec<&str> = name.split('.').collect();
    match parts[..] {
        // The heads a second time, and constants.
        ["lins" | "scaling_layer", ..] => None,
        [head, "model", "1", kind] if head.starts_with("lin") => {
            Some(format!("heads.{}.{kind}", head.trim_start_matches("lin")))
        }
        ["net", _, layer, kind] => {
            let mut layers = LAYERS.into_iter().flatten();
            let place = layers.position(|known| known.to_string() == layer);
            Some(place.map_or_else(|| name.to_owned(), |place| format!("convs.{place}.{kind}")))
        }
        _ => Some(name.to_owned()),
    }
}
