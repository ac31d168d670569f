//! What every sampler in the registry must satisfy on every schedule.
//!
//! Samplers are tested on Gaussian data, for which the best denoiser is known in closed form and a run is linear in its start and
//! in its noises, so that the mean and the variance of the samples follow without drawing any.

use std::f64::consts::TAU;

use burn::prelude::*;
use burn::tensor::{DType, TensorData};
use immiscible_schedule::objective::FlowVelocity;
use immiscible_schedule::sampler::{
    Coordinates, Ddim, Ddpm, Denoise, Dopri5, DpmPp2m, DpmPp2mSde, Euler, Heun, Midpoint, Pndm, UniPc, UniPcB,
};
use immiscible_schedule::schedule::{flow::Flow, linear::linear, ve::Ve};
use immiscible_schedule::{
    Estimate, Levels, NoiseSchedule, OBJECTIVES, Objective, ObjectiveConfig, Point, SAMPLERS, SCHEDULES,
    SamplerConfig, ScheduleConfig, ScheduleError, Spread, StepKernel, Steps, Time, Transition, Variance,
    compatible,
};

fn schedules() -> Vec<Box<dyn NoiseSchedule>> {
    SCHEDULES.iter().map(|(name, build)| build(&ScheduleConfig::new(*name)).unwrap()).collect()
}

fn objectives() -> Vec<Box<dyn Objective>> {
    OBJECTIVES.iter().map(|(name, build)| build(&ObjectiveConfig::new(*name)).unwrap()).collect()
}

/// Every sampler with each of its options that needs no learned variance.
fn samplers() -> Vec<Box<dyn StepKernel>> {
    let mut all: Vec<_> =
        SAMPLERS.iter().map(|(name, build)| build(&SamplerConfig::new(*name)).unwrap()).collect();
    all.push(Box::new(Ddim::new(0.5).unwrap()));
    all.push(Box::new(Ddim::new(1.0).unwrap()));
    all.push(Box::new(Ddpm { variance: Variance::FixedLarge, ..Ddpm::default() }));
    all.push(Box::new(DpmPp2m::new(1).unwrap()));
    all.push(Box::new(DpmPp2mSde::new(1).unwrap()));
    all.push(Box::new(pndm(false)));
    for order in [1, 3] {
        let mut kernel = UniPc::new(order).unwrap();
        kernel.b = UniPcB::Bh1;
        all.push(Box::new(kernel));
    }
    all
}

fn pndm(skip_prk_steps: bool) -> Pndm {
    Pndm { skip_prk_steps, coordinates: None }
}

type Path = Vec<(Point, Point)>;

fn path(grid: &[Point]) -> Path {
    grid.windows(2).map(|pair| (pair[0], pair[1])).collect()
}

/// Whether the sampler can take these steps. Those that need a continuous time refuse the others.
fn possible(kernel: &dyn StepKernel, schedule: &dyn NoiseSchedule, path: &[(Point, Point)]) -> bool {
    match kernel.begin(schedule, path) {
        Ok(_) => true,
        Err(ScheduleError::DiscreteTime { .. }) => {
            let continuous = matches!(path[0].0.time, Time::Continuous(_) | Time::Sigma(_));
            assert!(!continuous, "{} on {}", kernel.name(), schedule.name());
            false
        }
        Err(ScheduleError::TooFewSteps { least, .. }) => {
            assert!(path.len() < least);
            false
        }
        Err(error) => panic!("{error}"),
    }
}

fn tensor(values: &[f32]) -> Tensor<4> {
    Tensor::<1>::from_floats(values, &Device::flex()).reshape([values.len(), 1, 1, 1])
}

