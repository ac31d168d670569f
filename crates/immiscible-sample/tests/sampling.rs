//! The loop, guidance and noise, with networks whose best output is known in closed form.

use std::cell::{Cell, RefCell};

use burn::prelude::*;
use immiscible_models::{Condition, Ctx, Denoiser, NETWORKS, Output, TimeInput};
use immiscible_random::{Key, Stream};
use immiscible_sample::{
    Guidance, NoiseSource, Predictor, SampleConfig, SampleError, Sampler, SeededNoise, Spacing,
};
use immiscible_schedule::objective::Consistency;
use immiscible_schedule::{
    Levels, NoiseSchedule, OBJECTIVES, Objective, ObjectiveConfig, Point, SAMPLERS, SCHEDULES, SamplerConfig,
    ScheduleConfig, ScheduleError, Time, Variance, compatible,
};

fn device() -> Device {
    Device::flex()
}

fn schedule(name: &str) -> Box<dyn NoiseSchedule> {
    ScheduleConfig::new(name).build().unwrap()
}

fn objective(name: &str) -> Box<dyn Objective> {
    ObjectiveConfig::new(name).build().unwrap()
}

fn config(sampler: &str, steps: usize) -> SampleConfig {
    SampleConfig { sampler: SamplerConfig::new(sampler), steps, clip: false, ..SampleConfig::default() }
}

