//! Training: the loss curve against the CPU's, also where a checkpoint changes the device.

use super::{Check, Devices, compare};
use anyhow::Result;
use burn::tensor::{DType, Device};
use immiscible_coupling::{Coupling, CouplingConfig};
use immiscible_data::{DataOptions, Loader, LoaderOptions, build};
use immiscible_models::{DiTConfig, NetworkConfig, Precision, Pretrained, UNet2DConfig};
use immiscible_random::Key;
use immiscible_schedule::{ObjectiveConfig, ScheduleConfig, TimeSamplerConfig};
use immiscible_train::{
    Average, CheckpointConfig, Diffusion, EmaConfig, LossConfig, MethodConfig, MethodParts, Observer,
    OptimizerConfig, StepReport, TrainConfig, Trainer,
};
use std::path::Path;
use std::sync::Arc;

const STEPS: u64 = 8;
const BATCH: usize = 8;
const KEY: Key = Key::new(11);
/// Of a loss. Adam divides gradients by their size, so that rounding grows from step to step.
const TOLERANCE: f32 = 1e-2;
/// The same with numbers of 8 bits.
const HALF_TOLERANCE: f32 = 3e-2;

pub(super) fn checks() -> Vec<Check> {
    let unet = || {
        NetworkConfig::UNet2DModel(UNet2DConfig { in_channels: 1, out_channels: 1, ..UNet2DConfig::tiny() })
    };
    let dit = || NetworkConfig::DiTTransformer2DModel(DiTConfig { in_channels: 1, ..DiTConfig::tiny() });
    let check = |name: &str, network: fn() -> NetworkConfig| {
        Check::new(format!("training/{name}"), move |devices| training(network(), devices))
    };
    vec![check("dit", dit), check("unet", unet)]
}

fn training(config: NetworkConfig, Devices { tested, cpu }: &Devices) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let initial = folder.path().join("initial");
    // The generators of devices differ: all runs start from the weights that the CPU draws.
    cpu.seed(3);
    Pretrained { network: config.init(cpu)?, config }.save_pretrained(&initial)?;
    let train = |name: &str, parts: &[(&Device, u64)]| -> Result<Vec<f32>> {
        let mut losses = Losses::default();
        for (device, steps) in parts {
            let run = folder.path().join(name);
            take_steps((&initial, &run), device, Precision::F32, *steps, &mut losses)?;
        }
        Ok(losses.0)
    };
    let expected = train("cpu", &[(cpu, STEPS)])?;
    let whole = compare("loss", &train("whole", &[(tested, STEPS)])?, &expected, TOLERANCE)?;
    let from = train("from", &[(tested, STEPS / 2), (cpu, STEPS)])?;
    let from = compare("loss, resumed on the CPU", &from, &expected, TOLERANCE)?;
    let to = train("to", &[(cpu, STEPS / 2), (tested, STEPS)])?;
    let to = compare("loss, resumed from the CPU", &to, &expected, TOLERANCE)?;
    let half = match tested.supports_dtype(DType::BF16) {
        true => {
            let mut losses = Losses::default();
            let run = folder.path().join("half");
            take_steps((&initial, &run), tested, Precision::Bf16, STEPS, &mut losses)?;
            let error = compare("loss in bf16", &losses.0, &expected, HALF_TOLERANCE)?;
            format!("bf16 {error:.1e}")
        }
        false => "no bf16".into(),
    };
    Ok(format!("losses {whole:.1e}; resumed on the CPU {from:.1e}, from the CPU {to:.1e}; {half}"))
}

#[derive(Default)]
struct Losses(Vec<f32>);

impl Observer for Losses {
    fn step(&mut self, _step: u64, report: &StepReport, _total: &Average) {
        self.0.push(report.loss);
    }
}

/// Goes on with a run up to `steps`.
fn take_steps(
    (initial, run): (&Path, &Path),
    device: &Device,
    precision: Precision,
    steps: u64,
    losses: &mut Losses,
) -> Result<()> {
    let schedule = ScheduleConfig::new("flow").build()?;
    let objective = ObjectiveConfig::new("flow_velocity").build()?;
    let coupling = CouplingConfig { kind: "assignment".into(), ..CouplingConfig::default() }.build()?;
    let coupling: Arc<dyn Coupling> = coupling.into();
    let mut method = MethodConfig::default().build(MethodParts {
        diffusion: Diffusion {
            time: TimeSamplerConfig::default().build_for(&*schedule)?,
            loss: LossConfig::default().build(&*schedule, &*objective)?,
            schedule,
            objective,
            coupling: coupling.clone(),
            classes: None,
            precision,
        },
        network: Pretrained::<NetworkConfig>::from_pretrained(initial, &device.clone().autodiff())?.network,
        optimizer: OptimizerConfig { learning_rate: 1e-3, warmup_steps: 0, ..OptimizerConfig::default() },
        ema: EmaConfig::default(),
        steps: STEPS,
        micro_batch: None,
        key: KEY,
        device: device.clone(),
    })?;
    let trainer = Trainer {
        train: TrainConfig { steps, batch_size: BATCH, ..TrainConfig::default() },
        checkpoint: CheckpointConfig::default(),
        run: run.into(),
        config_sha256: "device-suite".into(),
        key: KEY,
    };
    let digits = build(&DataOptions::new("digits"))?;
    let loader = Loader::new(digits, LoaderOptions { batch_size: BATCH, seed: 11, flip: false })?;
    trainer.run(&mut *method, loader, coupling, losses)?;
    Ok(())
}
