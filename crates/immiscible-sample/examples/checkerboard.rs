//! Samples from a data set of two images, a checkerboard and its negative, with the best possible network
//! for it, so that nothing has to be trained.

use burn::prelude::*;
use burn::tensor::activation::softmax;
use immiscible_models::{Condition, Ctx, Denoiser, Output, TimeInput};
use immiscible_sample::{SampleConfig, Sampler, SeededNoise};
use immiscible_schedule::{ObjectiveConfig, ScheduleConfig};

const SIZE: usize = 8;

/// E[x0 | x_t] on the flow schedule: the mean of the data, weighted by how well each explains x_t.
struct Best {
    data: Tensor<4>,
}

impl Denoiser for Best {
    fn forward(&self, x: Tensor<4>, t: TimeInput, _: &Condition, _: Ctx<'_>) -> Output {
        let sigma = t.u.reshape([-1, 1]) / 1000.0;
        let alpha: Tensor<4> = (sigma.clone() * -1.0 + 1.0).reshape([-1, 1, 1, 1]);
        let weigh = |image: usize| {
            let residual = x.clone() - alpha.clone() * self.data.clone().narrow(0, image, 1);
            residual.square().flatten::<2>(1, 3).sum_dim(1) / sigma.clone().square() * -0.5
        };
        let weights = softmax(Tensor::cat(vec![weigh(0), weigh(1)], 1), 1);
        let pred = weights.matmul(self.data.clone().flatten::<2>(1, 3)).reshape(x.dims());
        Output { pred, aux: vec![], taps: vec![], heads: vec![] }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex();
    let checkerboard: Vec<f32> =
        (0..SIZE * SIZE).map(|i| if (i / SIZE + i % SIZE).is_multiple_of(2) { 1.0 } else { -1.0 }).collect();
    let image = Tensor::<1>::from_floats(checkerboard.as_slice(), &device).reshape([1, 1, SIZE, SIZE]);
    let network = Best { data: Tensor::cat(vec![image.clone(), image * -1.0], 0) };

    let (schedule, objective) = (ScheduleConfig::new("flow").build()?, ObjectiveConfig::new("x0").build()?);
    let config = SampleConfig { steps: 20, ..SampleConfig::default() };
    let sampler = Sampler::new(&config, schedule.as_ref(), objective.as_ref())?;
    let images = sampler.sample(
        &mut sampler.predictor(&network),
        &mut SeededNoise::new(0, 0),
        [4, 1, SIZE, SIZE],
        &Condition::None,
        &device,
        |progress| {
            println!("step {:2} of {}: sigma = {:.2}", progress.step, progress.steps, progress.point.sigma)
        },
    )?;
    let pixels: Vec<f32> = images.into_data().try_to_vec()?;
    for row in 0..SIZE {
        let line = |image: usize| -> String {
            let start = (image * SIZE + row) * SIZE;
            pixels[start..start + SIZE].iter().map(|p| if *p > 0.0 { "##" } else { "  " }).collect()
        };
        println!("{}", (0..4).map(line).collect::<Vec<_>>().join("   "));
    }
    Ok(())
}
