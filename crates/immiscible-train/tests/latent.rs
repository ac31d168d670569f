//! What a method sees of images when it learns from their latents.

mod generator;

use burn::tensor::{Device, Tensor, TensorData};
use generator::alone;
use immiscible_coupling::{COUPLINGS, Coupling, CouplingConfig, PairContext, Statistics, downloads};
use immiscible_data::{Batch, DataOptions, Loader, LoaderOptions, build};
use immiscible_models::{
    AutoencoderKL, AutoencoderKLConfig, Condition, ModelConfig, Network, NetworkConfig, Precision,
    UNet2DConfig,
};
use immiscible_random::{Key, Stream};
use immiscible_schedule::{ObjectiveConfig, ScheduleConfig, TimeSamplerConfig};
use immiscible_train::{
    Average, CheckpointConfig, ClassCondition, Diffusion, DiffusionStep, EmaConfig, Files, LatentStep,
    Latents, LossConfig, Observer, OnLatents, OptimizerConfig, Prepared, StepReport, TrainConfig, TrainError,
    TrainStep, Trainer, prepare,
};
use std::path::Path;
use std::sync::{Arc, Mutex};

const KEY: Key = Key::new(11);
const ROWS: usize = 40;

fn vae() -> AutoencoderKL {
    let config = AutoencoderKLConfig { in_channels: 1, out_channels: 1, ..AutoencoderKLConfig::tiny() };
    Device::flex().seed(1);
    config.init(&Device::flex()).unwrap()
}

fn batch() -> Batch {
    let digits = build(&DataOptions::new("digits")).unwrap();
    let options = LoaderOptions { batch_size: ROWS, seed: 11, flip: false };
    Loader::new(digits, options).unwrap().batch_at(0).unwrap()
}

/// Keeps what it is to learn from.
struct Spy(Arc<Mutex<Vec<Prepared>>>);

impl TrainStep for Spy {
    fn step(&mut self, prepared: Prepared, _step: u64) -> Result<StepReport, TrainError> {
        self.0.lock().unwrap().push(prepared);
        Ok(StepReport { loss: 0.0, gradient_norm: 0.0, coupling: Statistics::default(), latents: None })
    }

    fn sampling_network(&self) -> &Network {
        unreachable!("nothing is sampled")
    }

    fn learning_rate_at(&self, _step: u64) -> f64 {
        0.0
    }

    fn save(&self, _files: &mut Files) -> Result<(), TrainError> {
        Ok(())
    }

    fn load(&mut self, _folder: &Path) -> Result<(), TrainError> {
        Ok(())
    }
}

/// What a method is given at `step`.
fn seen(coupling: &Arc<dyn Coupling>, sample: bool, step: u64) -> Prepared {
    let seen = Arc::default();
    let latents = Latents::new(vae(), 4, 2, sample, &Device::flex());
    let mut method = LatentStep::new(Box::new(Spy(Arc::clone(&seen))), latents, coupling.clone(), KEY);
    let prepared = prepare(&OnLatents(coupling.clone()), batch(), KEY, step).unwrap();
    assert!(prepared.drawn.is_none(), "noise was coupled to pixels");
    method.step(prepared, step).unwrap();
    seen.lock().unwrap().pop().unwrap()
}

fn floats(x: Tensor<4>) -> Vec<f32> {
    x.into_data().try_into_vec_as().unwrap()
}

#[test]
fn the_noise_is_coupled_to_scaled_latents() {
    let _alone = alone();
    let device = Device::flex();
    let pixels: Vec<f32> = batch().images.values().iter().copied().collect();
    let images = Tensor::<4>::from_data(TensorData::new(pixels, [ROWS, 1, 8, 8]), &device);
    let posterior = vae().encode(images);
    for (kind, _) in COUPLINGS {
        let config = CouplingConfig { kind: (*kind).into(), ..CouplingConfig::default() };
        let mut coupling = config.build().unwrap();
        if coupling.needs_data() {
            let mut latents = ndarray::Array2::zeros((500, 64));
            KEY.fill_normals(0, 64, latents.as_slice_mut().unwrap());
            coupling.fit(latents.view(), None).unwrap();
        }
        let coupling: Arc<dyn Coupling> = coupling.into();
        for (sample, step) in [(false, 0), (true, 0), (true, 1)] {
            let Prepared { batch, drawn, on_device } = seen(&coupling, sample, step);
            // A window that is asked for one batch is an assignment.
            assert_eq!(on_device.is_some(), ["assignment", "window"].contains(kind), "{kind}");
            let (found, taken) = match (on_device, drawn) {
                (Some((x0, drawn)), _) => (floats(x0), floats(drawn.noise)),
                (None, Some(drawn)) => {
                    assert_eq!(batch.images.dim(), [ROWS, 4, 4, 4]);
                    (batch.images.values().iter().copied().collect(), drawn.noise.iter().copied().collect())
                }
                (None, None) => panic!("{kind} drew nothing"),
            };
            let key = KEY.step(step);
            let mut noise = vec![0.0; ROWS * 64];
            key.stream(Stream::LATENT).fill_normals(0, 64, &mut noise);
            let noise = Tensor::<4>::from_data(TensorData::new(noise, [ROWS, 4, 4, 4]), &device);
            let z = if sample { posterior.sample(noise) } else { posterior.mode() };
            let expected = z * 0.18215;
            assert_eq!(found.len(), ROWS * 64);
            for (a, b) in found.iter().zip(floats(expected)) {
                assert!((a - b).abs() < 1e-5, "{kind}, {sample}: {a}, {b}");
            }

            let x0 = Tensor::<4>::from_data(TensorData::new(found, [ROWS, 4, 4, 4]), &device);
            let pairing = PairContext { labels: batch.labels.as_deref(), ..PairContext::default() };
            let wanted = coupling.draw(&x0, &pairing, key.stream(Stream::NOISE)).unwrap().noise;
            assert_eq!(taken, floats(wanted), "{kind}");
        }
    }
}

