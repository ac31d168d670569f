//! What training needs of a schedule: its tables, times, weights and distances, and the variance that a network learns.

use burn::prelude::*;
use immiscible_random::{Key, Stream};
use immiscible_schedule::distance::PseudoHuber;
use immiscible_schedule::schedule::linear::linear;
use immiscible_schedule::{
    DISTANCES, Distance, DistanceConfig, Estimate, LearnedVariance, NoiseSchedule, OBJECTIVES, Objective,
    ObjectiveConfig, Point, SCHEDULES, ScheduleConfig, ScheduleError, Spread, StepKernel, TIME_SAMPLERS,
    Time, TimeSamplerConfig, Times, Variance, WEIGHTINGS, WeightingConfig, compatible, sampler::Ddpm,
};

const KEY: Key = Key::new(5).stream(Stream::TIME);

fn schedule(name: &str) -> Box<dyn NoiseSchedule> {
    ScheduleConfig::new(name).build().unwrap()
}

fn objective(name: &str) -> Box<dyn Objective> {
    ObjectiveConfig::new(name).build().unwrap()
}

fn column(values: &[f64]) -> Tensor<4> {
    let values: Vec<f32> = values.iter().map(|value| *value as f32).collect();
    Tensor::<1>::from_floats(values.as_slice(), &Device::flex()).reshape([values.len(), 1, 1, 1])
}

fn values(tensor: Tensor<4>) -> Vec<f64> {
    tensor.into_data().try_into_vec_as::<f32>().unwrap().into_iter().map(f64::from).collect()
}

#[track_caller]
fn assert_close(actual: f64, expected: f64, tolerance: f64, what: &str) {
    assert!((actual - expected).abs() <= tolerance, "{what}: {actual}, expected {expected} ± {tolerance}");
}

#[test]
fn registries_are_sorted_and_entries_bear_their_names() {
    for (name, build) in TIME_SAMPLERS {
        assert_eq!(build(&TimeSamplerConfig::new(*name)).unwrap().name(), *name);
    }
    for (name, build) in WEIGHTINGS {
        assert_eq!(build(&WeightingConfig::new(*name)).name(), *name);
    }
    for (name, build) in DISTANCES {
        assert_eq!(build(&DistanceConfig::new(*name)).name(), *name);
    }
    assert!(TIME_SAMPLERS.is_sorted_by(|a, b| a.0 < b.0));
    assert!(WEIGHTINGS.is_sorted_by(|a, b| a.0 < b.0));
    assert!(DISTANCES.is_sorted_by(|a, b| a.0 < b.0));
}

