//! What every schedule, objective and sampler in the registries must satisfy, alone and together.
//!
//! Samplers are tested on Gaussian data, for which the best denoiser is known in closed form and every step
//! is linear, so that the mean and the variance of the samples follow without drawing any.

use std::f64::consts::TAU;

use burn::prelude::*;
use immiscible_random::{Key, Stream};
use immiscible_schedule::objective::{Epsilon, FlowVelocity};
use immiscible_schedule::sampler::{Ddim, Ddpm, Euler, Heun};
use immiscible_schedule::schedule::{
    cosine::cosine, flow::Flow, linear::linear, scaled_linear::scaled_linear,
};
use immiscible_schedule::{
    Estimate, ForwardCondition, Levels, NoiseSchedule, OBJECTIVES, Objective, ObjectiveConfig, Point,
    SAMPLERS, SCHEDULES, SamplerConfig, ScheduleConfig, ScheduleError, StepKernel, Time, Times, Variance,
    VariancePreserving, compatible,
};
use proptest::prelude::*;

fn schedules() -> Vec<Box<dyn NoiseSchedule>> {
    SCHEDULES.iter().map(|(name, build)| build(&ScheduleConfig::new(*name)).unwrap()).collect()
}

fn objectives() -> Vec<Box<dyn Objective>> {
    OBJECTIVES.iter().map(|(name, build)| build(&ObjectiveConfig::new(*name)).unwrap()).collect()
}

/// Every sampler with each of its options.
fn samplers() -> Vec<Box<dyn StepKernel>> {
    let mut all: Vec<_> =
        SAMPLERS.iter().map(|(name, build)| build(&SamplerConfig::new(*name)).unwrap()).collect();
    all.push(Box::new(Ddim::new(0.5).unwrap()));
    all.push(Box::new(Ddim::new(1.0).unwrap()));
    all.push(Box::new(Ddpm { variance: Variance::FixedLarge }));
    all
}

/// The discrete points, or as many flow times.
fn all_points(schedule: &dyn NoiseSchedule) -> Vec<Point> {
    let mut points = schedule.grid(1000).unwrap();
    points.reverse();
    points
}

fn tensor(values: &[f32]) -> Tensor<4> {
    Tensor::<1>::from_floats(values, &Device::flex()).reshape([values.len(), 1, 1, 1])
}