/// Whatever the coupling, which is not asked then.
#[test]
fn latents_that_overflow_end_the_run_by_the_number_of_their_image() {
    let _alone = alone();
    let device = Device::flex();
    for kind in ["assignment", "independent", "knn"] {
        let config = CouplingConfig { kind: kind.into(), ..CouplingConfig::default() };
        let coupling: Arc<dyn Coupling> = config.build().unwrap().into();
        let inner = Spy(Arc::default());
        let seen = Arc::clone(&inner.0);
        let latents = Latents::new(vae(), 4, 2, false, &device);
        let mut method = LatentStep::new(Box::new(inner), latents, coupling.clone(), KEY);
        let mut batch = batch();
        // Finite itself; in the second chunk.
        batch.images.make_values().index_axis_mut(ndarray::Axis(0), 37).fill(f32::MAX);
        let image = batch.index[37];
        let prepared = prepare(&OnLatents(coupling), batch, KEY, 6).unwrap();
        let error = method.step(prepared, 6).unwrap_err();
        assert!(
            matches!(error, TrainError::NonFiniteImage { step: 6, image: found, latents: true, .. } if found == image),
            "{kind}: {error}"
        );
        let message = error.to_string();
        assert!(message.contains(&format!("the latents of image {image}")), "{message}");
        assert!(message.contains("the autoencoder cannot encode it"), "{message}");
        assert!(seen.lock().unwrap().is_empty(), "{kind}: it was trained on");
    }
}

/// The losses of the steps that a run took.
#[derive(Default)]
struct Losses(Vec<(u64, u32)>);

impl Observer for Losses {
    fn step(&mut self, step: u64, report: &StepReport, _total: &Average) {
        self.0.push((step, report.loss.to_bits()));
    }
}

/// Trains on latents, goes on where the run stopped, and tells the losses and the averages of all its steps.
fn train(run: &Path, steps: u64, kind: &str, prefetch: usize) -> (Vec<(u64, u32)>, Average) {
    let device = Device::flex();
    let config = CouplingConfig { kind: kind.into(), ..CouplingConfig::default() };
    let coupling: Arc<dyn Coupling> = config.build().unwrap().into();
    let schedule = ScheduleConfig::new("linear").build().unwrap();
    let objective = ObjectiveConfig::new("epsilon").build().unwrap();
    let diffusion = Diffusion {
        time: TimeSamplerConfig::default().build_for(&*schedule).unwrap(),
        loss: LossConfig::default().build(&*schedule, &*objective).unwrap(),
        schedule,
        objective,
        coupling: coupling.clone(),
        classes: None,
        precision: Precision::F32,
    };
    let config = UNet2DConfig {
        in_channels: 4,
        out_channels: 4,
        num_class_embeds: None,
        dropout: 0.1,
        ..UNet2DConfig::tiny()
    };
    device.seed(3);
    let network = NetworkConfig::UNet2DModel(config).init(&device.clone().autodiff()).unwrap();
    let (optimizer, ema) = (OptimizerConfig::default(), EmaConfig::default());
    let inner = DiffusionStep::new(diffusion, network, &optimizer, &ema, KEY, &device).unwrap();
    let latents = Latents::new(vae(), 4, 2, true, &device);
    let mut method = LatentStep::new(Box::new(inner), latents, coupling.clone(), KEY);
    let trainer = Trainer {
        train: TrainConfig { steps, batch_size: 8, log_every: 2, prefetch, ..TrainConfig::default() },
        checkpoint: CheckpointConfig { every: 100, ..CheckpointConfig::default() },
        run: run.into(),
        config_sha256: "c0ffee".into(),
        key: KEY,
    };
    let digits = build(&DataOptions::new("digits")).unwrap();
    let loader = Loader::new(digits, LoaderOptions { batch_size: 8, seed: 11, flip: false }).unwrap();
    let mut losses = Losses::default();
    let total = trainer.run(&mut method, loader, Arc::new(OnLatents(coupling)), &mut losses).unwrap();
    (losses.0, total)
}