#[test]
fn options_that_do_not_fit_are_refused_by_name() {
    let refused =
        |toml: &str| toml::from_str::<ScheduleConfig>(toml).unwrap().build().err().unwrap().to_string();
    for (toml, words) in [
        ("name = 'cosine'\nbeta_start = 1e-4", ["cosine", "`beta_start`"]),
        ("name = 'sigmoid'\nbeta_end = 1e-2", ["sigmoid", "`beta_end`"]),
        ("name = 'linear'\nstart = -3.0", ["linear", "`start`"]),
        ("name = 'linear'\nend = 3.0", ["linear", "`end`"]),
        ("name = 'flow'\ntau = 1.0", ["flow", "`tau`"]),
        ("name = 'flow'\nzero_terminal_snr = true", ["flow", "`zero_terminal_snr`"]),
        ("name = 've'\nzero_terminal_snr = true", ["ve", "`zero_terminal_snr`"]),
        ("name = 'linear'\nshift = 3.0", ["linear", "`shift`"]),
        ("name = 'flow'\nshift = 0.0", ["shift = 0", "[0.001, 1000]"]),
        ("name = 'flow'\nshift = nan", ["shift = NaN", "[0.001, 1000]"]),
        ("name = 'linear'\nbeta_start = 0.03", ["beta_start = 0.03", "beta_start <= beta_end"]),
        ("name = 'scaled_linear'\nbeta_start = -1.0", ["beta_start = -1", "0 < beta_start"]),
        ("name = 'linear'\nbeta_end = nan", ["beta_end = NaN", "beta_end < 1"]),
        ("name = 'sigmoid'\nstart = 4.0", ["start = 4", "start < end"]),
        ("name = 'sigmoid'\ntau = 0.01", ["tau = 0.01", "30 tau"]),
        ("name = 'cosine'\ntimesteps = 1\nzero_terminal_snr = true", ["zero_terminal_snr", "at least 2"]),
    ] {
        let message = refused(toml);
        assert!(words.iter().all(|word| message.contains(word)), "{toml}: {message}");
    }

    let refused =
        |toml: &str| toml::from_str::<TimeSamplerConfig>(toml).unwrap().build().err().unwrap().to_string();
    for (toml, words) in [
        ("name = 'lognormal'", ["lognormal", "log_normal"]),
        ("name = 'uniform'\nmean = 0.0", ["uniform", "`mean`"]),
        ("name = 'mode'\nstd = 1.0", ["mode", "`std`"]),
        ("name = 'cosmap'\nscale = 1.0", ["cosmap", "`scale`"]),
        ("name = 'mode'\nscale = 1.76", ["scale = 1.76", "1.7519"]),
        ("name = 'log_normal'\nstd = 0.0", ["std = 0", "(0, 10]"]),
        ("name = 'logit_normal'\nmean = inf", ["mean = inf", "[-20, 20]"]),
    ] {
        let message = refused(toml);
        assert!(words.iter().all(|word| message.contains(word)), "{toml}: {message}");
    }

    let refused =
        |toml: &str| toml::from_str::<WeightingConfig>(toml).unwrap().build().err().unwrap().to_string();
    for (toml, words) in [
        ("name = 'snr'", ["snr", "min_snr"]),
        ("name = 'simple'\ngamma = 5.0", ["simple", "`gamma`"]),
        ("name = 'min_snr'\nk = 1.0", ["min_snr", "`k`"]),
        ("name = 'p2'\nsigma_data = 0.5", ["p2", "`sigma_data`"]),
        ("name = 'min_snr'\ngamma = -5.0", ["gamma = -5", "(0, 1000000]"]),
        ("name = 'edm'\nsigma_data = nan", ["sigma_data = NaN", "(0, 1000000]"]),
    ] {
        let message = refused(toml);
        assert!(words.iter().all(|word| message.contains(word)), "{toml}: {message}");
    }

    let refused =
        |toml: &str| toml::from_str::<DistanceConfig>(toml).unwrap().build().err().unwrap().to_string();
    for (toml, words) in [
        ("name = 'l2'", ["l2", "mse"]),
        ("name = 'mse'\nc = 1.0", ["mse", "`c`"]),
        ("name = 'pseudo_huber'\ndelta = 1.0", ["pseudo_huber", "`delta`"]),
        ("name = 'huber'\ndelta = 0.0", ["delta = 0", "[0.000001, 1000000]"]),
    ] {
        let message = refused(toml);
        assert!(words.iter().all(|word| message.contains(word)), "{toml}: {message}");
    }
    assert!(toml::from_str::<WeightingConfig>("name = 'p2'\ngama = 1").is_err());
    assert!(toml::from_str::<TimeSamplerConfig>("name = 'mode'\ns = 1").is_err());
    assert!(toml::from_str::<DistanceConfig>("name = 'mse'\nweight = 1").is_err());
}

// ---- schedules ----

#[derive(serde::Deserialize)]
struct Tables {
    discrete: Vec<Discrete>,
    flow: Vec<Levels>,
    ve: Vec<Levels>,
    karras: Vec<Levels>,
}

#[derive(serde::Deserialize)]
struct Discrete {
    config: ScheduleConfig,
    /// In double precision, at the timesteps 0, 50, 100, ... and the last.
    exact: Vec<f64>,
    /// The whole table in single precision.
    alpha_bar: Option<Vec<f64>>,
}

#[derive(serde::Deserialize)]
struct Levels {
    config: ScheduleConfig,
    sigma: Vec<f64>,
}