fn values(tensor: Tensor<4>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

#[track_caller]
fn assert_close(actual: f64, expected: f64, tolerance: f64, what: &str) {
    assert!((actual - expected).abs() <= tolerance, "{what}: {actual}, expected {expected} ± {tolerance}");
}

/// Data N(mean, std²) in every pixel.
#[derive(Clone, Copy)]
struct Gaussian {
    mean: f64,
    std: f64,
}

impl Gaussian {
    /// E[x0 | x_t] and E[eps | x_t].
    fn denoise(self, x_t: &Tensor<4>, point: Point) -> Estimate {
        let Point { alpha, sigma, .. } = point;
        let variance = (alpha * self.std).powi(2) + sigma.powi(2);
        let centred = x_t.clone() - alpha * self.mean;
        Estimate {
            x0: centred.clone() * (alpha * self.std.powi(2) / variance) + self.mean,
            noise: centred * (sigma / variance),
            variance: None,
        }
    }

    /// Where the trajectory of x_t ends: (x0 − mean)/std is (x_t − alpha mean)/sqrt(alpha² std² + sigma²) all along it.
    fn end(self, x_t: &Tensor<4>, point: Point) -> Estimate {
        let Point { alpha, sigma, .. } = point;
        let scale = self.std / (alpha * self.std).hypot(sigma);
        let x0 = (x_t.clone() - alpha * self.mean) * scale + self.mean;
        Estimate::from_x0(x0, x_t, &point.levels(&x_t.device()))
    }

    /// What a network that suits the kernel knows.
    fn answer(self, kernel: &dyn StepKernel, x_t: &Tensor<4>, point: Point) -> Estimate {
        if kernel.jumps() { self.end(x_t, point) } else { self.denoise(x_t, point) }
    }

    /// The same through what a network trained with `objective` outputs.
    fn answer_with(
        self,
        kernel: &dyn StepKernel,
        objective: &dyn Objective,
        x_t: &Tensor<4>,
        point: Point,
    ) -> Estimate {
        let levels: Levels = point.levels(&x_t.device());
        let Estimate { x0, noise, .. } = self.answer(kernel, x_t, point);
        objective.read(objective.target(&x0, &noise, &levels), x_t, &levels)
    }

    /// The distribution of x_t.
    fn at(self, point: Point) -> Self {
        Self { mean: point.alpha * self.mean, std: (point.alpha * self.std).hypot(point.sigma) }
    }
}

const DATA: Gaussian = Gaussian { mean: 0.3, std: 0.5 };

fn uniform(std: &Spread) -> f64 {
    match std {
        Spread::None => 0.0,
        Spread::Same(std) => *std,
        Spread::Each(_) => panic!("a learned variance"),
    }
}

/// x_s = slope x_t + offset + std z.
struct Affine {
    slope: f64,
    offset: f64,
    std: f64,
}

/// The first step of a run.
fn affine(
    kernel: &dyn StepKernel,
    schedule: &dyn NoiseSchedule,
    from: Point,
    to: Point,
    denoise: impl Fn(&Tensor<4>, Point) -> Estimate,
) -> Affine {
    let path = [(from, to)];
    let mut run = kernel.begin(schedule, &path).unwrap();
    let transition = run.step(&tensor(&[0.0, 1.0]), from, to, &mut |x, point| denoise(x, point)).unwrap();
    let mean = values(transition.mean);
    Affine { slope: f64::from(mean[1] - mean[0]), offset: f64::from(mean[0]), std: uniform(&transition.std) }
}

/// Mean and standard deviation after the first `steps` steps, starting from the exact distribution of x_T. Row 0 of the batch
/// starts at 0 and has no noise, row 1 starts at the standard deviation of x_T, and each further row has a single noise, 1.
fn sampled(
    kernel: &dyn StepKernel,
    schedule: &dyn NoiseSchedule,
    path: &[(Point, Point)],
    steps: usize,
    denoise: impl Fn(&Tensor<4>, Point) -> Estimate,
) -> Gaussian {
    let rows = 2 * steps + 2;
    let one_at = |row: usize| {
        let values: Vec<f32> = (0..rows).map(|i| if i == row { 1.0 } else { 0.0 }).collect();
        Tensor::<4>::from_data(TensorData::new(values, [rows, 1, 1, 1]), &Device::flex())
    };
    let mut run = kernel.begin(schedule, path).unwrap();
    let start = DATA.at(path[0].0);
    let (mut x, mut noises) = (one_at(1) * start.std, 0);
    for &(from, to) in &path[..steps] {
        loop {
            let transition = run.step(&x, from, to, &mut |x, point| denoise(x, point)).unwrap();
            let arrived = transition.arrived;
            x = transition.draw(|| {
                noises += 1;
                one_at(1 + noises)
            });
            if arrived {
                break;
            }
        }
    }
    let x: Vec<f64> = values(x).into_iter().map(f64::from).collect();
    let spread = x[1] - x[0];
    let noise: f64 = x[2..2 + noises].iter().map(|response| (response - x[0]).powi(2)).sum();
    Gaussian { mean: spread / start.std * start.mean + x[0], std: (spread.powi(2) + noise).sqrt() }
}

// ---- registry and config ----

#[test]
fn the_registry_is_sorted_and_entries_bear_their_names() {
    for (name, build) in SAMPLERS {
        assert_eq!(build(&SamplerConfig::new(*name)).unwrap().name(), *name);
    }
    assert!(SAMPLERS.is_sorted_by(|a, b| a.0 < b.0));
}

#[test]
fn unknown_names_are_answered_with_the_known_ones() {
    assert_eq!(
        SamplerConfig::new("plms").build().err().unwrap().to_string(),
        "there is no sampler \"plms\"; choose one of consistency, ddim, ddpm, dopri5, dpmpp_2m, dpmpp_2m_sde, euler, euler_ancestral, \
         heun, midpoint, pndm, unipc"
    );
}

#[test]
fn configs_read_their_options_and_refuse_others() {
    let config: SamplerConfig = toml::from_str("name = 'ddpm'\nvariance = 'fixed_large'").unwrap();
    assert_eq!(config.variance, Some(Variance::FixedLarge));
    assert_eq!(toml::from_str::<SamplerConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
    assert!(toml::from_str::<SamplerConfig>("name = 'ddim'\netta = 0.5").is_err());

    let refused = |text: &str| toml::from_str::<SamplerConfig>(text).unwrap().build().err().expect(text);
    assert_eq!(refused("name = 'ddim'\neta = 1.5"), ScheduleError::Eta(1.5));
    for (option, value, of) in [
        ("eta", "0.0", &["ddim", "euler_ancestral"][..]),
        ("variance", "'fixed_small'", &["ddpm"]),
        ("order", "1", &["dpmpp_2m", "dpmpp_2m_sde", "unipc"]),
        ("skip_prk_steps", "true", &["pndm"]),
        ("tolerance", "1e-4", &["dopri5"]),
    ] {
        for (name, _) in SAMPLERS {
            let config: SamplerConfig =
                toml::from_str(&format!("name = '{name}'\n{option} = {value}")).unwrap();
            let unused = ScheduleError::UnusedOption { kind: "sampler", name: (*name).into(), option };
            let expected = if of.contains(name) { None } else { Some(unused) };
            assert_eq!(config.build().err(), expected);
        }
    }
    assert_eq!(
        refused("name = 'dpmpp_2m'\norder = 3").to_string(),
        "sampler \"dpmpp_2m\" with order = 3: give 1 to 2"
    );
    assert!(matches!(refused("name = 'unipc'\norder = 0"), ScheduleError::Order { most: 3, .. }));
    assert_eq!(refused("name = 'dopri5'\ntolerance = 0.0"), ScheduleError::Tolerance(0.0));
}

#[test]
fn what_a_sampler_cannot_do_is_said_before_it_begins() {
    let vp = linear(1000).unwrap();
    let path = path(&vp.grid(3).unwrap());
    for kernel in [&Midpoint as &dyn StepKernel, &Dopri5::new(1e-5).unwrap()] {
        let error = kernel.begin(&vp, &path).err().unwrap().to_string();
        assert!(
            error.contains(kernel.name()) && error.contains("linear") && error.contains("heun"),
            "{error}"
        );
    }
    let error = pndm(false).begin(&vp, &path).err().unwrap();
    assert!(matches!(error, ScheduleError::TooFewSteps { steps: 3, least: 4, .. }));
}

#[test]
fn coordinates_are_scaled_unless_the_data_vanish_at_the_end() {
    let built = |toml: &str| toml::from_str::<ScheduleConfig>(toml).unwrap().build().unwrap();
    for (config, expected) in [
        ("name = 'linear'", Coordinates::Scaled),
        ("name = 'linear'\ntimesteps = 100", Coordinates::Scaled),
        ("name = 'scaled_linear'", Coordinates::Scaled),
        ("name = 've'", Coordinates::Scaled),
        ("name = 'cosine'", Coordinates::Path),
        ("name = 'cosine'\ntimesteps = 20", Coordinates::Path),
        ("name = 'sigmoid'", Coordinates::Path),
        ("name = 'flow'", Coordinates::Path),
        ("name = 'linear'\nzero_terminal_snr = true", Coordinates::Path),
    ] {
        assert_eq!(Coordinates::of(&*built(config)), expected, "{config}");
    }
    let divided = linear(1000).unwrap().with_zero_terminal_snr(6e-8).unwrap();
    assert_eq!(Coordinates::of(&divided), Coordinates::Path);
}

// ---- distributions ----

/// The mean within 0.01 and the standard deviation within 4 % after 200 steps.
#[test]
fn samplers_reproduce_gaussian_data_on_every_schedule_with_every_objective() {
    for schedule in schedules() {
        let schedule = schedule.as_ref();
        let path = path(&schedule.grid(200).unwrap());
        for objective in objectives() {
            if compatible(schedule, objective.as_ref()).is_err() {
                continue;
            }
            for kernel in samplers() {
                let kernel = kernel.as_ref();
                if !possible(kernel, schedule, &path) {
                    continue;
                }
                let what = format!("{} on {} with {}", kernel.name(), schedule.name(), objective.name());
                let denoise = |x: &Tensor<4>, p| DATA.answer_with(kernel, objective.as_ref(), x, p);
                let samples = sampled(kernel, schedule, &path, 200, denoise);
                assert_close(samples.mean, DATA.mean, 0.01, &what);
                assert_close(samples.std, DATA.std, 0.02, &what);
            }
        }
    }
}

/// With x0 known, a step carries the distribution of x_t into that of x_s, whatever the size of the step. The
/// large variance is the one that is not made for it.
#[test]
fn steps_of_a_perfect_network_keep_the_marginals() {
    let known = Gaussian { mean: 0.3, std: 0.0 };
    let mut kernels: Vec<_> = samplers().into_iter().map(|kernel| (kernel, 0.0)).collect();
    // In single precision this is as good where there is some signal.
    kernels.push((Box::new(Heun { coordinates: Some(Coordinates::Scaled) }), 0.05));
    for schedule in schedules() {
        let schedule = schedule.as_ref();
        let path = path(&schedule.grid(9).unwrap());
        for (kernel, least_alpha) in &kernels {
            let kernel = kernel.as_ref();
            for &(from, to) in &path {
                if from.alpha < *least_alpha || !possible(kernel, schedule, &[(from, to)]) {
                    continue;
                }
                let step = affine(kernel, schedule, from, to, |x, p| known.denoise(x, p));
                let what = format!("{} on {} to {}", kernel.name(), schedule.name(), to.time);
                let tolerance = 2e-6 * from.sigma.max(1.0);
                let mean = step.slope * from.alpha * known.mean + step.offset;
                assert_close(mean, to.alpha * known.mean, tolerance, &what);
                // A consistency function's trajectories end a little before the data.
                let end = if kernel.jumps() && to.sigma > 0.0 { 0.002 } else { 0.0 };
                let std = (step.slope * from.sigma).hypot(step.std).hypot(end);
                let large = kernel.name() == "ddpm" && std > to.sigma + tolerance;
                if !large {
                    assert_close(std, to.sigma, tolerance, &what);
                }
            }
        }
    }
}

/// With the large variance a step is exact for data of unit variance.
#[test]
fn fixed_large_is_the_variance_for_data_of_unit_variance() {
    let data = Gaussian { mean: 0.0, std: 1.0 };
    let kernel = Ddpm { variance: Variance::FixedLarge, ..Ddpm::default() };
    for schedule in schedules() {
        let schedule = schedule.as_ref();
        for steps in [2, 10] {
            for &(from, to) in &path(&schedule.grid(steps).unwrap()) {
                let step = affine(&kernel, schedule, from, to, |x, p| data.denoise(x, p));
                if to == Point::CLEAN {
                    assert_eq!(step.std, 0.0);
                    continue;
                }
                let std = (step.slope * data.at(from).std).hypot(step.std);
                assert_close(std / data.at(to).std, 1.0, 1e-5, schedule.name());
            }
        }
    }
    let (vp, betas) = (linear(1000).unwrap(), |i: u32| 1e-4 + (0.02 - 1e-4) * f64::from(i) / 999.0);
    for i in [1, 500, 999] {
        let (to, from) = (vp.at(Time::Index(i - 1)).unwrap(), vp.at(Time::Index(i)).unwrap());
        let step = affine(&kernel, &vp, from, to, |x, p| data.denoise(x, p));
        assert_close(step.std.powi(2) / betas(i), 1.0, 1e-10, "beta");
    }
}

#[test]
fn a_learned_variance_lies_between_the_small_and_the_large_one() {
    let vp = linear(1000).unwrap();
    let (from, to) = (vp.at(Time::Index(500)).unwrap(), vp.at(Time::Index(400)).unwrap());
    let fixed = |variance| {
        let kernel = Ddpm { variance, ..Ddpm::default() };
        affine(&kernel, &vp, from, to, |x, p| DATA.denoise(x, p)).std
    };
    let learned = |variance, value: f64| {
        let kernel = Ddpm { variance, ..Ddpm::default() };
        assert!(kernel.needs_variance());
        let denoise =
            &mut |x: &Tensor<4>, p| Estimate { variance: Some(x.zeros_like() + value), ..DATA.denoise(x, p) };
        let path = [(from, to)];
        let transition = kernel.begin(&vp, &path).unwrap().step(&tensor(&[0.7]), from, to, denoise).unwrap();
        match transition.std {
            Spread::Each(std) => f64::from(values(std)[0]),
            other => panic!("{other:?}"),
        }
    };
    let (small, large) = (fixed(Variance::FixedSmall), fixed(Variance::FixedLarge));
    assert_close(learned(Variance::LearnedRange, -1.0), small, 1e-6, "the lower end");
    assert_close(learned(Variance::LearnedRange, 1.0), large, 1e-6, "the upper end");
    assert_close(learned(Variance::LearnedRange, 0.0), (small * large).sqrt(), 1e-6, "the middle");
    assert_close(learned(Variance::Learned, 0.09), 0.3, 1e-6, "itself");

    let kernel = Ddpm { variance: Variance::LearnedRange, ..Ddpm::default() };
    let path = [(from, to)];
    let mut run = kernel.begin(&vp, &path).unwrap();
    let error = run.step(&tensor(&[0.7]), from, to, &mut |x, p| DATA.denoise(x, p)).unwrap_err();
    assert_eq!(error, ScheduleError::NoVariance { sampler: "ddpm" });
}

#[test]
fn noise_at_the_end_spares_timestep_0() {
    let vp = linear(1000).unwrap();
    let kernel = Ddpm { variance: Variance::FixedLarge, noise_at_the_end: true };
    let std =
        |i| affine(&kernel, &vp, vp.at(Time::Index(i)).unwrap(), Point::CLEAN, |x, p| DATA.denoise(x, p)).std;
    assert_eq!(std(0), 0.0);
    assert!(std(19) > 0.0);
}

/// DDPM's posterior with the numbers of its paper (eq. 7) on the linear schedule.
#[test]
fn ddpm_is_the_published_posterior() {
    let vp = linear(1000).unwrap();
    let beta = |i: u32| 1e-4 + (0.02 - 1e-4) * f64::from(i) / 999.0;
    for i in [1, 10, 500, 999] {
        let (to, from) = (vp.at(Time::Index(i - 1)).unwrap(), vp.at(Time::Index(i)).unwrap());
        let (bar_s, bar_t) = (to.alpha.powi(2), from.alpha.powi(2));
        let known =
            |x: &Tensor<4>, _| Estimate { x0: x.zeros_like() + 0.7, noise: x.zeros_like(), variance: None };
        let step = affine(&Ddpm::default(), &vp, from, to, known);
        assert_close(step.offset, bar_s.sqrt() * beta(i) / (1.0 - bar_t) * 0.7, 1e-6, "x0 coefficient");
        assert_close(
            step.slope,
            (1.0 - beta(i)).sqrt() * (1.0 - bar_s) / (1.0 - bar_t),
            1e-6,
            "x_t coefficient",
        );
        assert_close(step.std.powi(2), (1.0 - bar_s) / (1.0 - bar_t) * beta(i), 1e-12, "variance");
    }
}

/// Which methods are the same for one step.
#[test]
fn methods_of_first_order_are_ddim_and_its_relatives_ddpm() {
    let ddim = |eta| -> Box<dyn StepKernel> { Box::new(Ddim::new(eta).unwrap()) };
    let pairs: [(Box<dyn StepKernel>, Box<dyn StepKernel>); 6] = [
        (ddim(0.0), Box::new(Euler)),
        (ddim(0.0), Box::new(DpmPp2m::new(2).unwrap())),
        (ddim(0.0), Box::new(UniPc::new(3).unwrap())),
        (ddim(1.0), Box::new(Ddpm::default())),
        (ddim(1.0), SamplerConfig::new("euler_ancestral").build().unwrap()),
        (ddim(1.0), Box::new(DpmPp2mSde::new(2).unwrap())),
    ];
    for schedule in schedules() {
        let schedule = schedule.as_ref();
        let mut adjacent = schedule.grid(1000).unwrap();
        adjacent.reverse();
        let adjacent = adjacent.windows(2).step_by(83).map(|pair| (pair[1], pair[0]));
        for (from, to) in adjacent.chain(path(&schedule.grid(10).unwrap())) {
            for (a, b) in &pairs {
                let what = format!("{} on {} from {} to {}", b.name(), schedule.name(), from.time, to.time);
                let [a, b] = [a, b].map(|kernel| {
                    affine(kernel.as_ref(), schedule, from, to, |x, point| DATA.denoise(x, point))
                });
                assert_close(a.slope, b.slope, 2e-6, &what);
                assert_close(a.offset, b.offset, 2e-6, &what);
                assert_close(a.std, b.std, 1e-9, &what);
            }
        }
    }
}

/// Goes to the next point through the one between, with a noise for each half.
struct TwoNoises;

struct Halves<'a> {
    schedule: &'a dyn NoiseSchedule,
    halfway: bool,
}

impl StepKernel for TwoNoises {
    fn name(&self) -> &'static str {
        "two_noises"
    }

    fn begin<'a>(
        &'a self,
        schedule: &'a dyn NoiseSchedule,
        _: &'a [(Point, Point)],
    ) -> Result<Box<dyn Steps + 'a>, ScheduleError> {
        Ok(Box::new(Halves { schedule, halfway: false }))
    }
}

