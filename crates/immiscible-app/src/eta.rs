//! How long a run still takes.

use std::time::Duration;

/// Times the steps of a run and what comes between them, which is drawn and saved far less often.
pub(crate) struct Eta {
    steps: u64,
    step: Mean,
    step_count: u64,
    grid: Pause,
    checkpoint: Pause,
}

impl Eta {
    /// Of a run of `steps` steps, with a grid and a checkpoint every so many and at the end.
    pub(crate) fn new(steps: u64, grid_every: u64, checkpoint_every: u64) -> Self {
        let pause = |every| Pause { every, took: Mean::new(0.5) };
        Self {
            steps,
            step: Mean::new(0.99),
            step_count: 0,
            grid: pause(grid_every),
            checkpoint: pause(checkpoint_every),
        }
    }

    /// A step took so long.
    pub(crate) fn step(&mut self, took: Duration) {
        // The first one finds caches cold, kernels not compiled and the loader's queue empty: the second takes its place.
        if self.step_count == 1 {
            self.step = Mean::new(self.step.decay);
        }
        self.step_count += 1;
        self.step.add(took);
    }

    /// Whether no step was taken yet.
    pub(crate) fn is_cold(&self) -> bool {
        self.step_count == 0
    }

    /// A grid took so long.
    pub(crate) fn grid(&mut self, took: Duration) {
        self.grid.took.add(took);
    }

    /// A checkpoint took so long.
    pub(crate) fn checkpoint(&mut self, took: Duration) {
        self.checkpoint.took.add(took);
    }

    /// Seconds of a step lately; 0 before the first.
    pub(crate) fn seconds_a_step(&self) -> f64 {
        self.step.seconds()
    }

    /// What is left after `step` steps, before the grid and the checkpoint that may follow. Grids and checkpoints count for as long as they took before, and for nothing until the
    /// first.
    pub(crate) fn left(&self, step: u64) -> Duration {
        let steps = self.steps.saturating_sub(step) as f64 * self.step.seconds();
        let pauses = [&self.grid, &self.checkpoint]
            .map(|pause| pause.left(step, self.steps) as f64 * pause.took.seconds());
        Duration::try_from_secs_f64(steps + pauses.iter().sum::<f64>()).unwrap_or(Duration::MAX)
    }
}

/// What happens every so many steps, and after the last.
struct Pause {
    every: u64,
    took: Mean,
}

impl Pause {
    fn left(&self, step: u64, steps: u64) -> u64 {
        steps.div_ceil(self.every).saturating_sub(step.saturating_sub(1) / self.every)
    }
}

/// A mean in which what comes later weighs more.
struct Mean {
    decay: f64,
    sum: f64,
    weights: f64,
}

impl Mean {
    fn new(decay: f64) -> Self {
        Self { decay, sum: 0.0, weights: 0.0 }
    }

    fn add(&mut self, took: Duration) {
        self.sum = self.decay * self.sum + took.as_secs_f64();
        self.weights = self.decay * self.weights + 1.0;
    }

    fn seconds(&self) -> f64 {
        if self.weights == 0.0 { 0.0 } else { self.sum / self.weights }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn left(eta: &Eta, step: u64) -> f64 {
        eta.left(step).as_secs_f64()
    }

    #[test]
    fn grids_and_checkpoints_that_are_to_come_are_counted() {
        let mut eta = Eta::new(1_050, 100, 500);
        assert_eq!(left(&eta, 0), 0.0);
        for _ in 0..50 {
            eta.step(seconds(0.5));
        }
        assert!((left(&eta, 50) - 500.0).abs() < 1e-6, "{}", left(&eta, 50));
        // Grids at 100, 200 … 1000 and 1050; checkpoints at 500, 1000 and 1050.
        eta.grid(seconds(60.0));
        eta.checkpoint(seconds(7.0));
        assert!((left(&eta, 50) - (500.0 + 11.0 * 60.0 + 3.0 * 7.0)).abs() < 1e-6, "{}", left(&eta, 50));
        assert!((left(&eta, 1_000) - (25.0 + 2.0 * 67.0)).abs() < 1e-6, "{}", left(&eta, 1_000));
        assert!((left(&eta, 1_001) - (24.5 + 67.0)).abs() < 1e-6, "{}", left(&eta, 1_001));
        // A step that took as long as a grid would be another estimate.
        assert!((eta.seconds_a_step() - 0.5).abs() < 1e-9);
    }

    #[test]
    fn a_run_that_goes_on_is_estimated_by_its_own_steps() {
        let mut eta = Eta::new(10_000, 20_000, 20_000);
        // The first step after a resume waits for everything, and says nothing of the others.
        eta.step(seconds(90.0));
        assert!(left(&eta, 9_001) > 80_000.0);
        eta.step(seconds(0.1));
        assert!((left(&eta, 9_002) - 99.8).abs() < 1e-6, "{}", left(&eta, 9_002));
        // Steps of a window, the first of which waits.
        let mut eta = Eta::new(2_000, 20_000, 20_000);
        (0..1_000).for_each(|step| eta.step(seconds(if step % 10 == 0 { 1.0 } else { 0.0 })));
        assert!((left(&eta, 1_000) - 100.0).abs() < 10.0, "{}", left(&eta, 1_000));
        // A machine that becomes twice as slow is believed after some hundred steps.
        (0..400).for_each(|_| eta.step(seconds(0.2)));
        assert!((left(&eta, 1_400) - 120.0).abs() < 3.0, "{}", left(&eta, 1_400));
    }

    #[test]
    fn after_the_last_step_there_are_a_grid_and_a_checkpoint() {
        let mut eta = Eta::new(100, 30, 50);
        eta.step(seconds(9.0));
        eta.grid(seconds(2.0));
        eta.checkpoint(seconds(1.0));
        assert!((left(&eta, 100) - 3.0).abs() < 1e-9, "{}", left(&eta, 100));
    }
}
