//! Attention on Burn's CPU backend, whose own keeps the shares of all rows in training.

use super::blockwise::{self, Sizes};
use crate::flex::{self, Operation, Values, slice, tensor};
use burn::tensor::Tensor;

/// How large attention of `q` to `k` is, if they are on the CPU.
pub(super) fn sizes(q: &Tensor<3>, k: &Tensor<3>, heads: usize) -> Option<Sizes> {
    let [batch, queries, width] = q.dims();
    let [_, keys, _] = k.dims();
    let there = [batch, queries, keys, width].iter().all(|&size| size > 0);
    (flex::has(q) && there).then_some(Sizes { batch, queries, keys, heads, depth: width / heads })
}

/// Attention on the CPU.
pub(super) fn attend(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, sizes: Sizes) -> Tensor<3> {
    flex::apply(sizes, (q, k, v))
}

impl Operation<3> for Sizes {
    fn is_cheap(&self) -> bool {
        false
    }

    fn forward(&self, [q, k, v]: [&Values; 3]) -> Values {
        let out = blockwise::forward(slice(q), slice(k), slice(v), self);
        tensor(out, [self.batch, self.queries, self.width()])
    }

    fn backward(&self, [q, k, v]: [&Values; 3], gradient: &Values, _: [bool; 3]) -> [Option<Values>; 3] {
        let [q, k, v] = blockwise::backward(slice(q), slice(k), slice(v), slice(gradient), self);
        let of = |values, rows| Some(tensor(values, [self.batch, rows, self.width()]));
        [of(q, self.queries), of(k, self.keys), of(v, self.keys)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flex::tests::agree;
    use burn::tensor::module::attention;

    #[test]
    fn values_and_gradients_are_those_of_the_backend() {
        for (batch, queries, keys, heads, depth) in
            [(2, 5, 5, 3, 4), (1, 200, 77, 2, 8), (3, 64, 300, 1, 16), (1, 1, 1, 1, 1)]
        {
            let width = heads * depth;
            let ours = |q: Tensor<3>, k: Tensor<3>, v: Tensor<3>| {
                let sizes = sizes(&q, &k, heads).unwrap();
                attend(q, k, v, sizes)
            };
            let theirs = |q: Tensor<3>, k: Tensor<3>, v: Tensor<3>| {
                let split = |x: Tensor<3>| {
                    let [_, rows, _] = x.dims();
                    x.reshape([batch, rows, heads, depth]).swap_dims(1, 2)
                };
                let y = attention(split(q), split(k), split(v), None, None, Default::default());
                y.swap_dims(1, 2).reshape([batch, queries, width])
            };
            agree(([batch, queries, width], [batch, keys, width], [batch, keys, width]), ours, theirs);
        }
    }
}