impl Steps for Halves<'_> {
    fn step(
        &mut self,
        x_t: &Tensor<4>,
        from: Point,
        to: Point,
        denoise: &mut Denoise<'_>,
    ) -> Result<Transition, ScheduleError> {
        let (t, s) =
            (f64::from(from.time.network_time()) / 1000.0, f64::from(to.time.network_time()) / 1000.0);
        let middle = self.schedule.at(Time::Continuous((t + s) / 2.0))?;
        self.halfway = !self.halfway;
        let (from, to) = if self.halfway { (from, middle) } else { (middle, to) };
        let transition = Ddpm::default().step(x_t, from, to, denoise)?;
        Ok(Transition { arrived: !self.halfway, ..transition })
    }
}

#[test]
fn a_step_may_have_several_noises() {
    let [coarse, fine] = [10, 20].map(|steps| path(&Flow::default().grid(steps).unwrap()));
    let halves = sampled(&TwoNoises, &Flow::default(), &coarse, 10, |x, p| DATA.denoise(x, p));
    let whole = sampled(&Ddpm::default(), &Flow::default(), &fine, 20, |x, p| DATA.denoise(x, p));
    assert_close(halves.mean, whole.mean, 1e-5, "mean");
    assert_close(halves.std, whole.std, 1e-5, "std");
}