/// `golden/schedules.py` has the Python package compute the tables, and says what it lacks.
#[test]
fn schedules_are_the_packages_tables() {
    let golden: Tables = toml::from_str(include_str!("golden/schedules.toml")).unwrap();
    let mut names: Vec<&str> = golden.discrete.iter().map(|table| &*table.config.name).collect();
    for Discrete { config, exact, alpha_bar } in &golden.discrete {
        let schedule = config.build().unwrap();
        let timesteps = config.timesteps.unwrap_or(1000);
        let actual = |i: usize| schedule.at(Time::Index(i as u32)).unwrap().alpha.powi(2);
        let indices = (0..timesteps - 1).step_by(50).chain([timesteps - 1]);
        assert_eq!(exact.len(), indices.clone().count());
        for (i, expected) in indices.zip(exact) {
            assert_close(actual(i), *expected, 1e-11 * expected, &format!("{config:?} at {i}"));
        }
        let usual = ScheduleConfig {
            zero_terminal_snr: config.zero_terminal_snr,
            ..ScheduleConfig::new(&*config.name)
        };
        assert_eq!(alpha_bar.is_some(), *config == usual && config.name != "sigmoid");
        for (i, expected) in alpha_bar.iter().flatten().enumerate() {
            assert_close(actual(i), *expected, 1e-6, &format!("{config:?} at {i}"));
        }
        assert!(alpha_bar.as_ref().is_none_or(|table| table.len() == timesteps));
    }
    let same = |point: Point, expected: f64, config: &ScheduleConfig| {
        assert_close(point.sigma / expected, 1.0, 1e-6, &format!("{config:?} at {expected}"));
    };
    for Levels { config, sigma } in &golden.flow {
        let schedule = config.build().unwrap();
        let grid = schedule.grid(1000).unwrap();
        assert_eq!(sigma.len(), 1000);
        for (i, expected) in (1..).zip(sigma) {
            same(schedule.quantile(i as f64 / 1000.0), *expected, config);
            same(grid[1000 - i], *expected, config);
        }
        assert_eq!((schedule.noisiest().sigma, grid[0].sigma), (1.0, 1.0));
    }
    for Levels { config, sigma } in &golden.ve {
        let grid = config.build().unwrap().grid(sigma.len()).unwrap();
        grid.iter().zip(sigma).for_each(|(point, expected)| same(*point, *expected, config));
    }
    // The grid of ve between the ends of a discrete schedule.
    for Levels { config, sigma } in &golden.karras {
        let schedule = config.build().unwrap();
        let [least, most] =
            [0, 999].map(|i| schedule.at(Time::Index(i)).unwrap()).map(|point| point.sigma / point.alpha);
        let ve =
            ScheduleConfig { sigma_min: Some(least), sigma_max: Some(most), ..ScheduleConfig::new("ve") };
        let grid = ve.build().unwrap().grid(sigma.len()).unwrap();
        grid.iter().zip(sigma).for_each(|(point, expected)| same(*point, *expected, config));
    }
    names.extend(golden.flow.iter().chain(&golden.ve).map(|table| &*table.config.name));
    for (name, _) in SCHEDULES {
        assert!(names.contains(name), "{name} has no table");
    }
}

#[test]
fn zero_terminal_snr_ends_in_pure_noise_and_leaves_the_first_timestep() {
    for name in ["cosine", "linear", "scaled_linear", "sigmoid"] {
        let plain = schedule(name);
        let config = ScheduleConfig { zero_terminal_snr: true, ..ScheduleConfig::new(name) };
        let rescaled = config.build().unwrap();
        let end = rescaled.noisiest();
        assert_eq!((end.alpha, end.sigma, end.snr()), (0.0, 1.0, 0.0), "{name}");
        let first = |schedule: &dyn NoiseSchedule| schedule.at(Time::Index(0)).unwrap();
        assert_close(first(&*rescaled).alpha, first(&*plain).alpha, 1e-15, name);
        let grid = rescaled.grid(1000).unwrap();
        assert!(grid.windows(2).all(|pair| pair[0].alpha < pair[1].alpha && pair[0].sigma > pair[1].sigma));
        for (kind, _) in OBJECTIVES {
            let refused = ["edm", "epsilon"].contains(kind);
            let error = compatible(&*rescaled, &*objective(kind)).err();
            assert_eq!(error.is_some(), refused, "{kind} on {name}");
            assert!(
                error
                    .is_none_or(|error| error.to_string().contains(kind) && error.to_string().contains(name))
            );
            assert!(compatible(&*plain, &*objective(kind)).is_ok());
        }
    }
}

