//! Losses of all objectives and pictures of all samplers against the CPU's, with a network written out.

use super::{Check, Devices, compare, floats};
use anyhow::{Result, ensure};
use burn::tensor::{Device, Tensor};
use immiscible_coupling::CouplingConfig;
use immiscible_data::{Batch, DataOptions, Images, Loader, LoaderOptions, build};
use immiscible_models::{Condition, Ctx, Denoiser, Output, Precision, TimeInput};
use immiscible_random::Key;
use immiscible_sample::{SampleConfig, SampleError, Sampler, SeededNoise};
use immiscible_schedule::objective::Consistency;
use immiscible_schedule::{
    OBJECTIVES, Objective, ObjectiveConfig, SAMPLERS, SCHEDULES, SamplerConfig, ScheduleConfig,
    ScheduleError, TimeSamplerConfig, compatible,
};
use immiscible_train::{Diffusion, LossConfig, prepare};
use ndarray::Array3;

/// Against the largest value.
const TOLERANCE: f32 = 1e-3;
const KEY: Key = Key::new(11);

pub(super) fn checks() -> Vec<Check> {
    let losses = OBJECTIVES.iter().map(|(objective, _)| {
        Check::new(format!("loss/{objective}"), move |devices| loss(objective, devices))
    });
    let samplers = SAMPLERS.iter().map(|(sampler, _)| {
        Check::new(format!("sampler/{sampler}"), move |devices| sample(sampler, devices))
    });
    losses.chain([Check::new("loss/of_pixels".into(), of_pixels)]).chain(samplers).collect()
}

/// Smooth and bounded, and neither even nor odd in the image or the time.
struct Smooth;

impl Denoiser for Smooth {
    fn forward(&self, x: Tensor<4>, t: TimeInput, _: &Condition, _: Ctx<'_>) -> Output {
        let time = (t.u.reshape([-1, 1, 1, 1]) * 0.01).tanh();
        let pred = (x * 0.5 + time * 0.3).tanh() * 0.8 + 0.05;
        Output { pred, aux: Vec::new(), taps: Vec::new(), heads: Vec::new() }
    }
}

fn digits() -> Result<Batch> {
    let source = build(&DataOptions::new("digits"))?;
    Ok(Loader::new(source, LoaderOptions { batch_size: 8, seed: 11, flip: false })?.batch_at(0)?)
}

/// Of images that reach the device as bytes.
fn of_pixels(devices: &Devices) -> Result<String> {
    let pixels = Array3::from_shape_fn((5, 3, 7), |(image, y, x)| {
        [0, 1, 2].map(|c| (image * 31 + y * 57 + x * 71 + c * 83) as u8)
    });
    let images = Images::Pixels { pixels: pixels.into_shared(), scale: 0.5 };
    let on = |device: &Device| -> Result<Vec<f32>> {
        let (schedule, objective) =
            (ScheduleConfig::new("flow").build()?, ObjectiveConfig::new("flow_velocity").build()?);
        let diffusion = Diffusion {
            time: TimeSamplerConfig::default().build_for(&*schedule)?,
            loss: LossConfig::default().build(&*schedule, &*objective)?,
            schedule,
            objective,
            coupling: CouplingConfig::default().build()?.into(),
            classes: None,
            precision: Precision::F32,
        };
        let batch = Batch { images: images.clone(), labels: None, index: (0..5).collect(), mask: None };
        let prepared = prepare(&*diffusion.coupling, batch, KEY, 0)?;
        floats(diffusion.loss(&Smooth, prepared, KEY, 0, device)?.0)
    };
    let worst = compare("loss", &on(&devices.tested)?, &on(&devices.cpu)?, TOLERANCE)?;
    Ok(format!("{worst:.1e}"))
}

/// Of an objective, on every schedule that goes with it.
fn loss(objective: &str, devices: &Devices) -> Result<String> {
    let (mut compared, mut worst) = (0, 0.0f32);
    for (name, _) in SCHEDULES {
        let schedule = ScheduleConfig::new(*name).build()?;
        if compatible(&*schedule, &*ObjectiveConfig::new(objective).build()?).is_err() {
            continue;
        }
        let on = |device: &Device| -> Result<Vec<f32>> {
            let (schedule, objective) =
                (ScheduleConfig::new(*name).build()?, ObjectiveConfig::new(objective).build()?);
            let coupling =
                CouplingConfig { kind: "assignment".into(), ..CouplingConfig::default() }.build()?;
            let diffusion = Diffusion {
                time: TimeSamplerConfig::default().build_for(&*schedule)?,
                loss: LossConfig::default().build(&*schedule, &*objective)?,
                schedule,
                objective,
                coupling: coupling.into(),
                classes: None,
                precision: Precision::F32,
            };
            let prepared = prepare(&*diffusion.coupling, digits()?, KEY, 0)?;
            floats(diffusion.loss(&Smooth, prepared, KEY, 0, device)?.0)
        };
        worst = worst.max(compare(name, &on(&devices.tested)?, &on(&devices.cpu)?, TOLERANCE)?);
        compared += 1;
    }
    ensure!(compared > 0, "no schedule goes with it");
    Ok(format!("{worst:.1e} on {compared} schedules"))
}

/// Schedules and objectives that between them go with every sampler.
fn ways() -> Result<Vec<(&'static str, Box<dyn Objective>)>> {
    Ok(vec![
        ("linear", ObjectiveConfig::new("epsilon").build()?),
        ("flow", ObjectiveConfig::new("flow_velocity").build()?),
        ("ve", ObjectiveConfig::new("edm").build()?),
        ("ve", Box::new(Consistency::new(0.002, 0.5)?)),
    ])
}

fn sample(sampler: &str, devices: &Devices) -> Result<String> {
    const SHAPE: [usize; 4] = [2, 1, 4, 4];
    let (mut compared, mut worst) = (0, 0.0f32);
    let config = SampleConfig {
        sampler: SamplerConfig::new(sampler),
        steps: 4,
        clip: true,
        ..SampleConfig::default()
    };
    for (schedule_name, objective) in ways()? {
        let schedule = ScheduleConfig::new(schedule_name).build()?;
        let sampler = match Sampler::new(&config, &*schedule, &*objective) {
            Ok(sampler) => sampler,
            Err(SampleError::Schedule(ScheduleError::DiscreteTime { .. }) | SampleError::Jumps { .. }) => {
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let on = |device: &Device| -> Result<Vec<f32>> {
            let mut noise = SeededNoise::new(5, 0);
            let mut predictor = sampler.predictor(&Smooth);
            floats(sampler.sample(&mut predictor, &mut noise, SHAPE, &Condition::None, device, |_| ())?)
        };
        let what = format!("{schedule_name} with {}", objective.name());
        worst = worst.max(compare(&what, &on(&devices.tested)?, &on(&devices.cpu)?, TOLERANCE)?);
        compared += 1;
    }
    ensure!(compared > 0, "nothing goes with it");
    Ok(format!("{worst:.1e} in {compared} ways"))
}
