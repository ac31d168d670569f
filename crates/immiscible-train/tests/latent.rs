//! What a method sees of images when it learns from their latents.

mod generator;

use burn::tensor::{Device, Tensor, TensorData};
use generator::alone;
use immiscible_coupling::{COUPLINGS, Coupling, CouplingConfig, PairContext, Statistics};
use immiscible_data::{Batch, DataOptions, Loader, LoaderOptions, build};
use immiscible_models::{AutoencoderKL, AutoencoderKLConfig, Condition, ModelConfig, Network};
use immiscible_random::{Key, Stream};
use immiscible_train::{
    ClassCondition, Files, LatentStep, Latents, OnLatents, Prepared, StepReport, TrainError, TrainStep,
    prepare,
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
        Ok(StepReport { loss: 0.0, gradient_norm: 0.0, coupling: Statistics::default() })
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
    let pixels: Vec<f32> = batch().images.iter().copied().collect();
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
            let Prepared { batch, drawn } = seen(&coupling, sample, step);
            let key = KEY.step(step);
            let mut noise = vec![0.0; ROWS * 64];
            key.stream(Stream::LATENT).fill_normals(0, 64, &mut noise);
            let noise = Tensor::<4>::from_data(TensorData::new(noise, [ROWS, 4, 4, 4]), &device);
            let z = if sample { posterior.sample(noise) } else { posterior.mode() };
            let expected = z * 0.18215;
            let found: Vec<f32> = batch.images.iter().copied().collect();
            for (a, b) in found.iter().zip(floats(expected)) {
                assert!((a - b).abs() < 1e-5, "{kind}, {sample}: {a}, {b}");
            }
            assert_eq!(batch.images.dim(), (ROWS, 4, 4, 4));

            let x0 = Tensor::<4>::from_data(TensorData::new(found, [ROWS, 4, 4, 4]), &device);
            let pairing = PairContext { labels: batch.labels.as_deref(), ..PairContext::default() };
            let wanted = coupling.draw(&x0, &pairing, key.stream(Stream::NOISE)).unwrap().noise;
            match drawn {
                Some(drawn) => assert_eq!(drawn.noise.iter().copied().collect::<Vec<_>>(), floats(wanted)),
                // It draws on the device, for the latents that it is given there.
                None => assert!(coupling.host().is_none()),
            }
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
        batch.images.index_axis_mut(ndarray::Axis(0), 37).fill(f32::MAX);
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