#[test]
fn quantiles_are_those_of_the_uniform_times_and_ratios_are_found_again() {
    for (name, _) in SCHEDULES {
        let schedule = schedule(name);
        assert_eq!(schedule.quantile(1.0), schedule.noisiest(), "{name}");
        let times = schedule.sample_t(20_000, KEY);
        for u in [0.01, 0.3, 0.5, 0.9, 0.999] {
            let quantile = schedule.quantile(u);
            let below = times.points().iter().filter(|point| point.sigma <= quantile.sigma).count();
            assert_close(below as f64 / 20_000.0, u, 0.012, name);
            let found = schedule.nearest(quantile.sigma / quantile.alpha);
            assert_close(found.sigma / quantile.sigma, 1.0, 1e-12, name);
            assert_eq!(schedule.at(found.time).unwrap(), found, "{name}");
        }
    }
    let linear = schedule("linear");
    assert_eq!(linear.quantile(f64::EPSILON).time, Time::Index(0));
    assert_eq!([1e-9, 1e9].map(|ratio| linear.nearest(ratio).time), [Time::Index(0), Time::Index(999)]);
    // Between two timesteps the nearer one on a logarithmic scale.
    let [a, b] =
        [400, 401].map(|i| linear.at(Time::Index(i)).unwrap()).map(|point| point.sigma / point.alpha);
    let between = |share: f64| linear.nearest((a.ln() + share * (b.ln() - a.ln())).exp()).time;
    assert_eq!([between(0.45), between(0.55)], [Time::Index(400), Time::Index(401)]);
}

// ---- times ----

#[test]
fn uniform_times_are_those_of_the_schedule_bit_for_bit() {
    for (name, _) in SCHEDULES {
        let schedule = schedule(name);
        let times = TimeSamplerConfig::default().build_for(&*schedule).unwrap().sample(&*schedule, 500, KEY);
        assert_eq!(times.unwrap(), schedule.sample_t(500, KEY), "{name}");
    }
}

#[test]
fn every_distribution_of_times_is_one_of_the_schedule_or_refused_with_both_names() {
    for (name, _) in TIME_SAMPLERS {
        let config = TimeSamplerConfig::new(*name);
        for (kind, _) in SCHEDULES {
            let schedule = schedule(kind);
            let of_flow = ["cosmap", "logit_normal", "mode"].contains(name);
            match config.build_for(&*schedule) {
                Ok(sampler) => {
                    assert!(!of_flow || *kind == "flow", "{name} on {kind}");
                    let times = sampler.sample(&*schedule, 300, KEY).unwrap();
                    for point in times.points() {
                        assert_eq!(schedule.at(point.time).unwrap(), *point, "{name} on {kind}");
                    }
                    assert_ne!(times, sampler.sample(&*schedule, 300, KEY.step(1)).unwrap());
                    let first = sampler.sample(&*schedule, 10, KEY).unwrap();
                    assert_eq!(
                        first == times.points()[..10].to_vec().into(),
                        *name != "stratified",
                        "{name}"
                    );
                }
                Err(error) => {
                    assert!(of_flow && *kind != "flow", "{name} on {kind}");
                    let message = error.to_string();
                    assert!(message.contains(name) && message.contains(kind), "{message}");
                }
            }
        }
    }
}

/// Flow times of 20,000 samples, in order.
fn flow_times(schedule: &dyn NoiseSchedule, config: &TimeSamplerConfig) -> Vec<f64> {
    let times = config.build().unwrap().sample(schedule, 20_000, KEY).unwrap();
    let mut times: Vec<f64> = times.points().iter().map(|point| point.sigma).collect();
    times.sort_by(f64::total_cmp);
    times
}

fn mean_and_std(numbers: &[f64]) -> (f64, f64) {
    let mean = numbers.iter().sum::<f64>() / numbers.len() as f64;
    let variance = numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / numbers.len() as f64;
    (mean, variance.sqrt())
}