fn values(tensor: Tensor<4>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

fn output(pred: Tensor<4>) -> Output {
    Output { pred, aux: vec![], taps: vec![], heads: vec![] }
}

const STD: f64 = 0.3;
const MEAN: f64 = 0.2;

/// The point whose number the network was given.
fn point_of(schedule: &dyn NoiseSchedule, objective: &dyn Objective, u: f32) -> Point {
    let edm = objective.name() == "edm";
    let ratio = f64::from(4.0 * u).exp();
    match schedule.name() {
        "flow" if edm => schedule.at(Time::Continuous(ratio / (1.0 + ratio))).unwrap(),
        "flow" => schedule.at(Time::Continuous(f64::from(u) / 1000.0)).unwrap(),
        "ve" if objective.jumps() => schedule.at(Time::Sigma(f64::from(u / 250.0).exp())).unwrap(),
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

/// The best network for pixels N(mean, STD²): the mean is 0.2 without a class and 0.1 c − 0.2 for class c.
struct GaussianNetwork<'a> {
    schedule: &'a dyn NoiseSchedule,
    objective: &'a dyn Objective,
}

impl Denoiser for GaussianNetwork<'_> {
    fn forward(&self, x: Tensor<4>, t: TimeInput, condition: &Condition, _: Ctx<'_>) -> Output {
        let u: Vec<f32> = t.u.into_data().try_to_vec().unwrap();
        assert_eq!(u.len(), x.dims()[0]);
        assert!(u.iter().all(|other| *other == u[0]), "samples of one step are at one point");
        let levels = point_of(self.schedule, self.objective, u[0]).levels(&x.device());
        let x = x_t_of(self.objective, x, &levels);
        let mean: Tensor<4> = match condition {
            Condition::Class(classes) => classes.clone().float().reshape([-1, 1, 1, 1]) * 0.1 - 0.2,
            _ => Tensor::full([1, 1, 1, 1], MEAN, &x.device()),
        };
        let (alpha, sigma) = (levels.alpha.clone(), levels.sigma.clone());
        let variance = alpha.clone().square() * STD.powi(2) + sigma.clone().square();
        let centred = x.clone() - alpha.clone() * mean.clone();
        let share = if self.objective.jumps() {
            variance.sqrt().recip() * STD
        } else {
            alpha.clone() / variance * STD.powi(2)
        };
        let x0 = mean + centred * share;
        let noise = (x - alpha * x0.clone()) / sigma;
        output(self.objective.target(&x0, &noise, &levels))
    }
}

/// Outputs a constant and remembers what it was asked.
#[derive(Default)]
struct Recorder {
    value: f64,
    times: RefCell<Vec<Vec<f32>>>,
    rows: Cell<usize>,
}

impl Denoiser for Recorder {
    fn forward(&self, x: Tensor<4>, t: TimeInput, _: &Condition, _: Ctx<'_>) -> Output {
        self.times.borrow_mut().push(t.u.into_data().try_to_vec().unwrap());
        self.rows.set(self.rows.get() + x.dims()[0]);
        output(x.zeros_like() + self.value)
    }
}

fn sample(
    config: &SampleConfig,
    schedule: &dyn NoiseSchedule,
    objective: &dyn Objective,
    network: &dyn Denoiser,
    noise: SeededNoise,
    shape: [usize; 4],
    condition: &Condition,
) -> Tensor<4> {
    let sampler = Sampler::new(config, schedule, objective).unwrap();
    let (mut predictor, mut noise) = (sampler.predictor(network), noise);
    sampler.sample(&mut predictor, &mut noise, shape, condition, &device(), |_| ()).unwrap()
}

/// Whether the sampler needs a continuous time, which the schedule does not have, or another kind of network.
fn refused(config: &SampleConfig, schedule: &dyn NoiseSchedule, objective: &dyn Objective) -> bool {
    match Sampler::new(config, schedule, objective) {
        Err(SampleError::Schedule(ScheduleError::DiscreteTime { .. })) => true,
        Err(SampleError::Jumps { .. }) => true,
        Err(error) => panic!("{error}"),
        Ok(_) => false,
    }
}

/// From the prior, by Monte Carlo: mean and standard deviation over 8,000 pixels within 0.03 and 0.04 (the
/// sampling errors of either are below 0.004; the rest is that of 100 steps).
#[test]
fn gaussian_data_come_back_for_every_schedule_objective_and_sampler() {
    for (name, _) in SCHEDULES {
        let mut objectives: Vec<_> = OBJECTIVES.iter().map(|(target, _)| objective(target)).collect();
        objectives.push(Box::new(Consistency::new(0.002, 0.5).unwrap()));
        for objective in &objectives {
            for (kernel, _) in SAMPLERS {
                let (schedule, objective) = (schedule(name), objective.as_ref());
                let (schedule, target) = (schedule.as_ref(), objective.name());
                // A consistency function keeps the size of the data.
                if compatible(schedule, objective).is_err() || (objective.jumps() && *name != "ve") {
                    continue;
                }
                let config = config(kernel, 100);
                if refused(&config, schedule, objective) {
                    continue;
                }
                let network = GaussianNetwork { schedule, objective };
                let shape = [2_000, 1, 2, 2];
                let noise = SeededNoise::new(5, 0);
                let images = sample(&config, schedule, objective, &network, noise, shape, &Condition::None);
                let (variance, mean) = images.reshape([8_000]).var_mean(0);
                let (mean, std): (f32, f32) = (mean.into_scalar(), variance.sqrt().into_scalar());
                assert!(
                    (f64::from(mean) - MEAN).abs() < 0.03,
                    "{kernel} on {name} with {target}: mean {mean}"
                );
                assert!((f64::from(std) - STD).abs() < 0.04, "{kernel} on {name} with {target}: std {std}");
            }
        }
    }
}

#[test]
fn each_image_follows_its_class() {
    let (schedule, objective) = (schedule("flow"), objective("flow_velocity"));
    let network = GaussianNetwork { schedule: schedule.as_ref(), objective: objective.as_ref() };
    let classes = [0, 5, 2, 5];
    let condition = Condition::classes(&classes, &device());
    let noise = SeededNoise::new(1, 0);
    let images =
        sample(&config("heun", 20), &*schedule, &*objective, &network, noise, [4, 1, 32, 32], &condition);
    let means: Vec<f32> = images.mean_dims(&[1, 2, 3]).into_data().try_to_vec().unwrap();
    for (mean, class) in means.into_iter().zip(classes) {
        assert!((mean - (0.1 * class as f32 - 0.2)).abs() < 0.03, "class {class} has mean {mean}");
    }
}

#[test]
fn an_image_is_the_same_in_any_batch() {
    let (schedule, objective) = (schedule("linear"), objective("epsilon"));
    let network = GaussianNetwork { schedule: schedule.as_ref(), objective: objective.as_ref() };
    for (kernel, _) in SAMPLERS {
        if refused(&config(kernel, 5), &*schedule, &*objective) {
            continue;
        }
        let run = |first: u64, images: usize| {
            let classes: Vec<u32> = (first as u32..).take(images).collect();
            let condition = Condition::classes(&classes, &device());
            let (shape, noise) = ([images, 3, 4, 4], SeededNoise::new(9, first));
            values(sample(&config(kernel, 5), &*schedule, &*objective, &network, noise, shape, &condition))
        };
        let whole = run(0, 8);
        assert_eq!(whole, [run(0, 4), run(4, 4)].concat(), "{kernel}: 2 × 4 images");
        assert_eq!(whole[5 * 48..6 * 48], run(5, 1), "{kernel}: image 5 alone");
        assert_ne!(whole[..48], whole[48..96], "{kernel}: two images with the same noise");
    }
}

#[test]
fn the_networks_sample_reproducibly() {
    let (schedule, objective) = (schedule("cosine"), objective("v"));
    for (name, build) in NETWORKS {
        device().seed(0);
        let network = build().tiny().init(&device()).unwrap();
        let run = |first: u64, images: usize| {
            let condition = Condition::classes(&vec![1; images], &device());
            let (shape, noise) = ([images, 3, 8, 8], SeededNoise::new(2, first));
            let config = SampleConfig { clip: true, ..config("ddpm", 3) };
            values(sample(&config, &*schedule, &*objective, &network, noise, shape, &condition))
        };
        let whole = run(0, 4);
        assert_eq!(whole, run(0, 4), "{name}");
        assert!(whole.iter().all(|pixel| (-1.0..=1.0).contains(pixel)), "{name}");
        // Matrix products of another size may round differently.
        for (a, b) in whole.iter().zip([run(0, 2), run(2, 2)].concat()) {
            assert!((a - b).abs() < 1e-4, "{name}: {a} {b}");
        }
    }
}

#[test]
fn seeded_noise_is_the_table_of_its_image_numbers() {
    let mut noise = SeededNoise::new(4, 10);
    let shape = [3, 2, 2, 2];
    let mut expected = vec![0.0; 24];
    Key::new(4).stream(Stream::PRIOR).fill_normals(10, 8, &mut expected);
    assert_eq!(values(noise.prior(shape, &device())), expected);
    Key::new(4).step(6).stream(Stream::SAMPLER).fill_normals(10, 8, &mut expected);
    assert_eq!(values(noise.step(6, 0, shape, &device())), expected);
    assert_ne!(values(noise.step(6, 1, shape, &device())), expected, "another draw of the same step");
    let draws = [
        noise.prior(shape, &device()),
        noise.step(0, 0, shape, &device()),
        noise.step(1, 0, shape, &device()),
    ];
    let [prior, first, second] = draws.map(values);
    assert!(prior != first && first != second && prior != second);
}

#[test]
fn the_network_sees_the_times_of_the_grid_and_the_callback_the_levels_reached() {
    for (kernel, calls) in [("euler", 4), ("heun", 7)] {
        let (schedule, objective) = (schedule("flow"), objective("flow_velocity"));
        let sampler = Sampler::new(&config(kernel, 4), &*schedule, &*objective).unwrap();
        let network = Recorder::default();
        let mut reached = Vec::new();
        sampler
            .sample(
                &mut sampler.predictor(&network),
                &mut SeededNoise::new(0, 0),
                [2, 1, 1, 1],
                &Condition::None,
                &device(),
                |progress| {
                    assert_eq!((progress.x.dims(), progress.steps), ([2, 1, 1, 1], 4));
                    reached.push((progress.step, progress.point));
                },
            )
            .unwrap();
        let grid = schedule.grid(4).unwrap();
        assert_eq!(reached, (1..=4).map(|i| (i, grid[i])).collect::<Vec<_>>());
        let times = network.times.into_inner();
        assert_eq!((times.len(), sampler.evaluations()), (calls, Some(calls)));
        let expected: &[f32] = match kernel {
            "euler" => &[1000.0, 750.0, 500.0, 250.0],
            _ => &[1000.0, 750.0, 750.0, 500.0, 500.0, 250.0, 250.0],
        };
        assert_eq!(times, expected.iter().map(|u| vec![*u; 2]).collect::<Vec<_>>());
    }
}

// ---- guidance ----

/// c² + x_t for class c, and the number of rows it was given.
#[derive(Default)]
struct Square {
    rows: Vec<usize>,
}

impl Predictor for &mut Square {
    fn predict(&mut self, x_t: &Tensor<4>, _: Point, condition: &Condition) -> Tensor<4> {
        self.rows.push(x_t.dims()[0]);
        match condition {
            Condition::Class(classes) => {
                assert_eq!(classes.dims()[0], x_t.dims()[0]);
                x_t.clone() + classes.clone().float().square().reshape([-1, 1, 1, 1])
            }
            _ => x_t.clone() - 7.0,
        }
    }
}

#[test]
fn guidance_extrapolates_from_the_null_class() {
    let x_t = Tensor::<1>::from_floats([0.5, -1.5], &device()).reshape([2, 1, 1, 1]);
    let classes = Condition::classes(&[1, 3], &device());
    let run = |scale, condition: &Condition| {
        let mut inner = Square::default();
        let output = Guidance::new(&mut inner, scale, Some(Condition::classes(&[5], &device())))
            .unwrap()
            .predict(&x_t, Point::CLEAN, condition);
        (values(output), inner.rows)
    };
    assert_eq!(run(1.0, &classes), (vec![0.5 + 1.0, -1.5 + 9.0], vec![2]), "w = 1 is conditional");
    assert_eq!(run(0.0, &classes), (vec![0.5 + 25.0, -1.5 + 25.0], vec![2]), "w = 0 is unconditional");
    // u + w (c − u), in one evaluation of both.
    for scale in [-1.0, 0.5, 2.0, 4.0] {
        let expected = [1.0, 9.0].map(|c| 25.0 + scale as f32 * (c - 25.0));
        assert_eq!(
            run(scale, &classes),
            (vec![0.5 + expected[0], -1.5 + expected[1]], vec![4]),
            "w = {scale}"
        );
    }
    assert_eq!(run(3.0, &Condition::None), (vec![-6.5, -8.5], vec![2]), "nothing to guide");
}

#[test]
fn guidance_moves_the_samples_away_from_the_unconditional_ones() {
    let (schedule, objective) = (schedule("linear"), objective("epsilon"));
    let network = GaussianNetwork { schedule: schedule.as_ref(), objective: objective.as_ref() };
    let sampler = Sampler::new(&config("ddim", 50), &*schedule, &*objective).unwrap();
    let condition = Condition::classes(&[6], &device());
    // Class 6 has mean 0.4, class 2, taken as null, has 0: the guided mean is 0.4 w.
    for scale in [0.0, 1.0, 2.0] {
        let null = Some(Condition::classes(&[2], &device()));
        let mut predictor = Guidance::new(sampler.predictor(&network), scale, null).unwrap();
        let mut noise = SeededNoise::new(3, 0);
        let images = sampler
            .sample(&mut predictor, &mut noise, [1, 1, 64, 64], &condition, &device(), |_| ())
            .unwrap();
        let mean: f32 = images.mean().into_scalar();
        assert!((f64::from(mean) - 0.4 * scale).abs() < 0.03, "w = {scale}: mean {mean}");
    }
}

#[test]
fn guidance_stops_outside_its_interval() {
    let x_t = Tensor::<1>::from_floats([0.5], &device()).reshape([1, 1, 1, 1]);
    let classes = Condition::classes(&[3], &device());
    let null = || Some(Condition::classes(&[5], &device()));
    let at = |sigma: f64| {
        let mut inner = Square::default();
        let guidance = Guidance::new(&mut inner, 2.0, null()).unwrap().within([0.5, 2.0]);
        let point = Point { time: Time::Sigma(sigma), alpha: 0.5, sigma: 0.5 * sigma };
        values(guidance.unwrap().predict(&x_t, point, &classes))[0]
    };
    let (conditional, guided) = (0.5 + 9.0, 0.5 + 25.0 + 2.0 * (9.0 - 25.0));
    for (noise, expected) in
        [(0.4, conditional), (0.5, conditional), (0.6, guided), (2.0, guided), (2.1, conditional)]
    {
        assert_eq!(at(noise), expected, "sigma/alpha = {noise}");
    }
    for [low, high] in [[1.0, 1.0], [-1.0, 2.0], [f64::NAN, 2.0]] {
        let error = Guidance::new(&mut Square::default(), 2.0, null()).unwrap().within([low, high]).err();
        assert!(matches!(error, Some(SampleError::GuidanceInterval { .. })), "{low} {high}");
    }
}

/// Outputs c² and, as a variance, c.
struct WithVariance;

impl Predictor for WithVariance {
    fn predict(&mut self, x_t: &Tensor<4>, _: Point, condition: &Condition) -> Tensor<4> {
        let Condition::Class(classes) = condition else { panic!("no classes") };
        let class = classes.clone().float().reshape([-1, 1, 1, 1]);
        Tensor::cat(vec![x_t.zeros_like() + class.clone().square(), x_t.zeros_like() + class], 1)
    }
}

#[test]
fn guidance_leaves_the_variance_of_the_condition() {
    let x_t = Tensor::zeros([2, 1, 1, 1], &device());
    let null = Some(Condition::classes(&[4], &device()));
    let mut guidance = Guidance::new(WithVariance, 2.0, null).unwrap();
    let output = guidance.predict(&x_t, Point::CLEAN, &Condition::classes(&[1, 3], &device()));
    // Rows of the mean and the variance: 16 + 2 (1 − 16) and 1, 16 + 2 (9 − 16) and 3.
    assert_eq!(values(output), [-14.0, 1.0, 2.0, 3.0]);
}

// ---- variance ----

/// The exact posterior mean of pixels N(MEAN, STD²), and a fixed place of the variance between its ends.
struct Learned<'a> {
    inner: GaussianNetwork<'a>,
    place: f64,
}

