//! Operations of our own on Burn's CPU backend, with their gradients.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::retro_forward::RetroForward;
use burn::backend::autodiff::checkpoint::state::BackwardStates;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, DispatchDevice, Flex, backend_extension};
use burn::module::Param;
use burn::tensor::{DType, Tensor, TensorData};
use std::fmt::Debug;
use std::sync::Arc;

/// A tensor of the CPU.
pub(crate) type Values = FloatTensor<Flex>;

/// An operation of `N` tensors of single precision, each in the order of its dimensions.
pub(crate) trait Operation<const N: usize>: Debug + Send + Sync + 'static {
    /// Whether gradient checkpointing computes the output again rather than keep it.
    fn is_cheap(&self) -> bool;

    fn forward(&self, inputs: [&Values; N]) -> Values;

    /// The gradients of a loss by the inputs, or at least by those that are `wanted`; `gradient` is that by the output.
    fn backward(&self, inputs: [&Values; N], gradient: &Values, wanted: [bool; N]) -> [Option<Values>; N];
}

/// Whether `x` is on the CPU and of single precision.
pub(crate) fn has<const D: usize>(x: &Tensor<D>) -> bool {
    let on_the_cpu = match x.device().as_dispatch() {
        DispatchDevice::Flex(_) => true,
        DispatchDevice::Autodiff(device) => matches!(**device, DispatchDevice::Flex(_)),
        #[allow(unreachable_patterns, reason = "there may be no other device")]
        _ => false,
    };
    on_the_cpu && x.dtype() == DType::F32
}

/// Applies an operation to a tensor that the CPU [`has`].
pub(crate) fn apply_to_one<const D: usize>(operation: impl Operation<1>, x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as Apply>::to_one(x.into_dispatch(), Arc::new(operation)))
}

/// Applies an operation to tensors that the CPU [`has`].
pub(crate) fn apply<const A: usize, const B: usize, const C: usize, const D: usize>(
    operation: impl Operation<3>,
    (a, b, c): (Tensor<A>, Tensor<B>, Tensor<C>),
) -> Tensor<D> {
    let [a, b, c] = [a.into_dispatch(), b.into_dispatch(), c.into_dispatch()];
    Tensor::from_dispatch(<Dispatch as Apply>::to_three(a, b, c, Arc::new(operation)))
}

/// The bias of a layer of `len` outputs, or zeros where it has none.
pub(crate) fn bias<const D: usize>(bias: Option<&Param<Tensor<1>>>, len: usize, x: &Tensor<D>) -> Tensor<1> {
    bias.map_or_else(|| Tensor::zeros([len], &x.device().inner()), |bias| bias.val())
}

pub(crate) fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Values {
    Values::from_data(TensorData::new(values, shape))
}

/// The values of an input of an [`Operation`].
///
/// # Panics
/// Where they are not in the order of their dimensions, or not of single precision.
pub(crate) fn slice(tensor: &Values) -> &[f32] {
    tensor.as_slice().expect("values of single precision, made contiguous")
}

#[backend_extension(Flex, Autodiff)]
trait Apply: Backend {
    fn to_one(x: FloatTensor<Self>, operation: Arc<dyn Operation<1>>) -> FloatTensor<Self>;

    fn to_three(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        operation: Arc<dyn Operation<3>>,
    ) -> FloatTensor<Self>;
}

impl Apply for Flex {
    fn to_one(x: Values, operation: Arc<dyn Operation<1>>) -> Values {
        forward(&*operation, [x])
    }

    fn to_three(a: Values, b: Values, c: Values, operation: Arc<dyn Operation<3>>) -> Values {
        forward(&*operation, [a, b, c])
    }
}

impl<S: CheckpointStrategy> Apply for Autodiff<Flex, S> {
    fn to_one(x: FloatTensor<Self>, operation: Arc<dyn Operation<1>>) -> FloatTensor<Self> {
        tracked::<S, 1>([x], operation)
    }

    fn to_three(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        operation: Arc<dyn Operation<3>>,
    ) -> FloatTensor<Self> {
        tracked::<S, 3>([a, b, c], operation)
    }
}

fn forward<const N: usize>(operation: &dyn Operation<N>, inputs: [Values; N]) -> Values {
    let inputs = inputs.map(|it| it.to_contiguous());
    in_the_pool(|| operation.forward(inputs.each_ref()))
}

/// Runs an operation on a thread of the rayon pool. From another one each of its loops would wake the pool and be waited for, which
/// takes longer than the loops of a small network.
fn in_the_pool<T: Send>(operation: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| operation())
}