#[test]
fn times_have_their_distributions() {
    let flow = schedule("flow");
    let shifted = ScheduleConfig { shift: Some(3.0), ..ScheduleConfig::new("flow") }.build().unwrap();

    // EDM's P_mean and P_std, on every kind of schedule; standard errors are 0.008.
    let config =
        TimeSamplerConfig { mean: Some(-0.4), std: Some(1.0), ..TimeSamplerConfig::new("log_normal") };
    for name in ["ve", "flow", "linear", "cosine"] {
        let schedule = schedule(name);
        let times = config.build().unwrap().sample(&*schedule, 20_000, KEY).unwrap();
        let logs: Vec<f64> = times.points().iter().map(|point| (point.sigma / point.alpha).ln()).collect();
        let (mean, std) = mean_and_std(&logs);
        assert_close(mean, -0.4, 0.03, name);
        assert_close(std, 1.0, 0.03, name);
    }
    // The logit of the flow time is the logarithm of sigma/alpha; the shift adds its own.
    let logit = TimeSamplerConfig { name: "logit_normal".into(), ..config.clone() };
    for (a, b) in flow_times(&*flow, &config).into_iter().zip(flow_times(&*flow, &logit)) {
        assert_close(a, b, 1e-12, "log_normal and logit_normal");
    }
    let logits = |schedule: &dyn NoiseSchedule, config: &TimeSamplerConfig| -> Vec<f64> {
        flow_times(schedule, config).into_iter().map(|t| (t / (1.0 - t)).ln()).collect()
    };
    let (mean, std) = mean_and_std(&logits(&*shifted, &logit));
    assert_close(mean, 3.0_f64.ln() - 0.4, 0.03, "shifted logit_normal");
    assert_close(std, 1.0, 0.03, "shifted logit_normal");
    assert_eq!(flow_times(&*shifted, &config), flow_times(&*flow, &config));

    // The quantile function of a time that falls with u is the formula at 1 − share.
    let quantile = |times: &[f64], share: f64| times[(share * 20_000.0) as usize];
    let angle = |u: f64| std::f64::consts::FRAC_PI_2 * u;
    let (mode, cosmap) = (TimeSamplerConfig::new("mode"), TimeSamplerConfig::new("cosmap"));
    let (mode, cosmap) = (flow_times(&*flow, &mode), flow_times(&*flow, &cosmap));
    for share in [0.1, 0.35, 0.5, 0.8, 0.95] {
        let u: f64 = 1.0 - share;
        let expected = 1.0 - u - 1.29 * (angle(u).cos().powi(2) - 1.0 + u);
        assert_close(quantile(&mode, share), expected, 0.012, "mode");
        assert_close(quantile(&cosmap, share), 1.0 - 1.0 / (angle(share).tan() + 1.0), 0.012, "cosmap");
    }
    let none = TimeSamplerConfig { scale: Some(0.0), ..TimeSamplerConfig::new("mode") };
    let uniform = flow_times(&*flow, &TimeSamplerConfig::default());
    for (a, b) in flow_times(&*flow, &none).into_iter().zip(uniform) {
        assert_close(a, b, 1e-15, "mode without a preference");
    }
}

#[test]
fn stratified_times_take_one_from_each_part() {
    let stratified = TimeSamplerConfig::new("stratified").build().unwrap();
    let flow = schedule("flow");
    for (i, point) in stratified.sample(&*flow, 64, KEY).unwrap().points().iter().enumerate() {
        assert!((i as f64 / 64.0..=(i + 1) as f64 / 64.0).contains(&point.sigma), "{i}: {}", point.sigma);
    }
    let linear = schedule("linear");
    for (i, point) in stratified.sample(&*linear, 1000, KEY).unwrap().points().iter().enumerate() {
        assert_eq!(point.time, Time::Index(i as u32));
    }
}

// ---- objectives ----

/// What any network says about x0 and eps does not depend on the objective that its output is converted to.
#[test]
fn every_pair_of_objectives_agrees_on_the_same_network() {
    let x_t = column(&[0.9, -1.4, 0.05]);
    for (name, _) in SCHEDULES {
        let schedule = schedule(name);
        for u in [0.05, 0.4, 0.8, 0.95] {
            let point = schedule.quantile(u);
            let levels = point.levels(&Device::flex());
            for (from, _) in OBJECTIVES {
                let output = column(&[0.3, -0.7, 1.1]);
                let Estimate { x0, noise, .. } = objective(from).read(output, &x_t, &levels);
                for (to, _) in OBJECTIVES {
                    let to = objective(to);
                    let again = to.read(to.target(&x0, &noise, &levels), &x_t, &levels);
                    let what = format!("{from} as {} on {name} at {}", to.name(), point.time);
                    let scale = point.sigma.max(1.0) / point.alpha.min(point.sigma).min(1.0);
                    for (a, b) in [(&again.x0, &x0), (&again.noise, &noise)] {
                        for (a, b) in values(a.clone()).into_iter().zip(values(b.clone())) {
                            assert_close(a, b, 1e-6 * scale * (1.0 + b.abs()), &what);
                        }
                    }
                }
            }
        }
    }
}

// ---- weights ----

