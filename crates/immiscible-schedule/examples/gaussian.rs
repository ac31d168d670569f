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
    Estimate { x0, noise: centred * (sigma / variance), variance: None }
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
    println!("{:15} {:>5} {:>11} {:>7} {:>7}", "sampler", "steps", "evaluations", "mean", "std");
    for (name, build) in SAMPLERS {
        let kernel = build(&SamplerConfig::new(*name))?;
        let denoise = if kernel.jumps() { end } else { denoise };
        for steps in [5, 10, 50] {
            let path: Vec<_> = schedule.grid(steps)?.windows(2).map(|pair| (pair[0], pair[1])).collect();
            let mut x = schedule.prior(normals(0), &ForwardCondition::default());
            let mut evaluations = 0;
            let mut run = kernel.begin(schedule.as_ref(), &path)?;
            for (i, &(from, to)) in path.iter().enumerate() {
                let step = run.step(&x, from, to, &mut |x, point| {
                    evaluations += 1;
                    denoise(x, point)
                })?;
                x = step.draw(|| normals(i as u64 + 1));
            }
            let (variance, mean) = x.reshape([10_000]).var_mean(0);
            let (mean, variance): (f32, f32) = (mean.into_scalar(), variance.into_scalar());
            let std = variance.sqrt();
            println!("{name:15} {steps:5} {evaluations:11} {mean:7.3} {std:7.3}");
        }
    }
    Ok(())
}
