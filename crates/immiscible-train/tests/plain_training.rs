//! Ordinary training written out, from the noise to the average of the weights: with independent noise the steps of this
//! crate are that, bit for bit.

mod generator;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor, TensorData};
use generator::alone;
use immiscible_coupling::{Coupling, CouplingConfig};
use immiscible_data::{DataOptions, Loader, LoaderOptions, build};
use immiscible_models::{
    AutoencoderKL, AutoencoderKLConfig, Condition, Ctx, Denoiser, ModelConfig, Network, NetworkConfig,
    Precision, TimeInput, UNet2DConfig,
};
use immiscible_random::{Key, Stream};
use immiscible_schedule::{
    Distance, LearnedVariance, Levels, NoiseSchedule, Objective, ObjectiveConfig, Point, ScheduleConfig,
    TimeSamplerConfig, Times, distance::PseudoHuber,
};
use immiscible_train::{
    Curriculum, Diffusion, EmaConfig, Files, LatentStep, Latents, LogNormal, LossConfig, MethodConfig,
    MethodParts, OnLatents, OptimizerConfig, TrainStep, prepare,
};
use std::sync::Arc;

const KEY: Key = Key::new(11);
const ROWS: usize = 8;
const STEPS: u64 = 3;
const LEARNING_RATE: f64 = 2e-3;
const EMA_DECAY: f64 = 0.7;

fn loader() -> Loader {
    let digits = build(&DataOptions::new("digits")).unwrap();
    Loader::new(digits, LoaderOptions { batch_size: ROWS, seed: 11, flip: false }).unwrap()
}

fn images(step: u64) -> Tensor<4> {
    let batch = loader().batch_at(step).unwrap();
    let values: Vec<f32> = batch.images.values().iter().copied().collect();
    Tensor::from_data(TensorData::new(values, [ROWS, 1, 8, 8]), &Device::flex())
}

/// With noise in its last weights, which are 0 in a fresh network: its first outputs are not 0.
fn network(in_channels: usize, out_channels: usize) -> Network {
    network_with_dropout(in_channels, out_channels, 0.1)
}

fn network_with_dropout(in_channels: usize, out_channels: usize, dropout: f64) -> Network {
    struct Disturb;
    impl ModuleMapper for Disturb {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (id, tensor, mapper) = param.consume();
            let noise = tensor.random_like(burn::tensor::Distribution::Normal(0.0, 0.02));
            Param::from_mapped_value(id, tensor + noise, mapper)
        }
    }
    let config =
        UNet2DConfig { in_channels, out_channels, num_class_embeds: None, dropout, ..UNet2DConfig::tiny() };
    Device::flex().seed(3);
    let network = NetworkConfig::UNet2DModel(config).init(&Device::flex()).unwrap();
    network.map(&mut Disturb).train()
}

/// All weights, one after the other.
fn weights(network: &Network) -> Vec<f32> {
    struct Collect(Vec<f32>);
    impl ModuleVisitor for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.extend(param.val().into_data().try_into_vec_as::<f32>().unwrap());
        }
    }
    let mut collect = Collect(Vec::new());
    network.valid().visit(&mut collect);
    collect.0
}

/// The network with these weights.
fn with_weights(network: &Network, weights: &[f32]) -> Network {
    struct Fill<'a>(&'a [f32]);
    impl ModuleMapper for Fill<'_> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (id, tensor, mapper) = param.consume();
            let (values, rest) = self.0.split_at(tensor.shape().num_elements());
            self.0 = rest;
            let values = TensorData::new(values.to_vec(), tensor.dims());
            Param::from_mapped_value(id, Tensor::from_data(values, &tensor.device()), mapper)
        }
    }
    network.valid().map(&mut Fill(weights))
}

/// decay · average + (1 − decay) · online
fn average(average: &[f32], online: &[f32], decay: f64) -> Vec<f32> {
    average.iter().zip(online).map(|(a, b)| a + (b - a) * (1.0 - decay) as f32).collect()
}

/// A network that learns with Burn's optimiser alone.
struct Plain {
    network: Network,
    optimizer: ModuleOptimizer,
    ema: Vec<f32>,
}

impl Plain {
    fn new(network: Network) -> Self {
        let ema = weights(&network);
        Self { network, optimizer: AdamWConfig::new().with_weight_decay(0.01).with_epsilon(1e-8).init(), ema }
    }