// ---- orders ----

/// On the straight path these are the textbook methods for dx/dt = u(x, t).
#[test]
fn ode_methods_integrate_the_flow_velocity() {
    let u = |x: f64, t: f64| (TAU * t).sin() - 0.4 * x;
    let network = |x: &Tensor<4>, point: Point| {
        let levels = point.levels(&x.device());
        FlowVelocity.read(x.clone() * -0.4 + (TAU * point.sigma).sin(), x, &levels)
    };
    let (t, s, x) = (0.8, 0.5, 1.0);
    let h = s - t;
    let [from, to] = [t, s].map(|t| Flow::default().at(Time::Continuous(t)).unwrap());
    let run = |kernel: &dyn StepKernel| {
        let step = affine(kernel, &Flow::default(), from, to, network);
        step.slope * x + step.offset
    };
    let euler = x + h * u(x, t);
    let heun = x + h / 2.0 * (u(x, t) + u(euler, s));
    assert_close(run(&Euler), euler, 1e-6, "euler");
    assert_close(run(&Heun::default()), heun, 1e-6, "heun");
    assert_close(run(&pndm(true)), heun, 1e-6, "the first step of pndm");
    assert_close(run(&Midpoint), x + h * u(x + h / 2.0 * u(x, t), t + h / 2.0), 1e-6, "midpoint");
    // By variation of constants, with the integral by Simpson's rule.
    let constant = |r: f64| (-0.4 * (s - r)).exp() * (TAU * r).sin();
    let n = 1000;
    let node = |i: usize| {
        constant(t + h * i as f64 / n as f64)
            * if i == 0 || i == n {
                1.0
            } else if i % 2 == 1 {
                4.0
            } else {
                2.0
            }
    };
    let exact = x * (-0.4 * h).exp() + h / (3.0 * n as f64) * (0..=n).map(node).sum::<f64>();
    assert_close(run(&Dopri5::new(1e-6).unwrap()), exact, 5e-6, "dopri5");
}

