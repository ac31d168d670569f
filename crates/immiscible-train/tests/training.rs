//! The one training step, and what is remembered of it.

mod generator;

use burn::tensor::{Device, Tensor, TensorData};
use generator::alone;
use immiscible_coupling::{
    COUPLINGS, Coupling, CouplingConfig, CouplingError, Draw, PairContext, Statistics, downloads,
};
use immiscible_data::{Batch, DataError, DataOptions, Images, Loader, LoaderOptions, Source, build};
use immiscible_models::{
    Condition, Ctx, Denoiser, Network, NetworkConfig, Output, Precision, TimeInput, UNet2DConfig,
};
use immiscible_random::{Key, Stream};
use immiscible_schedule::{
    DISTANCES, DistanceConfig, ForwardCondition, LearnedVariance, Levels, NoiseSchedule, OBJECTIVES,
    Objective, ObjectiveConfig, Point, SCHEDULES, ScheduleConfig, TIME_SAMPLERS, Time, TimeSamplerConfig,
    Times, WEIGHTINGS, WeightingConfig,
};
use immiscible_train::{
    Average, CheckpointConfig, CheckpointStore, ClassCondition, Diffusion, DiffusionStep, EmaConfig, Files,
    LossConfig, Observer, OptimizerConfig, Prepared, Record, StepReport, TrainConfig, TrainError, TrainStep,
    Trainer, prepare,
};
use ndarray::Array3;
use std::path::Path;
use std::sync::{Arc, Mutex};

const KEY: Key = Key::new(11);

fn loader(batch_size: usize) -> Loader {
    let digits = build(&DataOptions::new("digits")).unwrap();
    Loader::new(digits, LoaderOptions { batch_size, seed: 11, flip: false }).unwrap()
}

fn coupling(kind: &str, k: usize) -> Arc<dyn Coupling> {
    let mut config = CouplingConfig { kind: kind.into(), ..CouplingConfig::default() };
    if kind.ends_with("knn") {
        config.k = k;
    }
    let mut coupling = config.build().unwrap();
    let digits = loader(500).batch_at(0).unwrap();
    coupling.fit(digits.images.values().to_shape((500, 64)).unwrap().view(), None).unwrap();
    coupling.into()
}

fn diffusion(schedule: &str, objective: &str, coupling: Arc<dyn Coupling>) -> Diffusion {
    with_loss(schedule, objective, coupling, &TimeSamplerConfig::default(), &LossConfig::default()).unwrap()
}

fn with_loss(
    schedule: &str,
    objective: &str,
    coupling: Arc<dyn Coupling>,
    time: &TimeSamplerConfig,
    loss: &LossConfig,
) -> Result<Diffusion, TrainError> {
    let schedule = ScheduleConfig::new(schedule).build()?;
    let objective = ObjectiveConfig::new(objective).build()?;
    Ok(Diffusion {
        time: time.build_for(&*schedule)?,
        loss: loss.build(&*schedule, &*objective)?,
        schedule,
        objective,
        coupling,
        classes: None,
        precision: Precision::F32,
    })
}

fn tiny_network(classes: Option<usize>) -> Network {
    let config = UNet2DConfig {
        in_channels: 1,
        out_channels: 1,
        num_class_embeds: classes,
        dropout: 0.1,
        ..UNet2DConfig::tiny()
    };
    Device::flex().seed(3);
    NetworkConfig::UNet2DModel(config).init(&Device::flex().autodiff()).unwrap()
}

fn method(coupling: Arc<dyn Coupling>) -> DiffusionStep {
    method_in(Precision::F32, coupling)
}

fn method_in(precision: Precision, coupling: Arc<dyn Coupling>) -> DiffusionStep {
    let diffusion = Diffusion {
        classes: Some(ClassCondition::new(10, 0.2)),
        precision,
        ..diffusion("flow", "flow_velocity", coupling)
    };
    let optimizer = OptimizerConfig { learning_rate: 2e-3, warmup_steps: 3, ..OptimizerConfig::default() };
    let ema = EmaConfig { decay: 0.9, ..EmaConfig::default() };
    DiffusionStep::new(diffusion, tiny_network(Some(11)), &optimizer, &ema, KEY, &Device::flex()).unwrap()
}

/// An unconditional network a few steps after its zero-initialised end.
fn trained_a_little() -> Network {
    let coupling = coupling("independent", 4);
    let diffusion = diffusion("linear", "epsilon", coupling.clone());
    let optimizer = OptimizerConfig { learning_rate: 1e-2, ..OptimizerConfig::default() };
    let ema = EmaConfig { decay: 0.0, warmup: false, ..EmaConfig::default() };
    let network = tiny_network(None);
    let mut method = DiffusionStep::new(diffusion, network, &optimizer, &ema, KEY, &Device::flex()).unwrap();
    for step in 0..5 {
        let prepared = prepare(&*coupling, loader(8).batch_at(step).unwrap(), KEY, step).unwrap();
        method.step(prepared, step).unwrap();
    }
    method.sampling_network().clone()
}

/// Knows the image behind every x_t and answers what the objective asks for.
struct Oracle<'a> {
    x0: Tensor<4>,
    schedule: &'a dyn NoiseSchedule,
    objective: &'a dyn Objective,
}

/// Every loss that is no more than a distance and a weight.
fn losses() -> Vec<LossConfig> {
    let distances = DISTANCES.iter().map(|(name, _)| DistanceConfig::new(*name));
    let pair = |distance: DistanceConfig| {
        WEIGHTINGS.iter().map(move |(name, _)| LossConfig {
            distance: distance.clone(),
            weighting: WeightingConfig::new(*name),
            vlb_weight: None,
        })
    };
    distances.flat_map(pair).collect()
}

/// The point whose number the network was given.
fn point_of(schedule: &dyn NoiseSchedule, objective: &dyn Objective, u: f32) -> Point {
    let edm = objective.name() == "edm";
    let ratio = f64::from(4.0 * u).exp();
    match schedule.name() {
        "flow" if edm => schedule.at(Time::Continuous(ratio / (1.0 + ratio))).unwrap(),
        "flow" => schedule.at(Time::Continuous(f64::from(u) / 1000.0)).unwrap(),
        "ve" => schedule.at(Time::Sigma(ratio)).unwrap(),
        _ if edm => {
            let off = |point: &Point| (objective.network_time(*point) - u).abs();
            let points = schedule.grid(1000).unwrap().into_iter().filter(|point| *point != Point::CLEAN);
            points.min_by(|a, b| off(a).total_cmp(&off(b))).unwrap()
        }
        _ => schedule.at(Time::Index(u as u32)).unwrap(),
    }
}