/// The forward pass, with what is needed for the backward pass.
fn tracked<S: CheckpointStrategy, const N: usize>(
    inputs: [FloatTensor<Autodiff<Flex, S>>; N],
    operation: Arc<dyn Operation<N>>,
) -> FloatTensor<Autodiff<Flex, S>> {
    let prepared = Differentiated.prepare::<S>(inputs.each_ref().map(|it| it.node()));
    let prepared = if operation.is_cheap() {
        let again = Again { inputs: inputs.each_ref().map(|it| it.id()), operation: operation.clone() };
        prepared.memory_bound().retro_forward(again).parents(&inputs)
    } else {
        prepared.compute_bound()
    };
    match prepared.stateful() {
        OpsKind::Tracked(mut prepared) => {
            let state = (inputs.each_ref().map(|it| prepared.checkpoint(it)), operation.clone());
            prepared.finish(state, forward(&*operation, inputs.map(|it| it.into_primitive())))
        }
        OpsKind::UnTracked(prepared) => {
            prepared.finish(forward(&*operation, inputs.map(|it| it.into_primitive())))
        }
    }
}

/// The forward pass of an [`Operation`] once more, during the backward pass.
#[derive(Debug)]
struct Again<const N: usize> {
    inputs: [NodeId; N],
    operation: Arc<dyn Operation<N>>,
}

impl<const N: usize> RetroForward for Again<N> {
    fn forward(&self, states: &mut BackwardStates, out: NodeId) {
        let inputs = self.inputs.each_ref().map(|input| states.get_state::<Values>(input));
        states.save(out, forward(&*self.operation, inputs));
    }
}

/// The backward pass of an [`Operation`], for which its inputs are kept.
#[derive(Debug)]
struct Differentiated;

impl<const N: usize> Backward<Flex, N> for Differentiated {
    type State = ([NodeId; N], Arc<dyn Operation<N>>);

    fn backward(self, ops: Ops<Self::State, N>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (inputs, operation) = ops.state;
        let inputs = inputs.map(|it| checkpointer.retrieve_node_output::<Values>(it).to_contiguous());
        let gradient = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let all = in_the_pool(|| operation.backward(inputs.each_ref(), &gradient, wanted));
        for (node, by) in ops.parents.iter().zip(all) {
            if let (Some(node), Some(by)) = (node, by) {
                gradients.register::<Flex>(node.id, by);
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use burn::tensor::{Device, Distribution, Int, Tolerance};

    /// The output, and the gradients by all inputs of a loss in which no two values count the same.
    fn with_gradients<const A: usize, const B: usize, const C: usize, const D: usize>(
        inputs: &(TensorData, TensorData, TensorData),
        device: &Device,
        apply: impl Fn(Tensor<A>, Tensor<B>, Tensor<C>) -> Tensor<D>,
    ) -> [TensorData; 4] {
        let a = Tensor::<A>::from_data(inputs.0.clone(), device).require_grad();
        let b = Tensor::<B>::from_data(inputs.1.clone(), device).require_grad();
        let c = Tensor::<C>::from_data(inputs.2.clone(), device).require_grad();
        // What follows another operation is not in the order of its dimensions, or is computed again for the gradients.
        let out =
            apply(a.clone().swap_dims(0, 1).exp().swap_dims(0, 1).mul_scalar(0.5), b.clone(), c.clone());
        let weights = Tensor::<1, Int>::arange(0..out.shape().num_elements() as i64, device);
        let weights = weights.float().mul_scalar(0.7).sin().reshape(out.dims());
        // The sine is one that needs the output for its gradient.
        let gradients = (out.clone().mul_scalar(0.02).sin() * weights).sum().backward();
        let by = (a.grad(&gradients).unwrap(), b.grad(&gradients).unwrap(), c.grad(&gradients).unwrap());
        [out.into_data(), by.0.into_data(), by.1.into_data(), by.2.into_data()]
    }

    /// Compares an operation with what Burn makes of the same inputs.
    pub(crate) fn agree<const A: usize, const B: usize, const C: usize, const D: usize>(
        shapes: ([usize; A], [usize; B], [usize; C]),
        ours: impl Fn(Tensor<A>, Tensor<B>, Tensor<C>) -> Tensor<D>,
        theirs: impl Fn(Tensor<A>, Tensor<B>, Tensor<C>) -> Tensor<D>,
    ) {
        fn random<const D: usize>(shape: [usize; D]) -> TensorData {
            Tensor::<D>::random(shape, Distribution::Normal(0.3, 1.0), &Device::flex()).into_data()
        }
        let inputs = (random(shapes.0), random(shapes.1), random(shapes.2));
        let expected = with_gradients(&inputs, &Device::flex().autodiff(), theirs);
        for device in [Device::flex().autodiff(), Device::flex().autodiff().gradient_checkpointing()] {
            for (found, expected) in with_gradients(&inputs, &device, &ours).iter().zip(&expected) {
                found.assert_approx_eq::<f32>(expected, Tolerance::rel_abs(2e-4, 2e-4));
            }
        }
    }
}
