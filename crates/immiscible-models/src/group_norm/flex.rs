//! The norm on Burn's CPU backend.

use super::fused::{self, Layer};
use crate::flex::{self, Values, slice, tensor};
use crate::resnet::ActFn;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
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
    let there = norm.gamma.is_some() && norm.beta.is_some() && shape.iter().all(|&size| size > 0);
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
    let [gamma, beta] =
        [&norm.gamma, &norm.beta].map(|it| it.as_ref().expect("a layer has γ and β").val().into_dispatch());
    Tensor::from_dispatch(<Dispatch as Norm>::norm(x.into_dispatch(), gamma, beta, layer))
}

#[backend_extension(Flex, Autodiff)]
trait Norm: Backend {
    fn norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        layer: Layer,
    ) -> FloatTensor<Self>;
}

impl Norm for Flex {
    fn norm(x: Values, gamma: Values, beta: Values, layer: Layer) -> Values {
        let [x, gamma, beta] = [x, gamma, beta].map(|it| it.to_contiguous());
        tensor(fused::forward(slice(&x), slice(&gamma), slice(&beta), &layer), layer.shape)
    }
}

/// The gradients by `x`, γ and β.
#[derive(Debug)]
struct Gradient;

impl Backward<Flex, 3> for Gradient {
    type State = ([NodeId; 3], Layer);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (inputs, layer) = ops.state;
        let [x, gamma, beta] =
            inputs.map(|it| checkpointer.retrieve_node_output::<Values>(it).to_contiguous());
        let gradient = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let by = fused::backward(slice(&x), slice(&gamma), slice(&beta), slice(&gradient), &layer);
        let channels = [layer.shape[1]];
        let all = [tensor(by.x, layer.shape), tensor(by.gamma, channels), tensor(by.beta, channels)];
        for (node, by) in ops.parents.iter().zip(all) {
            if let Some(node) = node {
                gradients.register::<Flex>(node.id, by);
            }
        }
    }
}

impl<C: CheckpointStrategy> Norm for Autodiff<Flex, C> {
    fn norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        layer: Layer,
    ) -> FloatTensor<Self> {
        let inputs = [x, gamma, beta];
        let prepared = Gradient.prepare::<C>(inputs.each_ref().map(|it| it.node()));
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(mut prepared) => {
                let state = (inputs.each_ref().map(|it| prepared.checkpoint(it)), layer);
                let [x, gamma, beta] = inputs.map(|it| it.into_primitive());
                prepared.finish(state, Flex::norm(x, gamma, beta, layer))
            }
            OpsKind::UnTracked(prepared) => {
                let [x, gamma, beta] = inputs.map(|it| it.into_primitive());
                prepared.finish(Flex::norm(x, gamma, beta, layer))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flex::tests::with_gradients;
    use burn::module::Param;
    use burn::nn::GroupNormConfig;
    use burn::tensor::{Device, Distribution, Tolerance};

    #[test]
    fn values_and_gradients_are_those_of_the_backend() {
        for device in [Device::flex().autodiff(), Device::flex().autodiff().gradient_checkpointing()] {
            for (shape, groups) in
                [([3, 8, 16, 16], 4), ([2, 6, 5, 3], 2), ([1, 4, 1, 1], 1), ([2, 64, 4, 4], 32)]
            {
                for act in [None, Some(ActFn::Silu)] {
                    let channels = shape[1];
                    let uniform = |low, high| {
                        let range = Distribution::Uniform(low, high);
                        Param::from_tensor(Tensor::<1>::random([channels], range, &device))
                    };
                    let mut norm = GroupNormConfig::new(groups, channels).with_epsilon(1e-4).init(&device);
                    (norm.gamma, norm.beta) = (Some(uniform(0.5, 1.5)), Some(uniform(-1.0, 1.0)));
                    let parameters = || [&norm.gamma, &norm.beta].map(|it| it.as_ref().unwrap().val());
                    let x = Tensor::random(shape, Distribution::Normal(3.0, 2.0), &device);
                    let layer = layer(&norm, &x, act).unwrap();
                    let found = with_gradients(x.clone(), |x| normalize(&norm, x, layer), &parameters(), &[]);
                    let expected = with_gradients(
                        x,
                        |x| {
                            let y = norm.forward(x);
                            if layer.silu { ActFn::Silu.forward(y) } else { y }
                        },
                        &parameters(),
                        &[],
                    );
                    for (found, expected) in found.iter().zip(&expected) {
                        found.assert_approx_eq::<f32>(expected, Tolerance::rel_abs(1e-4, 1e-4));
                    }
                }
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
