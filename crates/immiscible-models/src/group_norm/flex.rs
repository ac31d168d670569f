//! The norm on Burn's CPU backend.

use super::fused::{self, Layer};
use crate::flex::{self, Operation, Values, slice, tensor};
use crate::resnet::ActFn;
use burn::nn::GroupNorm;
use burn::tensor::Tensor;

/// What `norm` and `act` do with `x`, if that is on the CPU and of a kind that is done here.
pub(super) fn layer(norm: &GroupNorm, x: &Tensor<4>, act: Option<ActFn>) -> Option<Layer> {
    let silu = match act {
        None => false,
        Some(ActFn::Silu | ActFn::Swish) => true,
        Some(_) => return None,
    };
    let shape = x.dims();
    let weights = [norm.gamma.as_ref()?, norm.beta.as_ref()?];
    let there = weights.iter().all(|it| flex::has(&it.val())) && shape.iter().all(|&size| size > 0);
    (flex::has(x) && there && shape[1] == norm.num_channels).then_some(Layer {
        shape,
        groups: norm.num_groups,
        epsilon: norm.epsilon as f32,
        silu,
    })
}

/// The norm on the CPU.
///
/// # Panics
/// Where the norm has no γ and β, for which there is no [`Layer`].
pub(super) fn normalize(norm: &GroupNorm, x: Tensor<4>, layer: Layer) -> Tensor<4> {
    let [gamma, beta] = [&norm.gamma, &norm.beta].map(|it| it.as_ref().expect("a layer has γ and β").val());
    flex::apply(layer, (x, gamma, beta))
}

impl Operation<3> for Layer {
    fn is_cheap(&self) -> bool {
        true
    }

    fn forward(&self, [x, gamma, beta]: [&Values; 3]) -> Values {
        tensor(fused::forward(slice(x), slice(gamma), slice(beta), self), self.shape)
    }

    fn backward(
        &self,
        [x, gamma, beta]: [&Values; 3],
        gradient: &Values,
        _: [bool; 3],
    ) -> [Option<Values>; 3] {
        let by = fused::backward(slice(x), slice(gamma), slice(beta), slice(gradient), self);
        let of_channels = |values| Some(tensor(values, [self.shape[1]]));
        [Some(tensor(by.x, self.shape)), of_channels(by.gamma), of_channels(by.beta)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flex::tests::agree;
    use burn::module::Param;
    use burn::nn::GroupNormConfig;
    use burn::tensor::Device;

    #[test]
    fn values_and_gradients_are_those_of_the_backend() {
        for (shape, groups) in
            [([3, 8, 16, 16], 4), ([2, 6, 5, 3], 2), ([1, 4, 1, 1], 1), ([2, 64, 4, 4], 32)]
        {
            for act in [None, Some(ActFn::Silu)] {
                let channels = shape[1];
                let with = |gamma: Tensor<1>, beta: Tensor<1>| {
                    let config = GroupNormConfig::new(groups, channels).with_epsilon(1e-2);
                    let mut norm = config.init(&Device::flex());
                    // As they are, with what they are computed from.
                    norm.gamma = norm.gamma.map(|old| Param::initialized(old.id, gamma));
                    norm.beta = norm.beta.map(|old| Param::initialized(old.id, beta));
                    norm
                };
                let ours = |x: Tensor<4>, gamma, beta| {
                    let norm = with(gamma, beta);
                    let layer = layer(&norm, &x, act).unwrap();
                    normalize(&norm, x, layer)
                };
                let theirs = |x: Tensor<4>, gamma, beta| {
                    let y = with(gamma, beta).forward(x);
                    match act {
                        Some(act) => act.forward(y),
                        None => y,
                    }
                };
                agree((shape, [channels], [channels]), ours, theirs);
            }
        }
    }

    #[test]
    fn other_activations_are_left_to_the_backend() {
        let norm = GroupNormConfig::new(2, 4).init(&Device::flex());
        let x = Tensor::<4>::zeros([1, 4, 2, 2], &Device::flex());
        assert!(layer(&norm, &x, Some(ActFn::Mish)).is_none());
        assert!(layer(&norm, &x, Some(ActFn::Swish)).is_some());
    }
}
