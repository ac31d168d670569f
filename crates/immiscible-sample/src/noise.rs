use burn::prelude::*;
use burn::tensor::TensorData;
use immiscible_random::{Key, Stream};

/// Where a run's standard normal noise comes from.
pub trait NoiseSource {
    /// What x_T is made of.
    ///
    /// # Shapes
    /// `shape` is `[B, C, H, W]`.
    fn prior(&mut self, shape: [usize; 4], device: &Device) -> Tensor<4>;

    /// What step number `step` (0 is the noisiest) adds, if its kernel adds noise; `draw` counts from 0 if it adds several.
    ///
    /// # Shapes
    /// `shape` is `[B, C, H, W]`.
    fn step(&mut self, step: usize, draw: usize, shape: [usize; 4], device: &Device) -> Tensor<4>;
}

/// Steps are counted in these many bits of a key's step, draws in those above.
const DRAW_BITS: u32 = 32;

/// Noise that depends on the seed and the number of the image alone: an image is the same in whatever
/// batch, process or order it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeededNoise {
    seed: u64,
    first_image: u64,
}

impl SeededNoise {
    /// For a batch whose first image is number `first_image` of all those with this seed.
    pub fn new(seed: u64, first_image: u64) -> Self {
        Self { seed, first_image }
    }

    fn normals(self, key: Key, shape: [usize; 4], device: &Device) -> Tensor<4> {
        let row_len: usize = shape[1..].iter().product();
        let mut values = vec![0.0; shape[0] * row_len];
        key.fill_normals(self.first_image, row_len, &mut values);
        Tensor::from_data(TensorData::new(values, shape), device)
    }
}

impl NoiseSource for SeededNoise {
    fn prior(&mut self, shape: [usize; 4], device: &Device) -> Tensor<4> {
        self.normals(Key::new(self.seed).stream(Stream::PRIOR), shape, device)
    }

    fn step(&mut self, step: usize, draw: usize, shape: [usize; 4], device: &Device) -> Tensor<4> {
        let address = (draw as u64) << DRAW_BITS | step as u64;
        self.normals(Key::new(self.seed).step(address).stream(Stream::SAMPLER), shape, device)
    }
}

/// A start that is given, and [`SeededNoise`] for whatever the steps add.
#[derive(Debug, Clone)]
pub struct GivenNoise {
    prior: Tensor<4>,
    steps: SeededNoise,
}

impl GivenNoise {
    /// `prior` `[B, C, H, W]` is what x_T is made of.
    pub fn new(prior: Tensor<4>, steps: SeededNoise) -> Self {
        Self { prior, steps }
    }
}

impl NoiseSource for GivenNoise {
    fn prior(&mut self, _shape: [usize; 4], _device: &Device) -> Tensor<4> {
        self.prior.clone()
    }

    fn step(&mut self, step: usize, draw: usize, shape: [usize; 4], device: &Device) -> Tensor<4> {
        self.steps.step(step, draw, shape, device)
    }
}
