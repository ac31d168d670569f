use crate::{
    Diffusion, Distance, Prepared, TrainError,
    diffusion::{Example, dropout_seed},
};
use burn::tensor::{Device, Tensor, TensorData};
use immiscible_coupling::Statistics;
use immiscible_models::{Denoiser, TimeInput};
use immiscible_random::Key;
use immiscible_schedule::{ForwardCondition, Point, Times};
use std::ops::Range;

/// Two neighbouring noise levels of one sample, and what their comparison weighs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbours {
    /// t, the noisier one.
    pub at: Point,
    /// t′ < t.
    pub next: Point,
    /// λ.
    pub weight: f64,
}

/// λ(t) d(f(x + t ε, t), f⁻(x + t′ ε, t′)): what both ways of consistency training make small (Song et al. 2023, arXiv
/// 2303.01469, eq. 10). The same coupled noise ε leads to both points, which lie on one trajectory therefore.
pub struct ConsistencyLoss {
    /// Its objective reads outputs as f.
    pub diffusion: Diffusion,
    /// d.
    pub distance: Distance,
    /// The run's key.
    pub key: Key,
    /// A plain device; the networks may live on its autodiff side.
    pub device: Device,
}

impl ConsistencyLoss {
    /// The mean over the batch, `[1]`, and what the coupling did. No gradient reaches `teacher`.
    ///
    /// Where a network has dropout both see the same mask, if both are in training.
    ///
    /// # Errors
    /// When the coupling refuses the batch.
    ///
    /// # Panics
    /// Unless there is one pair of `neighbours` for every row.
    pub fn loss(
        &self,
        student: &impl Denoiser,
        teacher: &impl Denoiser,
        prepared: Prepared,
        neighbours: &[Neighbours],
        step: u64,
    ) -> Result<(Tensor<1>, Statistics), TrainError> {
        let example = self.example(prepared, step)?;
        let loss = self.loss_of(student, teacher, &example, neighbours, 0..example.rows(), step);
        Ok((loss, example.statistics))
    }

    /// A batch with its coupled noise.
    pub(crate) fn example(&self, prepared: Prepared, step: u64) -> Result<Example, TrainError> {
        self.diffusion.example(prepared, self.key.step(step), step, &self.device)
    }

    /// The mean loss of some rows of a batch, `[1]`.
    pub(crate) fn loss_of(
        &self,
        student: &impl Denoiser,
        teacher: &impl Denoiser,
        example: &Example,
        neighbours: &[Neighbours],
        rows: Range<usize>,
        step: u64,
    ) -> Tensor<1> {
        assert_eq!(neighbours.len(), example.rows(), "one pair of noise levels for every row");
        let (example, neighbours) = (example.part(rows.clone()), &neighbours[rows.clone()]);
        let seed = dropout_seed(self.key.step(step), &rows);
        let points =
            |point: fn(&Neighbours) -> Point| neighbours.iter().map(point).collect::<Vec<_>>().into();
        let end = self.end(student, &example, &points(|pair| pair.at), seed);
        // Outside any graph, for the two networks may keep theirs in different ways.
        let wanted = plain(self.end(teacher, &example, &points(|pair| pair.next), seed));
        let weights: Vec<f32> = neighbours.iter().map(|pair| pair.weight as f32).collect();
        let weights = Tensor::from_data(TensorData::new(weights, [neighbours.len()]), &self.device);
        ((self.distance)(end, wanted) * weights).mean()
    }

    /// f(x + t ε, t)
    fn end(&self, network: &impl Denoiser, example: &Example, times: &Times, seed: u64) -> Tensor<4> {
        let Diffusion { schedule, objective, .. } = &self.diffusion;
        let levels = times.levels(&self.device);
        let x_t = schedule.add_noise(&example.x0, &example.noise, &levels, &ForwardCondition::default());
        let numbers: Vec<f32> = times.points().iter().map(|point| objective.network_time(*point)).collect();
        let time = TimeInput::of(&numbers, &self.device);
        let input = objective.network_input(x_t.clone(), &levels);
        // Dropout draws from the device's generator, right after this.
        self.device.seed(seed);
        let output = network.forward(input, time, &example.condition, self.diffusion.ctx()).pred;
        objective.read(output, &x_t, &levels).x0
    }
}

fn plain(tensor: Tensor<4>) -> Tensor<4> {
    if tensor.is_autodiff() { tensor.inner() } else { tensor }
}