/// The largest error of trajectories after the first `steps` steps of a path, in double precision; `exact` says where they are.
fn error_after(
    kernel: &dyn StepKernel,
    schedule: &dyn NoiseSchedule,
    path: &[(Point, Point)],
    steps: usize,
    denoise: impl Fn(&Tensor<4>, Point) -> Estimate,
    exact: impl Fn(Point) -> Vec<f64>,
) -> f64 {
    let start = exact(path[0].0);
    let shape = [start.len(), 1, 1, 1];
    let mut x = Tensor::<4>::from_data(TensorData::new(start, shape), (&Device::flex(), DType::F64));
    let mut run = kernel.begin(schedule, path).unwrap();
    for &(from, to) in &path[..steps] {
        x = run.step(&x, from, to, &mut |x, point| denoise(x, point)).unwrap().mean;
    }
    assert_eq!(x.dtype(), DType::F64, "{}", kernel.name());
    let x: Vec<f64> = x.into_data().try_to_vec().unwrap();
    x.iter().zip(exact(path[steps - 1].1)).map(|(x, exact)| (x - exact).abs()).fold(0.0, f64::max)
}

/// The same on Gaussian data for the trajectories a standard deviation below and above the mean, where they stay.
fn gaussian_error_after(
    kernel: &dyn StepKernel,
    schedule: &dyn NoiseSchedule,
    path: &[(Point, Point)],
    steps: usize,
) -> f64 {
    let either_side = |point| {
        let Gaussian { mean, std } = DATA.at(point);
        vec![mean - std, mean + std]
    };
    error_after(kernel, schedule, path, steps, |x, point| DATA.denoise(x, point), either_side)
}