    fn learn(&mut self, loss: Tensor<1>) -> f32 {
        let value = loss.clone().inner().into_scalar();
        let gradients = GradientsParams::from_grads(loss.backward(), &self.network);
        self.network = self.optimizer.step(LEARNING_RATE, self.network.clone(), gradients);
        self.ema = average(&self.ema, &weights(&self.network), EMA_DECAY);
        value
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn independent() -> Arc<dyn Coupling> {
    CouplingConfig { kind: "independent".into(), ..CouplingConfig::default() }.build().unwrap().into()
}

fn diffusion(schedule: &str, objective: Box<dyn Objective>, vlb_weight: Option<f64>) -> Diffusion {
    let schedule = ScheduleConfig::new(schedule).build().unwrap();
    Diffusion {
        time: TimeSamplerConfig::default().build_for(&*schedule).unwrap(),
        loss: LossConfig { vlb_weight, ..LossConfig::default() }.build(&*schedule, &*objective).unwrap(),
        schedule,
        objective,
        coupling: independent(),
        classes: None,
        precision: Precision::F32,
    }
}

fn method(config: &MethodConfig, diffusion: Diffusion, network: Network) -> Box<dyn TrainStep> {
    method_in_parts(config, diffusion, network, None)
}

fn method_in_parts(
    config: &MethodConfig,
    diffusion: Diffusion,
    network: Network,
    micro_batch: Option<usize>,
) -> Box<dyn TrainStep> {
    let optimizer =
        OptimizerConfig { learning_rate: LEARNING_RATE, clip_norm: 0.0, ..OptimizerConfig::default() };
    config
        .build(MethodParts {
            diffusion,
            network,
            optimizer,
            ema: EmaConfig { decay: EMA_DECAY, warmup: false, ..EmaConfig::default() },
            steps: STEPS,
            micro_batch,
            key: KEY,
            device: Device::flex(),
        })
        .unwrap()
}

/// Takes the steps of both: `plain` takes one step of the training that is written out and gives its loss.
fn same_weights(
    what: &str,
    mut method: Box<dyn TrainStep>,
    coupling: &dyn Coupling,
    mut plain: Plain,
    mut take: impl FnMut(&mut Plain, u64) -> f32,
) {
    let folder = tempfile::tempdir().unwrap();
    let mut before = weights(&plain.network);
    for step in 0..STEPS {
        let prepared = prepare(coupling, loader().batch_at(step).unwrap(), KEY, step).unwrap();
        let found = method.step(prepared, step).unwrap().loss;
        let expected = take(&mut plain, step);
        assert_eq!(found.to_bits(), expected.to_bits(), "{what}, step {step}: loss {found}, {expected}");

        method.save(&mut Files::new(folder.path())).unwrap();
        let mut online = plain.network.valid();
        online.load(&folder.path().join("model.safetensors")).unwrap();
        let expected = weights(&plain.network);
        assert!(bits(&weights(&online)) == bits(&expected), "{what}, step {step}: weights");
        let ema = weights(method.sampling_network());
        assert!(bits(&ema) == bits(&plain.ema), "{what}, step {step}: average");
        assert!(before != expected && ema != expected, "{what}: nothing is learnt");
        before = expected;
    }
}

/// What the images of a step are trained with, in the order of their rows.
fn noise(step: u64, shape: [usize; 4]) -> Tensor<4> {
    let mut values = vec![0.0; shape.iter().product()];
    KEY.step(step).stream(Stream::NOISE).fill_normals(0, values.len() / shape[0], &mut values);
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

/// x_t = α x₀ + σ ε and the network's answer to it, with dropout.
fn answer(
    network: &Network,
    x0: &Tensor<4>,
    noise: &Tensor<4>,
    levels: &Levels,
    time: &Times,
    step: u64,
) -> [Tensor<4>; 2] {
    let device = Device::flex();
    let x_t = levels.alpha.clone() * x0.clone() + levels.sigma.clone() * noise.clone();
    let times: Vec<f32> = time.points().iter().map(|point| point.time.network_time()).collect();
    device.seed(KEY.step(step).stream(Stream::DROPOUT).device_seed());
    let time = TimeInput::of(&times, &device);
    let output = network.forward(x_t.clone(), time, &Condition::None, Ctx::default()).pred;
    [x_t, output]
}

fn epsilon() -> Box<dyn Objective> {
    ObjectiveConfig::new("epsilon").build().unwrap()
}

/// ‖ε_θ(x_t, t) − ε‖² (Ho et al. 2020, arXiv 2006.11239, algorithm 1).
#[test]
fn diffusion_is_plain_training() {
    let _alone = alone();
    let parts = diffusion("linear", epsilon(), None);
    let schedule = ScheduleConfig::new("linear").build().unwrap();
    let method = method(&MethodConfig::default(), parts, network(1, 1));
    let plain = Plain::new(network(1, 1));
    same_weights("diffusion", method, &*independent(), plain, |plain, step| {
        let (x0, noise) = (images(step), noise(step, [ROWS, 1, 8, 8]));
        let t = schedule.sample_t(ROWS, KEY.step(step).stream(Stream::TIME));
        let [_, output] = answer(&plain.network, &x0, &noise, &t.levels(&Device::flex()), &t, step);
        plain.learn((output - noise).powi_scalar(2).mean())
    });
}

/// L_simple + λ L_vlb (Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 16).
#[test]
fn the_hybrid_loss_is_plain_training() {
    let _alone = alone();
    let parts = diffusion("cosine", epsilon(), Some(0.001));
    let (schedule, objective) = (ScheduleConfig::new("cosine").build().unwrap(), epsilon());
    let variance = LearnedVariance::new(&*schedule).unwrap();
    let method = method(&MethodConfig::default(), parts, network(1, 2));
    let plain = Plain::new(network(1, 2));
    same_weights("hybrid", method, &*independent(), plain, |plain, step| {
        let (x0, noise) = (images(step), noise(step, [ROWS, 1, 8, 8]));
        let t = schedule.sample_t(ROWS, KEY.step(step).stream(Stream::TIME));
        let levels = t.levels(&Device::flex());
        let [x_t, output] = answer(&plain.network, &x0, &noise, &levels, &t, step);
        let (mean, v) = (output.clone().narrow(1, 0, 1), output.narrow(1, 1, 1));
        let estimate = objective.read(mean.clone().detach(), &x_t, &levels).x0;
        let vlb = variance.bits(v, estimate, &x0, &t).mean() * 1000.0;
        plain.learn((mean - noise).powi_scalar(2).mean() + vlb * 0.001)
    });
}

/// The noise is that of the scaled latents (Rombach et al. 2022, arXiv 2112.10752), drawn or not.
#[test]
fn training_on_latents_is_plain_training() {
    let _alone = alone();
    let vae = || -> AutoencoderKL {
        let config = AutoencoderKLConfig { in_channels: 1, out_channels: 1, ..AutoencoderKLConfig::tiny() };
        Device::flex().seed(1);
        config.init(&Device::flex()).unwrap()
    };
    for sample in [false, true] {
        let coupling = independent();
        let parts = diffusion("linear", epsilon(), None);
        let schedule = ScheduleConfig::new("linear").build().unwrap();
        let latents = Latents::new(vae(), 4, 2, sample, &Device::flex());
        let inner = method(&MethodConfig::default(), parts, network(4, 4));
        let method = Box::new(LatentStep::new(inner, latents, coupling.clone(), KEY));
        let (vae, plain) = (vae(), Plain::new(network(4, 4)));
        let what = format!("latents, drawn: {sample}");
        same_weights(&what, method, &OnLatents(coupling), plain, |plain, step| {
            let posterior = vae.encode(images(step));
            let mut drawn = vec![0.0; ROWS * 64];
            KEY.step(step).stream(Stream::LATENT).fill_normals(0, 64, &mut drawn);
            let drawn = Tensor::from_data(TensorData::new(drawn, [ROWS, 4, 4, 4]), &Device::flex());
            let z = if sample { posterior.sample(drawn) } else { posterior.mode() };
            let x0 = z * 0.18215;
            let noise = noise(step, [ROWS, 4, 4, 4]);
            let t = schedule.sample_t(ROWS, KEY.step(step).stream(Stream::TIME));
            let [_, output] = answer(&plain.network, &x0, &noise, &t.levels(&Device::flex()), &t, step);
            plain.learn((output - noise).powi_scalar(2).mean())
        });
    }
}

// ---- consistency training ----

fn consistency(kind: &str) -> MethodConfig {
    MethodConfig {
        kind: kind.into(),
        // So that the grid changes within the steps.
        s0: Some(4),
        s1: Some(20),
        ..MethodConfig::default()
    }
}

fn ve() -> Box<dyn NoiseSchedule> {
    ScheduleConfig::new("ve").build().unwrap()
}

fn f_objective(config: &MethodConfig) -> Box<dyn Objective> {
    config.objective(&ScheduleConfig::new("ve"), None).unwrap()
}

/// f(x + t ε, t) with the dropout of the step.
fn f(network: &Network, points: Vec<Point>, step: u64) -> Tensor<4> {
    let device = Device::flex();
    let times: Vec<f32> = points.iter().map(|point| (250.0 * point.sigma.ln()) as f32).collect();
    let levels = Times::from(points).levels(&device);
    let t = levels.sigma.clone();
    let x_t = images(step) + t.clone() * noise(step, [ROWS, 1, 8, 8]);
    device.seed(KEY.step(step).stream(Stream::DROPOUT).device_seed());
    let input = x_t.clone() / (t.square() + 0.25).sqrt();
    let output = network.forward(input, TimeInput::of(&times, &device), &Condition::None, Ctx::default());
    f_objective(&consistency("consistency")).read(output.pred, &x_t, &levels).x0
}

/// d(f(x + t ε, t), f⁻(x + t′ ε, t′)) of uniform neighbours (Song et al. 2023, arXiv 2303.01469, algorithm 3).
#[test]
fn consistency_training_is_plain_training() {
    let _alone = alone();
    let config = consistency("consistency");
    let method = method(&config, diffusion("ve", f_objective(&config), None), network(1, 1));
    let plain = Plain::new(network(1, 1));
    let mut teacher = plain.ema.clone();
    let curriculum = Curriculum { s0: 4, s1: 20, mu0: 0.9, steps: STEPS };
    assert!(curriculum.levels(0) < curriculum.levels(STEPS - 1));
    same_weights("consistency", method, &*independent(), plain, |plain, step| {
        let levels = curriculum.levels(step);
        let grid = ve().grid(levels).unwrap();
        let key = KEY.step(step).stream(Stream::TIME);
        let number = |row| (key.uniform(row) * (levels - 1) as f64) as usize;
        let points = |next: usize| (0..ROWS as u64).map(|row| grid[number(row) + next]).collect();
        let end = f(&plain.network, points(0), step);
        let slow = with_weights(&plain.network, &teacher).train();
        let wanted = f(&slow, points(1), step).detach();
        let loss = plain.learn((end - wanted).square().flatten::<2>(1, 3).mean_dim(1).mean());
        teacher = average(&teacher, &weights(&plain.network), curriculum.decay(step));
        loss
    });
}

/// λ(t) d(f(x + t ε, t), f(x + t′ ε, t′)) with log-normal noise levels, λ = 1/(t − t′) and the pseudo-Huber distance
/// (Song & Dhariwal 2024, arXiv 2310.14189, table 1).
#[test]
fn improved_consistency_training_is_plain_training() {
    let _alone = alone();
    let config = MethodConfig { curriculum_steps: Some(3), ..consistency("improved_consistency") };
    let method = method(&config, diffusion("ve", f_objective(&config), None), network(1, 1));
    let plain = Plain::new(network(1, 1));
    same_weights("improved consistency", method, &*independent(), plain, |plain, step| {
        // s₀ = 4 intervals, twice as many after every step, s₁ = 20 at most.
        let levels = [5, 9, 17][step as usize];
        let pairs =
            LogNormal { mean: -1.1, std: 2.0 }.neighbours(&*ve(), levels, ROWS, KEY.step(step)).unwrap();
        let end = f(&plain.network, pairs.iter().map(|pair| pair.at).collect(), step);
        let wanted = f(&plain.network, pairs.iter().map(|pair| pair.next).collect(), step).detach();
        let distance = PseudoHuber { c: None }.of(end - wanted).reshape([ROWS]);
        let weights: Vec<f32> =
            pairs.iter().map(|pair| (1.0 / (pair.at.sigma - pair.next.sigma)) as f32).collect();
        let weights = Tensor::<1>::from_floats(weights.as_slice(), &Device::flex());
        plain.learn((distance * weights).mean())
    });
}

/// Loss and gradient of a batch in parts of 3, 3 and 2 rows, and of single rows, are those of the whole batch.
#[test]
fn the_parts_of_a_batch_add_up_to_the_batch() {
    let _alone = alone();
    let (ct, ict) = (consistency("consistency"), consistency("improved_consistency"));
    let plain = MethodConfig::default();
    for (what, config, diffusion, out_channels) in [
        ("diffusion", &plain, &(|| diffusion("linear", epsilon(), None)) as &dyn Fn() -> Diffusion, 1),
        ("hybrid", &plain, &|| diffusion("cosine", epsilon(), Some(0.001)), 2),
        ("consistency", &ct, &|| diffusion("ve", f_objective(&ct), None), 1),
        ("improved consistency", &ict, &|| diffusion("ve", f_objective(&ict), None), 1),
    ] {
        let step = |micro_batch| {
            let network = network_with_dropout(1, out_channels, 0.0);
            let mut method = method_in_parts(config, diffusion(), network, micro_batch);
            let prepared = prepare(&*independent(), loader().batch_at(0).unwrap(), KEY, 0).unwrap();
            method.step(prepared, 0).unwrap()
        };
        let whole = step(None);
        for rows in [3, 1] {
            let parts = step(Some(rows));
            let off = |a: f32, b: f32| (a / b - 1.0).abs();
            assert!(off(parts.loss, whole.loss) < 1e-5, "{what}, {rows}: {parts:?}, {whole:?}");
            let gradient = off(parts.gradient_norm, whole.gradient_norm);
            assert!(gradient < 1e-4, "{what}, {rows}: {parts:?}, {whole:?}");
        }
    }
}
