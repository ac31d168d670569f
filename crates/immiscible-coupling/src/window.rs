use crate::{
    Assignment, Compared, Costs, Coupling, CouplingError, Draw, HostCoupling, Independent, Lookahead,
    PairContext,
};
use burn::tensor::Tensor;
use immiscible_random::Key;
use ndarray::{Array2, ArrayView2};

/// Linear assignment over the rows of many coming batches, which get as many fresh noises: the more there are to choose from,
/// the nearer is the noise of every image (Zhang et al. 2025, arXiv 2506.05526; Boïté et al. 2026, arXiv 2605.12174).
///
/// As with the assignment of a batch the noises stay those that were drawn, and inside labels they stay independent of the label.
/// A window of one batch is [`Assignment`]. Where nobody looks ahead, [`draw`](Coupling::draw) pairs the batch that it is given.
pub struct Window {
    /// How a window's rows and noises are paired; its pool is 1, as every row has one noise.
    pub assignment: Assignment,
    /// Rows of a window: a multiple of the batch size, or 1, with which nothing is paired.
    pub rows: usize,
}

impl Coupling for Window {
    fn name(&self) -> &'static str {
        "window"
    }

    fn exact_marginal(&self) -> bool {
        true
    }

    fn host(&self) -> Option<&dyn HostCoupling> {
        Some(self)
    }

    fn compare(
        &self,
        x0: &Tensor<4>,
        pairing: &PairContext,
        key: Key,
    ) -> Result<Option<(Compared, Costs)>, CouplingError> {
        match self.rows {
            1 => Ok(None),
            _ => self.assignment.compare(x0, pairing, key),
        }
    }
}

impl HostCoupling for Window {
    fn draw_host(
        &self,
        x0: ArrayView2<f32>,
        pairing: &PairContext,
        key: Key,
    ) -> Result<Draw<Array2<f32>>, CouplingError> {
        match self.rows {
            1 => Independent.draw_host(x0, pairing, key),
            _ => self.assignment.draw_host(x0, pairing, key),
        }
    }

    fn lookahead(&self) -> Option<&dyn Lookahead> {
        (self.rows > 1).then_some(self)
    }
}

impl Lookahead for Window {
    fn rows(&self) -> usize {
        self.rows
    }

    fn pair(
        &self,
        x0: ArrayView2<f32>,
        drawn: ArrayView2<f32>,
        pairing: &PairContext,
        _key: Key,
    ) -> Result<Vec<u32>, CouplingError> {
        self.assignment.choose(x0, drawn, pairing)
    }
}
