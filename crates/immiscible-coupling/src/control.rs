use crate::{
    Coupling, CouplingError, Draw, HostCoupling, Lookahead, PairContext, draw_through_host, read, upload,
};
use burn::tensor::Tensor;
use immiscible_random::{Key, Stream};
use ndarray::{Array2, ArrayView2, Axis};
use std::collections::BTreeMap;

/// What is done to noise after another coupling chose it, to tell apart what the coupling does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// ε ← −ε: the noise of an image still comes from one region of noise space, only the farthest in place of the nearest. The
    /// paper's control of "immiscible, but no optimal transport" (arXiv 2406.12303, Figure 7; that its flip is this change of
    /// sign is our reading).
    Flip,
    /// The noises of the batch change places at random, inside the context's groups: what remains is what the choice did to the
    /// noises' own distribution. Of an assignment nothing remains, so it must train as independent noise does.
    Shuffle,
}

/// A control: another coupling, and what is done to the noise after it.
pub struct Control {
    /// The coupling.
    pub inner: Box<dyn Coupling>,
    /// What is done to its noise.
    pub after: After,
}

impl Control {
    fn apply(
        &self,
        x0: ArrayView2<f32>,
        pairing: &PairContext,
        key: Key,
        chosen: Draw<Array2<f32>>,
    ) -> Result<Draw<Array2<f32>>, CouplingError> {
        let Draw { noise, statistics } = chosen;
        let noise = match self.after {
            After::Flip => -noise,
            After::Shuffle => noise.select(Axis(0), &places(x0.nrows(), pairing, key)?),
        };
        Draw::measured_since(x0, statistics.distance_before, noise, statistics.milliseconds)
    }
}

/// A random order of the rows, in which no row leaves its group.
fn places(rows: usize, pairing: &PairContext, key: Key) -> Result<Vec<usize>, CouplingError> {
    let order = key.stream(Stream::COUPLING).permutation(rows);
    let order = order.into_iter().map(|j| j as usize);
    let Some(group) = pairing.group else {
        return Ok(order.collect());
    };
    if group.len() != rows {
        return Err(CouplingError::ContextRows { what: "groups have", rows, found: group.len() });
    }
    let mut members = BTreeMap::<u32, Vec<usize>>::new();
    for j in order {
        members.entry(group[j]).or_default().push(j);
    }
    Ok(group.iter().filter_map(|group| members.get_mut(group)?.pop()).collect())
}

impl Coupling for Control {
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
        if self.inner.host().is_some() {
            return draw_through_host(self, x0, pairing, key);
        }
        let Draw { noise, statistics } = self.inner.draw(x0, pairing, key)?;
        let chosen = Draw { noise: read(&noise)?, statistics };
        let Draw { noise, statistics } = self.apply(read(x0)?.view(), pairing, key, chosen)?;
        Ok(Draw { noise: upload(noise, x0.dims(), &x0.device()), statistics })
    }

    fn host(&self) -> Option<&dyn HostCoupling> {
        self.inner.host().map(|_| self as &dyn HostCoupling)
    }
}

impl HostCoupling for Control {
    fn draw_host(
        &self,
        x0: ArrayView2<f32>,
        pairing: &PairContext,
        key: Key,
    ) -> Result<Draw<Array2<f32>>, CouplingError> {
        let Some(host) = self.inner.host() else {
            return Err(CouplingError::Device(format!("{} draws on a device only", self.inner.name())));
        };
        self.apply(x0, pairing, key, host.draw_host(x0, pairing, key)?)
    }

    /// Of a shuffle only: a window hands out the numbers of noises, which have no sign.
    fn lookahead(&self) -> Option<&dyn Lookahead> {
        let shuffles = self.after == After::Shuffle;
        self.inner.host()?.lookahead().filter(|_| shuffles).map(|_| self as &dyn Lookahead)
    }
}

impl Lookahead for Control {
    fn rows(&self) -> usize {
        self.inner.host().and_then(HostCoupling::lookahead).map_or(1, Lookahead::rows)
    }

    fn pair(
        &self,
        x0: ArrayView2<f32>,
        drawn: ArrayView2<f32>,
        pairing: &PairContext,
        key: Key,
    ) -> Result<Vec<u32>, CouplingError> {
        let noise_of = match self.inner.host().and_then(HostCoupling::lookahead) {
            Some(ahead) => ahead.pair(x0, drawn, pairing, key)?,
            None => (0..x0.nrows() as u32).collect(),
        };
        Ok(places(x0.nrows(), pairing, key)?.into_iter().map(|j| noise_of[j]).collect())
    }
}