impl Denoiser for Learned<'_> {
    fn forward(&self, x: Tensor<4>, t: TimeInput, condition: &Condition, ctx: Ctx<'_>) -> Output {
        let place = x.zeros_like() + self.place;
        output(Tensor::cat(vec![self.inner.forward(x, t, condition, ctx).pred, place], 1))
    }
}

#[test]
fn a_learned_variance_is_passed_on() {
    let (schedule, objective) = (schedule("linear"), objective("epsilon"));
    let (schedule, objective) = (&*schedule, &*objective);
    let run = |variance, network: &dyn Denoiser| {
        let mut config = config("ddpm", 10);
        config.sampler.variance = Some(variance);
        let noise = SeededNoise::new(5, 0);
        values(sample(&config, schedule, objective, network, noise, [2, 1, 4, 4], &Condition::None))
    };
    let network = || GaussianNetwork { schedule, objective };
    for (place, fixed) in [(-1.0, Variance::FixedSmall), (1.0, Variance::FixedLarge)] {
        let learned = run(Variance::LearnedRange, &Learned { inner: network(), place });
        for (a, b) in learned.iter().zip(run(fixed, &network())) {
            assert!((a - b).abs() < 1e-5, "{fixed:?}: {a} {b}");
        }
    }
    // Other samplers take the mean.
    let ddim = |network: &dyn Denoiser| {
        let noise = SeededNoise::new(5, 0);
        values(sample(
            &config("ddim", 4),
            schedule,
            objective,
            network,
            noise,
            [2, 1, 4, 4],
            &Condition::None,
        ))
    };
    assert_eq!(ddim(&Learned { inner: network(), place: 0.3 }), ddim(&network()));

    let mut config = config("ddpm", 3);
    config.sampler.variance = Some(Variance::LearnedRange);
    let sampler = Sampler::new(&config, schedule, objective).unwrap();
    assert!(sampler.needs_variance());
    let network = network();
    let (mut predictor, mut noise) = (sampler.predictor(&network), SeededNoise::new(0, 0));
    let error = sampler.sample(&mut predictor, &mut noise, [1, 1, 1, 1], &Condition::None, &device(), |_| ());
    assert!(matches!(error, Err(SampleError::Schedule(ScheduleError::NoVariance { .. }))));
}