/// x_t from what the network was given for it.
fn x_t_of(objective: &dyn Objective, input: Tensor<4>, levels: &Levels) -> Tensor<4> {
    let scale = objective.network_input(input.ones_like(), levels);
    input / scale
}

impl Denoiser for Oracle<'_> {
    fn forward(&self, x: Tensor<4>, t: TimeInput, _condition: &Condition, _ctx: Ctx<'_>) -> Output {
        let times: Vec<f32> = t.u.into_data().try_into_vec_as().unwrap();
        let points = times.iter().map(|&u| point_of(self.schedule, self.objective, u));
        let levels: Levels = Times::from(points.collect::<Vec<_>>()).levels(&x.device());
        let x = x_t_of(self.objective, x, &levels);
        let noise = (x - levels.alpha.clone() * self.x0.clone()) / levels.sigma.clone();
        Output {
            pred: self.objective.target(&self.x0, &noise, &levels),
            aux: Vec::new(),
            taps: Vec::new(),
            heads: Vec::new(),
        }
    }
}

/// Images of a batch on the device.
fn images(batch: &Batch) -> Tensor<4> {
    let shape = batch.images.dim();
    let values = batch.images.values().iter().copied().collect::<Vec<f32>>();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

/// What the oracle's loss divided by that of a network that answers 0 is: rounding alone, whatever the weights.
fn share_of_the_loss(diffusion: &Diffusion, batch: &Batch) -> f32 {
    let device = Device::flex();
    let oracle =
        Oracle { x0: images(batch), schedule: &*diffusion.schedule, objective: &*diffusion.objective };
    let loss = |network: &dyn Denoiser| -> f32 {
        let prepared = prepare(&*diffusion.coupling, batch.clone(), KEY, 5).unwrap();
        diffusion.loss(&Any(network), prepared, KEY, 5, &device).unwrap().0.into_scalar()
    };
    loss(&oracle) / loss(&Nothing)
}

struct Any<'a>(&'a dyn Denoiser);

impl Denoiser for Any<'_> {
    fn forward(&self, x: Tensor<4>, t: TimeInput, condition: &Condition, ctx: Ctx<'_>) -> Output {
        self.0.forward(x, t, condition, ctx)
    }
}

/// Answers 0.
struct Nothing;

impl Denoiser for Nothing {
    fn forward(&self, x: Tensor<4>, _t: TimeInput, _condition: &Condition, _ctx: Ctx<'_>) -> Output {
        Output { pred: x.zeros_like(), aux: Vec::new(), taps: Vec::new(), heads: Vec::new() }
    }
}

#[test]
fn a_perfect_model_has_no_loss_whatever_the_coupling() {
    let _alone = alone();
    let device = Device::flex();
    let batch = loader(32).batch_at(0).unwrap();
    let x0 = images(&batch);
    let couplings: Vec<_> = COUPLINGS.iter().map(|(kind, _)| (kind, coupling(kind, 4))).collect();
    for (schedule, _) in SCHEDULES {
        for (objective, _) in OBJECTIVES {
            for (kind, coupling) in &couplings {
                let diffusion = diffusion(schedule, objective, coupling.clone());
                let oracle = Oracle {
                    x0: x0.clone(),
                    schedule: &*diffusion.schedule,
                    objective: &*diffusion.objective,
                };
                let prepared = prepare(&*diffusion.coupling, batch.clone(), KEY, 5).unwrap();
                let (loss, _) = diffusion.loss(&oracle, prepared, KEY, 5, &device).unwrap();
                let loss: f32 = loss.into_scalar();
                // Noise that the target does not share with x_t would cost about 2.
                assert!(loss < 1e-4, "{schedule} × {objective} × {kind}: {loss}");
            }
        }
    }
}

/// Whether these parts have no training together: times that only a flow has, and weights that are not finite at an end of a
/// flow, where x_t is the noise alone and tells nothing of x0, or the image alone.
fn refused(schedule: &str, objective: &str, time: &str, weighting: &str) -> bool {
    let times_of_a_flow = ["cosmap", "logit_normal", "mode"].contains(&time);
    match (schedule, objective) {
        ("flow", "epsilon") => weighting != "simple",
        ("flow", "x0") => weighting == "sigma_sqrt",
        ("flow", _) => false,
        _ => times_of_a_flow,
    }
}

