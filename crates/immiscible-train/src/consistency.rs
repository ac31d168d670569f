use crate::{
    ConsistencyLoss, Files, MethodConfig, MethodParts, Neighbours, Prepared, StepReport, TrainError,
    TrainStep, ema::blend, learner::Learner,
};
use burn::module::Module;
use immiscible_models::Network;
use immiscible_random::{Key, Stream};
use immiscible_schedule::{NoiseSchedule, ScheduleError};
use std::path::Path;

/// Consistency training (Song et al. 2023, arXiv 2303.01469, algorithm 3): f at one noise level learns from a slow copy of
/// itself at the next lower one. The grid becomes finer, and the copy slower, while it trains.
pub struct ConsistencyStep {
    loss: ConsistencyLoss,
    curriculum: Curriculum,
    learner: Learner,
    /// θ⁻, outside any autodiff graph.
    teacher: Network,
}

/// How fine the grid is, and how slow the teacher, at every step (appendix C).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Curriculum {
    /// s₀ ≥ 1: noise levels at the beginning.
    pub s0: u64,
    /// s₁ ≥ s₀: one less than the noise levels at the end.
    pub s1: u64,
    /// μ₀ in [0, 1).
    pub mu0: f64,
    /// K ≥ 1: the step of the end.
    pub steps: u64,
}

impl Curriculum {
    /// N(k) = ⌈√(k/K ((s₁ + 1)² − s₀²) + s₀²) − 1⌉ + 1, at least 2: the number of noise levels at step k.
    pub fn levels(&self, step: u64) -> usize {
        let share = step.min(self.steps) as f64 / self.steps as f64;
        let [first, last] = [self.s0, self.s1 + 1].map(|s| (s as f64).powi(2));
        let intervals = ((share * (last - first) + first).sqrt() - 1.0).ceil();
        intervals.max(1.0) as usize + 1
    }

    /// μ(k) = exp(s₀ ln μ₀ / (N(k) − 1)): the decay of the teacher at step k. The denominator is that of the paper's code;
    /// its text has N(k).
    pub fn decay(&self, step: u64) -> f64 {
        (self.s0 as f64 * self.mu0.ln() / (self.levels(step) - 1) as f64).exp()
    }
}

const TEACHER: &str = "teacher.safetensors";

impl ConsistencyStep {
    /// Starts with the teacher equal to the network.
    ///
    /// # Errors
    /// When an option is outside its range.
    pub fn new(config: &MethodConfig, parts: MethodParts) -> Result<Self, TrainError> {
        let learner =
            Learner::new(parts.network, &parts.optimizer, &parts.ema)?.with_micro_batch(parts.micro_batch);
        let [s0, s1] = config.fineness();
        Ok(Self {
            curriculum: Curriculum {
                s0,
                s1,
                mu0: config.mu0.unwrap_or(0.9),
                steps: config.curriculum_steps.unwrap_or(parts.steps),
            },
            teacher: learner.network().valid(),
            learner,
            loss: ConsistencyLoss {
                diffusion: parts.diffusion,
                distance: config.distance("l2", &parts.device)?,
                key: parts.key,
                device: parts.device,
            },
        })
    }
}

/// A pair of neighbours for every row, each pair of the grid of `levels` noise levels as likely, all of weight 1. `key` is the
/// step's.
///
/// # Errors
/// Those of the schedule's grid.
pub fn uniform_neighbours(
    schedule: &dyn NoiseSchedule,
    levels: usize,
    rows: usize,
    key: Key,
) -> Result<Vec<Neighbours>, ScheduleError> {
    // The last point is clean.
    let grid = schedule.grid(levels)?;
    let intervals = levels - 1;
    let key = key.stream(Stream::TIME);
    let pair = |row| {
        let i = ((key.uniform(row) * intervals as f64) as usize).min(intervals - 1);
        Neighbours { at: grid[i], next: grid[i + 1], weight: 1.0 }
    };
    Ok((0..rows as u64).map(pair).collect())
}

impl TrainStep for ConsistencyStep {
    fn step(&mut self, prepared: Prepared, step: u64) -> Result<StepReport, TrainError> {
        let rows = prepared.batch.index.len();
        let schedule = &*self.loss.diffusion.schedule;
        let neighbours =
            uniform_neighbours(schedule, self.curriculum.levels(step), rows, self.loss.key.step(step))?;
        // In training, so that it has the student's dropout.
        let teacher = self.teacher.clone().train().no_grad();
        let (losses, example) = (&self.loss, self.loss.example(prepared, step)?);
        let loss_of = |student: &Network, rows| {
            Ok(losses.loss_of(student, &teacher, &example, &neighbours, rows, step))
        };
        let (loss, gradient_norm) = self.learner.learn(example.rows(), step, loss_of)?;
        let decay = self.curriculum.decay(step);
        blend(&mut self.teacher, self.learner.network(), decay);
        Ok(StepReport { loss, gradient_norm, coupling: example.statistics, latents: None })
    }

    fn sampling_network(&self) -> &Network {
        self.learner.sampling_network()
    }

    fn learning_rate_at(&self, step: u64) -> f64 {
        self.learner.learning_rate_at(step)
    }

    fn save(&self, files: &mut Files) -> Result<(), TrainError> {
        files.write(TEACHER, &self.teacher.to_bytes()?)?;
        self.learner.save(files)
    }

    fn load(&mut self, folder: &Path) -> Result<(), TrainError> {
        self.teacher.load(&folder.join(TEACHER))?;
        self.learner.load(folder)
    }
}
