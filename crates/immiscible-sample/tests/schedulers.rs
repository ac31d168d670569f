//! Whole trajectories, step by step as recorded from diffusers' schedulers.

use burn::prelude::*;
use burn::tensor::TensorData;
use immiscible_models::Condition;
use immiscible_sample::{NoiseSource, Predictor, SampleConfig, Sampler, Scheduler};
use immiscible_schedule::objective::Consistency;
use immiscible_schedule::{Objective, ObjectiveConfig, Point, SamplerConfig, ScheduleConfig};
use serde_json::Value;

const SHAPE: [usize; 4] = [1, 1, 2, 2];

/// The network of `golden/samplers.py`.
struct Network {
    kind: &'static str,
    objective: Box<dyn Objective>,
    /// Whether it predicts a variance itself, or a place between two.
    variance: Option<bool>,
}

impl Network {
    fn of(config: &Value) -> Self {
        let class = config["_class_name"].as_str().unwrap();
        let kind = match config["prediction_type"].as_str() {
            _ if class.starts_with("CM") => "consistency",
            _ if class.starts_with("EDM") => "edm",
            _ if class.starts_with("Flow") => "flow",
            None | Some("epsilon") => "epsilon",
            Some("sample") => "sample",
            Some("v_prediction") => "v_prediction",
            Some(other) => panic!("{other}"),
        };
        let sigma_data = config["sigma_data"].as_f64();
        let objective = match kind {
            "consistency" => {
                let sigma_min = config["sigma_min"].as_f64().unwrap_or(0.002);
                Box::new(Consistency::new(sigma_min, sigma_data.unwrap_or(0.5)).unwrap())
            }
            "edm" => ObjectiveConfig { sigma_data, ..ObjectiveConfig::new("edm") }.build().unwrap(),
            // All others look at x_t itself and at the number of its time.
            _ => ObjectiveConfig::new("epsilon").build().unwrap(),
        };
        let variance = match config["variance_type"].as_str() {
            Some("learned") => Some(true),
            Some("learned_range") => Some(false),
            _ => None,
        };
        Self { kind, objective, variance }
    }

    fn mean(&self, x: Tensor<4>, t: f64) -> Tensor<4> {
        if self.kind == "consistency" {
            return (x.clone() * 1.5).sin() * 0.8 + x * 0.3 - 0.1 * (t / 1000.0);
        }
        if self.kind == "edm" {
            return (x.clone() * 1.5).sin() * 0.8 + x * 0.3 - 0.1 * t;
        }
        let u = t / 1000.0;
        if self.kind == "flow" {
            return x.clone() * 0.9 - (x * 2.0).tanh() * (0.8 * (1.0 - 0.7 * u)) + 0.1 * u;
        }
        let alpha2 = (-0.1 * u - 9.95 * u * u).exp();
        let (alpha, sigma) = (alpha2.sqrt(), (1.0001 - alpha2).sqrt());
        let x0 = (x.clone() * (2.0 * alpha)).tanh() * 0.8;
        let epsilon = x.clone() * sigma + (x * 3.0).sin() * (0.4 * alpha2);
        match self.kind {
            "sample" => x0,
            "epsilon" => epsilon,
            _ => epsilon * alpha - x0 * sigma,
        }
    }
}

impl Predictor for Network {
    fn predict(&mut self, x_t: &Tensor<4>, point: Point, _: &Condition) -> Tensor<4> {
        let x = self.objective.network_input(x_t.clone(), &point.levels(&x_t.device()));
        let t = f64::from(self.objective.network_time(point));
        let mean = self.mean(x.clone(), t);
        let Some(itself) = self.variance else {
            return mean;
        };
        let variance = (x * 2.0 + t / 100.0).sin();
        let variance = if itself { variance.square() * 0.02 } else { variance };
        Tensor::cat(vec![mean, variance], 1)
    }
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

/// The noise of the golden.
struct Recorded {
    start: Vec<f32>,
    steps: Vec<Vec<f32>>,
}

impl NoiseSource for Recorded {
    fn prior(&mut self, shape: [usize; 4], device: &Device) -> Tensor<4> {
        Tensor::from_data(TensorData::new(self.start.clone(), shape), device)
    }