// ---- grids ----

#[test]
fn spacings_choose_the_timesteps_of_their_papers() {
    let times = |name: &str, spacing, steps: usize| -> Result<Vec<f32>, SampleError> {
        let (schedule, objective) = (schedule(name), objective("v"));
        let config = SampleConfig { spacing: Some(spacing), ..config("euler", steps) };
        let sampler = Sampler::new(&config, &*schedule, &*objective)?;
        let network = Recorder::default();
        let (mut predictor, mut noise) = (sampler.predictor(&network), SeededNoise::new(0, 0));
        sampler.sample(&mut predictor, &mut noise, [1, 1, 1, 1], &Condition::None, &device(), |_| ())?;
        Ok(network.times.into_inner().concat())
    };
    assert_eq!(times("linear", Spacing::Trailing, 4).unwrap(), [999.0, 749.0, 499.0, 249.0]);
    assert_eq!(times("linear", Spacing::Leading, 4).unwrap(), [750.0, 500.0, 250.0, 0.0]);
    assert_eq!(times("linear", Spacing::Linspace, 4).unwrap(), [999.0, 666.0, 333.0, 0.0]);
    assert_eq!(times("linear", Spacing::Quadratic, 4).unwrap(), [999.0, 444.0, 111.0, 0.0]);
    let all = times("linear", Spacing::Quadratic, 1000).unwrap();
    assert!(all.windows(2).all(|pair| pair[0] > pair[1]) && all.len() == 1000);
    // diffusers' EulerDiscreteScheduler with use_karras_sigmas and with use_exponential_sigmas.
    let karras = times("linear", Spacing::Karras, 4).unwrap();
    let exponential = times("linear", Spacing::Exponential, 4).unwrap();
    for (actual, expected) in karras.iter().zip(KARRAS).chain(exponential.iter().zip(EXPONENTIAL)) {
        assert!((actual - expected).abs() < 0.02, "{karras:?} {exponential:?}");
    }
    let flow = times("flow", Spacing::Exponential, 3).unwrap();
    assert!((flow[1] - 31.623).abs() < 1e-2 && (flow[2] - 1.0).abs() < 1e-4, "{flow:?}");
    let ve: Vec<f32> = times("ve", Spacing::Exponential, 3).unwrap();
    assert!((ve[1] - (80.0_f32 * 0.002).sqrt().ln() / 4.0).abs() < 1e-5, "{ve:?}");
    for (name, spacing) in [("flow", Spacing::Leading), ("ve", Spacing::Quadratic)] {
        let error = times(name, spacing, 4).unwrap_err();
        assert!(matches!(error, SampleError::Spacing { .. }), "{error}");
    }
    assert!(times("linear", Spacing::Leading, 1001).is_err());
}