#[test]
fn a_perfect_model_has_no_loss_whatever_times_weights_and_distances() {
    let _alone = alone();
    let batch = loader(16).batch_at(0).unwrap();
    let couplings: Vec<_> = COUPLINGS.iter().map(|(kind, _)| (kind, coupling(kind, 2))).collect();
    for (schedule, _) in SCHEDULES {
        for (objective, _) in OBJECTIVES {
            for (kind, coupling) in &couplings {
                for (time, _) in TIME_SAMPLERS {
                    for loss in losses() {
                        let refused = refused(schedule, objective, time, &loss.weighting.name);
                        let what = format!("{schedule} × {objective} × {kind} × {time} × {loss:?}");
                        let time = TimeSamplerConfig::new(*time);
                        match with_loss(schedule, objective, coupling.clone(), &time, &loss) {
                            Ok(diffusion) => {
                                assert!(!refused, "{what} is not refused");
                                let share = share_of_the_loss(&diffusion, &batch);
                                assert!(share < 1e-3, "{what}: {share}");
                            }
                            Err(error) => {
                                assert!(
                                    refused && matches!(error, TrainError::Schedule(_)),
                                    "{what}: {error}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn the_plain_couplings_are_ordinary_diffusion_bit_for_bit() {
    let _alone = alone();
    let device = Device::flex();
    // A fresh network answers 0 whatever it is given; one that was trained a little does not.
    let network = trained_a_little();
    for (batch_size, kind, k) in [(8, "independent", 4), (8, "knn", 1), (1, "assignment", 4)] {
        let diffusion = diffusion("linear", "epsilon", coupling(kind, k));
        for step in [0, 6] {
            let batch = loader(batch_size).batch_at(step).unwrap();

            // Ordinary diffusion, written out (Ho et al. 2020, algorithm 1).
            let key = KEY.step(step);
            let mut values = vec![0.0; batch_size * 64];
            key.stream(Stream::NOISE).fill_normals(0, 64, &mut values);
            let upload = |values: Vec<f32>| {
                Tensor::<4>::from_data(TensorData::new(values, [batch_size, 1, 8, 8]), &device)
            };
            let (x0, noise) = (upload(batch.images.values().iter().copied().collect()), upload(values));
            let t = diffusion.schedule.sample_t(batch_size, key.stream(Stream::TIME));
            let x_t =
                diffusion.schedule.add_noise(&x0, &noise, &t.levels(&device), &ForwardCondition::default());
            let times: Vec<f32> = t.points().iter().map(|point| point.time.network_time()).collect();
            let time = TimeInput::of(&times, &device);
            device.seed(key.stream(Stream::DROPOUT).device_seed());
            let pred = network.forward(x_t, time, &Condition::None, Ctx::default()).pred;
            let expected: f32 = (pred - noise.clone()).powi_scalar(2).mean().into_scalar();

            let prepared = prepare(&*diffusion.coupling, batch, KEY, step).unwrap();
            let (loss, _) = diffusion.loss(&network, prepared, KEY, step, &device).unwrap();
            let loss: f32 = loss.into_scalar();
            let noise_alone: f32 = noise.powi_scalar(2).mean().into_scalar();
            assert_ne!(loss.to_bits(), noise_alone.to_bits(), "the network answers 0");
            assert_eq!(loss.to_bits(), expected.to_bits(), "{kind}, batch of {batch_size}, step {step}");
        }
    }
}

/// Noise and step of ordinary diffusion with any times and loss, written out from the parts.
#[test]
fn independent_noise_is_plain_training_with_every_objective_time_and_loss_bit_for_bit() {
    let _alone = alone();
    let device = Device::flex();
    let network = trained_a_little();
    let (rows, step) = (8, 3);
    let batch = loader(rows).batch_at(step).unwrap();
    let key = KEY.step(step);
    let mut noise = vec![0.0; rows * 64];
    key.stream(Stream::NOISE).fill_normals(0, 64, &mut noise);
    let noise = Tensor::<4>::from_data(TensorData::new(noise, [rows, 1, 8, 8]), &device);
    let x0 = images(&batch);
    // Every entry of every registry at least once, not their product.
    let defaults = || ("linear", "v", TimeSamplerConfig::default(), LossConfig::default());
    let mut cases = vec![defaults()];
    cases.extend(
        SCHEDULES.iter().map(|(name, _)| (*name, "x0", TimeSamplerConfig::default(), LossConfig::default())),
    );
    cases.extend(
        OBJECTIVES
            .iter()
            .map(|(name, _)| ("cosine", *name, TimeSamplerConfig::default(), LossConfig::default())),
    );
    cases.extend(
        TIME_SAMPLERS
            .iter()
            .map(|(name, _)| ("flow", "flow_velocity", TimeSamplerConfig::new(*name), LossConfig::default())),
    );
    cases.extend(losses().into_iter().map(|loss| ("linear", "v", TimeSamplerConfig::default(), loss)));
    for (schedule, objective, time, loss) in cases {
        let what = format!("{schedule}, {objective}, {time:?}, {loss:?}");
        let parts = with_loss(schedule, objective, coupling("independent", 1), &time, &loss).unwrap();
        let Diffusion { schedule, objective, .. } = &parts;

        let t = time.build().unwrap().sample(&**schedule, rows, key.stream(Stream::TIME)).unwrap();
        let levels = t.levels(&device);
        let x_t = levels.alpha.clone() * x0.clone() + levels.sigma.clone() * noise.clone();
        let target = objective.target(&x0, &noise, &levels);
        let times: Vec<f32> = t.points().iter().map(|point| objective.network_time(*point)).collect();
        let time_input = TimeInput::of(&times, &device);
        device.seed(key.stream(Stream::DROPOUT).device_seed());
        let input = objective.network_input(x_t, &levels);
        let output = network.forward(input, time_input, &Condition::None, Ctx::default()).pred;
        let error = output - target;
        let expected: Tensor<1> = if loss == LossConfig::default() {
            error.powi_scalar(2).mean()
        } else {
            let weighting = loss.weighting.build().unwrap();
            let weights: Vec<f32> =
                t.points().iter().map(|point| weighting.weight(&**objective, *point) as f32).collect();
            let weights = Tensor::<1>::from_floats(weights.as_slice(), &device).reshape([rows, 1, 1, 1]);
            (loss.distance.build().unwrap().of(error) * weights).mean()
        };

        let prepared = prepare(&*parts.coupling, batch.clone(), KEY, step).unwrap();
        let (found, _) = parts.loss(&network, prepared, KEY, step, &device).unwrap();
        let (found, expected): (f32, f32) = (found.into_scalar(), expected.into_scalar());
        assert_eq!(found.to_bits(), expected.to_bits(), "{what}");
    }
}

/// The mean is over each sample first, and then over the samples with their weights.
#[test]
fn weights_and_distances_are_averaged_per_sample() {
    let _alone = alone();
    let batch = loader(6).batch_at(0).unwrap();
    let loss = LossConfig {
        distance: DistanceConfig { c: Some(0.3), ..DistanceConfig::new("pseudo_huber") },
        weighting: WeightingConfig::new("min_snr"),
        vlb_weight: None,
    };
    let time = TimeSamplerConfig::default();
    let diffusion = with_loss("cosine", "x0", coupling("independent", 1), &time, &loss).unwrap();
    let prepared = prepare(&*diffusion.coupling, batch.clone(), KEY, 2).unwrap();
    let found = diffusion.loss(&Nothing, prepared, KEY, 2, &Device::flex()).unwrap().0;
    let t = diffusion.schedule.sample_t(6, KEY.step(2).stream(Stream::TIME));
    let expected: f64 = (0..6)
        .map(|row| {
            let square: f64 = batch
                .images
                .values()
                .index_axis(ndarray::Axis(0), row)
                .iter()
                .map(|x| f64::from(x * x))
                .sum();
            let weight = t.points()[row].snr().min(5.0);
            weight * ((square + 0.09).sqrt() - 0.3) / 6.0
        })
        .sum();
    let found = f64::from(found.into_scalar::<f32>());
    assert!((found / expected - 1.0).abs() < 1e-5, "{found}, expected {expected}");
}

#[test]
fn parts_that_do_not_go_together_are_refused_with_their_names() {
    let refused = |schedule: &str, objective: &str, time: &str, weighting: &str, vlb_weight| {
        let time = TimeSamplerConfig::new(time);
        let loss =
            LossConfig { weighting: WeightingConfig::new(weighting), vlb_weight, ..LossConfig::default() };
        let parts = with_loss(schedule, objective, coupling("independent", 1), &time, &loss);
        parts.err().expect("a refusal").to_string()
    };
    for (message, words) in [
        (refused("linear", "v", "logit_normal", "simple", None), ["logit_normal", "linear"]),
        (refused("flow", "epsilon", "uniform", "min_snr", None), ["min_snr", "epsilon"]),
        (refused("flow", "v", "uniform", "simple", Some(0.001)), ["flow", "loss.vlb_weight"]),
        (refused("linear", "v", "uniform", "simple", Some(-1.0)), ["loss.vlb_weight = -1", ">= 0"]),
        (refused("linear", "v", "uniform", "minsnr", None), ["minsnr", "min_snr"]),
    ] {
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }
}

#[test]
fn half_precision_learns_nearly_the_same() {
    let _alone = alone();
    let coupling = coupling("assignment", 4);
    let losses = |precision| -> Vec<f32> {
        let mut method = method_in(precision, coupling.clone());
        let step = |step| {
            let prepared = prepare(&*coupling, loader(16).batch_at(step).unwrap(), KEY, step).unwrap();
            method.step(prepared, step).unwrap().loss
        };
        (0..40).map(step).collect()
    };
    let (single, half) = (losses(Precision::F32), losses(Precision::Bf16));
    assert_ne!(single, half);
    assert!(single[39] < 0.8 * single[0], "{single:?}");
    for (step, (single, half)) in single.iter().zip(&half).enumerate() {
        assert!((single - half).abs() < 0.02 * single, "step {step}: {half} and not {single}");
    }
}

// ---- the learned variance ----

fn network_with_variance() -> Network {
    let config =
        UNet2DConfig { in_channels: 1, out_channels: 2, num_class_embeds: None, ..UNet2DConfig::tiny() };
    Device::flex().seed(4);
    NetworkConfig::UNet2DModel(config).init(&Device::flex().autodiff()).unwrap()
}

fn learning_variance(vlb_weight: f64) -> Diffusion {
    let loss = LossConfig { vlb_weight: Some(vlb_weight), ..LossConfig::default() };
    let time = TimeSamplerConfig::default();
    with_loss("cosine", "epsilon", coupling("independent", 1), &time, &loss).unwrap()
}

/// Answers a constant mean and a constant variance.
struct Constant {
    mean: Tensor<4>,
    v: Tensor<4>,
}

impl Denoiser for Constant {
    fn forward(&self, _x: Tensor<4>, _t: TimeInput, _condition: &Condition, _ctx: Ctx<'_>) -> Output {
        let pred = Tensor::cat(vec![self.mean.clone(), self.v.clone()], 1);
        Output { pred, aux: Vec::new(), taps: Vec::new(), heads: Vec::new() }
    }
}

/// The loss is the plain one of the first half and λ T times the mean bound; the first half has no gradient from the bound.
#[test]
fn the_bound_is_added_and_trains_the_variance_alone() {
    let _alone = alone();
    let device = Device::flex();
    let batch = loader(8).batch_at(0).unwrap();
    let constant =
        |value: f64| Tensor::<4>::full([8, 1, 8, 8], value, &device.clone().autodiff()).require_grad();
    let run = |vlb_weight| {
        let network = Constant { mean: constant(0.1), v: constant(0.3) };
        let diffusion = learning_variance(vlb_weight);
        let prepared = prepare(&*diffusion.coupling, batch.clone(), KEY, 1).unwrap();
        let loss = diffusion.loss(&network, prepared, KEY, 1, &device).unwrap().0;
        let gradients = loss.backward();
        let gradient = |tensor: &Tensor<4>| -> Vec<f32> {
            tensor.grad(&gradients).unwrap().into_data().try_into_vec_as().unwrap()
        };
        let value: f32 = loss.clone().inner().into_scalar();
        (f64::from(value), gradient(&network.mean), gradient(&network.v))
    };
    let (plain, mean, none) = run(0.0);
    assert!(none.iter().all(|g| *g == 0.0));
    let (both, same, some) = run(1e-3);
    assert_eq!(mean, same);
    assert!(some.iter().all(|g| *g != 0.0 && g.is_finite()));

    let diffusion = learning_variance(1e-3);
    let t = diffusion.schedule.sample_t(8, KEY.step(1).stream(Stream::TIME));
    let mut noise = vec![0.0; 8 * 64];
    KEY.step(1).stream(Stream::NOISE).fill_normals(0, 64, &mut noise);
    let noise = Tensor::<4>::from_data(TensorData::new(noise, [8, 1, 8, 8]), &device);
    let (x0, levels) = (images(&batch), t.levels(&device));
    let x_t = diffusion.schedule.add_noise(&x0, &noise, &levels, &ForwardCondition::default());
    let estimate = diffusion.objective.read(x_t.full_like(0.1), &x_t, &levels).x0;
    let learned = LearnedVariance::new(&*diffusion.schedule).unwrap();
    let bits: f32 = learned.bits(x_t.full_like(0.3), estimate, &x0, &t).mean().into_scalar();
    let expected = plain + 1e-3 * 1000.0 * f64::from(bits);
    assert!((both / expected - 1.0).abs() < 1e-5, "{both}, expected {expected}");
}

#[test]
fn a_network_with_a_variance_learns_and_another_is_refused() {
    let _alone = alone();
    let optimizer = OptimizerConfig { learning_rate: 2e-3, ..OptimizerConfig::default() };
    let method = |network| {
        let ema = EmaConfig::default();
        DiffusionStep::new(learning_variance(1e-3), network, &optimizer, &ema, KEY, &Device::flex()).unwrap()
    };
    let coupling = coupling("independent", 1);
    let prepared = |step| prepare(&*coupling, loader(16).batch_at(step).unwrap(), KEY, step).unwrap();
    let mut learning = method(network_with_variance());
    let losses: Vec<f32> = (0..40).map(|step| learning.step(prepared(step), step).unwrap().loss).collect();
    let mean = |part: &[f32]| part.iter().sum::<f32>() / part.len() as f32;
    assert!(mean(&losses[30..]) < 0.8 * mean(&losses[..5]), "{losses:?}");

    let error = method(tiny_network(None)).step(prepared(0), 0).unwrap_err().to_string();
    assert!(error.contains("model.out_channels = 1") && error.contains("loss.vlb_weight"), "{error}");
    let plain = diffusion("cosine", "epsilon", coupling.clone());
    let ema = EmaConfig::default();
    let mut plain =
        DiffusionStep::new(plain, network_with_variance(), &optimizer, &ema, KEY, &Device::flex()).unwrap();
    let error = plain.step(prepared(0), 0).unwrap_err().to_string();
    assert!(error.contains("model.out_channels = 2"), "{error}");
}

// ---- pixels ----

#[test]
fn pixels_are_coupled_and_learnt_from_as_their_values_are() {
    let pixels = Array3::from_shape_fn((8, 4, 4), |(image, y, x)| {
        [0, 1, 2].map(|c| (image * 31 + y * 57 + x * 71 + c * 83) as u8)
    });
    let pixels = Images::Pixels { pixels: pixels.into_shared(), scale: 0.5 };
    let values = Images::Values(pixels.values());
    for (kind, _) in COUPLINGS {
        let mut coupling =
            CouplingConfig { kind: (*kind).into(), ..CouplingConfig::default() }.build().unwrap();
        coupling.fit(pixels.values().to_shape((8, 48)).unwrap().view(), None).unwrap();
        let coupling: Arc<dyn Coupling> = coupling.into();
        let diffusion = diffusion("flow", "flow_velocity", coupling.clone());
        let [of_pixels, of_values] = [&pixels, &values].map(|images| {
            let batch = Batch { images: images.clone(), labels: None, index: (0..8).collect(), mask: None };
            let prepared = prepare(&*coupling, batch, KEY, 3).unwrap();
            let (loss, statistics) = diffusion.loss(&Nothing, prepared, KEY, 3, &Device::flex()).unwrap();
            (loss.into_data(), statistics.distance_after)
        });
        assert_eq!(of_pixels, of_values, "{kind}");
    }
}

// ---- dropped classes ----

/// Remembers the classes and the x_t that it is given; answers 0.
#[derive(Default)]
struct Seen(Mutex<Vec<(Vec<i64>, Vec<f32>)>>);

impl Denoiser for Seen {
    fn forward(&self, x: Tensor<4>, _t: TimeInput, condition: &Condition, _ctx: Ctx<'_>) -> Output {
        let Condition::Class(classes) = condition else { panic!("{condition:?}") };
        let classes = classes.clone().into_data().try_into_vec_as().unwrap();
        self.0.lock().unwrap().push((classes, x.clone().into_data().try_into_vec_as().unwrap()));
        Nothing.forward(x, TimeInput::of(&[], &Device::flex()), condition, Ctx::default())
    }
}

/// What a network is given at `step`: the classes, and x_t.
fn seen(coupling: &Arc<dyn Coupling>, dropout: f64, step: u64) -> (Vec<i64>, Vec<f32>) {
    let diffusion = Diffusion {
        classes: Some(ClassCondition::new(10, dropout)),
        ..diffusion("flow", "flow_velocity", coupling.clone())
    };
    let network = Seen::default();
    let prepared = prepare(&**coupling, loader(64).batch_at(step).unwrap(), KEY, step).unwrap();
    diffusion.loss(&network, prepared, KEY, step, &Device::flex()).unwrap();
    network.0.into_inner().unwrap().pop().unwrap()
}

#[test]
fn dropped_classes_are_null_and_the_same_at_the_same_step() {
    let _alone = alone();
    let coupling = coupling("independent", 1);
    let labels = |step| -> Vec<i64> {
        loader(64).batch_at(step).unwrap().labels.unwrap().into_iter().map(i64::from).collect()
    };
    let mut dropped = 0;
    let mut where_dropped = Vec::new();
    for step in 0..40 {
        let (classes, _) = seen(&coupling, 0.2, step);
        assert_eq!(classes, seen(&coupling, 0.2, step).0);
        assert_eq!(labels(step), seen(&coupling, 0.0, step).0);
        assert!(labels(step).iter().all(|label| *label < 10));
        assert!(classes.iter().zip(labels(step)).all(|(class, label)| [label, 10].contains(class)));
        let rows: Vec<usize> = (0..64).filter(|&row| classes[row] == 10).collect();
        dropped += rows.len();
        where_dropped.push(rows);
    }
    // Five standard deviations of 2,560 draws.
    let share = dropped as f64 / 2_560.0;
    assert!((share - 0.2).abs() < 0.04, "{share}");
    where_dropped.dedup();
    assert_eq!(where_dropped.len(), 40, "every step drops others");
}

/// A class-wise coupling is given the classes as they are: whatever is dropped, the noise is the same.
#[test]
fn dropped_classes_are_no_matter_to_the_coupling() {
    let _alone = alone();
    let config = |kind: &str, class_wise| {
        let config = CouplingConfig { kind: kind.into(), class_wise, ..CouplingConfig::default() };
        Arc::<dyn Coupling>::from(config.build().unwrap())
    };
    /// Takes the batch on the device, as couplings of latents do.
    struct OnTheDevice(Arc<dyn Coupling>);
    impl Coupling for OnTheDevice {
        fn name(&self) -> &'static str {
            "on the device"
        }

        fn draw(
            &self,
            x0: &Tensor<4>,
            pairing: &PairContext,
            key: Key,
        ) -> Result<Draw<Tensor<4>>, CouplingError> {
            self.0.draw(x0, pairing, key)
        }
    }
    let [class_wise, any] = [true, false].map(|class_wise| config("assignment", class_wise));
    let on_the_device: Arc<dyn Coupling> = Arc::new(OnTheDevice(class_wise.clone()));
    for step in 0..3 {
        let (classes, expected) = seen(&class_wise, 0.0, step);
        for coupling in [&class_wise, &on_the_device] {
            let (dropped, found) = seen(coupling, 0.9, step);
            assert!(dropped != classes && found == expected, "step {step} × {}", coupling.name());
        }
        assert!(seen(&any, 0.0, step).1 != expected, "the classes decide nothing");
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

fn train(run: &Path, steps: u64, coupling: Arc<dyn Coupling>) -> Losses {
    train_ahead(run, steps, coupling, TrainConfig::default().prefetch).0
}

/// [`train`] with so many batches prepared ahead.
fn train_ahead(run: &Path, steps: u64, coupling: Arc<dyn Coupling>, prefetch: usize) -> (Losses, Average) {
    let trainer = Trainer {
        train: TrainConfig { steps, batch_size: 8, log_every: 4, prefetch, ..TrainConfig::default() },
        checkpoint: CheckpointConfig { every: 100, ..CheckpointConfig::default() },
        run: run.into(),
        config_sha256: "c0ffee".into(),
        key: KEY,
    };
    let mut losses = Losses::default();
    let total = trainer.run(&mut method(coupling.clone()), loader(8), coupling, &mut losses).unwrap();
    (losses, total)
}

/// What the coupling did in every step.
#[derive(Default)]
struct Couplings(Vec<Statistics>);

impl Observer for Couplings {
    fn step(&mut self, _step: u64, report: &StepReport, _total: &Average) {
        self.0.push(report.coupling);
    }
}

/// A single image's numbers say little: a line of the log has their means over its steps.
#[test]
fn at_batch_size_1_a_line_of_the_log_is_the_mean_over_its_steps() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let trainer = Trainer {
        train: TrainConfig { steps: 64, batch_size: 1, log_every: 32, ..TrainConfig::default() },
        checkpoint: CheckpointConfig { every: 100, ..CheckpointConfig::default() },
        run: folder.path().into(),
        config_sha256: "c0ffee".into(),
        key: KEY,
    };
    let (coupling, mut seen) = (coupling("priced_knn", 16), Couplings::default());
    trainer.run(&mut method(coupling.clone()), loader(1), coupling, &mut seen).unwrap();
    let log = std::fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), seen.0.len()), (2, 64));
    for (line, steps) in lines.iter().zip(seen.0.chunks(32)) {
        let check = |key: &str, of: fn(&Statistics) -> f64| {
            let (mean, found) = (steps.iter().map(of).sum::<f64>() / 32.0, line[key].as_f64().unwrap());
            assert!((found - mean).abs() < 1e-9 * mean.abs(), "{key}: {found}, {mean}");
            assert!((found - of(&steps[31])).abs() > 1e-6, "{key} is that of the last step");
        };
        check("distance_before", |step| step.distance_before);
        check("distance_after", |step| step.distance_after);
        check("distance_drop_percent", Statistics::drop_percent);
        check("coefficient", |step| step.coefficient);
        check("energy", |step| step.energy);
        assert!(line["distance_drop_percent"].as_f64().unwrap() > 1.0, "{line}");
    }
}

/// For the loss alone, as the noise is chosen before: the host waits for the device no more often.
#[test]
fn a_step_on_images_reads_the_device_once() {
    let _alone = alone();
    for (kind, _) in COUPLINGS {
        let coupling = coupling(kind, 4);
        let mut method = method(coupling.clone());
        for step in 0..2 {
            let prepared = prepare(&*coupling, loader(8).batch_at(step).unwrap(), KEY, step).unwrap();
            let before = downloads();
            method.step(prepared, step).unwrap();
            assert_eq!(downloads() - before, 1, "{kind}");
        }
    }
}

#[test]
fn what_is_prepared_ahead_changes_no_bit() {
    let _alone = alone();
    for (kind, _) in COUPLINGS {
        let folder = tempfile::tempdir().unwrap();
        let [waiting, ahead] = [0, 3].map(|prefetch| {
            let run = folder.path().join(prefetch.to_string());
            let (losses, total) = train_ahead(&run, 8, coupling(kind, 4), prefetch);
            let parts = total.coupling_visible_ms() + total.coupling_hidden_ms();
            assert!((parts - total.coupling_ms()).abs() < 1e-9, "{kind}: {total:?}");
            if prefetch == 0 {
                assert_eq!(total.coupling_hidden_ms(), 0.0, "{kind}: {total:?}");
            }
            (losses.0, std::fs::read(run.join("checkpoints/step-00000008/model.safetensors")).unwrap())
        });
        assert!(waiting == ahead, "{kind}");
    }
}

#[test]
fn a_resumed_run_is_the_uninterrupted_one_bit_for_bit() {
    let _alone = alone();
    for (kind, _) in COUPLINGS {
        let folder = tempfile::tempdir().unwrap();
        let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
        let expected = train(&whole, 12, coupling(kind, 4)).0;
        let mut found = train(&parts, 5, coupling(kind, 4)).0;
        found.extend(train(&parts, 12, coupling(kind, 4)).0);
        assert_eq!(found, expected, "{kind}");
        for file in ["model.safetensors", "ema.safetensors"] {
            let read = |run: &Path| std::fs::read(run.join("checkpoints/step-00000012").join(file)).unwrap();
            assert!(read(&whole) == read(&parts), "{kind}: {file}");
        }
        let log = |run: &Path| -> Vec<serde_json::Value> {
            let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
            let mut lines: Vec<serde_json::Value> =
                text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            for line in &mut lines {
                let clock = ["images_per_second", "coupling_share_percent"];
                line.as_object_mut()
                    .unwrap()
                    .retain(|key, _| !key.ends_with("_ms") && !clock.contains(&&**key));
            }
            lines
        };
        // Stopping wrote a line of its own, at step 5; the next line starts there.
        let steps =
            |run: &Path| log(run).iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>();
        assert_eq!((steps(&whole), steps(&parts)), (vec![4, 8, 12], vec![4, 5, 8, 12]), "{kind}");
        // The line with the first step of each process has its time.
        let first = |run: &Path| -> Vec<bool> {
            let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
            let lines = text.lines().map(|line| serde_json::from_str::<Record>(line).unwrap());
            lines.map(|line| line.first_step_ms.is_some_and(|ms| ms > 0.0)).collect()
        };
        assert_eq!(first(&whole), [true, false, false], "{kind}");
        assert_eq!(first(&parts), [true, false, true, false], "{kind}");
        assert_eq!(log(&whole).last(), log(&parts).last(), "{kind}");
        // A finished run takes no further step.
        assert!(train(&parts, 12, coupling(kind, 4)).0.is_empty());
    }
}

#[test]
fn training_learns_and_the_average_follows() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let losses = train(folder.path(), 60, coupling("assignment", 4)).0;
    let mean = |part: &[(u64, u32)]| {
        part.iter().map(|(_, bits)| f32::from_bits(*bits)).sum::<f32>() / part.len() as f32
    };
    let (first, last) = (mean(&losses[..5]), mean(&losses[50..]));
    assert!(last < 0.7 * first, "loss {first} → {last}");
    let log = std::fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 15);

    let newest = CheckpointStore::new(folder.path().join("checkpoints")).newest().unwrap().0.unwrap();
    assert_eq!((newest.step, newest.config_sha256.as_str()), (60, "c0ffee"));
    let weights = |file: &str| std::fs::read(newest.path.join(file)).unwrap();
    assert_ne!(weights("model.safetensors"), weights("ema.safetensors"));
}

#[test]
fn a_checkpoint_of_another_network_is_refused_by_name() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let here = method(coupling("independent", 4));
    here.save(&mut Files::new(folder.path())).unwrap();
    let mut other = DiffusionStep::new(
        diffusion("flow", "v", coupling("independent", 4)),
        tiny_network(None),
        &OptimizerConfig::default(),
        &EmaConfig::default(),
        KEY,
        &Device::flex(),
    )
    .unwrap();
    let error = other.load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("class_embedding.weight"), "{error}");
}

#[test]
fn a_loss_that_is_not_finite_is_an_error_of_the_step() {
    let _alone = alone();
    let mut method = method(coupling("independent", 4));
    let mut prepared = prepare(&*coupling("independent", 4), loader(4).batch_at(0).unwrap(), KEY, 0).unwrap();
    prepared.batch.images.make_values()[[1, 0, 0, 0]] = f32::INFINITY;
    let error = method.step(prepared, 0).unwrap_err();
    assert!(matches!(error, TrainError::NonFinite { step: 0, .. }), "{error}");
}

/// Digits, of which one has a pixel that is not finite.
struct BadImage {
    digits: Box<dyn Source>,
    bad: u64,
}

impl Source for BadImage {
    fn name(&self) -> &str {
        "digits"
    }

    fn len(&self) -> usize {
        self.digits.len()
    }

    fn shape(&self) -> [usize; 3] {
        self.digits.shape()
    }

    fn classes(&self) -> Option<&[String]> {
        self.digits.classes()
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.digits.label(index)
    }

    fn read(&self, index: usize, out: &mut [f32]) -> Result<(), DataError> {
        self.digits.read(index, out)?;
        if index as u64 == self.bad {
            out[5] = f32::NAN;
        }
        Ok(())
    }
}

/// Whatever the coupling, and also where it looks a window ahead: the run ends at the image's step with its number.
#[test]
fn an_image_that_is_not_finite_ends_the_run_by_its_number() {
    let _alone = alone();
    let bad = loader(8).batch_at(3).unwrap().index[6];
    let window = CouplingConfig { kind: "window".into(), window: 16, ..CouplingConfig::default() };
    let couplings = COUPLINGS.iter().filter(|(kind, _)| *kind != "window").map(|(kind, _)| coupling(kind, 2));
    for coupling in couplings.chain([window.build().unwrap().into()]) {
        let folder = tempfile::tempdir().unwrap();
        let trainer = Trainer {
            train: TrainConfig { steps: 10, batch_size: 8, ..TrainConfig::default() },
            checkpoint: CheckpointConfig { every: 2, ..CheckpointConfig::default() },
            run: folder.path().into(),
            config_sha256: "c0ffee".into(),
            key: KEY,
        };
        let source: Arc<dyn Source> =
            Arc::new(BadImage { digits: build(&DataOptions::new("digits")).unwrap(), bad });
        let loader = Loader::new(source, LoaderOptions { batch_size: 8, seed: 11, flip: false });
        let mut skips = Skips::default();
        let name = coupling.name();
        let result = trainer.run(&mut method(coupling.clone()), loader.unwrap(), coupling, &mut skips);
        let error = result.unwrap_err();
        let TrainError::NonFiniteImage { step: 3, image, value, latents: false } = &error else {
            panic!("{name}: {error}")
        };
        assert!(*image == bad && value.is_nan(), "{name}: {error}");
        let message = format!("step 3: the values of image {bad} of the data set hold NaN: repair it");
        assert!(error.to_string().starts_with(&message), "{error}");
        assert!(skips.skipped.is_empty(), "{name}");
        let store = CheckpointStore::new(folder.path().join("checkpoints"));
        let kept = store.newest().unwrap().0.map(|checkpoint| checkpoint.step);
        // A window is refused as a whole, before its first batch.
        assert_eq!(kept, Some(2), "{name}");
    }
}

/// A method whose batches at some steps hold an infinite pixel.
struct Poisoned {
    method: DiffusionStep,
    steps: std::ops::Range<u64>,
}

impl TrainStep for Poisoned {
    fn step(&mut self, mut prepared: Prepared, step: u64) -> Result<StepReport, TrainError> {
        if self.steps.contains(&step) {
            prepared.batch.images.make_values()[[0, 0, 0, 0]] = f32::INFINITY;
        }
        self.method.step(prepared, step)
    }

    fn sampling_network(&self) -> &Network {
        self.method.sampling_network()
    }

    fn learning_rate_at(&self, step: u64) -> f64 {
        self.method.learning_rate_at(step)
    }

    fn save(&self, files: &mut Files) -> Result<(), TrainError> {
        self.method.save(files)
    }

    fn load(&mut self, folder: &Path) -> Result<(), TrainError> {
        self.method.load(folder)
    }
}

#[derive(Default)]
struct Skips {
    taken: Vec<(u64, u32)>,
    skipped: Vec<u64>,
}

impl Observer for Skips {
    fn step(&mut self, step: u64, report: &StepReport, _total: &Average) {
        self.taken.push((step, report.loss.to_bits()));
    }

    fn skipped(&mut self, step: u64, reason: &TrainError) {
        assert!(matches!(reason, TrainError::NonFinite { step: at, .. } if at + 1 == step), "{reason}");
        self.skipped.push(step);
    }
}

fn train_poisoned(
    run: &Path,
    steps: u64,
    max_skipped: u64,
    poison: std::ops::Range<u64>,
) -> (Result<Average, TrainError>, Skips) {
    let trainer = Trainer {
        train: TrainConfig { steps, batch_size: 8, log_every: 2, max_skipped, ..TrainConfig::default() },
        checkpoint: CheckpointConfig { every: 2, ..CheckpointConfig::default() },
        run: run.into(),
        config_sha256: "c0ffee".into(),
        key: KEY,
    };
    let coupling = coupling("independent", 1);
    let mut method = Poisoned { method: method(coupling.clone()), steps: poison };
    let mut skips = Skips::default();
    (trainer.run(&mut method, loader(8), coupling, &mut skips), skips)
}

fn log_of(run: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_step_that_is_not_finite_changes_nothing() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let coupling = coupling("independent", 1);
    let mut method = Poisoned { method: method(coupling.clone()), steps: 1..2 };
    let prepared = |step| prepare(&*coupling, loader(8).batch_at(step).unwrap(), KEY, step).unwrap();
    method.step(prepared(0), 0).unwrap();
    let files = |name: &str, method: &Poisoned| {
        let folder = folder.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        method.save(&mut Files::new(&folder)).unwrap();
        ["model.safetensors", "ema.safetensors", "optim.bpk"]
            .map(|file| std::fs::read(folder.join(file)).unwrap())
    };
    let before = files("before", &method);
    assert!(matches!(method.step(prepared(1), 1), Err(TrainError::NonFinite { step: 1, .. })));
    assert!(before == files("after", &method));
}

#[test]
fn a_finite_loss_whose_gradient_is_not_is_refused_too() {
    let _alone = alone();
    // All times at the least noise of the schedule, where the weight is 6e8: the loss of an error of 1e14 is below the
    // largest number there is, and the square of its gradient is not.
    let time = TimeSamplerConfig { mean: Some(-8.0), std: Some(0.1), ..TimeSamplerConfig::new("log_normal") };
    let loss = LossConfig { weighting: WeightingConfig::new("sigma_sqrt"), ..LossConfig::default() };
    let coupling = coupling("independent", 1);
    let diffusion = with_loss("cosine", "x0", coupling.clone(), &time, &loss).unwrap();
    let (optimizer, ema) = (OptimizerConfig::default(), EmaConfig::default());
    let mut method =
        DiffusionStep::new(diffusion, tiny_network(None), &optimizer, &ema, KEY, &Device::flex()).unwrap();
    let mut batch = loader(8).batch_at(0).unwrap();
    batch.images.make_values()[[0, 0, 0, 0]] = 1e14;
    let prepared = prepare(&*coupling, batch, KEY, 0).unwrap();
    match method.step(prepared, 0) {
        Err(TrainError::NonFinite { loss, gradient_norm, .. }) => {
            assert!(loss.is_finite() && !gradient_norm.is_finite(), "{loss}, {gradient_norm}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn steps_that_are_not_finite_are_skipped_and_counted_also_after_a_resume() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let poison = 3..7;
    let (total, expected) = train_poisoned(&whole, 10, 10, poison.clone());
    let total = total.unwrap();
    assert_eq!((total.steps, total.skipped), (6, 4));
    assert_eq!(expected.skipped, [4, 5, 6, 7]);
    let steps: Vec<u64> = expected.taken.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [1, 2, 3, 8, 9, 10]);
    let log = log_of(&whole);
    let column = |key: &str| log.iter().map(|line| line[key].clone()).collect::<Vec<_>>();
    assert_eq!(column("step"), [2, 4, 6, 8, 10]);
    assert_eq!(column("skipped"), [0, 1, 2, 1, 0]);
    assert!(log[2]["loss"].is_null() && log[2]["gradient_norm"].is_null(), "{}", log[2]);
    assert!(log[1]["loss"].is_number());

    // The first part ends in the middle of them.
    let (_, mut found) = train_poisoned(&parts, 5, 10, poison.clone());
    let (again, more) = train_poisoned(&parts, 10, 10, poison.clone());
    found.taken.extend(more.taken);
    found.skipped.extend(more.skipped);
    assert_eq!((found.taken, found.skipped), (expected.taken, expected.skipped));
    let again = again.unwrap();
    assert_eq!((again.steps, again.skipped, again.loss()), (total.steps, total.skipped, total.loss()));
    for file in ["model.safetensors", "ema.safetensors"] {
        let read = |run: &Path| std::fs::read(run.join("checkpoints/step-00000010").join(file)).unwrap();
        assert!(read(&whole) == read(&parts), "{file}");
    }
    // Those before the end of the first part count.
    let short = folder.path().join("short");
    assert!(train_poisoned(&short, 5, 4, poison.clone()).0.is_ok());
    let (stopped, skips) = train_poisoned(&short, 10, 4, poison);
    assert!(matches!(stopped, Err(TrainError::Diverged { step: 6, skipped: 4, .. })), "{stopped:?}");
    assert_eq!(skips.skipped, [6, 7]);
}

#[test]
fn a_run_that_is_never_finite_again_stops_and_keeps_its_checkpoints() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let (stopped, skips) = train_poisoned(folder.path(), 50, 6, 5..u64::MAX);
    assert_eq!((skips.taken.len(), skips.skipped), (5, vec![6, 7, 8, 9, 10, 11]));
    let message = stopped.unwrap_err().to_string();
    for words in [
        "up to step 10",
        "6 steps in a row",
        "train.max_skipped",
        "checkpoint of step 4",
        "optimizer.learning_rate",
        "remove checkpoints/step-00000004",
    ] {
        assert!(message.contains(words), "no {words:?} in {message}");
    }
    let store = CheckpointStore::new(folder.path().join("checkpoints"));
    assert_eq!(store.newest().unwrap().0.unwrap().step, 4);

    let nothing = tempfile::tempdir().unwrap();
    let (stopped, _) = train_poisoned(nothing.path(), 50, 1, 0..u64::MAX);
    let message = stopped.unwrap_err().to_string();
    assert!(message.contains("step 0") && message.contains("no checkpoint yet"), "{message}");
}

#[test]
fn weights_that_are_not_finite_are_not_saved() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let train = |steps, learning_rate| {
        let trainer = Trainer {
            train: TrainConfig { steps, batch_size: 8, ..TrainConfig::default() },
            checkpoint: CheckpointConfig { every: 1, ..CheckpointConfig::default() },
            run: folder.path().into(),
            config_sha256: "c0ffee".into(),
            key: KEY,
        };
        let coupling = coupling("independent", 1);
        let optimizer = OptimizerConfig { learning_rate, ..OptimizerConfig::default() };
        let diffusion = diffusion("flow", "flow_velocity", coupling.clone());
        let (network, device) = (tiny_network(None), Device::flex());
        let mut method =
            DiffusionStep::new(diffusion, network, &optimizer, &EmaConfig::default(), KEY, &device).unwrap();
        trainer.run(&mut method, loader(8), coupling, &mut Skips::default())
    };
    train(2, 1e-3).unwrap();
    // The third step's loss and gradient are finite; the weights after it are not.
    let error = train(9, 3e38).unwrap_err();
    assert!(matches!(error, TrainError::NonFiniteWeights { kept: Some(2) }), "{error}");
    let message = error.to_string();
    for words in
        ["not saved", "checkpoint of step 2", "optimizer.learning_rate", "remove checkpoints/step-00000002"]
    {
        assert!(message.contains(words), "no {words:?} in {message}");
    }
    let store = CheckpointStore::new(folder.path().join("checkpoints"));
    assert_eq!(store.newest().unwrap().0.unwrap().step, 2);
    assert_eq!(train(4, 1e-3).unwrap().steps, 4, "it goes on from the good one");
}

#[test]
fn options_outside_their_range_are_refused() {
    let text = |result: Result<(), TrainError>| result.unwrap_err().to_string();
    let optimizer = OptimizerConfig { learning_rate: -1e-4, ..OptimizerConfig::default() };
    assert_eq!(text(optimizer.validate()), "optimizer.learning_rate = -0.0001: write a value > 0");
    let optimizer = OptimizerConfig { kind: "sgd".into(), ..OptimizerConfig::default() };
    let unknown = text(optimizer.validate());
    assert_eq!(unknown, "optimizer.kind = sgd is unknown; known: adam, adamw, lion, muon, radam");
    let train = TrainConfig { batch_size: 0, ..TrainConfig::default() };
    assert_eq!(text(train.validate()), "train.batch_size = 0: write at least 1");
    let train = TrainConfig { max_skipped: 0, ..TrainConfig::default() };
    assert_eq!(text(train.validate()), "train.max_skipped = 0: write at least 1; 10 is usual");
    assert!(EmaConfig { decay: 1.0, ..EmaConfig::default() }.validate().is_err());
    assert!(CheckpointConfig { keep: 1, ..CheckpointConfig::default() }.validate().is_err());
}

#[test]
fn the_learning_rate_warms_up_linearly() {
    let config = OptimizerConfig { learning_rate: 1.0, warmup_steps: 4, ..OptimizerConfig::default() };
    let rates: Vec<f64> = (0..6).map(|step| config.learning_rate_at(step)).collect();
    assert_eq!(rates, [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]);
}
