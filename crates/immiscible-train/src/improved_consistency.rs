use crate::{
    ConsistencyLoss, Files, MethodConfig, MethodParts, Neighbours, Prepared, StepReport, TrainError,
    TrainStep, learner::Learner,
};
use burn::module::Module;
use immiscible_models::Network;
use immiscible_random::{Key, Stream};
use immiscible_schedule::{NoiseSchedule, ScheduleError};
use std::path::Path;

/// Improved consistency training (Song & Dhariwal 2024, arXiv 2310.14189): f at one noise level learns from itself at the next
/// lower one. The grid doubles now and then, and small steps of noise weigh more. It needs no perceptual distance.
pub struct ImprovedConsistencyStep {
    loss: ConsistencyLoss,
    curriculum: DoublingCurriculum,
    noise_levels: LogNormal,
    learner: Learner,
}

/// How fine the grid is at every step (§3.4).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DoublingCurriculum {
    /// s₀ ≥ 1: one less than the noise levels at the beginning.
    pub s0: u64,
    /// s₁ ≥ s₀: one less than the noise levels at the end.
    pub s1: u64,
    /// K ≥ 1.
    pub steps: u64,
}

impl DoublingCurriculum {
    /// N(k) = min(s₀ 2^⌊k/K′⌋, s₁) + 1 with K′ = ⌊K/(log₂⌊s₁/s₀⌋ + 1)⌋: the number of noise levels at step k.
    pub fn levels(&self, step: u64) -> usize {
        let doublings = ((self.s1 / self.s0) as f64).log2();
        let between = ((self.steps as f64 / (doublings + 1.0)) as u64).max(1);
        let doubled = (step / between).min(63) as u32;
        let intervals = u128::from(self.s0) << doubled;
        intervals.min(self.s1.into()) as usize + 1
    }
}

/// ln σ ~ N(mean, std²): which noise levels are compared (§3.5).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogNormal {
    /// P_mean.
    pub mean: f64,
    /// P_std > 0.
    pub std: f64,
}

/// Draws for a row, of which the first inside the grid is taken. Where [`LogNormal::validate`] passes, at least every second is.
const DRAWS: usize = 64;

/// Half of what is standard normal lies within ± this.
const QUARTILE: f64 = 0.674_489_750_196_081_7;

impl LogNormal {
    /// # Errors
    /// [`TrainError::Conflict`] unless the middle half of the distribution lies inside the schedule's noise levels.
    pub fn validate(&self, schedule: &dyn NoiseSchedule) -> Result<(), TrainError> {
        let grid = schedule.grid(2)?;
        let [most, least] = [grid[0].sigma, grid[1].sigma];
        let outside = [
            (self.mean - QUARTILE * self.std < least.ln(), "schedule.sigma_min", least),
            (self.mean + QUARTILE * self.std > most.ln(), "schedule.sigma_max", most),
        ];
        match outside.into_iter().find(|(outside, ..)| *outside) {
            Some((_, other, level)) => Err(TrainError::Conflict {
                key: "method.p_mean",
                value: format!("{} (method.p_std = {})", self.mean, self.std),
                other,
                // Without the rounding of the grid.
                other_value: (level as f32).to_string(),
                remedy: "p_mean ± 0.675 p_std, between which half of all ln σ lie, must lie between the logarithms of the \
                         schedule's noise levels",
            }),
            None => Ok(()),
        }
    }

    /// A pair of neighbours for every row, of weight 1/(t − t′). `key` is the step's.
    ///
    /// The pair around a log-normal draw: that is the paper's distribution over the pairs, whose probabilities are the
    /// normal ones of the intervals. A row whose draws all lie outside the grid, as 1 in 2⁶⁴ does at most if the distribution
    /// is [valid](Self::validate), gets the pair at the end that its last draw is beyond. `levels` is at least 2.
    ///
    /// # Errors
    /// Those of the schedule's grid.
    pub fn neighbours(
        &self,
        schedule: &dyn NoiseSchedule,
        levels: usize,
        rows: usize,
        key: Key,
    ) -> Result<Vec<Neighbours>, ScheduleError> {
        // From the noisiest to the least noisy; the last point is clean.
        let grid = &schedule.grid(levels)?[..levels];
        let mut normals = vec![0.0; rows * DRAWS];
        key.stream(Stream::TIME).fill_normals(0, DRAWS, &mut normals);
        let pair = |draws: &[f32]| {
            let level = |z: &f32| (self.mean + self.std * f64::from(*z)).exp();
            let inside = |sigma: &f64| grid[grid.len() - 1].sigma <= *sigma && *sigma < grid[0].sigma;
            let sigma = draws.iter().map(level).find(inside).unwrap_or_else(|| level(&draws[DRAWS - 1]));
            let above = grid.partition_point(|point| point.sigma > sigma).clamp(1, grid.len() - 1);
            let (at, next) = (grid[above - 1], grid[above]);
            Neighbours { at, next, weight: 1.0 / (at.sigma - next.sigma) }
        };
        Ok(normals.chunks_exact(DRAWS).map(pair).collect())
    }
}

impl ImprovedConsistencyStep {
    /// Starts from the network of the parts.
    ///
    /// # Errors
    /// When an option is outside its range, or the noise levels to compare are not those of the schedule.
    pub fn new(config: &MethodConfig, parts: MethodParts) -> Result<Self, TrainError> {
        let [s0, s1] = config.fineness();
        let noise_levels = config.noise_levels();
        noise_levels.validate(&*parts.diffusion.schedule)?;
        Ok(Self {
            curriculum: DoublingCurriculum { s0, s1, steps: config.curriculum_steps.unwrap_or(parts.steps) },
            noise_levels,
            learner: Learner::new(parts.network, &parts.optimizer, &parts.ema)?
                .with_micro_batch(parts.micro_batch),
            loss: ConsistencyLoss {
                diffusion: parts.diffusion,
                distance: config.distance("pseudo_huber", &parts.device)?,
                key: parts.key,
                device: parts.device,
            },
        })
    }
}

impl TrainStep for ImprovedConsistencyStep {
    fn step(&mut self, prepared: Prepared, step: u64) -> Result<StepReport, TrainError> {
        let rows = prepared.batch.index.len();
        let (schedule, levels) = (&*self.loss.diffusion.schedule, self.curriculum.levels(step));
        let neighbours = self.noise_levels.neighbours(schedule, levels, rows, self.loss.key.step(step))?;
        // θ⁻ is θ without a gradient.
        let teacher = self.learner.network().clone().no_grad();
        let (losses, example) = (&self.loss, self.loss.example(prepared, step)?);
        let loss_of = |student: &Network, rows| {
            Ok(losses.loss_of(student, &teacher, &example, &neighbours, rows, step))
        };
        let (loss, gradient_norm) = self.learner.learn(example.rows(), step, loss_of)?;
        Ok(StepReport { loss, gradient_norm, coupling: example.statistics, latents: None })
    }

    fn sampling_network(&self) -> &Network {
        self.learner.sampling_network()
    }

    fn learning_rate_at(&self, step: u64) -> f64 {
        self.learner.learning_rate_at(step)
    }

    fn save(&self, files: &mut Files) -> Result<(), TrainError> {
        self.learner.save(files)
    }

    fn load(&mut self, folder: &Path) -> Result<(), TrainError> {
        self.learner.load(folder)
    }
}
