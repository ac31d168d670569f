use crate::group_norm::Normalize;
use crate::linear::Project;
use crate::scaled_dot_product::scaled_dot_product;
use burn::module::Module;
use burn::nn::{Dropout, GroupNorm, Linear};
use burn::tensor::Tensor;

/// Multi-head attention over a sequence (Vaswani et al. 2017, §3.2), with a group norm before it in
/// unconditional UNets.
#[derive(Module, Debug)]
pub(crate) struct Attention {
    pub(crate) group_norm: Option<GroupNorm>,
    pub(crate) to_q: Linear,
    pub(crate) to_k: Linear,
    pub(crate) to_v: Linear,
    pub(crate) to_out: (Linear, Dropout),
    pub(crate) heads: usize,
}

impl Attention {
    /// # Shapes
    /// `[B, N, D]` → `[B, N, D]`
    pub(crate) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.cross(x.clone(), x)
    }

    /// Attention of one sequence to another.
    ///
    /// # Shapes
    /// `x`: `[B, N, D]`, `context`: `[B, M, E]` → `[B, N, D]`
    pub(crate) fn cross(&self, x: Tensor<3>, context: Tensor<3>) -> Tensor<3> {
        let q = self.to_q.project(x);
        let (k, v) = (self.to_k.project(context.clone()), self.to_v.project(context));
        let y = scaled_dot_product(q, k, v, self.heads);
        self.to_out.1.forward(self.to_out.0.project(y))
    }

    /// Attention between the pixels of feature maps, with a residual connection.
    ///
    /// # Shapes
    /// `[B, C, H, W]` → `[B, C, H, W]`
    pub(crate) fn forward_map(&self, x: Tensor<4>) -> Tensor<4> {
        let shape = x.dims();
        let normed = match &self.group_norm {
            Some(norm) => norm.normalize(x.clone(), None),
            None => x.clone(),
        };
        let tokens = normed.flatten::<3>(2, 3).swap_dims(1, 2);
        x + self.forward(tokens).swap_dims(1, 2).reshape(shape)
    }
}