/// The binary logarithm of the ratio of two errors between two shares of the schedule's times, with 1024 steps for all of them
/// and with 2048. Discrete schedules have 65536 timesteps, of which both take every 64th and every 32nd.
fn order(kernel: &dyn StepKernel, schedule: &dyn NoiseSchedule, begin: f64, end: f64) -> f64 {
    let error = |steps: usize| {
        let at = |share: f64| (share * steps as f64) as usize;
        // The grid of ve is even but for its last step.
        let grid = schedule.grid(steps + usize::from(schedule.name() == "ve")).unwrap();
        gaussian_error_after(kernel, schedule, &path(&grid[at(begin)..]), at(end) - at(begin))
    };
    (error(1024) / error(2048)).log2()
}

/// Halving the step reduces the error to 2^−p, within 15 % of the lower p and of the upper one.
#[track_caller]
fn assert_order(order: f64, [least, most]: [f64; 2], what: &str) {
    let slack = 0.85_f64.log2();
    let allowed = least + slack..=most - slack;
    assert!(allowed.contains(&order), "{what}: order {order:.2}, expected {least} to {most}");
}

/// Methods that follow trajectories, and between which limits their orders lie in the midst of noise. The midpoint method's is 2, but
/// Gaussian data are kind to it. Of pndm it is 2 where steps that are even in time are not in x, and otherwise that of its first
/// steps and later ones; of unipc with order = 3 it is that of its first step, unless the error of that is small.
fn ode_methods() -> [(Box<dyn StepKernel>, [f64; 2]); 14] {
    let unipc = |order| -> Box<dyn StepKernel> { Box::new(UniPc::new(order).unwrap()) };
    let in_path = Some(Coordinates::Path);
    [
        (Box::new(Euler), [1.0; 2]),
        (Box::new(Ddim::new(0.0).unwrap()), [1.0; 2]),
        (Box::new(DpmPp2m::new(1).unwrap()), [1.0; 2]),
        (Box::new(DpmPp2m::new(2).unwrap()), [2.0; 2]),
        (Box::new(Heun::default()), [2.0; 2]),
        (Box::new(Heun { coordinates: in_path }), [2.0; 2]),
        (Box::new(Midpoint), [3.0; 2]),
        (Box::new(pndm(true)), [2.0, 3.0]),
        (Box::new(pndm(false)), [2.0, 4.0]),
        (Box::new(Pndm { skip_prk_steps: true, coordinates: in_path }), [2.0, 3.0]),
        (Box::new(Pndm { skip_prk_steps: false, coordinates: in_path }), [2.0, 4.0]),
        (unipc(1), [2.0; 2]),
        (unipc(2), [3.0; 2]),
        (unipc(3), [3.0, 4.0]),
    ]
}