/// Weights on x0 and the errors of x0 that they are converted by, from the definitions in the papers.
#[test]
fn weights_are_the_columns_of_the_table() {
    let weight = |config: &WeightingConfig, kind: &str, point| {
        config.build().unwrap().weight(&*objective(kind), point)
    };
    let new = WeightingConfig::new;
    let check = |config: &WeightingConfig, kind: &str, point: Point, expected: f64| {
        let what = format!("{config:?} of {kind} at {}", point.time);
        assert_close(weight(config, kind, point) / expected, 1.0, 1e-9, &what);
    };
    for name in ["linear", "cosine", "sigmoid"] {
        for i in [0, 50, 300, 700, 998] {
            let point = schedule(name).at(Time::Index(i)).unwrap();
            let snr = point.snr();
            for (kind, _) in OBJECTIVES {
                check(&new("simple"), kind, point, 1.0);
            }
            for gamma in [5.0_f64, 0.7] {
                let config = WeightingConfig { gamma: Some(gamma), ..new("min_snr") };
                check(&config, "epsilon", point, snr.min(gamma) / snr);
                check(&config, "x0", point, snr.min(gamma));
                check(&config, "v", point, snr.min(gamma) / (snr + 1.0));
            }
            for (k, gamma) in [(1.0, 1.0), (2.0, 0.5)] {
                let config = WeightingConfig { k: Some(k), gamma: Some(gamma), ..new("p2") };
                check(&config, "epsilon", point, 1.0 / (k + snr).powf(gamma));
                check(&config, "x0", point, snr / (k + snr).powf(gamma));
                check(&config, "v", point, snr / ((snr + 1.0) * (k + snr).powf(gamma)));
            }
        }
    }
    assert_eq!(new("min_snr"), WeightingConfig { gamma: None, ..new("min_snr") });
    let flow = schedule("flow");
    for t in [0.02, 0.3, 0.5, 0.9, 1.0_f64] {
        let point = flow.at(Time::Continuous(t)).unwrap();
        let config = WeightingConfig { gamma: Some(5.0), ..new("min_snr") };
        let weight = weight(&config, "flow_velocity", point);
        assert_close(weight, (1.0 - t).powi(2).min(5.0 * t * t), 1e-12, "min_snr on the flow");
        check(&new("sigma_sqrt"), "flow_velocity", point, t.powi(-2));
        let expected = 2.0 / (std::f64::consts::PI * (1.0 - 2.0 * t + 2.0 * t * t));
        check(&new("cosmap"), "flow_velocity", point, expected);
    }
    let ve = schedule("ve");
    for sigma in [0.002, 0.1, 0.5, 3.0, 80.0_f64] {
        for sigma_data in [0.5_f64, 1.0] {
            let point = ve.at(Time::Sigma(sigma)).unwrap();
            let sum = sigma.powi(2) + sigma_data.powi(2);
            let product = (sigma * sigma_data).powi(2);
            let edm = ObjectiveConfig { sigma_data: Some(sigma_data), ..ObjectiveConfig::new("edm") };
            let on_f = |name| {
                let config = WeightingConfig { sigma_data: Some(sigma_data), ..new(name) };
                config.build().unwrap().weight(&*edm.build().unwrap(), point)
            };
            assert_close(on_f("edm"), 1.0, 1e-12, "edm on F");
            assert_close(on_f("soft_min_snr") / (product / sum.powi(2)), 1.0, 1e-12, "soft_min_snr on F");
            let config = WeightingConfig { sigma_data: Some(sigma_data), ..new("edm") };
            check(&config, "x0", point, sum / product);
        }
    }
}