    fn step(&mut self, step: usize, _: usize, shape: [usize; 4], device: &Device) -> Tensor<4> {
        Tensor::from_data(TensorData::new(self.steps[step].clone(), shape), device)
    }
}

/// Each step's x within 1e-5 of the largest value of its trajectory.
#[test]
fn every_scheduler_walks_as_the_packages() {
    let golden: Value = serde_json::from_str(include_str!("golden/samplers.json")).unwrap();
    let mut noise = Recorded {
        start: numbers(&golden["start"]),
        steps: golden["noise"].as_array().unwrap().iter().map(numbers).collect(),
    };
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 40);
    let mut failures = Vec::new();
    for case in cases {
        let config = &case["config"];
        let scheduler =
            Scheduler::from_json(&config.to_string()).unwrap_or_else(|error| panic!("{config}: {error}"));
        let eta = case["arguments"]["eta"].as_f64();
        let sampler = eta.map(|eta| SamplerConfig { eta: Some(eta), ..SamplerConfig::new("ddim") });
        for (steps, path) in case["runs"].as_object().unwrap() {
            let sampler = scheduler.sampler(sampler.as_ref(), steps.parse().unwrap()).unwrap();
            let mut network = Network::of(config);
            let mut walked: Vec<Vec<f32>> = Vec::new();
            let see = |progress: immiscible_sample::Progress<'_>| {
                walked.push(progress.x.to_data().try_to_vec().unwrap());
            };
            sampler.sample(&mut network, &mut noise, SHAPE, &Condition::None, &Device::flex(), see).unwrap();
            let path: Vec<Vec<f32>> = path.as_array().unwrap().iter().map(numbers).collect();
            assert_eq!(walked.len(), path.len(), "{config}, {steps} steps");
            let largest = path.iter().flatten().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            let off = |(a, b): (&Vec<f32>, &Vec<f32>)| {
                a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
            };
            let errors: Vec<f32> = walked.iter().zip(&path).map(off).map(|error| error / largest).collect();
            assert!(walked.iter().flatten().all(|value| value.is_finite()), "{config}, {steps} steps");
            if let Some(step) = errors.iter().position(|error| *error > 1e-5) {
                let worst = errors.iter().copied().fold(0.0, f32::max);
                failures.push(format!("{config}, {steps} steps: {worst:e}, from step {} on", step + 1));
            }
        }
    }
    assert!(failures.is_empty(), "{} runs:\n{}", failures.len(), failures.join("\n"));
}

/// The package's classes go in x/alpha there, and so do the samplers of their names.
#[test]
fn a_run_with_several_estimates_a_step_draws_what_its_export_draws() {
    let noise = [0.3, -1.2, 0.8, 2.1];
    let objective = ObjectiveConfig::new("epsilon");
    for schedule in ["linear", "scaled_linear"] {
        let config = ScheduleConfig::new(schedule);
        let (own, target) = (config.build().unwrap(), objective.build().unwrap());
        for (name, skip_prk_steps) in [("heun", None), ("pndm", None), ("pndm", Some(false))] {
            let sampler = SamplerConfig { skip_prk_steps, ..SamplerConfig::new(name) };
            let sample = SampleConfig { sampler, steps: 20, clip: false, ..SampleConfig::default() };
            let exported = Scheduler::of_run(&config, &objective, &sample).unwrap();
            let draw = |sampler: &Sampler<'_>, std: f64| -> Vec<f32> {
                let mut network = Network::of(&serde_json::from_str(&exported.to_json()).unwrap());
                let start = noise.map(|value| (value * std) as f32).to_vec();
                let mut noise = Recorded { start, steps: vec![] };
                let x = sampler.sample(
                    &mut network,
                    &mut noise,
                    SHAPE,
                    &Condition::None,
                    &Device::flex(),
                    |_| {},
                );
                x.unwrap().into_data().try_to_vec().unwrap()
            };
            // There Heun's x_T has the standard deviation sigma, and not 1.
            let std = if name == "heun" { own.noisiest().sigma } else { 1.0 };
            let run = draw(&Sampler::new(&sample, &*own, &*target).unwrap(), std);
            let export = draw(&exported.sampler(None, 20).unwrap(), 1.0);
            for (a, b) in run.iter().zip(&export) {
                assert!((a - b).abs() < 1e-5, "{name} on {schedule}: {run:?}, exported {export:?}");
            }
        }
    }
}