const KARRAS: [f32; 4] = [999.0, 775.134, 300.990, 0.0];
const EXPONENTIAL: [f32; 4] = [999.0, 602.770, 72.802, 0.0];

// ---- clipping ----

#[test]
fn clipping_clamps_x0_and_recomputes_the_noise() {
    let (schedule, objective) = (schedule("flow"), objective("x0"));
    let network = Recorder { value: 3.0, ..Recorder::default() };
    let run = |clip, range, to_see: &mut dyn FnMut(usize, f32)| {
        let config = SampleConfig { clip, range, ..config("euler", 2) };
        let sampler = Sampler::new(&config, &*schedule, &*objective).unwrap();
        let (mut predictor, mut noise) = (sampler.predictor(&network), SeededNoise::new(0, 0));
        let see =
            |progress: immiscible_sample::Progress<'_>| to_see(progress.step, values(progress.x.clone())[0]);
        sampler.sample(&mut predictor, &mut noise, [1, 1, 1, 1], &Condition::None, &device(), see).unwrap();
    };
    let z = values(SeededNoise::new(0, 0).prior([1, 1, 1, 1], &device()))[0];
    for (clip, range, x0) in [(true, 1.0, 1.0), (true, 2.0, 2.0), (false, 2.0, 3.0)] {
        let mut path = Vec::new();
        run(clip, range, &mut |step, x| path.push((step, x)));
        // At t = 1 the noise is x_T itself; half of it and half of x0 are the point in between.
        let expected = [(1, 0.5 * x0 + 0.5 * z), (2, x0)];
        for (actual, expected) in path.into_iter().zip(expected) {
            assert!(
                actual.0 == expected.0 && (actual.1 - expected.1).abs() < 1e-6,
                "{actual:?} {expected:?}"
            );
        }
    }
}

