//! A row's cheapest columns with AVX-512, which writes those lanes of a vector that count one beside the other.

use std::arch::x86_64::{__m512, __m512i};

use pulp::{NullaryFnOnce, x86::V4};

use super::scan::{LANES, PAIR};

/// What [`super::scan::Fill`] does, for single precision. What each lane is the minimum of is the same, so that every processor
/// makes the same lists.
pub(super) struct Compress<'a> {
    pub(super) v4: V4,
    pub(super) row: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) shift: f32,
    pub(super) rank: usize,
    /// Scratch for the reduced costs of whole pairs of blocks.
    pub(super) reduced: &'a mut [[f32; PAIR]],
    /// [`LANES`] more than a row has columns.
    pub(super) columns: &'a mut [u32],
}

impl NullaryFnOnce for Compress<'_> {
    type Output = Compressed;

    #[inline(always)]
    fn call(self) -> Compressed {
        let Self { v4, row, v, shift, rank, reduced, columns } = self;
        let simd = v4.avx512f;
        let ((row, row_rest), (v, v_rest)) = (row.as_chunks::<PAIR>(), v.as_chunks::<PAIR>());
        let (mut c_end, mut v_end) = ([f32::INFINITY; PAIR], [0.0; PAIR]);
        c_end[..row_rest.len()].copy_from_slice(row_rest);
        v_end[..v_rest.len()].copy_from_slice(v_rest);

        let shift = simd._mm512_set1_ps(shift);
        let mut halves = [simd._mm512_set1_ps(f32::INFINITY); 2];
        // Without the sign, what is not finite is greatest, as an integer too.
        let magnitude_of = simd._mm512_set1_epi32(i32::MAX);
        let mut magnitude = simd._mm512_set1_epi32(0);
        for ((c, v), reduced) in row.iter().zip(v).zip(&mut *reduced) {
            for &c in c.as_chunks::<LANES>().0 {
                let c = simd._mm512_and_si512(pulp::cast(c), magnitude_of);
                magnitude = simd._mm512_max_epu32(magnitude, c);
            }
            reduce(v4, (c, v), shift, &mut halves, reduced);
        }
        let mut magnitude = simd._mm512_reduce_max_epu32(magnitude);
        if !row_rest.is_empty() {
            for c in row_rest {
                magnitude = magnitude.max(c.abs().to_bits());
            }
            reduce(v4, (&c_end, &v_end), shift, &mut halves, &mut reduced[row.len()]);
        }
        let threshold = of_rank(v4, folded(v4, halves), rank);

        let (at_most, step) = (simd._mm512_set1_ps(threshold), simd._mm512_set1_epi32(LANES as i32));
        let mut column: __m512i = pulp::cast(std::array::from_fn::<_, LANES, _>(|k| k as u32));
        let mut len = 0;
        for &r in reduced.as_flattened().as_chunks::<LANES>().0 {
            let low = simd._mm512_cmple_ps_mask(pulp::cast(r), at_most);
            let listed: [u32; LANES] = pulp::cast(simd._mm512_maskz_compress_epi32(low, column));
            columns[len..len + LANES].copy_from_slice(&listed);
            len += low.count_ones() as usize;
            column = simd._mm512_add_epi32(column, step);
        }
        Compressed { len, threshold, magnitude: f32::from_bits(magnitude) }
    }
}

pub(super) struct Compressed {
    /// How many columns are listed.
    pub(super) len: usize,
    pub(super) threshold: f32,
    /// The largest magnitude of a cost; not finite if one is not.
    pub(super) magnitude: f32,
}

/// The reduced costs of a pair of blocks, and the minima of each block.
#[inline(always)]
fn reduce(
    v4: V4,
    (c, v): (&[f32; PAIR], &[f32; PAIR]),
    shift: __m512,
    halves: &mut [__m512; 2],
    reduced: &mut [f32; PAIR],
) {
    let simd = v4.avx512f;
    let (c, v) = (c.as_chunks::<LANES>().0, v.as_chunks::<LANES>().0);
    for (k, reduced) in reduced.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let r = simd._mm512_sub_ps(simd._mm512_sub_ps(pulp::cast(c[k]), shift), pulp::cast(v[k]));
        halves[k / 2] = simd._mm512_min_ps(halves[k / 2], r);
        *reduced = pulp::cast(r);
    }
}

/// The minima of every eighth column, of even blocks and of odd ones.
#[inline(always)]
fn folded(v4: V4, [even, odd]: [__m512; 2]) -> __m512 {
    let simd = v4.avx512f;
    // The lower halves of both, and the upper ones.
    let lower = simd._mm512_shuffle_f32x4::<0b01_00_01_00>(even, odd);
    let upper = simd._mm512_shuffle_f32x4::<0b11_10_11_10>(even, odd);
    simd._mm512_min_ps(lower, upper)
}

/// The largest of those lanes that have fewer than `rank` smaller ones; finite.
#[inline(always)]
fn of_rank(v4: V4, lanes: __m512, rank: usize) -> f32 {
    let simd = v4.avx512f;
    let one = simd._mm512_set1_epi32(1);
    let mut smaller = simd._mm512_set1_epi32(0);
    for x in pulp::cast::<_, [f32; LANES]>(lanes) {
        let larger = simd._mm512_cmplt_ps_mask(simd._mm512_set1_ps(x), lanes);
        smaller = simd._mm512_mask_add_epi32(smaller, larger, smaller, one);
    }
    let ranked = simd._mm512_cmplt_epu32_mask(smaller, simd._mm512_set1_epi32(rank as i32));
    let threshold = simd._mm512_mask_reduce_max_ps(ranked, lanes);
    if threshold.is_finite() { threshold } else { f32::MAX }
}
