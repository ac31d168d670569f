//! A tiny UNet on the built-in digits: `cargo run -p immiscible-train --example train_digits`.

use burn::tensor::Device;
use immiscible_coupling::{Coupling, CouplingConfig};
use immiscible_data::{DataOptions, Loader, LoaderOptions};
use immiscible_models::{NetworkConfig, Precision, UNet2DConfig};
use immiscible_random::{Key, Stream};
use immiscible_schedule::{ObjectiveConfig, ScheduleConfig, TimeSamplerConfig};
use immiscible_train::{
    Average, CheckpointConfig, Diffusion, DiffusionStep, EmaConfig, LossConfig, Observer, OptimizerConfig,
    StepReport, TrainConfig, Trainer,
};
use std::error::Error;
use std::sync::Arc;

struct Print;

impl Observer for Print {
    fn step(&mut self, step: u64, report: &StepReport, _total: &Average) {
        if step.is_multiple_of(10) {
            let drop = report.coupling.drop_percent();
            println!("step {step}: loss {:.3}, distance drop {drop:.2} %", report.loss);
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let key = Key::new(0);
    let device = Device::flex();
    let coupling: Arc<dyn Coupling> = CouplingConfig::default().build()?.into();
    let digits = immiscible_data::build(&DataOptions::new("digits"))?;
    let loader = Loader::new(digits, LoaderOptions { batch_size: 64, seed: 0, flip: false })?;

    let network =
        UNet2DConfig { in_channels: 1, out_channels: 1, num_class_embeds: None, ..UNet2DConfig::tiny() };
    device.seed(key.stream(Stream::INIT).device_seed());
    let network = NetworkConfig::UNet2DModel(network).init(&device.clone().autodiff())?;

    let schedule = ScheduleConfig::new("flow").build()?;
    let objective = ObjectiveConfig::new("flow_velocity").build()?;
    let diffusion = Diffusion {
        time: TimeSamplerConfig::default().build_for(&*schedule)?,
        loss: LossConfig::default().build(&*schedule, &*objective)?,
        schedule,
        objective,
        coupling: coupling.clone(),
        classes: None,
        precision: Precision::F32,
    };
    let optimizer = OptimizerConfig { learning_rate: 2e-3, ..OptimizerConfig::default() };
    let mut method = DiffusionStep::new(diffusion, network, &optimizer, &EmaConfig::default(), key, &device)?;

    let run = std::env::temp_dir().join(format!("train_digits-{}", std::process::id()));
    let trainer = Trainer {
        train: TrainConfig { steps: 50, batch_size: 64, ..TrainConfig::default() },
        checkpoint: CheckpointConfig::default(),
        run: run.clone(),
        config_sha256: String::new(),
        key,
    };
    trainer.run(&mut method, loader, coupling, &mut Print)?;
    println!("the run is in {}", run.display());
    Ok(())
}