/// Outputs given values.
struct Fixed(Vec<f32>);

impl Denoiser for Fixed {
    fn forward(&self, x: Tensor<4>, _: TimeInput, _: &Condition, _: Ctx<'_>) -> Output {
        output(Tensor::<1>::from_floats(&self.0[..], &x.device()).reshape(x.dims()))
    }
}

#[test]
fn a_threshold_squeezes_each_image_by_its_quantile() {
    let (schedule, objective) = (schedule("flow"), objective("x0"));
    let run = |ratio, range| {
        let config = SampleConfig { clip: true, range, threshold: Some(ratio), ..config("euler", 1) };
        // The second image is in range.
        let network = Fixed(vec![0.5, -3.0, 2.0, 1.0, 0.1, -0.2, 0.3, -0.9]);
        let noise = SeededNoise::new(0, 0);
        values(sample(&config, &*schedule, &*objective, &network, noise, [2, 1, 2, 2], &Condition::None))
    };
    let close = |actual: Vec<f32>, expected: [f32; 8]| {
        assert!(actual.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{actual:?} {expected:?}");
    };
    close(run(1.0, 1.0), [0.5 / 3.0, -1.0, 2.0 / 3.0, 1.0 / 3.0, 0.1, -0.2, 0.3, -0.9]);
    // Halfway between 1 and 2.
    close(run(0.5, 1.0), [0.5 / 1.5, -1.0, 1.0, 1.0 / 1.5, 0.1, -0.2, 0.3, -0.9]);
    close(run(1.0, 2.0), [1.0 / 3.0, -2.0, 4.0 / 3.0, 2.0 / 3.0, 0.1, -0.2, 0.3, -0.9]);
    let refuse = |clip, threshold| {
        let config = SampleConfig { clip, threshold: Some(threshold), ..config("euler", 1) };
        Sampler::new(&config, &*schedule, &*objective).err().expect("an error")
    };
    let no_range = SampleConfig { range: 0.0, ..config("euler", 1) };
    let error = Sampler::new(&no_range, &*schedule, &*objective).err();
    assert_eq!(error, Some(SampleError::Range(0.0)));
    assert_eq!(refuse(true, 0.0), SampleError::Threshold(0.0));
    assert_eq!(refuse(false, 0.9), SampleError::ThresholdWithoutClip(0.9));
}

// ---- configuration ----

#[test]
fn what_does_not_fit_is_refused_with_a_remedy() {
    let refuse = |config: &SampleConfig, schedule_name: &str, objective_name: &str| {
        let (schedule, objective) = (schedule(schedule_name), objective(objective_name));
        Sampler::new(config, schedule.as_ref(), objective.as_ref()).err().expect("an error")
    };
    let schedule_error = |error| match error {
        SampleError::Schedule(error) => error,
        other => panic!("{other}"),
    };
    let error = schedule_error(refuse(&config("ddim", 50), "flow", "epsilon"));
    assert!(matches!(error, ScheduleError::PureNoise { .. }));
    let error = schedule_error(refuse(&config("ddim", 1001), "linear", "epsilon"));
    assert!(matches!(error, ScheduleError::Steps { steps: 1001, .. }));
    let error = schedule_error(refuse(&config("plms", 50), "linear", "epsilon"));
    assert!(matches!(error, ScheduleError::Unknown { .. }));

    let guidance = |scale, null: Option<u32>| {
        let null = null.map(|null| Condition::classes(&[null], &device()));
        Guidance::new(&mut Square::default(), scale, null).err()
    };
    assert_eq!(guidance(2.0, None), Some(SampleError::NoNull(2.0)));
    assert_eq!(guidance(f64::INFINITY, Some(1)), Some(SampleError::GuidanceScale(f64::INFINITY)));
    assert_eq!(guidance(1.0, None), None);

    let (schedule, objective) = (schedule("linear"), objective("epsilon"));
    let sampler = Sampler::new(&SampleConfig::default(), &*schedule, &*objective).unwrap();
    let condition = Condition::classes(&[1, 2, 3], &device());
    let (mut square, mut noise) = (Square::default(), SeededNoise::new(0, 0));
    let error = sampler
        .sample(&mut &mut square, &mut noise, [2, 1, 1, 1], &condition, &device(), |_| ())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "2 images were asked for with conditions for 3; give one condition per image"
    );
}