/// On the straight path, whose steps are even, for dx/dt = sin(2 pi t) − 0.4 x, from pure noise to data.
#[test]
fn textbook_methods_have_their_orders_on_the_straight_path() {
    let exact = |Point { sigma: t, .. }: Point| {
        vec![(-0.4 * t).exp() + (0.4 * (TAU * t).sin() - TAU * (TAU * t).cos()) / TAU.hypot(0.4).powi(2)]
    };
    let velocity = |x: &Tensor<4>, Point { sigma: t, .. }: Point| Estimate {
        x0: x.zeros_like(),
        noise: x.clone() * -0.4 + (TAU * t).sin(),
        variance: None,
    };
    let flow = Flow::default();
    let kernels: [(&dyn StepKernel, f64); 5] =
        [(&Euler, 1.0), (&Heun::default(), 2.0), (&Midpoint, 2.0), (&pndm(true), 3.0), (&pndm(false), 4.0)];
    for (kernel, expected) in kernels {
        let error = |steps: usize| {
            // All but the last step, which is Euler's.
            error_after(kernel, &flow, &path(&flow.grid(steps).unwrap()), steps / 8 * 7, velocity, exact)
        };
        assert_order((error(1024) / error(2048)).log2(), [expected; 2], kernel.name());
    }
}

/// All schedules, the discrete ones with timesteps as dense as a continuous time.
fn dense_schedules() -> Vec<Box<dyn NoiseSchedule>> {
    let dense = |name: &str| {
        let timesteps = (!["flow", "ve"].contains(&name)).then_some(65_536);
        ScheduleConfig { timesteps, ..ScheduleConfig::new(name) }.build().unwrap()
    };
    SCHEDULES.iter().map(|(name, _)| dense(name)).collect()
}

/// Through the second quarter of the steps, away from the ends of the schedules.
#[test]
fn halving_the_step_reduces_the_error_by_the_order_of_the_method() {
    for schedule in dense_schedules() {
        let schedule = schedule.as_ref();
        for (kernel, orders) in ode_methods() {
            let kernel = kernel.as_ref();
            if possible(kernel, schedule, &path(&schedule.grid(8).unwrap())) {
                let what = format!("{} on {}", kernel.name(), schedule.name());
                assert_order(order(kernel, schedule, 0.25, 0.5), orders, &what);
            }
        }
    }
}

/// Where a run comes from pure noise, the first step counts. The estimate of x0 is smooth in alpha, so a step of first order is wrong
/// by alpha², which after one step is h² on flow and cosine, and h on sigmoid, where alpha is the root of the time. Pndm, whose
/// steps are to be even, suffers from the last timestep of cosine, which is longer because its beta is limited.
#[test]
fn orders_from_pure_noise_are_those_of_the_first_step() {
    for schedule in dense_schedules() {
        let schedule = schedule.as_ref();
        let limited: Option<[i32; 14]> = match schedule.name() {
            "cosine" => Some([1, 1, 1, 2, 2, 2, 0, 1, 1, 1, 1, 2, 2, 2]),
            "flow" => Some([1, 1, 1, 2, 2, 2, 3, 3, 4, 3, 4, 2, 2, 2]),
            "sigmoid" => Some([1, 1, 1, 1, 2, 2, 0, 1, 1, 1, 1, 2, 1, 1]),
            _ => None,
        };
        // The last step, Euler's for all of them, limits all to 1 where sigma is the root of the time, on discrete schedules.
        let ends: &[f64] = if ["flow", "ve"].contains(&schedule.name()) { &[0.5, 1.0] } else { &[0.5] };
        for (i, (kernel, orders)) in ode_methods().into_iter().enumerate() {
            let kernel = kernel.as_ref();
            if !possible(kernel, schedule, &path(&schedule.grid(8).unwrap())) {
                continue;
            }
            for &end in ends {
                let what = format!("{} on {} up to {end}", kernel.name(), schedule.name());
                let orders = limited.map_or(orders, |limited| [f64::from(limited[i]); 2]);
                assert_order(order(kernel, schedule, 0.0, end), orders, &what);
            }
        }
    }
}

#[test]
fn the_error_of_the_adaptive_method_follows_its_tolerance() {
    for schedule in [&Flow::default() as &dyn NoiseSchedule, &Ve::new(0.002, 80.0, 7.0).unwrap()] {
        let path = [(schedule.noisiest(), schedule.nearest(0.002))];
        let mut before = f64::INFINITY;
        for tolerance in [1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7] {
            let error = gaussian_error_after(&Dopri5::new(tolerance).unwrap(), schedule, &path, 1);
            // The tolerance is that of a step; those of a whole run add up.
            let expected = 0.1 * tolerance..=5.0 * tolerance;
            assert!(expected.contains(&error), "{} with {tolerance:e}: {error:e}", schedule.name());
            assert!(
                error < 0.2 * before,
                "{} with {tolerance:e}: {error:e} after {before:e}",
                schedule.name()
            );
            before = error;
        }
    }
}

