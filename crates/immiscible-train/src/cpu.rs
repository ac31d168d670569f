//! What is done to every weight in every step, on Burn's CPU backend: in one pass over memory, where the weights are. Burn's operations
//! make a pass each, into memory of their own.

use burn::backend::tensor::FloatTensor;
use burn::backend::{DispatchDevice, Flex};
use burn::tensor::{DType, Tensor, TensorData};
use rayon::prelude::*;

/// Numbers that a thread works on at a time.
const PIECE: usize = 1 << 15;

/// Whether `tensor` is on the CPU, outside any autodiff graph and of single precision.
pub(crate) fn has<const D: usize>(tensor: &Tensor<D>) -> bool {
    matches!(tensor.device().as_dispatch(), DispatchDevice::Flex(_)) && tensor.dtype() == DType::F32
}

/// Changes tensors by what others hold. `change` is given the same piece of all of them, on any thread.
///
/// # Panics
/// Unless all are on the CPU, which [`has`] tells, and of one shape.
pub(crate) fn change<const D: usize, const N: usize, const M: usize>(
    tensors: [Tensor<D>; N],
    others: [Tensor<D>; M],
    change: impl Fn([&mut [f32]; N], [&[f32]; M]) + Sync,
) -> [Tensor<D>; N] {
    let device = tensors[0].device();
    let others = others.map(values);
    // Without a copy, unless something else holds the tensor.
    let mut tensors = tensors.map(Tensor::into_data);
    let mut pieces_of_tensors = tensors.each_mut().map(|it| slice_mut(it).chunks_mut(PIECE));
    let mut pieces_of_others = others.each_ref().map(|it| slice(it).chunks(PIECE));
    let count = pieces_of_tensors[0].len();
    assert!(
        pieces_of_tensors.iter().all(|it| it.len() == count)
            && pieces_of_others.iter().all(|it| it.len() == count),
        "tensors of one shape"
    );
    let pieces: Vec<_> = (0..count)
        .map(|_| {
            let tensors = pieces_of_tensors.each_mut().map(|it| it.next().unwrap_or_default());
            (tensors, pieces_of_others.each_mut().map(|it| it.next().unwrap_or_default()))
        })
        .collect();
    match pieces.len() {
        // To wake other threads would take longer.
        1 => pieces.into_iter().for_each(|(tensors, others)| change(tensors, others)),
        _ => pieces.into_par_iter().for_each(|(tensors, others)| change(tensors, others)),
    }
    tensors.map(|data| Tensor::from_data(data, &device))
}

/// The sum of the squares, the same for any number of threads.
///
/// # Panics
/// Unless it is on the CPU, which [`has`] tells.
pub(crate) fn sum_of_squares<const D: usize>(tensor: Tensor<D>) -> f32 {
    /// Numbers that are added up side by side, so that the additions need not wait for each other.
    const WIDE: usize = 32;
    let values = values(tensor);
    let of_piece = |piece: &[f32]| {
        let mut sums = [0.0f32; WIDE];
        let (whole, rest) = piece.as_chunks::<WIDE>();
        for values in whole {
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value * value);
        }
        sums.iter().sum::<f32>() + rest.iter().map(|value| value * value).sum::<f32>()
    };
    match slice(&values) {
        piece if piece.len() <= PIECE => of_piece(piece),
        all => all.par_chunks(PIECE).map(of_piece).collect::<Vec<_>>().iter().sum(),
    }
}

fn values<const D: usize>(tensor: Tensor<D>) -> FloatTensor<Flex> {
    tensor.try_into_primitive::<Flex>().expect("a tensor of the CPU").to_contiguous()
}

fn slice(values: &FloatTensor<Flex>) -> &[f32] {
    values.as_slice().expect("values of single precision, made contiguous")
}

fn slice_mut(data: &mut TensorData) -> &mut [f32] {
    data.as_mut_slice().expect("values of single precision")
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn numbers(len: usize, step: usize) -> Tensor<1> {
        let values: Vec<f32> = (0..len).map(|i| (i * step % 101) as f32 - 50.0).collect();
        Tensor::from_data(TensorData::new(values, [len]), &Device::flex())
    }

    fn floats(tensor: Tensor<1>) -> Vec<f32> {
        tensor.into_data().try_into_vec_as().unwrap()
    }

    #[test]
    fn every_number_is_changed_once() {
        for len in [1, 7, PIECE, PIECE + 1, 3 * PIECE + 5] {
            let (a, b, c) = (numbers(len, 3), numbers(len, 5), numbers(len, 7));
            let expected = [a.clone() + c.clone(), b.clone() * c.clone()].map(floats);
            let kept = a.clone();
            let found = change([a.clone(), b], [c], |[a, b], [c]| {
                for ((a, b), c) in a.iter_mut().zip(b).zip(c) {
                    *a += c;
                    *b *= c;
                }
            });
            assert!(found.map(floats) == expected, "{len}");
            // What else holds a tensor still has what it was.
            assert!(floats(kept) == floats(numbers(len, 3)), "{len}");
        }
    }

    #[test]
    fn squares_are_added_up_in_any_order_of_dimensions() {
        for len in [1, 31, 2 * PIECE + 33] {
            let values = numbers(2 * len, 3);
            let exact: f64 = floats(values.clone()).iter().map(|&value| f64::from(value).powi(2)).sum();
            for tensor in [values.clone().reshape([2, len]), values.reshape([len, 2]).transpose()] {
                let found = f64::from(sum_of_squares(tensor));
                assert!((found / exact - 1.0).abs() < 1e-5, "{len}: {found} instead of {exact}");
            }
        }
    }
}
