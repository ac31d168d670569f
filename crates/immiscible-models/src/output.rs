//! Memory for what operations on the CPU write. Filling it is work of its own for all threads: a thread that fills feature maps alone
//! takes as long as many cores need for a product of matrices.

use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Numbers that a thread fills at a time.
const PIECE: usize = 1 << 16;

pub(crate) fn zeros(len: usize) -> Vec<f32> {
    filled(len, PIECE, |_, piece| piece.fill(MaybeUninit::new(0.0)))
}

pub(crate) fn copy(values: &[f32]) -> Vec<f32> {
    filled(values.len(), PIECE, |start, piece| {
        piece.write_copy_of_slice(&values[start..start + piece.len()]);
    })
}

/// So many copies of `row`, one after the other.
pub(crate) fn rows(row: &[f32], count: usize) -> Vec<f32> {
    let width = row.len();
    let together = PIECE.div_ceil(width.max(1));
    filled(count * width, together * width.max(1), |_, piece| {
        for out in piece.chunks_exact_mut(width) {
            out.write_copy_of_slice(row);
        }
    })
}

/// Of `len` numbers: `fill` writes every one of the pieces of `piece` of them, of which it is also told where they begin.
fn filled(len: usize, piece: usize, fill: impl Fn(usize, &mut [MaybeUninit<f32>]) + Sync) -> Vec<f32> {
    let mut values = Vec::with_capacity(len);
    let pieces = values.spare_capacity_mut()[..len].par_chunks_mut(piece).enumerate();
    pieces.for_each(|(index, part)| fill(index * piece, part));
    // SAFETY: the three functions above write all numbers of each piece, and the pieces are all of `len`.
    #[expect(unsafe_code, reason = "numbers would be written twice")]
    unsafe {
        values.set_len(len);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_written() {
        for len in [0, 1, PIECE - 1, PIECE, 3 * PIECE + 17] {
            let values: Vec<f32> = (0..len).map(|i| i as f32).collect();
            assert!(copy(&values) == values);
            assert!(zeros(len) == vec![0.0; len]);
        }
        for (width, count) in [(0, 3), (1, 0), (7, 50_000), (PIECE + 1, 3)] {
            let row: Vec<f32> = (0..width).map(|i| i as f32).collect();
            assert!(rows(&row, count) == row.repeat(count));
        }
    }
}