#[test]
fn the_adaptive_method_keeps_its_tolerance_and_reuses_its_last_evaluation() {
    let ve = Ve::new(0.002, 80.0, 7.0).unwrap();
    for schedule in [&Flow::default() as &dyn NoiseSchedule, &ve] {
        let mut before = 0;
        for (tolerance, most) in [(1e-5, 1e-3), (1e-6, 3e-5)] {
            let kernel = Dopri5::new(tolerance).unwrap();
            let calls = std::cell::Cell::new(0);
            let path = path(&schedule.grid(1).unwrap());
            let samples = sampled(&kernel, schedule, &path, 1, |x, p| {
                calls.set(calls.get() + 1);
                assert!(p.sigma > 0.0);
                DATA.denoise(x, p)
            });
            let name = schedule.name();
            assert_close(samples.mean, DATA.mean, most, name);
            assert_close(samples.std, DATA.std, most, name);
            // Six for each step that is tried, and one to start with.
            assert_eq!(calls.get() % 6, 1, "{name}");
            assert!((before + 1..250).contains(&calls.get()), "{name}: {} evaluations", calls.get());
            before = calls.get();
        }
    }
    // A network that breaks down is an error, not a loop.
    let kernel = Dopri5::new(1e-5).unwrap();
    let flow = Flow::default();
    let path = path(&flow.grid(1).unwrap());
    let mut run = kernel.begin(&flow, &path).unwrap();
    let error =
        run.step(&tensor(&[0.4]), path[0].0, path[0].1, &mut |x, p| DATA.denoise(&(x.clone() * f64::NAN), p));
    assert!(matches!(error, Err(ScheduleError::StepSize { sampler: "dopri5", .. })));
}

// ---- contract ----

#[test]
fn kernels_call_the_network_as_often_as_they_say() {
    for kernel in samplers() {
        for schedule in [&Flow::default() as &dyn NoiseSchedule, &linear(1000).unwrap()] {
            let path = path(&schedule.grid(6).unwrap());
            if !possible(kernel.as_ref(), schedule, &path) {
                continue;
            }
            let mut run = kernel.begin(schedule, &path).unwrap();
            let (mut x, mut calls) = (tensor(&[0.4]), 0);
            for &(from, to) in &path {
                let mut visited = Vec::new();
                let transition = run
                    .step(&x, from, to, &mut |x, point| {
                        visited.push(point);
                        DATA.denoise(x, point)
                    })
                    .unwrap();
                assert!(visited.iter().all(|point| point.sigma > 0.0));
                assert!(
                    to != Point::CLEAN || uniform(&transition.std) == 0.0,
                    "{} adds noise at the end",
                    kernel.name()
                );
                calls += visited.len();
                x = transition.mean;
            }
            if let Some(evaluations) = kernel.evaluations(6) {
                assert_eq!(calls, evaluations, "{}", kernel.name());
            }
        }
    }
}

/// Values far outside [−1, 1] come out unclamped and the derivative of a run is that of the formula.
#[test]
fn gradients_pass_through_every_kernel() {
    let device = Device::flex().autodiff();
    for schedule in schedules() {
        let schedule = schedule.as_ref();
        let path = path(&schedule.grid(5).unwrap());
        for kernel in samplers() {
            if !possible(kernel.as_ref(), schedule, &path) {
                continue;
            }
            let walk = |start: Tensor<4>| {
                let mut run = kernel.begin(schedule, &path).unwrap();
                path.iter().fold(start, |x, &(from, to)| {
                    run.step(&x, from, to, &mut |x, p| DATA.denoise(x, p)).unwrap().mean
                })
            };
            let x = Tensor::<4>::full([1, 1, 1, 1], 50.0, &device).require_grad();
            let end = walk(x.clone());
            let gradient = f64::from(values(x.grad(&end.clone().backward()).expect("x_t has a gradient"))[0]);
            // The run is affine: its slope is a difference of two runs, which the adaptive method takes in other steps.
            let what = format!("{} on {}", kernel.name(), schedule.name());
            let tolerance = if kernel.name() == "dopri5" { 1e-3 } else { 1e-4 };
            let other = values(walk(tensor(&[-50.0])))[0];
            let slope = f64::from(values(end)[0] - other) / 100.0;
            assert_close(gradient, slope, tolerance * slope.abs().max(0.1), &what);
        }
    }
}

#[test]
fn consistency_sampling_never_starts_a_step_where_the_function_is_the_identity() {
    let ve = Ve::new(0.002, 80.0, 7.0).unwrap();
    let kernel = SamplerConfig::new("consistency").build().unwrap();
    let kernel = kernel.as_ref();
    for steps in [1, 2, 7] {
        let grid = kernel.grid(&ve, steps).unwrap();
        assert_eq!((grid.len(), grid[0], grid[steps]), (steps + 1, ve.noisiest(), Point::CLEAN));
        assert!(grid[..steps].iter().all(|point| point.sigma > 0.002 + 1e-6), "{grid:?}");
    }
    assert!(kernel.grid(&ve, 0).is_err());
    let [from, to] = [80.0, 3.0].map(|sigma| ve.at(Time::Sigma(sigma)).unwrap());
    let step = affine(kernel, &ve, from, to, |x, point| DATA.end(x, point));
    assert_close(step.std, (9.0_f64 - 4e-6).sqrt(), 1e-12, "algorithm 1");
    let step = affine(kernel, &ve, from, Point::CLEAN, |x, point| DATA.end(x, point));
    assert_eq!(step.std, 0.0);
    assert_close(step.slope, 0.5 / 0.5_f64.hypot(80.0), 1e-7, "one step is the function");
}