#[test]
fn configs_read_what_they_know() {
    let text = "steps = 20\nguidance = 1.5\nclip = false\nsampler = { name = 'ddim', eta = 0.5 }";
    let config: SampleConfig = toml::from_str(text).unwrap();
    assert_eq!((config.steps, config.guidance, config.clip, config.sampler.eta), (20, 1.5, false, Some(0.5)));
    assert_eq!(toml::from_str::<SampleConfig>("").unwrap(), SampleConfig::default());
    assert!(toml::from_str::<SampleConfig>("step = 20").is_err());
}

#[test]
fn consistency_functions_and_their_sampler_go_together_on_a_grid_of_their_own() {
    let (schedule, consistency) = (schedule("ve"), Consistency::new(0.002, 0.5).unwrap());
    let refusal = |config: &SampleConfig, objective: &dyn Objective| {
        Sampler::new(config, &*schedule, objective).err().unwrap().to_string()
    };
    let ddim = refusal(&config("ddim", 2), &consistency);
    assert!(ddim.contains("\"ddim\"") && ddim.contains("write consistency"), "{ddim}");
    let jump = refusal(&config("consistency", 2), &*objective("edm"));
    assert!(jump.contains("\"edm\"") && jump.contains("such as ddim"), "{jump}");
    let spaced = SampleConfig { spacing: Some(Spacing::Karras), ..config("consistency", 2) };
    let spaced = refusal(&spaced, &consistency);
    assert!(spaced.contains("spacing = Karras") && spaced.contains("leave spacing out"), "{spaced}");
}
