use crate::{
    Compared, Costs, Coupling, CouplingError, Draw, HostCoupling, Independent, Lookahead, PairContext,
};
use burn::tensor::Tensor;
use immiscible_random::{Key, Stream};
use ndarray::{Array2, ArrayView2};

/// Another coupling in some steps only, and independent noise in the others. A window is coupled or not as a whole, by its first
/// step.
pub struct Sometimes {
    /// The coupling.
    pub inner: Box<dyn Coupling>,
    /// Probability in [0, 1] that a step is coupled.
    pub probability: f64,
    /// Steps at the beginning that are never coupled. Coupled from the beginning, a network can favour the modes that it
    /// meets first (Immiscible Diffusion Policy).
    pub warmup: u64,
}

impl Sometimes {
    fn ahead(&self) -> Option<&dyn Lookahead> {
        self.inner.host()?.lookahead()
    }

    fn couples(&self, key: Key) -> bool {
        key.at_step() >= self.warmup && key.stream(Stream::COUPLING).uniform(1) < self.probability
    }
}

impl Coupling for Sometimes {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn exact_marginal(&self) -> bool {
        self.inner.exact_marginal()
    }

    fn needs_data(&self) -> bool {
        self.inner.needs_data()
    }

    fn fit(&mut self, x0: ArrayView2<f32>, labels: Option<&[u32]>) -> Result<(), CouplingError> {
        self.inner.fit(x0, labels)
    }

    fn draw(
        &self,
        x0: &Tensor<4>,
        pairing: &PairContext,
        key: Key,
    ) -> Result<Draw<Tensor<4>>, CouplingError> {
        if self.couples(key) { self.inner.draw(x0, pairing, key) } else { Independent.draw(x0, pairing, key) }
    }

    fn host(&self) -> Option<&dyn HostCoupling> {
        self.inner.host().map(|_| self as &dyn HostCoupling)
    }

    fn compare(
        &self,
        x0: &Tensor<4>,
        pairing: &PairContext,
        key: Key,
    ) -> Result<Option<(Compared, Costs)>, CouplingError> {
        if self.couples(key) { self.inner.compare(x0, pairing, key) } else { Ok(None) }
    }
}

impl HostCoupling for Sometimes {
    fn draw_host(
        &self,
        x0: ArrayView2<f32>,
        pairing: &PairContext,
        key: Key,
    ) -> Result<Draw<Array2<f32>>, CouplingError> {
        match self.inner.host() {
            Some(host) if self.couples(key) => host.draw_host(x0, pairing, key),
            _ => Independent.draw_host(x0, pairing, key),
        }
    }

    fn lookahead(&self) -> Option<&dyn Lookahead> {
        self.ahead().map(|_| self as &dyn Lookahead)
    }
}

impl Lookahead for Sometimes {
    fn rows(&self) -> usize {
        self.ahead().map_or(1, Lookahead::rows)
    }

    fn pair(
        &self,
        x0: ArrayView2<f32>,
        drawn: ArrayView2<f32>,
        pairing: &PairContext,
        key: Key,
    ) -> Result<Vec<u32>, CouplingError> {
        match self.ahead() {
            Some(ahead) if self.couples(key) => ahead.pair(x0, drawn, pairing, key),
            _ => Ok((0..x0.nrows() as u32).collect()),
        }
    }
}