fn weights(run: &Path, steps: u64) -> Vec<u8> {
    std::fs::read(run.join(format!("checkpoints/step-{steps:08}/model.safetensors"))).unwrap()
}

#[test]
fn noise_that_is_chosen_beside_the_step_before_changes_no_bit() {
    let _alone = alone();
    for kind in ["assignment", "independent", "knn"] {
        let folder = tempfile::tempdir().unwrap();
        let [waiting, beside] = [0, 2].map(|prefetch| {
            let run = folder.path().join(prefetch.to_string());
            let (losses, total) = train(&run, 5, kind, prefetch);
            let (hidden, visible) = (total.coupling_hidden_ms(), total.coupling_visible_ms());
            assert!((hidden + visible - total.coupling_ms()).abs() < 1e-9, "{kind}: {total:?}");
            assert!(visible >= -1e-9 && hidden >= -1e-9, "{kind}: {total:?}");
            // A step takes far longer than the choice for 8 images.
            let hides = prefetch > 0 && kind != "independent";
            assert_eq!(hidden > 1e-9, hides, "{kind}: {total:?}");
            (losses, weights(&run, 5))
        });
        assert_eq!(waiting.0.len(), 5);
        assert!(waiting == beside, "{kind}");
    }
}

/// For the coupling or for the latents, and for the loss: the host waits for the device no more often.
#[test]
fn a_step_on_latents_reads_the_device_twice() {
    let _alone = alone();
    for kind in ["assignment", "independent", "knn", "window"] {
        let folder = tempfile::tempdir().unwrap();
        let before = downloads();
        train(folder.path(), 3, kind, 2);
        assert_eq!(downloads() - before, 2 * 3, "{kind}");
    }
}

#[test]
fn a_resumed_run_on_latents_is_the_uninterrupted_one_bit_for_bit() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    let expected = train(&whole, 5, "assignment", 2).0;
    for stop in 1..5 {
        let run = folder.path().join(stop.to_string());
        let mut found = train(&run, stop, "assignment", 2).0;
        found.extend(train(&run, 5, "assignment", 2).0);
        assert_eq!(found, expected, "stopped after {stop}");
        assert!(weights(&run, 5) == weights(&whole, 5), "stopped after {stop}");
    }
}

#[test]
fn a_line_of_the_log_tells_what_latents_took() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    for (kind, [to_host, to_device]) in [
        // Costs and |x|²; images, the latents' noise, 8 noises and their numbers.
        ("assignment", [4 * (8 * 8 + 8), 4 * 8 * (64 + 64 + 64) + 8 * 8]),
        // Latents; images, the latents' noise, and both again.
        ("independent", [4 * 8 * 64, 4 * 8 * (64 + 64 + 64 + 64)]),
    ] {
        let run = folder.path().join(kind);
        train(&run, 2, kind, 2);
        let line = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let line: serde_json::Value = serde_json::from_str(line.trim()).unwrap();
        assert_eq!(line["bytes_to_host"], f64::from(to_host), "{line}");
        assert_eq!(line["bytes_to_device"], f64::from(to_device), "{line}");
        assert!(line["encode_ms"].as_f64().unwrap() > 0.0, "{line}");
        let parts = ["cost_ms", "solve_ms", "gather_ms"].map(|part| line[part].as_f64().unwrap());
        let sum = parts.iter().sum::<f64>();
        if kind == "assignment" {
            assert!(parts.iter().all(|part| *part > 0.0), "{line}");
            assert!((sum - line["coupling_ms"].as_f64().unwrap()).abs() < 0.05 * sum, "{line}");
        } else {
            assert_eq!(sum, 0.0, "{line}");
        }
    }
}

#[test]
fn a_class_is_the_text_of_its_name() {
    let _alone = alone();
    let device = Device::flex();
    let states: Vec<f32> = (0..3 * 2 * 2).map(|i| i as f32).collect();
    let texts = Tensor::<3>::from_data(TensorData::new(states, [3, 2, 2]), &device);
    let condition = ClassCondition { texts: Some(texts), ..ClassCondition::new(2, 0.0) }.of(&[2, 0], &device);
    let Condition::Text(states) = condition else { panic!("no text") };
    let states: Vec<f32> = states.into_data().try_into_vec_as().unwrap();
    assert_eq!(states, [8.0, 9.0, 10.0, 11.0, 0.0, 1.0, 2.0, 3.0]);
    assert!(matches!(ClassCondition::new(2, 0.0).of(&[1], &device), Condition::Class(_)));
}