fn values(tensor: Tensor<4>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

fn network_times(times: &Times) -> Vec<f32> {
    times.points().iter().map(|point| point.time.network_time()).collect()
}

#[track_caller]
fn assert_close(actual: f64, expected: f64, tolerance: f64, what: &str) {
    assert!((actual - expected).abs() <= tolerance, "{what}: {actual}, expected {expected} ± {tolerance}");
}

// ---- registries and configs ----

#[test]
fn registries_are_sorted_and_entries_bear_their_names() {
    for (name, build) in SCHEDULES {
        assert_eq!(build(&ScheduleConfig::new(*name)).unwrap().name(), *name);
    }
    for (name, build) in OBJECTIVES {
        assert_eq!(build(&ObjectiveConfig::new(*name)).unwrap().name(), *name);
    }
    for (name, build) in SAMPLERS {
        assert_eq!(build(&SamplerConfig::new(*name)).unwrap().name(), *name);
    }
    assert!(SCHEDULES.is_sorted_by(|a, b| a.0 < b.0));
    assert!(OBJECTIVES.is_sorted_by(|a, b| a.0 < b.0));
    assert!(SAMPLERS.is_sorted_by(|a, b| a.0 < b.0));
}

#[test]
fn unknown_names_are_answered_with_the_known_ones() {
    let message = |error: ScheduleError| error.to_string();
    assert_eq!(
        message(ScheduleConfig::new("linaer").build().err().unwrap()),
        "there is no schedule \"linaer\"; choose one of cosine, flow, linear, scaled_linear, sigmoid, ve"
    );
    assert_eq!(
        message(ObjectiveConfig::new("eps").build().err().unwrap()),
        "there is no objective \"eps\"; choose one of edm, epsilon, flow_velocity, v, x0"
    );
    assert_eq!(
        message(SamplerConfig::new("plms").build().err().unwrap()),
        "there is no sampler \"plms\"; choose one of ddim, ddpm, euler, heun"
    );
}

#[test]
fn configs_read_their_options_and_refuse_others() {
    let config: SamplerConfig = toml::from_str("name = 'ddpm'\nvariance = 'fixed_large'").unwrap();
    assert_eq!(config.variance, Some(Variance::FixedLarge));
    assert_eq!(toml::from_str::<SamplerConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
    assert!(toml::from_str::<SamplerConfig>("name = 'ddim'\netta = 0.5").is_err());
    assert!(toml::from_str::<ScheduleConfig>("name = 'linear'\nsteps = 5").is_err());
    assert!(toml::from_str::<ObjectiveConfig>("name = 'v'\nweight = 1").is_err());

    let sampler =
        |name: &str, eta, variance| SamplerConfig { name: name.into(), eta, variance }.build().err();
    assert_eq!(sampler("ddim", Some(1.5), None), Some(ScheduleError::Eta(1.5)));
    let unused =
        |name: &str, option| ScheduleError::UnusedOption { kind: "sampler", name: name.into(), option };
    assert_eq!(sampler("euler", Some(0.0), None), Some(unused("euler", "eta")));
    assert_eq!(sampler("ddim", None, Some(Variance::FixedSmall)), Some(unused("ddim", "variance")));

    let schedule = |name: &str, timesteps| {
        ScheduleConfig { timesteps: Some(timesteps), ..ScheduleConfig::new(name) }.build().err()
    };
    assert!(matches!(schedule("flow", 1000), Some(ScheduleError::UnusedOption { option: "timesteps", .. })));
    assert_eq!(schedule("cosine", 0), Some(ScheduleError::NoTimesteps("cosine".into())));
    assert_eq!(
        schedule("linear", 20).unwrap().to_string(),
        "schedule \"linear\" with 20 timesteps has beta = 1 at timestep 19, outside (0, 1); \
         use more timesteps (1000 is usual)"
    );
    assert!(schedule("linear", 21).is_none() && schedule("scaled_linear", 13).is_none());
}

// ---- schedules ----

#[test]
fn noise_grows_from_nearly_nothing_to_nearly_everything() {
    for schedule in schedules() {
        let (schedule, name) = (schedule.as_ref(), schedule.name());
        let points = all_points(schedule);
        assert_eq!(points[0], Point::CLEAN);
        for pair in points.windows(2) {
            let falls = pair[0].alpha > pair[1].alpha || name == "ve" && pair[1].alpha == 1.0;
            assert!(falls && pair[0].sigma < pair[1].sigma, "{name}: {pair:?}");
            assert_eq!(schedule.at(pair[1].time).unwrap(), pair[1], "{name}");
        }
        assert!(points[1].sigma < 0.03, "{name} starts at {:?}", points[1]);
        assert_eq!(points[1000], schedule.noisiest());
        let end = schedule.noisiest();
        assert!(end.alpha / end.sigma < 0.07, "{name} ends at {end:?}");
    }
}

#[test]
fn discrete_schedules_preserve_variance() {
    for schedule in [cosine(1000), linear(1000), scaled_linear(1000), linear(21), cosine(1)] {
        for point in schedule.unwrap().points() {
            assert_close(point.alpha.powi(2) + point.sigma.powi(2), 1.0, 1e-15, "alpha² + sigma²");
        }
    }
}

/// alpha² at the timesteps 0, T/2 and T − 1, from the betas of the papers in 40-digit arithmetic.
#[test]
fn discrete_schedules_have_the_published_values() {
    type Make = fn(usize) -> Result<VariancePreserving, ScheduleError>;
    let golden: [(Make, usize, [f64; 3]); 6] = [
        (cosine, 1000, [0.999_958_715_775_178_3, 0.492_285_172_448_802_6, 2.428_766_907_034_468_3e-9]),
        (cosine, 100, [0.999_368_718_401_658_5, 0.478_264_632_945_478_2, 2.428_572_279_350_056e-7]),
        (linear, 1000, [0.9999, 0.077_796_658_365_023_9, 4.035_829_765_375_683_5e-5]),
        (linear, 100, [0.999, 0.066_665_626_818_295_2, 2.039_008_975_564_077_5e-5]),
        (scaled_linear, 1000, [0.999_15, 0.276_332_683_822_974_8, 4.660_098_513_077_24e-3]),
        (scaled_linear, 100, [0.9915, 0.261_472_658_025_426_9, 3.815_456_840_093_092e-3]),
    ];
    for (make, timesteps, alpha_bars) in golden {
        let schedule = make(timesteps).unwrap();
        for (index, expected) in [0, timesteps / 2, timesteps - 1].into_iter().zip(alpha_bars) {
            let actual = schedule.points()[index].alpha.powi(2);
            assert_close(actual / expected, 1.0, 1e-12, &format!("{} {index}/{timesteps}", schedule.name()));
        }
    }
}

#[test]
fn the_flow_path_is_straight() {
    for point in all_points(&Flow::default()) {
        let t = match point.time {
            Time::Continuous(t) => t,
            _ => 0.0,
        };
        assert_eq!((point.alpha, point.sigma), (1.0 - t, t));
    }
}

#[test]
fn times_outside_a_schedule_are_refused() {
    let vp = linear(1000).unwrap();
    assert_eq!(
        vp.at(Time::Index(1000)).unwrap_err().to_string(),
        "schedule \"linear\" has no timestep 1000; its times are the timesteps 0 to 999"
    );
    assert!(vp.at(Time::Continuous(0.5)).is_err());
    for time in [Time::Index(3), Time::Continuous(0.0), Time::Continuous(1.01), Time::Continuous(f64::NAN)] {
        assert!(Flow::default().at(time).is_err(), "{time}");
    }
}

#[test]
fn grids_walk_from_the_noisiest_point_to_clean_data() {
    for schedule in schedules() {
        for steps in [1, 2, 3, 7, 16, 999, 1000] {
            let grid = schedule.grid(steps).unwrap();
            assert_eq!(grid.len(), steps + 1);
            assert_eq!((grid[0], grid[steps]), (schedule.noisiest(), Point::CLEAN));
            assert!(grid.windows(2).all(|pair| pair[0].sigma > pair[1].sigma), "{} {steps}", schedule.name());
        }
        let message = schedule.grid(0).unwrap_err().to_string();
        assert!(message.contains(schedule.name()) && message.contains("; use "), "{message}");
    }
    let vp = linear(1000).unwrap();
    assert!(vp.grid(1001).unwrap_err().to_string().contains("1 to 1000 steps"));
    let indices = |steps| -> Vec<f32> {
        vp.grid(steps).unwrap()[..steps].iter().map(|point| point.time.network_time()).collect()
    };
    assert_eq!(indices(3), [999.0, 666.0, 332.0]);
    // Multiples of 62.5: halves are rounded to even, as in diffusers.
    assert_eq!(indices(16)[..4], [999.0, 937.0, 874.0, 811.0]);
    assert_eq!(Flow::default().grid(4).unwrap()[1], Flow::default().at(Time::Continuous(0.75)).unwrap());
}

#[test]
fn training_times_are_uniform_and_depend_on_the_key_and_position_alone() {
    let key = Key::new(7).step(3).stream(Stream::TIME);
    for schedule in schedules() {
        let name = schedule.name();
        let times = schedule.sample_t(20_000, key);
        assert_eq!(times.points()[..5], *schedule.sample_t(5, key).points());
        assert_ne!(times, schedule.sample_t(20_000, key.step(4)));
        for point in times.points() {
            assert_eq!(schedule.at(point.time).unwrap(), *point);
        }
        if name == "ve" {
            continue;
        }
        // Uniform on (0, 1000] or 0..=999: mean 500 and standard deviation 289, standard error 2.
        let network_times = network_times(&times);
        let mean = network_times.iter().map(|t| f64::from(*t)).sum::<f64>() / 20_000.0;
        assert_close(mean, 499.75, 8.0, name);
        let below = |limit: f32| network_times.iter().filter(|t| **t < limit).count() as f64 / 20_000.0;
        assert_close(below(100.0), 0.1, 0.01, name);
        assert_close(below(900.0), 0.9, 0.01, name);
    }
    // 1 − u, because u may be 0 and a flow time may not.
    let first = 1.0 - key.uniform(0);
    assert_eq!(Flow::default().sample_t(1, key).points()[0].time, Time::Continuous(first));
    let vp = cosine(3).unwrap().sample_t(300, key);
    for i in 0..3 {
        assert!(network_times(&vp).contains(&(i as f32)), "timestep {i} never occurs");
    }
}

#[test]
fn add_noise_mixes_each_sample_at_its_own_level() {
    let (x0, noise) = (tensor(&[0.5, -0.25, 1.0]), tensor(&[-2.0, 1.5, 0.75]));
    for schedule in schedules() {
        let times = schedule.sample_t(3, Key::new(1));
        let levels = times.levels(&Device::flex());
        assert_eq!(levels.alpha.dims(), [3, 1, 1, 1]);
        let x_t = schedule.add_noise(&x0, &noise, &levels, &ForwardCondition::default());
        let triples = values(x0.clone()).into_iter().zip(values(noise.clone())).zip(times.points());
        for (actual, ((x0, noise), point)) in values(x_t).into_iter().zip(triples) {
            let expected = point.alpha * f64::from(x0) + point.sigma * f64::from(noise);
            assert_close(f64::from(actual), expected, 1e-6, schedule.name());
        }
        let prior = schedule.prior(noise.clone(), &ForwardCondition::default());
        let scale = if schedule.name() == "ve" { 80.0 } else { 1.0 };
        assert_eq!(values(prior), values(noise.clone() * scale), "{}", schedule.name());
    }
}

// ---- objectives ----

#[test]
fn targets_have_their_definitions() {
    let point = Point { time: Time::Clean, alpha: 0.6, sigma: 0.8 };
    let levels = point.levels(&Device::flex());
    let edm = (0.8 * 2.0 / 0.5 + 0.6 * 0.5) / 0.8_f64.hypot(0.6 * 0.5);
    let expected =
        [("edm", edm), ("epsilon", -1.0), ("flow_velocity", -3.0), ("v", -0.6 - 0.8 * 2.0), ("x0", 2.0)];
    for (objective, (name, value)) in objectives().iter().zip(expected) {
        assert_eq!(objective.name(), name);
        let target = objective.target(&tensor(&[2.0]), &tensor(&[-1.0]), &levels);
        assert_close(f64::from(values(target)[0]), value, 1e-6, name);
    }
}

/// Largest error of x0 and eps after `read(target)`.
fn round_trip(objective: &dyn Objective, x0: f32, noise: f32, point: Point) -> (f64, f64) {
    let levels = point.levels(&Device::flex());
    let (x0, noise) = (tensor(&[x0]), tensor(&[noise]));
    let x_t = levels.alpha.clone() * x0.clone() + levels.sigma.clone() * noise.clone();
    let read = objective.read(objective.target(&x0, &noise, &levels), &x_t, &levels);
    let error = |a, b| f64::from((values(a)[0] - values(b)[0]).abs());
    (error(read.x0, x0), error(read.noise, noise))
}

#[test]
fn a_perfect_network_is_read_as_x0_and_noise_on_every_schedule() {
    for schedule in schedules() {
        for objective in objectives() {
            if compatible(schedule.as_ref(), objective.as_ref()).is_err() {
                continue;
            }
            for point in all_points(schedule.as_ref()).into_iter().skip(1).step_by(37) {
                let what = format!("{} on {} at {}", objective.name(), schedule.name(), point.time);
                let (x0, noise) = round_trip(objective.as_ref(), 0.7, -1.3, point);
                // In f32 the division by alpha or sigma amplifies the rounding of x_t.
                assert_close(x0, 0.0, 4e-7 * point.sigma.max(1.0) / point.alpha.max(1e-7) + 1e-6, &what);
                assert_close(noise, 0.0, 4e-7 / point.sigma + 1e-6, &what);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reading_inverts_the_target_at_any_level(
        alpha in 0.05..2.0, sigma in 0.05..2.0, x0 in -1.0_f32..1.0, noise in -3.0_f32..3.0,
    ) {
        for objective in objectives() {
            let (x0, noise) = round_trip(objective.as_ref(), x0, noise, Point { time: Time::Clean, alpha, sigma });
            prop_assert!(x0 < 1e-4 && noise < 1e-4, "{}: {} {}", objective.name(), x0, noise);
        }
    }
}

#[test]
fn only_epsilon_on_a_schedule_that_starts_from_pure_noise_is_incompatible() {
    for schedule in schedules() {
        for objective in objectives() {
            let refused = schedule.name() == "flow" && ["edm", "epsilon"].contains(&objective.name());
            assert_eq!(compatible(schedule.as_ref(), objective.as_ref()).is_err(), refused);
        }
    }
    assert_eq!(
        compatible(&Flow::default(), &Epsilon).unwrap_err().to_string(),
        "objective \"epsilon\" cannot be sampled on schedule \"flow\", which starts from pure noise (alpha = 0); \
         use one of flow_velocity, v, x0"
    );
}

// ---- samplers ----

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
        }
    }

    /// The same through what a network trained with `objective` outputs.
    fn denoise_with(self, objective: &dyn Objective, x_t: &Tensor<4>, point: Point) -> Estimate {
        let levels: Levels = point.levels(&x_t.device());
        let Estimate { x0, noise } = self.denoise(x_t, point);
        objective.read(objective.target(&x0, &noise, &levels), x_t, &levels)
    }
}

/// x_s = slope x_t + offset + std z.
struct Affine {
    slope: f64,
    offset: f64,
    std: f64,
}

fn affine(
    kernel: &dyn StepKernel,
    from: Point,
    to: Point,
    denoise: impl Fn(&Tensor<4>, Point) -> Estimate,
) -> Affine {
    let transition = kernel.step(&tensor(&[0.0, 1.0]), from, to, &mut |x, point| denoise(x, point));
    let mean = values(transition.mean);
    Affine { slope: f64::from(mean[1] - mean[0]), offset: f64::from(mean[0]), std: transition.std }
}

/// Mean and standard deviation of the samples, starting from the exact distribution of x_T.
fn sampled(
    kernel: &dyn StepKernel,
    grid: &[Point],
    data: Gaussian,
    denoise: impl Fn(&Tensor<4>, Point) -> Estimate,
) -> Gaussian {
    let start = grid[0];
    let mut mean = start.alpha * data.mean;
    let mut variance = (start.alpha * data.std).powi(2) + start.sigma.powi(2);
    for pair in grid.windows(2) {
        let step = affine(kernel, pair[0], pair[1], &denoise);
        mean = step.slope * mean + step.offset;
        variance = step.slope.powi(2) * variance + step.std.powi(2);
    }
    Gaussian { mean, std: variance.sqrt() }
}

const DATA: Gaussian = Gaussian { mean: 0.3, std: 0.5 };

/// The mean within 0.01 and the standard deviation within 4 % after 200 steps.
#[test]
fn samplers_reproduce_gaussian_data_on_every_schedule_with_every_objective() {
    for schedule in schedules() {
        let grid = schedule.grid(200).unwrap();
        for objective in objectives() {
            if compatible(schedule.as_ref(), objective.as_ref()).is_err() {
                continue;
            }
            for kernel in samplers() {
                let what = format!("{} on {} with {}", kernel.name(), schedule.name(), objective.name());
                let samples =
                    sampled(kernel.as_ref(), &grid, DATA, |x, p| DATA.denoise_with(objective.as_ref(), x, p));
                assert_close(samples.mean, DATA.mean, 0.01, &what);
                assert_close(samples.std, DATA.std, 0.02, &what);
            }
        }
    }
}

/// The same in 1000 steps where schedules end in pure noise, or have other times than by default.
#[test]
fn samplers_reproduce_gaussian_data_on_schedules_with_options() {
    for toml in [
        "name = 'cosine'\nzero_terminal_snr = true",
        "name = 'linear'\nzero_terminal_snr = true",
        "name = 'scaled_linear'\nbeta_start = 0.0015\nbeta_end = 0.0195\nzero_terminal_snr = true",
        "name = 'sigmoid'\nstart = 0.0\ntau = 0.7",
        "name = 'flow'\nshift = 3.0",
    ] {
        let schedule = toml::from_str::<ScheduleConfig>(toml).unwrap().build().unwrap();
        let grid = schedule.grid(1000).unwrap();
        for kernel in samplers() {
            let objective = ObjectiveConfig::new("v").build().unwrap();
            let samples = sampled(kernel.as_ref(), &grid, DATA, |x, p| DATA.denoise_with(&*objective, x, p));
            let what = format!("{} on {toml}", kernel.name());
            assert_close(samples.mean, DATA.mean, 0.01, &what);
            assert_close(samples.std, DATA.std, 0.02, &what);
        }
    }
}

/// With x0 known, a step carries the distribution of x_t into that of x_s, whatever the size of the step. The
/// large variance is the one that is not made for it.
#[test]
fn steps_of_a_perfect_network_keep_the_marginals() {
    let known = Gaussian { mean: 0.3, std: 0.0 };
    let [ddim, half, ancestral] = [0.0, 0.5, 1.0].map(|eta| Ddim::new(eta).unwrap());
    let kernels: [&dyn StepKernel; 6] = [&ddim, &half, &ancestral, &Ddpm::default(), &Euler, &Heun];
    for schedule in schedules() {
        let grid = schedule.grid(9).unwrap();
        for kernel in kernels {
            for pair in grid.windows(2) {
                let (from, to) = (pair[0], pair[1]);
                let step = affine(kernel, from, to, |x, p| known.denoise(x, p));
                let what = format!("{} on {} to {}", kernel.name(), schedule.name(), to.time);
                let tolerance = 1e-6 * from.sigma.max(1.0);
                assert_close(
                    step.slope * from.alpha * known.mean + step.offset,
                    to.alpha * known.mean,
                    tolerance,
                    &what,
                );
                assert_close((step.slope * from.sigma).hypot(step.std), to.sigma, tolerance, &what);
            }
        }
    }
}

/// With the large variance a step is exact for data of unit variance.
#[test]
fn fixed_large_is_the_variance_for_data_of_unit_variance() {
    let data = Gaussian { mean: 0.0, std: 1.0 };
    let kernel = Ddpm { variance: Variance::FixedLarge };
    for schedule in schedules() {
        for steps in [2, 10] {
            let mut grid = schedule.grid(steps).unwrap();
            let clean = grid.pop().unwrap();
            assert_eq!(affine(&kernel, grid[steps - 1], clean, |x, p| data.denoise(x, p)).std, 0.0);
            let last = grid[steps - 1];
            let std = sampled(&kernel, &grid, data, |x, p| data.denoise(x, p)).std;
            assert_close(std, last.alpha.hypot(last.sigma), 1e-5, schedule.name());
        }
    }
    let (vp, betas) = (linear(1000).unwrap(), |i: u32| 1e-4 + (0.02 - 1e-4) * f64::from(i) / 999.0);
    for i in [1, 500, 999] {
        let (to, from) = (vp.at(Time::Index(i - 1)).unwrap(), vp.at(Time::Index(i)).unwrap());
        let step = affine(&kernel, from, to, |x, p| data.denoise(x, p));
        assert_close(step.std.powi(2) / betas(i), 1.0, 1e-10, "beta");
    }
}

/// DDPM's posterior with the numbers of its paper (eq. 7) on the linear schedule.
#[test]
fn ddpm_is_the_published_posterior() {
    let vp = linear(1000).unwrap();
    let beta = |i: u32| 1e-4 + (0.02 - 1e-4) * f64::from(i) / 999.0;
    for i in [1, 10, 500, 999] {
        let (to, from) = (vp.at(Time::Index(i - 1)).unwrap(), vp.at(Time::Index(i)).unwrap());
        let (bar_s, bar_t) = (to.alpha.powi(2), from.alpha.powi(2));
        let known = |x: &Tensor<4>, _| Estimate { x0: x.zeros_like() + 0.7, noise: x.zeros_like() };
        let step = affine(&Ddpm::default(), from, to, known);
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

#[test]
fn ddim_with_eta_1_is_ddpm_and_with_eta_0_is_euler() {
    let same = |a: Affine, b: Affine, what: &str| {
        assert_close(a.slope, b.slope, 2e-6, what);
        assert_close(a.offset, b.offset, 2e-6, what);
        assert_close(a.std, b.std, 1e-12, what);
    };
    let [ancestral, deterministic] = [1.0, 0.0].map(|eta| Ddim::new(eta).unwrap());
    for schedule in schedules() {
        let adjacent = all_points(schedule.as_ref());
        let adjacent = adjacent.windows(2).step_by(83).map(|pair| (pair[1], pair[0]));
        let strided = schedule.grid(10).unwrap();
        let strided = strided.windows(2).map(|pair| (pair[0], pair[1]));
        for (from, to) in adjacent.chain(strided) {
            let what = format!("{} from {} to {}", schedule.name(), from.time, to.time);
            let denoise = |x: &Tensor<4>, point| DATA.denoise(x, point);
            same(affine(&ancestral, from, to, denoise), affine(&Ddpm::default(), from, to, denoise), &what);
            same(affine(&deterministic, from, to, denoise), affine(&Euler, from, to, denoise), &what);
        }
    }
}

/// On the straight path both methods are the textbook ones for dx/dt = u(x, t).
#[test]
fn euler_and_heun_integrate_the_flow_velocity() {
    let u = |x: f64, t: f64| (TAU * t).sin() - 0.4 * x;
    let network = |x: &Tensor<4>, point: Point| {
        let levels = point.levels(&x.device());
        FlowVelocity.read(x.clone() * -0.4 + (TAU * point.sigma).sin(), x, &levels)
    };
    let (t, s, x) = (0.8, 0.5, 1.0);
    let [from, to] = [t, s].map(|t| Flow::default().at(Time::Continuous(t)).unwrap());
    let run = |kernel: &dyn StepKernel| {
        let step = affine(kernel, from, to, network);
        step.slope * x + step.offset
    };
    let euler = x + (s - t) * u(x, t);
    assert_close(run(&Euler), euler, 1e-6, "euler");
    assert_close(run(&Heun), x + (s - t) / 2.0 * (u(x, t) + u(euler, s)), 1e-6, "heun");
}

/// Measured halfway, which every even number of steps visits. At the end the last step, Euler's for both,
/// would dominate where sigma changes as fast as the root of the timestep.
#[test]
fn halving_the_step_halves_eulers_error_and_quarters_heuns() {
    for schedule in schedules() {
        let error = |kernel: &dyn StepKernel, steps: usize| {
            let grid = schedule.grid(2 * steps).unwrap();
            let end = grid[steps];
            let samples = sampled(kernel, &grid[..=steps], DATA, |x, p| DATA.denoise(x, p));
            (samples.std - (end.alpha * DATA.std).hypot(end.sigma)).abs()
        };
        let name = schedule.name();
        // Its steps are large where noise levels are, and the error is that of the method later.
        for steps in if name == "ve" { [40, 80] } else { [5, 10] } {
            let euler = error(&Euler, steps) / error(&Euler, 2 * steps);
            let heun = error(&Heun, steps) / error(&Heun, 2 * steps);
            assert!(
                (1.9..2.1).contains(&euler),
                "{name}, {steps} steps: the ratio of Euler's errors is {euler}"
            );
            assert!(
                (3.5..4.5).contains(&heun),
                "{name}, {steps} steps: the ratio of Heun's errors is {heun}"
            );
            // As many evaluations for both.
            assert!(error(&Heun, steps) < 0.3 * error(&Euler, 2 * steps), "{name}, {steps} steps");
        }
    }
}

#[test]
fn kernels_call_the_network_as_often_as_they_say() {
    for kernel in samplers() {
        let mut calls = 0;
        for pair in Flow::default().grid(6).unwrap().windows(2) {
            let mut visited = Vec::new();
            let transition = kernel.step(&tensor(&[0.4]), pair[0], pair[1], &mut |x, point| {
                visited.push(point);
                DATA.denoise(x, point)
            });
            assert!(visited[0] == pair[0] && visited.iter().all(|point| point.sigma > 0.0));
            assert!(
                pair[1] != Point::CLEAN || transition.std == 0.0,
                "{} adds noise at the end",
                kernel.name()
            );
            calls += visited.len();
        }
        assert_eq!(calls, kernel.evaluations(6), "{}", kernel.name());
    }
}

/// Values far outside [−1, 1] come out unclamped and the derivative of the mean is that of the formula.
#[test]
fn gradients_pass_through_every_kernel() {
    let device = Device::flex().autodiff();
    for schedule in schedules() {
        let grid = schedule.grid(5).unwrap();
        for kernel in samplers() {
            for pair in grid.windows(2) {
                let slope = affine(kernel.as_ref(), pair[0], pair[1], |x, p| DATA.denoise(x, p)).slope;
                let x = Tensor::<4>::full([1, 1, 1, 1], 50.0, &device).require_grad();
                let mean = kernel.step(&x, pair[0], pair[1], &mut |x, p| DATA.denoise(x, p)).mean;
                let gradient = x.grad(&mean.backward()).expect("x_t has a gradient");
                let what = format!("{} on {} from {}", kernel.name(), schedule.name(), pair[0].time);
                assert_close(f64::from(values(gradient)[0]), slope, 1e-5, &what);
            }
        }
    }
}

#[test]
fn network_times_share_one_scale() {
    let times: Times =
        vec![Point::CLEAN, linear(1000).unwrap().noisiest(), Flow::default().noisiest()].into();
    assert_eq!(network_times(&times), [0.0, 999.0, 1000.0]);
    assert_close(Flow::default().at(Time::Continuous(0.2)).unwrap().snr(), 16.0, 1e-12, "snr");
}
