//! How close the samplers come to N(0.3, 0.5²) with the best possible network, by number of steps.

use burn::prelude::*;
use immiscible_random::{Key, Stream};
use immiscible_schedule::{Estimate, ForwardCondition, Point, SAMPLERS, SamplerConfig, ScheduleConfig};

const MEAN: f64 = 0.3;
const STD: f64 = 0.5;

fn denoise(x_t: &Tensor<4>, Point { alpha, sigma, .. }: Point) -> Estimate {
    let variance = (alpha * STD).powi(2) + sigma.powi(2);
    let centred = x_t.clone() - alpha * MEAN;
    let x0 = centred.clone() * (alpha * STD.powi(2) / variance) + MEAN;
    Estimate { x0, noise: centred * (sigma / variance) }
}

/// Where the trajectory of x_t ends, for samplers that jump there.
fn end(x_t: &Tensor<4>, point: Point) -> Estimate {
    let Point { alpha, sigma, .. } = point;
    let x0 = (x_t.clone() - alpha * MEAN) * (STD / (alpha * STD).hypot(sigma)) + MEAN;
    Estimate::from_x0(x0, x_t, &point.levels(&x_t.device()))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex();
    let schedule = ScheduleConfig::new("flow").build()?;
    let normals = |step| {
        let mut values = vec![0.0; 10_000];
        Key::new(0).step(step).stream(Stream::SAMPLER).fill_normals(0, 1, &mut values);
        Tensor::<1>::from_floats(values.as_slice(), &device).reshape([10_000, 1, 1, 1])
    };
    println!("{:11} {:>5} {:>11} {:>7} {:>7}", "sampler", "steps", "evaluations", "mean", "std");
    for (name, build) in SAMPLERS {
        let kernel = build(&SamplerConfig::new(*name))?;
        let mut denoise = if kernel.jumps() { end } else { denoise };
        for steps in [5, 10, 50] {
            let mut x = schedule.prior(normals(0), &ForwardCondition::default());
            for (i, pair) in kernel.grid(&*schedule, steps)?.windows(2).enumerate() {
                let step = kernel.step(&x, pair[0], pair[1], &mut denoise);
                x = step.mean + normals(i as u64 + 1) * step.std;
            }
            let (variance, mean) = x.reshape([10_000]).var_mean(0);
            let (mean, variance): (f32, f32) = (mean.into_scalar(), variance.into_scalar());
            let (evaluations, std) = (kernel.evaluations(steps), variance.sqrt());
            println!("{name:11} {steps:5} {evaluations:11} {mean:7.3} {std:7.3}");
        }
    }
    Ok(())
}
