//! What every schedule and objective in the registries must satisfy, alone and together.

use burn::prelude::*;
use immiscible_random::{Key, Stream};
use immiscible_schedule::objective::{Consistency, Epsilon};
use immiscible_schedule::schedule::{
    cosine::cosine, flow::Flow, linear::linear, scaled_linear::scaled_linear,
};
use immiscible_schedule::{
    ForwardCondition, NoiseSchedule, OBJECTIVES, Objective, ObjectiveConfig, Point, SCHEDULES,
    ScheduleConfig, ScheduleError, Time, Times, VariancePreserving, compatible,
};
use proptest::prelude::*;

fn schedules() -> Vec<Box<dyn NoiseSchedule>> {
    SCHEDULES.iter().map(|(name, build)| build(&ScheduleConfig::new(*name)).unwrap()).collect()
}

fn objectives() -> Vec<Box<dyn Objective>> {
    OBJECTIVES.iter().map(|(name, build)| build(&ObjectiveConfig::new(*name)).unwrap()).collect()
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
    assert!(SCHEDULES.is_sorted_by(|a, b| a.0 < b.0));
    assert!(OBJECTIVES.is_sorted_by(|a, b| a.0 < b.0));
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
}

#[test]
fn configs_read_their_options_and_refuse_others() {
    assert!(toml::from_str::<ScheduleConfig>("name = 'linear'\nsteps = 5").is_err());
    assert!(toml::from_str::<ObjectiveConfig>("name = 'v'\nweight = 1").is_err());

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
fn a_schedule_without_signal_at_its_end_keeps_its_beginning() {
    let before = linear(1000).unwrap();
    let after = before.clone().with_zero_terminal_snr(0.0).unwrap();
    assert_eq!((after.noisiest().alpha, after.noisiest().sigma), (0.0, 1.0));
    assert_close(after.points()[0].alpha, before.points()[0].alpha, 1e-15, "the first alpha");
    assert!(after.points().windows(2).all(|pair| pair[0].alpha > pair[1].alpha));
    assert_close(before.with_zero_terminal_snr(0.25).unwrap().noisiest().alpha, 0.5, 0.0, "the last alpha");
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

#[test]
fn network_times_share_one_scale() {
    let times: Times =
        vec![Point::CLEAN, linear(1000).unwrap().noisiest(), Flow::default().noisiest()].into();
    assert_eq!(network_times(&times), [0.0, 999.0, 1000.0]);
    assert_close(Flow::default().at(Time::Continuous(0.2)).unwrap().snr(), 16.0, 1e-12, "snr");
}

// ---- consistency ----

/// Where c_out = 0 the function is the identity, whatever the network says.
#[test]
fn the_consistency_function_is_the_identity_at_sigma_min() {
    let ve = ScheduleConfig::new("ve").build().unwrap();
    let f = Consistency::new(0.002, 0.5).unwrap();
    let x = tensor(&[-3.0, 0.1, 0.7]);
    let least = ve.grid(18).unwrap()[17];
    assert_close(least.sigma, 0.002, 1e-15, "the last noise level");
    let levels = least.levels(&x.device());
    let end = f.read(tensor(&[9.0, -40.0, 1e3]), &x, &levels).x0;
    assert_eq!(values(end), values(x));
}

/// Coefficients, written out at one noise level: sigma_min = 0.002, sigma_data = 0.5, t = 1.2.
#[test]
fn the_consistency_function_has_its_published_coefficients() {
    let f = Consistency::new(0.002, 0.5).unwrap();
    let point = Point { time: Time::Sigma(1.2), alpha: 1.0, sigma: 1.2 };
    let levels = point.levels(&Device::flex());
    let (skip, out, scale) = (0.25 / (1.198_f64.powi(2) + 0.25), 0.5 * 1.198 / 1.3, 1.0 / 1.3);
    let read =
        |output: f32, x: f32| f64::from(values(f.read(tensor(&[output]), &tensor(&[x]), &levels).x0)[0]);
    assert_close(read(0.0, 1.0), skip, 1e-7, "c_skip");
    assert_close(read(1.0, 0.0), out, 1e-7, "c_out");
    assert_close(f64::from(values(f.network_input(tensor(&[1.0]), &levels))[0]), scale, 1e-7, "c_in");
    assert_close(f64::from(f.network_time(point)), 250.0 * 1.2_f64.ln(), 1e-4, "c_noise");
    assert_close(f.x0_error(point), out * out, 1e-12, "c_out²");

    let (x0, noise) = (tensor(&[0.3, -0.8]), tensor(&[1.1, 0.2]));
    let x_t = x0.clone() + noise.clone() * 1.2;
    let estimate = f.read(f.target(&x0, &noise, &levels), &x_t, &levels);
    for (found, expected) in [(estimate.x0, x0), (estimate.noise, noise)] {
        for (found, expected) in values(found).into_iter().zip(values(expected)) {
            assert_close(f64::from(found), f64::from(expected), 1e-6, "read of target");
        }
    }
    assert!(Consistency::new(0.0, 0.5).is_err() && Consistency::new(0.002, f64::NAN).is_err());
}