/// The same error of x0 costs the same, whatever the network outputs.
#[test]
fn a_weighted_error_does_not_depend_on_the_objective() {
    for (name, _) in WEIGHTINGS.iter().filter(|(name, _)| *name != "simple") {
        let weighting = WeightingConfig::new(*name).build().unwrap();
        for (kind, _) in SCHEDULES {
            for u in [0.1, 0.5, 0.9] {
                let point = schedule(kind).quantile(u);
                let levels = point.levels(&Device::flex());
                let (x0, wrong, noise) = (column(&[0.4]), column(&[0.4 + 0.25]), column(&[-0.8]));
                let x_t = levels.alpha.clone() * x0.clone() + levels.sigma.clone() * noise.clone();
                let guess = Estimate::from_x0(wrong, &x_t, &levels);
                let cost = |objective: &dyn Objective| {
                    let output = objective.target(&guess.x0, &guess.noise, &levels);
                    let error = values(output - objective.target(&x0, &noise, &levels))[0];
                    weighting.weight(objective, point) * error.powi(2)
                };
                let expected = cost(&*objective("x0"));
                for (to, _) in OBJECTIVES {
                    let cost = cost(&*objective(to));
                    assert!(
                        (cost / expected - 1.0).abs() < 2e-2,
                        "{name}, {to} on {kind}: {cost}, {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn weights_that_are_not_finite_are_refused_with_all_names() {
    let rescaled =
        ScheduleConfig { zero_terminal_snr: true, ..ScheduleConfig::new("linear") }.build().unwrap();
    for (name, _) in WEIGHTINGS {
        let config = WeightingConfig::new(*name);
        for schedule in [&schedule("flow"), &rescaled] {
            let refused = config.build_for(&**schedule, &*objective("epsilon")).err();
            // Without a signal x0 does not follow from eps.
            assert_eq!(refused.is_some(), *name != "simple", "{name} on {}", schedule.name());
            if let Some(error) = refused {
                let message = error.to_string();
                assert!(
                    [name, "epsilon", schedule.name()].iter().all(|word| message.contains(word)),
                    "{message}"
                );
            }
            assert!(config.build_for(&**schedule, &*objective("v")).is_ok(), "{name} on {}", schedule.name());
        }
        assert!(config.build_for(&*schedule("ve"), &*objective("edm")).is_ok(), "{name}");
    }
    // 1/t⁴ goes beyond what a device can hold.
    assert!(WeightingConfig::new("sigma_sqrt").build_for(&*schedule("flow"), &*objective("x0")).is_err());
}

// ---- distances ----

#[test]
fn distances_have_their_formulas_and_finite_gradients() {
    let device = Device::flex();
    let errors = [0.0, 0.0, 0.0, 0.0, 0.5, -0.25, 2.0, -3.0];
    let error = Tensor::<1>::from_floats(errors, &device).reshape([2, 1, 2, 2]);
    let per_sample =
        |config: &DistanceConfig| values(config.build().unwrap().of(error.clone()).mean_dims(&[1, 2, 3]));
    let mse = per_sample(&DistanceConfig::default());
    assert_close(mse[1], (0.25 + 0.0625 + 4.0 + 9.0) / 4.0, 1e-6, "mse");
    let huber = per_sample(&DistanceConfig::new("huber"));
    assert_close(huber[1], (0.125 + 0.03125 + 1.5 + 2.5) / 4.0, 1e-6, "huber");
    let huber = per_sample(&DistanceConfig { delta: Some(0.4), ..DistanceConfig::new("huber") });
    assert_close(huber[1], (0.4 * 0.3 + 0.03125 + 0.4 * 1.8 + 0.4 * 2.8) / 4.0, 1e-6, "huber");
    let square = 0.25 + 0.0625 + 4.0 + 9.0_f64;
    for (c, used) in [(Some(0.3), 0.3), (None, 0.00054 * 2.0)] {
        let pseudo_huber = per_sample(&DistanceConfig { c, ..DistanceConfig::new("pseudo_huber") });
        assert_close(pseudo_huber[1], (square + used * used).sqrt() - used, 1e-5, "pseudo_huber");
        assert_eq!(PseudoHuber { c }.of(error.clone()).dims(), [2, 1, 1, 1]);
    }
    for (name, _) in DISTANCES {
        let config = DistanceConfig::new(*name);
        assert_eq!(per_sample(&config)[0], 0.0, "{name}");
        let tracked =
            Tensor::<1>::from_floats(errors, &device.clone().autodiff()).reshape([2, 1, 2, 2]).require_grad();
        let loss = config.build().unwrap().of(tracked.clone()).mean();
        let gradient = values(tracked.grad(&loss.backward()).unwrap());
        assert!(gradient.iter().all(|g| g.is_finite()) && gradient[..4] == [0.0; 4], "{name}: {gradient:?}");
        let h = 1e-2;
        for i in 4..8 {
            let at = |by: f64| {
                let mut moved = values(error.clone());
                moved[i] += by;
                values(
                    config
                        .build()
                        .unwrap()
                        .of(column(&moved).reshape([2, 1, 2, 2]))
                        .mean()
                        .reshape([1, 1, 1, 1]),
                )[0]
            };
            assert_close(gradient[i], (at(h) - at(-h)) / (2.0 * h), 2e-3, &format!("{name}, element {i}"));
        }
    }
}

// ---- the learned variance ----

#[derive(serde::Deserialize)]
struct Bound {
    timesteps: Vec<u32>,
    x0: Vec<f64>,
    estimate: Vec<f64>,
    v: Vec<f64>,
    log_variance: Vec<f64>,
    bits: Vec<f64>,
}

/// `golden/learned_variance.py` computes the numbers.
#[test]
fn the_bound_of_a_learned_variance_is_the_papers() {
    let golden: Bound = toml::from_str(include_str!("golden/learned_variance.toml")).unwrap();
    let schedule = linear(1000).unwrap();
    let learned = LearnedVariance::new(&schedule).unwrap();
    assert_eq!(learned.timesteps(), 1000);
    let times: Vec<Point> = golden.timesteps.iter().map(|i| schedule.at(Time::Index(*i)).unwrap()).collect();
    let batch = times.len();
    let times = Times::from(times);
    let tensor = |values: &[f64]| column(values).reshape([batch, 1, 2, values.len() / batch / 2]);
    let (x0, estimate, v) = (tensor(&golden.x0), tensor(&golden.estimate), tensor(&golden.v));
    for (actual, expected) in
        values(learned.log_variance(v.clone(), &times)).into_iter().zip(&golden.log_variance)
    {
        assert_close(actual, *expected, 2e-6 * expected.abs(), "log variance");
    }
    let bits = values(learned.bits(v.clone(), estimate.clone(), &x0, &times));
    for (actual, expected) in bits.iter().zip(&golden.bits) {
        assert_close(*actual, *expected, 2e-5 * expected + 3e-7, "bits");
    }
    // Without timestep 0 in the batch the others are the same.
    let rest = |tensor: &Tensor<4>| tensor.clone().narrow(0, 1, batch - 1);
    let later = Times::from(times.points()[1..].to_vec());
    let without = values(learned.bits(rest(&v), rest(&estimate), &rest(&x0), &later));
    assert_eq!(without, bits[bits.len() / batch..]);
}

#[test]
fn the_learned_variance_lies_between_those_of_the_sampler() {
    for name in ["linear", "cosine"] {
        let schedule = schedule(name);
        let learned = LearnedVariance::new(&*schedule).unwrap();
        for i in [1, 2, 400, 999] {
            let (to, from) = (schedule.at(Time::Index(i - 1)).unwrap(), schedule.at(Time::Index(i)).unwrap());
            for (v, variance) in [(-1.0, Variance::FixedSmall), (1.0, Variance::FixedLarge)] {
                let zeros = column(&[0.0]);
                let mut denoise =
                    |x: &Tensor<4>, _: Point| Estimate { x0: x.clone(), noise: x.clone(), variance: None };
                let (kernel, path) = (Ddpm { variance, ..Ddpm::default() }, [(from, to)]);
                let step = kernel.begin(&*schedule, &path).unwrap().step(&zeros, from, to, &mut denoise);
                let Spread::Same(std) = step.unwrap().std else { panic!("the same everywhere") };
                let log = values(learned.log_variance(column(&[v]), &vec![from].into()))[0];
                assert_close(log, 2.0 * std.ln(), 2e-6 * log.abs(), &format!("{name}, {i}, {v}"));
            }
        }
    }
}

/// The true step back costs nothing, and the gradient of the bound is finite also where a probability vanishes.
#[test]
fn the_bound_is_zero_for_the_true_step_and_its_gradient_is_finite() {
    let schedule = linear(1000).unwrap();
    let learned = LearnedVariance::new(&schedule).unwrap();
    let times: Times = [0, 0, 5, 900].map(|i| schedule.at(Time::Index(i)).unwrap()).to_vec().into();
    let x0 = column(&[-1.0, 0.2, 0.5, -0.3]);
    let small = column(&[-1.0; 4]);
    let bits = values(learned.bits(small.clone(), x0.clone(), &x0, &times));
    assert!(bits[2].abs() < 1e-6 && bits[3].abs() < 1e-6, "{bits:?}");
    let v = Tensor::<4>::from_data(small.into_data(), &Device::flex().autodiff()).require_grad();
    let estimate = column(&[1.0, -0.9, -0.5, 0.3]);
    let gradient = values(v.grad(&learned.bits(v.clone(), estimate, &x0, &times).mean().backward()).unwrap());
    assert!(gradient.iter().all(|g| g.is_finite()), "{gradient:?}");
    // The estimate is bad: a larger variance is better.
    assert!(gradient[2] < 0.0 && gradient[3] < 0.0, "{gradient:?}");
}

#[test]
fn only_timesteps_have_a_learned_variance() {
    for name in ["flow", "ve"] {
        let error = LearnedVariance::new(&*schedule(name)).err().unwrap();
        assert_eq!(error, ScheduleError::LearnedVariance(name.into()));
    }
    assert!(LearnedVariance::new(&linear(21).unwrap()).is_ok());
    let one = ScheduleConfig { timesteps: Some(1), ..ScheduleConfig::new("cosine") }.build().unwrap();
    assert!(LearnedVariance::new(&*one).is_err());
}
