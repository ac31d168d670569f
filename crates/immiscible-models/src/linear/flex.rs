//! Linear layers on Burn's CPU backend, with their gradients: one product each, added to rows of the bias, without a copy of a
//! transposed matrix.

use crate::flex::{self, Operation, Values, slice, tensor};
use crate::matrix::{Matrix, multiply_together};
use crate::{output, wide};
use burn::nn::Linear;
use burn::tensor::Tensor;
use rayon::prelude::*;

/// x W + b, by how large everything is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Projection {
    batch: usize,
    /// Of an image.
    rows: usize,
    from: usize,
    to: usize,
}

impl Projection {
    fn all_rows(&self) -> usize {
        self.batch * self.rows
    }
}

/// What `linear` does with `x`, if that is on the CPU.
pub(super) fn projection(linear: &Linear, x: &Tensor<3>) -> Option<Projection> {
    let ([batch, rows, width], [from, to]) = (x.dims(), linear.weight.dims());
    let there = [batch, rows, from, to].iter().all(|&size| size > 0);
    (flex::has(x) && flex::has(&linear.weight.val()) && there && width == from).then_some(Projection {
        batch,
        rows,
        from,
        to,
    })
}

/// The layer on the CPU.
pub(super) fn project(linear: &Linear, x: Tensor<3>, projection: Projection) -> Tensor<3> {
    let bias = flex::bias(linear.bias.as_ref(), projection.to, &x);
    flex::apply(projection, (x, linear.weight.val(), bias))
}

impl Operation<3> for Projection {
    fn is_cheap(&self) -> bool {
        false
    }

    fn forward(&self, [x, weight, bias]: [&Values; 3]) -> Values {
        let Self { from, to, .. } = *self;
        let mut out = output::rows(slice(bias), self.all_rows());
        let (x, weight) = (of_rows(x, from), of_rows(weight, to));
        multiply_together([self.all_rows(), from, to], x, weight, &mut out, true);
        tensor(out, [self.batch, self.rows, to])
    }

    fn backward(
        &self,
        [x, weight, _]: [&Values; 3],
        gradient: &Values,
        [by_x, by_weight, by_bias]: [bool; 3],
    ) -> [Option<Values>; 3] {
        let Self { from, to, .. } = *self;
        let rows = self.all_rows();
        let by_out = of_rows(gradient, to);
        let input = || {
            let mut by_x = output::zeros(rows * from);
            multiply_together([rows, to, from], by_out, of_rows(weight, to).transposed(), &mut by_x, false);
            tensor(by_x, [self.batch, self.rows, from])
        };
        let matrix = || {
            let mut by_weight = vec![0.0; from * to];
            let x = of_rows(x, from).transposed();
            multiply_together([from, rows, to], x, by_out, &mut by_weight, false);
            tensor(by_weight, [from, to])
        };
        let bias = || tensor(sum_of_rows(slice(gradient), to), [to]);
        [by_x.then(input), by_weight.then(matrix), by_bias.then(bias)]
    }
}

fn of_rows(values: &Values, columns: usize) -> Matrix<'_> {
    Matrix { values: slice(values), steps: [columns, 1] }
}

/// Of pieces first, each on a thread, whose order does not depend on how many there are.
fn sum_of_rows(values: &[f32], columns: usize) -> Vec<f32> {
    /// Rows that are added up by a thread.
    const PIECE: usize = 256;
    let pieces = values.par_chunks(PIECE * columns);
    let of_pieces: Vec<Vec<f32>> = pieces.map(|piece| wide::sum_of_rows(piece, columns)).collect();
    wide::sum_of_rows(&of_pieces.concat(), columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flex::tests::agree;
    use burn::module::Param;
    use burn::nn::LinearConfig;
    use burn::tensor::Device;

    #[test]
    fn values_and_gradients_are_those_of_the_backend() {
        for [batch, rows, from, to] in [[1, 1, 1, 1], [3, 70, 33, 17], [2, 300, 16, 96], [5, 3, 130, 4]] {
            let with = |weight: Tensor<2>, bias: Tensor<1>| {
                let mut linear = LinearConfig::new(from, to).init(&Device::flex());
                // As they are, with what they are computed from.
                linear.weight = Param::initialized(linear.weight.id, weight);
                linear.bias = linear.bias.map(|old| Param::initialized(old.id, bias));
                linear
            };
            let ours = |x: Tensor<3>, weight: Tensor<2>, bias: Tensor<1>| {
                let linear = with(weight.div_scalar((from as f32).sqrt()), bias);
                let projection = projection(&linear, &x).unwrap();
                project(&linear, x, projection)
            };
            let theirs = |x: Tensor<3>, weight: Tensor<2>, bias: Tensor<1>| {
                with(weight.div_scalar((from as f32).sqrt()), bias).forward(x)
            };
            agree(([batch, rows, from], [from, to], [to]), ours, theirs);
        }
    }

    #[test]
    fn without_a_bias_it_is_that_with_zeros() {
        for device in [Device::flex(), Device::flex().autodiff()] {
            let linear = LinearConfig::new(3, 4).with_bias(false).init(&device);
            let x = Tensor::ones([2, 5, 3], &device);
            let projection = projection(&linear, &x).unwrap();
            let found = project(&linear, x.clone(), projection).into_data();
            found.assert_approx_eq::<f32>(&linear.forward(x).into_data(), burn::tensor::Tolerance::default());
        }
    }
}
